"""Associative memories, one file each; base.py documents the interface."""

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory

__all__ = ["ASSOCIATIVE_MEMORIES", "AssociativeMemory"]
