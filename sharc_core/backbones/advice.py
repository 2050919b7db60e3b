"""What to do with a weights file that does not fit: a prefix to remove, or the names that are expected.

Apart from what reads weights: an error's wording changes no map.
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

ENOUGH = 0.5  # share of the names that have to agree before a file counts as one of this layout


def advice(config: BackboneConfig) -> str | None:
    """A better message for a local weights file whose names are not the architecture's; else None.

    To be asked for when check_backbone has refused the file.
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
        return None  # the right layout: the tensor that is wrong has been named
    where = f"weights file {config.weights} does not fit architecture {config.arch}"
    prefix = _prefix(shapes, needed)
    if prefix:
        without = {name.removeprefix(prefix): s for name, s in shapes.items() if name.startswith(prefix)}
        problem = _problem(without, body, config.arch)
        return f"{where}: the names of its tensors begin with {shown(prefix)}: {CONVERTING} removes it" + (
            f"; without it {problem}" if problem else ""
        )
    lacking = _prefix(needed, shapes)
    if lacking and _problem({f"{lacking}{name}": s for name, s in shapes.items()}, body, config.arch) is None:
        return f"{where}: the names of its tensors lack {shown(lacking)}: {CONVERTING} adds it"
    return (
        f"{where}: expected are torchvision's names of its tensors, such as {_some(needed)}; the file has "
        f"{_some(shapes)}: {CONVERTING} renames tensors"
    )


def _share(names: Iterable[str], needed: list[str]) -> float:
    names = set(names)
    return sum(name in names for name in needed) / len(needed)


def _prefix(names: Iterable[str], needed: Iterable[str]) -> str | None:
    """What most names have in front of one that is needed; None where that are too few."""
    needed = set(needed)
    found: Counter[str] = Counter()
    for name in names:
        # every end of the name that follows a dot
        ends = (name[i + 1 :] for i, letter in enumerate(name) if letter == ".")
        found.update(name.removesuffix(end) for end in ends if end in needed)
    # of equally many the first in the file, as query encoders come before key encoders
    prefix, count = max(found.items(), key=lambda item: item[1], default=(None, 0))
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
