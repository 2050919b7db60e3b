"""Tables and sentences of the study `capacity`: capacities, what theory says, and their growth.

A capacity is where the error crosses a level. It is computed per seed, by interpolation between the measured
numbers of patterns, and has a Student-t interval over seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sharc_core.common.files import write_text
from sharc_core.common.formats import DASH
from sharc_core.provenance.lineage import csv_text, latex_text, lineage, markdown_text
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.statistics import confidence_interval
from sharc_core.results.table_formats import Item, Table, to_latex, to_markdown
from sharc_core.studies.capacity.settings import (
    CLASSICAL,
    HALF,
    HEBBIAN,
    MODERN,
    PATTERN,
    PREDICTIVE,
    PROJECTION,
    CapacitySettings,
)
from sharc_core.studies.capacity.theory import critical_load, load_at, log_patterns, shannon

LEVELS = {CLASSICAL: 0.03, MODERN: 0.5, PREDICTIVE: 0.5}  # of the error at capacity
GROUP = ["part", "memory", "rule", "cue", "size", "hidden"]
RULES = {HEBBIAN: "Hebbian rule", PROJECTION: "projection rule"}
CUES = {PATTERN: "from the pattern, all units free", HALF: "half known and held"}
BELOW, ABOVE = "error above the level", "not reached"  # why there is no capacity


@dataclass(frozen=True)
class Growth:
    """How a capacity grows. name: of the number. values: by seed. theory: NaN without one."""

    memory: str
    name: str
    values: list[float]
    theory: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Student-t interval over seeds."""
        return confidence_interval(self.values)


def crossing(patterns: Sequence[float], errors: Sequence[float], level: float) -> float:
    """Return log P at which errors rise above a level, by interpolation in log P.

    patterns: rising. From the smallest error on, errors are replaced by the rising sequence that is nearest
    in squares, so that noise does not make several crossings. NaN if the smallest error is above the level,
    or the last of the sequence below it.
    """
    first = int(np.argmin(errors))
    logs = np.log(np.asarray(patterns[first:], dtype=float))
    risen = scipy.optimize.isotonic_regression(errors[first:]).x
    if risen[0] > level or risen[-1] <= level:
        return math.nan
    last = int(np.flatnonzero(risen <= level)[-1])
    share = (level - risen[last]) / (risen[last + 1] - risen[last])
    return float(logs[last] + share * (logs[last + 1] - logs[last]))


