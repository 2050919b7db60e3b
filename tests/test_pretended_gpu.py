"""All that computes on a GPU, on a pretended one: nothing on the wrong device, and the CPU's own bits."""

import numpy as np
import pytest
import torch
from factories import QUICK, make_cell, make_features
from pretended_gpu import CPU, GPU, WrongDevice, pretended_gpu
from safetensors.torch import save_file
from test_features import random_images
from test_pretrain import coloured_squares
from torch import nn

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.batch_norm import adapted
from sharc_core.backbones.preprocess import of_images, resolve
from sharc_core.backbones.pretraining import pretrain
from sharc_core.common.determinism import AveragePool, replace_pools, same_bits
from sharc_core.common.files import read_json
from sharc_core.features.cache import extract_features, open_features
from sharc_core.features.drifting.extract import Extraction
from sharc_core.features.drifting.part import START, Kept, Part
from sharc_core.grid.cell import HeadConfig
from sharc_core.learning.learner import make_memory, run_cell
from sharc_core.methods import METHODS
from sharc_core.saliency import SALIENCIES
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

torch.set_num_threads(1)
NAME = f"pretended GPU (CUDA {torch.version.cuda}, cuDNN 1)"

CASES = [(m, "plain") for m in METHODS.names()]
CASES += [(m, "sharc") for m in METHODS.names() if METHODS.get(m).uses_memory]


# --- the pretended GPU itself ------------------------------------------------------------------------


@pytest.fixture
def gpu():
    with pretended_gpu() as places, same_bits("cuda"):
        yield places


def test_tensors_know_where_they_are_said_to_be(gpu):
    here, there = torch.ones(2, 3), torch.ones(2, 3, device="cuda")
    assert (here.device, there.device) == (CPU, GPU)
    assert there.is_cuda and not here.is_cuda and not there.cpu().is_cuda
    for other in (
        *(there.T, there[0], there.unflatten(1, (3, 1)), there.split(1)[0], nn.Parameter(there)),
        *(
            there + 1,
            there.double(),
            there.unique(),
            there.nonzero(),
            there.sort().values,
            torch.eye(2).to(GPU),
        ),
        *(there.new_zeros(2), torch.zeros_like(there), torch.empty(0, device="cuda:0"), here.to(there)),
        *(torch.tensor([1.0], device="cuda"), torch.arange(3, device=GPU), here.to("cuda", torch.float64)),
    ):
        assert other.device == GPU
    for other in (there.cpu(), there.to("cpu"), there.new_zeros(2, device="cpu"), here + 1, here.to(CPU)):
        assert other.device == CPU
    assert there.sum().item() == 6 and there.tolist() == here.tolist()
    moved = here.to("cuda")
    moved += 1
    assert here.sum() == 6, "a copy, as on a real one"
    assert nn.Linear(3, 1).to("cuda")(there).device == GPU


@pytest.mark.parametrize(
    "wrong",
    [
        lambda here, there: here + there,
        lambda here, there: here @ there.T,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.where(there > 0, here, there),
        lambda here, there: here.add_(there.sum()),
        lambda here, there: here[there[0].long()],
        lambda here, there: there.index_put_((torch.tensor([0]),), here[0]),
        lambda here, there: torch.equal(here, there),
        lambda here, there: there.numpy(),
        lambda here, there: np.asarray(there),
        lambda here, there: torch.rand(2, device="cuda", generator=torch.Generator()),
        lambda here, there: there.normal_(),
        lambda here, there: there.cumsum(0),
        lambda here, there: there.median(0),
    ],
)
def test_what_a_gpu_refuses_is_refused(gpu, wrong):
    with pytest.raises(WrongDevice):
        wrong(torch.ones(3, 3), torch.ones(3, 3, device="cuda"))


def test_what_a_gpu_takes_is_taken(gpu):
    there, index = torch.ones(3, 3, device="cuda"), torch.tensor([0, 1])
    assert there[index].device == (there * torch.tensor(2.0)).device == GPU
    there[index] = torch.tensor(5.0)
    there[2] = 1
    assert torch.ones(3).copy_(there[0]).device == CPU and there.long().cumsum(0).device == GPU
    assert there.sum() == 33


def test_gradients_lie_where_their_tensors_do(gpu):
    weights = torch.ones(3, 3, device="cuda", requires_grad=True)
    (weights @ torch.ones(3, 2, device="cuda")).square().sum().backward()
    assert weights.grad.device == GPU
    torch.optim.Adam([weights]).step()
    assert weights.device == GPU


def test_a_product_outside_of_same_bits_is_refused():
    with pretended_gpu():
        with pytest.raises(WrongDevice, match="outside of same_bits"):
            torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")
        assert torch.ones(2, 2) @ torch.ones(2, 2) is not None


# --- cells -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features():
    return make_features(channels=16, train_per_class=16, test_per_class=5)


