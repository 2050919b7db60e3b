"""Memories that learn weights: tests of both the predictive coding network and the autoencoder."""

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


@pytest.mark.slow
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


@pytest.mark.slow
@both
def test_state_determines_all_later_reads_and_writes(name):
    maps, labels = sparse_maps()
    masked, mask = cue(maps, 4)
    memory, other = make(name), make(name)
    memory.write(maps[:12], labels[:12])
    other.load_state_dict(memory.state_dict())
    assert other.written == 12
    for _ in range(2):
        assert torch.equal(memory.read(masked, mask, labels), other.read(masked, mask, labels))
        for each in (memory, other):
            each.write(maps[12:], labels[12:])
    memory.write(maps, labels)
    assert not torch.equal(memory.read(masked, mask, labels), other.read(masked, mask, labels)), "a copy"


def test_a_network_that_forgot_all_still_reads_when_loaded():
    """Its weights equal the prior again, so they do not show whether it was written."""
    maps, labels = sparse_maps()
    masked, mask = cue(maps, 4)
    memory, other = make("pcn"), make("pcn")
    memory.write(maps, labels)
    memory.forget(1)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(memory.read(masked, mask, labels), other.read(masked, mask, labels))


def test_the_network_starts_uniform_by_the_size_of_the_layer_below():
    memory, other = make("pcn", layers=4, hidden=100), make("pcn", 1, layers=4, hidden=100)
    for part, size in ((memory.weights, memory.size), (memory.uppers[0], 100), (memory.uppers[1], 100)):
        assert 0.99 < part.abs().max() * size**0.5 <= 1
        assert (part * size**0.5).std().item() == pytest.approx(3**-0.5, rel=0.05)
    assert (memory.mean == 0.1).all() and memory.mean.shape == (100,)
    for name in ("weights", "uppers"):
        assert not torch.equal(getattr(memory, name), getattr(other, name))


def test_masks_in_training_drop_up_to_95_percent():
    memory = make("autoencoder", batch=500)
    rows, kept = memory.draw(torch.Generator().manual_seed(0), 600)
    assert len(rows) == len(rows.unique()) == 500 and kept.shape == (500, SHAPE[0])
    dropped = 1 - kept.double().mean(1)
    for quantile in (0.1, 0.5, 0.9):
        assert dropped.quantile(quantile).item() == pytest.approx(0.95 * quantile, abs=0.05)
    assert dropped.min() < 0.05 and 0.9 < dropped.max() <= 1
    assert len(memory.draw(torch.Generator().manual_seed(0), 7)[0]) == 7


def test_the_rate_falls_linearly_within_a_write(monkeypatch):
    rates, step = [], torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self)
    )
    memory = make("autoencoder", steps=4, lr=0.1)
    for _ in range(2):
        memory.write(*sparse_maps())
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025] * 2)


def test_the_scale_is_that_of_the_first_write():
    maps, labels = sparse_maps()
    memory = make("autoencoder", steps=1)
    memory.write(maps, labels)
    torch.testing.assert_close(memory.scale, maps.std(correction=0))
    memory.forget(1.0)
    memory.write(3 * maps, labels)
    torch.testing.assert_close(memory.scale, maps.std(correction=0))


def test_each_write_draws_its_own_masks(monkeypatch):
    """A write after loading a state does so too."""
    drawn = []
    draw = type(make("autoencoder")).draw
    monkeypatch.setattr(
        type(make("autoencoder")), "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1]
    )
    maps, labels = sparse_maps()
    memory, other = make("autoencoder", steps=1), make("autoencoder", steps=1)
    memory.write(maps, labels)
    other.load_state_dict(memory.state_dict())
    for each in (memory, other):
        each.write(maps, labels)
    first, second, loaded = (kept for _, kept in drawn)
    assert not torch.equal(first, second)
    assert torch.equal(second, loaded)


@both
def test_an_unwritten_state_stays_unwritten(name):
    memory = make(name)
    memory.load_state_dict(make(name).state_dict())
    assert memory.written == 0


@both
def test_equal_seeds_give_equal_states(name):
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
    for key, value in memory.tensors().items():
        if key != "scale":
            torch.testing.assert_close(value, 0.9 * before[key] + 0.1 * prior[key])
    memory.forget(1)
    for key, value in memory.tensors().items():
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
    mask[0] = False  # nothing is observed
    assert torch.isfinite(memory.read(masked, mask, labels)).all()
    assert all(torch.isfinite(value).all() for value in memory.state_dict().values())


@both
@pytest.mark.parametrize("extra", [{}, {"hidden": 300}])
def test_size_is_known_and_independent_of_the_number_of_maps(name, extra):
    """With 300 hidden units the basis of the span is the basis of the map."""
    short = {"rounds": 2} if name == "pcn" else {"steps": 2}
    memory = make(name, **extra, **short)
    maps, labels = sparse_maps()
    planned = {memory.planned_bytes(memory.settings, SHAPE, CLASSES, count) for count in (1, 10**6)}
    for _ in range(2):
        assert planned == {memory.state_bytes}
        memory.write(maps, labels)
    hidden = memory.settings.hidden
    rest = {"pcn": hidden, "autoencoder": hidden // 2 + 1}[name]
    assert planned.pop() == 4 * (hidden * memory.size + rest), "as many weights in both"


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
