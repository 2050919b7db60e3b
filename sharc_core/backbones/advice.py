"""Messages for weights files that do not fit: a prefix to remove or add, or the expected names.

Separate from the code that reads weights, because the wording of an error changes no map.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from torch import fx

from sharc_core.backbones.architectures import build_classifier, cut_at_maps
from sharc_core.backbones.config import CONVERTING, BackboneConfig
from sharc_core.backbones.preprocess import resolve
from sharc_core.backbones.weights import Shapes, check_fit, local_shapes
from sharc_core.common.errors import UserError, shown

ENOUGH = 0.5  # share of matching names above which a file counts as having this layout


def advice(config: BackboneConfig) -> str | None:
    """Return a better message for a local weights file whose names are not the architecture's, else None.

    Call it after check_backbone has refused the file.
    """
    if not config.is_local_file:
        return None
    try:
        shapes = local_shapes(Path(config.weights))
        side = resolve(config).image_size
        body = cut_at_maps(build_classifier(config.arch, device="meta", side=side), config.arch)
    except UserError:
        return None
    needed = [name for name in body.state_dict() if not name.endswith("num_batches_tracked")]
    if _share(shapes, needed) >= ENOUGH:
        return None  # the layout is right, and check_backbone named the wrong tensor
    where = f"weights file {config.weights} does not fit architecture {config.arch}"
    prefix = _prefix(shapes, needed)
    if prefix:
        without = {name.removeprefix(prefix): s for name, s in shapes.items() if name.startswith(prefix)}
        problem = _problem(without, body, config.arch)
        return f"{where}: the names of its tensors begin with {shown(prefix)}: {CONVERTING} removes it" + (
            f"; without it {problem}" if problem else ""
        )
    absent = _prefix(needed, shapes)
    if absent and _problem({f"{absent}{name}": s for name, s in shapes.items()}, body, config.arch) is None:
        return f"{where}: the names of its tensors lack {shown(absent)}: {CONVERTING} adds it"
    return (
        f"{where}: expected torchvision's names of its tensors, such as {_some(needed)}; the file has "
        f"{_some(shapes)}: {CONVERTING} renames tensors"
    )


def _share(names: Iterable[str], needed: list[str]) -> float:
    names = set(names)
    return sum(name in names for name in needed) / len(needed)


def _prefix(names: Iterable[str], needed: Iterable[str]) -> str | None:
    """Return the commonest prefix of `names` before a needed name; None if too few names have it."""
    needed = set(needed)
    counts: Counter[str] = Counter()
    for name in names:
        # every suffix of the name that follows a dot
        ends = (name[i + 1 :] for i, letter in enumerate(name) if letter == ".")
        counts.update(name.removesuffix(end) for end in ends if end in needed)
    # among equal counts the first in the file, because query encoders come before key encoders
    prefix, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return prefix if count >= ENOUGH * len(needed) else None


def _problem(shapes: Shapes, body: fx.GraphModule, arch: str) -> str | None:
    try:
        check_fit(shapes, body, arch, "it")
    except UserError as error:
        return str(error)
    return None


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(map(shown, names[:2])) + (" ..." if len(names) > 2 else "") if names else "no tensor"
