"""Tables of the study `architectures`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sharc_core.common.formats import DASH, number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import LEVEL
from sharc_core.results.table_formats import Item, Table
from sharc_core.studies.architectures.comparison import (
    MEASURES,
    Network,
    Setting,
    Verdict,
    contrasts_of,
    correlations,
    gain_verdicts,
    joint_verdicts,
    on_each,
    rates_text,
    settings_of,
    shown,
    summary,
)
from sharc_core.studies.architectures.correlation import FEWEST, Correlation
from sharc_core.studies.architectures.findings import (
    architecture_findings,
    averaged,
    difference_text,
    power_text,
    rho_text,
    told_apart,
)
from sharc_core.studies.measured_tables import write_measured_tables

STAR = f"*: p < {LEVEL} after Holm's correction"


def write_architecture_tables(
    rows: pd.DataFrame, folder: Path | str, pairs: Sequence[Sequence[str]] = (), config: str = UNKNOWN
) -> list[Path]:
    """Write architectures.csv, .md and .tex; return the paths.

    rows: of the jobs. pairs: of backbones, see ArchitecturesSettings.contrasts. config: the grid's hash.
    """
    origin = lineage(rows, config)
    return write_measured_tables(
        "architectures",
        folder,
        origin,
        "SHARC with other architectures",
        summary(rows),
        architecture_findings(rows, pairs),
        architecture_tables(rows, pairs),
    )


def architecture_tables(rows: pd.DataFrame, pairs: Sequence[Sequence[str]] = ()) -> list[Table]:
    """Return tables of networks, of SHARC's gains in the mean and on each data set, contrasts, correlations.

    pairs: see ArchitecturesSettings.contrasts.
    """
    made = shown(rows)
    tables = [_networks_table(made), _gains_table(made, "SHARC's gain")]
    tables += [_gains_table(there, f"SHARC's gain on {name}") for name, there in on_each(rows).items()]
    tables += [_contrasts_table(made, pairs)] if contrasts_of(made, pairs) else []
    return [*tables, _correlations_table(made)]


def _networks_table(made: Sequence[Network]) -> Table:
    header = ["Network", "channels", "side", "zeros, %", "held out, %", "JOINT", "plain replay"]
    header += ["JOINT - plain", "lr, JOINT", "lr, replay", "LZMA saves, %", "LZMA per map, %"]
    told, body = joint_verdicts(made), []
    for network in made:
        maps = network.maps
        items = [Item(network.backbone), Item(f"{maps['channels']:.0f}", maps["channels"])]
        items += [Item(f"{maps['height']:.0f} x {maps['width']:.0f}", maps["height"])]
        items += [_percent(maps["zeros"]), _percent(maps["held_out"])]
        items += [Item(number_text(acc.mean()), acc.mean()) for acc in (network.joint, network.plain)]
        test = network.below_joint
        items.append(Item(_starred(difference_text(test), told[network.backbone]), test.difference))
        items += [Item(rates_text(rates), rates[0]) for rates in (network.joint_rates, network.plain_rates)]
        body.append([*items, _percent(network.saved()), _percent(network.saved(alone=True))])
    caption = (
        f"{averaged(made)}. Zeros: share of the values of the training maps, in float16. Held out: accuracy "
        "of the pre-trained network on test images of its own classes (with the patch tokens of a vision "
        "transformer this is the accuracy of its class token). ACC in percent in Class-IL, mean over "
        f"{len(made[0].plain)} seeds; JOINT minus plain replay with its 95 % Student-t interval. {STAR} for "
        "the number of networks. lr: learning rates chosen on held-out training images, one per data set. "
        "LZMA: all maps in one stream, or each map by itself; no channel dropped."
    )
    return Table("Networks", caption, [("", len(header))], header, body, text_columns=1)


def _gains_table(made: Sequence[Network], title: str) -> Table:
    settings = settings_of(made)
    thetas = list(dict.fromkeys(setting.theta for setting in settings))
    memories = list(dict.fromkeys(setting.memory for setting in settings))
    header, groups = ["Network"], [("", 1)]
    for theta in thetas:
        header += ["saliency kept, %", *memories]
        groups.append((f"theta {theta:g}", 1 + len(memories)))
    told = {setting: gain_verdicts(made, setting) for setting in settings}
    body = []
    for network in made:
        items = [Item(network.backbone)]
        for theta in thetas:
            chosen = [Setting(theta, memory) for memory in memories]
            kept = [network.kept[setting] for setting in chosen if setting in network.kept]
            items.append(_percent(kept[0]) if kept else Item(DASH))
            for setting in chosen:
                items.append(
                    _gain(network, setting, told[setting]) if setting in network.gains else Item(DASH)
                )
        body.append(items)
    caption = (
        f"ACC with SHARC minus that of plain replay at equal floats, {averaged(made, lower=True)}, in points "
        "with the 95 % Student-t interval over seeds, not corrected for the number of networks. "
        f"{STAR} for the networks in a column. The associative memory's state is not counted. Saliency kept: "
        "share of the absolute saliency of JOINT's head in the kept channels."
    )
    return Table(title, caption, groups, header, body, text_columns=1)


def _contrasts_table(made: Sequence[Network], pairs: Sequence[Sequence[str]]) -> Table:
    settings, found = settings_of(made), contrasts_of(made, pairs)
    header = ["Networks", *(setting.name for setting in settings)]
    body = []
    for first, second in dict.fromkeys((contrast.first, contrast.second) for contrast in found):
        items = [Item(f"{second} - {first}")]
        own = {c.setting: c for c in found if (c.first, c.second) == (first, second)}
        for setting in settings:
            c = own.get(setting)
            text = DASH if c is None else _starred(difference_text(c.test), c.verdict)
            items.append(Item(text, None if c is None else c.test.difference))
        body.append(items)
    caption = (
        f"SHARC's gain with a network minus that with another, in points, {averaged(made, lower=True)}, "
        f"paired by seed, with the 95 % Student-t interval, not corrected. {STAR} for the "
        "contrasts in a column. Each network's weights are fixed, so intervals are for these weights."
    )
    return Table("SHARC's gain between networks", caption, [("", len(header))], header, body, text_columns=1)


def _correlations_table(made: Sequence[Network]) -> Table:
    header = ["SHARC", *(f"with the {words}" for words in MEASURES.values())]
    body = [
        [Item(setting.name), *(_rho(*found[name]) for name in MEASURES)]
        for setting, found in correlations(made).items()
    ]
    caption = (
        f"Spearman's rank correlation of SHARC's mean gain over {len(made)} networks, with an approximate "
        f"95 % interval (Bonett and Wright), from {FEWEST} networks on. {STAR} for all fields of this table, "
        f"by a permutation test. {power_text(len(made))}The networks differ in more than zeros and channels. "
        "Backbones that share weights count one by one. The gains have errors of their own, which neither "
        "the interval nor the power includes."
    )
    title = "What the gain goes with"
    return Table(title, caption, [("", len(header))], header, body, text_columns=1)


def _percent(share: float) -> Item:
    return Item(DASH) if share != share else Item(f"{100 * share:.1f}", share)


def _starred(text: str, verdict: Verdict) -> str:
    return text + ("*" if told_apart(verdict) else "")


def _gain(network: Network, setting: Setting, told: dict[str, Verdict]) -> Item:
    test = network.gain(setting)
    return Item(_starred(difference_text(test), told[network.backbone]), test.difference)


def _rho(found: Correlation, verdict: Verdict) -> Item:
    return Item(_starred(rho_text(found), verdict), found.rho)
