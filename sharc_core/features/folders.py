"""What a folder of features holds, and the name that says so."""

import re
from dataclasses import dataclass

from sharc_core.features.drifting.part import Part


@dataclass(frozen=True)
class ViewFolder:
    """All images of a view, as features.cache writes them. number: of the view, see features.views."""

    number: int

    @property
    def name(self) -> str:
        """Name of the folder; parse_folder() reads it."""
        return f"view{self.number}"


# A part holds drifting features, which belong to one seed. A view is what all seeds share.
FeaturesFolder = ViewFolder | Part


def parse_folder(name: str) -> FeaturesFolder:
    """Return what a folder of features holds, by its name. Raises ValueError for any other text."""
    if match := re.fullmatch(r"view(\d+)", name):
        return ViewFolder(int(match[1]))
    return Part.parse(name)
