"""Drifting features: running statistics, parts on disk, and what the learner and the memory read."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import is_replica, make_cell, state
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_drifting_live import SHAPE, Network
from torch import nn

from sharc_core.backbones import Backbone, BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.batch_norm import BatchNorms, Drift, evaluated
from sharc_core.backbones.preprocess import resolve
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, write_json
from sharc_core.common.integrity import stamp
from sharc_core.common.pooling import pool
from sharc_core.datasets import PreparedData
from sharc_core.features.cache import extract_features, open_features
from sharc_core.features.drifting.extract import STATISTICS, Extraction
from sharc_core.features.drifting.part import FEWEST, START, Kept, Part
from sharc_core.features.drifting.reading import open_drifting
from sharc_core.features.views import DriftingReplicas, view_of
from sharc_core.grid.drifting_parts import extent, kept_for, parts_of
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells, extracted_views
from sharc_core.learning import learner
from sharc_core.learning.cell_memory import budget_of
from sharc_core.learning.learner import evaluate, run_cell
from sharc_core.memory.budget import Budget
from sharc_core.methods import METHODS
from sharc_core.provenance import code_hashes as provenance
from sharc_core.saliency.channel_masks import kept_channels
from sharc_core.selection.batches import whole_batches
from sharc_core.stages.build import build_features, ensure_features
from sharc_core.stages.layout import Layout, features_code
from sharc_core.stages.preflight import check_inputs
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

torch.set_num_threads(1)

SIDE, TASKS, CLASSES = 8, 3, 6
PER_CLASS, TESTED_PER_CLASS = 25, 4
SEEDS = [0, 1, 2]
ALL = Kept(None)
NAMES = ("train_images", "train_labels", "test_images", "test_labels")


def make_images(side: int = SIDE, per_class: int = PER_CLASS) -> PreparedData:
    """Return noise around a different grey for each class, so that the statistics drift.

    There are 150 training images, because a view draws for 128 images at a time.
    """
    source = np.random.default_rng(0)

    def split(count):
        labels = source.permutation(np.repeat(np.arange(CLASSES), count))
        images = source.normal(60 + 25 * labels[:, None, None, None], 50, (len(labels), side, side, 3))
        return images.clip(0, 255).astype(np.uint8), labels

    manifest = {"source": "greys", "classes": list("abcdef")}
    return PreparedData(manifest, *split(per_class), *split(TESTED_PER_CLASS))


IMAGES = make_images()


def stream_of(prepared) -> "object":
    labels = (torch.from_numpy(np.array(x)) for x in (prepared.train_labels, prepared.test_labels))
    return make_stream(*labels, CLASSES, StreamConfig(tasks=TASKS))


STREAM = stream_of(IMAGES)


def shaken(backbone: Backbone) -> Backbone:
    """Give batch norms random statistics and weights."""
    torch.manual_seed(2)
    for layer in BatchNorms(backbone.body).layers.values():
        layer.running_mean.normal_(0, 0.2)
        layer.running_var.uniform_(0.5, 2)
        layer.weight.data.uniform_(0.5, 1.5)
        layer.bias.data.normal_(0, 0.2)
    return backbone


def load(folder: Path, side: int = 16) -> Backbone:
    """Return a resnet_small with random weights. For 16 px images its maps are 128 x 2 x 2."""
    path = folder / "w.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save_file(build_classifier("resnet_small", 5).state_dict(), path)
    config = make_config(weights=str(path), image_size=side, name="small")
    return shaken(load_backbone(config, None, "cpu", fuse=False))


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    return load(tmp_path_factory.mktemp("weights"))


def make_small() -> Backbone:
    """Return a fast network with two convolutions and batch norms and maps of 12 x 4 x 4."""
    torch.manual_seed(3)
    return shaken(as_backbone(Network()))


def make_bare() -> Backbone:
    """Return the same network without batch norm."""
    torch.manual_seed(3)
    network = Network()
    network.norm1, network.norm2 = nn.Identity(), nn.Identity()
    return as_backbone(network)


def make_config(**others) -> BackboneConfig:
    given = {"arch": "resnet_small", "weights": "pretrain", "image_size": SIDE, "batch_norm": "drifting"}
    return BackboneConfig(**(given | others))


def as_backbone(network: nn.Module) -> Backbone:
    config, body = make_config(), torch.fx.symbolic_trace(network)
    return Backbone(body, config, SHAPE, "0" * 64, resolve(config), fuse=False)


def extract(root: Path, parts: list[Part], make=make_small, prepared=IMAGES, **settings) -> dict[Part, Path]:
    """Extract each part like a separate job, with a new network, to a folder with the part's name."""
    for part in parts:
        extraction = Extraction(prepared, stream_of(prepared), make(), **settings)
        extraction.run(part, root / part.name, source_folder(part, root))
    return {part: root / part.name for part in parts}


def source_folder(part: Part, root: Path) -> Path | None:
    """Return the folder of the train part that a tests part needs, with any number of maps."""
    if part.kind != "tests":
        return None
    return next(root.glob(f"train-seed{part.seed}-view{part.view}-batch{part.batch}-*"))


def drifting_cell(method: str = "er", variant: str = "plain", **changes):
    fields = {"seeds": SEEDS, "batch_norm": "drifting", "passes": METHODS.get(method).passes} | changes
    return make_cell(method, variant, **fields)


