"""BayesPCN's state: prior, forgetting, the start of a write, and numerical stability."""

import math

import pytest
import torch
from pydantic import ValidationError
from test_bayespcn import KIND, SHAPE, make, patterns, written

from sharc_core.associative import bayespcn
from sharc_core.associative.matrix_normal import gain_of, gram_of
from sharc_core.common.errors import UserError


@pytest.mark.parametrize("layers", [2, 3])
def test_forgetting_scales_the_state_towards_the_prior(layers):
    memory, _ = written(layers=layers)
    before = {name: tensor.clone() for name, tensor in memory.state_dict().items()}
    memory.forget(0.0)
    for name, tensor in memory.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    memory.forget(0.36)
    fresh = make(layers=layers).tensors()
    assert len(fresh) == 2 * (layers - 1) + 2
    for name, tensor in memory.tensors().items():  # means by sqrt(1 - 0.36), covariances by 1 - 0.36
        keep = 0.8 if "mean" in name else 0.64
        torch.testing.assert_close(tensor, keep * before[name] + (1 - keep) * fresh[name])
        assert not torch.allclose(before[name], fresh[name])
    memory.forget(1.0)
    for name, tensor in memory.tensors().items():
        torch.testing.assert_close(tensor, fresh[name], rtol=1e-12, atol=1e-12)


def test_the_prior_is_normal_by_the_size_of_the_layer_below():
    """Means have deviation 1 / sqrt(size), are not bounded as uniform draws are, and depend on the seed."""
    memory, same, other = (make((100, 2, 2), seed, hidden=64, layers=3) for seed in (0, 0, 1))
    for name, size in (("mean0", 400), ("mean1", 64), ("top_mean", 64)):
        draw = memory.tensors()[name] * size**0.5
        assert draw.std().item() == pytest.approx(1, abs=5 / draw.numel() ** 0.5)
        assert draw.mean().item() == pytest.approx(0, abs=5 / draw.numel() ** 0.5)
        assert draw.abs().max() > 2
        assert torch.equal(memory.tensors()[name], same.tensors()[name])
        assert not torch.equal(memory.tensors()[name], other.tensors()[name])
    assert torch.equal(memory.layers[1].covariance, torch.eye(64, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_are_kept_up_to_date_within_a_write(monkeypatch, dtype):
    memory, grams, crosses, formed = make(), [], [], []
    memory.layers[0].mean = memory.layers[0].mean.to(dtype)
    update = memory.update

    def noted(x, hidden, before, then):
        gram, cross = update(x, hidden, before, then)
        grams.append((gram, gram_of(memory.layers[0].mean)))
        crosses.append((cross, then.double() @ memory.layers[0].mean.double().T))
        return gram, cross

    monkeypatch.setattr(memory, "update", noted)
    monkeypatch.setattr(bayespcn, "gram_of", lambda weights: formed.append(1) or gram_of(weights))
    for _ in range(2):
        memory.write(patterns(30), torch.zeros(30))
    assert len(grams) == 2 * 8 and len(formed) == 2
    exact = dtype == torch.float64
    for kept, fresh in (*grams, *crosses):
        slack = 1e-12 if exact else 1e-6 * float(max(fresh.abs().flatten(), default=0))
        torch.testing.assert_close(kept, fresh, rtol=1e-9 if exact else 1e-5, atol=slack)
    monkeypatch.setattr(bayespcn, "REFRESH", 3)
    memory.write(patterns(30), torch.zeros(30))
    assert len(formed) == 2 + 3


def test_a_write_starts_from_the_state_alone():
    """Earlier writes, forgets and loads do not change the bits of a write."""
    memory, maps = written(10)
    for forget in (False, True):
        twin = make()
        if forget:
            memory.forget(0.3)
        twin.load_state_dict(memory.state_dict())
        for each in (memory, twin):
            each.write(maps, torch.zeros(10))
        for name, tensor in memory.state_dict().items():
            assert torch.equal(tensor, twin.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_stable_over_a_thousand_writes(beta):
    """The covariance stays symmetric and positive definite, all numbers finite, and recall accurate."""
    memory = KIND(KIND.Settings(hidden=16, steps=5, batch=1), (6, 1, 1), 2)
    maps, labels = patterns(1000, (6, 1, 1)), torch.zeros(1000)
    for start in range(0, 1000, 50):
        memory.write(maps[start : start + 50], labels[:50])
        if beta:
            memory.forget(beta)
        covariance = memory.layers[0].covariance
        assert torch.equal(covariance, covariance.T)
        assert torch.linalg.eigvalsh(covariance).min() > 0
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[:, 2] = False
    assert torch.isfinite(memory.read(maps[-5:], mask, labels[:5])).all()
    assert gain_of(torch.rand(3, 16).double(), covariance, 1e-4)[1].isfinite().all()


def test_a_covariance_is_symmetric_to_the_last_bit():
    """The product of a 256 x 10 matrix with its transpose is not always exactly symmetric."""
    source = torch.Generator().manual_seed(7)
    covariance = torch.eye(256, dtype=torch.float64)
    for _ in range(5):
        z = torch.rand(10, 256, generator=source, dtype=torch.float64)
        covariance = gain_of(z, covariance, 1e-4)[1]
        assert torch.equal(covariance, covariance.T)
    assert torch.linalg.eigvalsh(covariance).min() > 0


@pytest.mark.parametrize("value", [1e-4, 1e4])
@pytest.mark.parametrize("layers", [2, 3])
def test_extreme_settings_work_or_give_a_one_line_error(value, layers):
    """Test the bounds of the settings with random, equal and zero maps."""
    mask = (torch.arange(12) % 3 != 0).expand(6, 12)
    for maps in (patterns(6), torch.zeros(6, *SHAPE), patterns(1).repeat(6, 1, 1, 1)):
        for sigma_obs in (1e-4, 1e4):
            for lr in (0.01, 100.0):
                settings = {"sigma_prior": value, "sigma_obs": sigma_obs, "lr": lr, "steps": 20}
                memory = make(layers=layers, **settings)
                try:
                    memory.write(maps, torch.zeros(6))
                    assert memory.read(maps, mask, torch.zeros(6)).isfinite().all()
                except UserError as error:
                    assert "sigma_prior" in str(error)


@pytest.mark.parametrize("wrong", ["sigma_prior", "sigma_obs"])
def test_settings_out_of_range_are_refused(wrong):
    for values in ({wrong: 0.9e-4}, {wrong: 1.1e4}, {"lr": 101.0}, {"batch": 2**63}):
        with pytest.raises(ValidationError):
            make(**values)


def test_published_defaults():
    s = KIND.Settings()
    published = (s.layers, s.hidden, s.activation, s.sigma_prior, s.sigma_obs, s.steps, s.lr)
    assert published == (2, 256, "relu", 1.0, 0.01, 500, 0.01)
    published = (s.log_joint, s.write_start, s.read_start, s.coupled_reading, s.unobserved)
    assert published == ("predictive", "normal", "normal", False, "joint")
    assert (s.batch, s.tolerance) == (10, 1e-3)
    # field.md: 25.7 MB of weights at the published settings
    assert KIND.planned_bytes(s, (512, 7, 7), 10, 0) - 256 * 25_088 * 4 < 1e6
    assert math.isclose(256 * 25_088 * 4, 25.7e6, rel_tol=0.01)
