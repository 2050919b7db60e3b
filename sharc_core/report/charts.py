"""Interactive figures of the report as Vega-Lite specifications: a chart per scenario, data set and backbone.

A chart has the signals `buffer` and `method`, which the page's filters set, and shows its values on hover. It
repeats a figure of sharc_core/figures, which is shown without JavaScript and in print.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline

from sharc_core.common.formats import bytes_text, number_text
from sharc_core.figures.compute import flops_of
from sharc_core.figures.memory_bytes import pareto_front
from sharc_core.figures.sharc_gain import gain_pairs, gain_row_name
from sharc_core.figures.style import BYTES_LABEL, look
from sharc_core.results.comparisons import Pair, verdict
from sharc_core.results.display_names import method_key, method_name
from sharc_core.results.equal_budgets import places_of
from sharc_core.results.main_figures import COMPUTE, GAIN
from sharc_core.results.summary import Entry, model_label, row_key, row_name, unique, varying_settings
from sharc_core.results.table_formats import interval_text

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, which nothing loads
ALL = "all"  # value of a filter that lets everything pass
HEIGHT, ROW = 300, 24  # pixels
DIFFERENCE = "difference"  # layer that charts.js leaves out of narrow charts, which show it on hover
DIM = "#8a9099"  # readable on white and on black
VERDICT_COLOURS = {"raised": "#009e73", "lowered": "#d55e00", "not told apart": DIM, "–": DIM}
_SVG = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}
BYTES = "replace(format(datum.value, '~s'), /([kMG]?)$/, ' $1B')"  # `500 kB`
PASSES = (
    f"(buffer == '{ALL}' || datum.buffer == '' || datum.buffer == buffer)"
    f" && (method == '{ALL}' || datum.method == method)"
)


class Chart(NamedTuple):
    """One chart. place: its heading; dataset: what the page's filter compares."""

    place: str
    dataset: str
    spec: dict[str, Any]


def charts(kind: str, entries: Sequence[Entry]) -> list[Chart]:
    """Return the charts of a figure, one per data set and backbone. entries: of one scenario.

    kind: "bytes", GAIN or COMPUTE; other figures have none.
    """
    build = {"bytes": _bytes_chart, GAIN: _gain_chart, COMPUTE: _compute_chart}.get(kind)
    if build is None:
        return []
    result = []
    places = places_of(entries)
    several = len({backbone for _, backbone in places}) > 1
    for dataset, backbone in places:
        of_place = [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone)]
        spec = build(of_place, entries)
        if spec is not None:
            result.append(Chart(f"{dataset}, {backbone}" if several else dataset, dataset, spec))
    return result


# --- ACC against bytes and against FLOPs -----------------------------------------------------------------


def _bytes_chart(chosen: Sequence[Entry], entries: Sequence[Entry]) -> dict[str, Any]:
    """Return ACC against total bytes with the Pareto front; JOINT is a level line."""
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 12},
        "axis": _log_axis(BYTES_LABEL, [e.total_bytes for e in chosen]) | {"labelExpr": BYTES},
    }
    values = [_row(e, entries) | {"x": e.total_bytes} for e in _ordered(chosen) if e.total_bytes > 0]
    front = [{"x": total, "acc": acc} for total, acc in pareto_front(chosen) if total > 0]
    layers = [
        {
            "data": {"values": front},
            "mark": {"type": "line", "interpolate": "step-after", "color": DIM, "strokeWidth": 1},
            "encoding": {"x": x, "y": _y()},
        }
    ]
    return _scatter(_method_scales(chosen, entries), values, x, layers)


def _compute_chart(chosen: Sequence[Entry], entries: Sequence[Entry]) -> dict[str, Any] | None:
    """Return ACC against training FLOPs; None where none were counted."""
    values = [_row(e, entries) | {"x": flops_of(e)} for e in _ordered(chosen) if flops_of(e) > 0]
    axis = _log_axis("training FLOPs", [value["x"] for value in values]) | {"format": "~e"}
    x = {"field": "x", "type": "quantitative", "scale": {"type": "log", "padding": 12}, "axis": axis}
    return _scatter(_method_scales(chosen, entries), values, x, []) if values else None


