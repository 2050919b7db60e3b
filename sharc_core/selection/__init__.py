"""Selections: which samples are stored, one file each; see base.py for the interface."""

from sharc_core.selection.base import SELECTIONS, Candidates, StreamSelection, TaskSelection

__all__ = ["SELECTIONS", "Candidates", "StreamSelection", "TaskSelection"]
