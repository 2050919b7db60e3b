"""Backbones: maps of architectures, loading and refusal of weights, settings, augmentation."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from test_config import changed

from sharc_core.backbones import Backbone, BackboneConfig, check_backbone, load_backbone
from sharc_core.backbones.architectures import build_classifier, cut_at_maps, fuse_batch_norms
from sharc_core.backbones.augment import shift_and_flip
from sharc_core.backbones.config import PretrainConfig
from sharc_core.common import device
from sharc_core.common.device import device_text, resolve_device
from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file
from sharc_core.common.pooling import pool
from sharc_core.grid.loading import load_grid
from sharc_core.stages.build import fetch_weights
from sharc_core.stages.layout import Layout

torch.set_num_threads(1)


def config(arch="resnet_small", weights="pretrain", image_size=32, **others) -> BackboneConfig:
    return BackboneConfig(arch=arch, weights=str(weights), image_size=image_size, **others)


def shaken(arch: str, classes: int = 7, seed: int = 0) -> torch.nn.Module:
    """Return a classifier whose batch norms have random statistics and weights."""
    torch.manual_seed(seed)
    model = build_classifier(arch, classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write a resnet18 state dict in float16 with a 7-way classifier to a file."""
    path = tmp_path_factory.mktemp("weights") / "my weights.safetensors"
    state = shaken("resnet18").state_dict()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    return path


def rewritten(weights, tmp_path, change):
    """Write the weights file with `change` applied to its tensors."""
    tensors = load_file(weights)
    change(tensors)
    path = tmp_path / "changed.safetensors"
    save_file(tensors, path)
    return path


# Architectures (where they are cut: test_cuts.py)


def test_fusing_leaves_no_batch_norm_in_a_resnet():
    fused = fuse_batch_norms(cut_at_maps(shaken("resnet18"), "resnet18"))
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert sum(isinstance(m, torch.nn.Conv2d) for m in fused.modules()) == 20


def test_fusing_keeps_a_convolution_that_others_read():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
            self.pool = torch.nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            y = self.conv(x)
            return self.pool(self.norm(y) + y)

    model = Shared().eval()
    model.norm.running_mean.normal_()
    x = torch.randn(2, 3, 8, 8)
    body = cut_at_maps(model, "shared")
    torch.testing.assert_close(fuse_batch_norms(body)(x), body(x))


def test_small_resnet_shape():
    assert check_backbone(config()) == (128, 4, 4)
    assert sum(p.numel() for p in build_classifier("resnet_small", 10).parameters()) < 1_000_000


@pytest.mark.reliability("unfit-backbone")
def test_unknown_architecture():
    with pytest.raises(UserError, match=r"unknown architecture 'resnet81' \(did you mean 'resnet18'\?\)"):
        check_backbone(config("resnet81"))


@pytest.mark.reliability("unfit-backbone")
def test_images_too_small():
    with pytest.raises(UserError, match="vgg16 does not take images of 8 px"):
        check_backbone(config("vgg16", image_size=8))


# Weights


def test_local_weights_fit_and_compute_like_torchvision(weights):
    settings = config("resnet18", weights, 64)
    assert check_backbone(settings) == (512, 2, 2)
    backbone = load_backbone(settings, weights, "cpu")
    assert isinstance(backbone, Backbone)
    assert (backbone.channels, backbone.map_size, backbone.form.image_size) == (512, (2, 2), 64)
    assert backbone.sha256 == sha256_file(weights)
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.train().body.training
    reference = torchvision.models.resnet18(num_classes=7)
    reference.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()}
    )
    reference.eval()
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        maps = backbone(backbone.preprocess(images))
        logits = reference(((images / 255 - mean) / std).permute(0, 3, 1, 2))
        assert maps.dtype == torch.float32
        torch.testing.assert_close(reference.fc(pool(maps)), logits, rtol=1e-3, atol=1e-4)


def test_description_is_json(weights):
    described = load_backbone(config("resnet18", weights, 64), weights, "cpu").describe()
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == "resnet18-my_weights"


