"""Batch norm's running statistics: reading and setting them, and letting them drift as in train mode.

In train mode a batch is normalised by its own mean and variance, and the running statistics, by which the
network normalises when it is evaluated, move towards them (Ioffe & Szegedy 2015). A network whose weights
are frozen but whose batch norms are left in train mode is therefore not frozen: its maps are a function of
the whole batch, its evaluation a function of the batches that it saw last.
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

ESTIMATED = 64  # images in a batch that statistics are estimated from


class BatchNorms:
    """The batch norm layers of a network; their running statistics as one vector (S,).

    Layer after layer in the order of their names in the network, a layer's means and then its variances.
    Raises UserError for a layer whose running statistics are a cumulative average: none of torchvision's are.
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
        """The running statistics (S,), a copy."""
        parts = [t for layer in self.layers.values() for t in (layer.running_mean, layer.running_var)]
        return torch.cat(parts) if parts else torch.zeros(0)

    def set(self, statistics: torch.Tensor) -> None:
        """Overwrite the running statistics."""
        start = 0
        for layer in self.layers.values():
            for values in (layer.running_mean, layer.running_var):
                values.copy_(statistics[start : start + len(values)])
                start += len(values)

    @contextmanager
    def seeing_batches(self) -> Iterator[None]:
        """For a while the layers are in train mode, and `statistics` the last batch's own (unbiased)."""
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
        """Running statistics after passes of a batch with statistics `batch`, in torch's arithmetic."""
        momentum = self._momentum.to(running)
        for _ in range(passes):
            running = momentum * batch + (1 - momentum) * running
        return running


class Drift:
    """A network in train mode, and its running statistics for several numbers of passes a batch at once.

    A pass moves nothing but the running statistics, and these change no map of train mode: so one forward
    pass is enough, however many the published code makes.
    """

    def __init__(self, backbone: Backbone, running: dict[int, torch.Tensor]):
        """backbone: not fused. running: statistics (S,) to go on from, by the number of passes."""
        self.backbone = backbone
        self.norms = BatchNorms(backbone.body)
        self.running = running

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, S, S) -> maps (B, K, h, w), and the statistics move.

        Raises UserError for a batch in which some layer sees one value a channel: it has no variance.
        """
        try:
            with self.norms.seeing_batches():
                maps = self.backbone(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "batch_norm drifting: a batch of one image with maps of one position has no variance: choose "
                "a training.batch_size that leaves no single image over, or larger images"
            ) from None
        batch = self.norms.statistics()
        self.running = {p: self.norms.moved(running, batch, p) for p, running in self.running.items()}
        return maps


def evaluated(backbone: Backbone, statistics: torch.Tensor) -> Backbone:
    """The network in evaluation mode with these running statistics, fused; the given one stays as it is."""
    twin = copy.deepcopy(backbone)
    BatchNorms(twin.body).set(statistics)
    body = fuse_batch_norms(twin.body)
    twin.body = body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return twin


def adapted(
    backbone: Backbone, images: np.ndarray, index: torch.Tensor, device: torch.device | str = "cpu"
) -> Backbone:
    """The network in evaluation mode with running statistics estimated anew on some images, fused.

    images (N, H, W, 3) uint8, of which index (n,) are taken, shuffled, in batches of ESTIMATED. As in
    torch.optim.swa_utils.update_bn the statistics are the mean of the batches' own; each counts by its size.
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
