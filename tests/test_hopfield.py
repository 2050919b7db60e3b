"""The classical Hopfield network: definition, hand-computed cases, capacity."""

import pytest
import torch
from test_associative import make

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.associative.hopfield import middle
from sharc_core.common.errors import UserError

UNITS = 500


def hopfield_error(count: int, dropped: float, threshold: str = "median", **settings) -> float:
    """Return the share of wrong signs among the dropped units of `count` random patterns of 500 units."""
    source = torch.Generator().manual_seed(3)
    maps = torch.randn(count, UNITS, 1, 1, generator=source).sign()
    mask = torch.rand(count, UNITS, generator=source) >= dropped
    memory = make("hopfield", (UNITS, 1, 1), threshold=threshold, **settings)
    memory.write(maps, torch.zeros(count))
    recalled = memory.read(maps * mask[:, :, None, None], mask, torch.zeros(count))
    wrong = (recalled > memory.threshold.view(UNITS, 1, 1)) != (maps > 0)
    return wrong.flatten(1)[~mask].float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("threshold", ["median", "mean"])
@pytest.mark.parametrize("update", ["synchronous", "asynchronous"])
def test_hebbian_capacity(update, threshold):
    """Recall of fewer than 0.138 N random patterns is nearly exact; far above, it fails."""
    settings = {"rule": "hebbian", "update": update, "threshold": threshold}
    below = hopfield_error(int(0.08 * UNITS), 0.5, **settings)
    above = hopfield_error(int(0.6 * UNITS), 0.5, **settings)
    assert below < 0.01
    assert above > 0.1


@pytest.mark.parametrize("threshold", ["median", "mean"])
def test_pseudo_inverse_stores_more_than_hebb(threshold):
    """The projection rule holds correlated and many more patterns (up to N, from near cues)."""
    assert hopfield_error(int(0.4 * UNITS), 0.2, threshold, rule="pseudo_inverse") < 0.01
    assert hopfield_error(int(0.4 * UNITS), 0.2, threshold, rule="hebbian") > 0.05


def test_thresholds_by_hand():
    """Thresholds of five and four maps: the median, the midpoint of the middle two, or below the maximum."""
    five = torch.tensor([[0.0, 3, 1, 2], [0, 1, 1, 2], [9, 2, 1, 2], [0, 5, -1, 2], [3, 9, -1, 2]])
    assert middle(five).tolist() == [0, 3, 0, 2]
    assert middle(five[:4]).tolist() == [0, 2.5, 0, 2]
    for threshold, expected in (("median", [0.0, 3, 0, 2]), ("mean", [2.4, 4, 0.2, 2])):
        memory = make("hopfield", (4, 1, 1), threshold=threshold)
        memory.write(five[:, :, None, None], torch.zeros(5))
        torch.testing.assert_close(memory.threshold, torch.tensor(expected))
    signs = torch.tensor(
        [[-1.0, -1, 1, -1], [-1, -1, 1, -1], [1, -1, 1, -1], [-1, 1, -1, -1], [1, 1, -1, -1]]
    )
    memory = make("hopfield", (4, 1, 1))
    memory.write(five[:, :, None, None], torch.zeros(5))
    assert torch.equal(memory.bipolar(five), signs)


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_pseudo_inverse_takes_the_same_patterns_again_after_forgetting(near, beta):
    """Write, forget and rewrite 17 times: random patterns, and copies of 4 with 2 % of the signs flipped."""
    source = torch.Generator().manual_seed(6)
    maps = torch.randn(4 if near else 40, 400, generator=source).sign()
    if near:
        maps = maps.repeat_interleave(10, 0)
        maps = torch.where(torch.rand(40, 400, generator=source) < 0.02, -maps, maps)
    maps = maps.view(40, 400, 1, 1)
    memory = make("hopfield", (400, 1, 1))
    memory.write(maps, torch.zeros(40))
    for _ in range(17):
        memory.forget(beta)
        memory.write(maps, torch.zeros(40))
    assert torch.linalg.eigvalsh(memory.weights.double()).max() < 1 + 1e-3
    mask = torch.rand(40, 400, generator=source) >= 0.5
    recalled = memory.read(maps, mask, torch.zeros(40))
    # a hidden flip that alone distinguishes a copy from the other nine cannot be recalled
    side = memory.bipolar(recalled.flatten(1)) != memory.bipolar(maps.flatten(1))
    assert side[~mask].float().mean() < 0.01


