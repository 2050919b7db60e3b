"""The same bits every time: what a GPU has to be told for it. The CPU gives them on one thread anyway."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

# With other workspaces cuBLAS may choose among several ways to add up a product. It looks once, when a
# process multiplies its first matrices on a GPU: hence here, where it is said before anything is computed.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

CUDNN: Any = torch.backends.cudnn
PRODUCTS = torch.backends.cuda.matmul
# What holds while a GPU computes: no kernel is chosen by stopwatch. (Torch's deterministic mode would also
# fill every new tensor with NaN, which nothing here ever sees.)
SETTINGS = (
    (CUDNN, "benchmark", False),
    (CUDNN, "deterministic", True),
    (torch.utils.deterministic, "fill_uninitialized_memory", False),
)
PRECISIONS = (CUDNN.conv, CUDNN.rnn, PRODUCTS)


@contextlib.contextmanager
def same_bits(device: torch.device | str) -> Iterator[None]:
    """For a while, a GPU computes in true float32 and gives equal bits every time, as the CPU always does.

    An operation that cannot, as torch's own documentation lists them, raises RuntimeError. Settings are
    left as they were found.
    """
    if torch.device(device).type == "cpu":
        yield
        return
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    found = [getattr(place, name) for place, name, _ in SETTINGS]
    precisions = [place.fp32_precision for place in PRECISIONS]
    try:
        for place, name, value in SETTINGS:
            setattr(place, name, value)
        _set_precisions(["ieee"] * len(PRECISIONS))  # no TF32, whatever the environment says
        torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=lenient)
        _set_precisions(precisions)
        for (place, name, _), value in zip(SETTINGS, found, strict=True):
            setattr(place, name, value)


def _set_precisions(values: list[str]) -> None:
    """Of PRECISIONS, in torch's older spelling and its newer: kernels refuse to run where they disagree."""
    _, recurrent, products = values
    CUDNN.allow_tf32, PRODUCTS.allow_tf32 = recurrent == "tf32", products == "tf32"
    for place, value in zip(PRECISIONS, values, strict=True):
        place.fp32_precision = value


def replace_pools(model: nn.Module) -> None:
    """Swap a model's adaptive average pools for ones whose gradient CUDA has a deterministic way to compute.

    Those to a single value are plain means and stay.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1)):
            model.set_submodule(name, AveragePool(module.output_size))


class AveragePool(nn.Module):
    """What nn.AdaptiveAvgPool2d does, as two matrix products."""

    def __init__(self, output_size: int | tuple[int | None, int | None] | None):
        super().__init__()
        self.output_size = output_size if isinstance(output_size, tuple) else (output_size, output_size)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(..., h, w) -> (..., output_size)."""
        rows, columns = (
            _shares(size, wanted or size).to(maps)
            for size, wanted in zip(maps.shape[-2:], self.output_size, strict=True)
        )
        return rows @ maps @ columns.T


def _shares(size: int, bins: int) -> torch.Tensor:
    """(bins, size): what each of `size` values in a row adds to the means of overlapping, equal bins."""
    shares = torch.zeros(bins, size)
    for number in range(bins):
        start, stop = number * size // bins, -(-(number + 1) * size // bins)
        shares[number, start:stop] = 1 / (stop - start)
    return shares
