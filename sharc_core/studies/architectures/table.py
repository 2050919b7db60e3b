"""Tables and sentences of the study `architectures`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sharc_core.common.formats import DASH, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import verdict
from sharc_core.results.statistics import PairedTest
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.architectures.comparison import (
    ALL,
    MEASURES,
    Network,
    Setting,
    correlations,
    settings_of,
    shown,
    summary,
)
from sharc_core.studies.architectures.correlation import FEWEST, Correlation
from sharc_core.studies.measured_tables import write_measured_tables

CAUTION = (
    "The networks differ in more than zeros and channels, backbones that share weights count one by one, and "
    "the correlations are not corrected for their number"
)


def write_architecture_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write architectures.csv, .md and .tex; return the paths. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "architectures",
        folder,
        origin,
        "SHARC with other architectures",
        summary(rows),
        architecture_findings(rows),
        architecture_tables(rows),
    )


def architecture_tables(rows: pd.DataFrame) -> list[Table]:
    """Return a table of the networks, one of SHARC's gains and one of correlations over networks."""
    made = shown(rows)
    return [_networks_table(made), _gains_table(made), _correlations_table(made)]


def _networks_table(made: Sequence[Network]) -> Table:
    header = [
        "Network",
        "channels",
        "side",
        "zeros, %",
        "held out, %",
        "JOINT",
        "plain replay",
        "LZMA saves, %",
    ]
    body = []
    for network in made:
        maps = network.maps
        items = [Item(network.backbone), Item(f"{maps['channels']:.0f}", maps["channels"])]
        items += [Item(f"{maps['height']:.0f} x {maps['width']:.0f}", maps["height"])]
        items += [_percent(maps["zeros"]), _percent(maps["held_out"])]
        items += [Item(number_text(acc.mean()), acc.mean()) for acc in (network.joint, network.plain)]
        body.append([*items, _percent(network.saved)])
    caption = (
        f"{_averaged(made)}. Zeros: share of the values of the training maps, in float16. Held out: accuracy "
        "of the pre-trained network on test images of its own classes. ACC in percent in Class-IL, mean over "
        f"{len(made[0].plain)} seeds. LZMA: all maps in one stream, no channel dropped."
    )
    return Table("Networks", caption, [("", len(header))], header, body, text_columns=1)


def _gains_table(made: Sequence[Network]) -> Table:
    settings = settings_of(made)
    thetas = list(dict.fromkeys(setting.theta for setting in settings))
    memories = list(dict.fromkeys(setting.memory for setting in settings))
    header, groups = ["Network"], [("", 1)]
    for theta in thetas:
        header += ["saliency kept, %", *memories]
        groups.append((f"theta {theta:g}", 1 + len(memories)))
    body = []
    for network in made:
        items = [Item(network.backbone)]
        for theta in thetas:
            chosen = [Setting(theta, memory) for memory in memories]
            kept = [network.kept[setting] for setting in chosen if setting in network.kept]
            items.append(_percent(kept[0]) if kept else Item(DASH))
            items += [_gain(network, setting) for setting in chosen]
        body.append(items)
    caption = (
        f"ACC with SHARC minus that of plain replay at equal floats, in points, {_averaged(made).lower()}, "
        "with the 95 % Student-t interval over seeds, not corrected for the number of networks. The "
        "associative memory's state is not counted. Saliency kept: share of the absolute saliency of JOINT's "
        "head in the kept channels."
    )
    return Table("SHARC's gain", caption, groups, header, body, text_columns=1)


def _correlations_table(made: Sequence[Network]) -> Table:
    header = ["SHARC", *(f"with the {words}" for words in MEASURES.values())]
    body = [
        [Item(setting.name), *(_rho(found) for found in correlations(made, setting).values())]
        for setting in settings_of(made)
    ]
    caption = (
        f"Spearman's rank correlation of SHARC's gain over {len(made)} networks, with an approximate 95 % "
        f"interval (Bonett and Wright), from {FEWEST} networks on. {CAUTION}."
    )
    title = "What the gain goes with"
    return Table(title, caption, [("", len(header))], header, body, text_columns=1)


