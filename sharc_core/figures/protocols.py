"""ACC and bytes with and without SHARC, under every protocol."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from sharc_core.common.formats import natural_key
from sharc_core.figures.style import BYTES_LABEL, bytes_axis, look, open_and_filled, panel_title
from sharc_core.grid.protocol import protocol_key
from sharc_core.results.comparisons import Pair, paired
from sharc_core.results.display_names import method_key, method_name, scenario_name
from sharc_core.results.summary import Entry, network_and_protocol, setting_text, varying_settings

LINE = 0.24  # inches from one protocol to the next


def protocol_rows(entries: Sequence[Entry]) -> dict[str, list[Pair]]:
    """Return each panel's pairs, one per protocol, by its title, such as "ER, s_cifar10, buffer 200"."""
    rows: dict[str, list[Pair]] = {}
    backbones = {entry.backbone for entry in entries}

    def order(pair: Pair) -> tuple:
        e = pair.sharc
        network, protocol = network_and_protocol(e, backbones)
        place = (natural_key(e.dataset), natural_key(network), e.buffer, method_key(e.method))
        return (*place, protocol_key(protocol))

    networks = [replace(e, backbone=network_and_protocol(e, backbones)[0]) for e in entries]
    for pair in sorted(paired(entries), key=order):
        sharc = pair.sharc
        network, _ = network_and_protocol(sharc, backbones)
        place = panel_title(networks, sharc.dataset, network).replace(r"\$", "$")
        rows.setdefault(f"{method_name(sharc.method)}, {place}, buffer {sharc.buffer_text}", []).append(pair)
    return rows


def pair_name(pair: Pair, pairs: Sequence[Pair]) -> str:
    """Return the protocol, with the other settings of SHARC that differ between a panel's pairs.

    A drifting backbone is the rule `batch_norm` where the panel has the same network with frozen batch norm.
    """
    varying = varying_settings([p.sharc for p in pairs])
    words = [setting_text(pair.sharc, name) for name in varying if name != "protocol"]
    _, protocol = network_and_protocol(pair.sharc, {p.sharc.backbone for p in pairs})
    return ", ".join([protocol, *filter(None, words)])


def protocols_figure(entries: Sequence[Entry]) -> Figure:
    """Draw a row per data set, buffer and method: ACC with its deviation on the left, bytes on the right."""
    rows = protocol_rows(entries)
    heights = [LINE * len(pairs) + 0.75 for pairs in rows.values()]
    figure = Figure(figsize=(7.4, sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights, width_ratios=[3, 2])
    for (title, pairs), (left, right) in zip(rows.items(), axes, strict=True):
        y = np.arange(len(pairs))[::-1]
        colour, marker = look(pairs[0].sharc.method, entries)
        for side, face in (("plain", "white"), ("sharc", colour)):
            runs = [getattr(pair, side) for pair in pairs]
            deviations = [e.std["acc"] for e in runs]
            bars = None if np.isnan(deviations).any() else deviations
            shape = {"fmt": marker, "color": colour, "markerfacecolor": face}
            left.errorbar([e.acc for e in runs], y, xerr=bars, elinewidth=0.8, **shape)
            right.plot([e.total_bytes for e in runs], y, marker, color=colour, markerfacecolor=face)
        left.set_yticks(y, [pair_name(pair, pairs).replace("$", r"\$") for pair in pairs])
        right.set_yticks(y, [""] * len(y))
        for panel in (left, right):
            panel.set_ylim(-0.6, len(y) - 0.4)
        left.set_title(title.replace("$", r"\$"))
        left.set_xlabel("ACC, %")
        bytes_axis(right, [e.total_bytes for pair in pairs for e in (pair.plain, pair.sharc)])
        right.set_xlabel(BYTES_LABEL)
    figure.legend(handles=open_and_filled(), loc="outside lower center", ncols=2)
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: with and without SHARC, by protocol")
    return figure
