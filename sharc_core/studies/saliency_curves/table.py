"""Table and sentences of the study `saliency_curves`: areas between the curves, with their intervals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.formats import DASH, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import verdict
from sharc_core.results.statistics import confidence_interval
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.measured_tables import write_measured_tables
from sharc_core.studies.saliency_curves.measure import (
    DELETION,
    INSERTION,
    INVERSE,
    PREDICTED,
    RANDOM,
    SALIENT,
)

PLACE = ["dataset", "backbone", "head", "saliency"]
# Differences of areas by seed: name, sweep, order that should have the larger area, the other order. In all
# of them a positive difference means that the saliency finds channels that matter.
GAINS = {
    "deletion": (DELETION, RANDOM, SALIENT),
    "insertion": (INSERTION, SALIENT, RANDOM),
    "inverse": (DELETION, INVERSE, SALIENT),
}
AGAINST_RANDOM = {"raised": "better", "lowered": "worse"}
HALF = "half"  # accuracy with the most salient half of the channels minus that with all of them
TRUE_CLASS = "true_class"  # minus that with the half which is chosen for the predicted class instead
TESTED = (*GAINS, HALF, TRUE_CLASS)
STATED = (DELETION, INSERTION, HALF, TRUE_CLASS)  # in sentences
HEADS = {"linear": "a linear head", "mlp": "an MLP"}


def areas(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the area under each curve by place and seed: the mean accuracy over all shares, in percent.

    rows: of the jobs. The columns after the place and `seed` are (sweep, order), by the trapezoidal rule.
    """
    points = rows[rows.sweep.isin([DELETION, INSERTION])].sort_values("share", kind="stable")
    lines = []
    for place, group in points.groupby([*PLACE, "seed"], sort=False):
        line = dict(zip([*PLACE, "seed"], place, strict=True))
        for key, curve in group.groupby(["sweep", "order"], sort=False):
            line[key] = float(np.trapezoid(curve.accuracy, curve.share))
        lines.append(line)
    order = {name: rows.groupby(name, sort=False).ngroup() for name in PLACE}
    numbers = {name: dict(zip(rows[name], order[name], strict=True)) for name in PLACE}
    return pd.DataFrame(lines).sort_values(
        PLACE, key=lambda column: column.map(numbers[column.name]), kind="stable", ignore_index=True
    )


def gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Return all that is TESTED by place and seed, in percentage points, and the areas of the own order."""
    found = areas(rows)
    columns = {name: found[sweep, more] - found[sweep, less] for name, (sweep, more, less) in GAINS.items()}
    own = {f"{sweep}_area": found[sweep, SALIENT] for sweep in (DELETION, INSERTION)}
    half, every = _inserted(rows, found, SALIENT, 0.5), _inserted(rows, found, SALIENT, 1.0)
    columns[HALF], columns[TRUE_CLASS] = half - every, half - _inserted(rows, found, PREDICTED, 0.5)
    return found[[*PLACE, "seed"]].assign(**own, **columns)


def _inserted(rows: pd.DataFrame, like: pd.DataFrame, order: str, share: float) -> pd.Series:
    """Return the accuracy with a share of the channels inserted in an order, for each line of `like`."""
    points = rows[(rows.sweep == INSERTION) & (rows.order == order) & (rows.share == share)]
    values = points.set_index([*PLACE, "seed"]).accuracy
    return pd.Series(values.loc[pd.MultiIndex.from_frame(like[[*PLACE, "seed"]])].to_numpy(), like.index)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per place: areas, gains with their Student-t intervals over seeds, and verdicts.

    The intervals hold together at 95 % for all that is TESTED at all places. correlation: mean over samples
    and seeds of Spearman's correlation with the true effect. masks_per_class: mean number of different masks
    among the images_per_class test images of a class.
    """
    lines = []
    effects = rows[rows.sweep == "effect"].groupby(PLACE)
    groups = gains(rows).groupby(PLACE, sort=False)
    for place, group in groups:
        line = dict(zip(PLACE, place, strict=True)) | {"seeds": len(group)}
        line |= {f"{sweep}_area": group[f"{sweep}_area"].mean() for sweep in (DELETION, INSERTION)}
        for name in TESTED:
            low, high = interval(group[name], groups.ngroups * len(TESTED))
            line |= {name: group[name].mean(), f"{name}_low": low, f"{name}_high": high}
            line |= {f"{name}_verdict": against_random(low, high)}
        effect = effects.get_group(place)
        names = ("correlation", "masks_per_class", "images_per_class")
        lines.append(line | {name: effect[name].mean() for name in names})
    return pd.DataFrame(lines)


