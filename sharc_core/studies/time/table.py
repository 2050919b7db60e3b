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
COSTS = ["training_seconds", "clock_seconds", "joules", "peak_memory", "memory_growth"]
NOT_MEASURED = "not measured"


def with_totals(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with `training_seconds`, the CPU seconds of all phases except testing."""
    return rows.assign(training_seconds=rows[[SECONDS[name] for name in TRAINING]].sum(axis=1))


def label(row: pd.Series, rows: pd.DataFrame) -> str:
    """Return what a cell is called: its method, and with SHARC the memory and what else differs."""
    if row.variant == "plain":
        return method_name(row.method)
    parts = [row.associative_memory]
    parts += [row.saliency] if rows.saliency.dropna().nunique() > 1 else []
    return f"{method_name(row.method)} + {', '.join(parts)}"


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per cell: means and sample deviations over its runs, and the ratio to the plain cell.

    ratio: the geometric mean over repeats of SHARC's training time (CPU seconds without testing) over that of
    the plain cell of the same method, the geometric mean of its runs in the same repeat; low, high: its 95 %
    Student-t interval, computed of the logarithms. added_<phase>: mean CPU seconds that SHARC adds in a
    phase. NaN for plain cells. counted: runs behind the means.
    """
    rows, lines = with_totals(rows), []
    for place, group in rows.groupby(PLACE, sort=False):
        for cell, own in group.groupby("cell", sort=False):
            first = own.iloc[0]
            line = dict(zip(PLACE, place, strict=True)) | {"cell": cell, "label": label(first, group)}
            line |= {name: first[name] for name in ("method", "variant", "associative_memory", "saliency")}
            line |= {name: first[name] for name in ("theta", "buffer", "runs", "samples_stored")}
            line |= {"repeats": own.repeat.nunique(), "counted": len(own)}
            line |= {"kept_bytes": own.kept_bytes.max()}
            for name in (*SECONDS.values(), *COSTS):
                line |= {f"{name}_mean": own[name].mean(skipna=False), f"{name}_std": own[name].std(ddof=1)}
            plain = group[(group.method == first.method) & (group.variant == "plain")]
            line |= _compared(own, plain if first.variant == "sharc" else plain[:0])
            lines.append(line)
    return pd.DataFrame(lines)


def _compared(own: pd.DataFrame, plain: pd.DataFrame) -> dict[str, float]:
    """Return ratio, low and high of a SHARC cell, and the seconds that it adds; NaN without plain rows."""
    names = ["ratio", "low", "high", *(f"added_{name}" for name in TRAINING)]
    logs = (_log_seconds(own) - _log_seconds(plain)).dropna()
    if not len(logs):
        return dict.fromkeys(names, math.nan)
    values = [math.exp(value) for value in (logs.mean(), *confidence_interval(logs))]
    values += [own[SECONDS[name]].mean() - plain[SECONDS[name]].mean() for name in TRAINING]
    return dict(zip(names, values, strict=True))


def _log_seconds(rows: pd.DataFrame) -> pd.Series:
    """Return the mean logarithm of the training seconds of the runs of every repeat."""
    return np.log(rows.training_seconds).groupby(rows.repeat).mean()


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
    costs = ["clock, ms", "J", "peak", "growth", "kept"]
    header = ["Cell", "training, ms", "SHARC / plain", *(f"{name}, ms" for name in PHASES), *costs]
    body = []
    for line in lines.itertuples():
        items = [Item(line.label), _milliseconds(line, "training_seconds"), Item(ratio_text(line))]
        items += [_milliseconds(line, name, std=False) for name in SECONDS.values()]
        items += [_milliseconds(line, "clock_seconds", std=False), _joules(line)]
        items += [_bytes(getattr(line, f"{name}_mean")) for name in ("peak_memory", "memory_growth")]
        body.append([*items, _bytes(line.kept_bytes)])
    runs = int(lines.runs.iloc[0])
    parts = [
        f"Means over {settings.repeats} repeats, with {settings.plain_runs} run(s) of a plain cell in each "
        f"(training ± sample standard deviation over runs), of cells with {runs} "
        f"seed{'s' if runs > 1 else ''} and buffer {settings.buffer}, theta {settings.theta:g}, on one "
        "thread, one after the other in an order drawn for every repeat",
        "Training and phases: CPU seconds of the process; training is all phases except testing",
        "SHARC / plain: geometric mean of the ratios of training times in the same repeat [95 % Student-t "
        "interval of the logarithms, not corrected for the number of cells]",
        "Storing: choosing, encoding and decoding samples. Clock: elapsed time of the run, testing included. "
        f"J: energy of the processor packages (RAPL), a dash where it was {NOT_MEASURED}",
        "Peak: largest resident memory of the process during the run, growth: above its size before the run. "
        "Kept: bytes that the runs hold, without the backbone",
    ]
    return Table(f"{place[0]}, {place[1]}", ". ".join(parts) + ".", [("", len(header))], header, body, [], 1)


def ratio_text(line) -> str:
    """Return the ratio of a summary's line with its interval, a dash for NaN."""
    return DASH if math.isnan(line.ratio) else f"{line.ratio:.2f} [{line.low:.2f}, {line.high:.2f}]"


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
    text = f"On {place[0]} ({place[1]}), SHARC multiplies the CPU time of training by {ratio_text(most)} "
    text += f"({most.label})" if len(compared) == 1 else f"at most ({most.label})"
    text += _where(most)
    if len(compared) > 1:
        text += f"; at least by {ratio_text(least)} ({least.label}){_where(least)}"
    if len(same):
        text += (
            f"; {len(same)} of {len(compared)} cells are not told apart from plain: {', '.join(same.label)}"
        )
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
