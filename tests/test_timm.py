"""Networks of timm: names, input, maps and tokens, weights. Nothing is downloaded."""

import importlib
import sys

import pytest
import torch
from safetensors.torch import save_file
from small_grid import PRETRAINING, small_grid
from torchvision.models import VisionTransformer

from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.architectures import cut_at_maps
from sharc_core.backbones.batch_norm import adapted
from sharc_core.backbones.networks import network_of
from sharc_core.backbones.timm_networks import Timm
from sharc_core.backbones.tokens import with_tokens
from sharc_core.common.errors import UserError
from sharc_core.common.registry import Registry
from sharc_core.provenance.code_hashes import library_versions
from sharc_core.stages.build import ensure_features
from sharc_core.stages.layout import features_code
from sharc_core.stages.preflight import check_inputs

torch.set_num_threads(1)
VIT, CNN = "timm/test_vit.r160_in1k", "timm/test_resnet.r160_in1k"  # networks for timm's own tests


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


def network(arch=VIT, weights="timm", **settings) -> Timm:
    made = network_of(BackboneConfig(arch=arch, weights=str(weights), **settings))
    assert isinstance(made, Timm)
    return made


def created(timm, name, classes=0, **options):
    torch.manual_seed(0)
    return timm.create_model(name.removeprefix("timm/"), num_classes=classes, **options).eval()


def images(side: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, side, side, 3), generator=torch.Generator(), dtype=torch.uint8)


@pytest.mark.reliability("no-timm")
def test_without_timm(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    monkeypatch.setitem(sys.modules, "timm", None)  # or the installed one is found
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(UserError, match=r"need timm \(No module named 'timm'\): pip install timm$"):
        network().check()


@pytest.mark.reliability("unfit-backbone")
@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("timm/test_vitt", r"unknown architecture .* \(did you mean 'timm/test_vit'\?\)"),
        ("timm/test_vit.r160", r"unknown weights 'r160' .* \(did you mean 'r160_in1k'\?\); its weights are"),
        ("timm/hf-hub:x/y", "unknown architecture"),
    ],
)
def test_unknown_names(timm, arch, message):
    with pytest.raises(UserError, match=message):
        network(arch).check()


@pytest.mark.reliability("unknown-weights")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "imagenet1k_v1"}, "weights 'imagenet1k_v1': arch timm/.* takes timm"),
        ({"arch": "resnet18"}, "write arch: timm/resnet18"),
        ({"arch_settings": {"depth": 3}}, "arch_settings are arguments of an import path"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        BackboneConfig(**{"arch": VIT, "weights": "timm"} | settings)


def test_the_input_is_that_of_timms_transforms(timm):
    data = timm.data.resolve_model_data_config(created(timm, VIT))
    transform = timm.data.create_transform(**data)
    form = network().form
    resize, crop, normalise = transform.transforms[0], transform.transforms[1], transform.transforms[-1]
    assert (form.resize_size, form.image_size) == (resize.size, crop.size[0])
    assert form.interpolation == data["interpolation"] == resize.interpolation.value
    assert form.mean == normalise.mean.tolist() and form.std == normalise.std.tolist()
    own = network(image_size=96, mean=[0.1, 0.2, 0.3]).form
    assert (own.resize_size, own.image_size, own.mean, own.std) == (96, 96, [0.1, 0.2, 0.3], form.std)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("test_vit", 160), ("test_vit", 96), ("test_vit2", 64), ("test_resnet", 64), ("test_convnext", 64),
        ("test_efficientnet", 64), ("test_mambaout", 64),
    ],
)  # fmt: skip
def test_maps_are_forward_features(timm, tmp_path, name, side):
    options = {"img_size": side} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    model, path = created(timm, name, **options), tmp_path / "mine.pth"
    torch.save({"model": {f"module.{key}": tensor for key, tensor in model.state_dict().items()}}, path)
    made = network(f"timm/{name}", path, image_size=side)
    shape, backbone = made.check(), made.load(None, "cpu")
    with torch.inference_mode():
        x = backbone.preprocess(images(side))
        maps, features = backbone(x), model.forward_features(x)
    assert (
        maps.shape[1:] == shape == (backbone.channels, *backbone.map_size) and shape[0] == model.num_features
    )
    if features.dim() == 3:
        prefix = getattr(model, "num_prefix_tokens", 0)
        features = features[:, prefix:].transpose(1, 2).reshape(maps.shape)
    elif getattr(model, "output_fmt", "NCHW") == "NHWC":  # test_mambaout
        features = features.permute(0, 3, 1, 2)
    assert torch.allclose(maps, features, atol=1e-5)


def test_tokens(timm, tmp_path):
    model, path = created(timm, VIT), tmp_path / "mine.safetensors"
    save_file(model.state_dict(), path)
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        features = model.forward_features(x)
        for kind, expected in (("cls", features[:, 0]), ("mean", features[:, 1:].mean(1))):
            made = network(weights=path, tokens=kind)
            assert made.check() == (64, 1, 1)
            assert torch.allclose(made.load(None, "cpu")(x), expected[:, :, None, None], atol=1e-5)
            assert made.config.path_name.endswith(f"-mine-{kind}")


@pytest.mark.reliability("bad-tokens")
def test_tokens_that_a_network_does_not_have(timm):
    for arch, message in ((CNN, "no tokens: drop tokens"), ("timm/mixer_s32_224", "has no class token")):
        with pytest.raises(UserError, match=message):
            network(arch, tokens="cls").check()


