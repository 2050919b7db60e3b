"""The small networks for 32 px images: shapes, cuts, where their patches are, zeros in their maps."""

import pytest
import torch
from torch import nn

from sharc_core.backbones import BackboneConfig, check_backbone
from sharc_core.backbones.architectures import build_classifier, cut_at_maps, fuse_batch_norms
from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool

CHANNELS = {
    "vgg_small_narrow": 32,
    "vgg_small": 128,
    "vgg_small_wide": 512,
    "vgg_small_swish": 128,
    "mobilenet_small": 192,
    "vit_small": 128,
    "gru_small": 128,
}


def settled(arch: str, side: int = 32) -> nn.Module:
    """Return a classifier in evaluation mode whose batch norms have seen images, with a varied last layer."""
    torch.manual_seed(0)
    model = build_classifier(arch, 7, side=side).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, module.in_features**-0.5)
    with torch.no_grad():
        model(torch.randn(16, 3, side, side))
    return model.eval()


@pytest.mark.parametrize(("arch", "channels"), CHANNELS.items())
def test_the_rest_of_the_classifier_makes_its_logits_of_the_maps(arch, channels):
    model, images = settled(arch), torch.randn(4, 3, 32, 32)
    assert check_backbone(BackboneConfig(arch=arch, weights="pretrain", image_size=32)) == (channels, 4, 4)
    with torch.inference_mode():
        maps = fuse_batch_norms(cut_at_maps(model, arch))(images)
        assert maps.shape == (4, channels, 4, 4)
        logits = model(images)
        assert (logits[0] - logits[1]).abs().max() > 0.01, "the images must make a difference"
        if arch != "vit_small":  # which classifies from its class token
            last = model.classifier if arch == "mobilenet_small" else model.fc
            torch.testing.assert_close(last(pool(maps)), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["vit_small", "gru_small"])
def test_patches_are_at_their_places(arch):
    """A changed patch changes its own position of the map the most."""
    model, images = settled(arch), torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 8:16, 24:32] += 3  # row 1, column 3
    with torch.inference_mode():
        body = cut_at_maps(model, arch)
        difference = (body(changed) - body(images)).abs().sum(1)[0]
    assert divmod(int(difference.argmax()), 4) == (1, 3)


def test_states_of_the_gru_depend_on_patches_before_and_after():
    model, images = settled("gru_small"), torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, 24:, :8] += 3  # row 3, column 0, the patch with index 12
    with torch.inference_mode():
        body = cut_at_maps(model, "gru_small")
        moved = (body(changed) - body(images)).abs().flatten(2)[0]
    forward, backward = moved[:64].sum(0), moved[64:].sum(0)
    # the stem's convolutions share pixels with neighbours: patches 8, 9 and 13
    assert forward[:8].max() == 0 < forward[15] and backward[14:].max() == 0 < backward[0]


@pytest.mark.parametrize("arch", ["vit_small", "gru_small"])
def test_sides_that_patches_do_not_divide_are_refused(arch):
    with pytest.raises(UserError, match=f"^architecture {arch} does not take images of 30 px: ") as caught:
        check_backbone(BackboneConfig(arch=arch, weights="pretrain", image_size=30))
    assert "\n" not in str(caught.value)


def test_zeros_follow_the_last_layer():
    images = torch.randn(8, 3, 32, 32)
    with torch.inference_mode():
        zeros = {a: float((cut_at_maps(settled(a), a)(images) == 0).double().mean()) for a in CHANNELS}
    assert min(zeros[arch] for arch in ("vgg_small_narrow", "vgg_small", "vgg_small_wide")) > 0.02
    assert max(zeros[arch] for arch in ("vit_small", "gru_small", "vgg_small_swish")) == 0
    assert zeros["mobilenet_small"] < 0.02


def test_the_swish_replaces_the_last_relu_alone():
    def kinds(arch):
        return [type(module).__name__ for module in build_classifier(arch, 7, side=32).features]

    own, other = kinds("vgg_small_swish"), kinds("vgg_small")
    assert own[:-1] == other[:-1] and own[-1] == "SiLU" and other[-1] == "ReLU"
