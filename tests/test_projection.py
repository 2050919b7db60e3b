"""GEM's QP compared with a generic solver, and the constraints of projected gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qpsolvers import solve_qp

from sharc_core.methods.projection import RIDGE, project_many, project_one, solve_dual

KINDS = ["random", "few directions", "nearly parallel", "nearly opposed", "identical", "some zero", "lengths"]


def cone(kind: str, seed: int, k: int, parameters: int, scale: float) -> torch.Tensor:
    """Return references (1, k, P) of norm about `scale`, of a kind that is hard for GEM's QP."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(k, parameters))
    if kind == "few directions":
        rows = rng.normal(size=(k, 2)) @ rng.normal(size=(2, parameters))
    if kind == "nearly parallel":
        rows = rows[:1] + 10.0 ** rng.integers(-7, -1) * rows
    if kind == "nearly opposed":
        rows = rng.choice([-1, 1], size=(k, 1)) * rows[:1] + 10.0 ** rng.integers(-7, -1) * rows
    if kind == "identical":
        rows[:] = rows[0]
    if kind == "some zero":
        rows[rng.random(k) < 0.5] = 0
    if kind == "lengths":
        rows *= 10.0 ** rng.integers(-3, 4, size=(k, 1))
    return torch.from_numpy(rows * scale / np.sqrt(parameters)).float()[None]


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 19),
    rank=st.integers(1, 24),
    margin=st.sampled_from([0.0, 0.1, 0.5]),
    ridge=st.sampled_from([RIDGE, 1e-3]),
)
@settings(max_examples=150, deadline=None)
def test_dual_equals_quadprog(seed, k, rank, margin, ridge):
    """Gram matrices may be rank-deficient, with more past tasks than directions.

    For those only the ridge determines the dual: at RIDGE two exact solvers agree in the objective, but they
    agree in the dual only at a larger ridge.
    """
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(k, rank))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gram, products = rows @ rows.T + ridge * np.eye(k), rows @ rng.normal(size=rank)
    lower = margin * rng.random(k)
    mine = solve_dual(gram, products, lower)
    truth = solve_qp(gram, products, lb=lower, solver="quadprog")

    def objective(v):
        return 0.5 * v @ gram @ v + products @ v

    assert (mine >= lower - 1e-9).all()
    assert objective(mine) <= objective(truth) + 1e-7 * (1 + abs(objective(truth)))
    if ridge != RIDGE:
        np.testing.assert_allclose(mine, truth, atol=1e-4 * (1 + np.abs(truth).max()))


@pytest.mark.slow
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 10_000),
    k=st.integers(1, 20),
    parameters=st.sampled_from([3, 30, 200]),
    scale=st.sampled_from([1e-6, 1e-5, 1e-3, 0.05, 1.0, 1e3]),
    length=st.sampled_from([1e-6, 1e-5, 0.05, 1.0, 1e3]),
    margin=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=400, deadline=None)
def test_gem_meets_its_constraints_at_every_scale(kind, seed, k, parameters, scale, length, margin):
    """The step's cosine with every reference is at least -1e-3, unless the step is almost zero.

    Violations below 1e-6 of the input are rounding of float32 and are ignored.
    """
    g = torch.Generator().manual_seed(seed)
    gradient = torch.randn(1, parameters, generator=g) * length / parameters**0.5
    references = cone(kind, seed, k, parameters, scale)
    step = project_many(gradient, references, margin)[0].double()
    rows = references[0].double()
    norms = rows.norm(dim=1)
    rounding = 1e-6 * max(gradient.norm(), margin * norms.max())
    assert (rows @ step >= -(1e-3 * step.norm() + rounding) * norms).all()


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 12),
    parameters=st.sampled_from([20, 60]),
    scale=st.sampled_from([1e-6, 1e-5, 1e-3, 1.0, 1e3]),
    length=st.sampled_from([1e-5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_gem_is_the_nearest_allowed_gradient(seed, k, parameters, scale, length):
    """Compare with the primal problem of the paper (eq. 8), which has no ridge, at its natural scale."""
    rng = np.random.default_rng(seed)
    gradient = rng.normal(size=parameters)
    rows = rng.normal(size=(k, parameters))
    truth = solve_qp(np.eye(parameters), -gradient, -rows, np.zeros(k), solver="quadprog")
    tensors = torch.from_numpy(gradient * length).float()[None], torch.from_numpy(rows * scale).float()[None]
    mine = project_many(*tensors, 0.0)[0].double().numpy() / length
    np.testing.assert_allclose(mine, truth, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
def test_gem_margin_bounds_the_dual_of_the_gradients_themselves(scale):
    """Memory strength as in the paper: v >= margin in g + G' v, for gradients of any length."""
    g = torch.Generator().manual_seed(3)
    references = torch.randn(1, 4, 30, generator=g) * scale * torch.tensor([1, 2, 0.5, 3])[:, None]
    gradient = -references.mean(1) + 0.1 * scale * torch.randn(1, 30, generator=g)
    step = (project_many(gradient, references, 0.5) - gradient)[0].double().numpy()
    rows = references[0].double().numpy()
    dual = np.linalg.lstsq(rows.T, step, rcond=None)[0]
    gram, products = rows @ rows.T / scale**2, rows @ gradient[0].double().numpy() / scale**2
    truth = solve_qp(gram, products, lb=np.full(4, 0.5), solver="quadprog")
    np.testing.assert_allclose(dual, truth, atol=1e-4)
    assert dual.min() == pytest.approx(0.5, abs=1e-4), "the bound must bind"


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), margin=st.sampled_from([0.0, 0.5]))
@settings(max_examples=60, deadline=None)
def test_gem_meets_its_constraints(seed, k, margin):
    g = torch.Generator().manual_seed(seed)
    gradient = torch.randn(4, 30, generator=g)
    references = torch.randn(4, k, 30, generator=g)
    projected = project_many(gradient, references, margin)
    products = torch.einsum("rkp,rp->rk", references, projected)
    assert (products >= -1e-5 * references.norm(dim=2)).all()
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


def test_gem_ignores_a_zero_reference():
    """A task whose memory is learnt perfectly has no gradient, so only the others matter."""
    g = torch.Generator().manual_seed(0)
    gradient, references = torch.randn(4, 20, generator=g), torch.randn(4, 3, 20, generator=g)
    padded = torch.cat([torch.zeros(4, 1, 20), references, torch.zeros(4, 2, 20)], 1)
    torch.testing.assert_close(project_many(gradient, padded, 0.5), project_many(gradient, references, 0.5))
    assert torch.equal(project_many(gradient, torch.zeros(4, 2, 20), 0.5), gradient)


def test_agem_survives_a_zero_reference():
    gradient = torch.randn(2, 5)
    assert torch.equal(project_one(gradient, torch.zeros(2, 5)), gradient)


@pytest.mark.parametrize("copies", [2, 5])
def test_gem_survives_equal_references(copies):
    """Linearly dependent memory gradients give a QP that other solvers refuse as not positive definite."""
    gradient = -torch.ones(1, 10)
    references = torch.ones(1, copies, 10)
    projected = project_many(gradient, references, 0.0)
    assert (projected @ references[0, 0]).abs() < 1e-5
