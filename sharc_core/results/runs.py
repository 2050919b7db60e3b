"""runs.csv: one checked row per run, from the cells' documents, in an order given by the content alone."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_path
from sharc_core.common.formats import natural_key
from sharc_core.grid.axes import AXES, SORTED_BY, digits
from sharc_core.grid.protocol import PAPER, protocol_key
from sharc_core.grid.sub_grid import MAIN
from sharc_core.learning import metrics
from sharc_core.learning.documents import task_sizes
from sharc_core.provenance.lineage import FIELDS, origin_fields
from sharc_core.results.display_names import method_key, scenario_key

TOLERANCE = 1e-9  # percent, by which rounding may put a Task-IL accuracy below the Class-IL one

COLUMNS = {name: axis.column for name, axis in AXES.items()} | {
    "views": "int64",
    "seed": "int64",
    "acc": "float64",
    "aia": "float64",
    "bwt": "float64",
    "fwt": "float64",
    "forgetting": "float64",
    "bwt_in_code": "float64",
    "forgetting_in_code": "float64",
    "episodic_bytes": "int64",
    "associative_bytes": "int64",
    "learner_bytes": "int64",
    "total_bytes": "int64",
    "peak_bytes": "int64",
    "samples_stored": "int64",
    "recall_mse": "float64",
    "train_flops": "int64",
    "backbone_passes": "int64",
    "train_seconds": "float64",
    "config_hash": "str",
    "versions": "str",
    "studies": "str",
    **{name: kind for name, kind in FIELDS.items() if name != "versions"},
}
# Columns that only a table with tasks of different sizes has, after all others.
WEIGHTED = {"acc_weighted": "float64", "aia_weighted": "float64"}
_PARSERS: dict[str, Callable[[str], Any]] = {"float64": float, "int64": int, "Int64": int}
_PARSERS |= dict.fromkeys(("bool", "boolean"), {"True": True, "False": False}.__getitem__)
TEXT = [name for name, kind in COLUMNS.items() if kind == "str"]


def runs_table(cells: list[dict], members: list[dict[str, list[str]]] | None = None) -> pd.DataFrame:
    """Return one row per (cell, reported scenario, seed), with the columns COLUMNS.

    members: for every cell, which studies report each of its scenarios (unroll.memberships). None: all
    scenarios are reported, as results of the grid itself.

    acc and aia are in percent; bwt, fwt and forgetting in percentage points (*_in_code: as the published code
    computes them). total_bytes is all that the learner keeps except the backbone: episodic memory,
    associative memory, head and model copies. train_seconds is per seed. Values that do not apply are
    missing (NaN, NA or None). If the tasks of a data set differ in size, there are also the columns WEIGHTED,
    with values for such data sets. The order of `cells` does not matter.

    Raises UserError for a damaged document and for two documents of the same run, and AssertionError where
    a Task-IL accuracy is below the Class-IL one, which only a defect of SHARC-Bench can cause.
    """
    pairs = zip(cells, [None] * len(cells) if members is None else members, strict=True)
    rows = [row for document, reported in pairs for row in _rows(document, reported)]
    if not rows:
        raise UserError("there are no results to tabulate: the list of cells is empty")
    rows.sort(key=_order)
    for row, following in pairwise(rows):
        if _order(row) == _order(following):
            raise UserError(
                f"two results of the same run ({row['dataset']}, {row['backbone']}, {row['method']} "
                f"{row['variant']}, buffer {row['buffer']}, seed {row['seed']}, configs {row['config_hash']} "
                f"and {following['config_hash']}): delete the older one"
            )
    is_weighted = any(task_sizes(document) is not None for document in cells)
    return _typed(pd.DataFrame(rows, columns=[*COLUMNS, *(WEIGHTED if is_weighted else [])]))


def write_runs(frame: pd.DataFrame, path: Path | str) -> None:
    """Write runs.csv atomically. Floats have the shortest form that reads back as the same bits."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read_runs(path: Path | str) -> pd.DataFrame:
    """Read what write_runs wrote, with the same columns, types and bits. Raises UserError for other files."""
    try:
        # only an empty field is missing; "NA", "null" and "007" are names
        frame = pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except ValueError as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path} is not a table of runs ({error}): delete it and run again") from None
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: delete it and run again")
    kinds = COLUMNS | (WEIGHTED if set(WEIGHTED) <= set(frame) else {})
    frame = frame[list(kinds)].astype(object)
    frame = frame.where(frame.notna(), None)
    try:
        for name, kind in kinds.items():
            if kind != "str":
                # Python's parser rounds correctly; pandas' may not
                frame[name] = [None if text is None else _PARSERS[kind](text) for text in frame[name]]
        return _typed(frame)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of runs ({error}): delete it and run again") from None


def cell_label(document: dict) -> str:
    """Return a cell's name for messages: data set, backbone, method, variant, buffer."""
    cell = document.get("cell", {})
    parts = [cell.get(key) for key in ("dataset", "backbone", "method", "variant", "buffer")]
    label = "/".join(str(part) for part in parts if part is not None)
    return label or f"a cell without a name (its config_hash: {document.get('config_hash')})"


