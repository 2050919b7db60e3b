"""A small recurrent network over patches, for 32 px images.

A gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) reads the patches row by row, forwards and
backwards. ReNet (Visin et al. 2015, arXiv 1505.00393) sweeps over rows and columns one by one.
"""

import torch
from torch import nn
from torchvision.models.vgg import make_layers

from sharc_core.backbones.architectures import ARCHITECTURES

PATCH = 8  # pixels per side
UNITS = 64  # of each direction


class GruSmall(nn.Module):
    """A bidirectional GRU on patches that convolutions embed. A 32 px image has maps of 128 x 4 x 4."""

    def __init__(self, classes: int, side: int):
        super().__init__()
        if side % PATCH:
            raise AssertionError(f"the side must be a multiple of {PATCH}")
        self.side = side // PATCH
        self.stem = make_layers([16, "M", 32, "M", 64, "M"], batch_norm=True)
        self.recurrent = nn.GRU(64, UNITS, batch_first=True, bidirectional=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * UNITS, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, classes) of images (B, 3, S, S)."""
        patches = self.stem(images).flatten(2).transpose(1, 2)
        states = self.recurrent(patches)[0]
        maps = states.transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.fc(self.pool(maps).flatten(1))


@ARCHITECTURES.register("gru_small")
def build(classes: int, side: int) -> nn.Module:
    """Return the network with random weights for images of `side` pixels."""
    return GruSmall(classes, side)
