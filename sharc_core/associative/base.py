"""The interface of an associative memory (AM), which completes masked maps when they are read."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sharc_core.associative.found import Found
from sharc_core.associative.rows import Observed, Rows
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.flops import FlopCount
from sharc_core.common.phases import READING, WRITING, phase
from sharc_core.common.registry import Registry
from sharc_core.common.settings import Settings as BaseSettings

ASSOCIATIVE_MEMORIES = Registry("associative memory", "sharc_core.associative")
Call = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # the arguments of `read`: maps, mask, labels
LEAST_WEIGHT = 1e-6  # of a map: what fading leaves of a weight, so that a mean never becomes 0 / 0


class AssociativeMemory:
    """One replica's AM. To add a kind, subclass it and register the subclass under a name.

    A kind lists the tensors of its state in `parts` and implements `learn`, `complete` and `planned_bytes`,
    and `fade` if forgetting is defined. Maps are (n, K, h, w) float. Masks are (n, K) bool, true where a
    channel was kept. A kind whose learning draws random numbers derives them from `seed`. State and results
    are on `device`. `flops` counts operations: a kind adds the matrix products of `learn` and `complete` by
    formula, `self.flops.product(rows, inner, columns)`.
    """

    name: str
    settings: Any  # an instance of the class's Settings
    needs_writing = True  # False: reading works before anything was written
    parts: tuple[str, ...] = ()  # attributes that hold the tensors of the state
    grows = False  # True: the parts grow with the written maps and have equal lengths

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
        self.written = 0  # maps
        self.flops = FlopCount()

    # --- what the episodic memory calls ----------------------------------------------------------

    @phase(WRITING)
    def write(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """Learn unmasked maps (n, K, h, w) with their labels (n,), at the end of a task.

        Raises UserError for no maps, maps or labels of another shape, and maps that are not finite. Also
        raises it when the learnt state is not finite; the memory is then unusable.
        """
        self._write([self], [maps], [labels])

    @phase(WRITING)
    def write_rows(self, rows: Rows, labels: torch.Tensor) -> None:
        """Like `write`, for maps that can be read again. A kind that keeps maps may keep `rows` instead."""
        self.write(rows[:], labels)

    @phase(READING)
    def read(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Complete masked maps (n, K, h, w), with mask (n, K) and labels (n,). Kept channels are unchanged.

        The result is float32, or float64 for float64 maps. The entries of dropped channels, including NaN,
        are ignored. Raises UserError for no maps, maps, labels or masks of another shape, a mask that is not
        bool, kept entries that are not finite, reading before writing, and recalled values that are not
        finite.
        """
        return self._read((maps, mask, labels), self.complete)

    def _read(self, call: Call, complete: Callable[..., torch.Tensor]) -> torch.Tensor:
        maps, mask, labels = call
        self._check(maps, labels, "read")
        if mask.shape != maps.shape[:2]:
            raise UserError(
                f"associative memory {self.name}: a mask of shape {tuple(mask.shape)} for maps of shape "
                f"{tuple(maps.shape)}: give one truth value per map and channel"
            )
        if mask.dtype != torch.bool:
            raise UserError(f"associative memory {self.name}: a mask of {mask.dtype}: it must be torch.bool")
        maps, mask, labels = (t.to(self.device) for t in (maps, mask, labels))
        seen = mask[:, :, None, None]
        wide = torch.promote_types(maps.dtype, torch.float32)
        maps = torch.where(seen, maps.to(wide), 0.0)  # a copy of the caller's maps
        self._check_finite(maps, "read")
        if bool(mask.all()):
            return maps
        if self.needs_writing and not self.written:
            raise UserError(f"associative memory {self.name} was read before anything was written to it")
        try:
            full = torch.where(seen, maps, complete(maps, mask, labels))
        except torch.linalg.LinAlgError:
            raise self._out_of_hand("what it recalls") from None
        if not finite(full):
            raise self._out_of_hand("what it recalls")
        return full

    @classmethod
    def write_all(
        cls, memories: Sequence["AssociativeMemory"], rows: Sequence[Rows], labels: Sequence[torch.Tensor]
    ) -> None:
        """Do `write_rows` of several memories of this kind, at once if they learn together.

        memories: of the same settings and shape, and with as many maps written.
        """
        if memories[0].learns_together and len({len(each) for each in rows}) == 1:
            with phase(WRITING):
                cls._write(memories, [each[:] for each in rows], labels)
            return
        for memory, its_rows, its_labels in zip(memories, rows, labels, strict=True):
            memory.write_rows(its_rows, its_labels)

    @classmethod
    def _write(
        cls,
        memories: Sequence["AssociativeMemory"],
        maps: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
    ) -> None:
        for memory, its_maps, its_labels in zip(memories, maps, labels, strict=True):
            memory._check(its_maps, its_labels, "written")
            memory._check_finite(its_maps, "written")
        device = memories[0].device
        maps, labels = [each.to(device) for each in maps], [each.to(device) for each in labels]
        try:
            if len(memories) == 1:
                memories[0].learn(maps[0], labels[0])
            else:
                cls.learn_all(memories, maps, labels)
            is_finite = all(memory.learnt_finite() for memory in memories)
        except torch.linalg.LinAlgError:  # a matrix without a Cholesky factor
            is_finite = False
        if not is_finite:
            raise memories[0]._out_of_hand("what it learnt")
        for memory, its_maps in zip(memories, maps, strict=True):
            memory.written += len(its_maps)

    def read_all(self, calls: Iterable[Call]) -> Iterator[torch.Tensor]:
        """Yield what `read` returns for each call. A kind may override it to take all calls at once."""
        for call in calls:
            yield self.read(*call)

    @phase(WRITING)
    def forget(self, beta: float) -> None:
        """Fade what was learnt by beta in [0, 1]. Raises UserError for any other beta, including NaN."""
        if not 0 <= beta <= 1:  # also true for NaN
            raise UserError(f"associative memory {self.name}: cannot forget by {beta}: give 0 to 1")
        self.fade(float(beta))

    @property
    def state_bytes(self) -> int:
        """Return the bytes of the state. The number of maps written is bookkeeping and does not count."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return a copy of the state and `written`. Later writes do not change it."""
        state = {name: tensor.clone() for name, tensor in self.tensors().items()}
        return state | {"written": torch.tensor(self.written)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Copy the state of another memory of the same kind, settings and shape.

        Raises UserError for missing or unknown entries, and for entries of another type or shape.
        """
        self._check_state(state)
        self.load_tensors({name: state[name].to(self.device).clone() for name in self.tensors()})
        self.written = int(state["written"])

    # --- what a kind implements ------------------------------------------------------------------

    def learn(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """Learn checked maps (n, K, h, w) with their labels (n,)."""
        raise NotImplementedError  # abstract

    @property
    def learns_together(self) -> bool:
        """Whether `learn_all` is faster than `learn` of each memory."""
        return False

    @classmethod
    def learn_all(
        cls,
        memories: Sequence["AssociativeMemory"],
        maps: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
    ) -> None:
        """Learn checked maps, each (n, K, h, w), of several memories that have written equally many."""
        raise NotImplementedError  # of kinds whose `learns_together` may be true

    def complete(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return a value for every entry, (n, K, h, w). Values of kept channels are ignored.

        maps: float32 or float64, zero where a channel was dropped.
        """
        raise NotImplementedError  # abstract

    @property
    def picks(self) -> bool:
        """Whether a cue is completed with one stored map, whatever other cues there are.

        The four methods below are then implemented, and `read` gives the same.
        """
        return False

    def search(self, cues: Observed, known: Found | None = None) -> Found:
        """Return which stored maps complete n cues.

        known: what an earlier search for the same cues returned. Only maps written since are compared.
        """
        raise NotImplementedError  # of kinds whose `picks` may be true

    def picked_maps(self, number: torch.Tensor) -> torch.Tensor:
        """Return the stored maps with these numbers (n,), (n, K, h, w) float32."""
        raise NotImplementedError  # of kinds whose `picks` may be true

    def picked_vectors(self, number: torch.Tensor) -> torch.Tensor:
        """Return the pooled vectors (n, K) float32 of the stored maps with these numbers (n,)."""
        raise NotImplementedError  # of kinds whose `picks` may be true

    def sources(self, number: torch.Tensor) -> torch.Tensor:
        """Return which rows `write_rows` was given for the stored maps with numbers (n,); -1 for copies."""
        raise NotImplementedError  # of kinds whose `picks` may be true

    def numbers_of(self, source: torch.Tensor) -> torch.Tensor:
        """Return the first stored maps (n,) that were written from the rows source (n,); -1 for none."""
        raise NotImplementedError  # of kinds whose `picks` may be true

    def learnt_finite(self) -> bool:
        """Return whether the state is finite after learning."""
        return all(finite(tensor) for tensor in self.tensors().values())

    def fade(self, beta: float) -> None:
        """Forget by a checked beta. By default, nothing is forgotten."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the current state without copying it. state_bytes counts these tensors."""
        return {name: getattr(self, name) for name in self.parts}

    def load_tensors(self, state: dict[str, torch.Tensor]) -> None:
        """Take over checked tensors, named as in `tensors`. They are on the device and not shared."""
        for name, tensor in state.items():
            setattr(self, name, tensor)

    @classmethod
    def planned_bytes(
        cls, settings: BaseSettings, shape: tuple[int, int, int], classes: int, samples: int
    ) -> int:
        """Return state_bytes after `samples` maps of `classes` classes are written, before writing any.

        Raises UserError when a memory of this kind cannot hold maps of that shape.
        """
        raise NotImplementedError  # abstract

    # --- shared -----------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Return the number of entries of a map, K h w."""
        return math.prod(self.shape)

    def _check(self, maps: torch.Tensor, labels: torch.Tensor, how: str) -> None:
        if maps.ndim != 4 or tuple(maps.shape[1:]) != self.shape:
            raise UserError(
                f"associative memory {self.name}: maps of shape {tuple(maps.shape)} cannot be {how}; it was "
                f"made for (n, {', '.join(map(str, self.shape))})"
            )
        if not len(maps):
            raise UserError(f"associative memory {self.name}: there are no maps to be {how}")
        if labels.shape != maps.shape[:1]:
            raise UserError(
                f"associative memory {self.name}: labels of shape {tuple(labels.shape)} for {len(maps)} maps:"
                " give one per map"
            )

    def _check_finite(self, maps: torch.Tensor, how: str) -> None:
        if not finite(maps):
            raise UserError(
                f"associative memory {self.name}: a map to be {how} has entries that are not finite"
            )

    def _check_state(self, state: dict[str, torch.Tensor]) -> None:
        needed = self.tensors() | {"written": torch.tensor(0)}
        wrong = {key: "is unknown" for key in state if key not in needed}
        wrong |= {key: "is missing" for key in needed if key not in state}
        if not wrong:
            length = state[self.parts[0]].shape[:1] if self.grows else ()
            for key, tensor in needed.items():
                given, shape = state[key], tensor.shape
                if self.grows and key in self.parts:
                    shape = length + shape[1:]
                if (given.shape, given.dtype) != (shape, tensor.dtype):
                    wrong[key] = (
                        f"is {given.dtype} of {tuple(given.shape)}, not {tensor.dtype} of {tuple(shape)}"
                    )
        for key, what in wrong.items():
            raise UserError(f"associative memory {self.name} cannot take over a state: {key} {what}")

    def _out_of_hand(self, what: str) -> UserError:
        names = ", ".join(type(self.settings).model_fields)
        change = f" or other settings (sharc.associative_settings.{self.name}: {names})" if names else ""
        return UserError(
            f"associative memory {self.name}: {what} is not finite or has a singular matrix: try smaller "
            f"maps{change}"
        )


def by_mask(mask: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each distinct row (K,) of a mask (n, K), with the indices of the cues that have it, in order."""
    masks, member = mask.unique(dim=0, return_inverse=True)
    for number, row in enumerate(masks):
        yield row, (member == number).nonzero().flatten()


def faded(sums: torch.Tensor, weights: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums (*w, ...) and weights (*w) of running means that later values outweigh more.

    The means stay the same, however often they fade. Both shrink by the same ratio, 1 - beta unless the
    weight would fall below LEAST_WEIGHT; a weight of 0 stays.
    """
    left = torch.where(weights > 0, (weights * (1 - beta)).clamp_min(LEAST_WEIGHT), 0.0)
    ratio = torch.where(weights > 0, left / weights, 1.0)
    return sums * ratio.view(*ratio.shape, *[1] * (sums.ndim - ratio.ndim)), left


def finite(values: torch.Tensor) -> bool:
    """Return whether all values are finite as float32, without temporaries of their size."""
    return not values.numel() or bool(torch.isfinite(torch.stack(values.aminmax()).float()).all())