TRAIN = Part("train", 0, 0, 10, kept=ALL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The parts that all methods read, for seeds 0 to 2, with all maps."""
    found = [drifting_cell(method) for method in ("sgd", "joint", "er", "derpp")]
    return extract(tmp_path_factory.mktemp("parts"), parts_of(found, ALL))


@pytest.fixture(scope="module")
def features(folders):
    return open_drifting(list(folders.values()))


@pytest.fixture(scope="module")
def mapless(folders, tmp_path_factory):
    """The features of seed 1 without any map of a training image."""
    part = replace(TRAIN, seed=1, kept=Kept(0))
    others = [folder for part, folder in folders.items() if part.kind in ("start", "tests")]
    return open_drifting([*others, *extract(tmp_path_factory.mktemp("mapless"), [part]).values()])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder except checked.json."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "checked.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# Statistics


@pytest.mark.slow
@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_passes_move_the_statistics_as_torch_does(normed, passes, dtype, tolerance):
    """Compare with a network in train mode that is called `passes` times with each batch."""
    backbone = copy.deepcopy(normed)
    for number, layer in enumerate(BatchNorms(backbone.body).layers.values()):
        layer.momentum = 0.1 + 0.02 * number
    backbone.body.to(dtype)
    network = copy.deepcopy(backbone.body)
    for layer in BatchNorms(network).layers.values():
        layer.train()
    drift = Drift(backbone, {passes: BatchNorms(backbone.body).statistics()})
    with torch.inference_mode():
        for batch in torch.randn(4, 7, 3, 16, 16, dtype=dtype):
            maps = drift.maps(batch)
            for _ in range(passes):
                wanted = network(batch)
            torch.testing.assert_close(maps, wanted, rtol=0, atol=0)
    got, wanted = drift.running[passes], BatchNorms(network).statistics()
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def test_maps_in_train_mode_do_not_depend_on_the_running_statistics(normed):
    one, other = copy.deepcopy(normed), copy.deepcopy(normed)
    norms = BatchNorms(other.body)
    norms.set(norms.statistics() * 3 + 1)
    images = torch.randn(6, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(Drift(one, {}).maps(images), Drift(other, {}).maps(images))
        tested = [evaluated(b, BatchNorms(b.body).statistics())(images) for b in (normed, other)]
    assert not torch.allclose(*tested, atol=0.1)


def test_a_network_is_evaluated_with_the_statistics_given_and_stays_as_it_is(normed):
    before, images = BatchNorms(normed.body).statistics(), torch.randn(5, 3, 16, 16)
    statistics = before * 0.5 + 0.3
    network = copy.deepcopy(normed)
    BatchNorms(network.body).set(statistics)
    with torch.inference_mode():
        torch.testing.assert_close(
            evaluated(normed, statistics)(images), network(images), rtol=1e-4, atol=1e-4
        )
    assert torch.equal(BatchNorms(normed.body).statistics(), before)


def test_a_layer_without_momentum_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None))
    with pytest.raises(UserError, match=r"batch norm 1 has no momentum.*frozen$"):
        BatchNorms(network)


@pytest.mark.slow
def test_the_statistics_of_a_task_go_on_from_the_task_before(folders):
    """After each task they equal those of torch's layers after all batches so far, with 2 passes each."""
    network = make_small()
    norms = BatchNorms(network.body)
    for layer in norms.layers.values():
        layer.train()
    for task in range(TASKS):
        for index in STREAM.order(task, 0, [1])[0].split(10):
            images = network.preprocess(torch.from_numpy(IMAGES.train_images[index.numpy()]))
            with torch.inference_mode():
                network(images), network(images)
        found = load_file(folders[replace(TRAIN, seed=1)] / f"task{task}" / STATISTICS)
        torch.testing.assert_close(found["passes2"], norms.statistics(), rtol=1e-5, atol=1e-5)
        assert sorted(found) == ["passes1", "passes2", "passes3"]


# Parts and what is kept


KEPT = st.builds(Kept, st.none() | st.integers(0, 10**6), st.integers(0, 10**6))
NUMBERS = {"seed": st.integers(0, 2**63 - 1), "view": st.integers(0, 100), "batch": st.integers(1, 1000)}
PARTS = st.one_of(
    st.just(START),
    st.builds(Part, st.just("train"), **NUMBERS, kept=KEPT),
    st.builds(Part, st.sampled_from(["tests", "joint"]), **NUMBERS, passes=st.integers(1, 3)),
)


@given(part=PARTS)
@settings(deadline=None)
def test_part_name_round_trips(part):
    assert Part.parse(part.name) == part
    assert set(part.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_each_part_follows_what_it_is_made_from():
    found = [drifting_cell("er"), drifting_cell("derpp", seeds=[1, 5]), drifting_cell("joint")]
    parts = parts_of([*found, drifting_cell("mer")], ALL)
    assert parts[0] == START and len(set(parts)) == len(parts)
    for position, part in enumerate(parts):
        if part.kind == "tests":
            assert part.source(ALL) in parts[:position]
    kinds = [(part.kind, part.seed, part.passes) for part in parts[1:]]
    assert {k for k in kinds if k[0] == "train"} == {("train", seed, None) for seed in (0, 1, 2, 5)}
    tests = {("tests", seed, passes) for seed, passes in ((0, 2), (1, 2), (2, 2), (1, 3), (5, 3))}
    assert {k for k in kinds if k[0] == "tests"} == tests
    assert {k for k in kinds if k[0] == "joint"} == {("joint", seed, 1) for seed in SEEDS}


def test_a_plain_float16_memory_needs_no_maps_beyond_the_least():
    """The same holds for a method without a memory. Other storages need more than pooled vectors."""
    assert kept_for([drifting_cell("sgd"), drifting_cell("er", buffer=10**6)]) == Kept(FEWEST)
    assert kept_for([drifting_cell("er", buffer=10**6, storage="int8")]).samples >= 10**6 / TASKS


@pytest.mark.parametrize(
    "changes",
    [{"selection": "reservoir"}, {"budget_split": "carry"}, {"theta": None, "mass": 0.9}, {"theta": 0.995}],
)
def test_a_memory_that_may_hold_any_sample_needs_all_maps(changes):
    assert kept_for([drifting_cell("sgd"), drifting_cell("er", "sharc", **changes)]) == ALL


def test_maps_all_keeps_all():
    assert kept_for([drifting_cell("sgd")], everything=True) == ALL


CELLS = st.fixed_dictionaries(
    {
        "buffer": st.integers(TASKS, 5000),
        "theta": st.floats(0, 0.98),
        "budget_unit": st.sampled_from(["slots", "floats", "nonzero", "bytes"]),
        "storage": st.sampled_from(["float32", "float16", "int8"]),
        "budget_split": st.sampled_from(["equal", [1.0, 2.0, 5.0]]),
    }
)


def at_least(one: Kept, other: Kept) -> bool:
    return (one | other) == one


@given(fields=CELLS, more=st.integers(0, 5000), theta=st.floats(0, 0.98))
@settings(max_examples=60, deadline=None)
def test_a_bigger_buffer_or_theta_never_needs_fewer_maps(fields, more, theta):
    small = drifting_cell("er", "sharc", **fields)
    big = fields | {"buffer": fields["buffer"] + more, "theta": max(theta, fields["theta"])}
    one, other = kept_for([small]), kept_for([drifting_cell("er", "sharc", **big)])
    assert at_least(other, one)
    assert at_least(kept_for([small, drifting_cell("er", "sharc", **big)]), other)


@given(fields=CELLS)
@settings(max_examples=30, deadline=None)
def test_maps_are_kept_of_all_that_a_memory_of_the_last_samples_holds(fields):
    """In the unit nonzero, half of the values of every channel are zero."""
    cell = drifting_cell("er", "sharc", **fields)
    shape, kept = SHAPE, kept_for([cell])
    cost = kept_channels(SHAPE[0], cell.theta) * (8 if cell.budget_unit == "nonzero" else 1)
    budget: Budget = budget_of(cell.model_copy(update={"buffer": max(cell.buffer, 30)}), shape, CLASSES)
    budget = replace(budget, buffer=cell.buffer)
    for task in range(TASKS):
        try:
            number, _ = budget.fitting(task, torch.full((100_000,), cost), 0, 0)
        except UserError:  # no sample fits
            continue
        assert number <= max(kept.samples, 2 * kept.full)


@pytest.mark.parametrize(("buffer", "theta"), [(200, 0.8), (195, 0.0), (500, 0.4), (20, 0.0)])
def test_kept_maps_cover_a_memory_of_whole_batches(buffer, theta):
    """If batches add few samples, the oldest samples in the memory come from much earlier batches.

    If a share is smaller than a batch, a task's first batch is never replaced.
    """
    fields = {"buffer": buffer, "theta": theta, "tasks": 5, "selection": "batches"}
    kept = kept_for([drifting_cell("er", "sharc", **fields)])
    cost, samples = kept_channels(512, theta), 10_000
    held = whole_batches([cost] * samples, 10, buffer * 512 // 5)
    assert kept.samples is None or samples - min(held) <= kept.samples


@pytest.mark.parametrize(
    "part",
    [
        START,
        *(Part("train", 0, 0, 10, kept=kept) for kept in (ALL, Kept(7), Kept(0, 5), Kept(3, 1))),
        Part("tests", 0, 0, 10, 2),
        Part("joint", 0, 0, 10, 1),
    ],
)
def test_the_extent_of_a_part_is_known_beforehand(tmp_path, part):
    """The number of images is exact; bytes are approximate, without headers and statistics."""
    if part.kind == "tests":
        extract(tmp_path, [TRAIN])
    extraction = Extraction(IMAGES, STREAM, make_small())
    extraction.run(part, tmp_path / part.name, tmp_path / TRAIN.name)
    counts = {"train": len(IMAGES.train_labels), "test": len(IMAGES.test_labels)}
    images, size = extent(part, counts, StreamConfig(tasks=TASKS), SHAPE)
    assert images == extraction.tally.done == extraction.tally.total
    found = sum(path.stat().st_size for path in (tmp_path / part.name).rglob("*.npy"))
    assert 0.5 * found - 5000 < size < 2 * found + 5000


# On disk


@pytest.mark.slow
def test_opened_features_match_the_extracted_parts(folders):
    opened = open_drifting(list(folders.values()), verify=True)
    assert opened.manifest["part"] == "start" and opened.classes == list("abcdef")
    assert opened.train_maps.shape == (150, *SHAPE) and opened.train_pooled.shape == (150, SHAPE[0])
    assert torch.equal(opened.train_labels, torch.from_numpy(IMAGES.train_labels))
    assert torch.equal(opened.test_labels, torch.from_numpy(IMAGES.test_labels))
    assert torch.equal(opened.test_order, torch.cat(STREAM.test))
    assert sorted(opened.visits) == [(s, 10) for s in SEEDS]
    assert sorted(opened.joint) == [(s, 10, 1) for s in SEEDS]
    assert sorted(opened.tested) == [(seed, 10, passes) for seed in SEEDS for passes in (1, 2, 3)]
    for seed in SEEDS:
        for task, visits in enumerate(opened.visits[seed, 10]):
            assert torch.equal(visits.order, STREAM.order(task, 0, [seed])[0])
            assert visits.maps.dtype == torch.float16 and len(visits.maps) == len(visits.order)
            assert torch.equal(pool(visits.maps), visits.pooled)
            assert torch.equal((visits.maps != 0).sum((2, 3)), visits.nonzero.long())
        (joint,) = opened.joint[seed, 10, 1]
        assert torch.equal(joint.order, STREAM.joint().order(0, 0, [seed])[0])
        assert len(joint.pooled) == 150 and not len(joint.maps)
        assert opened.joint_tested[seed, 10, 1].shape == (24, SHAPE[0])


def test_maps_equal_torchs_in_train_mode_batch_by_batch(features):
    """Compare with torch's network in train mode, one batch at a time."""
    network = make_small()
    for layer in BatchNorms(network.body).layers.values():
        layer.train()
    for seed in SEEDS:
        visits = features.visits[seed, 10][1]
        for part in torch.arange(50).split(10):
            index = visits.order[part].numpy()
            with torch.inference_mode():
                maps = network(network.preprocess(torch.from_numpy(IMAGES.train_images[index])))
            assert torch.equal(maps.half(), visits.maps[part])


def test_after_a_task_the_tasks_seen_and_the_next_are_tested(folders, features):
    """They are evaluated with the statistics after the task, for each number of passes."""
    sizes = [len(index) for index in STREAM.test]
    for (seed, _, passes), tested in features.tested.items():
        assert [len(rows) for rows in tested] == [sum(sizes[: task + 2]) for task in range(TASKS)]
        statistics = load_file(folders[replace(TRAIN, seed=seed)] / "task2" / STATISTICS)[f"passes{passes}"]
        network = make_small()
        BatchNorms(network.body).set(statistics)
        images = torch.from_numpy(IMAGES.test_images[features.test_order.numpy()])
        with torch.inference_mode():
            maps = network(network.preprocess(images))
        torch.testing.assert_close(tested[2], pool(maps), rtol=5e-3, atol=5e-3)
    assert (features.tested[0, 10, 1][2] - features.tested[0, 10, 3][2]).abs().max() > 0.05
    assert (features.tested_at_start - features.tested[0, 10, 1][2]).abs().max() > 0.05


@pytest.mark.parametrize(("kept", "held"), [(Kept(7), 10), (Kept(10), 10), (Kept(11), 20), (Kept(0), 0)])
def test_number_of_kept_maps_is_rounded_up_to_whole_batches(features, tmp_path, kept, held):
    part = replace(TRAIN, kept=kept)
    opened = open_drifting(list(extract(tmp_path, [START, part]).values()))
    for few, every in zip(opened.visits[0, 10], features.visits[0, 10], strict=True):
        assert len(few.maps) == held
        assert torch.equal(few.maps, every.maps[50 - held :])
        assert torch.equal(few.pooled, every.pooled) and torch.equal(few.nonzero, every.nonzero)


def test_kept_maps_hold_the_required_number_of_nonzero_values(features, tmp_path):
    part = replace(TRAIN, kept=Kept(0, 9))
    opened = open_drifting(list(extract(tmp_path, [START, part]).values()))
    for few, every in zip(opened.visits[0, 10], features.visits[0, 10], strict=True):
        count, wanted = len(few.maps), 9 * 192
        assert torch.equal(few.maps, every.maps[50 - count :])
        assert int((few.maps != 0).sum()) >= wanted > int((few.maps[10:] != 0).sum())


@pytest.mark.reliability("missing-maps")
def test_reading_a_map_that_was_not_kept_names_the_remedy(folders, tmp_path):
    part = replace(TRAIN, kept=Kept(10))
    few = extract(tmp_path, [part])[part]
    others = [folder for part, folder in folders.items() if part != TRAIN]
    opened = open_drifting([*others, few])
    views = DriftingReplicas(opened, [0], 10)
    order = opened.visits[0, 10][1].order
    assert len(views.maps(0, order[-10:])) == 10
    with pytest.raises(
        UserError, match=r"^seed 0: a memory holds older samples of task 2 .* 10 .*`maps: all`"
    ):
        views.maps(0, order[-11:])
    with pytest.raises(UserError, match="maps: all"):
        run_cell(opened, drifting_cell("er", "sharc", seeds=[0], buffer=36))
    run_cell(opened, drifting_cell("er", "sharc", seeds=[0], buffer=12))


class Counted:
    """An array of images that counts how many are read. Reading the image at `broken` raises."""

    def __init__(self, images: np.ndarray, broken: int | None = None):
        self.images, self.broken, self.read, self.shape = images, broken, 0, images.shape

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if self.broken is not None and self.broken in np.arange(len(self.images))[index]:
            raise KeyboardInterrupt
        self.read += len(self.images[index])
        return self.images[index]


def watched(train_broken: int | None = None, test_broken: int | None = None) -> SimpleNamespace:
    images = {
        "train_images": Counted(IMAGES.train_images, train_broken),
        "test_images": Counted(IMAGES.test_images, test_broken),
    }
    return SimpleNamespace(**(vars(IMAGES) | images), classes=IMAGES.classes)


def run_part(prepared, part: Part, out: Path, train: Path | None = None) -> int:
    """Extract a part; return the number of images that were read."""
    Extraction(prepared, STREAM, make_small()).run(part, out, train)
    return prepared.train_images.read + prepared.test_images.read


TESTS = Part("tests", 0, 0, 10, 2)


@pytest.mark.reliability("killed-drifting-extraction")
@pytest.mark.parametrize("part", [TRAIN, TESTS])
def test_an_interrupted_extraction_goes_on_at_a_tasks_start(folders, tmp_path, part):
    """Finished tasks are not run again, and all files equal those of an uninterrupted extraction."""
    out, train = tmp_path / "part", folders[TRAIN]
    last = {TRAIN: {"train_broken": int(STREAM.order(2, 0, [0])[0, 25])}, TESTS: {"test_broken": 3}}[part]
    if part is TESTS:  # an image of the last task, which is first tested after the second task
        last = {"test_broken": int(STREAM.test[2][1])}
    with pytest.raises(KeyboardInterrupt):
        run_part(watched(**last), part, out, train)
    finished = sorted(path.name for path in out.iterdir())
    assert finished == (["task0", "task1"] if part is TRAIN else ["task0"])
    with pytest.raises(UserError, match=r"missing or incomplete \(no manifest.json\)"):
        open_drifting([folders[START], out])
    before = contents(out)
    images = run_part(watched(), part, out, train)
    assert images == (50 if part is TRAIN else 24 + 24), "the tasks that were left"
    assert contents(out).items() >= before.items()
    assert contents(out) == contents(folders[part])


@pytest.mark.reliability("killed-drifting-extraction")
def test_a_damaged_task_is_made_again_and_no_other(folders, tmp_path):
    """The extraction was interrupted at its end. Size and mtime of the damaged file are unchanged."""
    out = tmp_path / "part"
    shutil.copytree(folders[TRAIN], out)
    (out / "manifest.json").unlink()
    path = out / "task1" / "pooled.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    stamp(path.parent, [path.name])
    assert run_part(watched(), TRAIN, out) == 50
    assert contents(out) == contents(folders[TRAIN])


@pytest.mark.parametrize("name", [STATISTICS, "maps.npy", "manifest.json"])
def test_a_task_that_lacks_a_file_is_made_again(folders, tmp_path, name):
    out = tmp_path / "part"
    shutil.copytree(folders[TRAIN], out)
    (out / "manifest.json").unlink()
    (out / "task0" / name).unlink()
    assert run_part(watched(), TRAIN, out) == 50
    assert contents(out) == contents(folders[TRAIN])


def test_a_part_that_was_complete_is_made_from_its_beginning(folders, tmp_path):
    """The old part is not reused, and it can be read until the new one is complete."""
    out = tmp_path / "part"
    shutil.copytree(folders[TRAIN], out)
    with pytest.raises(KeyboardInterrupt):
        run_part(watched(int(STREAM.train[0][0])), TRAIN, out)
    open_drifting([folders[START], out], verify=True)
    assert run_part(watched(), TRAIN, out) == 150
    assert contents(out) == contents(folders[TRAIN])


def test_batches_of_two_sizes_are_two_features(folders, tmp_path):
    """A cell reads only the part of its own batch size, and reports if it is missing."""
    other = [replace(part, batch=25) for part in (TRAIN, TESTS)]
    both = open_drifting(
        [*(folders[part] for part in (START, TRAIN, TESTS)), *extract(tmp_path, other).values()]
    )
    alone = open_drifting([folders[part] for part in (START, TRAIN, TESTS)])
    cell = drifting_cell("er", seeds=[0])
    assert run_cell(both, cell)["matrix"] == run_cell(alone, cell)["matrix"]
    bigger = cell.model_copy(update={"training": cell.training.model_copy(update={"batch_size": 25})})
    assert run_cell(both, bigger)["matrix"] != run_cell(both, cell)["matrix"]
    with pytest.raises(UserError, match=r"lack seed 0 in batches of 25"):
        run_cell(alone, bigger)


def test_the_same_seed_gives_the_same_bits(folders, tmp_path):
    for part in (START, TRAIN, TESTS, Part("joint", 0, 0, 10, 1)):
        (again,) = extract(tmp_path, [part]).values()
        assert contents(again) == contents(folders[part])


def test_another_seed_gives_other_features(features):
    one, other = (features.visits[seed, 10][0] for seed in (0, 1))
    assert not torch.equal(one.order, other.order)
    same = other.pooled[other.order.argsort()] - one.pooled[one.order.argsort()]
    assert same.abs().max() > 0.05, "an image's features depend on its company"
    assert not torch.equal(features.tested[0, 10, 1][0], features.tested[1, 10, 1][0])


def test_parts_of_one_extraction_do_not_depend_on_those_before(folders, tmp_path):
    """One object extracts all parts, so that each starts after the statistics of another."""
    extraction = Extraction(IMAGES, STREAM, make_small())
    parts = [Part("joint", 0, 0, 10, 1), TRAIN, replace(TRAIN, seed=1), TESTS, START]
    for part in parts:
        extraction.run(part, tmp_path / part.name, tmp_path / TRAIN.name)
    different = [part.name for part in parts if contents(tmp_path / part.name) != contents(folders[part])]
    assert not different


def test_parts_of_other_data_or_another_network_are_refused(folders, tmp_path):
    other = PreparedData(IMAGES.manifest | {"source": "others"}, *(getattr(IMAGES, name) for name in NAMES))
    (theirs,) = extract(tmp_path / "data", [TRAIN], prepared=other).values()

    def another_network() -> Backbone:
        backbone = make_small()
        backbone.sha256 = "1" * 64
        return backbone

    (another,) = extract(tmp_path / "network", [TRAIN], another_network).values()
    for folder in (theirs, another):
        with pytest.raises(UserError, match=r"come from other data or another backbone than the rest"):
            open_drifting([folders[START], folder])


@pytest.mark.parametrize(("change", "message"), [("short", "bytes instead of"), ("gone", "is missing")])
def test_damaged_part_is_reported_by_name(folders, tmp_path, change, message):
    shutil.copytree(folders[TRAIN], tmp_path / "part")
    path = tmp_path / "part" / "task2" / "pooled.npy"
    path.write_bytes(path.read_bytes()[:-1]) if change == "short" else path.unlink()
    with pytest.raises(UserError, match=rf"task2/pooled\.npy .*{message}"):
        open_drifting([folders[START], tmp_path / "part"])


@pytest.mark.parametrize("change", [{"part": "nonsense"}, {"part": None}, {"counts": {"tasks": 3}}])
def test_damaged_manifest_is_reported_by_name(folders, tmp_path, change):
    shutil.copytree(folders[START], tmp_path / "part")
    path = tmp_path / "part" / "manifest.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(UserError, match=r"part/manifest\.json is damaged"):
        open_drifting([tmp_path / "part"])


def test_seed_that_was_not_extracted_is_reported(features):
    with pytest.raises(UserError, match="the drifting features lack seed 7"):
        run_cell(features, drifting_cell("er", seeds=[0, 7]))


@pytest.mark.slow
def test_a_batch_of_one_image_with_maps_of_one_position_is_refused(tmp_path):
    """It has no variance. Maps with several positions and batches of two images have one."""
    small, large = load(tmp_path, side=8), load(tmp_path)
    assert small.map_size == (1, 1) and large.map_size == (2, 2)
    with pytest.raises(
        UserError, match=r"^batch_norm drifting: a batch of .* has no variance: .*batch_size"
    ) as caught:
        extract(tmp_path / "a", [Part("train", 0, 0, 7, kept=ALL)], lambda: small)
    assert "\n" not in str(caught.value)
    extract(tmp_path / "b", [Part("train", 0, 0, 8, kept=ALL)], lambda: small)
    extract(tmp_path / "c", [Part("train", 0, 0, 7, kept=ALL)], lambda: large)


# Views, and networks without batch norm


def test_parts_use_the_augmented_images_of_their_view(tmp_path):
    """Images are equal bit for bit in every block. Seed s reads view 1 + s mod 3."""
    seen: list[torch.Tensor] = []

    def recording() -> Backbone:
        backbone = make_bare()
        preprocess = type(backbone).preprocess.__get__(backbone)
        backbone.preprocess = lambda images: (seen.append(images), preprocess(images))[1]
        return backbone

    for seed in (0, 4):
        view = view_of(seed, 3)
        part = Part("train", seed, view, 10, kept=ALL)
        seen.clear()
        extract_features(IMAGES, recording(), tmp_path / f"view{view}", view=view)
        wanted = torch.cat(seen)[:150]
        seen.clear()
        extraction = Extraction(IMAGES, STREAM, recording())
        extraction.run(part, tmp_path / part.name)
        order = torch.cat([STREAM.order(task, 0, [seed])[0] for task in range(TASKS)])
        assert torch.equal(torch.cat(seen), wanted[order])
        assert not torch.equal(wanted, torch.from_numpy(IMAGES.train_images))


@pytest.mark.parametrize("views", [1, 3])
def test_without_batch_norm_drifting_features_are_frozen_ones(tmp_path, views):
    """They are equal up to rounding, which depends on the batch size."""
    seed = 4
    view = view_of(seed, views)
    kinds = {"train": {"kept": ALL}, "tests": {"passes": 2}, "joint": {"passes": 1}}
    parts = [START, *(Part(kind, seed, view, 10, **others) for kind, others in kinds.items())]
    drifting = open_drifting(list(extract(tmp_path, parts, make_bare).values()))
    extract_features(IMAGES, make_bare(), tmp_path / "frozen", view=view_of(seed, views))
    if view_of(seed, views) > 1:  # this view has no test images
        frozen = SimpleNamespace(
            train_maps=torch.from_numpy(np.load(tmp_path / "frozen/train_maps.npy")),
            train_pooled=torch.from_numpy(np.load(tmp_path / "frozen/train_pooled.npy")),
            test_pooled=drifting.tested_at_start[drifting.test_order.argsort()],
        )
    else:
        frozen = open_features(tmp_path / "frozen")
    close = {"rtol": 2e-3, "atol": 2e-3}
    for visits in [*drifting.visits[seed, 10], *drifting.joint[seed, 10, 1]]:
        torch.testing.assert_close(visits.pooled, frozen.train_pooled[visits.order], **close)
        if len(visits.maps):
            torch.testing.assert_close(visits.maps, frozen.train_maps[visits.order], **close)
    tests = frozen.test_pooled[drifting.test_order]
    for tested in [
        *drifting.tested[seed, 10, 2],
        drifting.tested_at_start,
        drifting.joint_tested[seed, 10, 1],
    ]:
        torch.testing.assert_close(tested, tests[: len(tested)], **close)


# Learner and memory


@pytest.fixture
def tested(monkeypatch):
    """Record the method's state and the pooled test vectors of each evaluation."""
    seen = []

    def recording(tests, stream, method, device="cpu"):
        rows = [tests.tested(index) for index in stream.test]
        seen.append((state(method), [None if row is None else row.clone() for row in rows]))
        return evaluate(tests, stream, method, device)

    monkeypatch.setattr(learner, "evaluate", recording)
    return seen


CASES = [(m, "plain") for m in METHODS.names()] + [("er", "sharc"), ("derpp", "sharc"), ("gem", "sharc")]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "variant"), CASES)
def test_seeds_together_equal_seeds_apart(features, tested, side_by_side, method, variant):
    """Results are equal bit for bit; each seed reads the features of that seed."""
    cell = drifting_cell(method, variant)
    together = run_cell(features, cell)
    ours = list(tested)
    for r, seed in enumerate(SEEDS):
        tested.clear()
        alone = run_cell(features, cell.model_copy(update={"seeds": [seed]}))
        for (learned, _), (own, _) in zip(ours, tested, strict=True):
            assert is_replica(learned, r, own)
        for scenario in ("class_il", "task_il"):
            assert together["matrix"][scenario][r] == alone["matrix"][scenario][0]
            assert together["untrained"][scenario][r] == alone["untrained"][scenario][0]
        assert together["costs"]["recall_mse"][r] == alone["costs"]["recall_mse"][0]


@pytest.mark.parametrize(
    "changes", [{"selection": "reservoir"}, {"storage": "int8"}, {"budget_unit": "nonzero"}]
)
def test_every_way_of_storing_works_on_drifting_features(features, changes):
    for variant in ("plain", "sharc"):
        if variant == "sharc" and "selection" in changes:
            changes = changes | {"saliency_at": "visit"}
        document = run_cell(features, drifting_cell("er", variant, **changes))
        assert min(document["costs"]["samples_stored"]) > 0
        assert np.isfinite(np.array(document["matrix"]["class_il"], float)[:, 2]).all()


@pytest.mark.parametrize("selection", ["last", "batches", "reservoir"])
@pytest.mark.parametrize("unit", ["slots", "floats", "nonzero", "bytes"])
def test_a_plain_float16_memory_reads_no_maps(features, mapless, selection, unit):
    """The run is the same if no maps were kept."""
    for method in ("er", "derpp"):
        cell = drifting_cell(method, selection=selection, budget_unit=unit, seeds=[1])
        assert run_cell(mapless, cell)["matrix"] == run_cell(features, cell)["matrix"]


def test_what_is_beyond_the_next_task_is_not_tested(features):
    matrix = np.array(run_cell(features, drifting_cell("er"))["matrix"]["class_il"], float)
    untested = np.isnan(matrix)
    assert untested[:, 0, 2].all() and untested.sum() == len(SEEDS)


def test_a_memory_stores_the_maps_of_the_visit(features):
    """Maps are those of its seed, with dropped channels zero; it replays their means."""
    cell = drifting_cell("er", storage="float32", budget_unit="slots")
    memory = learner.make_memory(features, STREAM, cell)
    head = learner.make_head("linear", 0, len(SEEDS), SHAPE[0], CLASSES)
    with torch.no_grad():
        for task in range(2):
            memory.store(STREAM.order(task, 0, SEEDS), head)
    for task, stored in enumerate(memory.stored):
        for r, seed in enumerate(SEEDS):
            visits, count = features.visits[seed, 10][task], stored.index.shape[1]
            assert torch.equal(stored.index[r], visits.order[-count:])
            assert torch.equal(stored.sparse[r].decode(), visits.maps[-count:].float())
            assert torch.equal(stored.x[r], visits.pooled[-count:])


def test_before_the_stream_the_frozen_features_are_tested(features, tmp_path):
    """They are equal up to rounding, which depends on the batch size."""
    network = make_small()
    extract_features(IMAGES, evaluated(network, BatchNorms(network.body).statistics()), tmp_path / "frozen")
    wanted = open_features(tmp_path / "frozen").test_pooled[features.test_order]
    torch.testing.assert_close(features.tested_at_start, wanted, rtol=2e-3, atol=2e-3)
    tests = DriftingReplicas(features, SEEDS, 10).tests(None, 2)
    torch.testing.assert_close(
        tests.tested(torch.tensor([3, 1]))[0],
        wanted[features.test_order.argsort()][[3, 1]],
        rtol=2e-3,
        atol=2e-3,
    )


def test_joint_trains_on_the_shuffled_stream_and_is_tested_once(features, tested):
    document = run_cell(features, drifting_cell("joint"))
    matrix = np.array(document["matrix"]["class_il"], float)
    assert np.isnan(matrix[:, :2]).all() and np.isfinite(matrix[:, 2]).all()
    for rows, index in zip(tested[-1][1], STREAM.test, strict=True):
        at = torch.isin(features.test_order, index)
        for r, seed in enumerate(SEEDS):
            assert torch.equal(rows[r], features.joint_tested[seed, 10, 1][at])


def test_clsers_average_is_tested_on_the_statistics_that_the_network_came_with(features, tested):
    """The average is a copy that never processes training images; only the trained network drifts."""
    for name in ("stable", "plastic", "net"):
        tested.clear()
        settings = drifting_cell("clser").method_settings | {"evaluated": name}
        run_cell(features, drifting_cell("clser", method_settings=settings))
        assert len(tested) == 1 + TASKS
        for task, (_, tests) in enumerate(tested, -1):
            for number, index in enumerate(STREAM.test):
                at = torch.isin(features.test_order, index)
                if name != "net" or task < 0:
                    assert torch.equal(tests[number][0], features.tested_at_start[at])
                elif number > task + 1:
                    assert tests[number] is None
                else:
                    for r, seed in enumerate(SEEDS):
                        rows = features.tested[seed, 10, 2][task]
                        assert torch.equal(tests[number][r], rows[at[: len(rows)]])


# A grid


@pytest.mark.slow
def test_a_grid_makes_the_parts_that_its_cells_read(tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    save_file(build_classifier("resnet_small", 5).state_dict(), weights)
    monkeypatch.setattr("sharc_core.stages.build._ensure_inputs", lambda *_: None)
    monkeypatch.setattr("sharc_core.stages.build.open_prepared", lambda folder: IMAGES)
    grid = load_grid(
        {
            "datasets": {"greys": {"source": "digits", "tasks": TASKS}},
            "backbone": {
                "arch": "resnet_small",
                "weights": str(weights),
                "image_size": 16,
                "batch_norm": ["frozen", "drifting", "adapted"],
            },
            "data_dir": str(tmp_path / "data"),
            "methods": ["joint", "er"],
            "buffers": [6],
            "seeds": [0],
        }
    )
    matrices = {}
    for backbone in grid.backbones:
        opened = ensure_features(grid, "greys", backbone.path_name)
        found = [cell for cell in cells(grid) if cell.backbone == backbone.path_name]
        matrices[backbone.batch_norm] = [run_cell(opened, cell)["matrix"] for cell in found]
    assert matrices["frozen"] != matrices["adapted"] != matrices["drifting"] != matrices["frozen"]
    layout = Layout(grid)
    joint, *er = (cell for cell in cells(grid) if cell.batch_norm == "drifting")
    made = layout.features("greys", joint.backbone, START).parent
    names = {
        method: {folder.name for folder in layout.read_by(cs)}
        for method, cs in (("joint", [joint]), ("er", er))
    }
    assert names["joint"] == {"start", "joint-seed0-view0-batch10-passes1"}
    assert names["er"] == {
        "start",
        "train-seed0-view0-batch10-last256",
        "tests-seed0-view0-batch10-passes2",
    }
    assert {path.name for path in made.iterdir()} == names["joint"] | names["er"]


def test_a_job_shows_a_seed_its_view_of_the_training_images(tmp_path, monkeypatch):
    """Parts with only test images use unaugmented images."""
    shown = {}

    class Recording(Extraction):
        def run(self, part, out, train=None):
            shown[part.kind, part.seed] = part.view

    monkeypatch.setattr("sharc_core.stages.build.Extraction", Recording)
    monkeypatch.setattr("sharc_core.stages.build.open_prepared", lambda folder: IMAGES)
    monkeypatch.setattr("sharc_core.stages.build.check_weights", lambda *_: None)
    monkeypatch.setattr("sharc_core.backbones.registered.load_backbone", lambda *_, **__: make_small())
    backbone = make_config(views=3).model_dump()
    datasets = {"greys": {"source": "digits", "tasks": 2}}
    values = {"datasets": datasets, "backbone": backbone, "data_dir": str(tmp_path)}
    grid = load_grid(values | {"methods": ["joint", "er"], "buffers": [6], "seeds": [0, 4]})
    for key in extracted_views(grid):
        build_features(grid, *key)
    assert shown["start", None] is None
    for seed in (0, 4):
        assert shown["train", seed] == shown["joint", seed] == view_of(seed, 3) > 0


def test_no_code_of_methods_and_memories_is_behind_the_features():
    """Changing methods or memories triggers no extraction; changing streams or batch norms does."""
    roots = features_code(make_config())
    files = provenance._closure(provenance._files_of(roots), provenance.STAGE_WITHOUT)
    names = {str(path.relative_to(provenance.PACKAGE)) for path in files}
    assert {"features/drifting/extract.py", "backbones/batch_norm.py", "streams/stream.py"} <= names
    assert (
        not {
            "memory/episodic.py",
            "heads/base.py",
            "memory/completion.py",
            "methods/base.py",
            "associative/base.py",
        }
        & names
    )


@pytest.mark.parametrize("given", [{"passes": 2}, {"maps": "all"}])
def test_a_setting_of_drifting_features_needs_a_backbone_that_drifts(tmp_path, given):
    block = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32} | given
    values = {"datasets": {"greys": {"source": "digits", "tasks": 5}}, "backbone": block, "methods": ["er"]}
    values |= {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "results")}
    (name,) = given
    with pytest.raises(UserError, match=f"^config: backbone: {name} has no effect on resnet_small-pretrain"):
        check_inputs(load_grid(values))
    check_inputs(load_grid(values | {"protocol": ["paper", "paper+batch_norm"]}))