def check(features, cell) -> None:
    """The same cell on the CPU and on the pretended GPU: every number of it."""
    here = run_cell(features, cell)
    with pretended_gpu() as places:
        there = run_cell(features, cell.model_copy(update={"device": "cuda"}))
    assert places.on_gpu > 100
    on_cpu, on_gpu = (document["trainings"][0]["versions"] for document in (here, there))
    assert on_gpu == on_cpu | {"device": NAME}
    for document in (here, there):
        del document["costs"]["train_seconds"]
    for part in ("matrix", "untrained", "costs", "seeds"):
        assert there[part] == here[part]


def quick(kind: str, **changes) -> dict:
    """Fields of a cell with an associative memory of small settings."""
    settings = ASSOCIATIVE_MEMORIES.get(kind).Settings(**{**QUICK.get(kind, {}), **changes})
    return {"associative_memory": kind, "associative_settings": settings.model_dump()}


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_every_method(features, method, variant):
    check(features, make_cell(method, variant, seeds=[0, 1]))


@pytest.mark.parametrize("kind", ASSOCIATIVE_MEMORIES.names())
def test_every_associative_memory(features, kind):
    check(features, make_cell("er", "sharc", seeds=[0], forget_every=2, forget_beta=0.1, **quick(kind)))


@pytest.mark.parametrize("kind", ASSOCIATIVE_MEMORIES.names())
def test_associative_memories_are_where_the_cell_is(features, kind):
    """On the CPU they would give the same numbers, late."""
    stream = make_stream(features.train_labels, features.test_labels, 6, StreamConfig(tasks=3))
    with pretended_gpu(), same_bits("cuda"):
        memory = make_memory(features, stream, make_cell("er", "sharc", seeds=[0], **quick(kind)), GPU)
        (associative,) = memory.sharc.associative
        assert {tensor.device for tensor in associative.tensors().values()} <= {GPU}
        associative.write(features.train_maps[:6], features.train_labels[:6])
        assert {tensor.device for tensor in associative.tensors().values()} <= {GPU}
        masked, mask = features.train_maps[:6] * 0, torch.zeros(6, 16, dtype=torch.bool)
        assert associative.read(masked, mask, features.train_labels[:6]).device == GPU


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("hopfield", {"update": "asynchronous", "rule": "hebbian", "threshold": "mean", "updates": 1}),
        ("modern_hopfield", {"beta": 2.0, "similarity": "dot", "iterations": 2}),
        ("pcn", {"layers": 3, "activation": "gelu"}),
        ("bayespcn", {"layers": 3, "log_joint": "map", "tolerance": None, "activation": "gelu"}),
        ("bayespcn", {"layers": 3, "coupled_reading": True}),
        ("bayespcn_exact", {"layers": 3, "coupled_reading": True}),
    ],
)
def test_other_ways_of_associative_memories(features, kind, settings):
    check(features, make_cell("er", "sharc", seeds=[0], **quick(kind, **settings)))


@pytest.mark.parametrize("saliency", SALIENCIES.names())
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_saliency(features, saliency, head):
    head = HeadConfig(kind=head, hidden=8)
    check(features, make_cell("agem", "sharc", seeds=[0, 1], saliency=saliency, head=head))


@pytest.mark.parametrize(
    ("method", "variant", "changes"),
    [
        ("er", "plain", {"method_settings": {"replay": "whole"}, "storage": "int8"}),
        ("er", "sharc", {"read": "at_store", "storage": "float32", **quick("mean")}),
        ("er", "sharc", {"theta": None, "mass": 0.7, "storage": "int8"}),
        ("derpp", "sharc", {"importance": "positive", "budget_unit": "nonzero", "read": "at_store"}),
        ("derpp", "sharc", {"budget_unit": "bytes", "count_associative_memory": True, "buffer": 24}),
        ("derpp", "plain", {"selection": "reservoir"}),
        ("clser", "sharc", {"selection": "reservoir", "saliency_at": "visit", "storage": "int8"}),
        (
            "derpp",
            "sharc",
            {
                "method_settings": {"logits_at": "visit"},
                "selection": "batches",
                "saliency_at": "visit",
                "read": "per_batch",
                "complete": "last_batches",
                **quick("bayespcn"),
            },
        ),
        ("mer", "plain", {"method_settings": {"beta": 0.5, "gamma": 0.5, "batches": 2, "inner": "sample"}}),
    ],
)
def test_other_ways_of_storing(features, method, variant, changes):
    cell = make_cell(method, variant, seeds=[0, 1])
    settings = cell.method_settings | changes.get("method_settings", {})
    check(features, cell.model_copy(update={**changes, "method_settings": settings}))