def by_hand(weights: list[list[float]], seed: int = 0, **settings):
    """Return a network of three units with values -1 and 1 and these weights."""
    kind = ASSOCIATIVE_MEMORIES.get("hopfield")
    memory = kind(kind.Settings(**settings), (3, 1, 1), 1, seed)
    memory.write(torch.tensor([[-1.0] * 3, [1.0] * 3]).view(2, 3, 1, 1), torch.zeros(2))
    memory.weights = torch.tensor(weights)
    return memory


def recall_by_hand(memory, kept: list[bool]) -> list[float]:
    cue_ = torch.ones(1, 3, 1, 1)
    return memory.read(cue_, torch.tensor([kept]), torch.zeros(1)).flatten().tolist()


# Unit 0 drives unit 1 up and unit 2 down, which attract each other: synchronous updates swap them for ever.
CYCLE = [[0.0, 0.5, -0.5], [0.5, 0.0, 1.0], [-0.5, 1.0, 0.0]]


def test_synchronous_updates_can_cycle_where_asynchronous_settle():
    first = [True, False, False]
    assert recall_by_hand(by_hand(CYCLE, updates=20), first) == [1, -1, 1]
    assert recall_by_hand(by_hand(CYCLE, updates=21), first) == [1, 1, -1]
    for seed in range(6):
        settled = {
            tuple(recall_by_hand(by_hand(CYCLE, seed, updates=n, update="asynchronous"), first))
            for n in (20, 21)
        }
        assert settled <= {(1, 1, 1), (1, -1, -1)} and len(settled) == 1


@pytest.mark.parametrize("update", ["synchronous", "asynchronous"])
def test_a_unit_does_not_hold_itself(update):
    """With the diagonal, units would keep the values of the first sweep."""
    weights = [[5.0, 0.1, -1.0], [0.1, 5.0, 0.5], [-1.0, 0.5, 5.0]]
    for seed in range(6):  # unit 1 goes up with unit 0 if updated first, and must later follow unit 2
        memory = by_hand(weights, seed, update=update)
        before = memory.weights.clone()
        assert recall_by_hand(memory, [True, False, False]) == [1, -1, -1]
        assert torch.equal(memory.weights, before)


@pytest.mark.parametrize("update", ["synchronous", "asynchronous"])
def test_observed_units_are_clamped_in_every_sweep(update):
    weights = [[0.0, 1.0, -5.0], [1.0, 0.0, 0.5], [-5.0, 0.5, 0.0]]  # 0 and 2, both observed, repel
    for seed in range(6):
        memory = by_hand(weights, seed, update=update)
        assert recall_by_hand(memory, [True, False, True]) == [1, 1, 1]


def test_forgetting_scales_the_weights_and_keeps_the_values():
    memory = make("hopfield", (3, 1, 1), rule="hebbian", threshold="mean")
    maps = torch.tensor([[0.0, 2, 5], [4, 2, 1], [8, 8, 0]])[:, :, None, None]
    memory.write(maps, torch.zeros(3))
    weights, mask = memory.weights.clone(), torch.tensor([[True, False, False]])
    for _ in range(20):
        memory.forget(0.75)
        weights = 0.25 * weights
        torch.testing.assert_close(memory.weights, weights)
        recalled = memory.read(torch.tensor([8.0, 0, 0]).view(1, 3, 1, 1), mask, torch.zeros(1))
        torch.testing.assert_close(recalled.flatten(), torch.tensor([8, 8, 0.5]))
    memory.write(torch.tensor([9.0, 6, 1]).view(1, 3, 1, 1), torch.zeros(1))
    recalled = memory.read(torch.tensor([9.0, 0, 0]).view(1, 3, 1, 1), mask, torch.zeros(1))
    torch.testing.assert_close(recalled.flatten(), torch.tensor([9.0, 6, 1]), rtol=1e-4, atol=1e-4)
    for _ in range(20):
        memory.forget(1.0)
    assert not memory.weights.any()  # undecided units take the mean of the lower side
    recalled = memory.read(torch.tensor([9.0, 0, 0]).view(1, 3, 1, 1), mask, torch.zeros(1))
    torch.testing.assert_close(recalled.flatten(), torch.tensor([9.0, 2, 1]), rtol=1e-4, atol=1e-4)


