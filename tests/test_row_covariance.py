"""The row covariance as the prior minus a low-rank part, compared with the full matrix."""

import pytest
import torch
from test_bayespcn import COUPLED, KIND, direct_log_joint, patterns

from sharc_core.associative import row_covariance as row_covariances
from sharc_core.associative.matrix_normal import Grams, cross_of, gram_of
from sharc_core.associative.row_covariance import RowCovariance, taken_from

SHAPE = (12, 2, 3)
HIDDEN = 64


def written(count: int, **settings):
    """Return a memory of 64 hidden units after `count` maps, four at a time, with float64 weights."""
    settings = KIND.Settings(**{"hidden": HIDDEN, "steps": 40, "batch": 4, **COUPLED, **settings})
    memory, maps = KIND(settings, SHAPE, 1), patterns(count)
    memory.layers[0].mean = memory.layers[0].mean.double()
    memory.write(maps, torch.zeros(count))
    return memory, maps


@pytest.mark.parametrize("prior", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("count", [4, 8, 16])
def test_covariance_is_the_prior_minus_one_row_per_map(count, prior):
    """The difference is exact, also after forgetting, which scales the low-rank part but keeps its rank."""
    memory, _ = written(count, sigma_prior=prior**0.5)
    source = torch.Generator().manual_seed(0)
    z = torch.rand(3, 5, HIDDEN, generator=source, dtype=torch.float64)
    for _ in range(2):
        covariance = memory.layers[0].covariance
        row_covariance = RowCovariance(covariance, memory.settings.sigma_prior**2, 1e-4)
        taken = row_covariance.taken[0]
        assert taken.shape == (count, HIDDEN)
        assert taken.square().sum() > 0.1 * prior, "else nothing was learnt"
        full = memory.settings.sigma_prior**2 * torch.eye(HIDDEN, dtype=torch.float64) - taken.T @ taken
        torch.testing.assert_close(full, covariance, rtol=0, atol=1e-13 * prior)
        torch.testing.assert_close(row_covariance.spread(z), z @ covariance, rtol=0, atol=1e-12 * prior)
        for part in (z, z[:, :3]):
            spread, coupled = row_covariance.coupled(part)
            assert torch.equal(spread, row_covariance.spread(part))
            spread, alone = row_covariance.alone(part)
            assert torch.equal(spread, row_covariance.spread(part))
            diagonal = coupled.diagonal(dim1=1, dim2=2)[:, :, None]
            torch.testing.assert_close(alone, diagonal, rtol=0, atol=1e-12 * prior)
            expected = part @ covariance @ part.mT + 1e-4 * torch.eye(part.shape[1], dtype=z.dtype)
            torch.testing.assert_close(coupled, expected, rtol=0, atol=1e-11 * prior)
        memory.forget(0.3)


@pytest.mark.parametrize("prior", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("beta", [1e-3, 1e-2, 0.3])
def test_rounding_of_many_updates_adds_no_row(prior, beta):
    memory, _ = written(12, sigma_prior=prior)
    for _ in range(20):
        memory.forget(beta)
    row_covariance = RowCovariance(memory.layers[0].covariance, prior**2, 1e-4)
    assert row_covariance.taken is not None and row_covariance.taken.shape[1] <= 12
    z = torch.rand(2, 3, HIDDEN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = z @ memory.layers[0].covariance
    torch.testing.assert_close(row_covariance.spread(z), expected, rtol=0, atol=1e-11 * prior**2)


@pytest.mark.parametrize("prior", [0.5, 2.0])
def test_another_ones_prior(prior):
    """A matrix that is not the prior minus a low-rank part is used directly."""
    memory, _ = written(4)
    row_covariance = RowCovariance(memory.layers[0].covariance, prior, 1e-4)
    z = torch.rand(2, 3, HIDDEN, dtype=torch.float64)
    assert torch.equal(row_covariance.spread(z), z @ memory.layers[0].covariance)


@pytest.mark.parametrize("layers", [2, 3])
def test_reading_is_the_same_in_either_form(monkeypatch, layers):
    """Masks have one, two and three cues, padded, and more cues than a batch."""
    memory, maps = written(14, layers=layers, sigma_obs=0.1)
    masks = torch.rand(4, 12, generator=torch.Generator().manual_seed(1)) > 0.4
    mask = masks[torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3])]
    recalled = memory.read(maps, mask, torch.zeros(14))
    assert all(covariance.taken is not None for covariance in memory._row_covariances())
    monkeypatch.setattr(row_covariances, "taken_from", lambda *_: None)
    full = memory.read(maps, mask, torch.zeros(14))
    torch.testing.assert_close(recalled, full, rtol=1e-6, atol=1e-6)


def test_covariance_without_writes_is_the_prior():
    memory, _ = written(4)
    memory.forget(1.0)
    row_covariance = RowCovariance(memory.layers[0].covariance, 1.0, 1e-4)
    assert row_covariance.taken.shape == (1, 0, HIDDEN)
    z = torch.rand(2, 3, HIDDEN, dtype=torch.float64)
    torch.testing.assert_close(row_covariance.spread(z), z, rtol=0, atol=0)


def test_many_rows_take_the_matrix_itself():
    """Up to hidden / 4 rows the low-rank products are cheaper; beyond, the full matrix is used."""
    assert taken_from(1.0, written(16)[0].layers[0].covariance) is not None
    memory, _ = written(20)
    row_covariance = RowCovariance(memory.layers[0].covariance, 1.0, 1e-4)
    assert row_covariance.taken is None
    z = torch.rand(2, 3, HIDDEN, dtype=torch.float64)
    assert torch.equal(row_covariance.spread(z), z @ memory.layers[0].covariance)


def test_on_another_device_the_matrix_itself():
    covariance = torch.eye(HIDDEN, dtype=torch.float64, device="meta")
    row_covariance, z = (
        RowCovariance(covariance, 1.0, 1e-4),
        torch.empty(2, 3, HIDDEN, device="meta").double(),
    )
    assert row_covariance.taken is None
    assert row_covariance.spread(z).shape == (2, 3, HIDDEN)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_log_joint_equals_autograd_on_the_maps(layers, masked):
    memory, maps = written(8, layers=layers, sigma_obs=0.1)
    assert all(each.taken is not None for each in memory._row_covariances())
    x = maps[:4].double().flatten(1)
    columns = torch.arange(0, 72, 2) if masked else None
    width = HIDDEN * (layers - 1)
    state = torch.rand(1, 4, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cross, seen = cross_of(x, memory.layers[0].mean, columns)
    grams = Grams((seen @ seen.T)[None], cross[None], gram_of(memory.layers[0].mean, columns), 72)
    start = memory.draw_start("write", 0, 4)[None]
    assert not any(layer.is_inference() for layer in memory.hidden_mode(grams, start))
    value, gradient = memory.log_joint(state, grams)
    leaf = state[0].clone().requires_grad_()
    direct = direct_log_joint(memory, x, list(leaf.split(HIDDEN, dim=1)), columns)
    direct.backward()
    torch.testing.assert_close(value[0, 0], direct.detach(), rtol=1e-6, atol=0)
    scale = leaf.grad.abs().max()
    torch.testing.assert_close(gradient[0] / scale, leaf.grad / scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hidden", [1, 2, 3, 4, 5, 10, 64])
def test_gram_matrix_in_blocks_is_exact_and_symmetric(hidden):
    """R R^T is formed in blocks of rows and columns and is exactly symmetric."""
    weights = torch.randn(hidden, 2500, generator=torch.Generator().manual_seed(hidden))
    for columns in (None, torch.arange(0, 2500, 3)):
        part = (weights if columns is None else weights[:, columns]).double()
        gram = gram_of(weights, columns)
        torch.testing.assert_close(gram, part @ part.T, rtol=1e-12, atol=1e-12)
        assert torch.equal(gram, gram.T)
