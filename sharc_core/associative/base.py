"""The interface of an associative memory (AM): what completes the masked maps on the way out."""

import torch

from sharc_core.registry import Registry
from sharc_core.settings import Settings as BaseSettings

ASSOCIATIVE_MEMORIES = Registry("associative memory", "sharc_core.associative")


class AssociativeMemory:
    """One replica's AM. Subclass, register under a name, implement `write` and `complete`.

    Maps are (n, K, h, w) float; masks (n, K) bool, true where a channel was kept.
    """

    name: str

    class Settings(BaseSettings):
        """Settings of this kind, under `sharc.associative_settings.<name>`."""

    def __init__(self, settings: BaseSettings, shape: tuple[int, int, int], classes: int):
        """shape: (K, h, w) of a map. classes: number of classes in the stream."""
        self.settings = settings
        self.shape = shape
        self.classes = classes

    def write(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """Learn unmasked maps (n, K, h, w) with their labels (n,), at the end of a task."""
        raise NotImplementedError  # abstract

    def complete(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """A guess for every entry, (n, K, h, w); what it says of kept channels is ignored."""
        raise NotImplementedError  # abstract

    def read(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Masked maps -> completed maps, (n, K, h, w) float32. Kept channels come back unchanged."""
        if bool(mask.all()):
            return maps.float()
        return torch.where(mask[:, :, None, None], maps.float(), self.complete(maps, mask, labels))

    def forget(self, beta: float) -> None:
        """Fade what was learnt by beta in [0, 1]. Kinds without such a notion keep everything."""

    @property
    def state_bytes(self) -> int:
        """Bytes of everything that has to be kept to go on reading."""
        raise NotImplementedError  # abstract

    @classmethod
    def planned_bytes(
        cls, settings: BaseSettings, shape: tuple[int, int, int], classes: int, samples: int
    ) -> int:
        """state_bytes once `samples` maps of `classes` classes are written: known before any is."""
        raise NotImplementedError  # abstract
