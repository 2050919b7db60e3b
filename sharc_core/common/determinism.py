"""Settings that make a GPU compute the same bits every time. A CPU does so on one thread without them."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# With other workspaces, cuBLAS may choose among several orders of summation. It reads the variable once, when
# a process multiplies its first matrices on a GPU, so it is set on import, before anything is computed.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

CUDNN: Any = torch.backends.cudnn
PRODUCTS = torch.backends.cuda.matmul
# Settings while a GPU computes. No kernel is chosen by timing. (Torch's deterministic mode would also fill
# every new tensor with NaN, but no code here reads uninitialised values.)
SETTINGS = (
    (CUDNN, "benchmark", False),
    (CUDNN, "deterministic", True),
    (torch.utils.deterministic, "fill_uninitialized_memory", False),
)
PRECISIONS = (CUDNN.conv, CUDNN.rnn, PRODUCTS)


@contextlib.contextmanager
def same_bits(device: torch.device | str) -> Iterator[None]:
    """Make the GPU compute in true float32 with the same bits every time, while the context is open.

    An operation without a deterministic implementation (torch's documentation lists them) raises
    RuntimeError. The previous settings are restored at the end. Has no effect for a CPU.
    """
    if torch.device(device).type == "cpu":
        yield
        return
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    previous = [getattr(place, name) for place, name, _ in SETTINGS]
    precisions = [place.fp32_precision for place in PRECISIONS]
    try:
        for place, name, value in SETTINGS:
            setattr(place, name, value)
        _set_precisions(["ieee"] * len(PRECISIONS))  # no TF32, whatever the environment variables request
        torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=lenient)
        _set_precisions(precisions)
        for (place, name, _), value in zip(SETTINGS, previous, strict=True):
            setattr(place, name, value)


def _set_precisions(values: list[str]) -> None:
    """Set PRECISIONS through torch's older and newer interface. Kernels refuse to run if the two disagree."""
    _, recurrent, products = values
    CUDNN.allow_tf32, PRODUCTS.allow_tf32 = recurrent == "tf32", products == "tf32"
    for place, value in zip(PRECISIONS, values, strict=True):
        place.fp32_precision = value


def replace_pools(model: nn.Module) -> None:
    """Replace a model's adaptive average pools, in place, by pools with a deterministic gradient on CUDA.

    Pools to a single value are plain means and stay.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1)):
            model.set_submodule(name, AveragePool(module.output_size))


class AveragePool(nn.Module):
    """nn.AdaptiveAvgPool2d, computed as two matrix products."""

    def __init__(self, output_size: int | tuple[int | None, int | None] | None):
        super().__init__()
        self.output_size = output_size if isinstance(output_size, tuple) else (output_size, output_size)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pool maps (..., h, w) to (..., *output_size)."""
        rows, columns = (
            _shares(size, wanted or size).to(maps)
            for size, wanted in zip(maps.shape[-2:], self.output_size, strict=True)
        )
        return rows @ maps @ columns.T


def _shares(size: int, bins: int) -> torch.Tensor:
    """Return weights (bins, size) of `size` values in the means of equal bins, which may overlap."""
    shares = torch.zeros(bins, size)
    for number in range(bins):
        start, stop = number * size // bins, -(-(number + 1) * size // bins)
        shares[number, start:stop] = 1 / (stop - start)
    return shares
