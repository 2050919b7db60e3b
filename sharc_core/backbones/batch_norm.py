"""Batch norm's running statistics: read them, set them, and let them drift as in train mode.

In train mode, batch norm normalises a batch by the batch's mean and variance and moves its running statistics
towards them (Ioffe & Szegedy 2015). In evaluation mode it normalises by the running statistics. A network
with frozen weights and batch norms in train mode is therefore not frozen. Its maps depend on the other images
of the batch, and its evaluation depends on the latest batches.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharc_core.backbones.architectures import fuse_batch_norms
from sharc_core.backbones.model import Backbone
from sharc_core.common.determinism import same_bits
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import generator

ESTIMATED = 64  # images per batch for estimating statistics


class BatchNorms:
    """The batch norm layers of a network, with their running statistics as one vector (S,).

    The vector holds the layers in the order of network.named_modules(), first a layer's means and then its
    variances. Raises UserError for a layer whose running statistics are a cumulative average (torchvision has
    no such layer).
    """

    def __init__(self, network: nn.Module):
        modules = dict(network.named_modules())
        self.layers: dict[str, Any] = {
            name: layer
            for name, layer in modules.items()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        }
        cumulative = [name for name, layer in self.layers.items() if layer.momentum is None]
        if cumulative:
            raise UserError(
                f"batch norm {cumulative[0]} has no momentum, so its statistics cannot drift: use batch_norm "
                "frozen"
            )
        sizes = [2 * layer.num_features for layer in self.layers.values()]
        momenta = [
            torch.full((n,), layer.momentum, dtype=torch.float64)
            for n, layer in zip(sizes, self.layers.values(), strict=True)
        ]
        self._momentum = torch.cat(momenta) if momenta else torch.zeros(0)

    def statistics(self) -> torch.Tensor:
        """Return a copy of the running statistics (S,)."""
        parts = [t for layer in self.layers.values() for t in (layer.running_mean, layer.running_var)]
        return torch.cat(parts) if parts else torch.zeros(0)

    def set(self, statistics: torch.Tensor) -> None:
        """Overwrite the running statistics with `statistics` (S,)."""
        start = 0
        for layer in self.layers.values():
            for values in (layer.running_mean, layer.running_var):
                values.copy_(statistics[start : start + len(values)])
                start += len(values)

    @contextmanager
    def seeing_batches(self) -> Iterator[None]:
        """Put the layers in train mode, with `statistics` equal to the last batch's (unbiased)."""
        momenta = {name: layer.momentum for name, layer in self.layers.items()}
        try:
            for layer in self.layers.values():
                layer.train()
                layer.momentum = 1.0
            yield
        finally:
            for name, layer in self.layers.items():
                layer.eval()
                layer.momentum = momenta[name]

    def moved(self, running: torch.Tensor, batch: torch.Tensor, passes: int) -> torch.Tensor:
        """Return running statistics (S,) after `passes` passes of a batch with statistics `batch` (S,).

        The arithmetic is torch's.
        """
        momentum = self._momentum.to(running)
        for _ in range(passes):
            running = momentum * batch + (1 - momentum) * running
        return running


class Drift:
    """A network in train mode, with its running statistics for several numbers of passes per batch.

    A pass changes only the running statistics, and these affect no map in train mode. So one forward pass
    gives the statistics for any number of passes that the published code makes.
    """

    def __init__(self, backbone: Backbone, running: dict[int, torch.Tensor]):
        """backbone: not fused. running: initial statistics (S,) by the number of passes."""
        self.backbone = backbone
        self.norms = BatchNorms(backbone.body)
        self.running = running

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Compute maps (B, K, h, w) of normalised images (B, 3, S, S) and update the running statistics.

        Raises UserError for a batch in which a layer has one value per channel, which has no variance.
        """
        try:
            with self.norms.seeing_batches():
                maps = self.backbone(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "batch_norm drifting: a batch of one image with maps of one position has no variance: choose "
                "a training.batch_size whose last batch has more than one image, or larger images"
            ) from None
        batch = self.norms.statistics()
        self.running = {p: self.norms.moved(running, batch, p) for p, running in self.running.items()}
        return maps


def evaluated(backbone: Backbone, statistics: torch.Tensor) -> Backbone:
    """Return a fused copy of the network in evaluation mode with the running statistics (S,)."""
    twin = copy.deepcopy(backbone)
    BatchNorms(twin.body).set(statistics)
    body = fuse_batch_norms(twin.body)
    twin.body = body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return twin


def adapted(
    backbone: Backbone, images: np.ndarray, index: torch.Tensor, device: torch.device | str = "cpu"
) -> Backbone:
    """Return a fused copy of the network in evaluation mode, with running statistics re-estimated on images.

    images (N, H, W, 3) uint8, of which those of `index` (n,) are used, shuffled, in batches of ESTIMATED or
    more (one batch if n is smaller). As in torch.optim.swa_utils.update_bn, the statistics are the mean of
    the batches' statistics, here weighted by the size of the batch.
    """
    norms = BatchNorms(backbone.body)
    total: Any = 0  # the statistics so far
    shuffled = index[torch.randperm(len(index), generator=generator(0, "adapted"))]
    with torch.inference_mode(), same_bits(device):
        for part in shuffled.tensor_split(max(1, len(index) // ESTIMATED)):  # no small batch is left over
            batch = backbone.preprocess(torch.from_numpy(np.array(images[part.numpy()])))
            with norms.seeing_batches():
                backbone(batch)
            total = total + len(part) / len(index) * norms.statistics()
        return evaluated(backbone, total)
