"""Sentences of the study `task_count`."""

from collections.abc import Sequence

import pandas as pd

from sharc_core.common.formats import bytes_text, number_text
from sharc_core.results.comparisons import verdict
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.results.table_formats import interval_text
from sharc_core.studies.task_count.summary import COSTS, growth, longest, places, summary


def sentences(rows: pd.DataFrame) -> list[str]:
    """Return what falls to chance, where SHARC's gain goes, and what grows faster than the stream."""
    texts = []
    grown = dict(places(growth(rows)))
    for place, lines in places(summary(rows)):
        where = f"{place[0]} ({place[1]})"
        for scenario in unique(lines.scenario, scenario_key):
            own = lines[lines.scenario == scenario]
            start = f"{where}, {scenario_name(scenario)}"
            texts += _against_chance(own, start)
            texts += _backward_transfer(own, start)
            texts += _gains(own, start)
            texts += _forgetting(own, start)
        if place in grown:
            texts += [_growth(grown[place], where, cost) for cost in COSTS.values()]
        texts += [_largest(lines, where)]
        texts += [f"{where}: {text}" for text in [left_out(lines)] if text]
    return texts


def left_out(lines: pd.DataFrame) -> str:
    """Return a sentence that names the cells that did not run on every stream; empty if all did."""
    most, parts = longest(lines).drop_duplicates("label"), []
    for tasks in sorted(most.tasks.unique())[:-1]:
        parts.append(f"more than {tasks} tasks: {', '.join(most[most.tasks == tasks].label)}")
    return f"not run on {'; on '.join(parts)}." if parts else ""


def _against_chance(lines: pd.DataFrame, where: str) -> list[str]:
    """Compare each cell on its longest stream with chance and with a model that knows the last task."""
    most = lines[lines.tasks == lines.tasks.max()]
    first, best = most.iloc[0], most.loc[most.acc_mean.idxmax()]
    text = f"{where}, {first.tasks} tasks of {round(first.classes / first.tasks)} classes (chance "
    text += f"{first.chance:.2f} %): the best ACC is {number_text(best.acc_mean)} % ({best.label})."
    last = longest(lines)
    fallen = last[last.over_chance != "above"]
    worst = last.loc[(last.acc_mean - last.chance).idxmin()]
    if len(fallen):
        verdicts = f"not told apart from chance, or below it: {_list(fallen)}"
    else:
        verdicts = f"every cell is above chance, the closest {_list(worst.to_frame().T)}"
    texts = [text, f"{where}, each cell on its longest stream: {verdicts}."]
    alone = last[last.over_last_task.isin(["below", "not told apart"])]
    if len(alone):
        texts.append(
            f"{where}, each cell on its longest stream: not above 100 % / tasks, which a model has that "
            f"knows the last task alone: {_list(alone)}."
        )
    return texts


def _list(lines: pd.DataFrame) -> str:
    return ", ".join(
        f"{line.label} {number_text(line.acc_mean)} % ({line.tasks} tasks)" for line in lines.itertuples()
    )


def _backward_transfer(lines: pd.DataFrame, where: str) -> list[str]:
    """State the range of BWT on the longest stream."""
    most = lines[(lines.tasks == lines.tasks.max()) & lines.bwt_mean.notna()]
    if not len(most):
        return []
    ends = [most.loc[most.bwt_mean.idxmin()], most.loc[most.bwt_mean.idxmax()]]
    low, high = (f"{number_text(end.bwt_mean, signed=True)} ({end.label})" for end in ends)
    return [f"{where}, {most.tasks.iloc[0]} tasks: BWT is between {low} and {high}."]


def _gains(lines: pd.DataFrame, where: str) -> list[str]:
    """State SHARC's gain on every stream, one sentence per method and memory.

    A cell that forgets is left out where there is the same one that does not.
    """
    texts, sharc = [], lines[lines.gain.notna()]
    for _, cells in sharc.groupby(["method", "associative_memory"], sort=False):
        own = cells[cells.forget_every == cells.forget_every.min()].sort_values("tasks")
        parts = [f"{_difference(line, 'gain')} at {line.tasks} tasks" for line in own.itertuples()]
        texts.append(f"{where}, {own.label.iloc[0]} against plain: {_joined(parts)}.")
    return texts


def _forgetting(lines: pd.DataFrame, where: str) -> list[str]:
    """State what forgetting changes, one sentence per associative memory."""
    texts, pairs = [], lines[lines.forget.notna()]
    for memory, own in pairs.groupby("associative_memory", sort=False):
        same, count = int(own.forget_same.sum()), len(own)
        text = f"{where}, forgetting with {memory}: ACC is the same for every seed in {same} of {count} pairs"
        if same < count:
            shown = [verdict(line.forget_low, line.forget_high) for line in own.itertuples()]
            line = own.loc[own.forget.abs().idxmax()]
            text += (
                f", raised in {shown.count('raised')} and lowered in {shown.count('lowered')}; the largest "
                f"change is {_difference(line, 'forget')} ({line.label}, {line.tasks} tasks)"
            )
        texts.append(f"{text}.")
    return texts


def _difference(line, name: str) -> str:
    value, low, high = (getattr(line, key) for key in (name, f"{name}_low", f"{name}_high"))
    text = number_text(value, signed=True)
    if low == low:
        text += f" {interval_text(low, high)}"
        text += " (not told apart)" if verdict(low, high) == "not told apart" else ""
    return text


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _growth(lines: pd.DataFrame, where: str, cost: str) -> str:
    """State which cells have a cost that grows faster than the stream, and which do not."""
    own, parts = lines[lines.cost == cost], []
    for word, title in (
        ("faster", "grows faster than the number of tasks for"),
        ("linear", "is linear for"),
        ("slower", "grows slower for"),
        ("unclear", "is unclear for"),
    ):
        group = own[own.verdict == word].sort_values("exponent", ascending=False, kind="stable")
        if len(group):
            names = ", ".join(f"{line.label} ({line.exponent:.2f})" for line in group.itertuples())
            parts.append(f"{title} {names}")
    return f"{where}, {cost} (power of the number of tasks): {'; '.join(parts) or 'no cell has it'}."


def _largest(lines: pd.DataFrame, where: str) -> str:
    """State the longest run and the largest process on the longest stream."""
    most = lines[lines.tasks == lines.tasks.max()]
    slow = most.loc[most.run_seconds_mean.idxmax()]
    text = f"{where}, {slow.tasks} tasks: a run takes at most {slow.run_seconds_mean:.0f} s ({slow.label})"
    if most.peak_memory.notna().any():
        large = most.loc[most.peak_memory.idxmax()]
        text += f", and its process at most {bytes_text(large.peak_memory)} ({large.label})"
    return f"{text}."
