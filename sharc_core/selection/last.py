"""The last samples of each task, as in the paper."""

from sharc_core.common.deferred import torch
from sharc_core.selection.base import SELECTIONS, TaskSelection


@SELECTIONS.register("last")
class Last(TaskSelection):
    """Stores the last samples that were visited."""

    needs_all_candidates = False

    def rank(self, candidates):
        """Return all candidates, the last one first."""
        return torch.arange(len(candidates.labels)).flip(0)
