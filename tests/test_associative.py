"""Every registered associative memory fulfils one contract; `none` and `mean` match their definitions."""

import pytest
import torch

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_every_memory_recalls_kept_channels_unchanged(name):
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
    double = memory.read(masked.double(), mask, labels)
    assert double.dtype == torch.float64 and torch.equal(double[mask], masked[mask].double())
    assert (double - full).abs().mean() < 0.01
    kind = type(memory)
    assert memory.state_bytes == kind.planned_bytes(memory.settings, SHAPE, CLASSES, len(maps))
    held = {key: value for key, value in memory.state_dict().items() if key != "written"}
    assert memory.state_bytes == sum(value.nbytes for value in held.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_recalled_maps_share_no_storage_with_the_cue(name):
    memory = make(name)
    maps, labels = patterns()
    maps = maps.float()
    memory.write(maps, labels)
    _, mask = cue(maps)
    for kept in (mask, torch.ones_like(mask)):
        before = maps.clone()
        memory.read(maps, kept, labels).add_(1)
        assert torch.equal(maps, before)


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


def test_a_mean_outlives_any_forgetting_and_later_maps_weigh_more():
    memory = make("mean")
    maps, labels = patterns(4)
    masked, mask = cue(maps)
    mask[:, 1] = False
    memory.write(maps, labels)
    for beta in [0.3, *[1.0] * 40, *[0.9] * 40]:
        memory.forget(beta)
        torch.testing.assert_close(memory.read(masked, mask, labels)[:, 1], maps.float()[:, 1])
    memory.write(0.5 * maps, labels)  # after 81 forgets, only this write counts
    torch.testing.assert_close(
        memory.read(masked, mask, labels)[:, 1], 0.5 * maps.float()[:, 1], rtol=1e-4, atol=1e-5
    )
    memory.forget(0.75)
    memory.write(maps, labels)  # a map of weight 1 and one of weight 0.25
    expected = (0.25 * 0.5 + 1) / 1.25 * maps.float()[:, 1]
    torch.testing.assert_close(memory.read(masked, mask, labels)[:, 1], expected, rtol=1e-4, atol=1e-5)


# --- every kind ----------------------------------------------------------------------------------

WRITING = [n for n in ASSOCIATIVE_MEMORIES.names() if ASSOCIATIVE_MEMORIES.get(n).needs_writing]


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_works_where_gradients_are_off(name):
    """A cell trains without autograd."""
    maps, labels = patterns()
    masked, mask = cue(maps)
    with torch.no_grad():
        memory = make(name)
        memory.write(maps, labels)
        assert not memory.read(masked, mask, labels).requires_grad


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
@pytest.mark.parametrize("count", [1, 5])
def test_degenerate_maps_give_finite_recall(name, count):
    """Zero maps and a single map cause no division by zero."""
    memory = make(name)
    maps, labels = torch.zeros(count, *SHAPE), torch.zeros(count, dtype=torch.int64)
    memory.write(maps, labels)
    masked, mask = cue(maps)
    assert torch.isfinite(memory.read(masked, mask, labels)).all()


@pytest.mark.reliability("bad-maps")
@pytest.mark.slow
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
    with pytest.raises(UserError, match=f"{name}: a mask of torch.float32: it must be torch.bool"):
        memory.read(masked, mask.float(), labels)
    for wrong in (labels[:5], labels[:, None]):
        told = rf"{name}: labels of shape .* for 12 maps: give one per map"
        with pytest.raises(UserError, match=told):
            memory.write(maps, wrong)
        with pytest.raises(UserError, match=told):
            memory.read(masked, mask, wrong)
    with pytest.raises(UserError, match=f"{name}: there are no maps to be written"):
        memory.write(maps[:0], labels[:0])
    with pytest.raises(UserError, match=f"{name}: there are no maps to be read"):
        memory.read(masked[:0], mask[:0], labels[:0])
    for beta in (-0.1, 1.1, torch.nan):
        with pytest.raises(UserError, match=f"{name}: cannot forget by {beta}: give 0 to 1"):
            memory.forget(beta)
    clean = memory.read(masked, mask, labels)
    dropped = torch.where(mask[:, :, None, None], masked, torch.nan)
    assert torch.equal(memory.read(dropped, mask, labels), clean), "what was dropped is ignored"
    masked[0, 0] = torch.inf
    for kept in (mask, torch.ones_like(mask)):
        with pytest.raises(UserError, match=f"{name}: a map to be read has entries that are not finite"):
            memory.read(masked, kept, labels)


def test_a_class_that_was_never_written_has_no_mean():
    memory = make("mean")
    maps, labels = patterns()
    memory.write(maps, labels.clamp_max(1))
    masked, mask = cue(maps)
    with pytest.raises(UserError, match="mean: class 2 was never written"):
        memory.read(masked, mask, labels)


@pytest.mark.reliability("numbers-out-of-range")
@pytest.mark.parametrize("name", WRITING)
def test_non_finite_recall_gives_a_one_line_error(name, monkeypatch):
    memory = make(name)
    maps, labels = patterns()
    masked, mask = cue(maps)
    memory.write(maps, labels)
    told = f"{name}: what it recalls is not finite.*smaller maps"
    monkeypatch.setattr(memory, "complete", lambda maps, *_: torch.full_like(maps, torch.nan))
    with pytest.raises(UserError, match=told) as error:
        memory.read(masked, mask, labels)
    for setting in type(memory.settings).model_fields:
        assert setting in str(error.value)

    def singular(maps, *_):
        return torch.linalg.cholesky(-torch.eye(2))

    monkeypatch.setattr(memory, "complete", singular)
    with pytest.raises(UserError, match=told):
        memory.read(masked, mask, labels)
    monkeypatch.setattr(memory, "learn", singular)
    with pytest.raises(UserError, match=f"{name}: what it learnt is not finite"):
        memory.write(maps, labels)


def test_maps_too_large_to_sum_are_refused_when_written():
    maps, labels = torch.full((4, *SHAPE), 3e38), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match="mean: what it learnt is not finite.*try smaller maps$"):
        make("mean").write(maps, labels)
    for name in ASSOCIATIVE_MEMORIES.names():
        with pytest.raises(UserError, match=f"{name}: a map to be written has entries that are not finite"):
            make(name).write(maps.double() * 2, labels)
