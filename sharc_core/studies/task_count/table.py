"""Tables of the study `task_count`."""

from pathlib import Path

import pandas as pd

from sharc_core.common.formats import bytes_text, mean_text, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.measured_tables import write_measured_tables
from sharc_core.studies.task_count.findings import left_out, sentences
from sharc_core.studies.task_count.summary import COSTS, TOLERANCES, growth, places, summary


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
    header += ["bytes", "ms per task", "test, s", "other, s", "run, s", "memory", "process"]
    groups = [("", 2), *((scenario_name(name), 3) for name in scenarios), ("", 7)]
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
        f"Mean ± sample standard deviation over {_range(lines.seeds)} seeds, in percent and percentage "
        "points. SHARC - plain: ACC minus that of the plain method on the same stream, paired by seed, with "
        "the 95 % Student-t interval, not corrected for the number of comparisons. Bytes: kept at the end "
        "without the backbone. Ms per task: training, without testing. Test: all tests of a run, each on "
        "every task. Other: making head and memory, and the document. These three are CPU time. Run: seconds "
        "of a run by the clock. Memory: largest growth of the process during a run. Process: its largest "
        f"size, with the features. Chance is one in: {chances}. Verdicts against chance (CSV file) are "
        "binomial tests of the test images of all seeds, which may share some."
    )
    missing = left_out(lines)
    caption += f" {missing[0].upper()}{missing[1:]}" if missing else ""
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
        *(
            Item(f"{line[f'{name}_seconds_mean']:.1f}", line[f"{name}_seconds_mean"])
            for name in ("test", "other", "run")
        ),
        Item(bytes_text(line.memory_growth_mean), line.memory_growth_mean),
        Item(bytes_text(line.peak_memory), line.peak_memory),
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
            if name in own.index:
                line = own.loc[name]
                items += [Item(_exponent_text(line), line.exponent), Item(line.verdict)]
            else:
                items += [Item(""), Item("")]
        body.append(items)
    caption = (
        "A cost grows with this power of the number of tasks between the two longest streams of a cell: 1 is "
        "linear, 2 is quadratic. Mean over seeds, with the smallest and the largest of a seed. Times are CPU "
        "times of these runs, and no test stands behind the verdicts. Linear: every seed is within 1 ± "
        f"{TOLERANCES['train_seconds']:g} (bytes: 1 ± {TOLERANCES['total_bytes']:g}). The number of classes, "
        "and with it the head and the buffer, grows with the number of tasks."
    )
    return Table(f"Growth, {place[0]}, {place[1]}", caption, [("", len(header))], header, body)


def _exponent_text(line: pd.Series) -> str:
    if line.low == line.high:
        return f"{line.exponent:.2f}"
    return f"{line.exponent:.2f} ({line.low:.2f} to {line.high:.2f})"
