"""A-GEM (Chaudhry et al. 2019, arXiv 1812.00420)."""

from sharc_core.methods.base import METHODS, Method
from sharc_core.methods.projection import project_one


@METHODS.register("agem")
class AGEM(Method):
    """Project the current gradient where it conflicts with that of one random memory minibatch (eq. 11)."""

    title = "A-GEM"
    fills_at_task_end = True

    def observe(self, batch, memory):
        """Take one step along the projected gradient."""
        loss = self.head.cross_entropy(batch)
        if not memory:
            self.head.descend(loss, self.lr)
            return
        reference = self.head.gradient(self.head.cross_entropy(memory.sample(self.replay_batch_size)))
        self.flops.product(2, reference.shape[1])  # its products with the gradient and with itself
        step = project_one(self.head.gradient(loss), reference)
        self.head.vector.sub_(step, alpha=self.lr)
