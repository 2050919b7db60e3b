"""Tables and sentences of the study `capacity`: capacities, what theory says, and their growth.

A capacity is where the error crosses a level, and depends on the level. It is computed per seed, by
interpolation between the measured numbers of patterns. Its Student-t interval is over seeds and does not
cover the spacing of these numbers. Where all seeds cross in the same step between two of them, the step is
given.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from sharc_core.common.formats import DASH
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.statistics import confidence_interval
from sharc_core.results.table_formats import Item, Table
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
from sharc_core.studies.measured_tables import write_measured_tables

LEVELS = {CLASSICAL: 0.03, MODERN: 0.5, PREDICTIVE: 0.5}  # of the error at capacity
# In theory the error jumps at the critical load, so that all levels from 0.016 on have the same capacity.
# Finite networks lose more and more patterns around it, and their capacity depends on the level.
OTHER_LEVELS = (0.016, 0.1, 0.15)
GROUP = ["part", "memory", "rule", "cue", "size", "hidden"]
RULES = {HEBBIAN: "Hebbian rule", PROJECTION: "projection rule"}
CUES = {PATTERN: "from the pattern, all units free", HALF: "half known and held"}
BELOW, ABOVE = "error above the level", "not reached"  # why there is no capacity
HIGH_BEFORE = "*"  # marks capacities with an error above the level for fewer patterns


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


@dataclass(frozen=True)
class Crossing:
    """Where errors cross a level. log_patterns: log P, between the measured numbers `lower` and `upper`.

    is_high_before: the error is above the level for fewer patterns, too. NaN if there is no crossing.
    """

    log_patterns: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    is_high_before: bool = False


def crossing(patterns: Sequence[float], errors: Sequence[float], level: float) -> Crossing:
    """Return where errors rise above a level, by interpolation in log P.

    patterns: rising. From the smallest error on, errors are replaced by the rising sequence that is nearest
    in squares, so that noise does not make several crossings. There is none if the smallest error is above
    the level, or the last of the sequence below it.
    """
    first = int(np.argmin(errors))
    counts = [float(count) for count in patterns[first:]]
    risen = scipy.optimize.isotonic_regression(errors[first:]).x
    if risen[0] > level or risen[-1] <= level:
        return Crossing()
    last = int(np.flatnonzero(risen <= level)[-1])
    share = (level - risen[last]) / (risen[last + 1] - risen[last])
    low, high = math.log(counts[last]), math.log(counts[last + 1])
    is_high_before = any(error > level for error in errors[:first])
    return Crossing(float(low + share * (high - low)), counts[last], counts[last + 1], is_high_before)


def capacities(rows: pd.DataFrame, level: float | None = None) -> pd.DataFrame:
    """Return one line per GROUP and seed: the fields of its Crossing, or NaN and the reason.

    For the classical network, `load` is the capacity over N. level: of the error, instead of LEVELS.
    """
    lines = []
    for key, group in rows.groupby([*GROUP, "seed"], sort=False, dropna=False):
        line = dict(zip([*GROUP, "seed"], key, strict=True))
        at, refused = level or LEVELS[line["part"]], group.reason.dropna()
        own = group[group.error.notna()].sort_values("patterns")
        line |= asdict(crossing(list(own.patterns), list(own.error), at) if len(own) else Crossing())
        is_classical = line["part"] == CLASSICAL
        line["load"] = math.exp(line["log_patterns"]) / line["size"] if is_classical else math.nan
        line["reason"] = None
        if math.isnan(line["log_patterns"]):
            is_below = len(own) > 0 and own.error.min() <= at
            line["reason"] = refused.iloc[0] if len(refused) else ABOVE if is_below else BELOW
        lines.append(line)
    return pd.DataFrame(lines)


def summary(rows: pd.DataFrame, settings: CapacitySettings) -> pd.DataFrame:
    """Return one line per GROUP: the capacity with its interval, and what theory predicts.

    capacity: load P / N of the classical network and log P of the modern one, mean over seeds; P of the
    others, geometric mean. NaN if a seed has none. step_low, step_high: the measured numbers around it, in
    the same unit, NaN unless all seeds have the same. high_before: seeds with an error above the level for
    fewer patterns. is_theory_inside: of the interval; None without a theory or interval.
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
        line["high_before"] = int(group.is_high_before.sum())
        line["step_low"], line["step_high"] = _common_step(group, line)
        line |= {"capacity": capacity, "low": low, "high": high, "theory": theory}
        known = not (math.isnan(low) or math.isnan(theory))
        line["is_theory_inside"] = bool(low <= theory <= high) if known else None
        lines.append(line | {"reason": reasons.iloc[0] if len(reasons) else None})
    return pd.DataFrame(lines)


def _common_step(group: pd.DataFrame, line: dict[str, Any]) -> tuple[float, float]:
    """Return the step in which all seeds cross the level, in the unit of the capacity, or NaN."""
    if group.lower.isna().any() or group.lower.nunique() > 1 or group.upper.nunique() > 1:
        return math.nan, math.nan
    low, high = float(group.lower.iloc[0]), float(group.upper.iloc[0])
    if line["part"] == CLASSICAL:
        return low / line["size"], high / line["size"]
    return (math.log(low), math.log(high)) if line["part"] == MODERN else (low, high)


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
    made += _extrapolated(own, LEVELS[CLASSICAL], critical_load())
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