def simultaneous(comparisons: int, level: float = 0.95) -> float:
    """Return the level of each of several intervals that all hold together at `level` (Bonferroni)."""
    return 1 - (1 - level) / comparisons


def interval(values: ArrayLike, comparisons: int) -> tuple[float, float]:
    """Return the Student-t interval of a mean over seeds (S,), one of several that hold together at 95 %.

    A percentile bootstrap of so few values is too narrow, the more so at the levels that Bonferroni needs.
    NaN for one seed.
    """
    return confidence_interval(values, simultaneous(comparisons))


def against_random(low: float, high: float) -> str:
    """Return `better`, `worse` or `not told apart` for the interval of a gain; a dash without one."""
    word = verdict(low, high)
    return AGAINST_RANDOM.get(word, word)


def write_curve_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write saliency_curves.csv, .md and .tex; return the paths. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "saliency_curves",
        folder,
        origin,
        "Does saliency point at what matters?",
        summary(rows),
        curve_findings(rows),
        curve_tables(rows),
    )


def curve_tables(rows: pd.DataFrame) -> list[Table]:
    """Return one table per data set and backbone, with a row per head and saliency."""
    lines = summary(rows)
    tested = len(lines) * len(TESTED)
    return [_table(group, place, tested) for place, group in lines.groupby(PLACE[:2], sort=False)]


def _table(lines: pd.DataFrame, place: Sequence[str], tested: int) -> Table:
    header = ["Head", "Saliency", "area", "gain", "", "area", "gain", "", "gain over inverse"]
    header += ["half over all", "for true over predicted class", "correlation", "masks per class"]
    groups = [("", 2), ("deletion", 3), ("insertion", 3), ("", 5)]
    rows: list[list[Item]] = []
    breaks: list[int] = []
    for line in lines.to_dict("records"):
        if rows and line["head"] != rows[-1][0].text:
            breaks.append(len(rows))
        items = [Item(line["head"]), Item(line["saliency"])]
        for name in (DELETION, INSERTION):
            items += [_number(line[f"{name}_area"]), _gain(line, name), Item(line[f"{name}_verdict"])]
        masks = f"{line['masks_per_class']:.1f} of {line['images_per_class']:.0f}"
        correlation = line["correlation"]
        text = DASH if pd.isna(correlation) else f"{correlation:+.2f}"
        items += [
            _gain(line, "inverse"),
            _gain(line, HALF),
            _gain(line, TRUE_CLASS),
            Item(text, correlation),
            Item(masks, line["masks_per_class"]),
        ]
        rows.append(items)
    caption = (
        "Area: mean accuracy in percent over all shares of the channels, with the most salient ones deleted "
        "or inserted first. Gain: percentage points by which the order is better than a random one "
        "(deletion: a smaller area; insertion: a larger one), or than the inverse order. Half over all: "
        "accuracy with the most salient half of the channels minus that with all. For true over predicted "
        "class: that accuracy minus the one with the half that the saliency chooses for the class which the "
        f"head predicts from all channels. Student-t intervals over {lines.seeds.max()} seeds of the head; "
        f"all {tested} of the study's tables hold together at 95 % (Bonferroni). Correlation: Spearman's, "
        "of |saliency| with the absolute effect of a channel on the true logit, mean over test images. Masks "
        "per class: different masks that keep half of the channels, of the images of a class."
    )
    return Table(", ".join(place), caption, groups, header, rows, breaks)


def _number(value: float) -> Item:
    return Item(number_text(value), value)


def _gain(line: dict, name: str) -> Item:
    text = (
        f"{number_text(line[name], signed=True)} {interval_text(line[f'{name}_low'], line[f'{name}_high'])}"
    )
    return Item(text, line[name])


# --- sentences ---------------------------------------------------------------------------------------------


