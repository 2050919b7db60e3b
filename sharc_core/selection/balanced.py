"""The last samples of each class in turn, so that a task's classes are stored equally often."""

from sharc_core.common.deferred import torch
from sharc_core.selection.base import SELECTIONS, TaskSelection, in_turn, latest_first


@SELECTIONS.register("balanced")
class Balanced(TaskSelection):
    """Stores the last samples of each class.

    Two classes differ by at most one sample, unless one of them has no more. The class that was visited last
    comes first in each turn.
    """

    def rank(self, candidates):
        """Return all candidates: the last of each class, then the last but one of each, and so on."""
        by_class = (numbers.tolist() for numbers in latest_first(candidates.labels))
        return torch.tensor(list(in_turn(by_class)))
