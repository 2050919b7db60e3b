"""Equation 4: how many and which channels are kept."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharc_core.saliency.channel_masks import kept_channels, mass_mask, top_mask

THETAS = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 0.95]), st.floats(0, 0.999))


@given(channels=st.integers(1, 600), theta=THETAS)
def test_share_of_channels_kept(channels, theta):
    keep = kept_channels(channels, theta)
    assert 1 <= keep <= channels
    assert abs(keep - (1 - theta) * channels) < 1 or keep == 1
    assert kept_channels(channels, 0.0) == channels


def test_tenths_are_exact():
    for tenths in range(10):
        assert kept_channels(10, tenths / 10) == 10 - tenths
        assert kept_channels(512, tenths / 10) == -(-512 * (10 - tenths) // 10)


@given(seed=st.integers(0, 999), channels=st.integers(2, 40), theta=THETAS, levels=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_ties_do_not_change_how_many_channels_stay(seed, channels, theta, levels):
    g = torch.Generator().manual_seed(seed)
    saliency = torch.randint(-levels, levels + 1, (5, channels), generator=g).float()
    mask = top_mask(saliency, theta)
    assert mask.sum(1).tolist() == [kept_channels(channels, theta)] * 5
    for row, kept in zip(saliency.abs(), mask, strict=True):
        if not kept.all():
            assert row[kept].min() >= row[~kept].max()


@given(seed=st.integers(0, 999), channels=st.integers(1, 40), theta=THETAS, levels=st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_masks_are_those_of_a_stable_sort(seed, channels, theta, levels):
    g = torch.Generator().manual_seed(seed)
    saliency = torch.randint(-levels, levels + 1, (2, 5, channels), generator=g).float()
    order = saliency.abs().sort(dim=-1, descending=True, stable=True).indices
    expected = torch.zeros_like(saliency, dtype=torch.bool)
    expected.scatter_(-1, order[..., : kept_channels(channels, theta)], True)
    assert torch.equal(top_mask(saliency, theta), expected)


def test_equal_saliency_keeps_the_lowest_channel_numbers():
    assert top_mask(torch.ones(2, 10), 0.7).nonzero().tolist() == [[r, k] for r in range(2) for k in range(3)]


@given(seed=st.integers(0, 999), mass=st.floats(0.01, 1), channels=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_mass_keeps_the_fewest_channels_that_hold_it(seed, mass, channels):
    g = torch.Generator().manual_seed(seed)
    saliency = torch.randn(4, channels, generator=g).double()
    for row, kept in zip(saliency.abs(), mass_mask(saliency, mass), strict=True):
        assert row[kept].sum() >= mass * row.sum() * (1 - 1e-9)
        without_smallest = row[kept].sort().values[1:]
        assert len(without_smallest) == 0 or without_smallest.sum() < mass * row.sum()
        if not kept.all():
            assert row[kept].min() >= row[~kept].max()


def test_mass_of_zero_saliency_keeps_one_channel():
    assert mass_mask(torch.zeros(2, 5), 0.9).sum(1).tolist() == [1, 1]
