"""Representations: how samples are stored, one file each; see base.py for the interface."""

from sharc_core.representations.base import REPRESENTATIONS, Representation, Stored

__all__ = ["REPRESENTATIONS", "Representation", "Stored"]
