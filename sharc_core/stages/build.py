"""Prepare data, pre-train backbones and extract features, which are the stages before a cell.

The rules of the Snakefile and the command line call the same functions.
"""

import re
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from sharc_core.backbones.batch_norm import adapted
from sharc_core.backbones.checksums import check_weights
from sharc_core.backbones.networks import network_of
from sharc_core.backbones.preprocess import of_images
from sharc_core.backbones.pretraining import pretrain
from sharc_core.common.device import keep_memory, resolve_device
from sharc_core.common.errors import UserError
from sharc_core.common.files import disk_errors
from sharc_core.datasets import PreparedData, Source, open_prepared
from sharc_core.datasets.base import Progress
from sharc_core.datasets.feature_source import FeatureSource
from sharc_core.features.cache import Features, extract_features
from sharc_core.features.drifting.extract import Extraction
from sharc_core.features.drifting.part import Part
from sharc_core.features.drifting.reading import DriftingFeatures
from sharc_core.features.encode import extract_encoded
from sharc_core.features.folders import EncodedFolder, FeaturesFolder, ViewFolder
from sharc_core.features.opening import open_folders
from sharc_core.features.own import write_features
from sharc_core.grid.models import Grid
from sharc_core.grid.unroll import extracted_views
from sharc_core.stages.layout import Layout
from sharc_core.streams.stream import Stream, make_stream


def fetch_weights(grid: Grid, progress: Progress = None) -> None:
    """Download the weights of torchvision and timm for features that are not extracted yet.

    They go to the libraries' caches, where jobs look for them; a file of the mirror stays there. Raises
    UserError.
    """
    layout = Layout(grid)
    missing = {
        b for d, b, v in extracted_views(grid) if not (layout.features(d, b, v) / "manifest.json").exists()
    }
    mirror = Path(grid.mirror) if grid.mirror else None
    for config in grid.all_backbones:
        if (config.is_torchvision or config.weights == "timm") and config.path_name in missing:
            if config.is_torchvision:
                check_weights(config, None, None, mirror)
            if progress:
                progress(f"weights: {config.path_name}")
            network_of(config).fetch(mirror)


def prepare_data(source: Source, folder: Path, progress: Progress = None) -> None:
    """Download or render the images of a source into `folder`."""
    source.prepare(folder, progress)


def pretrain_backbone(grid: Grid, backbone: str, progress: Progress = None) -> None:
    """Pre-train a backbone on its prepared data; write weights and card.

    backbone: its name, or the name of its network.
    """
    layout = Layout(grid)
    backbone = layout.network(
        layout.backbones[backbone].network_name if backbone in layout.backbones else backbone
    )
    weights, card = layout.weights(backbone), layout.card(backbone)
    assert weights is not None and card is not None  # it is pre-trained here
    try:
        pretrain(
            network_of(layout.backbones[backbone]).completed,
            open_prepared(layout.pretraining_data(backbone)),
            weights,
            card,
            device=resolve_device(grid.device),
            progress=progress,
        )
    except SafetensorError as error:  # safetensors reports an error of the system this way
        number = re.search(r"os error (\d+)", str(error))
        with disk_errors(weights):
            raise OSError(int(number[1]) if number else 0, str(error)) from error


def build_features(
    grid: Grid,
    dataset: str,
    backbone: str,
    folder: FeaturesFolder | None = None,
    progress: Progress = None,
) -> None:
    """Extract a folder of features of a prepared data set with a backbone, by default its first view.

    The features of a data set that has its own are written as they are, without a backbone.
    """
    layout = Layout(grid)
    out = layout.features(dataset, backbone, folder)
    source = layout.source(dataset)
    if isinstance(source, FeatureSource):
        return write_features(source, layout.prepared(dataset), out, progress)
    device = resolve_device(grid.device)
    config, mirror = layout.backbones[backbone], Path(grid.mirror) if grid.mirror else None
    check_weights(config, layout.weights(backbone), layout.card(backbone), mirror)
    network = network_of(config)
    prepared, form = open_prepared(layout.prepared(dataset)), network.form
    if config.normalisation == "dataset":
        form = of_images(form, prepared.train_images)
    keep_memory()
    weights, fuse = layout.weights(backbone), config.batch_norm == "frozen"
    model = network.load(weights, device, mirror, form, fuse)
    stream = _stream(grid, dataset, prepared)
    if isinstance(folder, Part):
        extraction = Extraction(prepared, stream, model, device, progress)
        extraction.run(folder, out, layout.made_from(dataset, backbone, folder))
        return
    if config.batch_norm == "adapted":
        model = adapted(model, prepared.train_images, stream.train[0], device)
    if isinstance(folder, EncodedFolder):
        extract_encoded(prepared, model, out, folder.codec, folder.view, device=device, progress=progress)
        return
    view = folder or ViewFolder(layout.views(backbone)[0])
    extract_features(prepared, model, out, view=view.number, device=device, progress=progress)


def _stream(grid: Grid, dataset: str, prepared: PreparedData) -> Stream:
    train, test = (torch.from_numpy(np.array(x)) for x in (prepared.train_labels, prepared.test_labels))
    # features that depend on a stream have one for all runs (check_streams)
    return make_stream(train, test, prepared.classes, grid.datasets[dataset].stream.of_run(0))


def ensure_features(
    grid: Grid, dataset: str, backbone: str | None = None, progress: Progress = None
) -> Features | DriftingFeatures:
    """Return the features of a data set, in all views that the grid's cells train on.

    Missing features are extracted, after missing data and weights are prepared. backbone: its name; the
    data set's first by default. Raises UserError for a data set or backbone that the grid does not have.
    """
    layout = Layout(grid)
    _check_known("the grid", dataset, list(grid.datasets))
    names = [one.path_name for name, one in grid.all_pairs if name == dataset]
    backbone = backbone or names[0]
    _check_known(dataset, backbone, names)
    chosen = [key for key in extracted_views(grid) if key[:2] == (dataset, backbone)]
    folders = {key[2]: layout.features(*key) for key in chosen}
    missing = [folder for folder, path in folders.items() if not (path / "manifest.json").exists()]
    if missing:
        _ensure_inputs(layout, dataset, backbone, progress)
    for folder in missing:
        build_features(grid, dataset, backbone, folder, progress)
    return open_folders(list(folders.values()))


def _check_known(owner: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise UserError(f"{owner} has no {name!r}; it has: {', '.join(known)}")


def _ensure_inputs(layout: Layout, dataset: str, backbone: str, progress: Progress) -> None:
    """Make the prepared data, and the weights of a backbone that is pre-trained here, if missing."""
    if not (layout.prepared(dataset) / "manifest.json").exists():
        prepare_data(layout.source(dataset), layout.prepared(dataset), progress)
    card = layout.card(backbone)
    if card is not None and not card.exists():
        data = layout.pretraining_data(backbone)
        if not (data / "manifest.json").exists():
            prepare_data(layout.pretraining_source(backbone), data, progress)
        pretrain_backbone(layout.grid, backbone, progress)
