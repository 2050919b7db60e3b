"""SGD: no memory. The lower baseline (and in Task-IL a strong one)."""

from sharc_core.methods.base import METHODS, Method


@METHODS.register("sgd")
class SGD(Method):
    """Cross-entropy on the current batch, nothing else."""

    title = "SGD"
    uses_memory = False
    baseline = True
    passes = 1

    def observe(self, batch, memory):
        """Take one step on the current batch."""
        self.head.descend(self.head.cross_entropy(batch), self.lr)
