"""Gradient steps without autograd: activation functions with their derivatives, and Adam on plain tensors."""

import math

from sharc_core.common.deferred import torch

RELU, GELU, NONE = "relu", "gelu", "none"  # activations
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam
FUSED = 2**20  # entries from which the start of an operation on a GPU takes less time than the operation


def phi(kind: str, x: torch.Tensor) -> torch.Tensor:
    """Return the activation of x, of any shape."""
    if kind == RELU:
        return x.relu()
    return torch.nn.functional.gelu(x) if kind == GELU else x


def phi_back(kind: str, slope: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return slope * phi'(x), the gradient by x of what has the gradient `slope` by phi(x); one operation."""
    if kind == RELU:
        return torch.ops.aten.threshold_backward(slope, x, 0.0)
    return torch.ops.aten.gelu_backward(slope, x) if kind == GELU else slope


class Adam:
    """Gradient ascent with Adam (Kingma & Ba 2015, arXiv 1412.6980) on one tensor."""

    def __init__(self, like: torch.Tensor, lr: float):
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.lr, self.steps = lr, 0
        self.is_fused = like.device.type == "cuda" and like.numel() >= FUSED

    def ascend(self, values: torch.Tensor, gradient: torch.Tensor) -> None:
        """Move `values` one step up the gradient, in place."""
        self.steps += 1
        if self.is_fused:
            self.ascend_fused(values, gradient)
            return
        decay1, decay2 = BETAS
        self.first.lerp_(gradient, 1 - decay1)
        self.second.mul_(decay2).addcmul_(gradient, gradient, value=1 - decay2)
        # the bias corrections are applied to the step size and to epsilon
        correction = math.sqrt(1 - decay2**self.steps)
        scale = self.second.sqrt().add_(EPSILON * correction)
        values.addcdiv_(self.first, scale, value=self.lr * correction / (1 - decay1**self.steps))

    def ascend_fused(self, values: torch.Tensor, gradient: torch.Tensor) -> None:
        """Do the same up to rounding, in one pass over memory instead of six. `steps` includes this step."""
        from torch.optim.adam import adam  # a module that `torch.optim` does not export

        adam(
            [values],
            [gradient],
            [self.first],
            [self.second],
            [],
            [torch.tensor(self.steps - 1, dtype=torch.float32, device=values.device)],
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=True,
            fused=True,
        )

    def keep(self, chosen: torch.Tensor) -> None:
        """Keep the averages of the rows `chosen`, a bool mask or indices."""
        self.first, self.second = self.first[chosen], self.second[chosen]
