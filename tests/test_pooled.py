"""Pooled vectors as floats, integers and bits: their values, their bytes, and grids that cannot use them."""

import pytest
import torch
from factories import make_cell, make_features
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.learning.learner import run_cell
from sharc_core.representations import REPRESENTATIONS

FEATURES = make_features(classes=6, train_per_class=150)
BYTES = {"pooled_float32": 2048, "pooled_float16": 1024, "pooled_int8": 512 + 2, "pooled_binary": 64 + 4}


def encode(name: str, vectors: torch.Tensor):
    return REPRESENTATIONS.get(name)((vectors.shape[1], 7, 7)).encode(vectors)


@pytest.mark.parametrize(("name", "each"), BYTES.items())
def test_bytes_of_published_vectors(name, each):
    """A vector of 512 channels takes 2,048 bytes in float32 and 68 in one bit per channel."""
    stored = encode(name, torch.rand(3, 512))
    assert stored.nbytes == 3 * each
    assert REPRESENTATIONS.get(name)((512, 7, 7)).planned_bytes(512) == each


def test_floats_come_back_as_the_type_holds_them():
    vectors = torch.randn(5, 33)
    assert torch.equal(encode("pooled_float32", vectors).decode(), vectors)
    assert torch.equal(encode("pooled_float16", vectors).decode(), vectors.half().float())


@given(seed=st.integers(0, 10**6), channels=st.integers(1, 40), scale=st.sampled_from([1e-2, 1.0, 1e3]))
@settings(max_examples=40, deadline=None)
def test_integers_err_by_half_a_step_of_the_vectors_scale(seed, channels, scale):
    vectors = torch.randn(4, channels, generator=torch.Generator().manual_seed(seed)) * scale
    step = vectors.abs().amax(1, keepdim=True) / 127
    error = (encode("pooled_int8", vectors).decode() - vectors).abs()
    # float16 rounds the scale by up to 2^-11 of itself or 2^-25, which a value multiplies by up to 127
    assert (error <= step * (0.5 + 127 * 2**-11) + 127 * 2**-25).all()


@given(seed=st.integers(0, 10**6), channels=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_bits_say_what_is_above_the_mean_and_levels_are_the_groups_means(seed, channels):
    vectors = torch.randn(4, channels, generator=torch.Generator().manual_seed(seed)).abs()
    decoded = encode("pooled_binary", vectors).decode()
    for vector, row in zip(vectors, decoded, strict=True):
        for group in (vector > vector.mean(), ~(vector > vector.mean())):
            if group.any():
                level = vector[group].mean().half().float()
                torch.testing.assert_close(row[group], level.expand(int(group.sum())), rtol=1e-3, atol=1e-6)
        # no other pair of levels for these groups is better, so that both halves of a level are worse
        error = (row - vector).square().sum()
        assert error <= (row * 1.01 - vector).square().sum() + 1e-4
        assert error <= (row * 0.99 - vector).square().sum() + 1e-4


def test_a_vector_of_equal_values_keeps_its_value():
    for value in (0.0, 0.1, 3.0):
        decoded = encode("pooled_binary", torch.full((2, 11), value)).decode()
        assert torch.equal(decoded, torch.full((2, 11), value).half().float())


@pytest.mark.parametrize("name", BYTES)
def test_values_that_cannot_be_held_are_refused(name):
    for value in (torch.nan, torch.inf):
        with pytest.raises(UserError, match=f"storage {name} cannot hold these pooled vectors: .* not fin"):
            encode(name, torch.full((1, 9), value))
    too_large = torch.full((1, 9), 1e38)
    if name == "pooled_float32":
        assert torch.equal(encode(name, too_large).decode(), too_large)
    else:
        with pytest.raises(UserError, match=r"beyond [\d,]+: use storage pooled_float32"):
            encode(name, too_large)


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("selection", ["last", "reservoir"])
def test_a_cell_stores_more_of_the_smaller_ones(name, selection):
    cell = make_cell("er", storage=name, buffer=20, budget_unit="bytes", seeds=[0], selection=selection)
    costs = run_cell(FEATURES, cell)["costs"]
    each = REPRESENTATIONS.get(name)((12, 2, 2)).planned_bytes(12) + 2
    total = 20 * (12 * 4 * 2 + 2)
    assert costs["episodic_bytes"] == [costs["samples_stored"][0] * each]
    assert total - 3 * each < costs["episodic_bytes"][0] <= total or costs["samples_stored"] == [900]


@pytest.mark.reliability("storage-without-channels")
@pytest.mark.parametrize("name", [*BYTES, "pq", "pooled_pq"])
def test_grids_that_need_single_channels_are_refused(name):
    grid = load_grid(BASE | {"storage": name, "variants": ["plain"]})
    assert {cell.storage for cell in cells(grid) if cell.buffer} == {name}
    for change, key in (
        ({"variants": ["plain", "sharc"]}, "variants sharc"),
        ({"variants": ["plain"], "budget": {"unit": "nonzero"}}, "budget.unit nonzero"),
    ):
        with pytest.raises(UserError, match=f"^config: storage {name} cannot be combined with {key}: it sto"):
            load_grid(BASE | {"storage": name} | change)
