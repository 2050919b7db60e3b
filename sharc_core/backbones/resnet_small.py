"""A small residual network for 32 px images (after He et al. 2016, arXiv 1512.03385)."""

import torch
from torch import nn

from sharc_core.backbones.architectures import ARCHITECTURES


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut, from (B, inputs, s, s) to (B, outputs, s/stride, s/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = _conv(inputs, outputs, 3, stride)
        self.second = _conv(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ReLU of the residual sum."""
        return self.relu(self.second(self.relu(self.first(x))) + self.shortcut(x))


class ResNetSmall(nn.Module):
    """A stem with stride 2 and one block per stage. A 32 px image has maps of 128 x 4 x 4.

    Four blocks need far fewer training images than three wider blocks of the same cost.
    """

    def __init__(
        self,
        classes: int,
        stem: int = 16,
        widths: tuple[int, ...] = (32, 64, 128, 128),
        strides: tuple[int, ...] = (2, 1, 2, 1),
    ):
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, stem, 3, 2), nn.ReLU())
        inputs = (stem, *widths[:-1])
        blocks = [BasicBlock(i, o, s) for i, o, s in zip(inputs, widths, strides, strict=True)]
        self.stages = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, classes) of images (B, 3, S, S)."""
        return self.fc(self.pool(self.stages(self.stem(images))).flatten(1))


@ARCHITECTURES.register("resnet_small")
def build(classes: int, side: int) -> nn.Module:
    """Return the network with random weights. It does not depend on `side`."""
    return ResNetSmall(classes)
