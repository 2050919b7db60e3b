"""Data sources. Each file here converts one origin to uint8 images and labels on disk."""

from sharc_core.datasets.base import SOURCES, PreparedData, Source, open_prepared

__all__ = ["SOURCES", "PreparedData", "Source", "open_prepared"]
