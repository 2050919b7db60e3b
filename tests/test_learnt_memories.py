"""Memories that learn weights, the predictive coding network and the autoencoder: what both must do."""

import pytest
import torch
from learnt import CLASSES, SHAPE, SMALL, cue, make, sparse_maps
from pydantic import ValidationError

from sharc_core.associative import ASSOCIATIVE_MEMORIES

both = pytest.mark.parametrize("name", sorted(SMALL))


def error(memory, maps, labels, masks: int = 4) -> float:
    masked, mask = cue(maps, masks)
    dropped = ~mask[:, :, None, None].expand_as(maps)
    true = maps[dropped]
    return float((memory.read(masked, mask, labels)[dropped] - true).square().mean() / true.var())


@both
@pytest.mark.parametrize("masks", [4, 24])
def test_recalls_better_than_the_class_mean(name, masks):
    maps, labels = sparse_maps()
    longer = {"steps": 500} if name == "autoencoder" else {}
    mean, memory = ASSOCIATIVE_MEMORIES.get("mean"), make(name, **longer)
    mean = mean(mean.Settings(), SHAPE, CLASSES)
    for written in (mean, memory):
        written.write(maps, labels)
    at_most = {"pcn": 0.05, "autoencoder": 0.9}[name]
    assert error(memory, maps, labels, masks) < at_most * error(mean, maps, labels, masks)


@both
def test_state_is_all_there_is(name):
    maps, labels = sparse_maps()
    masked, mask = cue(maps, 4)
    memory, other = make(name), make(name)
    memory.write(maps[:12], labels[:12])
    other.load_state_dict(memory.state_dict())
    for _ in range(2):
        assert torch.equal(memory.read(masked, mask, labels), other.read(masked, mask, labels))
        for each in (memory, other):
            each.write(maps[12:], labels[12:])
    memory.write(maps, labels)
    assert not torch.equal(memory.read(masked, mask, labels), other.read(masked, mask, labels)), "a copy"


@both
def test_an_unwritten_state_stays_unwritten(name):
    memory = make(name)
    memory.load_state_dict(make(name).state_dict())
    assert memory.written == 0


@both
def test_the_seed_decides(name):
    maps, labels = sparse_maps()
    states = []
    for seed in (0, 0, 1):
        memory = make(name, seed)
        memory.write(maps, labels)
        states.append(memory.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])
    first = next(iter(states[0]))
    assert not torch.equal(states[0][first], states[2][first])


@both
def test_forgetting_goes_back_towards_the_start(name):
    maps, labels = sparse_maps()
    prior = make(name).state_dict()
    memory = make(name)
    memory.write(maps, labels)
    before = memory.state_dict()
    memory.forget(0)
    for key, value in memory.state_dict().items():
        torch.testing.assert_close(value, before[key])
    memory.forget(0.19)  # sqrt(1 - 0.19) = 0.9
    for key, value in memory.state_dict().items():
        if key != "scale":
            torch.testing.assert_close(value, 0.9 * before[key] + 0.1 * prior[key])
    memory.forget(1)
    for key, value in memory.state_dict().items():
        if key != "scale":
            assert torch.equal(value, prior[key])


@both
@pytest.mark.parametrize("maps", [torch.zeros(5, *SHAPE), sparse_maps()[0][:1], 1e4 * sparse_maps()[0]])
def test_odd_maps_leave_finite_memories(name, maps):
    labels = torch.zeros(len(maps), dtype=torch.int64)
    memory = make(name)
    memory.write(maps, labels)
    memory.write(maps, labels)
    masked, mask = cue(maps, 4)
    mask[0] = False  # nothing at all observed
    assert torch.isfinite(memory.read(masked, mask, labels)).all()
    assert all(torch.isfinite(value).all() for value in memory.state_dict().values())


@both
@pytest.mark.parametrize("extra", [{}, {"hidden": 300}])
def test_size_is_known_and_independent_of_the_number_of_maps(name, extra):
    """With 300 hidden units the basis of the span is the map's own."""
    short = {"rounds": 2} if name == "pcn" else {"steps": 2}
    memory = make(name, **extra, **short)
    maps, labels = sparse_maps()
    planned = {memory.planned_bytes(memory.settings, SHAPE, CLASSES, count) for count in (1, 10**6)}
    for _ in range(2):
        assert planned == {memory.state_bytes}
        memory.write(maps, labels)
    hidden = memory.settings.hidden
    share = planned.pop() / (4 * hidden * memory.size)
    assert 1 <= share < 1.01, "as many parameters as a pcn of so many hidden units"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("pcn", {"hidden": 0}),
        ("pcn", {"layers": 1}),
        ("pcn", {"activation": "tanh"}),
        ("pcn", {"momentum": float("nan")}),
        ("pcn", {"momentum": 1.0}),
        ("autoencoder", {"lr": float("nan")}),
        ("autoencoder", {"lr": 0.0}),
        ("autoencoder", {"batch": 0}),
    ],
)
def test_settings_out_of_range_are_refused(name, wrong):
    with pytest.raises(ValidationError):
        make(name, **wrong)