def _scatter(
    scales: dict[str, dict], values: list[dict], x: dict[str, Any], layers: list[dict]
) -> dict[str, Any]:
    """Return points with the standard deviation as a bar, lines along the budgets, and JOINT's level."""
    points = [value for value in values if not value["joint"]]
    levels = [value for value in values if value["joint"]]
    same = {"x": x, "y": _y()}
    colour = {"field": "method", "type": "nominal", "scale": scales["colour"]}
    shape = {"field": "method", "type": "nominal", "scale": scales["shape"]}
    dashes = {"condition": {"test": "datum.sharc", "value": [1, 0]}, "value": [4, 3]}
    layers = [
        *layers,
        {
            "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.55},
            "encoding": same
            | {
                "stroke": colour | {"legend": _legend()},
                "strokeDash": dashes,
                "detail": {"field": "series"},
                "order": {"field": "x"},
            },
        },
        {
            "mark": {"type": "rule", "strokeWidth": 1},
            "encoding": {
                "x": x,
                "y": _y("low"),
                "y2": {"field": "high"},
                "stroke": colour | {"legend": _legend()},
            },
        },
        {
            "mark": {"type": "point", "size": 80, "strokeWidth": 1.5, "filled": False},
            "encoding": same
            | {
                "stroke": colour | {"legend": _legend()},
                "shape": shape | {"legend": _legend()},
                "fill": colour | {"legend": _legend()},
                "fillOpacity": {"condition": {"test": "datum.sharc", "value": 1}, "value": 0},
                "tooltip": _tooltip("model", "ACC", "95 % interval", "total", "parts", "FLOPs", "seeds"),
            },
        },
    ]
    spec = _chart(layers, points)
    for level in levels:
        spec["layer"].append(
            {
                "data": {"values": [level]},
                "mark": {"type": "rule", "strokeDash": [2, 3], "strokeWidth": 1.5, "color": DIM},
                "encoding": {"y": _y(), "tooltip": _tooltip("model", "ACC", "95 % interval", "seeds")},
            }
        )
        spec["layer"].append(
            {
                "data": {"values": [level]},
                "mark": {"type": "text", "align": "right", "dy": -6, "color": DIM},
                "encoding": {"y": _y(), "x": {"value": "width"}, "text": {"field": "model"}},
            }
        )
    return spec | {"height": HEIGHT}


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=row_key)


def _row(entry: Entry, entries: Sequence[Entry]) -> dict[str, Any]:
    """Return an entry as a row of a chart's data, with its texts for the tooltip."""
    low, high = entry.acc_interval
    deviation = entry.std["acc"] if entry.std["acc"] == entry.std["acc"] else 0.0
    parts = {"episodic": "episodic_bytes", "associative": "associative_bytes", "learner": "learner_bytes"}
    flops = flops_of(entry)
    return {
        "method": method_name(entry.method),
        "buffer": "" if entry.buffer is None else entry.buffer_text,
        "series": f"{model_label(entry, varying_settings(entries))} {entry.budget}",
        "model": row_name(entry, entries),
        "sharc": entry.is_sharc,
        "joint": entry.is_joint,
        "acc": _rounded(entry.acc),
        "low": _rounded(entry.acc - deviation),
        "high": _rounded(entry.acc + deviation),
        "ACC": f"{number_text(entry.acc)} %",
        "95 % interval": interval_text(low, high).replace("+", ""),
        "total": bytes_text(entry.total_bytes),
        "parts": ", ".join(f"{word} {bytes_text(entry.costs[name])}" for word, name in parts.items()),
        "FLOPs": "not counted" if flops != flops else f"{flops:.2e}",
        "seeds": len(entry.seeds),
    }


# --- from plain to SHARC ---------------------------------------------------------------------------------


def _gain_chart(chosen: Sequence[Entry], entries: Sequence[Entry]) -> dict[str, Any] | None:
    """Return plain and SHARC as paired points, a row per pair; None without a pair.

    The difference and its interval stand to the right of each row.
    """
    pairs = gain_pairs(chosen)
    if not pairs:
        return None
    order = [gain_row_name(pair, entries) for pair in pairs]
    y = {"field": "row", "type": "nominal", "sort": order, "axis": {"title": None, "labelLimit": 220}}
    values, scales = [_pair_row(pair, entries) for pair in pairs], _method_scales(chosen, entries)
    colour = {"field": "method", "type": "nominal", "scale": scales["colour"], "legend": None}
    shape = {"field": "method", "type": "nominal", "scale": scales["shape"], "legend": None}
    tip = _tooltip("row", "plain", "SHARC", "SHARC minus plain", "95 % interval", "verdict", "bytes", "seeds")

    def scale(field: str) -> dict[str, Any]:
        axis = {"title": "ACC, % (open: plain, filled: SHARC)"}
        return {"field": field, "type": "quantitative", "scale": {"zero": False, "padding": 10}, "axis": axis}

    def interval(variant: str, shift: int) -> dict[str, Any]:
        return {
            "mark": {"type": "rule", "strokeWidth": 1.2, "yOffset": shift},
            "encoding": {
                "x": scale(f"{variant}_low"),
                "x2": {"field": f"{variant}_high"},
                "y": y,
                "stroke": colour,
            },
        }

    def point(variant: str, opacity: int) -> dict[str, Any]:
        return {
            "mark": {
                "type": "point",
                "size": 80,
                "strokeWidth": 1.5,
                "filled": False,
                "fillOpacity": opacity,
            },
            "encoding": {
                "x": scale(f"{variant}_acc"),
                "y": y,
                "stroke": colour,
                "fill": colour,
                "shape": shape,
                "tooltip": tip,
            },
        }

    layers = [
        {
            "mark": {"type": "rule", "strokeWidth": 4, "color": DIM, "opacity": 0.4},
            "encoding": {"x": scale("plain_acc"), "x2": {"field": "sharc_acc"}, "y": y, "tooltip": tip},
        },
        interval("plain", -4),
        interval("sharc", 4),
        point("plain", 0),
        point("sharc", 1),
        {
            "name": DIFFERENCE,
            "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 10},
            "encoding": {
                "x": {"value": "width"},
                "y": y,
                "text": {"field": "words"},
                "color": {
                    "field": "verdict",
                    "type": "nominal",
                    "scale": {"domain": list(VERDICT_COLOURS), "range": list(VERDICT_COLOURS.values())},
                    "legend": None,
                },
                "tooltip": tip,
            },
        },
    ]
    padding = {"left": 4, "top": 4, "bottom": 4, "right": 118}
    return _chart(layers, values) | {"height": {"step": ROW}, "padding": padding}


