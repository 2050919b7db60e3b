"""Episodic memory: budgets are never exceeded, and what is handed back is what was stored."""

import pytest
import torch
from factories import make_cell, make_features
from hypothesis import given, settings
from hypothesis import strategies as st

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.budget import Budget
from sharc_core.config import settings_of
from sharc_core.encoding import kept_channels, sample_bytes
from sharc_core.errors import UserError
from sharc_core.heads import make_head
from sharc_core.learner import make_memory
from sharc_core.memory import EpisodicMemory
from sharc_core.saliency import SALIENCIES
from sharc_core.seeds import MinibatchSampler
from sharc_core.streams import make_stream

FEATURES = make_features(classes=6, train_per_class=25)


def fill(cell, features=FEATURES):
    """A memory that has seen the whole stream."""
    stream = make_stream(features.train_labels, features.test_labels, 6, cell.tasks)
    memory = make_memory(features, stream, cell)
    head = make_head("linear", 0, len(cell.seeds), features.train_pooled.shape[1], 6)
    head.initialise(cell.seeds)
    for task in range(stream.tasks):
        memory.begin_task()
        memory.store(stream.order(task, 0, cell.seeds), head)
    memory.begin_task()
    return memory


@given(
    method=st.sampled_from(["er", "derpp"]),
    variant=st.sampled_from(["plain", "sharc"]),
    buffer=st.integers(3, 90),
    unit=st.sampled_from(["slots", "floats", "bytes"]),
    theta=st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.9]),
    kind=st.sampled_from(ASSOCIATIVE_MEMORIES.names()),
    charge=st.booleans(),
    tasks=st.sampled_from([1, 3]),
)
@settings(max_examples=120, deadline=None)
def test_budgets_are_never_exceeded(method, variant, buffer, unit, theta, kind, charge, tasks):
    sharc = {}
    if variant == "sharc":
        sharc = {
            "theta": theta,
            "associative_memory": kind,
            "associative_settings": settings_of(ASSOCIATIVE_MEMORIES, kind, {}, "x"),
            "count_associative_memory": charge and unit == "bytes",
        }
    cell = make_cell(method, variant, buffer=buffer, budget_unit=unit, tasks=tasks, seeds=[0, 1], **sharc)
    try:
        memory = fill(cell)
    except UserError as error:
        assert cell.count_associative_memory and "holds no sample per task" in str(error)
        return
    shape = tuple(FEATURES.train_maps.shape[1:])
    logits = 6 if method == "derpp" else 0
    keep = kept_channels(shape[0], theta) if variant == "sharc" else shape[0]
    spent = memory.episodic_bytes()[0]
    assert spent == memory.samples_stored * sample_bytes(shape, keep, logits)
    if unit == "slots":
        assert memory.samples_stored <= buffer
    if unit == "floats":
        assert memory.samples_stored * keep <= buffer * shape[0]
    if unit == "bytes":
        state = memory.associative_bytes()[0] if cell.count_associative_memory else 0
        assert spent + state <= Budget(unit, buffer, tasks, shape, logits).total_bytes


def test_theta_buys_samples():
    """At theta = 0.75 four times as many samples fit the paper's budget of floats."""
    plain = fill(make_cell("er", buffer=12))
    sharc = fill(make_cell("er", "sharc", buffer=12, theta=0.75))
    assert (plain.samples_stored, sharc.samples_stored) == (12, 48)


def test_the_last_samples_are_kept():
    cell = make_cell("er", buffer=12)
    memory = fill(cell)
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, 3)
    for task, stored in enumerate(memory.stored):
        assert torch.equal(stored.index, stream.order(task, 0, cell.seeds)[:, -4:])
        for r in range(3):
            assert torch.equal(stored.x[r], FEATURES.train_pooled[stored.index[r]])


def test_a_task_smaller_than_its_share_is_kept_whole():
    memory = fill(make_cell("er", buffer=3000))
    assert memory.samples_stored == len(FEATURES.train_labels)


@pytest.mark.parametrize("name", SALIENCIES.names())
def test_every_saliency_stores_and_recalls(name):
    memory = fill(make_cell("er", "sharc", saliency=name))
    assert memory.recall_mse() == [0.0] * 3


