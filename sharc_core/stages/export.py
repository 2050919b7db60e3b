"""Write what the feature cache holds to files that `source: features` reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_folder, atomic_path, disk_errors
from sharc_core.datasets.array_files import CLASS_NAMES
from sharc_core.features.cache import Features
from sharc_core.grid.models import Grid
from sharc_core.stages.build import ensure_features

FORMATS = (".npz", ".safetensors", "")  # "": a folder of .npy files


def export_features(
    grid: Grid,
    dataset: str,
    out: Path,
    backbone: str | None = None,
    pooled: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Features:
    """Write the features of a data set, which are extracted if missing, and return them.

    out: a new .npz or .safetensors file or, without an ending, a new folder. backbone: its name; the data
    set's first by default. pooled: write the pooled vectors (N, K) float32 instead of the maps (N, K, h, w)
    float16. Raises UserError for features that differ between seeds, and for an `out` that exists.
    """
    if out.suffix not in FORMATS:
        raise UserError(
            f"{out}: features are written as .npz, as .safetensors or, without an ending, a folder"
        )
    if out.exists():
        raise UserError(f"{out} exists: remove it or choose another name")
    _check_one_view(grid, dataset, backbone)
    features = ensure_features(grid, dataset, backbone, progress)
    assert isinstance(features, Features)  # not drifting
    arrays = {
        "train_features": features.train_pooled if pooled else features.train_maps,
        "train_labels": features.train_labels,
        "test_features": features.test_pooled if pooled else features.test_maps,
        "test_labels": features.test_labels,
    }
    _write(out, arrays, features.classes)
    return features


def _check_one_view(grid: Grid, dataset: str, backbone: str | None) -> None:
    """Refuse features of which there are several per image. Unknown names are left to ensure_features."""
    for name, config in grid.all_pairs:
        if name != dataset or backbone not in (None, config.path_name):
            continue
        if config.batch_norm == "drifting":
            raise UserError(
                f"features of {config.path_name} depend on the seed: export a backbone with batch_norm "
                "frozen or adapted"
            )
        if config.views > 1:
            raise UserError(
                f"{config.path_name} has {config.views} augmented views of each training image: export a "
                "backbone with views 1"
            )
        return


def _write(out: Path, arrays: dict[str, torch.Tensor], classes: list[str]) -> None:
    if out.suffix == ".safetensors":
        metadata = {CLASS_NAMES: json.dumps(classes)}
        with atomic_path(out) as path, disk_errors(out):
            try:
                save_file({name: tensor.contiguous() for name, tensor in arrays.items()}, path, metadata)
            except SafetensorError as error:  # safetensors reports an error of the system this way
                raise OSError(0, str(error)) from error
        return
    written: dict[str, Any] = {name: tensor.numpy() for name, tensor in arrays.items()}
    written[CLASS_NAMES] = np.array(classes)
    if out.suffix == ".npz":
        with atomic_path(out) as path, open(path, "wb") as stream:
            np.savez(stream, **written)
        return
    with atomic_folder(out) as folder:
        for name, array in written.items():
            np.save(folder / f"{name}.npy", array)
