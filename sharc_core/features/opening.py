"""Open the folders of features that cells of one data set and backbone read."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json
from sharc_core.common.integrity import REMEDY, check_files
from sharc_core.common.mapped import map_rows
from sharc_core.features.cache import Features, View, map_array, open_views
from sharc_core.features.drifting.part import Part
from sharc_core.features.drifting.reading import DriftingFeatures, open_drifting
from sharc_core.features.folders import EncodedFolder, parse_folder
from sharc_core.features.images import with_images


@dataclass(frozen=True)
class EncodedView:
    """Encoded training images of a view.

    pooled (N, K) float32: vectors of the decoded images. sizes (N,) int64: bytes of their files.
    """

    pooled: torch.Tensor
    sizes: torch.Tensor


@dataclass(frozen=True)
class FeaturesOfEncoded(Features):
    """Features with encoded training images as well, by codec and number of the view."""

    encoded: dict[tuple[Hashable, int], EncodedView] = field(default_factory=dict)


def open_folders(paths: Sequence[Path]) -> Features | DriftingFeatures:
    """Open folders of features, as folders_of lists them.

    Raises UserError for a file that is missing, truncated or altered, and for folders that do not belong
    together.
    """
    folders = {Path(path): parse_folder(Path(path).name) for path in paths}
    if any(isinstance(folder, Part) for folder in folders.values()):
        return open_drifting(list(folders))
    encoded = {path: folder for path, folder in folders.items() if isinstance(folder, EncodedFolder)}
    views = [path for path in folders if path not in encoded]
    features = _by_rows(with_images(open_views(views), views), views)
    if not encoded:
        return features
    opened: dict[tuple[Hashable, int], EncodedView]
    opened = {(f.codec, f.view): _open_encoded(path, f, features) for path, f in encoded.items()}
    return FeaturesOfEncoded(**vars(features), encoded=opened)


def _by_rows(features: Features, paths: Sequence[Path]) -> Features:
    """Return features of views whose training maps leave no pages in the process, see common.mapped.

    The files have been checked. Not in features.cache, because its code names all folders of features.
    """
    further = {
        number: View(map_rows(path / "train_maps.npy"), view.pooled)
        for path, (number, view) in zip(paths[1:], features.further_views.items(), strict=True)
    }
    return replace(features, train_maps=map_rows(paths[0] / "train_maps.npy"), further_views=further)


def _open_encoded(path: Path, folder: EncodedFolder, features: Features) -> EncodedView:
    """Open one folder of encoded images, of the same images and backbone as the features."""
    if not (path / "manifest.json").exists():
        raise UserError(f"features {path} are missing or incomplete (no manifest.json): {REMEDY}")
    manifest = read_json(path / "manifest.json")
    try:
        check_files(path, {name: manifest["files"][name] for name in ("train_pooled.npy", "train_sizes.npy")})
        is_same = all(manifest[key] == features.manifest[key] for key in ("dataset", "backbone", "shape"))
        of_folder = manifest["codec"]["name"], manifest["view"]
        is_same = is_same and of_folder == (folder.codec.name, folder.view)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path / 'manifest.json'} is damaged ({error} is missing): {REMEDY}") from None
    if not is_same:
        raise UserError(f"features {path} are not of the images and backbone of the others: {REMEDY}")
    pooled, sizes = map_array(path / "train_pooled.npy"), map_array(path / "train_sizes.npy")
    wanted = features.train_pooled.shape, features.train_labels.shape
    if (pooled.shape, sizes.shape) != wanted or sizes.numpy().dtype != np.int64:
        raise UserError(f"{path} holds arrays of other shapes or types than its images have: {REMEDY}")
    return EncodedView(pooled, sizes)
