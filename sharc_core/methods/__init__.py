"""Replay methods: one file each; see base.py for the interface."""

from sharc_core.methods.base import METHODS, Method

__all__ = ["METHODS", "Method"]
