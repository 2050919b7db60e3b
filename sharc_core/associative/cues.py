"""Masked maps as the bottom layer of a BayesPCN: observed entries clamped, others free or maximised out.

A free entry is a variable of the optimisation, like a hidden unit. It starts from zero and takes Adam steps
towards the prediction. These steps need the entries themselves, not only Gram matrices, so they cost
hidden x map size. Three measures reduce this cost. The weights are read from memory once per step, in blocks
of columns that fit a processor's cache. All cues of a stack share that pass. The observed entries of a mask
enter through Gram matrices.

An entry that is maximised out equals its prediction and drops out of the log joint. Gram matrices then
suffice, unless there are too many masks.
"""

from dataclasses import dataclass
from typing import Any

from sharc_core.associative.gradient_steps import Adam
from sharc_core.associative.matrix_normal import Noise, cross_of, gram_flops, gram_of
from sharc_core.common.deferred import torch

BLOCK = 1024  # columns of a block on a CPU
GPU_BLOCK = 2**16  # on a GPU, where few large operations are faster
MANY = 2  # ratio masks x hidden / map size above which a Gram matrix per mask costs more than the columns


def on_gpu(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is where few large operations are faster than many that stay in the cache."""
    return tensor.device.type != "cpu"


class MaskedWeights:
    """Weights R (m, d) of the bottom layer, with columns grouped by the channels that masks (n, K) drop.

    Channels that the same cues drop form blocks. The columns of a block are computed entry by entry for the
    cues that use it. The other columns enter through one Gram matrix per mask. free: unobserved entries are
    free, and the cues that drop any channel of a block use it. Otherwise only observed entries count, and
    blocks are used only if there are too many masks for Gram matrices to be cheaper. flops: operations of the
    Gram matrices so far.
    """

    def __init__(self, weights: torch.Tensor, mask: torch.Tensor, free: bool):
        self.weights, self.free, self.flops = weights, free, 0
        self.masks, self.member = mask.unique(dim=0, return_inverse=True)
        self.positions = weights.shape[1] // mask.shape[1]
        self.grams: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.blocks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # columns, users, weights
        self.clamped = self.masks.clone()  # (M, K): channels that a mask's Gram matrix covers
        if not free and len(self.masks) * len(weights) <= MANY * weights.shape[1]:
            return
        kinds = self.masks.T.unique(dim=0, return_inverse=True)[1]
        size = GPU_BLOCK if on_gpu(weights) else BLOCK
        for channels in kinds.argsort(stable=True).split(max(1, size // self.positions)):
            users = (self.masks[:, channels] != free).any(1)
            if bool(users.any()):
                self.clamped[:, channels] &= ~users[:, None]
                columns = self.columns(channels)
                self.blocks.append((columns, users, weights[:, columns]))

    def columns(self, channels: torch.Tensor) -> torch.Tensor:
        """Return the columns of channels (k,)."""
        each = torch.arange(self.positions, device=channels.device)
        return (channels[:, None] * self.positions + each).flatten()

    def gram(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the columns that the Gram matrix of a mask covers, and R R^T (m, m) float64 over them."""
        if number not in self.grams:
            columns = self.columns(self.clamped[number].nonzero().flatten())
            self.grams[number] = columns, gram_of(self.weights, columns)
            self.flops += gram_flops(len(self.weights), len(columns))
        return self.grams[number]


@dataclass
class Block:
    """A block of columns for the cues that use it. rows: indices of these cues in the stack.

    adam: the optimiser of free entries; None if unobserved entries are maximised out. counted: 1 at the
    entries that count (the free ones, or without free ones the observed ones) and 0 elsewhere; None if all
    are 1.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    weights: torch.Tensor
    entries: torch.Tensor
    counted: torch.Tensor | None
    adam: Adam | None

    def residual(self, z: torch.Tensor) -> torch.Tensor:
        """Return X - Z R, which is 0 at entries that are maximised out."""
        residual = torch.addmm(self.entries, z.to(self.entries.dtype), self.weights, alpha=-1)
        return residual if self.adam or self.counted is None else residual.mul_(self.counted)

    def step(self, gradient: torch.Tensor) -> None:
        """Move free entries one step up the gradient. Overwrites `gradient`."""
        if self.adam:
            self.adam.ascend(self.entries, gradient if self.counted is None else gradient.mul_(self.counted))

    def keep(self, kept: torch.Tensor) -> None:
        """Keep the cues `kept` (r,) bool of the stack and renumber them."""
        here = kept[self.rows]
        self.entries, self.counted = self.entries[here], None if self.counted is None else self.counted[here]
        self.rows = (kept.cumsum(0) - 1)[self.rows[here]]
        if self.adam:
            self.adam.keep(here)


class Cues:
    """A stack of G batches of up to n cues to complete, with the interface of Grams (matrix_normal.py).

    flops: operations of its matrix products so far.
    """

    def __init__(
        self,
        weights: MaskedWeights,
        chosen: torch.Tensor,
        x: torch.Tensor,
        rows: torch.Tensor,
        lr: float,
        coupled: bool,
    ):
        """Set up cues x (r, d), zero where unobserved, with the masks at rows `chosen` (r,) of `weights`.

        rows (G, n, 1): 1 where a batch has a cue, 0 at its padding; r entries are 1. coupled: the cues of a
        batch are coupled; there must be one batch, with one mask.
        """
        self.x, self.columns, self.flops = x, x.shape[1], 0
        self.place = rows.flatten().nonzero().flatten()
        self.shape: tuple[int, ...] = rows.shape[:2]
        self.active = torch.arange(len(x), device=x.device)  # indices in x of the active cues
        member, width = weights.member[chosen], len(weights.weights)
        double: dict[str, Any] = {"dtype": torch.float64, "device": x.device}
        self.xr = torch.zeros(len(x), width, **double)
        self.xx = torch.zeros(len(x), len(x) if coupled else 1, **double)
        self.groups: list[tuple[torch.Tensor, torch.Tensor]] = []  # cues of a mask, R R^T
        for number in member.unique().tolist():
            if bool(weights.clamped[number].any()):
                columns, gram = weights.gram(number)
                own = (member == number).nonzero().flatten()
                self.xr[own], seen = cross_of(x[own], weights.weights, columns)
                self.xx[own] = seen @ seen.T if coupled else seen.square().sum(1, keepdim=True)
                self.groups.append((own, gram))
                inner = width + len(own) if coupled else width
                self.flops += 2 * len(own) * inner * len(columns)
        self._number_groups()
        self.blocks: list[Block] = []
        for columns, users, part in weights.blocks:
            own = users[member].nonzero().flatten()
            if not len(own):
                continue
            channels = columns[:: weights.positions] // weights.positions
            entries = x[own][:, columns].to(part.dtype)
            counted = weights.masks[member[own]][:, channels] != weights.free
            every = bool(counted.all())
            counted = None if every else counted.repeat_interleave(weights.positions, 1).to(part.dtype)
            adam = Adam(entries, lr) if weights.free else None
            self.blocks.append(Block(own, columns, part, entries, counted, adam))

    def products(self, z: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `fit` and `error` of z (G, n, m), as for Noise.log_density; then free entries take a step.

        The results refer to the entries before the step. The step shares the pass over the weights.
        """
        shape, z = z.shape, z.flatten(0, 1)
        z = z if len(z) == len(self.place) else z[self.place]
        fit, error = self.xr.clone(), self.xx.clone()
        self.flops += self._step_flops(z.shape[1], noise.coupled)
        own: torch.Tensor | slice  # cues of a group or a block
        if self.in_group is None:
            for own, gram in self.groups:
                fit[own] -= z[own] @ gram
        else:
            parts = [z[own] @ gram for own, gram in self.groups]
            fit -= torch.cat([*parts, torch.zeros_like(z[:1])])[self.in_group]
        if self.groups and noise.coupled:
            error -= z @ self.xr.T + fit @ z.T
        elif self.groups:
            error -= (z * (self.xr + fit)).sum(1, keepdim=True)
        if self.blocks:
            dtype = self.blocks[0].entries.dtype
            narrow, pull = z.to(dtype), self._pull(noise, dtype)
        for block in self.blocks:
            own = slice(None) if len(block.rows) == len(z) else block.rows
            residual = block.residual(narrow[own])
            fit[own] += residual @ block.weights.T
            if noise.coupled:
                error += residual @ residual.T
                block.step(pull @ residual)
            else:
                error[own] += _squares(residual)
                block.step(residual.mul_(pull[own] if noise.spread is not None else pull))
        if noise.coupled:
            return fit[None], error[None]
        return self._batches(fit, shape), self._batches(error, (*shape[:2], 1)).squeeze(2)

    def _step_flops(self, width: int, coupled: bool) -> int:
        """Return the operations of `products` for hidden units of this width."""
        total = sum(len(own) for own, _ in self.groups) * width**2
        if self.groups and coupled:
            total += 2 * len(self.place) ** 2 * width
        for block in self.blocks:
            rows, columns = block.entries.shape
            total += 2 * rows * columns * (width + rows if coupled else width)
        return 2 * total

    def _pull(self, noise: Noise, dtype: torch.dtype) -> Any:
        """Return the factor from a residual to the gradient by the entries: a tensor; for MAP, a number."""
        if noise.spread is None:
            return -noise.precision
        precision = noise.precision[0] if noise.coupled else noise.precision.flatten(0, 1)
        if not noise.coupled and len(precision) != len(self.place):
            precision = precision[self.place]
        return -precision.to(dtype)

    def _batches(self, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Return values (r, k) of the cues as (G, n, k), with zeros at the padding of batches."""
        if len(values) == shape[0] * shape[1]:
            return values.view(shape)
        return values.new_zeros(shape).flatten(0, 1).index_copy(0, self.place, values).view(shape)

    def of(self, chosen: torch.Tensor) -> "Cues":
        """Restrict this, in place, to the batches `chosen` (G,) bool. The others keep their entries."""
        self.maps()
        batch = self.place // self.shape[1]
        kept = chosen[batch]
        self.place = ((chosen.cumsum(0) - 1)[batch] * self.shape[1] + self.place % self.shape[1])[kept]
        self.shape = (int(chosen.sum()), self.shape[1])
        self.active, self.xr, self.xx = self.active[kept], self.xr[kept], self.xx[kept]
        number = kept.cumsum(0) - 1
        self.groups = [(number[own[kept[own]]], gram) for own, gram in self.groups]
        self._number_groups()
        for block in self.blocks:
            block.keep(kept)
        return self

    def _number_groups(self) -> None:
        """On a GPU, number the cues (r,) group by group; a cue of no group gets the number after the last.

        Deterministic assignment by index sorts the indices there, so values are gathered by number instead.
        """
        self.in_group: torch.Tensor | None = None
        if self.groups and on_gpu(self.x):
            order = torch.cat([own for own, _ in self.groups])
            self.in_group = torch.full((len(self.active),), len(order), device=order.device)
            self.in_group[order] = torch.arange(len(order), device=order.device)

    def maps(self) -> torch.Tensor:
        """Return the current maps (r, d): observed entries, and free entries after their steps."""
        for block in self.blocks:
            rows, entries = self.active[block.rows], block.entries.to(self.x.dtype)
            if on_gpu(self.x):
                self.x = _replaced(self.x, rows, block.columns, entries) if len(rows) else self.x
            else:
                self.x[rows[:, None], block.columns] = entries
        return self.x


def _squares(rows: torch.Tensor) -> torch.Tensor:
    """Return the squared length of rows (r, d), (r, 1); on a GPU in one pass over memory."""
    if on_gpu(rows):
        return torch.linalg.vector_norm(rows, dim=1, keepdim=True).square()
    return rows.square().sum(1, keepdim=True)


def _replaced(
    x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Return x (n, d) with values (r, c) at rows (r,) and columns (c,), without an assignment by index."""
    row, column = (torch.full((size,), -1, device=x.device) for size in x.shape)
    row[rows], column[columns] = (torch.arange(len(each), device=x.device) for each in (rows, columns))
    wide = torch.where(column >= 0, values[:, column.clamp_min(0)], x[rows])
    return torch.where((row >= 0)[:, None], wide[row.clamp_min(0)], x)
