"""The predictive coding network: optimised computations compared with the plain definition."""

import pytest
import torch
from learnt import SHAPE, cue, make, sparse_maps

from sharc_core.associative import pcn, predictive
from sharc_core.associative.base import by_mask
from sharc_core.associative.predictive import Network, Products, in_own_span

PHI = {"relu": torch.relu, "gelu": torch.nn.functional.gelu, "none": lambda units: units}


def plain_energy(maps, units, weights, mean, activation) -> torch.Tensor:
    """Return SHARC eq. 5 for each sample; units (n, layers, h)."""
    layers = [maps, *units.unbind(1)]
    total = (layers[-1] - mean).square().sum(1) / 2
    for below, above, w in zip(layers, layers[1:], weights, strict=False):
        total = total + (below - PHI[activation](above) @ w).square().sum(1) / 2
    return total


def plain_settle(maps, units, sizes, weights, mean, activation, steps, energies):
    """Take backtracking gradient steps on the hidden units, with autograd on the whole weights."""
    for step in range(steps + 1):
        units = units.detach().requires_grad_()
        energy = plain_energy(maps, units, weights, mean, activation)
        if not step:
            energies.append(energy.detach())
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(energy.sum(), units)
        trial = (units - sizes[:, None, None] * gradient).detach()
        taken = plain_energy(maps, trial, weights, mean, activation) <= energy
        units = torch.where(taken[:, None, None], trial, units)
        sizes = torch.where(taken, 1.1 * sizes, 0.5 * sizes)
        energies.append(plain_energy(maps, units, weights, mean, activation).detach())
    return units.detach(), sizes


