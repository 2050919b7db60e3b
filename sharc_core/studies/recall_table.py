"""The recall study's table: each associative memory at the fixed mask, mean and deviation over seeds."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sharc_core.common.errors import UserError
from sharc_core.common.files import write_text
from sharc_core.common.formats import DASH, bytes_text, mean_text
from sharc_core.grid.recall_settings import RecallStudy
from sharc_core.provenance.lineage import FIELDS, csv_text, latex_text, lineage, markdown_text, origin_fields
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.table_formats import Item, Table, to_latex, to_markdown
from sharc_core.studies.recall import COLUMNS, MEASURES

KEY = "key"  # column of recall_key
PLACE = ["dataset", "backbone", "memory"]
TEXT = ("dataset", "backbone", "memory", "sweep", "mask", "reason")
TYPES = dict.fromkeys(TEXT, "str") | {"seed": "int64", "forgetting": "boolean"} | FIELDS | {KEY: "str"}
NUMBERS = [*MEASURES, "state_bytes", "write_ms", "read_ms"]


def is_measured(path: Path | str, key: str) -> bool:
    """Whether a file has rows, and all are of this key."""
    try:
        with open(path, encoding="utf-8", newline="") as lines:
            keys = {row.get(KEY) for row in csv.DictReader(lines)}
    except (OSError, ValueError, csv.Error):
        return False
    return keys == {key}


def write_rows(frame: pd.DataFrame, path: Path | str, made_by: Mapping[str, Any], key: str) -> None:
    """One job's rows as CSV, at full precision. made_by: `origin`, `versions`. key: jobs.recall_key."""
    rows = frame.assign(**origin_fields(made_by), **{KEY: key})[[*COLUMNS, *FIELDS, KEY]]
    write_text(path, rows.to_csv(index=False, lineterminator="\n"))


def read_rows(paths: Sequence[Path | str], keys: Sequence[str]) -> pd.DataFrame:
    """All jobs' rows in one frame, in the order of the files, with write_ms and read_ms per map.

    keys: what the grid wants of each file. Raises UserError for a damaged file, or one of another grid.
    """
    if not paths:
        raise UserError(
            "nothing to recall: every backbone of the grid drifts, and its maps differ from seed to seed; "
            "use batch_norm frozen or adapted"
        )
    frames = []
    for path, key in zip(paths, keys, strict=True):
        try:
            frames.append(pd.read_csv(path, dtype=dict.fromkeys(COLUMNS, "float64") | TYPES))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): delete it and run again") from None
        if tuple(frames[-1].columns) != (*COLUMNS, *FIELDS, KEY):
            raise UserError(f"{path} has other columns than the recall study: delete it and run again")
        if set(frames[-1][KEY]) != {key}:
            raise UserError(
                f"{path} is not this grid's (it was measured with other settings, code or features): run "
                "snakemake again, or delete it"
            )
    rows = pd.concat(frames, ignore_index=True)
    return rows.assign(
        write_ms=1000 * rows.write_seconds / rows.patterns, read_ms=1000 * rows.read_seconds / rows.maps_read
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The base point's numbers, <name>_mean and <name>_std over seeds, and the reason where there are none.

    One row per data set, backbone and AM, in the rows' order.
    """
    base = rows[rows.sweep == "base"]
    found = []
    for place, group in base.groupby(PLACE, sort=False):
        line = dict(zip(PLACE, place, strict=True))
        for name in NUMBERS:
            line |= {f"{name}_mean": group[name].mean(), f"{name}_std": group[name].std(ddof=1)}
        reasons = group.reason.dropna()
        found.append({**line, "seeds": len(group), "reason": reasons.iloc[0] if len(reasons) else None})
    return pd.DataFrame(found)


def write_recall_tables(
    rows: pd.DataFrame, study: RecallStudy, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write recall.csv, .md and .tex; returns the paths. rows: read_rows. config: the grid's hash."""
    lines, origin = summary(rows), lineage(rows, config)
    tables = [_table(group, place, study) for place, group in lines.groupby(PLACE[:2], sort=False)]
    contents = {
        "csv": csv_text(lines, origin),
        "md": markdown_text("# Recall\n\n" + "\n".join(map(to_markdown, tables)), origin),
        "tex": latex_text("% needs booktabs\n" + "\n".join(map(to_latex, tables)), origin),
    }
    for kind, text in contents.items():
        write_text(Path(folder) / f"recall.{kind}", text)
    return [Path(folder) / f"recall.{kind}" for kind in contents]


def _table(lines: pd.DataFrame, place: tuple[str, str], study: RecallStudy) -> Table:
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
        f"{study.patterns} stored maps, read with {study.theta:g} of their channels masked by saliency; "
        "mean ± sample standard deviation over seeds",
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
