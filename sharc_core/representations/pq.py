"""Product quantisation: the channels of each position in parts, each part as the number of a codebook entry.

REMIND stores its maps so (Hayes et al. 2020, arXiv 1910.02509, sec. 4.2; the method is that of Jegou et al.
2011). Its settings are the defaults: 32 codebooks of 256 entries, learnt by Lloyd's k-means on the classes of
its base initialisation, which here are those of the first task. The k-means settings are those of faiss,
which REMIND calls: 25 iterations from random positions, on at most 256 positions per entry. As there, the
codebooks do not depend on the run's seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.representations.base import REPRESENTATIONS, Representation, Stored

LARGEST_CODEBOOK = 256  # entries that the one byte of a code can number
SAMPLES_READ = 128  # at a time, when codebooks are learnt
POSITIONS_ENCODED = 256  # at a time, to bound the memory of their distances to all entries


@dataclass(frozen=True)
class Codes(Stored):
    """n samples of h w positions each, or of one position for pooled vectors.

    codes (n, h w, B) uint8, of each of the B parts. codebooks (B, E, K / B) float32, which all samples of a
    replica share and which are no part of `nbytes`. positions: (h, w), or () for pooled vectors.
    """

    codes: torch.Tensor
    codebooks: torch.Tensor
    positions: tuple[int, ...]

    def decode(self) -> torch.Tensor:
        """Return the maps (n, K, h, w) or the pooled vectors (n, K) float32: each part is its entry."""
        parts = self.codebooks[torch.arange(len(self.codebooks)), self.codes.long()]  # (n, h w, B, K / B)
        return parts.flatten(2).transpose(1, 2).reshape(len(self.codes), -1, *self.positions)

    @property
    def mask(self) -> torch.Tensor:
        """(n, K) bool: all channels are kept."""
        channels = self.codebooks.shape[0] * self.codebooks.shape[2]
        return torch.ones(len(self.codes), channels, dtype=torch.bool)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes."""
        return self.codes.nbytes


@REPRESENTATIONS.register("pq")
class ProductQuantisedMaps(Representation):
    """Maps as one byte per codebook and position, and the codebooks, which all samples share."""

    takes_masks, learns = False, True
    contents = "codes"

    class Settings(BaseSettings):
        """Settings of product quantisation.

        codebooks: parts that the channels are split into. entries: of a codebook. iterations: of k-means, at
        most. points_per_entry: positions that k-means learns from, at most, times `entries`. seed: of both.
        """

        codebooks: int = Field(default=32, ge=1)
        entries: int = Field(default=256, ge=2, le=LARGEST_CODEBOOK)
        iterations: int = Field(default=25, ge=1)
        points_per_entry: int = Field(default=256, ge=1)
        seed: int = Field(default=0, ge=0, le=2**63 - 1)

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: BaseSettings | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ):
        """For the arguments see Representation. Raises UserError if parts would differ in size."""
        super().__init__(shape, settings, image_shape)
        parts = self.settings.codebooks
        if shape[0] % parts:
            valid = [number for number in range(1, shape[0] + 1) if shape[0] % number == 0]
            fewer = max(number for number in valid if number <= parts)
            more = [str(min(number for number in valid if number > parts))] if parts < shape[0] else []
            raise UserError(
                f"storage_settings.{self.name}.codebooks {parts} does not divide the {shape[0]} channels of "
                f"a map into equal parts: set it to {' or '.join([str(fewer), *more])}"
            )
        self.codebooks: torch.Tensor | None = None

    @property
    def _positions(self) -> tuple[int, ...]:
        return self.shape[1:] if self.stores_maps else ()

    def learn(self, samples: int, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Learn each codebook by k-means on positions of the first task, drawn uniformly if they are many.

        For the arguments see Representation. Raises UserError for values that are not finite.
        """
        points = self._points(samples, read)
        self.check_finite(points)
        parts = points.unflatten(1, (self.settings.codebooks, -1)).transpose(0, 1)
        learnt = [self._k_means(part.numpy(), number) for number, part in enumerate(parts)]
        self.codebooks = torch.from_numpy(np.stack(learnt))

    def _points(self, samples: int, read: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return the channel vectors (M, K) float32 to learn from."""
        each = int(np.prod(self._positions))
        most = self.settings.entries * self.settings.points_per_entry
        source = generator(self.settings.seed, "points")
        chosen = torch.randperm(samples * each, generator=source)[:most].sort().values
        rows, places = chosen // each, chosen % each
        points = []
        for numbers in rows.unique().split(SAMPLES_READ):
            is_read = (rows >= numbers[0]) & (rows <= numbers[-1])
            at = torch.searchsorted(numbers, rows[is_read])
            points.append(_by_position(read(numbers))[at, places[is_read]])
        return torch.cat(points).float()

    def _k_means(self, points: np.ndarray, number: int) -> np.ndarray:
        """Return the codebook (E, K / B) of points (M, K / B), those of part `number`."""
        # imported here, because it takes a second that only this storage needs
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        entries = self.settings.entries
        distinct = np.unique(points, axis=0)
        if len(distinct) <= entries:  # each is an entry; the rest of the codebook repeats the last one
            return distinct[np.minimum(np.arange(entries), len(distinct) - 1)]
        seed = derived_seed(self.settings.seed, "k_means", number) % 2**32
        iterations = self.settings.iterations
        k_means = KMeans(entries, init="random", n_init=1, max_iter=iterations, random_state=seed)
        with threadpool_limits(1):  # sums over several threads would round differently
            return k_means.fit(points).cluster_centers_

    def encode(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> Codes:
        """Store maps (n, K, h, w), or vectors (n, K), as the numbers of the nearest entries.

        Raises UserError for values that are not finite.
        """
        assert self.codebooks is not None, "learn comes before encode"
        self.check_finite(maps)
        positions = _by_position(maps)
        parts = positions.float().flatten(0, 1).unflatten(1, (self.settings.codebooks, -1))
        codes = torch.cat([self._nearest(block) for block in parts.split(POSITIONS_ENCODED)])
        return Codes(codes.unflatten(0, positions.shape[:2]), self.codebooks, self._positions)

    def _nearest(self, parts: torch.Tensor) -> torch.Tensor:
        """Return the number of the nearest entry of each part (M, B, K / B), (M, B) uint8."""
        assert self.codebooks is not None
        # |x - c|^2 without |x|^2, which is the same for all entries c
        products = torch.bmm(parts.transpose(0, 1), self.codebooks.transpose(1, 2))
        distances = self.codebooks.square().sum(2)[:, None] - 2 * products
        return distances.argmin(2).T.to(torch.uint8)

    def planned_bytes(self, keep: int, counted: bool = False) -> int:
        """Return the bytes of a sample: a code per codebook and position, whatever is kept."""
        return self.settings.codebooks * int(np.prod(self._positions))

    @property
    def shared_bytes(self) -> int:
        """Bytes of the codebooks."""
        return torch.float32.itemsize * self.settings.entries * self.shape[0]


@REPRESENTATIONS.register("pooled_pq")
class ProductQuantisedVectors(ProductQuantisedMaps):
    """Pooled vectors as one byte per codebook, and the codebooks, which all samples share."""

    stores_maps = False
    contents = "codes of pooled vectors"


def _by_position(values: torch.Tensor) -> torch.Tensor:
    """Return maps (n, K, h, w) as (n, h w, K), or vectors (n, K) as (n, 1, K)."""
    return (values if values.ndim == 4 else values[:, :, None]).flatten(2).transpose(1, 2)
