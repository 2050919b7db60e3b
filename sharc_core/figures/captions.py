"""Titles, captions and text alternatives of figures; an alternative gives the most important numbers."""

from collections.abc import Sequence

import numpy as np

from sharc_core.common.formats import bytes_text, number_text
from sharc_core.figures.protocols import pair_name, protocol_rows
from sharc_core.figures.sharc_gain import gain_pairs, gain_row_name
from sharc_core.figures.style import Place, panel_title, panels, places
from sharc_core.results.comparisons import Pair
from sharc_core.results.display_names import method_key, method_name, scenario_name
from sharc_core.results.main_figures import COMPUTE, GAIN, RANKS
from sharc_core.results.ranks import Ranking, rankings
from sharc_core.results.summary import (
    Entry,
    model_label,
    place_name,
    setting_text,
    unique,
    varying_settings,
)
from sharc_core.results.table_formats import interval_text

OVER_SEEDS = "standard deviation over the seeds"
TITLES = {
    "learning_curves": "Learning curves",
    "bytes": "Accuracy against bytes",
    "theta": "Accuracy against theta",
    "associative_memory": "Accuracy by associative memory",
    "saliency": "Accuracy by saliency",
    "protocol": "Accuracy by protocol",
    GAIN: "From plain to SHARC",
    COMPUTE: "Accuracy against training FLOPs",
    RANKS: "Ranks over data sets",
}
CAPTIONS = {
    "learning_curves": (
        "Mean accuracy on the tasks seen so far, mean_(j ≤ i) a[i][j]. Dashed: plain; solid: SHARC; band: "
        f"{OVER_SEEDS}. JOINT, which trains once on all tasks, is a point."
    ),
    "bytes": (
        "ACC against the bytes that the learner keeps, without the backbone (logarithmic). Open markers: "
        f"plain; filled: SHARC; bars: {OVER_SEEDS}. Horizontal lines: JOINT, and in the static drawing SGD, "
        "which keeps only the head. Grey steps: the best ACC at no more bytes (Pareto front)."
    ),
    "theta": (
        f"ACC against the share of the channels that SHARC drops. Band: {OVER_SEEDS}. Horizontal lines: the "
        "method without SHARC at the same buffer, and methods without a buffer."
    ),
    "protocol": (
        "Left: ACC with SHARC (filled) and without (open) under each protocol; bars: "
        f"{OVER_SEEDS}. Right: bytes that the learner keeps, without the backbone (logarithmic)."
    ),
    GAIN: (
        "Left: ACC of the plain method (open) and with SHARC (filled) at the same buffer, with the 95 % "
        "Student-t intervals of the means. Right: SHARC minus plain over the same seeds, with the interval "
        "of the mean difference. At the same buffer SHARC keeps more bytes."
    ),
    COMPUTE: (
        "ACC against the floating-point operations of training, backbone passes included (logarithmic). Open "
        f"markers: plain; filled: SHARC; bars: {OVER_SEEDS}."
    ),
    RANKS: (
        "Mean rank of each method over the data sets, with the 95 % bootstrap interval over the seeds. On "
        "every data set a method has its best ACC within the bytes in the title. Thick grey lines connect "
        "methods that are not told apart: their ranks differ by less than Nemenyi's critical difference "
        "(level 0.05), which the black line shows (Demšar 2006)."
    ),
}
OF_A_SETTING = (
    "Left: ACC of SHARC with each {}; bars: " + OVER_SEEDS + ". Right: bytes that the learner keeps, without "
    "the backbone (logarithmic). Vertical lines: the method without SHARC at the same buffer, and methods "
    "without a buffer."
)


def caption_of(kind: str, entries: Sequence[Entry], title: str | None = None) -> dict[str, str]:
    """Return {"title", "alt", "caption"} of a figure of this kind, drawn from entries of one scenario.

    title: replaces the kind's own title.
    """
    return {
        "title": f"{title or TITLES[kind]}, {scenario_name(entries[0].scenario)}",
        "alt": alt_text(kind, entries),
        "caption": CAPTIONS.get(kind) or OF_A_SETTING.format(kind.replace("_", " ")),
    }


def alt_text(kind: str, entries: Sequence[Entry]) -> str:
    """Return a text alternative: what the figure draws and its most important numbers."""
    scenario = scenario_name(entries[0].scenario)
    if kind == "learning_curves":
        start = f"Line plots for {scenario}: accuracy on the tasks seen so far, task by task"
        sentences = [_ranking(entries, *panel) for panel in panels(entries)]
    elif kind == "bytes":
        start = f"Scatter plots for {scenario}: ACC against total bytes"
        sentences = [_ranking(entries, *panel, with_bytes=True) for panel in panels(entries)]
    elif kind == "theta":
        start = f"Line plots for {scenario}: ACC against theta"
        sentences = [_sweep(place, method) for place, method in _sharc_rows(entries)]
    elif kind == GAIN:
        start = f"Dot plots for {scenario}: ACC without and with SHARC, and the difference"
        sentences = [_gain(pair, entries) for pair in gain_pairs(entries)]
    elif kind == COMPUTE:
        start = f"Scatter plots for {scenario}: ACC against training FLOPs"
        sentences = [_ranking(entries, *panel) for panel in panels(entries)]
    elif kind == RANKS:
        start = f"Dot plots for {scenario}: mean rank of each method over the data sets"
        sentences = [_ranks(ranking) for ranking in rankings(entries)]
    elif kind == "protocol":
        start = f"Dot plots for {scenario}: ACC and bytes with and without SHARC, by protocol"
        sentences = [_protocols(title, pairs) for title, pairs in protocol_rows(entries).items()]
    else:
        start = f"Dot plots for {scenario}: ACC and bytes by {kind.replace('_', ' ')}"
        sentences = [_values(place, method, kind) for place, method in _sharc_rows(entries)]
    return f"{start}. {' '.join(sentences)}"


