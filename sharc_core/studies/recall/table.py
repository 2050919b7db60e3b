"""The table of the recall study: each associative memory (AM) at the fixed mask, mean over seeds."""

from pathlib import Path

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.files import write_text
from sharc_core.common.formats import DASH, bytes_text, mean_text
from sharc_core.provenance.lineage import csv_text, latex_text, lineage, markdown_text
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.table_formats import Item, Table, to_latex, to_markdown
from sharc_core.studies.recall.measure import MEASURES
from sharc_core.studies.recall.settings import RecallSettings

PLACE = ["dataset", "backbone", "memory"]
NUMBERS = [*MEASURES, "state_bytes", "write_ms", "read_ms"]


def with_times(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with write_ms and read_ms, the times per map."""
    return rows.assign(
        write_ms=1000 * rows.write_seconds / rows.patterns, read_ms=1000 * rows.read_seconds / rows.maps_read
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation over seeds at the base point, or the reason why there are none.

    rows: with_times. One line per data set, backbone and AM, in the order of the rows.
    """
    base = rows[rows.sweep == "base"]
    lines = []
    for place, group in base.groupby(PLACE, sort=False):
        line = dict(zip(PLACE, place, strict=True))
        for name in NUMBERS:
            line |= {f"{name}_mean": group[name].mean(), f"{name}_std": group[name].std(ddof=1)}
        reasons = group.reason.dropna()
        lines.append({**line, "seeds": len(group), "reason": reasons.iloc[0] if len(reasons) else None})
    return pd.DataFrame(lines)


def write_recall_tables(
    rows: pd.DataFrame, settings: RecallSettings, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write recall.csv, .md and .tex and return the paths. rows: rows.read_rows. config: the grid's hash."""
    lines, origin = summary(with_times(rows)), lineage(rows, config)
    tables = [_table(group, place, settings) for place, group in lines.groupby(PLACE[:2], sort=False)]
    contents = {
        "csv": csv_text(lines, origin),
        "md": markdown_text("# Recall\n\n" + "\n".join(map(to_markdown, tables)), origin),
        "tex": latex_text("% needs booktabs\n" + "\n".join(map(to_latex, tables)), origin),
    }
    for kind, text in contents.items():
        write_text(Path(folder) / f"recall.{kind}", text)
    return [Path(folder) / f"recall.{kind}" for kind in contents]


def _table(lines: pd.DataFrame, place: tuple[str, str], settings: RecallSettings) -> Table:
    header = ["Memory", "relative error", "cosine", "nearest, %", "exact, %", "agreement, %"]
    header += ["bytes", "write ms/map", "read ms/map"]
    rows, notes = [], []
    for line in lines.itertuples():
        items = [Item(line.memory)]
        items += [_numbers(line, name, 3, 1) for name in ("relative_error", "cosine")]
        items += [_numbers(line, name, 1, 100) for name in ("nearest", "exact", "agreement")]
        items += [Item(bytes_text(line.state_bytes_mean), line.state_bytes_mean)]
        items += [_numbers(line, name, 3, 1) for name in ("write_ms", "read_ms")]
        rows.append(items)
        if line.reason is not None:
            notes.append(f"{line.memory}: {line.reason}")
    parts = [
        f"{settings.patterns} stored maps, read with {settings.theta:g} of their channels masked by "
        "saliency; mean ± sample standard deviation over seeds",
        "Relative error: squared error over the masked entries by that of the mean map",
        "Nearest: the recalled map is nearer to its own than to every other stored map. Exact: no masked "
        "entry is off by more than a thousandth of the deviation. Agreement: a head trained on all classes "
        "predicts the same from the recalled as from the true map",
        "Bytes: the memory's state. Times on one thread",
    ]
    return Table(f"{place[0]}, {place[1]}", ". ".join(parts + notes) + ".", [("", 9)], header, rows, [], 1)


def _numbers(line, name: str, digits: int, factor: float) -> Item:
    mean, std = (getattr(line, f"{name}_{part}") * factor for part in ("mean", "std"))
    if pd.isna(mean):
        return Item(DASH)
    if digits == 3 and mean >= 100:  # milliseconds, or an error that left the scale
        return Item(mean_text(mean, std), mean)
    return Item(f"{mean:.{digits}f} ± {DASH if pd.isna(std) else f'{std:.{digits}f}'}", mean)