@pytest.mark.parametrize("activation", sorted(PHI))
@pytest.mark.parametrize("layers", [2, 3])
def test_writing_in_the_span_equals_plain_gradient_steps_on_whole_weights(activation, layers):
    hidden, rounds, hidden_steps, weight_steps, momentum = 20, 8, 6, 3, 0.9
    maps = sparse_maps()[0].flatten(1).double()  # 20 + 24 rows of 192: the basis is the smaller one
    memory = make("pcn", hidden=hidden, layers=layers, activation=activation)
    network, seen = memory._network(), []
    weights, mean = list(network.weights), network.mean
    network.fit(maps, rounds, hidden_steps, weight_steps, momentum, seen.append)

    expected, velocities = [], [torch.zeros_like(w) for w in weights]
    units = torch.full((len(maps), layers - 1, hidden), hidden**-0.5, dtype=torch.float64)
    sizes = torch.full((len(maps),), 0.1, dtype=torch.float64)
    for _ in range(rounds):
        units, sizes = plain_settle(maps, units, sizes, weights, mean, activation, hidden_steps, expected)
        for level in range(layers - 1):
            gram = PHI[activation](units[:, level]) @ PHI[activation](units[:, level]).T
            if hidden < len(maps):
                gram = PHI[activation](units[:, level]).T @ PHI[activation](units[:, level])
            bound = gram.abs().sum(1).max()
            assert bound >= torch.linalg.eigvalsh(gram)[-1] * (1 - 1e-12)
            for _ in range(weight_steps):
                ahead = (weights[level] + momentum * velocities[level]).requires_grad_()
                trial = [*weights[:level], ahead, *weights[level + 1 :]]
                total = plain_energy(maps, units, trial, mean, activation).sum()
                (gradient,) = torch.autograd.grad(total, ahead)
                new = (ahead - gradient / bound).detach()
                velocities[level], weights[level] = new - weights[level], new
        mean = units[:, -1].mean(0)

    torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=1e-6, atol=1e-9)
    for found, direct in zip([*network.weights, network.mean], [*weights, mean], strict=True):
        assert (found - direct).norm() <= 1e-6 * direct.norm()


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_writing_lowers_the_energy(momentum):
    seen = []
    make("pcn", momentum=momentum).learn(*sparse_maps(), seen.append)
    starts = torch.stack(seen).sum(1).view(20, -1)
    assert (starts.diff(dim=1) <= 0).all(), "steps on the hidden units"
    if not momentum:
        assert (starts[1:, 0] <= starts[:-1, -1]).all(), "steps on weights and mean"
    assert starts[-1, -1] < 0.1 * starts[0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("activation", sorted(PHI))
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("masks", [2, 24])
def test_reading_equals_its_definition_and_never_raises_the_energy(activation, layers, masks):
    """Compare with gradient steps on the observed part of the energy, one cue at a time."""
    memory = make("pcn", activation=activation, layers=layers, rounds=5, read_steps=15)
    maps, labels = sparse_maps()
    memory.write(maps, labels)
    masked, mask = cue(maps, masks)
    seen = []
    full = memory.complete(masked, mask, labels, seen.append)
    runs = torch.cat([torch.stack(seen[i : i + 16]) for i in range(0, len(seen), 16)], 1)
    assert runs.shape == (16, len(maps))
    assert (runs.diff(dim=0) <= 0).all()

    weights, mean = memory._network().weights, memory.mean.double()
    last = []
    for i in range(len(maps)):
        observed = mask[i].repeat_interleave(4)
        cut = [weights[0][:, observed], *weights[1:]]
        start = torch.full((1, layers - 1, 40), 40**-0.5, dtype=torch.float64)
        seen_values = masked[i].flatten()[observed].double()[None]
        energies = []
        units, _ = plain_settle(
            seen_values, start, torch.full((1,), 0.1).double(), cut, mean, activation, 15, energies
        )
        prediction = PHI[activation](units[:, 0]) @ weights[0]
        torch.testing.assert_close(full[i].flatten(), prediction[0].float(), rtol=1e-4, atol=1e-5)
        # at their prediction the unobserved entries add no energy and have no gradient
        whole = torch.where(observed, masked[i].flatten().double(), prediction[0])[None].requires_grad_()
        energy = plain_energy(whole, units, weights, mean, activation)
        torch.testing.assert_close(energy.detach(), energies[-1])
        (gradient,) = torch.autograd.grad(energy.sum(), whole)
        assert gradient[0, ~observed].abs().max() < 1e-9
        last.append(energies[-1])
    torch.testing.assert_close(runs[-1].sort().values, torch.cat(last).sort().values)


def test_a_step_on_hidden_units_costs_the_same_for_any_map(monkeypatch):
    """No tensor inside the loops has a side as long as the map."""
    sides = []
    energy = Network.energy

    def noted(self, units, products):
        sides.extend([*units.shape, *products.cross.shape, *products.gram.shape, *self.weights[0].shape])
        return energy(self, units, products)

    steps = predictive.descend

    def noted_steps(weights, velocity, inputs, targets, *rest):
        sides.extend([*weights.shape, *inputs.shape, *targets.shape])
        return steps(weights, velocity, inputs, targets, *rest)

    monkeypatch.setattr(Network, "energy", noted)
    monkeypatch.setattr(predictive, "descend", noted_steps)
    maps, labels = sparse_maps()
    make("pcn").write(maps, labels)
    assert sides and max(sides) <= 40 + len(maps) < maps[0].numel()


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 5, 100])
def test_cues_settled_together_do_not_interact(monkeypatch, together):
    memory = make("pcn")
    maps, labels = sparse_maps()
    memory.write(maps, labels)
    masked, mask = cue(maps, 9)
    monkeypatch.setattr(pcn, "TOGETHER", together)
    full = memory.read(masked, mask, labels)
    for i in range(len(maps)):
        alone = memory.read(masked[i : i + 1], mask[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(full[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_layers_between_are_counted():
    memory = make("pcn", layers=4, rounds=1)
    memory.write(*sparse_maps())
    assert memory.state_bytes == memory.planned_bytes(memory.settings, SHAPE, 4, 1)
    assert memory.state_bytes == 4 * (40 * 192 + 2 * 40 * 40 + 40)


def test_cues_are_grouped_by_mask():
    mask = torch.tensor([[True, False], [False, True], [True, False]])
    groups = {tuple(row.tolist()): rows.tolist() for row, rows in by_mask(mask)}
    assert groups == {(True, False): [0, 2], (False, True): [1]}


@pytest.mark.parametrize("count", [3, 30])
def test_coordinates_keep_inner_products_and_give_the_rows_back(count):
    rows = torch.randn(count, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[1] = 2 * rows[0]
    rows[2] = 0
    found, basis = in_own_span(rows)
    assert found.shape[1] == len(basis) <= min(count, 20)
    torch.testing.assert_close(found @ found.T, rows @ rows.T)
    torch.testing.assert_close(found @ basis, rows)
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64))


def test_products_of_different_masks_side_by_side():
    g = torch.Generator().manual_seed(0)
    maps, weights = torch.rand(4, 6, generator=g).double(), torch.rand(3, 6, generator=g).double()
    network = Network([weights], torch.rand(3, generator=g).double(), "gelu")
    parts = [Products.of(maps[:3, :4], weights[:, :4]), Products.of(maps[3:, 2:], weights[:, 2:])]
    units = torch.rand(4, 1, 3, generator=g).double()
    energy, gradient = network.energy(units, Products.together(parts))
    for rows, part in ((slice(0, 3), parts[0]), (slice(3, 4), parts[1])):
        alone = network.energy(units[rows], part)
        torch.testing.assert_close((energy[rows], gradient[rows]), alone)
