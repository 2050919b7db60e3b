"""Tables and sentences of the study `equal_compute`."""

from pathlib import Path

import pandas as pd

from sharc_core.common.formats import DASH, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import verdict
from sharc_core.results.display_names import method_name, scenario_name
from sharc_core.results.statistics import PairedTest
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.equal_compute.comparison import ALL, Comparison, Entrant, entrant_name, shown, summary
from sharc_core.studies.equal_compute.settings import ONE_STEP, SAMPLES, SECONDS
from sharc_core.studies.measured_tables import write_measured_tables

WORDS = {"raised": "better", "lowered": "worse"}


def write_compute_tables(
    rows: pd.DataFrame, reference: str, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write equal_compute.csv, .md and .tex; return the paths. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "equal_compute",
        folder,
        origin,
        "Methods at equal compute",
        summary(rows, reference),
        compute_findings(rows, reference),
        compute_tables(rows, reference),
    )


def grouped(rows: pd.DataFrame) -> list[dict[str, Comparison]]:
    """Return the comparisons that are shown, by kind of compute, for every scenario and backbone."""
    groups: dict[tuple[str, str], dict[str, Comparison]] = {}
    for made in shown(rows):
        groups.setdefault((made.scenario, made.backbone), {})[made.compute] = made
    return list(groups.values())


def compute_tables(rows: pd.DataFrame, reference: str) -> list[Table]:
    """Return one table per scenario and backbone, with all kinds of compute side by side."""
    return [_table(group, reference) for group in grouped(rows)]


def _table(group: dict[str, Comparison], reference: str) -> Table:
    first = next(iter(group.values()))
    header, groups, body = ["Method"], [("", 1)], []
    before = group.get(ONE_STEP)
    for compute in group:
        names = ["steps", "samples", "CPU s", "ACC", f"over {method_name(reference)}"]
        names += [] if before is None or compute == ONE_STEP else ["change"]
        header += names
        groups.append((compute, len(names)))
    for entrant in first.accs:
        items = [Item(entrant_name(entrant))]
        for made in group.values():
            costs, acc = made.costs[entrant], made.accs[entrant].mean()
            items += [Item(f"{costs['steps_per_batch']:.1f}", costs["steps_per_batch"])]
            items += [Item(f"{costs['gradient_samples']:,.0f}", costs["gradient_samples"])]
            items += [Item(f"{costs['seconds']:.2f}", costs["seconds"]), Item(number_text(acc), acc)]
            items.append(_over(made, entrant, (reference, "plain")))
            if before is not None and made is not before:
                items.append(_over(made, entrant, (reference, "plain"), before))
        body.append(items)
    seeds = len(next(iter(first.accs.values())))
    averaged = "mean over data sets" if first.dataset == ALL else f"on {first.dataset}"
    caption = (
        f"ACC in percent, mean over {seeds} seeds, {averaged}. + is with SHARC. Steps: on each minibatch of "
        "the stream. Samples: rows whose loss gradient was taken, of one seed. CPU s: of training all seeds. "
        f"Differences from plain {method_name(reference)} with equal compute in percentage points, paired by "
        "seed, with the 95 % Student-t interval, not corrected for their number. Change: of the difference "
        "since one step, paired by seed. Steps and ACC at equal seconds follow from timing, so that they "
        "differ from run to run. " + _left(group)
    )
    return Table(
        f"{scenario_name(first.scenario)}, {first.backbone}", caption, groups, header, body, text_columns=1
    )


def _over(made: Comparison, entrant: Entrant, other: Entrant, before: Comparison | None = None) -> Item:
    """Return the difference of an entrant from another, or its change since `before`."""
    test = made.over(entrant, other) if before is None else made.change(entrant, other, before)
    if test is None or entrant == other:
        return Item(DASH)
    return Item(_test_text(test), test.difference)


def _test_text(test: PairedTest) -> str:
    return f"{number_text(test.difference, signed=True)} {interval_text(test.low, test.high)}"


def _left(group: dict[str, Comparison]) -> str:
    """State what is left unequal."""
    parts = []
    for compute, name in ((SAMPLES, "gradient samples"), (SECONDS, "seconds")):
        if compute in group:
            low, high = group[compute].range_of()
            parts.append(f"{name} are {low:.3f} to {high:.3f} of the target in {compute}")
    return f"Left unequal: {'; '.join(parts)}." if parts else ""


def compute_findings(rows: pd.DataFrame, reference: str) -> list[str]:
    """Return per kind of compute what is told apart from the plain reference, and SHARC's gain."""
    sentences = []
    for group in grouped(rows):
        first = next(iter(group.values()))
        where = f"{scenario_name(first.scenario)}, {first.backbone}"
        where += ", mean over data sets" if first.dataset == ALL else f", {first.dataset}"
        sentences += [f"{where}, {compute}: {_compared(made, reference)}." for compute, made in group.items()]
        sentences += _changes(group, where, reference)
        gains = [(compute, made.sharc()) for compute, made in group.items()]
        texts = [f"{_gain_text(test)} with {compute}" for compute, test in gains if test is not None]
        if texts:
            sentences.append(f"{where}: SHARC minus plain replay, mean over methods, is {', '.join(texts)}.")
        if left := _left(group):
            sentences.append(f"{where}: {left[0].lower()}{left[1:]}")
    return sentences


def _changes(group: dict[str, Comparison], where: str, reference: str) -> list[str]:
    """Return how the differences from the reference change with the kind of compute."""
    before, sentences = group.get(ONE_STEP), []
    for compute, made in group.items():
        if before is None or made is before:
            continue
        texts: dict[bool, list[tuple[float, str]]] = {True: [], False: []}
        for entrant in made.accs:
            test = made.change(entrant, (reference, "plain"), before)
            if test is not None and entrant != (reference, "plain"):
                is_told = verdict(test.low, test.high) in WORDS
                texts[is_told].append((test.difference, f"{entrant_name(entrant)} {_test_text(test)}"))
        parts = [
            f"{words}: {', '.join(text for _, text in sorted(texts[is_told], reverse=True))}"
            for is_told, words in ((True, "told apart from zero"), (False, "not told apart from zero"))
            if texts[is_told]
        ]
        name = f"plain {method_name(reference)}"
        sentences.append(
            f"{where}, {compute}: change of the difference from {name} since one step, {'; '.join(parts)}."
        )
    return sentences


def _gain_text(test: PairedTest) -> str:
    is_equal = test.low <= 0 <= test.high
    return _test_text(test) + (" (not told apart from zero)" if is_equal else "")


def _compared(made: Comparison, reference: str) -> str:
    texts: dict[str, list[tuple[float, str]]] = {"better": [], "worse": [], "not told apart": [], DASH: []}
    for entrant in made.accs:
        test = made.over(entrant, (reference, "plain"))
        if test is None or entrant == (reference, "plain"):
            continue
        word = verdict(test.low, test.high)
        text = f"{entrant_name(entrant)} {_test_text(test)}"
        texts[WORDS.get(word, word)].append((test.difference, text))
    name = f"plain {method_name(reference)}"
    headings = {"better": f"better than {name}", "worse": f"worse than {name}"}
    headings |= {
        "not told apart": f"not told apart from {name}",
        DASH: f"against {name}, without an interval",
    }
    parts = [
        f"{headings[word]}: {', '.join(text for _, text in sorted(found, reverse=True))}"
        for word, found in texts.items()
        if found
    ]
    return "; ".join(parts) or f"nothing to compare with {name}"
