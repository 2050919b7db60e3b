"""Masked autoencoder, the generative inpainting baseline (SHARC figure 1), with as many weights as a pcn."""

import math

from pydantic import Field

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.common.deferred import torch
from sharc_core.common.seeds import generator
from sharc_core.common.settings import Settings as BaseSettings

MOST_DROPPED = 0.95  # largest share of channels dropped in training


@ASSOCIATIVE_MEMORIES.register("autoencoder")
class Autoencoder(AssociativeMemory):
    """Encoder, ReLU and decoder from a map with dropped channels to the complete map, trained at each write.

    The bottleneck has hidden // 2 units, with equally many weights from the map and back to it. For an even
    `hidden`, this is as many weights as a pcn with one hidden layer of `hidden` units has, hidden x d. Only
    these numbers match: the autoencoder also has hidden // 2 biases and a scale, the pcn `hidden` entries of
    mu. Each Adam step draws new masks, with a share of dropped channels uniform in [0, 0.95]. The learning
    rate falls linearly to 0 within a write. The loss is the mean squared error of the complete map. Maps are
    divided by the standard deviation of the first write's values.
    """

    parts = ("encoder", "decoder", "bias", "scale")

    class Settings(BaseSettings):
        """hidden: units of the pcn with as many weights. batch: maps per step, at most all of them."""

        hidden: int = Field(default=256, ge=2, le=8192)
        steps: int = Field(default=400, ge=1)
        batch: int = Field(default=25, ge=1)
        lr: float = Field(default=2e-3, gt=0, le=1, allow_inf_nan=False)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.encoder, self.decoder, self.bias = self._initial()
        self.scale = torch.zeros((), device=self.device)

    def _initial(self) -> tuple[torch.Tensor, ...]:
        """Return encoder (d, units), decoder (units, d) and bias (units,) before any write, from the seed."""
        units, source = self.settings.hidden // 2, generator(self.seed, "autoencoder", "weights")
        encoder = (2 * torch.rand(self.size, units, generator=source) - 1) / self.size**0.5
        decoder = (2 * torch.rand(units, self.size, generator=source) - 1) / units**0.5
        return tuple(part.to(self.device) for part in (encoder, decoder, torch.zeros(units)))

    @torch.enable_grad()  # a cell runs with gradients disabled, because its own are closed form
    def learn(self, maps, labels):
        """Train on maps (n, K, h, w) from the current weights, with new averages of Adam."""
        values = maps.float().flatten(1)
        if not self.written:
            deviation = values.std(correction=0)
            self.scale = torch.where(deviation > 0, deviation, 1.0)
        values = values / self.scale
        source = generator(self.seed, "autoencoder", "masks", self.written)  # each write draws other masks
        parameters = [part.clone().requires_grad_() for part in (self.encoder, self.decoder, self.bias)]
        encoder, decoder, bias = parameters
        optimiser = torch.optim.Adam(parameters, lr=self.settings.lr)
        for step in range(self.settings.steps):
            optimiser.param_groups[0]["lr"] = self.settings.lr * (1 - step / self.settings.steps)
            rows, kept = self.draw(source, len(values))
            self.flops.product(len(rows), *encoder.shape, 5)  # 2 forwards, 3 backwards: not to the input
            target = values[rows]
            masked = target * kept.repeat_interleave(self.size // self.shape[0], dim=1)
            guess = torch.addmm(bias, masked, encoder).relu() @ decoder
            optimiser.zero_grad()
            (guess - target).square().mean().backward()
            optimiser.step()
        self.encoder, self.decoder, self.bias = (part.detach() for part in parameters)

    def draw(self, source: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one step's maps, as indices (n,) below `count`, and the channels to keep, (n, K) bool."""
        rows = torch.randperm(count, generator=source)[: self.settings.batch]
        share = MOST_DROPPED * torch.rand(len(rows), 1, generator=source)
        kept = torch.rand(len(rows), self.shape[0], generator=source) >= share
        return rows.to(self.device), kept.to(self.device)

    def complete(self, maps, mask, labels):
        """Return the decoder's output (n, K, h, w) for the observed entries."""
        values = maps.float().flatten(1) / self.scale
        self.flops.product(len(values), *self.encoder.shape, 2)
        code = torch.addmm(self.bias, values, self.encoder).relu()
        return (code @ self.decoder * self.scale).view_as(maps)

    def fade(self, beta):
        """Move to the initial weights, as in a pcn: W <- a W + (1 - a) W_0 with a = sqrt(1 - beta)."""
        stay = math.sqrt(1 - beta)
        pairs = zip((self.encoder, self.decoder, self.bias), self._initial(), strict=True)
        self.encoder, self.decoder, self.bias = (stay * a + (1 - stay) * b for a, b in pairs)

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Return the bytes of float32 weights, bias and scale, independent of the number of samples."""
        units = settings.hidden // 2
        return 4 * (2 * units * math.prod(shape) + units + 1)
