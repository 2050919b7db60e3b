"""The modern Hopfield network compared with its definition."""

import pytest
import torch
from pydantic import ValidationError
from test_associative import SHAPE, cue, make, patterns

from sharc_core.common.errors import UserError


@pytest.mark.parametrize("similarity", ["euclidean", "dot"])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("full_state", [True, False])
def test_modern_hopfield_equals_its_definition(similarity, iterations, full_state):
    """Compare with a plain loop over maps."""
    memory = make(
        "modern_hopfield", beta=2.0, similarity=similarity, iterations=iterations, full_state=full_state
    )
    maps, labels = patterns()
    memory.write(maps, labels)
    masked, mask = cue(maps)
    full = memory.read(masked, mask, labels)
    stored = maps.float().flatten(1)
    for i in range(len(maps)):
        observed = mask[i][:, None, None].expand(SHAPE).flatten()
        state = masked[i].flatten()
        for step in range(iterations):
            seen = torch.ones_like(observed) if step and full_state else observed
            if similarity == "dot":
                scores = (stored[:, seen] * state[seen]).sum(1)
            else:
                scores = -(stored[:, seen] - state[seen]).square().sum(1) / 2
            guess = (2.0 * scores).softmax(0) @ stored
            state = torch.where(observed, state, guess)
        torch.testing.assert_close(full[i].flatten(), state, rtol=1e-4, atol=1e-5)


def test_without_the_full_state_the_first_update_is_the_fixed_point():
    maps, labels = patterns()
    masked, mask = cue(maps)
    once, often, full = (
        make("modern_hopfield", beta=2.0, iterations=n, full_state=f)
        for n, f in ((1, False), (5, False), (5, True))
    )
    for memory in (once, often, full):
        memory.write(maps, labels)
    recalled = [memory.read(masked, mask, labels) for memory in (once, often, full)]
    torch.testing.assert_close(recalled[0], recalled[1])
    assert (recalled[0] - recalled[2]).abs().max() > 1e-3


@pytest.mark.parametrize("similarity", ["euclidean", "dot"])
def test_shared_masks_take_the_short_way_to_the_same_answer(similarity):
    memory = make("modern_hopfield", beta=2.0, similarity=similarity)
    maps, labels = patterns(64)
    memory.write(maps, labels)
    mask = cue(maps)[1][:2].repeat(32, 1)  # two distinct masks among 64 cues: grouped
    masked = maps.float() * mask[:, :, None, None]
    together = memory.read(masked, mask, labels)
    for i in range(64):  # one cue at a time
        alone = memory.read(masked[i : i + 1], mask[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    singly = memory._scores(masked, mask.float() @ maps.float().square().sum((2, 3)).T, maps.float())
    torch.testing.assert_close(memory._similarity(masked, mask, maps.float()), singly)


def test_large_beta_is_top_one_retrieval_and_exact():
    maps, labels = patterns()
    masked, mask = cue(maps)
    for beta in (None, 1e4, 1e6):
        memory = make("modern_hopfield", beta=beta)
        memory.write(maps, labels)
        assert torch.equal(memory.read(masked, mask, labels), maps.float())


def test_modern_hopfield_ends_at_a_fixed_point():
    """After many updates q = softmax(beta sim(q, X)) X holds on the free entries."""
    maps, labels = patterns()
    masked, mask = cue(maps)
    memory = make("modern_hopfield", beta=1.5, iterations=200)
    memory.write(maps, labels)
    state = memory.read(masked, mask, labels)
    stored, flat = maps.float().flatten(1), state.flatten(1)
    scores = -(flat[:, None] - stored[None]).square().sum(2) / 2
    update = ((1.5 * scores).softmax(1) @ stored).view_as(state)
    free = ~mask[:, :, None, None].expand_as(state)
    torch.testing.assert_close(state[free], update[free], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", ["euclidean", "dot"])
def test_well_separated_patterns_are_recalled_exactly(similarity):
    """One update at large beta recalls random signs in 4,000 dimensions of which half are hidden."""
    source = torch.Generator().manual_seed(2)
    maps = torch.randn(200, 1000, 2, 2, generator=source).sign()
    mask = torch.rand(200, 1000, generator=source) < 0.5
    memory = make("modern_hopfield", (1000, 2, 2), beta=1.0, similarity=similarity)
    memory.write(maps, torch.zeros(200))
    assert torch.equal(memory.read(maps * mask[:, :, None, None], mask, torch.zeros(200)), maps)


def test_maps_beyond_float16_are_refused_and_those_within_are_recalled():
    maps, labels = torch.zeros(3, *SHAPE), torch.zeros(3, dtype=torch.int64)
    maps[0, 1], maps[1, 1] = 65_504, -65_504
    memory = make("modern_hopfield", beta=1e6)
    memory.write(maps, labels)
    _, mask = cue(maps)
    mask[:, 1], mask[:, 2] = True, False
    assert torch.equal(memory.read(maps, mask, labels), maps)
    maps[2, 3] = 70_000
    with pytest.raises(UserError, match="modern_hopfield keeps maps as float16: a value is beyond 65,504"):
        memory.write(maps, labels)
    assert len(memory.stored) == memory.written == 3


@pytest.mark.parametrize("beta", [0.0, 1.1e6, torch.nan])
def test_inverse_temperatures_out_of_range_are_refused(beta):
    with pytest.raises(ValidationError):
        make("modern_hopfield", beta=beta)
