"""Read weights from files in which a network's tensors are nested or have a prefix.

A training script stores more than a network: other heads, an optimiser, a second encoder, and names that
begin with the wrapper of the network. A file fits if one of its state dicts has all tensors of the network
under the same prefix. Files of torch.save are read with weights_only, which runs no code.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError  # raised with weights_only=True
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sharc_core.backbones.config import CHECKPOINT, CONVERTING
from sharc_core.backbones.weights import (
    HEADS,
    Shapes,
    check_fit,
    local_shapes,
    todays_name,
    with_positions_for,
)
from sharc_core.common.errors import UserError, shown

# Keys under which training scripts nest a state dict; the first one that fits is used
NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "teacher", "student")
DEPTH = 2  # of these keys
OTHER_HEADS = HEADS | {"head_dist"}
COUNTER = "num_batches_tracked"  # of a batch norm, not needed for evaluation
PRIVATE = re.compile(r"(^|\.)_(?=[A-Za-z])")  # EfficientNet's first port to PyTorch writes _blocks.0._bn0
ASKED_FOR = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message on a pickle that holds more than tensors


class StateDict(NamedTuple):
    """Tensors of a file by their names in today's torchvision.

    key: where it is nested, such as `state_dict.model`; empty at the top of the file. shapes: by name.
    read: returns the tensors of some of these names.
    """

    key: str
    shapes: Shapes
    read: Callable[[Iterable[str]], dict[str, torch.Tensor]]


class Match(NamedTuple):
    """A state dict that holds a network's tensors.

    prefix: what precedes the network's names. names: of all tensors with this prefix, by name without it.
    """

    state: StateDict
    prefix: str
    names: dict[str, str]

    @property
    def shapes(self) -> Shapes:
        """Shapes by the name without the prefix."""
        return {name: self.state.shapes[stored] for name, stored in self.names.items()}

    @property
    def is_plain(self) -> bool:
        """Whether the tensors have the network's names as they are."""
        return not self.state.key and all(name == stored for name, stored in self.names.items())

    def where(self, path: Path | str) -> str:
        """Name the file and the place in it, for messages."""
        places = [f"under {shown(self.state.key)}"] if self.state.key else []
        places += [f"names without {shown(self.prefix)}"] if self.prefix else []
        return f"weights file {path}" + (f" ({', '.join(places)})" if places else "")


def state_dicts(path: Path) -> list[StateDict]:
    """Return the state dicts of a weights file. Reads the header of a safetensors file only.

    Raises UserError for a file that is missing or damaged, and for one that holds more than tensors.
    """
    if not CHECKPOINT.search(str(path)):
        return [StateDict("", local_shapes(path), lambda names: _read_safetensors(path, set(names)))]
    return list(_nested(_unpickled(path), "", DEPTH))