@pytest.mark.parametrize("kind", ["cls", "mean"])
def test_tokens_of_torchvisions_transformer(kind):
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()
    torch.nn.init.normal_(model.heads.head.weight)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        patches = cut_at_maps(model, "vit")(x)
        maps = with_tokens(cut_at_maps(model, "vit"), "vit", kind)(x)
        assert maps.shape == (2, 16, 1, 1)
        if kind == "mean":
            assert torch.allclose(maps, patches.mean((2, 3), keepdim=True), atol=1e-6)
        else:
            assert torch.allclose(model.heads(maps.flatten(1)), model(x), atol=1e-6)


@pytest.mark.reliability("bad-tokens")
def test_tokens_of_networks_without():
    settings = {"weights": "pretrain", "image_size": 64, "tokens": "cls"}
    with pytest.raises(UserError, match="tokens cls: the maps of architecture resnet18 are no tokens"):
        network_of(BackboneConfig(arch="resnet18", **settings)).check()
    made = network_of(BackboneConfig(arch="vit_b_32", **settings))
    assert made.check() == (768, 1, 1) and made.config.path_name == "vit_b_32-pretrain-cls"


def test_weights_from_the_mirror(timm, tmp_path):
    """Position embeddings are interpolated to another image size, as timm does it."""
    model = created(timm, VIT, classes=1000)
    save_file(model.state_dict(), tmp_path / "test_vit.r160_in1k.safetensors")
    made = network(image_size=96)
    made.fetch(tmp_path)
    backbone = made.load(None, "cpu", tmp_path)
    loaded = backbone.body.network.network.state_dict()
    assert torch.equal(loaded["blocks.0.mlp.fc1.weight"], model.state_dict()["blocks.0.mlp.fc1.weight"])
    assert loaded["pos_embed"].shape == (1, 37, 64) and backbone.map_size == (6, 6)
    assert made.weights_identity == VIT == network("timm/test_vit").weights_identity


@pytest.mark.reliability("no-network")
def test_weights_that_cannot_be_downloaded(timm, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def fails(*_, **__):
        raise OSError("no network\nfor you")

    monkeypatch.setattr(hub, "hf_hub_download", fails)
    message = (
        r"test_vit.r160_in1k.safetensors \(no network\): download model.safetensors of huggingface.co/timm/"
    )
    with pytest.raises(UserError, match=message):
        network().fetch()


@pytest.mark.reliability("unfit-weights")
def test_files_that_do_not_fit(timm, tmp_path):
    tensors, path = created(timm, CNN).state_dict(), tmp_path / "mine.pth"
    tensors.pop("conv1.0.weight")
    torch.save(tensors, path)
    with pytest.raises(UserError, match=r"does not fit architecture timm/test_resnet.*conv1\.0\.weight"):
        network(CNN, path).check()
    torch.save({"x": torch.ones(1)}, path)
    with pytest.raises(UserError, match="timm/test_vit.*: tensor cls_token is missing; the file has 'x'"):
        network(VIT, path).check()


@pytest.mark.reliability("unfit-weights")
@pytest.mark.parametrize(
    ("arch", "larger", "message"),
    [
        ("timm/resnet18", "resnet34", r"timm/resnet18: unexpected tensor layer1\.2\."),
        (VIT, VIT, r"timm/test_vit.*: unexpected tensor blocks\.99\.norm1\.weight"),
    ],
)
def test_files_of_larger_networks(timm, tmp_path, arch, larger, message):
    path = tmp_path / "mine.pth"
    torch.save(created(timm, arch, classes=7).state_dict(), path)
    network(arch, path).check()
    tensors = created(timm, larger, classes=7).state_dict()
    if arch == larger:
        tensors["blocks.99.norm1.weight"] = torch.ones(64)
    torch.save(tensors, path)
    with pytest.raises(UserError, match=message):
        network(arch, path).check()


@pytest.mark.reliability("unfit-backbone")
def test_images_that_a_network_does_not_take(timm):
    with pytest.raises(UserError, match="does not take images of 8 px: .* divisible by"):
        network("timm/test_vit", image_size=8).check()


def test_a_network_with_batch_norm_adapts(timm, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(created(timm, CNN).state_dict(), path)
    made = network(CNN, path, image_size=64, batch_norm="adapted")
    assert made.has_batch_norm() and not network(VIT).has_batch_norm()
    backbone = made.load(None, "cpu", fuse=False)
    x = backbone.preprocess(images(64))
    before, after = backbone(x), adapted(backbone, images(64).numpy(), torch.arange(2))(x)
    assert not torch.allclose(before, after) and after.isfinite().all()


@pytest.mark.slow
def test_features_of_a_network_that_is_pretrained_here(timm, tmp_path):
    """Through data, pre-training and extraction; image size and normalisation are timm's."""
    network_settings = {"arch": "timm/test_resnet", "weights": "pretrain", "image_size": 32}
    grid = small_grid(tmp_path, **network_settings, pretrain=PRETRAINING)
    check_inputs(grid)
    features = ensure_features(grid, "s_glyphs")
    described = features.manifest["backbone"]
    assert described["arch"] == "timm/test_resnet" and described["mean"] == [0.5] * 3
    assert features.train_maps.shape == (32, 96, 1, 1) and features.train_maps.isfinite().all()


def test_features_know_timms_version(timm):
    versions = library_versions(*features_code(network().config))
    assert versions["timm"] == timm.__version__ and "huggingface_hub" not in versions


def test_a_family_makes_the_entries_with_its_prefix():
    registry = Registry("thing", "sharc_core.saliency")
    registry.register_family("made/")(lambda name: name.upper())
    assert registry.get("made/x") == "MADE/X"
    with pytest.raises(UserError, match=r"unknown thing 'other/x'; valid: made/<name>$"):
        registry.get("other/x")
