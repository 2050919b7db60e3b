"""BayesPCN compared with slow references: autograd on whole maps and Bayesian linear regression."""

import math

import pytest
import torch

from sharc_core.associative import ASSOCIATIVE_MEMORIES, bayespcn
from sharc_core.associative.base import by_mask
from sharc_core.associative.batches import chunked
from sharc_core.associative.gradient_steps import phi, phi_back
from sharc_core.associative.matrix_normal import Grams, cross_of, gram_of

SHAPE = (12, 2, 3)
KIND = ASSOCIATIVE_MEMORIES.get("bayespcn")
CONSTANT = {"write_start": "constant", "read_start": "constant"}
# Read through Gram matrices only and couple cues of a mask: the opposite of every published default.
COUPLED = {**CONSTANT, "coupled_reading": True, "unobserved": "exact"}


def make(shape=SHAPE, seed=0, **settings):
    """Return a small memory in float64, so that forms can be compared to the last digits."""
    settings = KIND.Settings(**{"hidden": 8, "steps": 40, "batch": 4, **COUPLED, **settings})
    memory = KIND(settings, shape, 3, seed=seed)
    memory.layers[0].mean = memory.layers[0].mean.double()
    return memory


def patterns(count: int, shape=SHAPE, seed: int = 0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=source).half()


def written(count: int = 12, **settings):
    memory, maps = make(**settings), patterns(count)
    memory.write(maps, torch.zeros(count, dtype=torch.int64))
    return memory, maps


def direct_log_joint(memory, x, hidden: list[torch.Tensor], columns=None, coupled=True) -> torch.Tensor:
    """Return the definition evaluated on the maps: the sum over layers of log N(X; Z R, S).

    x (n, d) outside `columns` is ignored and replaced by its best value, the prediction. Without coupling
    every row is a separate batch, and the result has one number per row, (n,).
    """
    if not coupled:
        rows = range(len(x))
        each = [direct_log_joint(memory, x[[i]], [h[[i]] for h in hidden], columns) for i in rows]
        return torch.stack(each)
    s, below, total = memory.settings, x, 0.0
    variance, log_two_pi = s.sigma_obs**2, math.log(2 * math.pi)
    for level, (layer, above) in enumerate(zip(memory.layers, hidden, strict=True)):
        z = phi(s.activation, above)
        prediction = z @ layer.mean
        if level == 0 and columns is not None:
            free = torch.ones(x.shape[1], dtype=torch.bool).index_fill(0, columns, False)
            below = torch.where(free, prediction, below)
        spread = torch.eye(len(z), dtype=z.dtype) * variance
        if s.log_joint == "predictive":
            spread = spread + z @ layer.covariance @ z.T
        error = below - prediction
        total = total - below.shape[1] * (torch.logdet(spread) + len(z) * log_two_pi) / 2
        total = total - (error * torch.linalg.solve(spread, error)).sum() / 2
        below = above
    top = variance + (memory.top_variance if s.log_joint == "predictive" else 0.0)
    total = total - hidden[-1].numel() * (math.log(top) + log_two_pi) / 2
    return total - (hidden[-1] - memory.top_mean).square().sum() / (2 * top)


