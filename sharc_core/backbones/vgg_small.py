"""Small plain convolutional networks for 32 px images (after Simonyan & Zisserman 2015, arXiv 1409.1556)."""

import torch
from torch import nn
from torchvision.models.vgg import make_layers

from sharc_core.backbones.architectures import ARCHITECTURES


class VggSmall(nn.Module):
    """3 x 3 convolutions with batch norm and ReLU, max pools, and a linear classifier on the pooled maps.

    A 32 px image has maps of channels x 4 x 4. last: what follows the last batch norm.
    """

    def __init__(self, classes: int, channels: int, last: type[nn.Module] = nn.ReLU):
        super().__init__()
        layers: list[str | int] = [16, "M", 32, "M", 64, 64, "M", channels]  # M: a max pool
        self.features = make_layers(layers, batch_norm=True)
        self.features[-1] = last()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, classes) of images (B, 3, S, S)."""
        return self.fc(self.pool(self.features(images)).flatten(1))


@ARCHITECTURES.register("vgg_small_narrow")
def narrow(classes: int, side: int) -> nn.Module:
    """Return the network with 32 channels and random weights. It does not depend on `side`."""
    return VggSmall(classes, 32)


@ARCHITECTURES.register("vgg_small")
def build(classes: int, side: int) -> nn.Module:
    """Return the network with 128 channels and random weights. It does not depend on `side`."""
    return VggSmall(classes, 128)


@ARCHITECTURES.register("vgg_small_wide")
def wide(classes: int, side: int) -> nn.Module:
    """Return the network with 512 channels and random weights. It does not depend on `side`."""
    return VggSmall(classes, 512)


@ARCHITECTURES.register("vgg_small_swish")
def swish(classes: int, side: int) -> nn.Module:
    """Return the network with 128 channels and swish for the last ReLU, so that its maps have no zeros."""
    return VggSmall(classes, 128, nn.SiLU)
