"""Data sources: each file here turns one origin into uint8 images and labels on disk."""

from sharc_core.datasets.base import SOURCES, PreparedData, Source, open_prepared

__all__ = ["SOURCES", "PreparedData", "Source", "open_prepared"]
