"""What a folder of features holds, and the name that says so."""

import re
from dataclasses import dataclass

from sharc_core.features.drifting.part import Part
from sharc_core.representations.codec import FORMATS, Codec


@dataclass(frozen=True)
class ViewFolder:
    """All images of a view, as features.cache writes them. number: of the view, see features.views."""

    number: int

    @property
    def name(self) -> str:
        """Name of the folder; parse_folder() reads it."""
        return f"view{self.number}"


@dataclass(frozen=True)
class EncodedFolder:
    """The training images of a view after encoding and decoding, as features.encode writes them."""

    codec: Codec
    view: int

    @property
    def name(self) -> str:
        """Start of the folder's name, which a hash of code and libraries completes."""
        return f"{self.codec.name}-view{self.view}"


# A part holds drifting features, which belong to one seed. The others are shared by all seeds of a view.
FeaturesFolder = ViewFolder | EncodedFolder | Part


def parse_folder(name: str) -> FeaturesFolder:
    """Return what a folder of features holds, by its name. Raises ValueError for any other text."""
    if match := re.fullmatch(r"view(\d+)", name):
        return ViewFolder(int(match[1]))
    if match := re.fullmatch(rf"({'|'.join(FORMATS)})(\d+)(-lossless)?-view(\d+)(?:-[0-9a-f]+)?", name):
        return EncodedFolder(Codec(match[1], int(match[2]), bool(match[3])), int(match[4]))
    return Part.parse(name)
