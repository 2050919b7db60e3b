"""Saliencies, one file each; base.py documents the signature."""

from sharc_core.saliency.base import SALIENCIES

__all__ = ["SALIENCIES"]
