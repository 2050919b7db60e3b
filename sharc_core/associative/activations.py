"""Activation functions of generative layers, with their derivatives."""

import torch

RELU, GELU, NONE = "relu", "gelu", "none"


def phi(kind: str, x: torch.Tensor) -> torch.Tensor:
    """The activation of x, any shape."""
    if kind == RELU:
        return x.relu()
    return torch.nn.functional.gelu(x) if kind == GELU else x


def phi_back(kind: str, slope: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Slope * phi'(x), the gradient by x where `slope` is the one by phi(x); one fused operation."""
    if kind == RELU:
        return torch.ops.aten.threshold_backward(slope, x, 0.0)
    return torch.ops.aten.gelu_backward(slope, x) if kind == GELU else slope
