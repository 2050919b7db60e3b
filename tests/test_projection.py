"""GEM's QP against a generic solver, and the constraints that projected gradients must meet."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qpsolvers import solve_qp

from sharc_core.methods.projection import RIDGE, project_many, project_one, solve_dual


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 19),
    rank=st.integers(1, 24),
    margin=st.sampled_from([0.0, 0.1, 0.5]),
    scale=st.sampled_from([0.05, 1.0, 10.0]),
)
@settings(max_examples=150, deadline=None)
def test_dual_equals_quadprog(seed, k, rank, margin, scale):
    """Rank-deficient Gram matrices (more past tasks than directions) included."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(k, rank)) * scale
    gradient = rng.normal(size=rank) * scale
    gram, products = rows @ rows.T + RIDGE * np.eye(k), rows @ gradient
    mine = solve_dual(gram, products, margin)
    truth = solve_qp(gram, products, lb=np.full(k, margin), solver="quadprog")

    def objective(v):
        return 0.5 * v @ gram @ v + products @ v

    assert (mine >= margin - 1e-9).all()
    assert objective(mine) <= objective(truth) + 1e-7 * (1 + abs(objective(truth)))
    np.testing.assert_allclose(mine, truth, atol=1e-4 * (1 + np.abs(truth).max()))


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), margin=st.sampled_from([0.0, 0.5]))
@settings(max_examples=60, deadline=None)
def test_gem_meets_its_constraints(seed, k, margin):
    g = torch.Generator().manual_seed(seed)
    gradient = torch.randn(4, 30, generator=g)
    references = torch.randn(4, k, 30, generator=g)
    projected = project_many(gradient, references, margin)
    products = torch.einsum("rkp,rp->rk", references, projected)
    dual_bound = RIDGE * (references.norm(dim=2).max() * 10 + margin)  # what the ridge may cost
    assert (products >= -dual_bound).all()
    free = (torch.einsum("rkp,rp->rk", references, gradient) >= 0).all(1)
    assert torch.equal(projected[free], gradient[free])


def test_gem_replicas_do_not_mix():
    g = torch.Generator().manual_seed(0)
    gradient, references = torch.randn(5, 20, generator=g), torch.randn(5, 3, 20, generator=g)
    together = project_many(gradient, references, 0.5)
    for r in range(5):
        alone = project_many(gradient[r : r + 1], references[r : r + 1], 0.5)
        torch.testing.assert_close(together[r : r + 1], alone)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_agem_meets_its_constraint(seed):
    g = torch.Generator().manual_seed(seed)
    gradient, reference = torch.randn(8, 25, generator=g), torch.randn(8, 25, generator=g)
    projected = project_one(gradient, reference)
    before, after = (gradient * reference).sum(1), (projected * reference).sum(1)
    assert (after >= -1e-4).all()
    assert torch.equal(projected[before >= 0], gradient[before >= 0])
    torch.testing.assert_close(after[before < 0], torch.zeros(int((before < 0).sum())), atol=1e-4, rtol=0)


def test_agem_survives_a_zero_reference():
    gradient = torch.randn(2, 5)
    assert torch.equal(project_one(gradient, torch.zeros(2, 5)), gradient)


@pytest.mark.parametrize("copies", [2, 5])
def test_gem_survives_equal_references(copies):
    """Linearly dependent memory gradients: the QP that other implementations call not positive definite."""
    gradient = -torch.ones(1, 10)
    references = torch.ones(1, copies, 10)
    projected = project_many(gradient, references, 0.0)
    assert (projected @ references[0, 0]).abs() < 1e-2
