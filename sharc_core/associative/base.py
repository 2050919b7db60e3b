"""The interface of an associative memory (AM): what completes the masked maps on the way out."""

import math

import torch

from sharc_core.errors import UserError
from sharc_core.registry import Registry
from sharc_core.settings import Settings as BaseSettings

ASSOCIATIVE_MEMORIES = Registry("associative memory", "sharc_core.associative")


class AssociativeMemory:
    """One replica's AM. Subclass, register under a name, implement `learn`, `complete`, `state_dict`,
    `load_state_dict` and `planned_bytes`; `forget` where fading has a meaning.

    Maps are (n, K, h, w) float; masks (n, K) bool, true where a channel was kept. A kind whose learning
    draws random numbers derives them from `seed`. Tensors live on `device`; what comes back does too.
    """

    name: str
    needs_writing = True  # False: reading is defined before anything was written

    class Settings(BaseSettings):
        """Settings of this kind, under `sharc.associative_settings.<name>`."""

    def __init__(
        self,
        settings: BaseSettings,
        shape: tuple[int, int, int],
        classes: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        """shape: (K, h, w) of a map. classes: number of classes in the stream."""
        self.settings = settings
        self.shape = tuple(shape)
        self.classes = classes
        self.seed = seed
        self.device = torch.device(device)
        self.written = 0

    # --- what the episodic memory calls ----------------------------------------------------------

    def write(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """Learn unmasked maps (n, K, h, w) with their labels (n,), at the end of a task.

        Raises UserError for maps of another shape or maps that are not finite.
        """
        self._check(maps, "written")
        self.learn(maps.to(self.device), labels.to(self.device))
        self.written += len(maps)

    def read(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Masked maps -> completed maps, (n, K, h, w) float32. Kept channels come back unchanged.

        Raises UserError for maps or masks of another shape, maps that are not finite, and before
        anything was written.
        """
        self._check(maps, "read")
        if mask.shape != maps.shape[:2]:
            raise UserError(
                f"associative memory {self.name}: a mask of shape {tuple(mask.shape)} for maps of shape "
                f"{tuple(maps.shape)}: give one truth value per map and channel"
            )
        maps, mask, labels = (t.to(self.device) for t in (maps, mask, labels))
        if bool(mask.all()):
            return maps.float()
        if self.needs_writing and not self.written:
            raise UserError(f"associative memory {self.name} was read before anything was written to it")
        seen = mask[:, :, None, None]
        maps = torch.where(seen, maps.float(), 0.0)
        return torch.where(seen, maps, self.complete(maps, mask, labels))

    def forget(self, beta: float) -> None:
        """Fade what was learnt by beta in [0, 1]. Kinds without such a notion keep everything."""

    @property
    def state_bytes(self) -> int:
        """Bytes of everything that has to be kept to go on reading and writing."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    # --- what a kind implements ------------------------------------------------------------------

    def learn(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in checked maps (n, K, h, w) with their labels (n,)."""
        raise NotImplementedError  # abstract

    def complete(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """A guess for every entry, (n, K, h, w) float32; what it says of kept channels is ignored.

        maps: float32, zero where a channel was dropped.
        """
        raise NotImplementedError  # abstract

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that has to be kept, as tensors: what state_bytes counts and load_state_dict takes."""
        raise NotImplementedError  # abstract

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over another memory's state (same kind, settings and shape)."""
        raise NotImplementedError  # abstract

    @classmethod
    def planned_bytes(
        cls, settings: BaseSettings, shape: tuple[int, int, int], classes: int, samples: int
    ) -> int:
        """state_bytes once `samples` maps of `classes` classes are written: known before any is.

        Raises UserError when a memory of this kind cannot hold maps of that size.
        """
        raise NotImplementedError  # abstract

    # --- shared -----------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Entries of a map, K h w."""
        return math.prod(self.shape)

    def _check(self, maps: torch.Tensor, how: str) -> None:
        if maps.ndim != 4 or tuple(maps.shape[1:]) != self.shape:
            raise UserError(
                f"associative memory {self.name}: maps of shape {tuple(maps.shape)} cannot be {how}; it was "
                f"made for (n, {', '.join(map(str, self.shape))})"
            )
        if not bool(torch.isfinite(maps).all()):
            raise UserError(
                f"associative memory {self.name}: a map to be {how} has entries that are not finite"
            )
