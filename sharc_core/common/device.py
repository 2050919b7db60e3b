"""The device that computes, and its description in results."""

import contextlib
import ctypes
import os
import platform
import re
import sys

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError

NAMED = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")
NAMES = "auto, cpu, cuda, cuda:<number>, mps"


def checked_name(name: str) -> str:
    """Return the name of a device. Raises ValueError for an unknown one, on a machine with or without it."""
    if not NAMED.fullmatch(name):
        raise ValueError(f"must be one of {NAMES}")
    return name


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: cpu, cuda, cuda:N, mps, or auto, which is a CUDA GPU or else the CPU.

    Raises UserError for an unknown name and for a GPU that is not there.
    """
    check_device(name)
    return torch.device(("cuda" if sees_gpu() else "cpu") if name == "auto" else name)


def check_device(name: str) -> None:
    """Raise UserError for an unknown name and for a GPU that is not there."""
    if not NAMED.fullmatch(name):
        raise UserError(f"unknown device {name!r}; valid: {NAMES}")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("mps was asked for, but torch sees no Apple GPU: use device: auto or cpu")
    if not name.startswith("cuda"):
        return
    if not sees_gpu():
        raise UserError(f"{name} was asked for, but torch sees no usable GPU: use device: auto or cpu")
    count = torch.cuda.device_count() if ":" in name else 0
    if ":" in name and int(name[5:]) >= count:
        raise UserError(
            f"{name} was asked for, but torch sees GPUs 0 to {count - 1} only: choose one of them"
        )


def sees_gpu() -> bool:
    """Return whether torch sees a CUDA GPU. A process on a machine without a driver need not import torch."""
    return ("torch" in sys.modules or _has_driver()) and torch.cuda.is_available()


def _has_driver() -> bool:
    """Return whether the system may have a driver for torch's GPUs. Only on Linux is that known."""
    if not sys.platform.startswith("linux") or os.path.exists("/dev/kfd"):  # of AMD's GPUs
        return True
    try:
        ctypes.CDLL("libcuda.so.1")  # the library through which CUDA finds GPUs
    except OSError:
        return False
    return True


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
    if torch.device(device).type == "mps":
        return f"Apple GPU (macOS {platform.mac_ver()[0]}, {platform.machine()})"
    libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{torch.cuda.get_device_name(device)} ({libraries})"
