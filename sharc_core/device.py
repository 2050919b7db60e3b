"""Where tensors are computed, and computing the same bits there every time."""

import contextlib
from collections.abc import Iterator

import torch

from sharc_core.errors import UserError


def resolve_device(name: str) -> torch.device:
    """auto: the GPU if there is one, else the CPU. Raises UserError for `cuda` without a usable GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; valid: auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("cuda was asked for, but torch sees no usable GPU: use device: auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@contextlib.contextmanager
def same_bits() -> Iterator[None]:
    """Make cuDNN's convolutions deterministic and true float32 for a while (the CPU's are already)."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
