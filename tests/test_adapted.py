"""batch_norm adapted: running statistics are estimated once, on the first task's images, for all seeds."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_drifting import CLASSES, IMAGES, SIDE, STREAM, TASKS, load, make_bare, make_small
from torch.optim.swa_utils import update_bn

from sharc_core.backbones import batch_norm
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.batch_norm import ESTIMATED, BatchNorms, adapted, evaluated
from sharc_core.common.seeds import generator
from sharc_core.features.cache import extract_features, open_features
from sharc_core.features.folders import ViewFolder
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells, extracted_views
from sharc_core.provenance import code_hashes as provenance
from sharc_core.stages.build import build_features
from sharc_core.stages.layout import Layout, features_code

torch.set_num_threads(1)


def noise(count: int, side: int, contrast: float = 1.0, brightness: float = 0.0) -> np.ndarray:
    source = np.random.default_rng(1)
    images = source.normal(110, 40, (count, side, side, 3)) * contrast + brightness
    return images.clip(0, 255).astype(np.uint8)


@pytest.fixture
def estimated(monkeypatch):
    """Record the statistics with which networks are evaluated."""
    found = []

    def recording(backbone, statistics):
        found.append(statistics.clone())
        return evaluated(backbone, statistics)

    monkeypatch.setattr(batch_norm, "evaluated", recording)
    return found


def shuffled(index: torch.Tensor) -> torch.Tensor:
    return index[torch.randperm(len(index), generator=generator(0, "adapted"))]


def in_double(backbone):
    preprocess = backbone.preprocess
    backbone.body.double()
    backbone.preprocess = lambda images: preprocess(images).double()
    return backbone


@pytest.mark.parametrize("arch", ["small", "resnet_small"])
def test_statistics_are_those_of_torchs_update_bn(arch, estimated, tmp_path):
    """Use batches of equal size. The network keeps its weights and its mode."""
    backbone = in_double(make_small() if arch == "small" else load(tmp_path))
    images, index = noise(150, backbone.form.image_size), torch.arange(10, 138)
    wanted = copy.deepcopy(backbone.body)
    batches = shuffled(index).split(ESTIMATED)
    assert [len(batch) for batch in batches] == [64, 64]
    update_bn([backbone.preprocess(torch.from_numpy(images[batch.numpy()])) for batch in batches], wanted)
    network = adapted(backbone, images, index)
    (statistics,) = estimated
    torch.testing.assert_close(statistics, BatchNorms(wanted).statistics(), rtol=1e-12, atol=1e-12)
    tested = backbone.preprocess(torch.from_numpy(images[:7]))
    with torch.inference_mode():
        torch.testing.assert_close(network(tested), wanted.eval()(tested), rtol=1e-9, atol=1e-9)
    assert not any(layer.training for layer in BatchNorms(backbone.body).layers.values())


@pytest.mark.parametrize(
    ("count", "sizes"), [(5, [5]), (64, [64]), (127, [127]), (129, [65, 64]), (200, [67, 67, 66])]
)
def test_no_small_batch_is_left_over_and_each_counts_by_its_size(count, sizes, estimated):
    backbone = in_double(make_small())
    images, index = noise(count, SIDE), torch.arange(count)
    network, wanted = copy.deepcopy(backbone.body), 0
    norms = BatchNorms(network)
    for batch in shuffled(index).split(sizes):
        with norms.seeing_batches(), torch.inference_mode():
            network(backbone.preprocess(torch.from_numpy(images[batch.numpy()])))
        wanted = wanted + norms.statistics() * len(batch) / count
    adapted(backbone, images, index)
    torch.testing.assert_close(estimated[0], wanted, rtol=1e-12, atol=1e-12)


def test_other_images_than_those_given_do_not_count(estimated):
    images, index = noise(150, SIDE), torch.arange(20, 90)
    changed = 255 - images
    changed[index.numpy()] = images[index.numpy()]
    adapted(make_small(), images, index)
    adapted(make_small(), changed, index)
    adapted(make_small(), images, index + 1)
    assert torch.equal(estimated[0], estimated[1])
    assert not torch.equal(estimated[0], estimated[2])


def channel_moments(backbone, statistics, images) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return mean and variance of every output channel of each batch norm in evaluation mode."""
    network, seen = copy.deepcopy(backbone.body), []
    norms = BatchNorms(network)
    norms.set(statistics)
    for layer in norms.layers.values():
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    with torch.inference_mode():
        network(backbone.preprocess(torch.from_numpy(images)))
    return [(output.mean((0, 2, 3)), output.var((0, 2, 3))) for output in seen]


