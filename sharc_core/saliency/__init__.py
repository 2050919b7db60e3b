"""Saliencies: one file each; see base.py for the signature."""

from sharc_core.saliency.base import SALIENCIES

__all__ = ["SALIENCIES"]