# --- backbones -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("view", [0, 1])
def test_features(tmp_path, precision, view):
    save_file(build_classifier("resnet_small", 5).state_dict(), path := tmp_path / "w.safetensors")
    size = {"image_size": 24, "resize_size": 28, "interpolation": "bicubic"}
    block = {"arch": "resnet_small", "weights": str(path), "precision": precision, **size}
    data = random_images(train=9, test=3)

    def extract(folder, device):
        backbone = load_backbone(BackboneConfig(**block), path, device)
        extract_features(data, backbone, folder, view=view, batch_size=8, device=device)
        return open_features(folder, verify=True)

    here = extract(tmp_path / "cpu", "cpu")
    with pretended_gpu() as places:
        there = extract(tmp_path / "cuda", "cuda")
    assert places.on_gpu > 100
    assert (here.manifest["device"], there.manifest["device"]) == ("cpu", NAME)
    assert here.manifest["files"] == there.manifest["files"]  # their checksums


def test_drifting_and_adapted_features(tmp_path):
    save_file(build_classifier("resnet_small", 5).state_dict(), path := tmp_path / "w.safetensors")
    config = BackboneConfig(
        arch="resnet_small", weights=str(path), image_size=24, batch_norm="drifting", normalisation="dataset"
    )
    data = random_images(train=12, test=6)
    labels = [torch.from_numpy(np.array(x)) for x in (data.train_labels, data.test_labels)]
    stream = make_stream(*labels, 3, StreamConfig(tasks=1))
    form = of_images(resolve(config), data.train_images)
    train = Part("train", 0, 1, 5, kept=Kept(None))
    parts = [START, train, Part("tests", 0, 1, 5, 2), Part("joint", 0, 1, 5, 1)]

    def extract(folder, device):
        network = load_backbone(config, path, device, form=form, fuse=False)
        extraction = Extraction(data, stream, network, device=device)
        for part in parts:
            extraction.run(part, folder / part.name, folder / train.name)
        network = load_backbone(config, path, device, form=form, fuse=False)
        fixed = adapted(network, data.train_images, torch.arange(8), device)
        extract_features(data, fixed, folder / "adapted", device=device)
        return [read_json(folder / name / "manifest.json") for name in (*(p.name for p in parts), "adapted")]

    here = extract(tmp_path / "cpu", "cpu")
    with pretended_gpu() as places:
        there = extract(tmp_path / "cuda", "cuda")
    assert places.on_gpu > 100
    for one, other in zip(here, there, strict=True):
        assert (one["device"], other["device"]) == ("cpu", NAME) and one["files"] == other["files"]


@pytest.mark.parametrize("arch", ["resnet_small", "mobilenet_v3_small"])
def test_pretraining(tmp_path, arch):
    settings = {"epochs": 1, "batch_size": 16, "flip": True}
    config = BackboneConfig(arch=arch, weights="pretrain", image_size=16, pretrain=settings)
    cards = {}
    for device in ("cpu", "cuda"):
        files = tmp_path / f"{device}.safetensors", tmp_path / f"{device}.json"
        # the CPU's run too: torch takes another path through some layers where it is looked at
        with pretended_gpu(draws=True) as places:
            cards[device] = pretrain(config, coloured_squares(train=8, test=4), *files, device=device)
    assert places.on_gpu > 500
    there = cards["cuda"]
    assert there.pop("device") == NAME and cards["cpu"].pop("device") == "cpu"
    assert there | {"seconds": 0} == cards["cpu"] | {"seconds": 0}


@pytest.mark.parametrize(("size", "bins"), [((7, 7), 3), ((6, 4), (6, None)), ((2, 3), (5, 2)), ((9, 9), 9)])
def test_deterministic_pools_are_torchs(size, bins):
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    ours, torchs = AveragePool(bins), nn.AdaptiveAvgPool2d(bins)
    both = [maps.clone().requires_grad_() for _ in range(2)]
    pooled = [pool(x) for pool, x in zip((ours, torchs), both, strict=True)]
    torch.testing.assert_close(*pooled)
    for values in pooled:
        values.square().sum().backward()
    torch.testing.assert_close(both[0].grad, both[1].grad)


def test_pools_that_a_gpu_cannot_train_are_replaced():
    """As AlexNet and VGG have them."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(16, 2))
    names = list(model.state_dict())
    images = torch.randn(2, 3, 9, 9)
    with pretended_gpu(), same_bits("cuda"):
        with pytest.raises(WrongDevice, match="no deterministic implementation"):
            model.to("cuda")(images.to("cuda")).sum().backward()
        replace_pools(model)
        model(images.to("cuda")).sum().backward()
    assert list(model.state_dict()) == names


def test_settings_are_left_as_they_were_found():
    def settings():
        return [
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cudnn.allow_tf32,  # raises where torch's two spellings disagree
            torch.backends.cuda.matmul.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ]

    before, tf32 = settings(), torch.backends.cuda.matmul.allow_tf32
    with same_bits("cpu"):
        assert settings() == before
    try:
        torch.backends.cuda.matmul.allow_tf32 = True  # as NVIDIA's containers have it
        found = settings()
        with same_bits("cuda"):
            assert settings() == [False, True, "ieee", False, False, True, False, False]
        assert settings() == found
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
