"""Tables and sentences of the study `robustness`: differences of every kind of cue from the baseline."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sharc_core.common.formats import DASH
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import verdict
from sharc_core.results.statistics import confidence_interval
from sharc_core.results.table_formats import Item, Table
from sharc_core.studies.measured_tables import write_measured_tables
from sharc_core.studies.robustness.settings import (
    BLOCK,
    CUES,
    MEASURES,
    NEW_CLASS,
    NEW_IMAGE,
    NOISE,
    OTHERS,
    RANDOM,
    RUN,
    SALIENCY,
    ZEROS,
)

PLACE = ["dataset", "backbone"]
ALL = "all"  # data set and backbone of means over all of them
NAMES = {
    SALIENCY: "salient channels",
    RANDOM: "random channels",
    RUN: "run of channels missing",
    BLOCK: "spatial block missing",
    ZEROS: "wrong mask, zeros",
    NOISE: "wrong mask, noise",
    NEW_IMAGE: "new image",
    NEW_CLASS: "new class",
}
WORDS = {
    RANDOM: "As many random channels",
    RUN: "A run of channels missing",
    BLOCK: "A spatial block missing",
    ZEROS: "Zeros among the channels declared as kept",
    NOISE: "Noise among the channels declared as kept",
    NEW_IMAGE: "New images of stored classes",
    NEW_CLASS: "Images of classes that are not stored",
}
COMPARED = {"relative_error": 1, "accuracy": 100}  # measure: factor from the rows to the tables
RETURNED = (SALIENCY, NEW_IMAGE, NEW_CLASS)  # cues in the table of what comes back
TRUTHS = ("true_accuracy", "true_stored_class")
AGAINST_TRUE = {"accuracy": "own_class_against_true", "stored_class": "stored_class_against_true"}


def with_mean(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows and, if there are several data sets or backbones, their means as place ALL.

    A mean exists where all places have a value.
    """
    places = len(rows[PLACE].drop_duplicates())
    if places == 1:
        return rows
    keys = ["memory", "seed", "theta", "cue"]
    groups = rows.groupby(keys, sort=False)
    numbers = ["missing", "wrong", "patterns", "maps_read", *MEASURES, *TRUTHS]
    means = groups[numbers].mean()[groups[numbers].count() == places]
    reasons = groups.reason.first()
    own = pd.concat([means, reasons], axis=1).reset_index().assign(dataset=ALL, backbone=ALL)
    return pd.concat([own, rows], ignore_index=True)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per place, theta, memory and cue: means over seeds, and differences from the baseline.

    For the COMPARED measures: <measure>_difference is the mean over seeds of the cue's value minus that of
    SALIENCY, with its 95 % Student-t interval _low and _high and _verdict. accuracy, nearest and the shares
    of classes are in percent. The differences AGAINST_TRUE are those from the head's on the true maps of the
    same cues, in points.
    """
    lines = []
    for place, group in with_mean(rows).groupby([*PLACE, "theta", "memory"], sort=False):
        baseline = group[group.cue == SALIENCY].set_index("seed")
        for cue in CUES:
            own = group[group.cue == cue].set_index("seed")
            line: dict[str, Any] = dict(zip([*PLACE, "theta", "memory"], place, strict=True)) | {"cue": cue}
            line |= {"seeds": len(own)}
            line |= {name: own[name].mean() for name in ("missing", "wrong", "patterns", "maps_read")}
            for name in (*MEASURES, *TRUTHS):
                factor = 1 if name == "relative_error" else 100
                line |= {name: factor * own[name].mean(), f"{name}_std": factor * own[name].std(ddof=1)}
            for name, factor in COMPARED.items():
                line |= _difference(name, factor * own[name], factor * baseline[name])
            for name, column in AGAINST_TRUE.items():
                line |= _difference(column, 100 * own[name], 100 * own[f"true_{name}"])
            reasons = own.reason.dropna()
            lines.append(line | {"reason": reasons.iloc[0] if len(reasons) else None})
    return pd.DataFrame(lines)


def _difference(name: str, own: pd.Series, baseline: pd.Series) -> dict[str, Any]:
    differences = (own - baseline).dropna()  # by seed
    low, high = confidence_interval(differences)
    return {
        f"{name}_difference": differences.mean(),
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_verdict": verdict(low, high),
    }


# --- tables ----------------------------------------------------------------------------------------------


def tables(rows: pd.DataFrame) -> list[Table]:
    """Return three tables per place and theta: errors, accuracies, and what comes back."""
    made = []
    for place, lines in summary(rows).groupby([*PLACE, "theta"], sort=False):
        made += [_differences(lines, place, name) for name in COMPARED]
        made.append(_returned(lines, place))
    return made


def write_robustness_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write robustness.csv (the summary), .md and .tex and return the paths. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "robustness",
        folder,
        origin,
        "How robust is recall?",
        summary(rows),
        sentences(rows),
        tables(rows),
    )


def where(place: Sequence[Any]) -> str:
    """Return the words for a place and theta."""
    dataset, backbone, theta = place
    name = "mean over data sets" if dataset == ALL else f"{dataset}, {backbone}"
    return f"{name}, theta {theta:g}"


def _differences(lines: pd.DataFrame, place: Sequence[Any], name: str) -> Table:
    """Return a table with a row per memory: the measure with the baseline, then differences from it."""
    is_error = name == "relative_error"
    body = []
    for memory, own in lines.groupby("memory", sort=False):
        by_cue = own.set_index("cue")
        base = by_cue.loc[SALIENCY]
        items = [Item(str(memory)), _value(base[name], "{:.3f}" if is_error else "{:.1f}")]
        body.append(items + [_interval(by_cue.loc[cue], name) for cue in OTHERS])
    measured = lines[lines.seeds > 0]
    caption = [
        "Squared error over the missing entries by that of the mean of the stored maps"
        if is_error
        else "Top-1 accuracy of a linear head that has seen all classes, on the recalled maps, in percent "
        f"({of_true(lines, SALIENCY, 'true_accuracy'):.1f} on the true maps)",
        "First column: cues as SHARC stores them. Others: difference from it, paired by seed, with its 95 % "
        f"Student-t interval over {measured.seeds.max()} seeds, not corrected for the number of comparisons",
        _counts(lines),
        *_notes(lines),
    ]
    title = f"{'Relative error' if is_error else 'Accuracy'} by kind of cue: {where(place)}"
    header = ["Memory", *(NAMES[cue] for cue in CUES)]
    return Table(title, ". ".join(caption) + ".", [("", len(header))], header, body, [], 1)


def _returned(lines: pd.DataFrame, place: Sequence[Any]) -> Table:
    columns = ("relative_error", "nearest", "accuracy", "stored_class")
    body = []
    for memory, own in lines.groupby("memory", sort=False):
        by_cue = own.set_index("cue")
        items = [Item(str(memory))]
        for cue in RETURNED:
            items += [
                _value(by_cue.loc[cue, name], "{:.2f}" if name == "relative_error" else "{:.1f}")
                for name in columns
            ]
        body.append(items)
    truth = [of_true(lines, NEW_CLASS, name) for name in TRUTHS]
    caption = [
        "Nearest: no stored map is nearer to the recalled one than its own true map, over the missing "
        "entries. Own class: the head's accuracy. Stored class: the head names one of the stored classes "
        f"(true maps of new classes: own {truth[0]:.1f}, stored {truth[1]:.1f}); all in percent",
        *_notes(lines),
    ]
    header = ["Memory", *["error", "nearest", "own class", "stored class"] * len(RETURNED)]
    groups = [("", 1), *((NAMES[cue], len(columns)) for cue in RETURNED)]
    title = f"What comes back for cues that are not stored: {where(place)}"
    return Table(title, ". ".join(caption) + ".", groups, header, body, [], 1)


def of_true(lines: pd.DataFrame, cue: str, name: str) -> float:
    """Return what the head makes of the true maps of a kind of cue, of the memory that reads most of them."""
    own = lines[(lines.cue == cue) & lines.maps_read.notna()]
    return float(own.loc[own.maps_read.idxmax(), name]) if len(own) else math.nan


def _counts(lines: pd.DataFrame) -> str:
    reads = lines.groupby("memory", sort=False).maps_read.max().dropna()
    few = reads[reads < reads.max()]
    text = f"{lines.patterns.max():.0f} stored maps of half of the classes; {reads.max():.0f} read per cue"
    if len(few):
        text += f" ({few.max():.0f} with {', '.join(map(str, few.index))})"
    wrong = lines[lines.cue == ZEROS].wrong.max()
    block = lines[lines.cue == BLOCK].missing.max()
    return (
        text + f". Wrong masks: {100 * wrong:.0f} % of the kept; spatial block: {100 * block:.0f} % missing"
    )


def _notes(lines: pd.DataFrame) -> list[str]:
    """Return why there are no measures, once per memory."""
    refused = lines[lines.reason.notna()].drop_duplicates("memory")
    return [f"{line.memory}: {line.reason}" for line in refused.itertuples()]


def _value(value: float, form: str) -> Item:
    return Item(DASH) if math.isnan(value) else Item(form.format(value), value)


def _interval(line: pd.Series, name: str) -> Item:
    text = difference_text(*(line[f"{name}_{part}"] for part in ("difference", "low", "high")))
    return Item(text, None if text == DASH else line[f"{name}_difference"])


def difference_text(difference: float, low: float, high: float) -> str:
    """Return `+0.28 [+0.2, +0.36]` with two significant digits, without an interval for NaN ends."""
    if math.isnan(difference):
        return DASH
    ends = "" if math.isnan(low) else f" [{_short(low)}, {_short(high)}]"
    return _short(difference) + ends


def _short(value: float) -> str:
    """Return a signed number with two significant digits and at least whole numbers; 0 below 1e-6."""
    if abs(value) < 1e-6:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:+.{digits}f}"


# --- sentences -------------------------------------------------------------------------------------------


def sentences(rows: pd.DataFrame) -> list[str]:
    """Return, for each theta, a sentence per kind of cue and one on cues of classes that are not stored.

    Numbers are means over data sets.
    """
    lines, texts = summary(rows), []
    first = lines[lines.dataset == lines.dataset.iloc[0]]
    first = first[first.backbone == first.backbone.iloc[0]]
    for theta, here in first.groupby("theta", sort=False):
        place = where((here.dataset.iloc[0], here.backbone.iloc[0], theta))
        for cue in OTHERS:
            text = _compared(here[here.cue == cue])
            if text:
                texts.append(f"{WORDS[cue]} ({place}), against salient channels: {text}.")
        texts += _foreign(here[here.cue == NEW_CLASS], place)
    return texts


def _compared(lines: pd.DataFrame) -> str:
    parts = []
    for name, words in (("relative_error", "relative error"), ("accuracy", "accuracy in points")):
        listed = _verdicts(lines, name)
        parts += [f"{words} {listed}"] if listed else []
    return ". ".join(part[0].upper() + part[1:] if number else part for number, part in enumerate(parts))


def _verdicts(lines: pd.DataFrame, name: str) -> str:
    """Return the memories by verdict on a difference, with its interval where it is told apart from 0."""
    told: dict[str, list[str]] = {}
    for line in lines.to_dict("records"):
        if not math.isnan(line[f"{name}_difference"]):
            text = difference_text(*(line[f"{name}_{part}"] for part in ("difference", "low", "high")))
            told.setdefault(line[f"{name}_verdict"], []).append(f"{line['memory']} {text}")
    listed = [f"{word} for {', '.join(told[word])}" for word in ("raised", "lowered") if word in told]
    same = [text.split(" ")[0] for text in told.get("not told apart", [])]
    listed += [f"not told apart for {', '.join(same)}"] if same else []
    listed += [f"without an interval, of one seed, {', '.join(told[DASH])}"] if DASH in told else []
    return "; ".join(listed)


def _foreign(lines: pd.DataFrame, place: str) -> list[str]:
    lines = lines[lines.relative_error.notna()]
    if not len(lines):
        return []

    def listed(of: Callable[[Any], float]) -> str:
        return ", ".join(f"{line.memory} {of(line):.0f} %" for line in lines.itertuples())

    return [
        f"Of images of classes that are not stored ({place}), what comes back is nearer to a stored map than "
        f"to the true one for {listed(lambda line: 100 - line.nearest)}; the head assigns to the own class "
        f"{listed(lambda line: line.accuracy)} ({of_true(lines, NEW_CLASS, 'true_accuracy'):.0f} % of the "
        f"true maps) and to a stored class {listed(lambda line: line.stored_class)}. "
        f"Against the true maps, paired by seed, in points: own class "
        f"{_verdicts(lines, AGAINST_TRUE['accuracy'])}; stored class "
        f"{_verdicts(lines, AGAINST_TRUE['stored_class'])}."
    ]
