"""Tables and sentences of the study `task_count`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sharc_core.common.formats import bytes_text, mean_text, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import verdict
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.measured_tables import write_measured_tables
from sharc_core.studies.task_count.summary import COSTS, growth, places, summary

NOUNS = {"training time": "training time", "bytes kept": "the number of bytes kept"}


def write_count_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write task_count.csv, .md and .tex and return the paths. rows: of the jobs. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "task_count",
        folder,
        origin,
        "Longer and longer streams",
        summary(rows),
        sentences(rows),
        tables(rows),
    )


def tables(rows: pd.DataFrame) -> list[Table]:
    """Return a table of results and one of growth per data set and backbone."""
    made = []
    grown = dict(places(growth(rows)))
    for place, lines in places(summary(rows)):
        made.append(_results(lines, place))
        if place in grown:
            made.append(_growth(grown[place], place))
    return made


def _results(lines: pd.DataFrame, place: tuple[str, str]) -> Table:
    scenarios = unique(lines.scenario, scenario_key)
    header = ["Tasks", "Cell", *["ACC", "BWT", "SHARC - plain"] * len(scenarios)]
    header += ["bytes", "ms per task", "test, s", "memory"]
    groups = [("", 2), *((scenario_name(name), 3) for name in scenarios), ("", 4)]
    body: list[list[Item]] = []
    breaks: list[int] = []
    for tasks, of_length in lines.groupby("tasks", sort=True):
        breaks += [len(body)] if body else []
        for label in dict.fromkeys(of_length.label):
            own = of_length[of_length.label == label].set_index("scenario")
            items = [Item(str(tasks), float(tasks)), Item(label)]
            for name in scenarios:
                items += _accuracies(own.loc[name]) if name in own.index else [Item("")] * 3
            body.append(items + _costs(own.iloc[0]))
    chances = ", ".join(
        f"{scenario_name(name)} {_range(100 / lines[lines.scenario == name].chance)}" for name in scenarios
    )
    caption = (
        f"Mean ± sample standard deviation over {lines.seeds.max()} seeds, in percent and percentage points. "
        "SHARC - plain: ACC minus that of the plain method on the same stream, paired by seed, with the 95 % "
        "Student-t interval, not corrected for the number of comparisons. Bytes: kept at the end without the "
        "backbone. Ms per task: training, without testing. Test: all tests of a run, each on every task. "
        f"Memory: largest growth of the process during a run. Chance is one in: {chances}."
    )
    return Table(f"Streams of {place[0]}, {place[1]}", caption, groups, header, body, breaks)


def _accuracies(line: pd.Series) -> list[Item]:
    gain = ""
    if line.gain == line.gain:
        gain = f"{number_text(line.gain, signed=True)} {interval_text(line.gain_low, line.gain_high)}"
    return [
        Item(mean_text(line.acc_mean, line.acc_std), line.acc_mean),
        Item(mean_text(line.bwt_mean, line.bwt_std), line.bwt_mean),
        Item(gain, line.gain),
    ]


def _costs(line: pd.Series) -> list[Item]:
    return [
        Item(bytes_text(line.total_bytes), line.total_bytes),
        Item(f"{1000 * line.task_seconds:.1f}", line.task_seconds),
        Item(f"{line.test_seconds_mean:.1f}", line.test_seconds_mean),
        Item(bytes_text(line.memory_growth_mean), line.memory_growth_mean),
    ]


def _range(values: pd.Series) -> str:
    low, high = round(values.min()), round(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _growth(lines: pd.DataFrame, place: tuple[str, str]) -> Table:
    header = ["Cell", "between"]
    header += [text for name in COSTS.values() for text in (f"exponent of {name}", "")]
    body = []
    for label in dict.fromkeys(lines.label):
        own = lines[lines.label == label].set_index("cost")
        first = own.iloc[0]
        items = [Item(label), Item(f"{first.start} and {first.end} tasks")]
        for name in COSTS.values():
            line = own.loc[name]
            items += [Item(_exponent_text(line), line.exponent), Item(line.verdict)]
        body.append(items)
    caption = (
        "A cost grows with this power of the number of tasks between the two longest streams of a cell: 1 is "
        "linear, 2 is quadratic. Mean over seeds with the 95 % Student-t interval. The number of classes, "
        "and with it the head and the buffer, grows with the number of tasks."
    )
    return Table(f"Growth, {place[0]}, {place[1]}", caption, [("", len(header))], header, body)


def _exponent_text(line: pd.Series) -> str:
    if line.low != line.low:
        return f"{line.exponent:.2f}"
    return f"{line.exponent:.2f} [{line.low:.2f}, {line.high:.2f}]"


# --- sentences -----------------------------------------------------------------------------------------


def sentences(rows: pd.DataFrame) -> list[str]:
    """Return what falls to chance, where SHARC's gain goes, and what grows faster than the stream."""
    texts = []
    grown = dict(places(growth(rows)))
    for place, lines in places(summary(rows)):
        where = f"{place[0]} ({place[1]})"
        for scenario in unique(lines.scenario, scenario_key):
            own = lines[lines.scenario == scenario]
            texts.append(_against_chance(own, f"{where}, {scenario_name(scenario)}"))
            texts += _gains(own, f"{where}, {scenario_name(scenario)}")
            texts += _forgetting(own, f"{where}, {scenario_name(scenario)}")
        if place in grown:
            texts += [_faster(grown[place], where, cost) for cost in COSTS.values()]
    return texts