def other_levels(rows: pd.DataFrame) -> list[Growth]:
    """Return the load of infinitely many free units at OTHER_LEVELS of the error."""
    own = rows[(rows.part == CLASSICAL) & (rows["rule"] == HEBBIAN) & (rows.cue == PATTERN)]
    if not len(own):
        return []
    return [
        growth
        for level in OTHER_LEVELS
        for growth in _extrapolated(capacities(own, level), level, load_at(level))
    ]


def _extrapolated(lines: pd.DataFrame, level: float, theory: float) -> list[Growth]:
    name = f"load P / N at {100 * level:g} %, extrapolated to 1 / N = 0"
    return _grown(lines, CLASSICAL, name, lambda g: (1 / g["size"], g.load), 1, theory)


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
    return [
        _capacity_table(summary(rows, settings), settings),
        _growth_table(growths(rows, settings) + other_levels(rows)),
    ]


def write_capacity_tables(
    rows: pd.DataFrame, settings: CapacitySettings, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write capacity.csv (the summary), .md and .tex and return the paths. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "capacity",
        folder,
        origin,
        TITLE,
        summary(rows, settings),
        sentences(rows, settings),
        tables(rows, settings),
    )


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
                Item(_step_text(line) or DASH),
                Item(DASH if math.isnan(line["theory"]) else f"{line['theory']:.3f}"),
                Item({True: "inside", False: "outside", None: DASH}[line["is_theory_inside"]]),
            ]
        )
    caption = [
        "Where the error rises above a level as more patterns are stored, mean over "
        f"{lines.seeds.max()} seeds [95 % Student-t interval]. The interval covers seeds, not the spacing of "
        "the measured numbers of patterns; step: the two of them around the crossing, if equal for all seeds",
        f"{HIGH_BEFORE}: with at least one seed the error is above the level for fewer patterns, too",
        f"Classical network: load P / N at which {100 * LEVELS[CLASSICAL]:g} % of the free units are wrong",
        f"Modern network: log P at which half of the cues fail, with noise {settings.noise:g} on all known "
        "entries",
        f"Others: P at which the relative error of the missing half of {settings.entries} entries is "
        f"{LEVELS[PREDICTIVE]:g}, geometric mean",
        "Theory: mean field for infinite N, where the error jumps at the critical load; finite networks have "
        "a load that depends on the level. Modern network: decoding of a random code for the "
        "same number of entries",
    ]
    header = ["Memory", "Cue", "size", "capacity", "step", "theory", "theory is"]
    return Table(TITLE, ". ".join(caption) + ".", [("", len(header))], header, body, breaks, 2)


def _kind(line: dict[str, Any]) -> str:
    if line["part"] == CLASSICAL:
        return f"{RULES[line['rule']]}, {CUES[line['cue']]}"
    return "known entries with noise" if line["part"] == MODERN else "half known"


def _capacity_text(line: dict[str, Any]) -> str:
    if math.isnan(line["capacity"]):
        return f"{line['reason']} ({line['reached']} of {line['seeds']} seeds)"
    digits = {CLASSICAL: 3, MODERN: 2, PREDICTIVE: 1}[line["part"]]
    mark = HIGH_BEFORE if line["high_before"] else ""
    return interval_of(line["capacity"], line["low"], line["high"], digits) + mark


def _step_text(line: dict[str, Any]) -> str:
    """Return `0.52 to 0.54`, or nothing without a common step."""
    if math.isnan(line["step_low"]):
        return ""
    return f"{line['step_low']:.3g} to {line['step_high']:.3g}"


def _stepped_text(line: dict[str, Any]) -> str:
    step = _step_text(line)
    return _capacity_text(line) + (f" in the step {step}" if step else "")


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
    """Return where the error of every memory crosses its level, against theory, and how that grows."""
    lines = summary(rows, settings)
    texts = [_classical(lines), _projection(lines), _modern(lines, settings)]
    groups = lines[lines.part == PREDICTIVE].groupby("memory", sort=False)
    texts += [_predictive(str(name), own) for name, own in groups]
    for one in growths(rows, settings) + other_levels(rows):
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
            outside = ", ".join(map(str, own[own.is_theory_inside.eq(False)]["size"]))
            theory = f"theory {own.theory.iloc[0]:.3f}" + (
                f", outside the interval for N = {outside}" if outside else ""
            )
            parts.append(f"{CUES[cue]}: {', '.join(texts)} ({theory})")
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
        f"The projection rule, {CUES[HALF]}, reaches the same share at a load of {_stepped_text(line)} (N = "
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
    texts = [f"{int(line['hidden'])} units {_stepped_text(line)}" for line in own.to_dict("records")]
    level = LEVELS[PREDICTIVE]
    text = f"{memory}, patterns at which the relative error crosses {level:g}: {', '.join(texts)}."
    is_marked = any(HIGH_BEFORE in one for one in texts)
    return text + (f" {HIGH_BEFORE}: it is above {level:g} for fewer patterns, too." if is_marked else "")