def capacities(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line per GROUP and seed: log_patterns at capacity, or NaN and the reason.

    For the classical network, `load` is the capacity over N.
    """
    lines = []
    for key, group in rows.groupby([*GROUP, "seed"], sort=False, dropna=False):
        line = dict(zip([*GROUP, "seed"], key, strict=True))
        level, refused = LEVELS[line["part"]], group.reason.dropna()
        own = group[group.error.notna()].sort_values("patterns")
        line["log_patterns"] = crossing(list(own.patterns), list(own.error), level) if len(own) else math.nan
        is_classical = line["part"] == CLASSICAL
        line["load"] = math.exp(line["log_patterns"]) / line["size"] if is_classical else math.nan
        line["reason"] = None
        if math.isnan(line["log_patterns"]):
            is_below = len(own) > 0 and own.error.min() <= level
            line["reason"] = refused.iloc[0] if len(refused) else ABOVE if is_below else BELOW
        lines.append(line)
    return pd.DataFrame(lines)


def summary(rows: pd.DataFrame, settings: CapacitySettings) -> pd.DataFrame:
    """Return one line per GROUP: the capacity with its interval, and what theory predicts.

    capacity: load P / N of the classical network and log P of the modern one, mean over seeds; P of the
    others, geometric mean. NaN if a seed has none. is_theory_inside: of the interval; None without a theory
    or interval.
    """
    lines = []
    for key, group in capacities(rows).groupby(GROUP, sort=False, dropna=False):
        line: dict[str, Any] = dict(zip(GROUP, key, strict=True))
        values = group.load if line["part"] == CLASSICAL else group.log_patterns
        numbers = [values.mean(skipna=False), *confidence_interval(values)]
        if line["part"] == PREDICTIVE:
            numbers = [math.exp(value) for value in numbers]
        capacity, low, high = numbers
        theory = theory_of(line, settings)
        reasons = group.reason.dropna()
        line |= {
            "level": LEVELS[line["part"]],
            "seeds": len(group),
            "reached": int(len(group) - len(reasons)),
        }
        line |= {"capacity": capacity, "low": low, "high": high, "theory": theory}
        known = not (math.isnan(low) or math.isnan(theory))
        line["is_theory_inside"] = bool(low <= theory <= high) if known else None
        lines.append(line | {"reason": reasons.iloc[0] if len(reasons) else None})
    return pd.DataFrame(lines)


def theory_of(line: dict[str, Any], settings: CapacitySettings) -> float:
    """Return the theoretical capacity of a group, in the unit of `summary`; NaN without a theory."""
    if line["part"] == CLASSICAL and line["rule"] == HEBBIAN:
        level = LEVELS[CLASSICAL]
        return critical_load() if line["cue"] == PATTERN else load_at(level, clamped=0.5)
    if line["part"] == MODERN:
        return log_patterns(int(line["size"]), settings.noise, LEVELS[MODERN])
    return math.nan


def growths(rows: pd.DataFrame, settings: CapacitySettings) -> list[Growth]:
    """Return how capacities grow: with N to infinity, with the known entries, and with the hidden units."""
    found, made = capacities(rows), []
    own = found[(found.part == CLASSICAL) & (found["rule"] == HEBBIAN) & (found.cue == PATTERN)]
    name = "load P / N, extrapolated to 1 / N = 0"
    made += _grown(own, CLASSICAL, name, lambda g: (1 / g["size"], g.load), 1, critical_load())
    own = found[found.part == MODERN]
    sizes = sorted(own["size"].unique())
    expected = [log_patterns(int(size), settings.noise, LEVELS[MODERN]) for size in sizes]
    theory = float(np.polyfit(sizes, expected, 1)[0]) if len(sizes) > 1 else math.nan
    name = "log P per known entry"
    made += _grown(own, MODERN, name, lambda g: (g["size"], g.log_patterns), 0, theory)
    for memory, own in found[found.part == PREDICTIVE].groupby("memory", sort=False):
        name = "exponent b of P ~ hidden^b"
        made += _grown(
            own, str(memory), name, lambda g: (np.log(g.hidden.astype(float)), g.log_patterns), 0, math.nan
        )
    return made


def _grown(lines: pd.DataFrame, memory: str, name: str, of: Any, number: int, theory: float) -> list[Growth]:
    """Return a line's coefficient (0: slope, 1: intercept) by seed, over the sizes that all seeds reach."""
    counts = lines.dropna(subset="log_patterns").groupby(["size", "hidden"], dropna=False).seed.nunique()
    reached = counts[counts == lines.seed.nunique()].index
    keys = lines.set_index(["size", "hidden"]).index
    chosen = lines[keys.isin(reached)]
    if len(reached) < 2:
        return []
    values = []
    for _, group in chosen.groupby("seed", sort=False):
        x, y = of(group)
        values.append(float(np.polyfit(x, y, 1)[number]))
    return [Growth(memory, name, values, theory)]


# --- tables ----------------------------------------------------------------------------------------------


def tables(rows: pd.DataFrame, settings: CapacitySettings) -> list[Table]:
    """Return a table of capacities and one of their growth."""
    return [_capacity_table(summary(rows, settings), settings), _growth_table(growths(rows, settings))]


def write_capacity_tables(
    rows: pd.DataFrame, settings: CapacitySettings, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write capacity.csv (the summary), .md and .tex and return the paths. config: the grid's hash."""
    origin, made = lineage(rows, config), tables(rows, settings)
    text = "\n".join(f"- {sentence}" for sentence in sentences(rows, settings))
    contents = {
        "csv": csv_text(summary(rows, settings), origin),
        "md": markdown_text(f"# {TITLE}\n\n{text}\n\n" + "\n".join(map(to_markdown, made)), origin),
        "tex": latex_text("% needs booktabs\n" + "\n".join(map(to_latex, made)), origin),
    }
    for kind, content in contents.items():
        write_text(Path(folder) / f"capacity.{kind}", content)
    return [Path(folder) / f"capacity.{kind}" for kind in contents]


TITLE = "How many patterns do associative memories hold?"


def _capacity_table(lines: pd.DataFrame, settings: CapacitySettings) -> Table:
    body: list[list[Item]] = []
    breaks: list[int] = []
    for line in lines.to_dict("records"):
        if body and body[-1][0].text != line["memory"]:
            breaks.append(len(body))
        size = f"{int(line['hidden'])} hidden" if line["part"] == PREDICTIVE else str(line["size"])
        body.append(
            [
                Item(line["memory"]),
                Item(_kind(line)),
                Item(size),
                Item(_capacity_text(line), None if math.isnan(line["capacity"]) else line["capacity"]),
                Item(DASH if math.isnan(line["theory"]) else f"{line['theory']:.3f}"),
                Item({True: "inside", False: "outside", None: DASH}[line["is_theory_inside"]]),
            ]
        )
    caption = [
        "Where the error rises above a level as more patterns are stored, mean over "
        f"{lines.seeds.max()} seeds [95 % Student-t interval]",
        f"Classical network: load P / N at which {100 * LEVELS[CLASSICAL]:g} % of the free units are wrong",
        f"Modern network: log P at which half of the cues fail, with noise {settings.noise:g} on all known "
        "entries",
        f"Others: P at which the relative error of the missing half of {settings.entries} entries is "
        f"{LEVELS[PREDICTIVE]:g}, geometric mean",
        "Theory: mean field for infinite N, which finite networks exceed; decoding of a random code for the "
        "same number of entries",
    ]
    header = ["Memory", "Cue", "size", "capacity", "theory", "theory is"]
    return Table(TITLE, ". ".join(caption) + ".", [("", len(header))], header, body, breaks, 2)


def _kind(line: dict[str, Any]) -> str:
    if line["part"] == CLASSICAL:
        return f"{RULES[line['rule']]}, {CUES[line['cue']]}"
    return "known entries with noise" if line["part"] == MODERN else "half known"


def _capacity_text(line: dict[str, Any]) -> str:
    if math.isnan(line["capacity"]):
        return f"{line['reason']} ({line['reached']} of {line['seeds']} seeds)"
    digits = {CLASSICAL: 3, MODERN: 2, PREDICTIVE: 1}[line["part"]]
    return interval_of(line["capacity"], line["low"], line["high"], digits)


def interval_of(mean: float, low: float, high: float, digits: int) -> str:
    """Return `0.139 [0.136, 0.143]`, without an interval for NaN ends."""
    ends = "" if math.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{mean:.{digits}f}{ends}"


def _growth_table(found: list[Growth]) -> Table:
    body = [
        [
            Item(one.memory),
            Item(one.name),
            Item(interval_of(one.mean, *one.interval, 3), one.mean),
            Item(DASH if math.isnan(one.theory) else f"{one.theory:.3f}"),
        ]
        for one in found
    ]
    caption = (
        "Straight lines through the capacities of all sizes that every seed reaches, fitted per seed: mean "
        "[95 % Student-t interval]. Theory: the limit, or the same fit to the theoretical capacities."
    )
    header = ["Memory", "Number", "measured", "theory"]
    return Table("Growth of the capacity", caption, [("", len(header))], header, body, [], 2)


# --- sentences -------------------------------------------------------------------------------------------


def sentences(rows: pd.DataFrame, settings: CapacitySettings) -> list[str]:
    """Return where every memory collapses, against theory, and how that grows."""
    lines = summary(rows, settings)
    texts = [_classical(lines), _projection(lines), _modern(lines, settings)]
    groups = lines[lines.part == PREDICTIVE].groupby("memory", sort=False)
    texts += [_predictive(str(name), own) for name, own in groups]
    for one in growths(rows, settings):
        text = f"{one.memory}: {one.name} is {interval_of(one.mean, *one.interval, 3)}"
        if not math.isnan(one.theory):
            text += f", theory {one.theory:.3f} ({_position(one.theory, *one.interval)})"
        elif not math.isnan(one.interval[0]):
            text += f"; proportional (1) is {_position(1.0, *one.interval)}"
        texts.append(f"{text}.")
    return [text for text in texts if text]


def _position(value: float, low: float, high: float) -> str:
    if math.isnan(low):
        return "no interval"
    return "not told apart" if low <= value <= high else "outside the interval"


def _classical(lines: pd.DataFrame) -> str:
    parts = []
    for cue in (PATTERN, HALF):
        own = lines[(lines.part == CLASSICAL) & (lines["rule"] == HEBBIAN) & (lines.cue == cue)]
        texts = [f"N = {line['size']} {_capacity_text(line)}" for line in own.to_dict("records")]
        if texts:
            parts.append(f"{CUES[cue]}: {', '.join(texts)} (theory {own.theory.iloc[0]:.3f})")
    if not parts:
        return ""
    return (
        f"Classical Hopfield network, Hebbian rule, load P / N at which {100 * LEVELS[CLASSICAL]:g} % of the "
        f"free units are wrong; {'; '.join(parts)}."
    )


def _projection(lines: pd.DataFrame) -> str:
    own = lines[(lines.part == CLASSICAL) & (lines["rule"] == PROJECTION)]
    if not len(own):
        return ""
    line = own.to_dict("records")[0]
    return (
        f"The projection rule, {CUES[HALF]}, reaches the same share at a load of {_capacity_text(line)} (N = "
        f"{line['size']})."
    )


def _modern(lines: pd.DataFrame, settings: CapacitySettings) -> str:
    own = lines[lines.part == MODERN]
    if not len(own):
        return ""
    texts = [
        f"{line['size']} known entries {_capacity_text(line)} (theory {line['theory']:.2f})"
        for line in own.to_dict("records")
    ]
    return (
        f"Modern Hopfield network, noise {settings.noise:g}, log P at which half of the cues fail: "
        f"{', '.join(texts)}; for many entries Shannon's limit is {shannon(settings.noise):.3f} per entry."
    )


def _predictive(memory: str, own: pd.DataFrame) -> str:
    texts = [f"{int(line['hidden'])} units {_capacity_text(line)}" for line in own.to_dict("records")]
    level = LEVELS[PREDICTIVE]
    return f"{memory}, patterns at which the relative error crosses {level:g}: {', '.join(texts)}."