def curve_findings(rows: pd.DataFrame) -> list[str]:
    """Return sentences from the numbers: per head and sweep what beats a random order, then what follows.

    The intervals hold together at 95 % for all that is STATED.
    """
    means = gains(rows).groupby(["head", "saliency", "seed"], sort=False)[list(TESTED)].mean().reset_index()
    lines, sentences = summary(rows), []
    stated = means.groupby(["head", "saliency"]).ngroups * len(STATED)
    for head, of_head in means.groupby("head", sort=False):
        for sweep in (DELETION, INSERTION):
            sentences.append(_against_random(str(head), sweep, of_head, stated))
        sentences.append(_correlations(str(head), lines[lines["head"] == head]))
        sentences += _above_all(str(head), of_head, stated)
    sentences += _without_image(lines)
    if means.seed.nunique() > 1:
        sentences.append(
            f"Intervals: Student-t over {means.seed.nunique()} seeds of the head; all {stated}, against a "
            "random order, all channels and the predicted class, hold together at 95 % (Bonferroni)."
        )
    return sentences


def _against_random(head: str, sweep: str, of_head: pd.DataFrame, stated: int) -> str:
    words: dict[str, list[tuple[float, str]]] = {"better": [], "worse": [], "not told apart": [], DASH: []}
    for name, group in of_head.groupby("saliency", sort=False):
        ends = interval(group[sweep], stated)
        text = f"{name} {_mean_text(group[sweep], stated)}"
        words[against_random(*ends)].append((group[sweep].mean(), text))
    listed = {
        word: ", ".join(text for _, text in sorted(found, reverse=True)) for word, found in words.items()
    }
    parts = [f"{word} than at random: {listed[word]}" for word in ("better", "worse") if listed[word]]
    if listed["not told apart"]:
        parts.append(f"not told apart from random: {listed['not told apart']}")
    if listed[DASH]:
        parts.append(f"without an interval, as there is one seed: {listed[DASH]}")
    return (
        f"{sweep.capitalize()} with {HEADS.get(head, head)}, mean over data sets in points of area: "
        f"{'; '.join(parts)}."
    )


def _mean_text(values: pd.Series, stated: int) -> str:
    return f"{number_text(values.mean(), signed=True)} {interval_text(*interval(values, stated))}"


def _above_all(head: str, of_head: pd.DataFrame, stated: int) -> list[str]:
    """State for which saliencies half of the channels do better than all, and for which the class is why.

    It is if the same half chosen for the predicted class does worse, as nothing else differs.
    """
    above, telling = [], []
    for name, group in of_head.groupby("saliency", sort=False):
        if interval(group[HALF], stated)[0] > 0:
            text = f"{name} {_mean_text(group[HALF], stated)}, {_mean_text(group[TRUE_CLASS], stated)}"
            above.append((group[HALF].mean(), text))
            if interval(group[TRUE_CLASS], stated)[0] > 0:
                telling.append(str(name))
    if not above:
        return []
    sentence = (
        f"With {HEADS.get(head, head)}, the most salient half of the channels gives a higher accuracy than "
        "all of them, in points (first over all channels, then over the half that is chosen for the "
        f"predicted class): {'; '.join(text for _, text in sorted(above, reverse=True))}."
    )
    if telling:
        sentence += f" The choice of channels tells the head the true class with: {', '.join(telling)}."
    return [sentence]


def _correlations(head: str, lines: pd.DataFrame) -> str:
    means = lines.groupby("saliency", sort=False).correlation.mean().dropna()
    listed = [f"{name} {value:+.2f}" for name, value in means.sort_values(ascending=False).items()]
    return f"Rank correlation with a channel's true effect, {HEADS.get(head, head)}: {', '.join(listed)}."


def _without_image(lines: pd.DataFrame) -> list[str]:
    """State which saliencies give all images of a class the same mask, as measured."""
    same = lines[(lines.masks_per_class == 1) & (lines.images_per_class > 1)]
    sentences = []
    for head, group in same.groupby("head", sort=False):
        of_head = lines[lines["head"] == head]
        counts = of_head.groupby("saliency", sort=False).size()
        names = [n for n, found in group.groupby("saliency", sort=False) if len(found) == counts[n]]
        if names:
            sentences.append(
                f"With {HEADS.get(str(head), head)}, {' and '.join(map(str, names))} gives all images of a "
                "class one mask: which channels SHARC drops depends on the class and the head alone."
            )
    return sentences
