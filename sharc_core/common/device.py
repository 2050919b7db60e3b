"""The device that computes, and its description in results."""

import contextlib
import ctypes

import torch

from sharc_core.common.errors import UserError


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: cpu, cuda, or auto, which is the GPU if there is one, else the CPU.

    Raises UserError for an unknown name and for `cuda` without a usable GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; valid: auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("cuda was asked for, but torch sees no usable GPU: use device: auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def keep_memory() -> None:
    """Make the C library keep freed memory for the large activations that a network allocates repeatedly.

    Mapping them again costs a third of its run time in page faults. Lasts until the process ends. Has no
    effect with other C libraries than GNU's.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for option, value in (
            (-4, 0),
            (-1, 2**31 - 1),
            (-2, 2**28),
        ):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            library.mallopt(option, value)


def device_text(device: torch.device | str) -> str:
    """Return `cpu`, or the GPU's model and the versions of its libraries, on which numbers depend."""
    if torch.device(device).type == "cpu":
        return "cpu"
    libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{torch.cuda.get_device_name(device)} ({libraries})"