@pytest.mark.parametrize(("contrast", "brightness"), [(0.4, 100.0), (1.0, -60.0), (1.8, -90.0)])
def test_images_of_another_brightness_or_contrast_are_normalised_again(contrast, brightness, estimated):
    """Outputs of every layer have mean 0 and variance 1 on these images, too."""
    backbone = make_small()
    for layer in BatchNorms(backbone.body).layers.values():
        torch.nn.init.ones_(layer.weight), torch.nn.init.zeros_(layer.bias)
    index = torch.arange(256)
    used_to, others = noise(256, SIDE), noise(256, SIDE, contrast, brightness)
    for images in (used_to, others):
        adapted(backbone, images, index)
    for statistics, images in zip(estimated, (used_to, others), strict=True):
        for mean, variance in channel_moments(backbone, statistics, images):
            assert mean.abs().max() < 0.05
            assert (variance - 1).abs().max() < 0.1
    moments = channel_moments(backbone, estimated[0], others)
    assert max(max(mean.abs().max(), (variance - 1).abs().max()) for mean, variance in moments) > 0.3


def test_the_same_images_give_the_same_bits_and_other_features_than_frozen(tmp_path):
    for name in ("one", "again"):
        network = adapted(make_small(), IMAGES.train_images, STREAM.train[0])
        extract_features(IMAGES, network, tmp_path / name)
    extract_features(IMAGES, make_small(), tmp_path / "frozen")
    one, again, frozen = (open_features(tmp_path / name) for name in ("one", "again", "frozen"))
    assert torch.equal(one.train_maps, again.train_maps) and torch.equal(one.test_maps, again.test_maps)
    assert (one.train_pooled - frozen.train_pooled).abs().max() > 0.1


def test_a_network_without_batch_norm_stays_as_it_is():
    images = torch.randn(4, 3, SIDE, SIDE)
    network = adapted(make_bare(), IMAGES.train_images, STREAM.train[0])
    with torch.inference_mode():
        torch.testing.assert_close(network(images), make_bare()(images), rtol=1e-5, atol=1e-5)


def grid_of(tmp_path, **changes):
    weights = tmp_path / "w.safetensors"
    if not weights.exists():
        torch.manual_seed(0)
        save_file(build_classifier("resnet_small", 5).state_dict(), weights)
    block = {"arch": "resnet_small", "weights": str(weights), "image_size": 16, "batch_norm": "adapted"}
    datasets = {"greys": {"source": "digits", "tasks": TASKS - 1} | changes.pop("dataset", {})}
    values = {"datasets": datasets, "backbone": block, "data_dir": str(tmp_path), "methods": ["er"]}
    return load_grid(values | {"variants": ["plain"], "buffers": [12]} | changes)


def test_every_seed_reads_the_same_features_and_the_first_task_decides_which(tmp_path):
    """Another class order gives another first task and therefore other features."""
    grid = grid_of(tmp_path, seeds=[0, 1, 2])
    assert extracted_views(grid) == [("greys", "resnet_small-w-adapted", ViewFolder(0))]
    (cell,) = cells(grid)
    assert (cell.batch_norm, cell.passes) == ("adapted", None)
    (folder,) = Layout(grid).read_by([cell])
    others = {
        "seeds": {"seeds": [7]},
        "tasks": {"dataset": {"tasks": 5}},
        "order": {"dataset": {"class_order_seed": 3}},
    }
    folders = {name: Layout(grid_of(tmp_path, **change)) for name, change in others.items()}
    found = {name: layout.features("greys", cell.backbone) for name, layout in folders.items()}
    assert found["seeds"] == folder
    assert len({folder, found["tasks"], found["order"]}) == 3


def test_a_job_estimates_on_the_first_task_in_the_order_of_the_classes(tmp_path, monkeypatch):
    given = []

    def recording(backbone, images, index, device):
        given.append(index)
        return adapted(backbone, images, index, device)

    monkeypatch.setattr("sharc_core.stages.build.adapted", recording)
    monkeypatch.setattr("sharc_core.stages.build.open_prepared", lambda folder: IMAGES)
    grid = grid_of(tmp_path, dataset={"class_order_seed": 3, "tasks": TASKS})
    build_features(grid, "greys", grid.backbones[0].path_name)
    order = torch.randperm(CLASSES, generator=generator(3, "class_order"))
    wanted = np.flatnonzero(np.isin(IMAGES.train_labels, order[: CLASSES // TASKS].numpy()))
    assert given[0].tolist() == wanted.tolist()


def test_the_features_name_stands_for_the_code_that_estimates(tmp_path):
    """A change of this code changes the hash, so the features are extracted again."""
    roots = features_code(grid_of(tmp_path).backbones[0])
    files = provenance._closure(provenance._files_of(roots), provenance.STAGE_WITHOUT)
    assert {"batch_norm.py", "stream.py", "preprocess.py"} <= {path.name for path in files}