def _averaged(made: Sequence[Network]) -> str:
    return "Mean over data sets" if made[0].dataset == ALL else f"On {made[0].dataset}"


def _percent(share: float) -> Item:
    return Item(DASH) if share != share else Item(f"{100 * share:.1f}", share)


def _gain(network: Network, setting: Setting) -> Item:
    if setting not in network.gains:
        return Item(DASH)
    test = network.gain(setting)
    return Item(gain_text(test), test.difference)


def _rho(found: Correlation) -> Item:
    return Item(rho_text(found), found.rho)


def gain_text(test: PairedTest) -> str:
    """Return a gain with its interval."""
    return f"{number_text(test.difference, signed=True)} {interval_text(test.low, test.high)}"


def rho_text(found: Correlation) -> str:
    """Return a correlation with its interval, if there is one."""
    interval = interval_text(found.low, found.high)
    text = number_text(found.rho, signed=True)
    return text if interval == DASH else f"{text} {interval}"


# --- sentences -----------------------------------------------------------------------------------------


def architecture_findings(rows: pd.DataFrame) -> list[str]:
    """Return with which networks SHARC gains, what the gain goes with, and what compression saves."""
    made = shown(rows)
    where = f"Class-IL, {_averaged(made)[0].lower()}{_averaged(made)[1:]}"
    sentences = [
        f"{where}, {setting.name}, SHARC minus plain replay at equal floats: {_compared(made, setting)}."
        for setting in settings_of(made)
    ]
    sentences += [_correlated(made, setting) for setting in settings_of(made)]
    saved = sorted(made, key=lambda network: network.saved)
    least, most = saved[0], saved[-1]
    sentences.append(
        f"Without dropping a channel LZMA saves {100 * least.saved:.0f} % of the bytes ({least.backbone}, "
        f"{100 * least.maps['zeros']:.0f} % zeros) to {100 * most.saved:.0f} % ({most.backbone}, "
        f"{100 * most.maps['zeros']:.0f} % zeros)."
    )
    return sentences


def _compared(made: Sequence[Network], setting: Setting) -> str:
    """Return the words on each network's gain, the largest first."""
    headings = {"raised": "above zero", "lowered": "below zero", "not told apart": "not told apart from zero"}
    found: dict[str, list[tuple[float, str]]] = {word: [] for word in (*headings, DASH)}
    for network in made:
        if setting in network.gains:
            test = network.gain(setting)
            text = f"{network.backbone} {gain_text(test)}" if test.n > 1 else _single(network, test)
            found[verdict(test.low, test.high)].append((test.difference, text))
    parts = []
    for word, texts in found.items():
        if texts:
            listed = ", ".join(text for _, text in sorted(texts, reverse=True))
            parts.append(f"{headings.get(word, 'without an interval')} with {listed}")
    return "; ".join(parts)


def _single(network: Network, test: PairedTest) -> str:
    return f"{network.backbone} {number_text(test.difference, signed=True)}"


def _correlated(made: Sequence[Network], setting: Setting) -> str:
    """State how the gain goes with zeros and channels over networks, or that so few cannot tell."""
    found = correlations(made, setting)
    counts = {correlation.n for correlation in found.values()}
    start = f"{setting.name}: over {max(counts)} networks"
    if max(counts) < FEWEST:
        return f"{start} the gain cannot be correlated; it takes at least {FEWEST}."
    parts = []
    for name, correlation in found.items():
        if correlation.verdict == DASH:
            parts.append(f"with the {MEASURES[name]} it does not exist, because one of them does not vary")
            continue
        known = "" if correlation.verdict in ("raised", "lowered") else "not "
        parts.append(f"with the {MEASURES[name]} it is {rho_text(correlation)}, {known}told apart from zero")
    return f"{start}, rank correlation of the gain: {'; '.join(parts)}."