def _pair_row(pair: Pair, entries: Sequence[Entry]) -> dict[str, Any]:
    test = pair.test
    interval = interval_text(test.low, test.high)
    row: dict[str, Any] = {
        "method": method_name(pair.sharc.method),
        "buffer": pair.sharc.buffer_text,
        "row": gain_row_name(pair, entries),
        "SHARC minus plain": f"{number_text(test.difference, signed=True)} points",
        "95 % interval": interval,
        "verdict": verdict(test.low, test.high),
        "words": f"{test.difference:+.1f}"
        + ("" if test.low != test.low else f" [{test.low:+.1f}, {test.high:+.1f}]"),
        "bytes": f"{bytes_text(pair.plain.total_bytes)} to {bytes_text(pair.sharc.total_bytes)}",
        "seeds": test.n,
    }
    for name, entry in (("plain", pair.plain), ("sharc", pair.sharc)):
        low, high = entry.acc_interval
        ends = (entry.acc, entry.acc) if low != low else (max(low, 0.0), min(high, 100.0))
        row |= {f"{name}_acc": _rounded(entry.acc)}
        row |= {f"{name}_low": _rounded(ends[0]), f"{name}_high": _rounded(ends[1])}
        row[name if name == "plain" else "SHARC"] = f"{number_text(entry.acc)} %"
    return row


# --- parts that charts share -----------------------------------------------------------------------------


def _chart(layers: list[dict], values: list[dict]) -> dict[str, Any]:
    """Return a layered chart as wide as its container, whose data pass the page's filters."""
    return {
        "$schema": SCHEMA,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "background": "transparent",
        "data": {"values": values},
        "params": [{"name": "buffer", "value": ALL}, {"name": "method", "value": ALL}],
        "transform": [{"filter": PASSES}],
        "layer": layers,
        "config": {"view": {"stroke": None}, "font": "system-ui, sans-serif"},
    }


def _log_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """Return an axis with ticks at the powers of ten, and at 2 and 5 times them over few decades."""
    sizes = [math.log10(value) for value in values if value > 0] or [0.0]
    powers = range(math.floor(min(sizes)), math.ceil(max(sizes)) + 1)
    steps = (1,) if max(sizes) - min(sizes) > 3 else (1, 2, 5)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return {"title": title, "values": ticks, "labelOverlap": True}


def _y(field: str = "acc") -> dict[str, Any]:
    scale = {"zero": False, "padding": 8, "nice": False}  # ACC ends at 100
    return {"field": field, "type": "quantitative", "scale": scale, "axis": {"title": "ACC, %"}}


def _legend() -> dict[str, Any]:
    symbols = {"symbolFillColor": "transparent", "symbolOpacity": 1}
    return {"title": None, "orient": "bottom", "columns": 4} | symbols


def _tooltip(*names: str) -> list[dict[str, str]]:
    return [{"field": name, "title": name} for name in names]


def _method_scales(chosen: Sequence[Entry], entries: Sequence[Entry]) -> dict[str, dict[str, list[str]]]:
    """Return colours and shapes of the chosen entries' methods, as in the static figure of all entries."""
    methods = unique((e.method for e in chosen if not e.is_joint), method_key)
    looks = [look(method, entries) for method in methods]
    names = [method_name(method) for method in methods]
    return {
        "colour": {"domain": names, "range": [colour for colour, _ in looks]},
        "shape": {"domain": names, "range": [marker_path(marker) for _, marker in looks]},
    }


def marker_path(marker: str) -> str:
    """Return a marker of matplotlib as an SVG path within [-1, 1], which is a custom shape of Vega."""
    style = MarkerStyle(marker)
    outline = style.get_path().transformed(style.get_transform())
    reach = float(np.abs(np.asarray(outline.vertices, dtype=float)).max()) or 1.0
    parts = []
    for points, code in outline.iter_segments(simplify=False):
        numbers = ((points / reach).reshape(-1, 2) * (1, -1)).ravel()  # SVG's y axis points down
        parts.append("Z" if code == Outline.CLOSEPOLY else _SVG[code] + ",".join(f"{n:.3g}" for n in numbers))
    return "".join(parts)


def _rounded(value: float) -> float:
    return round(value, 4)
