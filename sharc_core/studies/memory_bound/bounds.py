"""Lower bounds on the bytes of masked maps, and the sample at which an associative memory is paid back.

docs/memory_bound.md states and proves them. Sizes are in bits unless a name says bytes. Each bound holds for
one kind of code, and no other:

- any: codes that hold every map, so every set of K' of K channels and all K' h w values.
- zeros: codes of single values that know the share of zeros and treat all other values alike.
- entropy: codes of single values, scales and sets of channels, with one distribution for each of the three.

Each is at most the one before it, and `any` is at most what a representation stores. A code that knows more
about the maps, as a compressor does that uses their context, may go below all three.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.representations.int8 import LARGEST_INTEGER
from sharc_core.representations.sparse_maps import SparseMapRepresentation, SparseMaps

MOST_SAMPLES = 10**12  # beyond it a state counts as never paid back


# --- information ---------------------------------------------------------------------------------------


def patterns(dtype: torch.dtype, is_negative: bool = True) -> int:
    """Return how many values of a type a representation may store: the finite ones, in int8 -127 to 127.

    is_negative: whether values below zero occur; without them zero has one pattern.
    """
    if not dtype.is_floating_point:
        return 2 * LARGEST_INTEGER + 1 if is_negative else LARGEST_INTEGER + 1
    info = torch.finfo(dtype)
    mantissa = round(-math.log2(info.eps))
    finite = 2 ** (info.bits - 1) - 2**mantissa  # of one sign
    return 2 * finite if is_negative else finite


def subset_bits(channels: int, keep: int) -> float:
    """Return log2 of the number of sets of K' = keep of K = channels numbers."""
    return math.log2(math.comb(channels, keep))


def binary_entropy(share: float) -> float:
    """Return the entropy in bits of an event with this probability."""
    return sum(-p * math.log2(p) for p in (share, 1 - share) if p > 0)


def symbol_entropy(symbols: torch.Tensor) -> float:
    """Return the empirical entropy in bits of symbols (n, ...): rows are compared as wholes.

    -sum p log2 p over the frequencies p of the distinct rows. 0 for no symbols.
    """
    if not len(symbols):
        return 0.0
    counts = symbols.unique(dim=0, return_counts=True)[1].double() if symbols.ndim > 1 else _counts(symbols)
    p = counts / len(symbols)
    return max(0.0, float(-(p * p.log2()).sum()))


def _counts(symbols: torch.Tensor) -> torch.Tensor:
    return symbols.unique(return_counts=True)[1].double()


def bit_patterns(values: torch.Tensor) -> torch.Tensor:
    """Return values of any type as integers with the same bits, flattened: (n,) int8 to int64."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(integers[values.dtype.itemsize]).flatten()


# --- bounds --------------------------------------------------------------------------------------------


def any_bits(representation: SparseMapRepresentation, keep: int) -> float:
    """Return the fewest bits of a code that holds every map with `keep` channels that can be stored.

    log2 of the number of such contents: sets of channels, times values, times scales where there are any.
    """
    channels, *positions = representation.shape
    values = math.prod(positions) * math.log2(patterns(representation.dtype))
    return subset_bits(channels, keep) + keep * (values + _scale_bits(representation))


def _scale_bits(representation: SparseMapRepresentation) -> float:
    """Return log2 of the number of scales of a channel, which are float16 and not negative."""
    return math.log2(patterns(torch.float16, is_negative=False)) if representation.scale_bytes else 0.0


@dataclass(frozen=True)
class Content:
    """What n stored maps consist of, and the bounds that follow, in bits per map.

    keep: channels of each. values: per map. zeros: share of the values whose bits are all zero.
    value_entropy: of the values' bit patterns. zeros_bits, entropy_bits: see the module.
    """

    keep: int
    values: int
    zeros: float
    value_entropy: float
    any_bits: float
    zeros_bits: float
    entropy_bits: float


def content(representation: SparseMapRepresentation, stored: SparseMaps) -> Content:
    """Return the content of maps that a representation has encoded, all with the same number of channels."""
    symbols = bit_patterns(stored.values)
    keep, values = len(stored.values) // stored.samples, len(symbols) // stored.samples
    zeros = float((symbols == 0).double().mean())
    entropy = symbol_entropy(symbols)
    sets = subset_bits(stored.total_channels, keep)
    scales = keep * _scale_bits(representation)
    nonzero = (1 - zeros) * math.log2(patterns(representation.dtype) - 1)
    used = [values * entropy]
    if stored.scales is not None:
        used.append(keep * symbol_entropy(bit_patterns(stored.scales)))
    if stored.channels is not None:
        used.append(symbol_entropy(stored.channels.view(stored.samples, keep)))
    return Content(
        keep,
        values,
        zeros,
        entropy,
        any_bits=any_bits(representation, keep),
        zeros_bits=sets + scales + values * (binary_entropy(zeros) + nonzero),
        entropy_bits=sum(used),
    )


def most_kept(planned_bytes: Callable[[int], int], channels: int, size: float) -> int:
    """Return the largest number of kept channels, up to `channels`, whose map takes at most `size` bytes.

    planned_bytes: of a map with so many kept channels. 0 if even one channel takes more.
    """
    return max((keep for keep in range(1, channels + 1) if planned_bytes(keep) <= size), default=0)


# --- break-even ----------------------------------------------------------------------------------------


def break_even(saved: int, state_bytes: Callable[[int], int], most: int = MOST_SAMPLES) -> int | None:
    """Return the smallest number n >= 1 of samples with n * saved >= state_bytes(n); None up to `most`.

    saved: bytes that dropping channels saves per sample. state_bytes: of an associative memory that has
    learnt n samples. The result is exact if a state that is paid back stays so, as every affine state does:
    n (saved - b) >= a holds for no n or for all n from the first one on, where a >= 0.
    """

    def is_paid(n: int) -> bool:
        return n * saved >= state_bytes(n)

    high = 1
    while not is_paid(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2  # not paid, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_paid(middle) else (middle, high)
    return high
