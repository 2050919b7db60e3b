"""The prepared images that cached features come from: their size, for memories that store images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharc_core.common.files import digest, read_json
from sharc_core.features.cache import Features

ImageShape = tuple[int, int, int]


def image_shape_of(manifest: Mapping[str, Any]) -> ImageShape | None:
    """Return (H, W, 3) from the manifest of prepared images or of `with_images`; None if it has none."""
    if "image_shape" not in manifest:
        return None
    height, width, colours = manifest["image_shape"]
    return height, width, colours


def prepared_image_shape(prepared: Path) -> ImageShape | None:
    """Return (H, W, 3) of the images in a prepared folder; None if it does not exist or has no images."""
    manifest = prepared / "manifest.json"
    return image_shape_of(read_json(manifest)) if manifest.exists() else None


def with_images(features: Features, folders: Sequence[Path]) -> Features:
    """Return features with the size of the images that they were extracted from in their manifest.

    folders: of the features, <data_dir>/features/<name>/<backbone>/<view>. The images lie in
    <data_dir>/prepared/<name>. Without them, or if they are not those of the features, the size is not added.
    """
    name, place = folders[0].parents[1].name, folders[0].parents[3]
    path = place / "prepared" / name / "manifest.json"
    if not path.exists():
        return features
    prepared = read_json(path)
    shape = image_shape_of(prepared)
    if shape is None or digest(prepared, 64) != features.manifest["dataset"]:
        return features
    return replace(features, manifest=features.manifest | {"image_shape": list(shape)})