def test_pseudo_inverse_weights_are_the_projection_on_the_patterns():
    source = torch.Generator().manual_seed(4)
    maps = torch.randn(30, 100, 1, 1, generator=source).sign()
    memory = make("hopfield", (100, 1, 1), threshold="mean")
    memory.write(maps[:10], torch.zeros(10))
    threshold = memory.threshold.clone()
    memory.write(maps[10:], torch.zeros(20))
    memory.write(maps[:5], torch.zeros(5))  # written again: already in the span
    assert torch.equal(memory.threshold, threshold)
    patterns_ = memory.bipolar(maps.flatten(1)).double()
    projection = patterns_.T @ torch.linalg.pinv(patterns_.T)
    torch.testing.assert_close(memory.weights.double(), projection, rtol=0, atol=1e-4)


def test_a_pattern_written_after_forgetting_is_held():
    """After forgetting, the weights are no projection, but the newest pattern is still a fixed point."""
    source = torch.Generator().manual_seed(5)
    maps = torch.randn(40, 100, 1, 1, generator=source).sign()
    memory = make("hopfield", (100, 1, 1), threshold="mean")
    for start in range(0, 40, 10):
        memory.forget(0.1)
        memory.write(maps[start : start + 10], torch.zeros(10))
        pattern = memory.bipolar(maps[start + 9].flatten()[None])[0]
        torch.testing.assert_close(memory.weights @ pattern, pattern, rtol=0, atol=1e-3)
    assert torch.linalg.eigvalsh(memory.weights.double()).max() < 1.5


def test_hebbian_weights_and_values_by_hand():
    memory = make("hopfield", (3, 1, 1), rule="hebbian", threshold="mean")
    maps = torch.tensor([[0.0, 2, 5], [4, 2, 1], [8, 8, 0]])[:, :, None, None]
    memory.write(maps, torch.zeros(3))
    assert memory.threshold.tolist() == [4, 4, 2]
    signs = torch.tensor([[-1.0, -1, 1], [-1, -1, -1], [1, 1, -1]])
    assert torch.equal(memory.bipolar(maps.flatten(1)), signs)
    torch.testing.assert_close(memory.weights, signs.T @ signs / 3)
    mask = torch.tensor([[True, False, False]])
    # the first unit is up: the second follows, the third is opposite; values are the means of the sides
    recalled = memory.read(torch.tensor([8.0, 0, 0]).view(1, 3, 1, 1), mask, torch.zeros(1))
    assert recalled.flatten().tolist() == [8, 8, 0.5]


@pytest.mark.reliability("small-memory")
def test_hopfield_names_the_bytes_of_a_matrix_too_large():
    kind = ASSOCIATIVE_MEMORIES.get("hopfield")
    needed = 4 * 25_088**2 + 20 * 25_088
    with pytest.raises(UserError, match=f"maps of 512 x 7 x 7 = 25,088 entries: .* {needed:,} bytes"):
        kind(kind.Settings(), (512, 7, 7), 10)


def test_a_free_network_keeps_stored_patterns_and_corrects_flips():
    source = torch.Generator().manual_seed(0)
    patterns = torch.randn(10, UNITS, generator=source).sign()
    memory = make("hopfield", (UNITS, 1, 1), rule="hebbian")
    memory.write(patterns.view(10, UNITS, 1, 1), torch.zeros(10))
    free = torch.zeros(10, UNITS, dtype=torch.bool)
    assert torch.equal(memory.settle(patterns, free), patterns)
    flipped = torch.where(torch.rand(10, UNITS, generator=source) < 0.1, -patterns, patterns)
    assert torch.equal(memory.settle(flipped, free), patterns)
    assert torch.equal(memory.settle(flipped, ~free), flipped), "clamped units keep their state"