def _read_safetensors(path: Path, names: set[str]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as stream:
            stored = [name for name in stream.keys() if todays_name(name) in names]  # noqa: SIM118
            return {todays_name(name): stream.get_tensor(name) for name in stored}
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights file {path} cannot be read as safetensors: {error}") from None


def _unpickled(path: Path) -> Any:
    """Return the content of a file of torch.save. Its tensors stay on disk until they are used."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # torch's format before 1.6
    except FileNotFoundError:
        raise UserError(f"weights file {path} is missing") from None
    except UnpicklingError as error:
        asked = ASKED_FOR.search(str(error))
        what = (
            f"asks for {asked[1]}, which is no tensor" if asked else "is damaged or holds more than tensors"
        )
        raise UserError(
            f"weights file {path} {what}, and is refused because pickles can run code: save its state dict "
            f"alone, as under {CONVERTING}"
        ) from None
    except Exception as error:  # torch raises many kinds on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"weights file {path} cannot be read as a file of torch.save: {reason}") from None


def _nested(content: Any, key: str, depth: int) -> Iterator[StateDict]:
    if not isinstance(content, Mapping):
        return
    tensors = {
        todays_name(name): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if tensors:
        shapes = {name: (tuple(t.shape), t.is_floating_point()) for name, t in tensors.items()}
        yield StateDict(key, shapes, lambda names: {name: tensors[name] for name in names})
    for inner in NESTED if depth else ():
        yield from _nested(content.get(inner), f"{key}.{inner}" if key else inner, depth - 1)


def match(path: Path, needed: Iterable[str]) -> Match | None:
    """Return the first state dict of a file with all `needed` names under one prefix; None without one.

    Raises UserError as state_dicts does, and for a state dict that has them under several prefixes.
    """
    wanted = {name for name in needed if not name.endswith(COUNTER)}
    for state in state_dicts(path):
        for renamed in ({name: name for name in state.shapes}, {_public(n): n for n in state.shapes}):
            if wanted <= renamed.keys():
                return Match(state, "", renamed)
            complete = [p for p, count in prefixes(renamed, wanted).items() if count == len(wanted)]
            if len(complete) > 1:
                raise UserError(
                    f"weights file {path} has the network's tensors {len(complete)} times, with names that "
                    f"begin with {', '.join(map(shown, complete))}: keep one, as under {CONVERTING}"
                )
            if complete:
                return without_prefix(state, complete[0], renamed)
    return None


def _public(name: str) -> str:
    return PRIVATE.sub(r"\1", name)


def without_prefix(state: StateDict, prefix: str, renamed: Mapping[str, str]) -> Match:
    """Return the part of a state dict with a prefix. renamed: names in the file, by the names to match."""
    return Match(state, prefix, {n[len(prefix) :]: old for n, old in renamed.items() if n.startswith(prefix)})


def prefixes(names: Iterable[str], wanted: set[str]) -> Counter[str]:
    """Count, for each prefix that ends in a dot, the names that are a wanted one after it."""
    counts: Counter[str] = Counter()
    for name in names:
        ends = (name[i + 1 :] for i, letter in enumerate(name) if letter == ".")
        counts.update(name.removesuffix(end) for end in ends if end in wanted)
    return counts


def fitting(path: Path, body: nn.Module, arch: str) -> Match:
    """Return the place of a network's tensors in a file.

    Raises UserError that names the tensor which is missing, unexpected or of another shape or type.
    """
    needed = body.state_dict()
    found = match(path, needed)
    if found is None:
        states = state_dicts(path)
        if not states:
            raise UserError(f"weights file {path} holds no state dict: see {CONVERTING}")
        nearest = max(states, key=lambda state: len(needed.keys() & state.shapes.keys()))
        found = Match(nearest, "", {name: name for name in nearest.shapes})
    tops = {name.split(".")[0] for name in needed}
    shapes = {n: s for n, s in found.shapes.items() if n in needed or not is_other_head(n, tops)}
    check_fit(shapes, body, arch, found.where(path))
    return found


def is_other_head(name: str, tops: set[str]) -> bool:
    """Return whether a tensor is of a head that the network with these top-level names does not have."""
    top = name.split(".")[0]
    return top in OTHER_HEADS and top not in tops


def read(path: Path, body: nn.Module, arch: str) -> dict[str, torch.Tensor]:
    """Read a network's tensors from a file, with floats as float32.

    Raises UserError as `fitting` does, and for tensors with NaN or infinity.
    """
    found = fitting(path, body, arch)
    names = {name: stored for name, stored in found.names.items() if name in body.state_dict()}
    stored = found.state.read(names.values())
    tensors = {name: finite(path, name, stored[old]) for name, old in names.items()}
    return with_positions_for(body, tensors)


def finite(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a file, floats as float32. Raises UserError if it holds NaN or infinity."""
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    if not tensor.isfinite().all():
        raise UserError(f"weights file {path} is damaged: tensor {name} holds NaN or infinity")
    return tensor
