"""Every registered associative memory against one contract; each kind against its definition."""

import pytest
import torch

from sharc_core.associative import ASSOCIATIVE_MEMORIES

SHAPE, CLASSES = (10, 2, 2), 4


def make(name: str, **settings):
    kind = ASSOCIATIVE_MEMORIES.get(name)
    return kind(kind.Settings(**settings), SHAPE, CLASSES)


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
