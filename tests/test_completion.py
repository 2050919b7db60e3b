"""Which maps the associative memory learns and completes, and when, for every option on small maps."""

import pytest
import torch
from factories import make_cell
from test_memory import FEATURES

from sharc_core.heads import Batch, make_head
from sharc_core.learning.learner import make_memory
from sharc_core.methods import METHODS
from sharc_core.saliency.channel_masks import kept_mask
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

torch.set_num_threads(1)
BATCH = 4  # training: a task of 50 samples has 12 batches and one of two samples
SLOTS = 6  # slots of a task: its last two batches, six samples, are completed


class Head:
    """Passes the memory a head that changes with every step, and records its weights at every visit."""

    def __init__(self, seeds: list[int]):
        self.head = make_head("linear", 0, len(seeds), 12, 6)
        self.head.initialise(seeds)
        self.at_visit: dict[tuple[int, int], torch.Tensor] = {}

    def visit(self, memory, index: torch.Tensor) -> None:
        for r, row in enumerate(index.tolist()):
            self.at_visit |= {(r, i): self.head.vector[r].clone() for i in row}
        memory.visit(index, Batch(FEATURES.train_pooled[index], FEATURES.train_labels[index]), self.head)
        self.head.vector.mul_(-1.3)
        memory.admit()


def run(monkeypatch, tasks: int = 2, method: str = "er", kind: str = "mean", **changes):
    """Return a memory after some tasks, and the calls of replica 0's associative memory in order."""
    fields = {"theta": 0.75, "associative_memory": kind, "associative_settings": {}, "seeds": [0, 1]}
    cell = make_cell(method, "sharc", buffer=3 * SLOTS, **(fields | changes))
    cell = cell.model_copy(update={"training": cell.training.model_copy(update={"batch_size": BATCH})})
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    memory, head = make_memory(FEATURES, stream, cell), Head(cell.seeds)
    associative = memory.sharc.associative[0]
    calls = []
    write, read, forget = associative.write, associative.read, associative.forget
    monkeypatch.setattr(associative, "write", lambda m, y: (calls.append(("write", m.clone())), write(m, y)))
    monkeypatch.setattr(
        associative, "read", lambda m, k, y: (calls.append(("read", m.clone())), read(m, k, y))[1]
    )
    monkeypatch.setattr(associative, "forget", lambda beta: (calls.append(("forget", beta)), forget(beta)))
    orders = []
    for task in range(tasks):
        memory.begin_task()
        orders.append(stream.order(task, 0, cell.seeds))
        for index in orders[-1].split(BATCH, 1):
            head.visit(memory, index)
        memory.store(orders[-1], head.head)
    return memory, calls, orders, head


def maps_of(order: torch.Tensor, start: int, stop: int | None = None) -> torch.Tensor:
    return FEATURES.train_maps[order[0, start:stop]]


@pytest.mark.parametrize("read", ["per_task", "at_store", "per_batch"])
def test_only_the_last_batches_are_learnt_and_completed(monkeypatch, read):
    """Of 24 stored samples the last six are learnt and completed; the others keep their zeros."""
    memory, calls, orders, _ = run(monkeypatch, complete="last_batches", read=read)
    memory.begin_task()
    for task, stored in enumerate(memory.stored):
        assert stored.index.shape[1] == 24
        assert stored.completes[0].tolist() == [False] * 18 + [True] * 6
        dropped = stored.x == 0
        assert (dropped[:, :18].sum(2) == 9).all() and not dropped[:, 18:].any()
        assert torch.equal(stored.index, orders[task][:, -24:])
    written = [maps for name, maps in calls if name == "write"]
    for task, order in enumerate(orders):
        if read == "per_batch":
            assert torch.equal(written[2 * task], maps_of(order, 44, 48))
            assert torch.equal(written[2 * task + 1], maps_of(order, 48))
        else:
            assert torch.equal(written[task], maps_of(order, 44))


def test_maps_of_the_last_batches_are_learnt_whether_stored_or_not(monkeypatch):
    """The number of learnt samples is the buffer divided by the tasks, even if fewer are stored."""
    memory, calls, orders, _ = run(
        monkeypatch, tasks=1, complete="last_batches", budget_unit="slots", budget_split=[1.0, 4.0, 4.0]
    )
    assert memory.stored[0].index.shape[1] == 2
    (written,) = [maps for name, maps in calls if name == "write"]
    assert torch.equal(written, maps_of(orders[0], 44)), "the share in slots is buffer / tasks"


