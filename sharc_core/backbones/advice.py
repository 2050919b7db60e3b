"""Messages for weights files that do not fit: a prefix to remove or add, or the expected names.

Separate from the code that reads weights, because the wording of an error changes no map.
"""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from sharc_core.backbones.checkpoints import COUNTER, StateDict, prefixes, state_dicts, without_prefix
from sharc_core.backbones.config import CONVERTING, BackboneConfig
from sharc_core.backbones.networks import network_of
from sharc_core.backbones.weights import Shapes, check_fit
from sharc_core.common.errors import UserError, shown

ENOUGH = 0.5  # share of matching names above which a file counts as having this layout


def advice(config: BackboneConfig) -> str | None:
    """Return a better message for a local weights file whose names are not the architecture's, else None.

    Call it after the check of the network has refused the file.
    """
    if not config.is_local_file:
        return None
    try:
        states = state_dicts(Path(config.weights))
        body = network_of(config).skeleton()
    except UserError:
        return None
    needed = [name for name in body.state_dict() if not name.endswith(COUNTER)]
    if not states or not needed:
        return None
    state = max(states, key=lambda state: _most_of_a_prefix(state, needed)[1])
    prefix, count = _most_of_a_prefix(state, needed)
    if count == len(needed):
        return None  # the layout is right, and the check named the wrong tensor
    where = f"weights file {config.weights} does not fit architecture {config.arch}"
    if prefix and count >= ENOUGH * len(needed):
        stripped = without_prefix(state, prefix, {name: name for name in state.shapes})
        return f"{where}: without {shown(prefix)} before its names {_problem(stripped.shapes, body, config)}"
    if sum(name in state.shapes for name in needed) >= ENOUGH * len(needed):
        return None
    absent = _lacking(state.shapes, needed)
    if absent and not _problem({f"{absent}{n}": s for n, s in state.shapes.items()}, body, config):
        return f"{where}: the names of its tensors lack {shown(absent)}: {CONVERTING} adds it"
    return (
        f"{where}: expected tensors such as {_some(needed)}; the file has {_some(state.shapes)}: "
        f"{CONVERTING} renames tensors"
    )


def _most_of_a_prefix(state: StateDict, needed: list[str]) -> tuple[str, int]:
    """Return the commonest prefix of names before a needed one, and how many names have it."""
    # among equal counts the first in the file, because query encoders come before key encoders
    counts = prefixes(state.shapes, set(needed))
    return max(counts.items(), key=lambda item: item[1], default=("", 0))


def _lacking(shapes: Shapes, needed: list[str]) -> str | None:
    """Return the prefix that most needed names have before a name of the file; None if too few have it."""
    counts = prefixes(needed, set(shapes))
    prefix, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return prefix if count >= ENOUGH * len(shapes) else None


def _problem(shapes: Shapes, body: nn.Module, config: BackboneConfig) -> str:
    try:
        check_fit(shapes, body, config.arch, "it")
    except UserError as error:
        return str(error).removeprefix(f"it does not fit architecture {config.arch}: ")
    return ""


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(shown, names[:2])) + (" ..." if len(names) > 2 else "") if names else "no tensor"