def test_linear_gradient_saliency_is_the_weight():
    head = make_head("linear", 0, 2, 12, 6)
    head.initialise([0, 1])
    y = torch.tensor([[0, 3, 5], [1, 1, 2]])
    alpha = SALIENCIES.get("gradient")(head, torch.rand(2, 3, 12), y, 4, [])
    for r in range(2):
        assert torch.equal(alpha[r], head.weight[r][y[r]] / 4)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_gradient_saliency_equals_autograd_on_maps(kind):
    """The definition (eq. 3), computed on the maps themselves through pooling and head."""
    head = make_head(kind, 7, 2, 12, 6)
    head.initialise([0, 1])
    maps = torch.rand(2, 3, 12, 2, 3, requires_grad=True)
    y = torch.tensor([[0, 3, 5], [1, 1, 2]])
    logits = head.logits(maps.mean((-2, -1)))
    logits.gather(2, y[..., None]).sum().backward()
    mine = SALIENCIES.get("gradient")(head, maps.detach().mean((-2, -1)), y, 6, [])
    torch.testing.assert_close(mine, maps.grad.mean((-2, -1)))


def test_minibatches_are_distinct_and_uniform():
    sampler = MinibatchSampler(torch.Generator().manual_seed(0), 12, 5)
    rows = torch.cat([sampler.draw() for _ in range(40)])
    assert rows.min() == 0 and rows.max() == 11
    assert (rows.sort(1).values.diff(dim=1) > 0).all()
    share = rows.flatten().bincount(minlength=12) / len(rows)
    assert (share - 5 / 12).abs().max() < 0.03


def test_minibatch_larger_than_the_memory_is_all_of_it():
    sampler = MinibatchSampler(torch.Generator().manual_seed(0), 3, 10)
    assert (sampler.draw().sort(1).values == torch.arange(3)).all()


def test_sample_returns_matching_rows():
    memory = fill(make_cell("derpp", buffer=30))
    for _ in range(300):  # across the sampler's blocks
        batch = memory.sample(4)
    for r in range(3):
        for x, y, logits in zip(batch.x[r], batch.y[r], batch.logits[r], strict=True):
            match = (memory._replay.x[r] == x).all(1).nonzero().item()
            assert memory._replay.y[r, match] == y
            assert torch.equal(memory._replay.logits[r, match], logits)


def test_tasks_together_are_the_replay_set():
    memory = fill(make_cell("er", buffer=30))
    assert torch.equal(torch.cat([t.x for t in memory.tasks()], 1), memory._replay.x)
    assert all(len(set((t.y // 2).flatten().tolist())) == 1 for t in memory.tasks())


def test_reading_at_store_keeps_the_first_recall():
    """With class means that go on moving, reading later gives another map; reading at store does not."""
    features = make_features()
    stream = make_stream(features.train_labels, features.test_labels, 6, 3)
    outcome = {}
    for read in ("per_task", "at_store"):
        cell = make_cell("er", "sharc", associative_memory="mean", associative_settings={}, read=read)
        memory = make_memory(features, stream, cell)
        head = make_head("linear", 0, 3, 12, 6)
        head.initialise(cell.seeds)
        memory.store(stream.order(0, 0, cell.seeds), head)
        memory.begin_task()
        before = memory.tasks()[0].x.clone()
        for r, am in enumerate(memory.associative):
            am.write(features.train_maps[:80] + 1, features.train_labels[:80])
            assert r < 3
        memory.begin_task()
        outcome[read] = torch.equal(before, memory.tasks()[0].x)
    assert outcome == {"per_task": False, "at_store": True}


def test_budget_too_small_for_the_state_says_so():
    budget = Budget("bytes", 3, 3, (12, 2, 2))
    with pytest.raises(UserError, match="holds no sample per task.*raise the buffer"):
        budget.samples_per_task(6, lambda samples: 10_000)


def test_empty_memory_is_false_and_costs_nothing():
    memory = EpisodicMemory(FEATURES, [0], 5)
    assert not memory
    assert memory.episodic_bytes() == [0] and memory.recall_mse() == [None]
