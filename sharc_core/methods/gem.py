"""GEM (Lopez-Paz & Ranzato 2017, arXiv 1706.08840)."""

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method
from sharc_core.methods.projection import project_many


@METHODS.register("gem")
class GEM(Method):
    """Project the current gradient where it conflicts with that of a past task's memory (eq. 11).

    A past task's gradient is that of all its stored samples.
    """

    title = "GEM"
    fills_at_task_end = True

    class Settings(BaseSettings):
        """margin: lower bound on the dual variables ("memory strength"), favours backward transfer.

        ridge: what the authors' code, mammoth and SHARC's published code add to the diagonal of the
        gradients' Gram matrix (1e-3 there); null adds only what keeps the QP solvable, see projection.RIDGE.
        """

        margin: float = Field(default=0.5, ge=0)
        ridge: float | None = Field(default=None, gt=0)

    def observe(self, batch, memory):
        """Take one step along the projected gradient."""
        loss = self.head.cross_entropy(batch)
        if not memory:
            self.head.descend(loss, self.lr)
            return
        gradients = [self.head.gradient(self.head.cross_entropy(task)) for task in memory.tasks()]
        s = self.settings
        references = torch.stack(gradients, 1)
        step = project_many(self.head.gradient(loss), references, s.margin, s.ridge, self.flops)
        self.head.vector.sub_(step, alpha=self.lr)