def matrix_array(document: dict, scenario: str) -> np.ndarray:
    """Return a document's accuracy matrices (R, T, T) in percent, NaN where not evaluated."""
    return np.array(document["matrix"][scenario], dtype=float)


def axes_of(cell: dict, scenario: str) -> dict:
    """Return a cell's value on every axis, as runs.csv holds it."""
    axes = {name: cell.get(name) for name in AXES} | {"scenario": scenario}
    axes["count_associative_memory"] = bool(axes["count_associative_memory"])
    axes["protocol"] = axes["protocol"] or PAPER
    if axes["buffer"] is None:  # nothing is stored, so split and storage do not apply
        return axes | {"budget_split": None, "storage": None}
    if isinstance(axes["budget_split"], list):
        # all digits, so that different splits stay different rows
        axes["budget_split"] = "/".join(map(digits, axes["budget_split"]))
    return axes


def _rows(document: dict, members: dict[str, list[str]] | None) -> list[dict]:
    try:
        return _checked_rows(document, members)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"the result of {cell_label(document)} is damaged ({problem}): delete it and run again"
        ) from None


def _checked_rows(document: dict, members: dict[str, list[str]] | None) -> list[dict]:
    cell, costs, seeds = document["cell"], document["costs"], document["seeds"]
    matrices = {scenario: matrix_array(document, scenario) for scenario in document["matrix"]}
    for scenario, matrix in matrices.items():
        if matrix.ndim != 3 or len(matrix) != len(seeds):
            raise ValueError(f"{scenario} matrix of shape {matrix.shape} for {len(seeds)} seeds")
    _check_scenarios(document, matrices)
    trainings = {seed: training for training in document["trainings"] for seed in training["seeds"]}
    rows = []
    for scenario, studies in (members or {name: [MAIN] for name in matrices}).items():
        matrix = matrices[scenario]
        untrained = np.array(document["untrained"][scenario], dtype=float)
        values = {
            "acc": metrics.acc(matrix),
            "aia": metrics.aia(matrix),
            "bwt": metrics.bwt(matrix),
            "fwt": metrics.fwt(matrix, untrained),
            "forgetting": metrics.forgetting(matrix),
            "bwt_in_code": metrics.bwt_in_code(matrix, untrained),
            "forgetting_in_code": metrics.forgetting_in_code(matrix),
        }
        sizes = task_sizes(document)
        if sizes is not None:
            values["acc_weighted"] = metrics.acc_weighted(matrix, sizes)
            values["aia_weighted"] = metrics.aia_weighted(matrix, sizes)
        for r, seed in enumerate(seeds):
            row = axes_of(cell, scenario) | {"views": int(cell["views"]), "seed": seed}
            row |= {name: float(value[r]) for name, value in values.items()}
            row |= _costs(costs, r)
            row["config_hash"] = document["config_hash"]
            row |= {"studies": " ".join(studies), **origin_fields(trainings[seed])}
            rows.append(row)
    return rows


def _costs(costs: dict, r: int) -> dict:
    kinds = ("episodic_bytes", "associative_bytes", "learner_bytes")
    parts = {name: int(costs[name][r]) for name in kinds}
    recall = costs["recall_mse"][r] if costs.get("recall_mse") is not None else None
    return parts | {
        "total_bytes": sum(parts.values()),
        "peak_bytes": int(costs["peak_bytes"][r]),
        "samples_stored": int(costs["samples_stored"][r]),
        "recall_mse": math.nan if recall is None else float(recall),
        "train_flops": int(costs["train_flops"][r]),
        "backbone_passes": int(costs["backbone_passes"][r]),
        "train_seconds": float(costs["train_seconds"][r]),
    }


def _check_scenarios(document: dict, matrices: dict[str, np.ndarray]) -> None:
    """Check that no Task-IL accuracy is below the Class-IL one; both come from the same logits."""
    if not {"task_il", "class_il"} <= set(matrices):
        return
    below = matrices["task_il"] < matrices["class_il"] - TOLERANCE
    if below.any():
        r, i, j = (int(k) for k in np.argwhere(below)[0])
        raise AssertionError(
            f"{cell_label(document)}, seed {document['seeds'][r]}: Task-IL accuracy "
            f"{matrices['task_il'][r, i, j]} on task {j + 1} after task {i + 1} is below the Class-IL "
            f"accuracy {matrices['class_il'][r, i, j]}; this is a defect of SHARC-Bench, please report it"
        )


def _order(row: dict) -> tuple:
    """Return the sort key over all axes and the seed; missing values come first."""
    return (*(_ORDERS.get(name, _optional)(row[name]) for name in SORTED_BY), row["seed"])


def _optional(value: object) -> tuple:
    return () if value is None else (value,)


# Axes with an order of their own.
_ORDERS = {
    "scenario": scenario_key,
    "dataset": natural_key,
    "backbone": natural_key,
    "method": method_key,
    "protocol": protocol_key,
}


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    kinds = {name: kind for name, kind in (COLUMNS | WEIGHTED).items() if name in frame}
    frame = frame.astype({name: kind for name, kind in kinds.items() if kind != "str"})
    for name in TEXT:
        values = frame[name].astype(object)
        frame[name] = values.where(values.notna(), None)
    return frame
