"""Weights files of training scripts: nested state dicts, prefixes, other heads, files of torch.save."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from test_advice import PREFIXES, config, state
from test_config import changed

from sharc_core.backbones.networks import network_of
from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file
from sharc_core.grid.loading import load_grid
from sharc_core.stages.preflight import check_inputs

torch.set_num_threads(1)


def check_loads(path, tensors=None, **kind) -> None:
    """Check that a file is accepted and gives the network the tensors of a state dict."""
    network, tensors = network_of(config(path, **kind)), tensors or state()
    network.check()
    backbone = network.load(path, "cpu", fuse=False)
    loaded = backbone.body.state_dict()
    assert loaded and all(torch.equal(tensors[name], tensor) for name, tensor in loaded.items())
    assert backbone.sha256 == sha256_file(path)


def line_on(path, **kind) -> str:
    """Return the error for a file that the check refuses."""
    with pytest.raises(UserError) as error:
        network_of(config(path, **kind)).check()
    assert str(error.value).isprintable() and len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "PT", "ckpt", "bin", "pth.tar"])
def test_every_format_gives_the_same_network(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state(), path)
    check_loads(path)


def test_the_format_before_zip_files_is_read(tmp_path):
    torch.save(state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    check_loads(tmp_path / "old.pth")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_removed(tmp_path, prefix):
    path = tmp_path / "mine.safetensors"
    others = {"queue": torch.zeros(3), "momentum.conv1.weight": torch.zeros(3), "head.weight": torch.ones(2)}
    save_file(others | {prefix + name: tensor for name, tensor in state().items()}, path)
    check_loads(path)


@pytest.mark.parametrize(
    ("nest", "prefix"),
    [
        (lambda tensors: {"state_dict": tensors, "epoch": 3, "optimizer": {"state": {}}}, "model."),
        (lambda tensors: {"model": tensors, "loss": torch.zeros(1)}, "module.backbone."),
        (lambda tensors: {"model": {"state_dict": tensors}}, ""),
        (lambda tensors: {"student": {"head.last": torch.ones(1)}, "teacher": tensors}, "backbone."),
        (lambda tensors: {"net": tensors, "args": None}, "encoder."),
    ],
)
def test_nested_state_dicts_are_found(tmp_path, nest, prefix):
    path = tmp_path / "mine.pth"
    torch.save(nest({prefix + name: tensor for name, tensor in state().items()}), path)
    check_loads(path)


def test_of_student_and_teacher_the_teacher_is_used(tmp_path):
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state().items()}
    torch.save({"student": zeros, "teacher": state()}, tmp_path / "dino.pth")
    check_loads(tmp_path / "dino.pth")


def test_names_with_leading_underscores_are_those_without(tmp_path):
    torch.save({f"_{name}": tensor for name, tensor in state().items()}, tmp_path / "mine.pth")
    check_loads(tmp_path / "mine.pth")


@pytest.mark.parametrize("head", ["fc.weight", "classifier.1.bias", "head.weight", "heads.head.bias"])
def test_other_heads_are_ignored(tmp_path, head):
    tensors = {name: tensor for name, tensor in state().items() if not name.startswith("fc.")}
    torch.save({"state_dict": tensors | {head: torch.ones(7)}}, tmp_path / "mine.ckpt")
    check_loads(tmp_path / "mine.ckpt")


@pytest.mark.reliability("unfit-weights")
def test_two_encoders_are_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    names = ("module.encoder_k.", "module.encoder_q.")
    save_file({prefix + name: tensor.clone() for prefix in names for name, tensor in state().items()}, path)
    line = line_on(path)
    assert "2 times, with names that begin with 'module.encoder_k.', 'module.encoder_q.': keep one" in line


@pytest.mark.reliability("unfit-weights")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("stem.0.weight"), "tensor stem.0.weight is missing"),
        (lambda t: t.update({"stem.0.weight": torch.ones(3)}), "stem.0.weight has shape [3], expected [16, "),
        (lambda t: t.update({"stem.9.weight": torch.ones(3)}), "unexpected tensor stem.9.weight"),
    ],
)
def test_the_tensor_that_does_not_fit_is_named(tmp_path, change, message):
    tensors = state()
    change(tensors)
    torch.save({"model": tensors}, tmp_path / "mine.pth")
    assert message in line_on(tmp_path / "mine.pth")


@pytest.mark.reliability("damaged-own-weights")
def test_damaged_files_are_one_line(tmp_path):
    path = tmp_path / "mine.pth"
    assert f"{path} is missing" in line_on(path)
    torch.save(state(), path)
    content = path.read_bytes()
    for damaged in (b"", b"no pickle", content[: len(content) // 2], pickle.dumps([1, 2], 2)):
        path.write_bytes(damaged)
        assert line_on(path).startswith(f"weights file {path} ")
    tensors = state()
    tensors["stem.0.weight"][0] = torch.nan
    torch.save(tensors, path)
    network_of(config(path)).check()  # reads no values
    with pytest.raises(UserError, match=r"damaged: tensor stem\.0\.weight holds NaN"):
        network_of(config(path)).load(path, "cpu")


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.reliability("unsafe-weights", "pickled-weights")
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_malicious_pickle_runs_nothing(tmp_path, is_zip):
    marker, path = tmp_path / "executed", tmp_path / "mine.pth"
    torch.save(
        {"model": state(), "x": Malicious(f"touch {marker}")}, path, _use_new_zipfile_serialization=is_zip
    )
    assert (
        "asks for posix.system, which is no tensor, and is refused because pickles can run code"
        in line_on(path)
    )
    with pytest.raises(UserError, match="refused because pickles can run code"):
        check_inputs(load_grid(changed("backbone.weights", str(path)) | {"data_dir": str(tmp_path)}))
    with pytest.raises(UserError, match="refused because pickles can run code"):
        network_of(config(path)).load(path, "cpu")
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file does what is feared
    assert marker.exists()


@pytest.mark.reliability("pickled-weights")
@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.ckpt", "x.bin", "a/b c/pytorch_model.bin", "$x.TH"])
def test_files_of_torch_save_are_local_files(name):
    grid = load_grid(changed("backbone.weights", name))
    assert grid.backbone.is_local_file and not grid.backbone.is_torchvision