@pytest.mark.slow
@pytest.mark.reliability("unfit-backbone")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layer3.1.conv2.weight"), "tensor layer3.1.conv2.weight is missing"),
        (lambda t: t.update({"layer5.weight": torch.zeros(3)}), "unexpected tensor layer5.weight"),
        (lambda t: t.update({"layer4.9.weight": torch.zeros(3)}), "unexpected tensor layer4.9.weight"),
        (
            lambda t: t.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}),
            "tensor conv1.weight has shape [64, 3, 3, 3], expected [64, 3, 7, 7]",
        ),
        (
            lambda t: t.update({"bn1.bias": torch.zeros(64, dtype=torch.int64)}),
            "tensor bn1.bias is not floating-point",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_and_when_loading(weights, tmp_path, change, message):
    path = rewritten(weights, tmp_path, change)
    pattern = re.escape(f"weights file {path} does not fit architecture resnet18: {message}")
    with pytest.raises(UserError, match=pattern):
        check_backbone(config("resnet18", path, 64))
    with pytest.raises(UserError, match=pattern):
        load_backbone(config("resnet18", path, 64), path, "cpu")


def test_weights_of_another_architecture(weights):
    with pytest.raises(UserError, match="does not fit architecture resnet34: tensor layer1.2.conv1.weight"):
        check_backbone(config("resnet34", weights, 64))


@pytest.mark.slow
def test_old_files_without_counters_and_classifier_fit(weights, tmp_path):
    def strip(tensors):
        for name in [n for n in tensors if n.startswith("fc.") or n.endswith("num_batches_tracked")]:
            del tensors[name]

    path = rewritten(weights, tmp_path, strip)
    whole = load_backbone(config("resnet18", weights, 32), weights, "cpu")
    stripped = load_backbone(config("resnet18", path, 32), path, "cpu")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(whole(x), stripped(x))


@pytest.mark.reliability("damaged-own-weights")
def test_nan_weights_are_refused(weights, tmp_path):
    path = rewritten(weights, tmp_path, lambda t: t["layer1.0.bn1.weight"].fill_(float("nan")))
    with pytest.raises(UserError, match=r"damaged: tensor layer1\.0\.bn1\.weight holds NaN"):
        load_backbone(config("resnet18", path, 64), path, "cpu")


@pytest.mark.reliability("damaged-own-weights")
@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_damaged_weights_file(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.safetensors cannot be read as safetensors") as caught:
        check_backbone(config("resnet18", path, 64))
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("damaged-own-weights")
def test_cut_short_weights_file(weights, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"short\.safetensors cannot be read"):
        check_backbone(config("resnet18", path, 64))


def test_missing_weights_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors is missing"):
        check_backbone(config("resnet18", tmp_path / "none.safetensors", 64))


@pytest.mark.reliability("unknown-weights")
def test_torchvision_names_are_checked():
    check_backbone(config("resnet50", "imagenet1k_v2", 224))
    check_backbone(config("resnet50", "IMAGENET1K_V2", 224))
    with pytest.raises(
        UserError,
        match=r"unknown weights 'imagenet1k_v2' for .*resnet18.*valid: pretrain, imagenet1k_v1, default or",
    ):
        check_backbone(config("resnet18", "imagenet1k_v2", 224))
    with pytest.raises(UserError, match="resnet_small has no torchvision weights"):
        check_backbone(config("resnet_small", "imagenet1k_v1"))


@pytest.mark.slow
def test_torchvision_weights_bring_their_normalisation(weights, monkeypatch):
    """The download is replaced by a function that returns a state dict."""
    from torchvision.models import ResNet18_Weights

    asked = {}

    def get_state_dict(self, **options):
        asked.update(options)
        return shaken("resnet18", classes=1000).state_dict()

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", get_state_dict)
    backbone = load_backbone(config("resnet18", "imagenet1k_v1", 64), None, "cpu")
    assert asked["check_hash"] and asked["weights_only"]
    assert backbone.form.mean == [0.485, 0.456, 0.406]
    assert len(backbone.sha256) == 64
    again = load_backbone(config("resnet18", "imagenet1k_v1", 64), None, "cpu")
    assert backbone.sha256 == again.sha256
    own = load_backbone(config("resnet18", "imagenet1k_v1", 64, mean=[0.5] * 3, std=[0.25] * 3), None, "cpu")
    assert (own.form.mean, own.form.std) == ([0.5] * 3, [0.25] * 3)


@pytest.mark.reliability("no-network")
def test_failed_download_says_where_to_put_the_file(monkeypatch):
    from torchvision.models import ResNet18_Weights

    def unreachable(self, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(UserError, match=r"cannot get torchvision weights.*put that file into .*checkpoints"):
        load_backbone(config("resnet18", "imagenet1k_v1", 64), None, "cpu")


def test_weights_are_fetched_only_for_missing_features(tmp_path, monkeypatch):
    """Of three backbones, one has its features, one needs torchvision's weights, and one has a local file."""
    from torchvision.models import ResNet18_Weights, ResNet34_Weights

    grid = load_grid(
        {
            "datasets": {"s_digits": {"source": "digits", "tasks": 5}},
            "backbone": [
                {"arch": "resnet18", "weights": "imagenet1k_v1"},
                {"arch": "resnet34", "weights": "default"},
                {"arch": "resnet_small", "weights": "pretrain", "image_size": 32},
            ],
            "data_dir": str(tmp_path / "data"),
            "mirror": str(tmp_path),
        }
    )
    fetched = []
    monkeypatch.setattr(
        "sharc_core.backbones.registered.download", lambda entry, mirror: fetched.append((entry, mirror))
    )
    done = Layout(grid).features("s_digits", "resnet18-imagenet1k_v1") / "manifest.json"
    done.parent.mkdir(parents=True)
    done.touch()
    fetch_weights(grid)
    assert fetched == [(ResNet34_Weights.DEFAULT, tmp_path)]
    done.unlink()
    fetch_weights(grid)
    assert [entry for entry, _ in fetched[1:]] == [ResNet18_Weights.IMAGENET1K_V1, ResNet34_Weights.DEFAULT]


# Settings


@pytest.mark.parametrize(
    ("weights", "name", "expected"),
    [
        ("pretrain", None, "resnet18-pretrain"),
        ("imagenet1k_v1", None, "resnet18-imagenet1k_v1"),
        ("some/where/my net (2).safetensors", None, "resnet18-my_net_2_"),
        ("pretrain", "mine", "mine"),
    ],
)
def test_backbone_names_are_made_safe_for_paths(weights, name, expected):
    assert config("resnet18", weights, name=name).path_name == expected


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 0},
        {"image_size": "32"},
        {"views": 0},
        {"views": 101},
        {"interpolation": "lanczos"},
        {"precision": "float16"},
        {"resize_size": 0},
        {"mean": [0.5, 0.5]},
        {"std": [0.5, 0.0, 0.5]},
        {"name": "a/b"},
        {"pretrain": {"epoch": 3}},
        {"pretrain": {"label_smoothing": 1.0}},
    ],
)
def test_invalid_settings_are_refused(values):
    good = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32}
    BackboneConfig.model_validate(good)
    with pytest.raises(ValueError, match="validation error"):
        BackboneConfig.model_validate(good | values)