def _sharc_rows(entries: Sequence[Entry]) -> list[tuple[Place, str]]:
    return [
        (place, method)
        for place in places(entries)
        for method in unique((e.method for e in place.entries if e.is_sharc), method_key)
    ]


def _ranking(entries: Sequence[Entry], dataset: str, backbone: str, with_bytes: bool = False) -> str:
    """Return the best and the worst final ACC of a panel, and JOINT's."""
    chosen = [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone)]
    ranked = sorted((e for e in chosen if not e.is_joint), key=lambda e: e.acc)
    varying = varying_settings(entries)

    def described(entry: Entry) -> str:
        text = f"{model_label(entry, varying)} {_percent(entry)}"
        details = [f"buffer {entry.buffer_text}"] if entry.buffer is not None else []
        details += [bytes_text(entry.total_bytes)] if with_bytes else []
        return f"{text} ({', '.join(details)})" if details else text

    parts = []
    if ranked:
        parts.append(f"in the end {described(ranked[-1])} is best")
        if len(ranked) > 1:
            parts.append(f"{described(ranked[0])} worst")
    parts += [f"JOINT {_percent(e)}" for e in chosen if e.is_joint]
    return f"{panel_title(entries, dataset, backbone)}: {', '.join(parts)}.".replace(r"\$", "$")


def _sweep(place: Place, method: str) -> str:
    """Return at which theta a method is best and worst, and the ACC of the horizontal lines."""
    sharc = sorted(_of(place, method), key=lambda e: (e.theta, e.acc))
    best, worst = max(sharc, key=lambda e: e.acc), min(sharc, key=lambda e: e.acc)
    text = (
        f"{_heading(place, method)}: theta from {sharc[0].theta:g} to {sharc[-1].theta:g}, best "
        f"{_percent(best)} at {best.theta:g}, worst {_percent(worst)} at {worst.theta:g}"
    )
    return text + _levels(place, method)


def _values(place: Place, method: str, setting: str) -> str:
    """Return every value of a setting with its ACC and bytes, best first."""
    sharc = sorted(_of(place, method), key=lambda e: -e.acc)
    further = [name for name in varying_settings(sharc) if name != setting]
    listed = "; ".join(
        f"{', '.join(filter(None, (setting_text(e, name) for name in (setting, *further))))} "
        f"{_percent(e)}, {bytes_text(e.total_bytes)}"
        for e in sharc
    )
    return f"{_heading(place, method)}: {listed}{_levels(place, method)}"


def _protocols(title: str, pairs: Sequence[Pair]) -> str:
    """Return ACC without and with SHARC under every protocol."""
    listed = "; ".join(
        f"{pair_name(pair, pairs)} {_percent(pair.plain)} and with SHARC {_percent(pair.sharc)}"
        for pair in pairs
    )
    return f"{title}: {listed}."


def _gain(pair: Pair, entries: Sequence[Entry]) -> str:
    """Return a pair's ACC and the interval of its difference."""
    test = pair.test
    name = f"{place_name(pair.sharc, entries)}, {gain_row_name(pair, entries)}"
    difference = f"{number_text(test.difference, signed=True)} {interval_text(test.low, test.high)}"
    return f"{name}: {pair.plain.acc:.1f} to {pair.sharc.acc:.1f} %, {difference}."


def _ranks(ranking: Ranking) -> str:
    listed = ", ".join(f"{row.name} {row.rank:.2f}" for row in ranking.rows)
    return f"{ranking.backbone}, {', '.join(ranking.datasets)}: {listed}."


def _heading(place: Place, method: str) -> str:
    return f"{method_name(method)}+, {place.title}".replace(r"\$", "$")


def _of(place: Place, method: str) -> list[Entry]:
    return [e for e in place.entries if e.method == method and e.is_sharc]


def _levels(place: Place, method: str) -> str:
    levels = [e for e in place.entries if e.method == method and not e.is_sharc] + place.level
    return "; " + ", ".join(f"{method_name(e.method)} {_percent(e)}" for e in levels) + "." if levels else "."


def _percent(entry: Entry) -> str:
    deviation = entry.std["acc"]
    return f"{entry.acc:.1f} %" if np.isnan(deviation) else f"{entry.acc:.1f} ± {deviation:.1f} %"
