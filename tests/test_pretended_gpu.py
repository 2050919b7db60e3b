"""Device placement on a pretended GPU: no tensor is on the wrong device, and results equal the CPU's."""

import numpy as np
import pytest
import torch
from factories import QUICK, make_cell, make_features
from pretended_gpu import CPU, GPU, WrongDevice, pretended_gpu
from safetensors.torch import save_file
from test_features import random_images
from torch import nn

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.batch_norm import adapted
from sharc_core.backbones.preprocess import of_images, resolve
from sharc_core.common.files import read_json
from sharc_core.features.cache import extract_features
from sharc_core.features.drifting.extract import Extraction
from sharc_core.features.drifting.part import START, Kept, Part
from sharc_core.grid.cell import HeadConfig
from sharc_core.learning.learner import make_memory, run_cell
from sharc_core.methods import METHODS
from sharc_core.saliency import SALIENCIES
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

NAME = f"pretended GPU (CUDA {torch.version.cuda}, cuDNN 1)"
SHARC = [m for m in METHODS.names() if METHODS.get(m).uses_memory]
CASES = [(m, "sharc" if m in SHARC else "plain") for m in METHODS.names()] + [("er", "plain")]


# --- the pretended GPU itself --------------------------------------------------------------------------


def test_tensors_report_their_device():
    with pretended_gpu():
        here, there = torch.ones(2, 3), torch.ones(2, 3, device="cuda")
        assert (here.device, there.device) == (CPU, GPU) and there.is_cuda and not here.is_cuda
        results = [there.T, there[0], there + 1, there.double(), there.nonzero(), nn.Parameter(there)]
        results += [there.new_zeros(2), torch.zeros_like(there), torch.empty(0, device="cuda:0")]
        results += [here.to(there), here.to("cuda", torch.float64), torch.tensor([1.0], device=GPU)]
        results += [nn.Linear(3, 1).to("cuda")(there), there[torch.tensor([0])], there * torch.tensor(2.0)]
        assert {tensor.device for tensor in results} == {GPU}
        on_cpu = [there.cpu(), there.to("cpu"), there.new_zeros(2, device="cpu"), here.to(CPU)]
        on_cpu.append(torch.ones(3).copy_(there[0]))
        assert {tensor.device for tensor in on_cpu} == {CPU}
        weights = torch.ones(3, 3, device="cuda", requires_grad=True)
        (there @ weights).square().sum().backward()
        assert weights.grad.device == GPU


@pytest.mark.parametrize(
    "wrong",
    [
        lambda here, there: here + there,
        lambda here, there: here @ there.T,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here.add_(there.sum()),
        lambda here, there: here[there[0].long()],
        lambda here, there: there.index_put_((torch.tensor([0]),), here[0]),
        lambda here, there: there.numpy(),
        lambda here, there: np.asarray(there),
    ],
)
def test_mixed_devices_are_refused(wrong):
    with pretended_gpu(), pytest.raises(WrongDevice):
        wrong(torch.ones(3, 3), torch.ones(3, 3, device="cuda"))


# --- cells ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def features():
    return make_features(channels=16, train_per_class=16, test_per_class=5)


def check(features, cell) -> None:
    """Check that a cell has the same numbers on the CPU and on the pretended GPU."""
    on_cpu = run_cell(features, cell)
    with pretended_gpu() as placement:
        on_gpu = run_cell(features, cell.model_copy(update={"device": "cuda"}))
    assert placement.gpu_operations > 100
    assert on_gpu["trainings"][0]["versions"]["device"] == NAME
    for document in (on_cpu, on_gpu):
        del document["costs"]["train_seconds"]
        if cell.memory_kind in ("bayespcn", "bayespcn_exact"):
            del document["costs"]["train_flops"]  # larger blocks on a GPU, so other products
    for part in ("matrix", "untrained", "costs", "seeds"):
        assert on_gpu[part] == on_cpu[part]


def quick(kind: str) -> dict:
    """Return the fields of a cell with an associative memory of small settings."""
    settings = ASSOCIATIVE_MEMORIES.get(kind).Settings(**QUICK.get(kind, {}))
    return {"associative_memory": kind, "associative_settings": settings.model_dump()}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "variant"), CASES)
