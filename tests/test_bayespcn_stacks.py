"""BayesPCN memories that learn, and calls that are read, as one stack: as one by one."""

from functools import partial

import pytest
import torch
from test_bayespcn import KIND, SHAPE, make, patterns
from test_bayespcn_reading import PUBLISHED, some_masks

from sharc_core.associative import cues as cues_module
from sharc_core.associative.batches import chunked, sections
from sharc_core.associative.gradient_steps import Adam

LABELS = torch.zeros(10, dtype=torch.int64)


def memories(layers: int, log_joint: str) -> list:
    """Return three memories that differ in seed and stop after different numbers of steps."""
    settings = {"layers": layers, "log_joint": log_joint, "steps": 400, "tolerance": 0.1, "sigma_obs": 0.1}
    return [make(seed=seed, **PUBLISHED | settings) for seed in range(3)]


@pytest.mark.parametrize("log_joint", ["predictive", "map"])
@pytest.mark.parametrize("layers", [2, 3])
def test_memories_that_learn_together_learn_what_each_learns_alone(layers, log_joint):
    together, alone = memories(layers, log_joint), memories(layers, log_joint)
    for write in range(2):  # the last batch of a write is smaller
        maps = [(write + 1) * patterns(10, seed=seed) for seed in range(3)]
        KIND.learn_all(together, maps, [LABELS] * 3)
        for memory, its in zip(alone, maps, strict=True):
            memory.learn(its, LABELS)
        for memory in (*together, *alone):
            memory.written += 10
    for found, expected in zip(together, alone, strict=True):
        for name, tensor in expected.tensors().items():
            torch.testing.assert_close(found.tensors()[name], tensor, rtol=1e-7, atol=1e-9, msg=name)


def test_operations_are_counted_for_the_memory_that_takes_them():
    """The log joint "map" has no covariances, whose decomposition saves operations of single memories."""
    together, alone = memories(2, "map"), memories(2, "map")
    maps = [scale * patterns(10, seed=3).double() for scale in (0.1, 1, 3)]
    KIND.learn_all(together, maps, [LABELS] * 3)
    for memory, its in zip(alone, maps, strict=True):
        memory.learn(its, LABELS)
    assert [memory.flops.shared for memory in together] == [memory.flops.shared for memory in alone]
    assert len({memory.flops.shared for memory in alone}) > 1, "else nothing was tried"