def _against_chance(lines: pd.DataFrame, where: str) -> str:
    """Compare the cells of the longest stream with chance."""
    last = lines[lines.tasks == lines.tasks.max()]
    first = last.iloc[0]
    best = last.loc[last.acc_mean.idxmax()]
    text = f"{where}, {first.tasks} tasks of {round(first.classes / first.tasks)} classes (chance "
    text += f"{first.chance:.2f} %): the best ACC is {number_text(best.acc_mean)} % ({best.label})"
    fallen = last[last.over_chance.isin(["not told apart", "below"])]
    if len(fallen):
        text += f"; not told apart from chance, or below it: {_list(fallen)}"
    elif (last.over_chance == "above").all():
        worst = last.loc[last.acc_mean.idxmin()]
        text += (
            f"; all cells are above chance, the lowest with {number_text(worst.acc_mean)} % ({worst.label})"
        )
    return f"{text}."


def _list(lines: pd.DataFrame) -> str:
    return ", ".join(f"{line.label} {number_text(line.acc_mean)} %" for line in lines.itertuples())


def _gains(lines: pd.DataFrame, where: str) -> list[str]:
    """State SHARC's gain on every stream, one sentence per cell with SHARC that does not forget."""
    texts = []
    for label in dict.fromkeys(lines[lines.gain.notna() & (lines.forget_every == 0)].label):
        own = lines[lines.label == label].sort_values("tasks")
        parts = [f"{_gain_text(line)} at {line.tasks} tasks" for line in own.itertuples()]
        texts.append(f"{where}, {label} against plain: {_joined(parts)}.")
    return texts


def _forgetting(lines: pd.DataFrame, where: str) -> list[str]:
    """State by how much forgetting changes the mean ACC at most."""
    keys = ["method", "associative_memory", "tasks"]
    forgetful = lines[lines.forget_every > 0]
    pairs = forgetful.merge(lines[lines.forget_every == 0], on=keys, suffixes=("", "_without"))
    if not len(pairs):
        return []
    change = pairs.acc_mean - pairs.acc_mean_without
    largest = pairs.loc[change.abs().idxmax()]
    size = number_text(change[largest.name], signed=True)
    same = int((change == 0).sum())
    text = (
        f"{where}: forgetting changes the mean ACC by at most {size} ({largest.label}, {largest.tasks} tasks)"
    )
    return [f"{text}; it is the same in {same} of {len(pairs)} pairs."]


def _gain_text(line) -> str:
    text = number_text(line.gain, signed=True)
    if line.gain_low == line.gain_low:
        text += f" {interval_text(line.gain_low, line.gain_high)}"
        text += " (not told apart)" if verdict(line.gain_low, line.gain_high) == "not told apart" else ""
    return text


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _faster(lines: pd.DataFrame, where: str, cost: str) -> str:
    """State which cells have a cost that grows faster than the stream, and which do not."""
    own = lines[lines.cost == cost]
    faster = own[own.verdict == "faster"].sort_values("exponent", ascending=False)
    linear = own[own.verdict.isin(["linear", "slower"])]
    others = own[own.verdict == "not told apart"]
    parts = []
    if len(faster):
        named = ", ".join(f"{line.label} ({_exponent_text(line)})" for _, line in faster.iterrows())
        parts.append(f"grows faster than the number of tasks for {named}")
    if len(linear):
        parts.append(f"is linear or slower for {', '.join(linear.label)}")
    if len(others):
        parts.append(f"is not told apart from linear for {', '.join(others.label)}")
    if not parts:
        parts.append("has no interval with one seed")
    return f"{where}: {NOUNS[cost]} {'; it '.join(parts)}."
