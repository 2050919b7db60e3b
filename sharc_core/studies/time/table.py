"""Tables and sentences of the study `time`: seconds by phase, and ratios of SHARC to plain."""

import math
from pathlib import Path

import numpy as np

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.formats import DASH, bytes_text
from sharc_core.common.phases import PHASES, TESTING
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import method_name
from sharc_core.results.statistics import confidence_interval
from sharc_core.results.table_formats import Item, Table
from sharc_core.studies.measured_tables import write_measured_tables
from sharc_core.studies.time.settings import SECONDS, TimeSettings

PLACE = ["dataset", "backbone"]
TRAINING = [name for name in PHASES if name != TESTING]  # phases that are part of the training time
COSTS = ["training_seconds", "cpu_seconds", "joules", "peak_memory", "memory_growth"]
NOT_MEASURED = "not measured"


def with_totals(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with `training_seconds`, those without testing, and `cpu_seconds`, user plus system."""
    training = rows[[SECONDS[name] for name in TRAINING]].sum(axis=1)
    return rows.assign(training_seconds=training, cpu_seconds=rows.user_seconds + rows.system_seconds)


def label(row: pd.Series, rows: pd.DataFrame) -> str:
    """Return what a cell is called: its method, and with SHARC the memory and what else differs."""
    if row.variant == "plain":
        return method_name(row.method)
    parts = [row.associative_memory]
    parts += [row.saliency] if rows.saliency.dropna().nunique() > 1 else []
    return f"{method_name(row.method)} + {', '.join(parts)}"


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per cell: means and sample deviations over repeats, and the ratio to the plain cell.

    ratio: the geometric mean over repeats of SHARC's training time over that of the plain cell of the same
    method in the same repeat; low, high: its 95 % Student-t interval, computed of the logarithms.
    cpu_ratio, cpu_low, cpu_high: the same of the CPU seconds of the run, testing included, which do not count
    the time that other work on the machine takes. added_<phase>: mean seconds that SHARC adds in a phase. NaN
    for plain cells.
    """
    rows, lines = with_totals(rows), []
    for place, group in rows.groupby(PLACE, sort=False):
        for cell, own in group.groupby("cell", sort=False):
            first = own.iloc[0]
            line = dict(zip(PLACE, place, strict=True)) | {"cell": cell, "label": label(first, group)}
            line |= {name: first[name] for name in ("method", "variant", "associative_memory", "saliency")}
            line |= {name: first[name] for name in ("theta", "buffer", "runs", "samples_stored")}
            line |= {"repeats": len(own), "kept_bytes": own.kept_bytes.max()}
            for name in (*SECONDS.values(), *COSTS):
                line |= {f"{name}_mean": own[name].mean(skipna=False), f"{name}_std": own[name].std(ddof=1)}
            plain = group[(group.method == first.method) & (group.variant == "plain")]
            line |= _compared(own, plain if first.variant == "sharc" else plain[:0])
            lines.append(line)
    return pd.DataFrame(lines)


def _compared(own: pd.DataFrame, plain: pd.DataFrame) -> dict[str, float]:
    """Return ratio, low and high of a SHARC cell, and the seconds that it adds; NaN without plain rows."""
    names = ["ratio", "low", "high", "cpu_ratio", "cpu_low", "cpu_high"]
    names += [f"added_{name}" for name in TRAINING]
    pairs = own.merge(plain, on="repeat", suffixes=("", "_plain"))
    if not len(pairs):
        return dict.fromkeys(names, math.nan)
    values = []
    for name in ("training_seconds", "cpu_seconds"):
        logs = np.log(pairs[name] / pairs[f"{name}_plain"])
        values += [math.exp(value) for value in (logs.mean(), *confidence_interval(logs))]
    values += [(pairs[SECONDS[name]] - pairs[f"{SECONDS[name]}_plain"]).mean() for name in TRAINING]
    return dict(zip(names, values, strict=True))


def tables(rows: pd.DataFrame, settings: TimeSettings) -> list[Table]:
    """Return a table per data set and backbone."""
    groups = summary(rows).groupby(PLACE, sort=False)
    return [_table(lines, place, settings) for place, lines in groups]


def write_time_tables(
    rows: pd.DataFrame, settings: TimeSettings, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write time.csv, .md and .tex and return the paths. rows: of the jobs. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "time",
        folder,
        origin,
        "Training time and memory",
        summary(rows),
        sentences(rows),
        tables(rows, settings),
    )


def _table(lines: pd.DataFrame, place: tuple[str, str], settings: TimeSettings) -> Table:
    costs = ["CPU, ms", "J", "peak", "growth", "kept"]
    header = [
        "Cell",
        "training, ms",
        "SHARC / plain",
        "of CPU time",
        *(f"{name}, ms" for name in PHASES),
        *costs,
    ]
    body = []
    for line in lines.itertuples():
        ratios = [Item(ratio_text(line, kind)) for kind in ("", "cpu_")]
        items = [Item(line.label), _milliseconds(line, "training_seconds"), *ratios]
        items += [_milliseconds(line, name, std=False) for name in SECONDS.values()]
        items += [_milliseconds(line, "cpu_seconds", std=False), _joules(line)]
        items += [_bytes(getattr(line, f"{name}_mean")) for name in ("peak_memory", "memory_growth")]
        body.append([*items, _bytes(line.kept_bytes)])
    runs = int(lines.runs.iloc[0])
    parts = [
        f"Means over {settings.repeats} repeats (training ± sample standard deviation) of cells with "
        f"{runs} run{'s' if runs > 1 else ''} and buffer {settings.buffer}, theta {settings.theta:g}, on one "
        "thread, one after the other",
        "Training is the time of all phases except testing. SHARC / plain: geometric mean of the ratios of "
        "training times in the same repeat [95 % Student-t interval of the logarithms]; of CPU time: "
        "of the run's CPU time, which other work on the machine does not lengthen",
        "Storing: choosing, encoding and decoding samples. CPU: user and system seconds of the process. "
        f"J: energy of the processor packages (RAPL), a dash where it was {NOT_MEASURED}",
        "Peak: largest resident memory of the process during the run, growth: above its size before the run. "
        "Kept: bytes that the runs hold, without the backbone",
    ]
    return Table(f"{place[0]}, {place[1]}", ". ".join(parts) + ".", [("", len(header))], header, body, [], 1)


def ratio_text(line, kind: str = "") -> str:
    """Return a ratio of a summary's line with its interval, a dash for NaN. kind: "cpu_" for CPU seconds."""
    ratio, low, high = (getattr(line, f"{kind}{name}") for name in ("ratio", "low", "high"))
    return DASH if math.isnan(ratio) else f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def _milliseconds(line, name: str, std: bool = True) -> Item:
    mean, deviation = (1000 * getattr(line, f"{name}_{part}") for part in ("mean", "std"))
    return Item(f"{mean:.1f} ± {deviation:.1f}" if std else f"{mean:.1f}", mean)


def _joules(line) -> Item:
    return Item(DASH) if math.isnan(line.joules_mean) else Item(f"{line.joules_mean:.2f}", line.joules_mean)


def _bytes(count: float) -> Item:
    return Item(bytes_text(count), count)


def sentences(rows: pd.DataFrame) -> list[str]:
    """Return what SHARC adds per data set and backbone, and whether energy was measured."""
    lines = summary(rows)
    texts = [_finding(group, place) for place, group in lines.groupby(PLACE, sort=False)]
    texts.append(_energy(lines))
    return texts


def _finding(lines: pd.DataFrame, place: tuple[str, str]) -> str:
    compared = lines[lines.ratio.notna()]
    least, most = compared.loc[compared.ratio.idxmin()], compared.loc[compared.ratio.idxmax()]
    same = compared[(compared.low <= 1) & (compared.high >= 1)]
    text = f"On {place[0]} ({place[1]}), SHARC multiplies the training time by {ratio_text(most)} "
    text += f"({most.label})" if len(compared) == 1 else f"at most ({most.label})"
    text += f", its CPU time by {ratio_text(most, 'cpu_')}{_where(most)}"
    if len(compared) > 1:
        text += (
            f"; at least by {ratio_text(least)} ({least.label}), its CPU time by {ratio_text(least, 'cpu_')}"
        )
        text += _where(least)
    if len(same):
        text += f"; {len(same)} of {len(compared)} cells are not told apart from plain"
    return f"{text}."


def _where(line: pd.Series) -> str:
    """Return which phase adds most, and how much of the added seconds; empty if SHARC adds none."""
    added = {name: line[f"added_{name}"] for name in TRAINING}
    total, largest = sum(added.values()), max(added, key=added.__getitem__)
    if total <= 0 or line.low <= 1:
        return ""
    return f", most of it in {largest} ({100 * added[largest] / total:.0f} % of {1000 * total:.0f} ms)"


def _energy(lines: pd.DataFrame) -> str:
    measured = lines[lines.joules_mean.notna()]
    if not len(measured):
        return f"Energy was {NOT_MEASURED}: the processors' energy counters (RAPL) cannot be read here."
    means = measured.groupby("variant").joules_mean.mean()
    parts = [f"{means[name]:.2f} J ({name})" for name in ("plain", "sharc") if name in means]
    return f"A cell took {' and '.join(parts)} on average, all work of the processors included."