@pytest.mark.parametrize("unobserved", ["joint", "exact"])
@pytest.mark.parametrize("sizes", [[12], [3, 9], [1, 4, 5, 2]])
def test_calls_read_together_return_what_each_returns_alone(unobserved, sizes):
    memory = make(**PUBLISHED | {"unobserved": unobserved, "tolerance": 0.1, "steps": 300})
    maps, mask = patterns(12), some_masks(12)
    memory.write(maps, torch.zeros(12, dtype=torch.int64))
    cues = torch.where(mask[:, :, None, None], maps.double(), 0.0)
    calls = list(zip(*(each.split(sizes) for each in (cues, mask, LABELS[:1].expand(12))), strict=True))
    alone = [memory.read(*call) for call in calls]
    before = memory.flops.shared
    together = memory._read((cues, mask, LABELS[:1].expand(12)), partial(memory._complete, sizes=sizes))
    assert memory.flops.shared > before
    for found, expected in zip(together.split(sizes), alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    for found, expected in zip(memory.read_all(iter(calls)), alone, strict=True):
        assert torch.equal(found, expected)


def test_read_all_takes_calls_together_where_that_pays(monkeypatch):
    """On a CPU each call is read on its own, and coupled cues are everywhere."""
    taken = []
    monkeypatch.setattr(KIND, "hidden_mode", _noting(KIND.hidden_mode, taken))
    memory = make(**PUBLISHED | {"steps": 5})
    maps, mask = patterns(8), some_masks(8)
    memory.write(maps, LABELS[:8])
    calls = list(zip(maps.split(4), mask.split(4), LABELS[:8].split(4), strict=True))
    assert not memory.reads_together
    taken.clear()
    alone = list(memory.read_all(calls))
    assert taken == [1, 1], "batches of each optimisation"
    monkeypatch.setattr(KIND, "reads_together", True)
    taken.clear()
    for found, expected in zip(memory.read_all(calls), alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)
    assert taken == [2]


def _noting(hidden_mode, taken: list[int]):
    def noting(self, bottom, start, *args, **kwargs):
        taken.append(len(start))
        return hidden_mode(self, bottom, start, *args, **kwargs)

    return noting


@pytest.mark.parametrize("unobserved", ["joint", "exact"])
@pytest.mark.parametrize("log_joint", ["predictive", "map"])
def test_the_operations_for_a_gpu_return_the_same(monkeypatch, unobserved, log_joint):
    """Cues of one mask drop nothing, one batch stops early, and the last is not full."""
    changes = {"unobserved": unobserved, "log_joint": log_joint, "tolerance": 0.5, "steps": 300}
    memory = make(**PUBLISHED | changes)
    maps, mask = patterns(11), some_masks(11)
    memory.write(maps, torch.zeros(11, dtype=torch.int64))
    mask[mask[:, 0] & ~mask[:, 1]] = True
    cues = torch.where(mask[:, :, None, None], maps.double(), 0.0)
    cues[:4] *= 0.1
    call = cues, mask, LABELS[:1].expand(11)
    expected = memory.read(*call)
    monkeypatch.setattr(cues_module, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(cues_module, "MANY", 0)
    torch.testing.assert_close(memory.read(*call), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_steps_equal_the_others(dtype):
    source = torch.Generator().manual_seed(0)
    values = torch.randn(20, 30, generator=source, dtype=dtype)
    plain, fused = values.clone(), values.clone()
    one, other = Adam(plain, 0.01), Adam(fused, 0.01)
    other.is_fused = True
    for _ in range(50):
        gradient = torch.randn(values.shape, generator=source, dtype=dtype)
        one.ascend(plain, gradient.clone())
        other.ascend(fused, gradient.clone())
    assert not torch.equal(plain, values)
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(other.second, one.second)


@pytest.mark.parametrize("sizes", [[7], [3, 5, 1], [6, 2]])
@pytest.mark.parametrize("stack", [1, 2, 10])
def test_no_batch_has_rows_of_two_sections(sizes, stack):
    ends = torch.tensor(sizes).cumsum(0)
    section = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    seen = []
    for members, index, rows in sections(sizes, 3, stack):
        assert index.shape == rows.shape[:2] and len(index) <= stack and index.shape[1] <= 3
        for batch, filled in zip(index, rows.squeeze(2).bool(), strict=True):
            chosen = members[batch[filled]]
            assert len(section[chosen].unique()) == 1
            seen += chosen.tolist()
        assert int(rows.sum()) == len(members)
    assert seen == list(range(int(ends[-1])))


def test_one_section_is_batched_as_before():
    ((members, index, rows),) = sections([7], 3, 10)
    old_index, old_rows = chunked(7, 3)
    assert members.tolist() == list(range(7)) and torch.equal(rows, old_rows)
    assert torch.equal(index, old_index)


def test_writing_together_needs_a_gpu_and_equal_numbers():
    """On a CPU seeds together give the bits of seeds apart, so they are written one by one."""
    assert not make().learns_together
    written = []

    class Watched(KIND):
        learns_together = True

        @classmethod
        def learn_all(cls, memories, maps, labels):
            written.append(len(memories))
            super().learn_all(memories, maps, labels)

    pair = [Watched(KIND.Settings(hidden=4, steps=2), SHAPE, 3, seed=seed) for seed in (0, 1)]
    maps = patterns(10)
    for counts in ([10, 10], [10, 9]):
        Watched.write_all(pair, [maps[:n] for n in counts], [LABELS[:n] for n in counts])
    assert written == [2, 1, 1] and [memory.written for memory in pair] == [20, 19]
