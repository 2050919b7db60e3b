"""Masked autoencoder: the generative inpainting baseline (SHARC figure 1) of a pcn's size."""

import math

import torch
from pydantic import Field

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.common.seeds import generator
from sharc_core.common.settings import Settings as BaseSettings

MOST_DROPPED = 0.95  # share of the channels, in training


@ASSOCIATIVE_MEMORIES.register("autoencoder")
class Autoencoder(AssociativeMemory):
    """Map with channels dropped -> encoder, ReLU -> decoder -> whole map, trained at each write.

    As many weights as a pcn of one hidden layer of `hidden` units (an even number of them) has to the map,
    hidden x d: the bottleneck has hidden // 2 units, with as many weights from the map as back to it. That
    alone matches: besides, this has hidden // 2 biases and a scale, the pcn the hidden entries of mu. Each
    step of Adam draws new masks, the share dropped uniform in [0, 0.95], and its rate falls linearly to 0
    within a write; the loss is the mean squared error of the whole map. Maps are divided by the standard
    deviation of the first write's values.
    """

    parts = ("encoder", "decoder", "bias", "scale")

    class Settings(BaseSettings):
        """hidden: as many parameters as a pcn of so many units. batch: maps a step, all if fewer."""

        hidden: int = Field(default=256, ge=2, le=8192)
        steps: int = Field(default=400, ge=1)
        batch: int = Field(default=25, ge=1)
        lr: float = Field(default=2e-3, gt=0, le=1, allow_inf_nan=False)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.encoder, self.decoder, self.bias = self._initial()
        self.scale = torch.zeros((), device=self.device)

    def _initial(self) -> tuple[torch.Tensor, ...]:
        """Encoder (d, units), decoder (units, d) and bias (units,) before any write, from the seed."""
        units, source = self.settings.hidden // 2, generator(self.seed, "autoencoder", "weights")
        encoder = (2 * torch.rand(self.size, units, generator=source) - 1) / self.size**0.5
        decoder = (2 * torch.rand(units, self.size, generator=source) - 1) / units**0.5
        return tuple(part.to(self.device) for part in (encoder, decoder, torch.zeros(units)))

    @torch.enable_grad()  # a cell trains without: its gradients are closed form
    def learn(self, maps, labels):
        """Train on the maps, from the weights as they are; Adam's averages start anew."""
        values = maps.float().flatten(1)
        if not self.written:
            deviation = values.std(correction=0)
            self.scale = torch.where(deviation > 0, deviation, 1.0)
        values = values / self.scale
        source = generator(self.seed, "autoencoder", "masks", self.written)  # each write draws anew
        parameters = [part.clone().requires_grad_() for part in (self.encoder, self.decoder, self.bias)]
        encoder, decoder, bias = parameters
        optimiser = torch.optim.Adam(parameters, lr=self.settings.lr)
        for step in range(self.settings.steps):
            optimiser.param_groups[0]["lr"] = self.settings.lr * (1 - step / self.settings.steps)
            rows, kept = self.draw(source, len(values))
            target = values[rows]
            masked = target * kept.repeat_interleave(self.size // self.shape[0], dim=1)
            guess = torch.addmm(bias, masked, encoder).relu() @ decoder
            optimiser.zero_grad()
            (guess - target).square().mean().backward()
            optimiser.step()
        self.encoder, self.decoder, self.bias = (part.detach() for part in parameters)

    def draw(self, source: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One step's maps, as indices (n,) below `count`, and which channels they keep, (n, K) bool."""
        rows = torch.randperm(count, generator=source)[: self.settings.batch]
        share = MOST_DROPPED * torch.rand(len(rows), 1, generator=source)
        kept = torch.rand(len(rows), self.shape[0], generator=source) >= share
        return rows.to(self.device), kept.to(self.device)

    def complete(self, maps, mask, labels):
        """What the decoder makes of the observed entries."""
        values = maps.float().flatten(1) / self.scale
        code = torch.addmm(self.bias, values, self.encoder).relu()
        return (code @ self.decoder * self.scale).view_as(maps)

    def fade(self, beta):
        """Weights go a share of the way back to where they started, as in a pcn."""
        stay = math.sqrt(1 - beta)
        pairs = zip((self.encoder, self.decoder, self.bias), self._initial(), strict=True)
        self.encoder, self.decoder, self.bias = (stay * a + (1 - stay) * b for a, b in pairs)

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Float32 weights, bias and scale, whatever the number of samples."""
        units = settings.hidden // 2
        return 4 * (2 * units * math.prod(shape) + units + 1)
