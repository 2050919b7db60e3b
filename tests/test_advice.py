"""Errors for weights files of another layout suggest a prefix or show the expected names."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_config import changed

from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.advice import advice
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.networks import network_of
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.stages.preflight import check_inputs

PAGE = (Path(__file__).parents[1] / "docs/config.md").read_text(encoding="utf-8")
PREFIXES = [
    "module.", "backbone.", "model.", "encoder.", "net.", "resnet.", "module.encoder_q.", "_orig_mod.",
    "module.backbone.0.", "student.backbone.", "model.visual.trunk.", "layer1.", "é.", "a b.",
]  # fmt: skip


def config(path, arch="resnet_small", side=32) -> BackboneConfig:
    return BackboneConfig(arch=arch, weights=str(path), image_size=side)


def state(arch="resnet_small") -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_classifier(arch, 3).state_dict()


def refused(path, **kind) -> str:
    """Return the error for a file that the check refuses."""
    with pytest.raises(UserError):
        network_of(config(path, **kind)).check()
    line = advice(config(path, **kind))
    assert line.isprintable() and len(line) < 500
    return line


@pytest.mark.reliability("unfit-weights")
@pytest.mark.parametrize("prefix", PREFIXES)
def test_error_reports_the_prefix_and_other_mismatches(tmp_path, prefix):
    tensors, path = state(), tmp_path / "mine.safetensors"
    tensors.pop("stem.0.weight")
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    line = refused(path)
    assert line.endswith(f"without {prefix!r} before its names tensor stem.0.weight is missing")


@pytest.mark.reliability("unfit-weights")
def test_unexpected_tensor_with_the_prefix_is_named_by_the_check(tmp_path):
    path = tmp_path / "mine.safetensors"
    tensors = state() | {"projector.weight": torch.zeros(3)}
    save_file({f"net.{name}": tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(UserError, match=r"\(names without 'net\.'\) .* unexpected tensor projector\.weight$"):
        network_of(config(path)).check()
    assert advice(config(path)) is None


@pytest.mark.reliability("unfit-weights")
@pytest.mark.parametrize("arch", ["squeezenet1_1", "mobilenet_v3_small"])
def test_a_prefix_that_is_lacking_is_named(tmp_path, arch):
    path = tmp_path / "mine.safetensors"
    tensors = {name: tensor for name, tensor in state(arch).items() if name.startswith("features.")}
    save_file({name.removeprefix("features."): tensor for name, tensor in tensors.items()}, path)
    assert "the names of its tensors lack 'features.'" in refused(path, arch=arch, side=64)


OTHERS = {
    "timm": ["patch_embed.proj.weight", "blocks.0.norm1.weight", "cls_token"],
    "CLIP": ["visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.weight", "logit_scale"],
    "Hugging Face": ["embedder.embedder.convolution.weight", "encoder.stages.0.layers.0.layer.0.weight"],
    "Keras": ["conv1_conv/kernel:0", "conv1_bn/gamma:0"],
    "Lightning's names without a model": ["epoch", "global_step"],
    "one tensor": ["x"],
    "none": [],
}


@pytest.mark.reliability("unfit-weights")
@pytest.mark.parametrize("layout", OTHERS)
def test_error_for_unknown_layouts_shows_the_expected_names(tmp_path, layout):
    path = tmp_path / "mine.safetensors"
    save_file({name: torch.zeros(3) for name in OTHERS[layout]}, path)
    line = refused(path)
    assert "expected tensors such as 'stem" in line
    assert (
        f"the file has {sorted(OTHERS[layout])[0]!r}" in line if OTHERS[layout] else "has no tensor" in line
    )


def test_no_advice_is_given_for_the_right_layout(tmp_path):
    tensors, path = state(), tmp_path / "mine.safetensors"
    tensors.pop("stem.0.weight")
    save_file(tensors, path)
    assert advice(config(path)) is None
    assert advice(config(tmp_path / "missing.safetensors")) is None
    assert advice(BackboneConfig(arch="resnet18", weights="default")) is None


def test_a_grid_is_refused_with_the_advice(tmp_path):
    path = tmp_path / "mine.safetensors"
    tensors = {name: tensor for name, tensor in state().items() if name != "stem.0.weight"}
    save_file({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(UserError, match=r"^config: backbone: weights file .* without 'module\.' before"):
        check_inputs(load_grid(changed("backbone.weights", str(path)) | {"data_dir": str(tmp_path)}))


@pytest.mark.reliability("pickled-weights")
@pytest.mark.parametrize("name", [
    "x.pkl", "../x.pkl", "x.t7", "X.PICKLE", "a/b c/x.pickle",
])  # fmt: skip
def test_pickles_are_refused_with_the_way_to_convert_them(name):
    with pytest.raises(
        UserError, match=r"^config: backbone\.weights: pickles can run code: .*Converting weights"
    ):
        load_grid(changed("backbone.weights", name))


@pytest.mark.reliability("pickled-weights")
@pytest.mark.parametrize("name", ["x.npz", "x.h5", "x.onnx", "x.msgpack", "x.safetensors.gz", "x.zip"])
def test_other_formats_are_refused(name):
    with pytest.raises(UserError, match=r"^config: backbone\.weights: .* \.safetensors, \.pth, .*: see"):
        load_grid(changed("backbone.weights", name))


@pytest.mark.reliability("unfit-weights")
@pytest.mark.parametrize("inside", ["state_dict", None])
def test_the_documented_lines_convert(tmp_path, monkeypatch, inside):
    """Run the conversion code from docs/config.md, to which the errors refer."""
    (code,) = re.findall(r"### Converting weights\n.*?```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    tensors = {f"module.{name}": tensor for name, tensor in state().items()}
    torch.save({inside: tensors, "epoch": 3} if inside else tensors, "mine.pth")
    exec(code, {})
    assert set(load_file("mine.safetensors")) == set(state())
    network_of(config("mine.safetensors")).check()
