"""Tables and sentences of the study `heads`."""

from pathlib import Path

import pandas as pd

from sharc_core.common.formats import DASH, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import LEVEL
from sharc_core.results.display_names import method_name
from sharc_core.results.statistics import PairedTest
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.heads.comparison import (
    ALL,
    CORRECTIONS,
    Case,
    Comparison,
    comparisons,
    shown,
    summary,
)
from sharc_core.studies.measured_tables import write_measured_tables

COLUMNS = ["ACC", "recency", "over uncorrected", "over linear"]


def write_heads_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write heads.csv, .md and .tex; return the paths. rows: of the jobs. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "heads",
        folder,
        origin,
        "Heads and bias correction",
        summary(rows),
        heads_findings(rows),
        heads_tables(rows),
    )


def heads_tables(rows: pd.DataFrame) -> list[Table]:
    """Return one table per backbone and method."""
    return [
        _table(made, method) for made in shown(rows) for method in dict.fromkeys(c.method for c in made.accs)
    ]


def _table(made: Comparison, method: str) -> Table:
    header, groups = ["Head"], [("", 1)]
    for name in ("plain", "SHARC"):
        header += COLUMNS
        groups.append((name, len(COLUMNS)))
    header.append("SHARC - plain")
    groups.append(("", 1))
    plain = [case for case in made.accs if (case.method, case.variant) == (method, "plain")]
    body = []
    for case in plain:
        sharc = case._replace(variant="sharc")
        body.append([Item(case.name), *_items(made, case), *_items(made, sharc), _over(made, sharc, "plain")])
    seeds = len(made.accs[plain[0]])
    averaged = "mean over data sets" if made.dataset == ALL else f"on {made.dataset}"
    caption = (
        f"ACC in Class-IL in percent, mean over {seeds} seeds, {averaged}. Recency: the final accuracy on "
        "the last task minus the mean of those on all others, in points. Differences in points from the same "
        "head without correction, from the linear head without correction and from plain replay with the "
        "same head, paired by seed, with the 95 % Student-t interval, not corrected for their number. *: p < "
        f"{LEVEL} after Holm's correction for all comparisons of this kind, those of other methods included."
    )
    return Table(f"{method_name(method)}, {made.backbone}", caption, groups, header, body, text_columns=1)


def _items(made: Comparison, case: Case) -> list[Item]:
    if case not in made.accs:
        return [Item(DASH)] * len(COLUMNS)
    acc, bias = made.accs[case].mean(), made.recencies[case].mean()
    items = [Item(number_text(acc), acc), Item(number_text(bias, signed=True), bias)]
    return [*items, _over(made, case, "none"), _over(made, case, "linear")]


def _over(made: Comparison, case: Case, name: str) -> Item:
    test = made.over(case, name) if case in made.accs else None
    if test is None:
        return Item(DASH)
    mark = "*" if made.told(name).get(case) in ("raised", "lowered") else ""
    return Item(difference_text(test) + mark, test.difference)


def difference_text(test: PairedTest) -> str:
    """Return a difference with its interval."""
    return f"{number_text(test.difference, signed=True)} {interval_text(test.low, test.high)}"


def heads_findings(rows: pd.DataFrame) -> list[str]:
    """Return what corrections change, which heads are told apart from the linear one, and SHARC's gains.

    What is told apart is so after Holm's correction. In the mean over data sets it is stated on how many.
    """
    sentences, all_made = [], comparisons(rows)
    for made in shown(rows):
        own = [other for other in all_made if other.backbone == made.backbone]
        single = [other for other in own if other.dataset != ALL] if made.dataset == ALL else []
        where = "Class-IL, " + made.backbone
        where += ", mean over data sets" if made.dataset == ALL else f", {made.dataset}"
        for model in dict.fromkeys(case.model for case in made.accs):
            cases = [case for case in made.accs if case.model == model]
            heads = [case for case in cases if not CORRECTIONS[case.correction]]
            corrected = [case for case in cases if CORRECTIONS[case.correction]]
            for chosen, name, words in (
                (heads, "linear", "the linear head"),
                (corrected, "none", "the same head without correction"),
            ):
                if text := _compared(made, single, chosen, name, words):
                    sentences.append(f"{where}, {model}: {text}.")
        sharc = [case for case in made.accs if case.variant == "sharc"]
        for method in dict.fromkeys(case.method for case in sharc):
            chosen = [case for case in sharc if case.method == method]
            if text := _compared(made, single, chosen, "plain", "plain replay with the same head"):
                sentences.append(f"{where}, {method_name(method)} with SHARC: {text}.")
        counts = ", ".join(str(len(made.told(name))) for name in ("linear", "none", "plain"))
        sentences.append(
            f"{where}: better and worse are p < {LEVEL} after Holm's correction for all comparisons with the "
            f"linear head, with the uncorrected head and with plain replay ({counts}); intervals are not "
            "corrected."
        )
    return sentences


def _compared(made: Comparison, single: list[Comparison], cases: list[Case], name: str, words: str) -> str:
    """Return the words on each case against its reference, the largest difference first."""
    headings = {"raised": "better than", "lowered": "worse than", "not told apart": "not told apart from"}
    found: dict[str, list[tuple[float, str]]] = {word: [] for word in (*headings, DASH)}
    told, on_each = made.told(name), [other.told(name) for other in single]
    for case in cases:
        test = made.over(case, name)
        if test is not None:
            word = told[case]
            text = f"{case.name} {difference_text(test)}"
            if on_each and word in ("raised", "lowered"):
                text += f" (on {sum(there[case] == word for there in on_each)} of {len(on_each)} data sets)"
            found[word].append((test.difference, text))
    parts = []
    for word, texts in found.items():
        if texts:
            listed = "; ".join(text for _, text in sorted(texts, reverse=True))
            heading = headings.get(word, "without an interval, against")
            parts.append(f"{heading} {words}: {listed}")
    return ". ".join(part if i == 0 else part[0].upper() + part[1:] for i, part in enumerate(parts))