def test_each_batch_is_read_right_after_it_alone_was_learnt(monkeypatch):
    memory, calls, orders, _ = run(monkeypatch, tasks=1, read="per_batch")
    assert [name for name, _ in calls] == ["write", "read"] * 7  # samples 26 to 49 are in seven batches
    written = [maps for name, maps in calls if name == "write"]
    assert torch.equal(torch.cat(written), maps_of(orders[0], 26))
    assert [len(maps) for maps in written] == [2, 4, 4, 4, 4, 4, 2]
    before = memory.stored[0].x.clone()
    memory.begin_task()
    assert torch.equal(memory.stored[0].x, before) and len(calls) == 14, "and never again"
    # the class means at the time of reading cover the batches up to this one
    seen = orders[0][0, 26:32]
    labels = FEATURES.train_labels[seen]
    for row in range(2, 6):
        mean = FEATURES.train_maps[seen][labels == labels[row]].float().mean(0)
        mask = memory.stored[0].sparse[0].decode()[row] == FEATURES.train_maps[seen[row]].float()
        got, own = memory.stored[0].sparse[0].decode()[row], FEATURES.train_maps[seen[row]].float()
        expected = torch.where(mask, own, mean)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_tasks_are_completed_as_soon_as_they_are_asked_for_and_once(monkeypatch):
    """A new task changes the class means only once, so the next task reads nothing again."""
    memory, calls, _, _ = run(monkeypatch, tasks=2)
    assert [name for name, _ in calls] == ["write", "read", "write"]
    tasks = [task.x.clone() for task in memory.tasks()]
    assert [name for name, _ in calls] == ["write", "read", "write", "read", "read"]
    assert all((x != 0).all() for x in tasks)
    memory.begin_task()
    assert len(calls) == 5 and torch.equal(memory.replay.batch.x, torch.cat(tasks, 1))


def test_forgetting_before_batches_counts_batches(monkeypatch):
    _, calls, _, _ = run(monkeypatch, forget_every=1, forget_unit="batch", forget_beta=0.3)
    assert [name for name, _ in calls if name != "read"] == ["forget", "write"] * 14
    assert {beta for name, beta in calls if name == "forget"} == {0.3}
    _, calls, _, _ = run(monkeypatch, forget_every=3, forget_unit="batch", forget_beta=0.3)
    names = [name for name, _ in calls if name != "read"]
    assert names == [n for i in range(1, 15) for n in (["forget"] if i % 3 == 0 else []) + ["write"]]


def test_saliency_at_the_visit_is_that_of_the_head_before_the_step(monkeypatch):
    """The head's sign changes with every step, and with it the positive part of the saliency."""
    changes = {"tasks": 1, "importance": "positive", "seeds": [0], "budget_unit": "slots"}
    visit, _, _, head = run(monkeypatch, saliency_at="visit", **changes)
    later, _, _, _ = run(monkeypatch, **changes)
    assert torch.equal(visit.stored[0].index, later.stored[0].index)
    at_visit, at_end = visit.stored[0].sparse[0].mask, later.stored[0].sparse[0].mask
    for row, index in enumerate(visit.stored[0].index[0].tolist()):
        label = FEATURES.train_labels[index]
        weights = head.at_visit[0, index][:72].view(6, 12)[label]
        assert torch.equal(at_visit[row], kept_mask(weights[None], 0.75, None, "positive")[0])
        final = head.head.vector[0, :72].view(6, 12)[label]
        assert torch.equal(at_end[row], kept_mask(final[None], 0.75, None, "positive")[0])
    assert not torch.equal(at_visit, at_end)


def test_logits_at_the_visit_are_those_of_the_head_before_the_step(monkeypatch):
    at_visit = METHODS.get("derpp").Settings(logits_at="visit").model_dump()
    memory, _, _, head = run(monkeypatch, tasks=1, method="derpp", method_settings=at_visit)
    for r in range(2):
        for row, index in enumerate(memory.stored[0].index[r].tolist()):
            vector = head.at_visit[r, index]
            expected = FEATURES.train_pooled[index] @ vector[:72].view(6, 12).T + vector[72:78]
            torch.testing.assert_close(memory.stored[0].logits[r, row], expected)


def test_bytes_of_samples_that_are_completed_in_part(monkeypatch):
    """Six complete maps and eighteen of three channels; the budget is not exceeded."""
    memory, _, _, _ = run(monkeypatch, tasks=1, complete="last_batches", read="at_store")
    whole, sparse = 12 * (8 + 2) + 2 + 2, 3 * (8 + 2) + 2 + 2  # with channel numbers, a count and a label
    assert memory.episodic_bytes() == [6 * whole + 18 * sparse] * 2
    memory, _, _, _ = run(monkeypatch, tasks=3, complete="last_batches", read="at_store", budget_unit="bytes")
    full = 12 * 8 + 2  # six whole maps need no channel numbers and use the whole share
    assert memory.episodic_bytes()[0] == 3 * SLOTS * full
    assert memory.samples_stored == 3 * SLOTS
