"""Open drifting features: check the parts that cells read and map them into memory."""

import contextlib
from pathlib import Path
from typing import Any

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json
from sharc_core.common.integrity import REMEDY, check_files
from sharc_core.features.cache import map_array
from sharc_core.features.drifting.part import START, Part
from sharc_core.features.views import DriftingFeatures, Visits


def open_drifting(folders: list[Path], verify: bool = False) -> DriftingFeatures:
    """Open the parts in `folders`, which must include `start`. verify: hash every file.

    Raises UserError that names a missing, truncated or changed file, or a part of other data.
    """
    _allow_files()
    manifests = {Path(folder): _manifest(Path(folder), verify) for folder in folders}
    parts = {Part.parse(manifest["part"]): folder for folder, manifest in manifests.items()}
    first = manifests[parts[START]]
    for folder, manifest in manifests.items():
        if any(manifest[key] != first[key] for key in ("dataset", "backbone", "shape", "classes", "counts")):
            raise UserError(
                f"features {folder} come from other data or another backbone than the rest: {REMEDY}"
            )
    start = parts[START] / "start"
    tasks = range(first["counts"]["tasks"])
    visits: dict[Any, list[Visits]] = {}
    joint: dict[Any, list[Visits]] = {}
    tested: dict[Any, list[torch.Tensor]] = {}
    joint_tested: dict[Any, torch.Tensor] = {}
    for part, folder in parts.items():
        key = (part.seed, part.batch, part.passes)
        if part.kind == "train":
            visits[key[:2]] = [_visits(folder / f"task{task}") for task in tasks]
        elif part.kind == "tests":
            tested[key] = [map_array(folder / f"task{task}" / "tested.npy") for task in tasks]
        elif part.kind == "joint":
            joint[key] = [_visits(folder / "joint")]
            joint_tested[key] = map_array(folder / "joint" / "tested.npy")
    tested_at_start = map_array(start / "tested.npy")
    shape, count = first["shape"], first["counts"]["train"]
    sample = next(iter([*visits.values(), *joint.values()]), None)
    types = (sample[0].maps.dtype, sample[0].pooled.dtype) if sample else (torch.float16, torch.float32)
    return DriftingFeatures(
        train_maps=torch.empty(count, *shape, dtype=types[0], device="meta"),
        train_pooled=torch.empty(count, shape[0], dtype=types[1], device="meta"),
        train_labels=map_array(start / "train_labels.npy"),
        test_labels=map_array(start / "test_labels.npy"),
        test_order=map_array(start / "test_order.npy"),
        tested_at_start=tested_at_start,
        visits=visits,
        joint=joint,
        tested=tested,
        joint_tested=joint_tested,
        classes=list(first["classes"]),
        manifest=first | {"files": {str(p.name): manifests[f]["files"] for p, f in parts.items()}},
    )


def _allow_files() -> None:
    """Raise the limit on open files to the maximum, because every mapped array holds one open."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _manifest(folder: Path, verify: bool) -> dict:
    if not (folder / "manifest.json").exists():
        raise UserError(f"features {folder} are missing or incomplete (no manifest.json): {REMEDY}")
    manifest = read_json(folder / "manifest.json")
    try:
        check_files(folder, manifest["files"], verify)
        Part.parse(manifest["part"])
        for key in ("classes", "dataset", "backbone", "shape"):
            manifest[key]
        for key in ("train", "test", "tasks"):
            manifest["counts"][key]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'manifest.json'} is damaged ({error}): {REMEDY}") from None
    return manifest


def _visits(folder: Path) -> Visits:
    return Visits(*(map_array(folder / f"{name}.npy") for name in ("order", "pooled", "nonzero", "maps")))