def test_every_method_equals_the_cpu(features, method, variant):
    check(features, make_cell(method, variant, seeds=[0, 1]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ASSOCIATIVE_MEMORIES.names())
def test_every_associative_memory_equals_the_cpu(features, kind):
    check(features, make_cell("er", "sharc", seeds=[0], forget_every=2, forget_beta=0.1, **quick(kind)))


@pytest.mark.parametrize("kind", ASSOCIATIVE_MEMORIES.names())
def test_associative_memories_are_on_the_cells_device(features, kind):
    """On the CPU they would give the same numbers more slowly."""
    stream = make_stream(features.train_labels, features.test_labels, 6, StreamConfig(tasks=3))
    with pretended_gpu():
        memory = make_memory(features, stream, make_cell("er", "sharc", seeds=[0], **quick(kind)), GPU)
        (associative,) = memory.sharc.associative
        associative.write(features.train_maps[:6], features.train_labels[:6])
        assert {tensor.device for tensor in associative.tensors().values()} <= {GPU}
        masked, mask = features.train_maps[:6] * 0, torch.zeros(6, 16, dtype=torch.bool)
        assert associative.read(masked, mask, features.train_labels[:6]).device == GPU


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saliency", "head"), [*((s, "linear") for s in SALIENCIES.names()), ("gradient", "mlp")]
)
def test_every_saliency_equals_the_cpu(features, saliency, head):
    head = HeadConfig(kind=head, hidden=8)
    check(features, make_cell("agem", "sharc", seeds=[0, 1], saliency=saliency, head=head))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "variant", "changes"),
    [
        ("derpp", "plain", {"selection": "reservoir", "storage": "int8"}),
        ("er", "sharc", {"theta": None, "mass": 0.7, "storage": "int8"}),
        ("derpp", "sharc", {"importance": "positive", "budget_unit": "nonzero", "read": "at_store"}),
        (
            "clser",
            "sharc",
            {"selection": "batches", "saliency_at": "visit", "read": "per_batch", "complete": "last_batches"},
        ),
    ],
)
def test_other_storage_options_equal_the_cpu(features, method, variant, changes):
    check(features, make_cell(method, variant, seeds=[0, 1]).model_copy(update=changes))


# --- features ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_features_equal_the_cpu(tmp_path):
    save_file(build_classifier("resnet_small", 5).state_dict(), path := tmp_path / "w.safetensors")
    config = BackboneConfig(arch="resnet_small", weights=str(path), image_size=24, resize_size=28)
    data = random_images(train=9, test=3)

    def extract(device):
        backbone = load_backbone(config, path, device)
        extract_features(data, backbone, tmp_path / device, view=1, batch_size=8, device=device)
        return read_json(tmp_path / device / "manifest.json")

    on_cpu = extract("cpu")
    with pretended_gpu() as placement:
        on_gpu = extract("cuda")
    assert placement.gpu_operations > 100
    assert (on_cpu["device"], on_gpu["device"]) == ("cpu", NAME)
    assert on_cpu["files"] == on_gpu["files"]  # their checksums


@pytest.mark.slow
def test_drifting_and_adapted_features_equal_the_cpu(tmp_path):
    save_file(build_classifier("resnet_small", 5).state_dict(), path := tmp_path / "w.safetensors")
    config = BackboneConfig(
        arch="resnet_small", weights=str(path), image_size=24, batch_norm="drifting", normalisation="dataset"
    )
    data = random_images(train=12, test=6)
    labels = [torch.from_numpy(np.array(x)) for x in (data.train_labels, data.test_labels)]
    stream, form = (
        make_stream(*labels, 3, StreamConfig(tasks=1)),
        of_images(resolve(config), data.train_images),
    )
    train = Part("train", 0, 1, 5, kept=Kept(None))
    parts = [START, train, Part("tests", 0, 1, 5, 2), Part("joint", 0, 1, 5, 1)]

    def extract(device):
        folder = tmp_path / device
        network = load_backbone(config, path, device, form=form, fuse=False)
        extraction = Extraction(data, stream, network, device=device)
        for part in parts:
            extraction.run(part, folder / part.name, folder / train.name)
        network = load_backbone(config, path, device, form=form, fuse=False)
        fixed = adapted(network, data.train_images, torch.arange(8), device)
        extract_features(data, fixed, folder / "adapted", device=device)
        return [read_json(folder / name / "manifest.json") for name in (*(p.name for p in parts), "adapted")]

    on_cpu = extract("cpu")
    with pretended_gpu() as placement:
        on_gpu = extract("cuda")
    assert placement.gpu_operations > 100
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert (one["device"], other["device"]) == ("cpu", NAME) and one["files"] == other["files"]
