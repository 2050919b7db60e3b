"""Synaptic Intelligence (Zenke, Poole & Ganguli 2017, arXiv 1703.04200)."""

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method


@METHODS.register("si")
class SI(Method):
    """Current loss plus c sum_k Omega_k (w_k - w*_k)^2 (eq. 4).

    w* is the head at the end of the previous task. During a task, omega_k sums the product of minus the
    gradient of the loss, without the penalty, and the step of the parameter. At its end (eq. 5)
    Omega_k <- max(0, Omega_k + omega_k / ((w_k - w*_k)^2 + xi)). The maximum is that of the authors'
    code (ganguli-lab/pathint); a noisy gradient, or a step along the penalty, can make omega_k negative.

    The paper has c = 0.1 and xi = 0.1 for permuted MNIST, and xi = 0.001 for the split data sets, with Adam.
    The defaults are mammoth's for S-CIFAR-10 with SGD, as here: c = 0.5, xi = 1. mammoth sums lr times the
    squared gradient of loss and penalty together, and clips gradients to 1.
    """

    title = "SI"
    uses_memory = False
    passes = 1

    class Settings(BaseSettings):
        """c: strength of the penalty. xi: damping."""

        c: float = Field(default=0.5, ge=0, allow_inf_nan=False)
        xi: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def __init__(self, *args):
        super().__init__(*args)
        self.anchor = torch.zeros_like(self.head.vector)
        self.importance = torch.zeros_like(self.head.vector)  # Omega
        self.path = torch.zeros_like(self.head.vector)  # omega

    def begin_task(self, task, memory):
        """Take the head as the anchor."""
        self.anchor.copy_(self.head.vector)

    def observe(self, batch, memory):
        """Take one step on the sum of loss and penalty, and add what it contributes to omega."""
        gradient = self.head.gradient(self.head.cross_entropy(batch))
        pull = self.importance * (self.head.vector - self.anchor)
        step = (gradient + 2 * self.settings.c * pull).mul_(self.lr)
        self.path.addcmul_(gradient, step)
        self.head.vector.sub_(step)

    def end_task(self, task, memory):
        """Add the task's importance of each parameter."""
        moved = (self.head.vector - self.anchor).square_()
        self.importance.add_(self.path / (moved + self.settings.xi)).clamp_min_(0)
        self.path.zero_()

    @property
    def extra_bytes(self) -> int:
        """Bytes of anchor, Omega and omega."""
        return 3 * self.head.bytes_per_replica
