"""Computation on a real GPU is close to the CPU and reproducible bit for bit."""

import numpy as np
import pytest
import torch
from factories import QUICK, make_cell, make_features
from safetensors.torch import load_file, save_file
from test_features import random_images
from test_pretrain import coloured_squares

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.batch_norm import adapted
from sharc_core.backbones.pretraining import pretrain
from sharc_core.common.device import device_text, resolve_device
from sharc_core.features.cache import extract_features, open_features
from sharc_core.features.drifting.extract import Extraction
from sharc_core.features.drifting.part import START, Kept, Part
from sharc_core.features.drifting.reading import open_drifting
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
REPLAYING = [m for m in METHODS.names() if METHODS.get(m).uses_memory]
CASES = [(m, "plain") for m in METHODS.names()] + [(m, "sharc") for m in REPLAYING]
POINTS = 5.0  # tolerance of the mean accuracy: rounding decides some of the 90 test images


@pytest.fixture(scope="module")
def features():
    return make_features(channels=32)


def check(features, cell) -> None:
    """Compare a cell's results on the CPU with two runs on the GPU."""
    here, *there = (
        run_cell(features, cell.model_copy(update={"device": device})) for device in ("cpu", "cuda", "cuda")
    )
    devices = [document["trainings"][0]["versions"]["device"] for document in (here, *there)]
    assert devices == ["cpu", *[device_text("cuda")] * 2] and devices[1] != "cpu"
    for document in (here, *there):
        del document["costs"]["train_seconds"]
    assert there[0] == there[1]
    for cost in ("episodic_bytes", "associative_bytes", "learner_bytes", "samples_stored"):
        assert there[0]["costs"][cost] == here["costs"][cost]
    for scenario in ("task_il", "class_il"):
        one, other = (np.array(d["matrix"][scenario], dtype=float) for d in (here, there[0]))
        assert np.isnan(one).tolist() == np.isnan(other).tolist()
        assert np.nanmean(np.abs(one - other)) < POINTS


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_every_method_is_close_to_the_cpu_and_reproducible(features, method, variant):
    check(features, make_cell(method, variant))


@pytest.mark.parametrize("kind", ASSOCIATIVE_MEMORIES.names())
def test_every_associative_memory_is_close_to_the_cpu_and_reproducible(features, kind):
    settings = ASSOCIATIVE_MEMORIES.get(kind).Settings(**QUICK.get(kind, {})).model_dump()
    am = {"associative_memory": kind, "associative_settings": settings}
    check(features, make_cell("er", "sharc", forget_every=2, forget_beta=0.1, **am))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("derpp", {"selection": "reservoir", "saliency_at": "visit"}),
        (
            "er",
            {"selection": "batches", "saliency_at": "visit", "read": "per_batch", "complete": "last_batches"},
        ),
    ],
)
@pytest.mark.parametrize("variant", ["plain", "sharc"])
def test_protocols_are_close_to_the_cpu_and_reproducible(features, method, variant, changes):
    """Test the memory options of `protocol: mammoth` and `protocol: code`."""
    of_sharc = {"saliency_at", "read", "complete"}
    check(
        features,
        make_cell(
            method, variant, **{k: v for k, v in changes.items() if variant == "sharc" or k not in of_sharc}
        ),
    )


def test_perfect_recall_is_plain_replay(features):
    """Maps are pooled on the CPU, so that maps recalled without error are replayed without error."""
    plain, sharc = (
        run_cell(features, make_cell("er", variant, budget_unit="slots", device="cuda"))
        for variant in ("plain", "sharc")
    )
    assert sharc["costs"]["recall_mse"] == [0.0, 0.0, 0.0] and sharc["matrix"] == plain["matrix"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_are_close_to_the_cpu_and_reproducible(tmp_path, precision):
    torch.manual_seed(0)
    save_file(build_classifier("resnet_small", 5).state_dict(), path := tmp_path / "w.safetensors")
    config = BackboneConfig(arch="resnet_small", weights=str(path), image_size=32, precision=precision)
    found = {}
    for name, device in (("here", "cpu"), ("there", "cuda"), ("again", "cuda")):
        backbone = load_backbone(config, path, device)
        extract_features(random_images(), backbone, tmp_path / name, device=device)
        found[name] = open_features(tmp_path / name, verify=True)
    assert found["there"].manifest == found["again"].manifest  # includes the checksums
    here, there = (found[name].train_maps.float() for name in ("here", "there"))
    assert (here - there).abs().max() <= (0.01 if precision == "float32" else 0.1) * here.abs().max()


def test_drifting_and_adapted_features_are_close_to_the_cpu(tmp_path):
    """Statistics and maps equal the CPU's up to rounding, which a few steps do not magnify."""
    data = random_images()
    labels = [torch.from_numpy(np.array(x)) for x in (data.train_labels, data.test_labels)]
    stream = make_stream(*labels, len(data.classes), StreamConfig(tasks=1))
    train = Part("train", 0, 0, 10, kept=Kept(None))
    found, adapted_maps = {}, {}
    torch.manual_seed(0)
    save_file(build_classifier("resnet_small", 5).state_dict(), path := tmp_path / "w.safetensors")
    config = BackboneConfig(arch="resnet_small", weights=str(path), image_size=32, batch_norm="drifting")
    for name, device in (("here", "cpu"), ("there", "cuda"), ("again", "cuda")):
        root = tmp_path / name
        extraction = Extraction(data, stream, load_backbone(config, path, device, fuse=False), device=device)
        for part in (START, train, Part("tests", 0, 0, 10, 2)):
            extraction.run(part, root / part.name, root / train.name)
        found[name] = open_drifting([root / p.name for p in (START, train, Part("tests", 0, 0, 10, 2))])
        network = adapted(
            load_backbone(config, path, device, fuse=False), data.train_images, stream.train[0], device
        )
        images = network.preprocess(torch.from_numpy(np.array(data.test_images)))
        adapted_maps[name] = network(images).cpu()
    for get in (lambda f: f.visits[0, 10][0].maps.float(), lambda f: f.tested[0, 10, 2][0]):
        here, there, again = (get(found[name]) for name in ("here", "there", "again"))
        assert torch.equal(there, again) and (here - there).abs().max() <= 0.02 * here.abs().max()
    here, there, again = adapted_maps.values()
    assert torch.equal(there, again) and (here - there).abs().max() <= 0.02 * here.abs().max()


@pytest.mark.parametrize("arch", ["resnet_small", "mobilenet_v3_small"])
def test_pretraining_is_reproducible(tmp_path, arch):
    settings = {"epochs": 2, "batch_size": 16, "lr": 0.003, "flip": True}
    config = BackboneConfig(arch=arch, weights="pretrain", image_size=32, pretrain=settings)
    cards = []
    for name in ("one", "two"):
        files = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.json"
        cards.append(pretrain(config, coloured_squares(side=32), *files, device="cuda"))
    assert cards[0]["weights_sha256"] == cards[1]["weights_sha256"]
    assert cards[0]["device"] == device_text("cuda")
    assert all(tensor.isfinite().all() for tensor in load_file(files[0]).values())


def test_auto_selects_the_gpu():
    assert resolve_device("auto").type == "cuda"