def test_default_pretraining_is_a_complete_block():
    assert {"source", "classes", "first_class"} <= set(PretrainConfig().dataset)


# Augmentation (preprocessing: test_preprocess.py)


@pytest.mark.parametrize("edge", [True, False])
@pytest.mark.parametrize("flip", [True, False])
def test_shift_and_flip_equal_a_loop_over_images(edge, flip):
    images = torch.randint(1, 256, (9, 6, 8, 3), dtype=torch.uint8)
    got = shift_and_flip(images, 2, flip, torch.Generator().manual_seed(5), edge)
    draws = torch.Generator().manual_seed(5)
    offsets = torch.randint(-2, 3, (2, 9, 1), generator=draws)
    mirrored = torch.rand(9, 1, generator=draws) < 0.5 if flip else torch.zeros(9, 1, dtype=torch.bool)
    for i, image in enumerate(images.numpy()):
        y, x = offsets[:, i, 0].tolist()
        if mirrored[i]:  # the offset refers to the original's columns
            image, x = image[:, ::-1], -x
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge" if edge else "constant")
        assert np.array_equal(got[i].numpy(), padded[2 + y : 8 + y, 2 + x : 10 + x])


# Device


def test_device_names_are_resolved_or_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"cuda was asked for.*auto or cpu"):
        resolve_device("cuda")
    with pytest.raises(UserError, match="unknown device 'gpu'; valid: auto, cpu, cuda"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize("has_library", [True, False])
def test_without_a_driver_torch_is_not_asked_for_a_gpu(monkeypatch, has_library):
    def load(name):
        if not has_library:
            raise OSError(name)

    monkeypatch.setattr(device.ctypes, "CDLL", load)
    monkeypatch.setattr(device.os.path, "exists", lambda path: False)
    monkeypatch.setattr(device, "sys", SimpleNamespace(modules={}, platform="linux"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.sees_gpu() == has_library
    monkeypatch.setattr(device, "sys", SimpleNamespace(modules={"torch": torch}, platform="linux"))
    assert device.sees_gpu()  # the imported torch knows
    monkeypatch.setattr(device, "sys", SimpleNamespace(modules={}, platform="win32"))
    assert device.sees_gpu()


@pytest.mark.reliability("no-gpu")
def test_one_gpu_of_several_and_apples(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="cuda:2 was asked for, but torch sees GPUs 0 to 1"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="mps was asked for, but torch sees no Apple GPU"):
        resolve_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps") == torch.device("mps")
    assert device_text("mps").startswith("Apple GPU")
    assert load_grid(changed("device", "cuda:1")).device == "cuda:1"
    for key, name in (("device", "cuda:x"), ("device", "cuda1"), ("cells.device", "mps")):
        with pytest.raises(UserError, match=f"^config: {key}: .*{name}"):
            load_grid(changed(key, name))
