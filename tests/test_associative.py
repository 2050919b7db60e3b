"""Every registered associative memory against one contract; each kind against its definition."""

import pytest
import torch

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.errors import UserError

SHAPE, CLASSES = (10, 2, 2), 4


def make(name: str, shape=SHAPE, **settings):
    kind = ASSOCIATIVE_MEMORIES.get(name)
    return kind(kind.Settings(**settings), shape, CLASSES)


def patterns(count: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, *SHAPE, generator=g).half(), torch.arange(count) % CLASSES


def cue(maps: torch.Tensor, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.rand(len(maps), SHAPE[0], generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[:, 0] = True
    return maps.float() * mask[:, :, None, None], mask


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_contract(name):
    memory = make(name)
    maps, labels = patterns()
    memory.write(maps[:7], labels[:7])
    memory.write(maps[7:], labels[7:])
    masked, mask = cue(maps)
    full = memory.read(masked, mask, labels)
    assert full.shape == maps.shape and full.dtype == torch.float32 and torch.isfinite(full).all()
    assert torch.equal(full[mask], masked[mask]), "kept channels must come back unchanged"
    everything = torch.ones_like(mask)
    assert torch.equal(memory.read(maps, everything, labels), maps.float())
    kind = type(memory)
    assert memory.state_bytes == kind.planned_bytes(memory.settings, SHAPE, CLASSES, len(maps))


def test_none_leaves_zeros():
    maps, labels = patterns()
    masked, mask = cue(maps)
    assert torch.equal(make("none").read(masked, mask, labels), masked)


def test_mean_fills_with_the_class_mean():
    memory = make("mean")
    maps, labels = patterns()
    memory.write(maps[:5], labels[:5])
    memory.write(maps[5:], labels[5:])
    masked, mask = cue(maps)
    full = memory.read(masked, mask, labels)
    for i in range(len(maps)):
        mean = maps[labels == labels[i]].float().mean(0)
        torch.testing.assert_close(full[i][~mask[i]], mean[~mask[i]])


@pytest.mark.parametrize("similarity", ["euclidean", "dot"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_modern_hopfield_equals_its_definition(similarity, iterations):
    """The update written out with loops over the observed entries."""
    memory = make("modern_hopfield", beta=2.0, similarity=similarity, iterations=iterations)
    maps, labels = patterns()
    memory.write(maps, labels)
    masked, mask = cue(maps)
    full = memory.read(masked, mask, labels)
    stored = maps.float().flatten(1)
    for i in range(len(maps)):
        observed = mask[i][:, None, None].expand(SHAPE).flatten()
        state = masked[i].flatten()
        for step in range(iterations):
            seen = observed if step == 0 else torch.ones_like(observed)
            if similarity == "dot":
                scores = (stored[:, seen] * state[seen]).sum(1)
            else:
                scores = -(stored[:, seen] - state[seen]).square().sum(1) / 2
            guess = (2.0 * scores).softmax(0) @ stored
            state = torch.where(observed, state, guess)
        torch.testing.assert_close(full[i].flatten(), state, rtol=1e-4, atol=1e-5)


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
    for beta in (None, 1e4):
        memory = make("modern_hopfield", beta=beta)
        memory.write(maps, labels)
        assert torch.equal(memory.read(masked, mask, labels), maps.float())


# --- every kind ----------------------------------------------------------------------------------

WRITING = [n for n in ASSOCIATIVE_MEMORIES.names() if ASSOCIATIVE_MEMORIES.get(n).needs_writing]


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_state_round_trip(name):
    """A memory that takes over another's state reads the same, and goes on learning from there."""
    memory, twin = make(name), make(name)
    maps, labels = patterns(16)
    memory.write(maps[:8], labels[:8])
    twin.load_state_dict(memory.state_dict())
    masked, mask = cue(maps[:8])
    assert torch.equal(twin.read(masked, mask, labels[:8]), memory.read(masked, mask, labels[:8]))
    assert twin.state_bytes == memory.state_bytes
    assert memory.state_bytes == sum(t.nbytes for t in memory.state_dict().values())
    before = {key: value.clone() for key, value in memory.state_dict().items()}
    twin.write(maps[8:], labels[8:])
    for key, value in memory.state_dict().items():
        assert torch.equal(value, before[key]), "writing to the twin must not reach back"
    memory.write(maps[8:], labels[8:])
    masked, mask = cue(maps)
    # As good as each other, not the same bits: 500 steps of Adam amplify the last bit of a matrix that
    # one memory has kept up to date and the other has formed anew.
    errors = [(m.read(masked, mask, labels) - maps.float()).square().mean() for m in (memory, twin)]
    torch.testing.assert_close(errors[0], errors[1], rtol=0.3, atol=1e-4)


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_same_seed_same_bits(name):
    maps, labels = patterns()
    masked, mask = cue(maps)
    recalled = []
    for _ in range(2):
        memory = make(name)
        memory.write(maps, labels)
        recalled.append(memory.read(masked, mask, labels))
    assert torch.equal(*recalled)


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_works_where_gradients_are_off(name):
    """As in a cell."""
    maps, labels = patterns()
    masked, mask = cue(maps)
    with torch.no_grad():
        memory = make(name)
        memory.write(maps, labels)
        assert not memory.read(masked, mask, labels).requires_grad


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_forgetting_keeps_a_memory_usable(name):
    maps, labels = patterns()
    memory = make(name)
    memory.write(maps, labels)
    masked, mask = cue(maps)
    before = memory.read(masked, mask, labels)
    memory.forget(0.0)
    torch.testing.assert_close(memory.read(masked, mask, labels), before)
    memory.forget(1.0)
    memory.write(maps, labels)
    assert torch.isfinite(memory.read(masked, mask, labels)).all()


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
@pytest.mark.parametrize("count", [1, 5])
def test_degenerate_maps(name, count):
    """All zero, or a single one: nothing divides by nothing."""
    memory = make(name)
    maps, labels = torch.zeros(count, *SHAPE), torch.zeros(count, dtype=torch.int64)
    memory.write(maps, labels)
    masked, mask = cue(maps)
    assert torch.isfinite(memory.read(masked, mask, labels)).all()


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_bad_input_is_one_clear_line(name):
    memory = make(name)
    maps, labels = patterns()
    masked, mask = cue(maps)
    with pytest.raises(
        UserError, match=rf"{name}: maps of shape \(12, 9, 2, 2\) cannot be written.*10, 2, 2"
    ):
        memory.write(maps[:, :9], labels)
    broken = maps.clone()
    broken[3, 1, 0, 0] = torch.nan
    with pytest.raises(UserError, match=f"{name}: a map to be written has entries that are not finite"):
        memory.write(broken, labels)
    if memory.needs_writing:
        with pytest.raises(UserError, match=f"{name} was read before anything was written"):
            memory.read(masked, mask, labels)
    memory.write(maps, labels)
    with pytest.raises(UserError, match=f"{name}: maps of shape .* cannot be read"):
        memory.read(masked[:, :9], mask, labels)
    with pytest.raises(UserError, match=f"{name}: a mask of shape .* one truth value per map and channel"):
        memory.read(masked, mask[:, :9], labels)
    masked[0, 0] = torch.inf
    with pytest.raises(UserError, match=f"{name}: a map to be read has entries that are not finite"):
        memory.read(masked, mask, labels)


def test_a_class_that_was_never_written_has_no_mean():
    memory = make("mean")
    maps, labels = patterns()
    memory.write(maps, labels.clamp_max(1))
    masked, mask = cue(maps)
    with pytest.raises(UserError, match="mean: class 2 was never written"):
        memory.read(masked, mask, labels)


# --- modern Hopfield -----------------------------------------------------------------------------


def test_modern_hopfield_ends_at_a_fixed_point():
    """After many updates another one changes nothing: q = softmax(beta sim(q, X)) X on the free entries."""
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
    """Random signs in 4,000 dimensions, half of them hidden: one update at large beta finds the pattern."""
    source = torch.Generator().manual_seed(2)
    maps = torch.randn(200, 1000, 2, 2, generator=source).sign()
    mask = torch.rand(200, 1000, generator=source) < 0.5
    memory = make("modern_hopfield", (1000, 2, 2), beta=1.0, similarity=similarity)
    memory.write(maps, torch.zeros(200))
    assert torch.equal(memory.read(maps * mask[:, :, None, None], mask, torch.zeros(200)), maps)


# --- classical Hopfield --------------------------------------------------------------------------

UNITS = 500


def hopfield_error(count: int, dropped: float, **settings) -> float:
    """Share of wrong signs among the dropped units of `count` random patterns of 500 units."""
    source = torch.Generator().manual_seed(3)
    maps = torch.randn(count, UNITS, 1, 1, generator=source).sign()
    mask = torch.rand(count, UNITS, generator=source) >= dropped
    memory = make("hopfield", (UNITS, 1, 1), threshold="mean", **settings)
    memory.write(maps, torch.zeros(count))
    recalled = memory.read(maps * mask[:, :, None, None], mask, torch.zeros(count))
    wrong = (recalled > memory.threshold.view(UNITS, 1, 1)) != (maps > 0)
    return wrong.flatten(1)[~mask].float().mean().item()


@pytest.mark.parametrize("update", ["synchronous", "asynchronous"])
def test_hebbian_capacity(update):
    """Below 0.138 N random patterns recall is nearly free of error, far above it is lost."""
    below = hopfield_error(int(0.08 * UNITS), 0.5, rule="hebbian", update=update)
    above = hopfield_error(int(0.6 * UNITS), 0.5, rule="hebbian", update=update)
    assert below < 0.01
    assert above > 0.1


def test_pseudo_inverse_stores_more_than_hebb():
    """The projection rule holds correlated and many more patterns (up to N, from near cues)."""
    assert hopfield_error(int(0.4 * UNITS), 0.2, rule="pseudo_inverse") < 0.01
    assert hopfield_error(int(0.4 * UNITS), 0.2, rule="hebbian") > 0.05


def test_pseudo_inverse_weights_are_the_projection_on_the_patterns():
    source = torch.Generator().manual_seed(4)
    maps = torch.randn(30, 100, 1, 1, generator=source).sign()
    memory = make("hopfield", (100, 1, 1), threshold="mean")
    memory.write(maps[:10], torch.zeros(10))
    threshold = memory.threshold.clone()
    memory.write(maps[10:], torch.zeros(20))
    memory.write(maps[:5], torch.zeros(5))  # once more: already in the span
    assert torch.equal(memory.threshold, threshold)
    patterns_ = memory.bipolar(maps.flatten(1)).double()
    projection = patterns_.T @ torch.linalg.pinv(patterns_.T)
    torch.testing.assert_close(memory.weights.double(), projection, rtol=0, atol=1e-4)


def test_a_pattern_written_after_forgetting_is_held():
    """Faded weights are no projection any more; the newest pattern is a fixed point all the same."""
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
    # the first unit is up: the second follows it, the third opposes it; values are the sides' means
    recalled = memory.read(torch.tensor([8.0, 0, 0]).view(1, 3, 1, 1), mask, torch.zeros(1))
    assert recalled.flatten().tolist() == [8, 8, 0.5]


def test_hopfield_names_the_bytes_of_a_matrix_too_large():
    kind = ASSOCIATIVE_MEMORIES.get("hopfield")
    needed = 4 * 25_088**2 + 20 * 25_088
    with pytest.raises(UserError, match=f"maps of 512 x 7 x 7 = 25,088 entries: .* {needed:,} bytes"):
        kind(kind.Settings(), (512, 7, 7), 10)
