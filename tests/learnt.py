"""Small memories that learn weights, with maps and cues for their tests."""

import torch

from sharc_core.associative import ASSOCIATIVE_MEMORIES

SHAPE, CLASSES = (48, 2, 2), 4
SMALL = {"pcn": {"hidden": 40, "rounds": 20}, "autoencoder": {"hidden": 64, "steps": 60}}


def make(name: str, seed: int = 0, **settings):
    kind = ASSOCIATIVE_MEMORIES.get(name)
    return kind(kind.Settings(**{**SMALL[name], **settings}), SHAPE, CLASSES, seed)


def sparse_maps(count: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rectified low-rank maps with noise around class centres, as after a network's last ReLU."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    size = SHAPE[0] * SHAPE[1] * SHAPE[2]
    centres, basis = torch.randn(CLASSES, size, generator=g), torch.randn(10, size, generator=g)
    codes, noise = torch.randn(count, 10, generator=g), torch.randn(count, size, generator=g)
    maps = torch.relu(0.7 * centres[labels] + codes @ basis / 10**0.5 + 0.3 * noise - 0.4)
    return maps.view(count, *SHAPE), labels


def cue(maps: torch.Tensor, masks: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cues with half of the channels dropped by one of `masks` masks, and the masks."""
    order = torch.rand(masks, SHAPE[0], generator=torch.Generator().manual_seed(seed)).argsort(1)
    mask = (order < SHAPE[0] // 2)[torch.arange(len(maps)) % masks]
    return maps * mask[:, :, None, None], mask
