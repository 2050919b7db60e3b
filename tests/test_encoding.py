"""Sparse encoding: how much is kept, what comes back, what it costs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool
from sharc_core.representations.encoding import (
    LABEL_BYTES,
    SparseMaps,
    kept_channels,
    mass_mask,
    sample_bytes,
    top_mask,
)

THETAS = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 0.95]), st.floats(0, 0.999))


@given(channels=st.integers(1, 600), theta=THETAS)
def test_share_kept(channels, theta):
    keep = kept_channels(channels, theta)
    assert 1 <= keep <= channels
    assert abs(keep - (1 - theta) * channels) < 1 or keep == 1
    assert kept_channels(channels, 0.0) == channels


def test_a_tenth_is_a_tenth():
    for tenths in range(10):
        assert kept_channels(10, tenths / 10) == 10 - tenths
        assert kept_channels(512, tenths / 10) == -(-512 * (10 - tenths) // 10)


@given(seed=st.integers(0, 999), channels=st.integers(2, 40), theta=THETAS, levels=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_masks_keep_exactly_what_theta_says_ties_included(seed, channels, theta, levels):
    g = torch.Generator().manual_seed(seed)
    saliency = torch.randint(-levels, levels + 1, (5, channels), generator=g).float()
    mask = top_mask(saliency, theta)
    assert mask.sum(1).tolist() == [kept_channels(channels, theta)] * 5
    for row, kept in zip(saliency.abs(), mask, strict=True):
        if not kept.all():
            assert row[kept].min() >= row[~kept].max()


def test_all_equal_saliency_keeps_the_lowest_channels():
    assert top_mask(torch.ones(2, 10), 0.7).nonzero().tolist() == [[r, k] for r in range(2) for k in range(3)]


@given(seed=st.integers(0, 999), theta=THETAS, side=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_round_trip_and_bytes(seed, theta, side):
    g = torch.Generator().manual_seed(seed)
    maps = torch.rand(6, 20, side, side, generator=g).half()
    sparse = SparseMaps.encode(maps, top_mask(torch.rand(6, 20, generator=g), theta))
    back, mask = sparse.decode(), sparse.mask
    assert mask.sum(1).unique().tolist() == [kept_channels(20, theta)]
    assert torch.equal(back[mask], maps.float()[mask])
    assert not back[~mask].any()
    each = sample_bytes((20, side, side), kept_channels(20, theta))
    assert sparse.nbytes == 6 * (each - LABEL_BYTES)


def test_full_maps_pool_to_the_same_bits():
    maps = torch.rand(50, 33, 7, 7).half()
    everything = SparseMaps.encode(maps, None)
    assert torch.equal(pool(everything.decode()), pool(maps))
    for i in range(50):
        assert torch.equal(pool(maps[i]), pool(maps)[i])


def test_published_byte_counts():
    """field.md: a 512x7x7 map is 50,176 bytes in float16; a tenth of its channels about 5,200."""
    assert sample_bytes((512, 7, 7), 512) == 50_176 + LABEL_BYTES
    assert sample_bytes((512, 7, 7), 52) == 52 * (98 + 2) + LABEL_BYTES


@given(seed=st.integers(0, 999), mass=st.floats(0.01, 1), channels=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_mass_keeps_the_fewest_channels_that_hold_it(seed, mass, channels):
    g = torch.Generator().manual_seed(seed)
    saliency = torch.randn(4, channels, generator=g).double()
    for row, kept in zip(saliency.abs(), mass_mask(saliency, mass), strict=True):
        assert row[kept].sum() >= mass * row.sum() * (1 - 1e-9)
        smaller = row[kept].sort().values[1:]  # without the least of the kept ones it is too little
        assert len(smaller) == 0 or smaller.sum() < mass * row.sum()
        if not kept.all():
            assert row[kept].min() >= row[~kept].max()


def test_mass_of_nothing_keeps_one_channel():
    assert mass_mask(torch.zeros(2, 5), 0.9).sum(1).tolist() == [1, 1]


def test_ragged_maps_round_trip_and_count():
    maps = torch.rand(5, 9, 2, 2).half()
    mask = torch.rand(5, 9) < 0.5
    mask[:, 0] = True
    mask[0] = True  # kept counts differ
    sparse = SparseMaps.encode(maps, mask)
    assert torch.equal(sparse.mask, mask)
    assert torch.equal(sparse.decode(), maps.float() * mask[:, :, None, None])
    each = [sample_bytes((9, 2, 2), k, counted=True) - LABEL_BYTES for k in mask.sum(1).tolist()]
    assert sparse.nbytes == sum(each)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("theta", [0.0, 0.5])
def test_storages(storage, theta):
    """float32 and float16 give back what the cache holds; int8 to half a step of each channel's scale."""
    maps = (torch.rand(6, 20, 3, 2) * torch.logspace(-3, 3, 20)[:, None, None]).half()
    maps[0, 3] = 0
    mask = top_mask(torch.rand(6, 20), theta)
    sparse = SparseMaps.encode(maps, mask, storage)
    error = (sparse.decode() - maps.float() * mask[:, :, None, None]).abs()
    if storage == "int8":
        step = maps.float().abs().amax((2, 3), keepdim=True) / 127
        # a float16 scale below 2^-14 is only known to 2^-25, and 127 of them make a value
        assert (error <= step * 0.52 + 127 * 2**-25).all()
    else:
        assert not error.any()
    each = sample_bytes((20, 3, 2), kept_channels(20, theta), storage=storage)
    assert sparse.nbytes == 6 * (each - LABEL_BYTES)


@pytest.mark.parametrize(
    ("storage", "most", "limit"), [("float16", 65_504, "65,504"), ("int8", 127 * 65_504, "8,319,008")]
)
def test_values_that_a_storage_does_not_hold_are_refused(storage, most, limit):
    maps = torch.zeros(2, 5, 1, 1)
    maps[0, 3] = -most
    assert SparseMaps.encode(maps, None, storage).decode()[0, 3] == -most
    maps[0, 3] = -1.01 * most
    with pytest.raises(UserError, match=f"storage {storage} cannot hold .* beyond {limit}: use .* float32"):
        SparseMaps.encode(maps, None, storage)
    assert SparseMaps.encode(maps, None, "float32").decode()[0, 3] == maps[0, 3]
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[:, 3] = False
    assert torch.isfinite(SparseMaps.encode(maps, mask, storage).decode()).all(), "dropped: not looked at"


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_values_that_are_not_finite_are_refused(storage):
    for value in (torch.nan, torch.inf):
        with pytest.raises(UserError, match=f"storage {storage} cannot hold .* not finite"):
            SparseMaps.encode(torch.full((1, 2, 1, 1), value), None, storage)
