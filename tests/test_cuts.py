"""Where classifiers are cut: the rest of each torchvision classifier turns the maps into its logits."""

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import ViT_B_32_Weights
from torchvision.models.vision_transformer import interpolate_embeddings

from sharc_core.backbones import BackboneConfig, check_backbone, load_backbone
from sharc_core.backbones.architectures import build_classifier, cut_at_maps, fuse_batch_norms
from sharc_core.backbones.weights import todays_name
from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool

torch.set_num_threads(1)


def config(arch: str, weights: object, image_size: int) -> BackboneConfig:
    return BackboneConfig(arch=arch, weights=str(weights), image_size=image_size)


def varied(arch: str, classes: int = 7, side: int = 224) -> nn.Module:
    """Return a classifier without trivial layers: norm weights other than 1, head weights other than 0."""
    torch.manual_seed(0)
    model = build_classifier(arch, classes, side=side)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(take_statistics)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        with torch.no_grad():
            model(torch.randn(4, 3, side, side))
    for module in model.modules():
        module._forward_pre_hooks.clear()
    return model


def take_statistics(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    """Set the batch norm statistics, so that a signal passes a deep network with random weights."""
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3), correction=0) + 0.01)


def rest(model: nn.Module, arch: str, maps: torch.Tensor) -> torch.Tensor:
    """Apply the classifier's own layers after the cut: maps (B, K, h, w) -> (B, classes)."""
    if arch.startswith(("vgg", "alexnet")):
        return model.classifier(model.avgpool(maps).flatten(1))
    if arch.startswith(("squeezenet", "maxvit")):
        return model.classifier(maps).flatten(1)
    if arch.startswith("convnext"):
        return model.classifier(model.avgpool(maps))
    names = ("fc", "classifier", "head", "heads")
    return next(getattr(model, name) for name in names if hasattr(model, name))(pool(maps))


def ends_of_families() -> list[str]:
    """Return the first and the last architecture by name of each of torchvision's modules."""
    families: dict[str, list[str]] = {}
    for arch in torchvision.models.list_models(module=torchvision.models):
        families.setdefault(torchvision.models.get_model_builder(arch).__module__, []).append(arch)
    return sorted({arch for family in families.values() for arch in (min(family), max(family))})


@pytest.mark.slow
@pytest.mark.parametrize("arch", ends_of_families())
def test_every_family_of_torchvisions_classifiers_is_cut(arch):
    """Only shapes are computed. No architecture is refused."""
    side = 299 if arch == "inception_v3" else 224
    channels, height, width = check_backbone(config(arch, "pretrain", side))
    assert channels >= 256 and 6 <= height == width <= 16
    model = build_classifier(arch, device="meta", side=side)
    maps = torch.empty(2, channels, height, width, device="meta")
    assert rest(model, arch, maps).shape == (2, 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "side"),
    [
        ("resnet_small", 32),
        ("resnet18", 64),
        ("resnet50", 64),
        ("vgg16", 64),
        ("vgg11_bn", 64),
        ("mobilenet_v2", 64),
        ("mobilenet_v3_small", 64),
        ("mobilenet_v3_large", 64),
        ("densenet121", 64),
        ("efficientnet_b0", 64),
        ("convnext_tiny", 64),
        ("squeezenet1_1", 64),
        ("googlenet", 64),
        ("shufflenet_v2_x0_5", 64),
        ("mnasnet0_5", 64),
        ("regnet_y_400mf", 64),
        ("swin_t", 64),
        ("swin_v2_t", 64),
        ("maxvit_t", 224),
    ],
)
def test_the_rest_of_the_classifier_makes_its_logits_of_the_maps(arch, side):
    model = varied(arch, side=side)
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        maps = fuse_batch_norms(cut_at_maps(model, arch))(images)
        logits = model(images)
        torch.testing.assert_close(rest(model, arch, maps), logits, rtol=1e-3, atol=1e-3)
        assert (logits[0] - logits[1]).abs().max() > 0.01, "the images must make a difference"


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 96])
def test_maps_of_a_vision_transformer_are_its_patches_last_tokens(side):
    model, grid = varied("vit_b_16", side=side), side // 16
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        maps = cut_at_maps(model, "vit_b_16")(images)
        tokens = torch.cat([model.class_token.expand(2, -1, -1), model._process_input(images)], 1)
        tokens = model.encoder(tokens)
        assert maps.shape == (2, 768, grid, grid)
        for row in range(grid):
            for column in range(grid):
                torch.testing.assert_close(maps[:, :, row, column], tokens[:, 1 + row * grid + column])
        torch.testing.assert_close(model.heads(tokens[:, 0]), model(images))


