"""Maps that are read when they are used, the growing list of them that a memory keeps, and masked maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.common.pooling import pool

BLOCK = 64  # maps read at a time
ROUNDING = 2.0**-24  # relative rounding error of float32


@dataclass(frozen=True)
class Rows:
    """n maps that `read` returns, (m, K, h, w) float, for their numbers (m,); index (n,): these numbers.

    `read` must return the same maps every time, as the feature cache does.
    """

    read: Callable[[torch.Tensor], torch.Tensor]
    index: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, at: torch.Tensor | slice) -> torch.Tensor:
        return self.read(self.index[at])


@dataclass(frozen=True)
class Observed:
    """n masked maps without the channels that were dropped.

    values (M, h, w): the observed channels, map after map. mask (n, K) bool: true at the M observed ones.
    """

    values: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, maps: torch.Tensor, mask: torch.Tensor) -> "Observed":
        """Return the observed channels of maps (n, K, h, w)."""
        return cls(maps[mask], mask)

    def __len__(self) -> int:
        return len(self.mask)

    def part(self, at: torch.Tensor) -> "Observed":
        """Return the maps at (m,), ascending distinct numbers."""
        if len(at) == len(self):
            return self
        chosen = torch.zeros(len(self), dtype=torch.bool, device=self.mask.device)
        chosen[at] = True
        return Observed(self.values[chosen.repeat_interleave(self.mask.sum(1))], self.mask[at])

    def full(self) -> torch.Tensor:
        """Return maps (n, K, h, w) with zeros where nothing was observed."""
        full = self.values.new_zeros(*self.mask.shape, *self.values.shape[1:])
        full[self.mask] = self.values
        return full

    def table(self, values: torch.Tensor) -> torch.Tensor:
        """Return values (M,) of the observed channels as (n, K) float64, with zeros elsewhere."""
        table = torch.zeros(self.mask.shape, dtype=torch.float64, device=self.mask.device)
        table[self.mask] = values.double()
        return table


class StoredMaps:
    """A growing list of N maps (K, h, w) float16, some of them in memory, others read when they are used.

    means (N, K) float32: their pooled vectors. errors (N,) float64: bounds on the norm of the rounding error
    of these vectors. Both are derived from the maps.
    """

    def __init__(self, shape: Sequence[int], device: torch.device):
        self.shape, self.device = tuple(shape), device
        self.means = torch.zeros(0, self.shape[0], device=device)
        self.errors = torch.zeros(0, dtype=torch.float64, device=device)
        self._parts: list[torch.Tensor | Rows] = []
        self._starts: list[int] = []
        self._indices: list[torch.Tensor | None] = []  # of the rows that a part was made from

    def __len__(self) -> int:
        return len(self.means)

    def append(self, maps: torch.Tensor) -> None:
        """Add maps (n, K, h, w) float16 on the device."""
        self._append(maps, [pooled(block) for block in maps.split(BLOCK)], None)

    def last_are(self, index: torch.Tensor) -> None:
        """Record that the maps that were added last are copies of the rows index (n,)."""
        self._indices[-1] = index.to(self.device)

    def append_rows(self, rows: Rows, halves: Callable[[torch.Tensor, slice], torch.Tensor]) -> None:
        """Add maps that stay where they are.

        halves: checks a block of them, given the maps and which of the rows they are, and returns float16.
        """
        blocks = [slice(start, start + BLOCK) for start in range(0, len(rows), BLOCK)]
        means = [pooled(halves(rows[block], block)) for block in blocks]
        self._append(rows, means, rows.index.to(self.device))

    def _append(
        self,
        maps: torch.Tensor | Rows,
        blocks: list[tuple[torch.Tensor, torch.Tensor]],
        index: torch.Tensor | None,
    ) -> None:
        means, errors = zip(*blocks, strict=True) if blocks else ((), ())
        self._starts.append(len(self))
        self._parts.append(maps)
        self._indices.append(index)
        self.means = torch.cat([self.means, *means])
        self.errors = torch.cat([self.errors, *(error.norm(dim=1) for error in errors)])

    def rows(self, number: torch.Tensor) -> torch.Tensor:
        """Return the maps with numbers (n,), as (n, K, h, w) float16 on the device."""
        chosen = [(here, part, at) for here, part, at in self._places(number) if len(at)]
        if len(chosen) == 1:
            return self._read(chosen[0][1], chosen[0][2])
        maps = torch.empty(len(number), *self.shape, dtype=torch.float16, device=self.device)
        for here, part, at in chosen:
            maps[here] = self._read(part, at)
        return maps

    def sources(self, number: torch.Tensor) -> torch.Tensor:
        """Return which rows the maps with numbers (n,) are; -1 for maps that were given without."""
        sources = torch.full_like(number, -1)
        for (here, _, at), index in zip(self._places(number), self._indices, strict=True):
            if index is not None:
                sources[here] = index.to(number.device)[at]
        return sources

    def numbers(self, source: torch.Tensor) -> torch.Tensor:
        """Return the first map (n,) of each of the rows source (n,); -1 where none is."""
        numbers = torch.full_like(source, -1)
        for start, index in zip(self._starts, self._indices, strict=True):
            if index is not None and len(index):
                values, order = index.to(source.device).sort(stable=True)
                at = torch.searchsorted(values, source).clamp_max_(len(index) - 1)
                here = (numbers < 0) & (values[at] == source)
                numbers[here] = order[at[here]] + start
        return numbers

    def _places(self, number: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | Rows, torch.Tensor]]:
        """Return for each part which of the numbers (n,) it has, (n,) bool, the part, and their places."""
        places = []
        for start, part in zip(self._starts, self._parts, strict=True):
            here = (number >= start) & (number < start + len(part))
            places.append((here, part, number[here] - start))
        return places

    def _read(self, part: torch.Tensor | Rows, at: torch.Tensor) -> torch.Tensor:
        return (part[at.cpu()] if isinstance(part, Rows) else part[at]).half().to(self.device)

    def every(self) -> torch.Tensor:
        """Return all maps, (N, K, h, w) float16, in one tensor."""
        return self.rows(torch.arange(len(self), device=self.device))


def pooled(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pooled vectors (..., K) of maps (..., K, h, w), and bounds (..., K) float64 of their errors.

    A float32 sum of P terms is off by at most P rounding errors of the sum of their magnitudes. The bound has
    16 more, for the products of vectors in float64 and their cancellation.
    """
    vectors = pool(maps)
    sizes = vectors if not maps.numel() or bool(maps.min() >= 0) else pool(maps.abs())
    return vectors, sizes.double() * ((maps.shape[-2] * maps.shape[-1] + 16) * ROUNDING)