CASES = [
    {"layers": layers, "log_joint": strategy, "activation": activation}
    for layers in (2, 3, 4)
    for strategy in ("predictive", "map")
    for activation in ("relu", "gelu", "none")
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", CASES, ids=lambda c: "-".join(map(str, c.values())))
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("coupled", [False, True])
def test_gram_form_equals_the_direct_form(settings, masked, coupled):
    """Energy and gradient agree to a relative 1e-6 in float64 after some writes."""
    memory, maps = written(sigma_obs=0.1, **settings)
    x = maps[:4].double().flatten(1)
    columns = torch.arange(0, 72, 2) if masked else None
    source = torch.Generator().manual_seed(5)
    state = torch.rand(1, 4, 8 * (settings["layers"] - 1), generator=source, dtype=torch.float64)
    weights = memory.layers[0].mean
    cross, seen = cross_of(x, weights, columns)
    grams = Grams((seen @ seen.T)[None], cross[None], gram_of(weights, columns), 72)
    rows = torch.ones(1, 4, 1, dtype=torch.float64)
    value, gradient = memory.log_joint(state, grams, rows, coupled=coupled)
    assert value.shape == (1, 1 if coupled and settings["log_joint"] == "predictive" else 4)
    leaf = state[0].clone().requires_grad_()
    direct = direct_log_joint(memory, x, list(leaf.split(8, dim=1)), columns, value.shape == (1, 1))
    direct.sum().backward()
    torch.testing.assert_close(value[0], direct.detach().view(-1), rtol=1e-6, atol=0)
    scale = leaf.grad.abs().max()
    torch.testing.assert_close(gradient[0] / scale, leaf.grad / scale, rtol=0, atol=1e-6)


def test_prediction_maximises_the_log_joint_over_unobserved_entries():
    """Hence maximising over an entry gives what optimising it with the others clamped would give."""
    memory, maps = written(sigma_obs=0.1)
    x, hidden = maps[:4].double().flatten(1), [torch.rand(4, 8, dtype=torch.float64)]
    columns = torch.arange(0, 72, 2)
    best = direct_log_joint(memory, x, hidden, columns)
    full = phi("relu", hidden[0]) @ memory.layers[0].mean
    full[:, columns] = x[:, columns]
    torch.testing.assert_close(direct_log_joint(memory, full, hidden), best)
    for _ in range(20):
        moved = full.clone()
        moved[:, 1::2] += 0.01 * torch.randn(4, 36, dtype=torch.float64)
        # rows are coupled, so this tests the whole point: no nearby point is better
        assert direct_log_joint(memory, moved, hidden) <= best + 1e-9


def test_conjugate_update_equals_bayesian_linear_regression():
    """For one layer of weights, compare with the posterior of all batches in precision form."""
    memory, maps = make(sigma_obs=0.3), patterns(12)
    x = maps.double().flatten(1)
    prior_mean, prior = memory.layers[0].mean.clone(), memory.layers[0].covariance.clone()
    top_mean = memory.top_mean.clone()
    hidden = torch.randn(12, 8, dtype=torch.float64)
    for part in range(0, 12, 4):
        memory.update(x[part : part + 4], [hidden[part : part + 4]])
    z, noise = phi("relu", hidden), 0.3**2
    precision = torch.linalg.inv(prior) + z.T @ z / noise
    covariance = torch.linalg.inv(precision)
    mean = covariance @ (torch.linalg.solve(prior, prior_mean) + z.T @ x / noise)
    torch.testing.assert_close(memory.layers[0].covariance, covariance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(memory.layers[0].mean, mean, rtol=1e-9, atol=1e-12)
    # the top: a normal mean with known variance, prior variance 1
    assert memory.top_variance == pytest.approx(1 / (1 + 12 / noise))
    expected = (top_mean + hidden.sum(0) / noise) / (1 + 12 / noise)
    torch.testing.assert_close(memory.top_mean, expected)


def test_each_mask_is_reduced_once(monkeypatch):
    """A Gram matrix costs as much as many steps, so one is formed per distinct mask, not per batch."""
    memory, maps = written()
    mask = torch.stack([torch.arange(12) % (2 + m) != 0 for m in (0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 3)])
    columns = []
    monkeypatch.setattr(bayespcn, "gram_of", lambda w, part: columns.append(len(part)) or gram_of(w, part))
    memory.read(maps, mask, torch.zeros(12))
    assert sorted(columns) == sorted(6 * int(row.sum()) for row in mask.unique(dim=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bayespcn", "bayespcn_exact", "coupled"])
def test_recalls_what_it_has_seen_better_than_the_mean(name):
    kind = ASSOCIATIVE_MEMORIES.get("bayespcn" if name == "coupled" else name)
    settings = kind.Settings(**(COUPLED if name == "coupled" else {}))
    source = torch.Generator().manual_seed(1)
    base = torch.randn(6, 400, generator=source)
    maps = (torch.randn(40, 6, generator=source) @ base).relu().view(40, 100, 2, 2)
    memory = kind(settings, (100, 2, 2), 1)
    memory.write(maps, torch.zeros(40))
    mask = (torch.rand(100, generator=source) < 0.5).expand(40, 100)
    recalled = memory.read(maps, mask, torch.zeros(40))
    dropped = ~mask[:, :, None, None].expand_as(maps)
    error = (recalled - maps)[dropped].square().mean() / (maps - maps.mean(0))[dropped].square().mean()
    assert error < 0.5  # the mean of all maps has error 1


def test_padding_a_batch_does_not_change_recall():
    """Three cues in a batch of four give the same as three in a batch of three."""
    memory, maps = written()
    mask = (torch.arange(12) % 2 == 0).expand(3, 12)
    with_room = memory.read(maps[:3], mask, torch.zeros(3))
    memory.settings = memory.settings.model_copy(update={"batch": 3})
    torch.testing.assert_close(memory.read(maps[:3], mask, torch.zeros(3)), with_room, rtol=1e-9, atol=1e-9)
    index, rows = chunked(7, 4)
    assert index.tolist() == [[0, 1, 2, 3], [4, 5, 6, 0]]
    assert rows.squeeze(2).tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_cues_with_different_masks_do_not_interact():
    """Reading cues of five masks together equals reading one mask at a time."""
    memory, maps = written()
    mask = torch.stack([torch.arange(12) % (2 + m) != 0 for m in (0, 1, 2, 2, 3, 3, 3, 4)])
    together = memory.read(maps[:8], mask, torch.zeros(8))
    for _, members in by_mask(mask):
        alone = memory.read(maps[members], mask[members], torch.zeros(len(members)))
        torch.testing.assert_close(together[members], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [2, 3])
def test_a_batch_stops_on_its_own(layers):
    """A batch gives the same result alone and with batches that take longer or stop earlier."""
    memory, maps = written(layers=layers, sigma_obs=0.1, steps=500, tolerance=0.01)
    weights = memory.layers[0].mean
    scales = torch.tensor([0.0, 0.2, 1, 5])
    x = (maps[:4].double().flatten(1).repeat(4, 1, 1) * scales[:, None, None]).contiguous()
    cross = x @ weights.T
    for shared in (True, False):
        gram = gram_of(weights) if shared else gram_of(weights).expand(4, -1, -1)
        start = memory.draw_start("write", 0, 4).expand(4, -1, -1)
        together = memory.hidden_mode(Grams(x @ x.mT, cross, gram, 72), start)
        steps = []
        log_joint = memory.log_joint
        for i in range(4):
            part = slice(i, i + 1)
            grams = Grams((x @ x.mT)[part], cross[part], gram if shared else gram[part], 72)
            memory.log_joint = lambda *a, **k: steps.append(i) or log_joint(*a, **k)  # noqa: B023
            alone = memory.hidden_mode(grams, start[part])
            memory.log_joint = log_joint
            for found, expected in zip(together, alone, strict=True):
                torch.testing.assert_close(found[part], expected, rtol=0, atol=1e-12)
        counts = [steps.count(i) for i in range(4)]
        assert len(set(counts)) > 1 and min(counts) < 500, "else nothing was tried"


def test_groups_of_masks():
    mask = torch.tensor([[True, False], [False, True], [True, False]])
    found = {tuple(row.tolist()): members.tolist() for row, members in by_mask(mask)}
    assert found == {(True, False): [0, 2], (False, True): [1]}


@pytest.mark.parametrize("kind", ["relu", "gelu", "none"])
def test_activation_gradients_equal_autograd(kind):
    x = torch.linspace(-3, 3, 50, dtype=torch.float64, requires_grad=True)
    phi(kind, x).sum().backward()
    ones = torch.ones(50, dtype=torch.float64)
    torch.testing.assert_close(phi_back(kind, ones, x.detach()), x.grad)
