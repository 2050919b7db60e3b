"""Sparse encoding: how much is kept, what comes back, what it costs."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharc_core.encoding import LABEL_BYTES, SparseMaps, kept_channels, sample_bytes, top_channels
from sharc_core.pooling import pool

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
    chosen = top_channels(saliency, theta).long()
    keep = kept_channels(channels, theta)
    assert chosen.shape == (5, keep)
    assert (chosen.diff(dim=1) > 0).all()
    for row, kept in zip(saliency.abs(), chosen, strict=True):
        dropped = torch.ones(channels, dtype=torch.bool).index_fill(0, kept, False)
        if dropped.any():
            assert row[kept].min() >= row[dropped].max()


def test_all_equal_saliency_keeps_the_lowest_channels():
    assert top_channels(torch.ones(2, 10), 0.7).tolist() == [[0, 1, 2]] * 2


@given(seed=st.integers(0, 999), theta=THETAS, side=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_round_trip_and_bytes(seed, theta, side):
    g = torch.Generator().manual_seed(seed)
    maps = torch.rand(6, 20, side, side, generator=g).half()
    sparse = SparseMaps.encode(maps, top_channels(torch.rand(6, 20, generator=g), theta))
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
