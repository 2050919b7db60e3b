"""The pseudo backbone of data sets whose features are the user's (`source: features`)."""

from dataclasses import dataclass

NAME = "own_features"  # in paths, tables, columns and records; no backbone may have it


@dataclass(frozen=True)
class OwnFeatures:
    """Stands where cells have a backbone. Its fields are those of BackboneConfig that a cell reads."""

    path_name: str = NAME
    network_name: str = NAME
    views: int = 1
    batch_norm: str = "frozen"
    passes: int | None = None
    maps: str = "needed"


OWN_FEATURES = OwnFeatures()