@pytest.mark.slow
def test_changed_patch_changes_only_its_position_of_the_map():
    """Without attention layers, a changed patch changes one position, so rows and columns are not swapped."""
    model = varied("vit_b_16", side=64)
    model.encoder.layers = nn.Identity()
    body = cut_at_maps(model, "vit_b_16")
    images = torch.zeros(1, 3, 64, 64)
    changed = images.clone()
    changed[:, :, 16:32, 48:64] = 1
    moved = (body(changed) - body(images)).abs().amax((0, 1)) > 1e-6
    assert moved.nonzero().tolist() == [[1, 3]]


def test_a_network_without_pool_and_class_token_is_refused():
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(UserError, match="architecture flat has neither an average pool nor a class token"):
        cut_at_maps(flat, "flat")


def test_a_network_that_cannot_be_traced_is_refused_in_one_line():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="architecture odd cannot be cut") as caught:
        cut_at_maps(Branching(), "odd")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "side", "reason"),
    [
        ("vit_b_16", 60, "does not take images of 60 px: Input shape indivisible by patch size!"),
        ("vgg16", 8, "does not take images of 8 px"),
        ("maxvit_t", 64, "does not take images of 64 px"),
    ],
)
def test_images_that_an_architecture_does_not_take(arch, side, reason):
    with pytest.raises(UserError, match=f"architecture {arch} {reason}") as caught:
        check_backbone(config(arch, "pretrain", side))
    assert "\n" not in str(caught.value)


# Weights of transformers and of old checkpoints


@pytest.fixture(scope="module")
def vit_weights(tmp_path_factory):
    """Write a vit_b_32 for 64 px images to a file under the names of torchvision's published weights."""
    model = varied("vit_b_32", side=64)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    state = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): tensor
        for name, tensor in model.state_dict().items()
    }
    assert state.keys() != model.state_dict().keys()
    save_file(state, path)
    return model, path


@pytest.mark.slow
def test_local_weights_of_a_vision_transformer(vit_weights):
    model, path = vit_weights
    assert check_backbone(config("vit_b_32", path, 64)) == (768, 2, 2)
    backbone = load_backbone(config("vit_b_32", path, 64), path, "cpu")
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone(images), cut_at_maps(model, "vit_b_32")(images))


@pytest.mark.slow
def test_position_embeddings_are_interpolated_for_another_image_size(vit_weights):
    model, path = vit_weights
    assert check_backbone(config("vit_b_32", path, 96)) == (768, 3, 3)
    backbone = load_backbone(config("vit_b_32", path, 96), path, "cpu")
    larger = varied("vit_b_32", side=96)
    larger.load_state_dict(interpolate_embeddings(96, 32, model.state_dict()))
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(backbone(images), cut_at_maps(larger, "vit_b_32")(images))


@pytest.mark.slow
def test_downloaded_weights_equal_local_ones(vit_weights, monkeypatch):
    """The simulated download has old names and another image size."""
    _, path = vit_weights
    monkeypatch.setattr(ViT_B_32_Weights, "get_state_dict", lambda self, **options: load_file(path))
    downloaded = load_backbone(config("vit_b_32", "default", 96), None, "cpu")
    local = load_backbone(config("vit_b_32", path, 96), path, "cpu")
    images = torch.randn(1, 3, 96, 96)
    assert torch.equal(downloaded(images), local(images))


@pytest.mark.slow
def test_position_embeddings_of_no_square_grid_are_refused(vit_weights, tmp_path):
    state = vit_weights[0].state_dict() | {"encoder.pos_embedding": torch.zeros(1, 7, 768)}
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"encoder\.pos_embedding has shape \[1, 7, 768\], expected \[1, 5"):
        check_backbone(config("vit_b_32", tmp_path / "odd.safetensors", 64))


@pytest.mark.slow
def test_old_densenet_names_are_converted(tmp_path):
    """Its checkpoints have norm.1 for the network's norm1."""
    model = varied("densenet121", classes=1000)
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.")
        if ".denselayer" in name
        else name: tensor
        for name, tensor in model.state_dict().items()
    }
    assert sum("norm.1." in name for name in old) > 100
    assert {todays_name(name) for name in old} == model.state_dict().keys()
    save_file(old, tmp_path / "old.safetensors")
    backbone = load_backbone(config("densenet121", tmp_path / "old.safetensors", 32), None, "cpu")
    images = torch.randn(1, 3, 32, 32)
    wanted = fuse_batch_norms(cut_at_maps(model, "densenet121"))(images)
    torch.testing.assert_close(backbone(images), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_networks_that_convert_their_input_do_so(arch):
    """Their published weights need it, but torchvision enables it only when it loads them itself."""
    assert build_classifier(arch, device="meta").transform_input
