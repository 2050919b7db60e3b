"""Episodic memory: budgets are never exceeded, and replayed samples are the stored ones."""

import pytest
import torch
from factories import QUICK, make_cell, make_features
from hypothesis import given, settings
from hypothesis import strategies as st

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import MinibatchSampler, derived_seed
from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.heads import make_head
from sharc_core.learning.learner import make_memory
from sharc_core.memory.budget import Budget
from sharc_core.memory.byte_count import sample_bytes
from sharc_core.memory.episodic import EpisodicMemory
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency import SALIENCIES
from sharc_core.saliency.channel_masks import kept_channels
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

FEATURES = make_features(classes=6, train_per_class=25)


def fill(cell, features=FEATURES):
    """Return a memory after the whole stream."""
    stream = make_stream(features.train_labels, features.test_labels, 6, cell.stream)
    memory = make_memory(features, stream, cell)
    head = make_head("linear", 0, len(cell.seeds), features.train_pooled.shape[1], 6)
    head.initialise(cell.seeds)
    for task in range(stream.tasks):
        memory.begin_task()
        memory.store(stream.order(task, 0, cell.seeds), head)
    memory.begin_task()
    return memory


@pytest.mark.slow
@given(
    method=st.sampled_from(["er", "derpp"]),
    variant=st.sampled_from(["plain", "sharc"]),
    buffer=st.integers(3, 90),
    unit=st.sampled_from(["slots", "floats", "bytes"]),
    theta=st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.9]),
    kind=st.sampled_from(ASSOCIATIVE_MEMORIES.names()),
    charge=st.booleans(),
    tasks=st.sampled_from([1, 3]),
    read=st.sampled_from(["per_task", "at_store", "per_batch"]),
    complete=st.sampled_from(["all", "last_batches"]),
)
@settings(max_examples=120, deadline=None)
def test_budgets_are_never_exceeded(
    method, variant, buffer, unit, theta, kind, charge, tasks, read, complete
):
    sharc = {}
    if variant == "sharc":
        sharc = {
            "theta": theta,
            "associative_memory": kind,
            "associative_settings": settings_of(ASSOCIATIVE_MEMORIES, kind, QUICK.get(kind, {}), "x"),
            "count_associative_memory": charge and unit == "bytes" and complete == "all",
            "read": read,
            "complete": complete,
        }
    cell = make_cell(method, variant, buffer=buffer, budget_unit=unit, tasks=tasks, seeds=[0, 1], **sharc)
    try:
        memory = fill(cell)
    except UserError as error:
        assert cell.count_associative_memory and "holds no sample of task" in str(error)
        return
    shape = tuple(FEATURES.train_maps.shape[1:])
    float16 = REPRESENTATIONS.get("float16")(shape)
    logits = 6 if method == "derpp" else 0
    keep = kept_channels(shape[0], theta) if variant == "sharc" else shape[0]
    spent = memory.episodic_bytes()[0]
    if variant == "plain" or read == "per_task":
        assert spent == memory.samples_stored * sample_bytes(float16, keep, logits)
    elif complete == "all":
        assert spent == memory.samples_stored * sample_bytes(float16, shape[0], logits)
    if unit == "slots":
        assert memory.samples_stored <= buffer
    if unit == "floats":
        assert memory.samples_stored * keep <= buffer * shape[0]
    if unit == "bytes":
        state = memory.associative_bytes()[0] if cell.count_associative_memory else 0
        assert spent + state <= Budget(unit, buffer, tasks, shape, logits).total


def test_larger_theta_stores_more_samples():
    """At theta = 0.75 four times as many samples fit the paper's budget of floats."""
    plain = fill(make_cell("er", buffer=12))
    sharc = fill(make_cell("er", "sharc", buffer=12, theta=0.75))
    assert (plain.samples_stored, sharc.samples_stored) == (12, 48)


def test_the_last_samples_are_kept():
    cell = make_cell("er", buffer=12)
    memory = fill(cell)
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    for task, stored in enumerate(memory.stored):
        assert torch.equal(stored.index, stream.order(task, 0, cell.seeds)[:, -4:])
        for r in range(3):
            assert torch.equal(stored.x[r], FEATURES.train_pooled[stored.index[r]])


def test_all_of_a_task_smaller_than_its_share_is_stored():
    memory = fill(make_cell("er", buffer=3000))
    assert memory.samples_stored == len(FEATURES.train_labels)


@pytest.mark.parametrize("name", SALIENCIES.names())
def test_every_saliency_stores_and_recalls(name):
    memory = fill(make_cell("er", "sharc", saliency=name))
    assert memory.recall_mse() == [0.0] * 3


def test_minibatches_are_distinct_and_uniform():
    sampler = MinibatchSampler(torch.Generator().manual_seed(0), 12, 5)
    rows = torch.cat([sampler.draw() for _ in range(40)])
    assert rows.min() == 0 and rows.max() == 11
    assert (rows.sort(1).values.diff(dim=1) > 0).all()
    share = rows.flatten().bincount(minlength=12) / len(rows)
    assert (share - 5 / 12).abs().max() < 0.03


def test_a_minibatch_larger_than_the_memory_is_all_of_it():
    sampler = MinibatchSampler(torch.Generator().manual_seed(0), 3, 10)
    assert (sampler.draw().sort(1).values == torch.arange(3)).all()


def test_sample_returns_matching_rows():
    memory = fill(make_cell("derpp", buffer=30))
    for _ in range(300):  # across the sampler's blocks
        batch = memory.sample(4)
    for r in range(3):
        for x, y, logits in zip(batch.x[r], batch.y[r], batch.logits[r], strict=True):
            match = (memory.replay.batch.x[r] == x).all(1).nonzero().item()
            assert memory.replay.batch.y[r, match] == y
            assert torch.equal(memory.replay.batch.logits[r, match], logits)


def test_tasks_together_are_the_replay_set():
    memory = fill(make_cell("er", buffer=30))
    assert torch.equal(torch.cat([t.x for t in memory.tasks()], 1), memory.replay.batch.x)
    assert all(len(set((t.y // 2).flatten().tolist())) == 1 for t in memory.tasks())


def test_stored_labels_are_the_samples_own():
    """Tasks have two classes in random order, so a permuted label would be wrong."""
    cell = make_cell("er", "sharc", buffer=30)
    memory = fill(cell)
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    for task, batch in enumerate(memory.tasks()):
        last = stream.order(task, 0, cell.seeds)[:, -batch.y.shape[1] :]
        assert torch.equal(batch.y, FEATURES.train_labels[last])
        assert (batch.y != batch.y.flip(1)).any(), "the order must matter"


@pytest.mark.parametrize("read", ["per_task", "at_store"])
def test_dropped_channels_become_the_mean_of_the_samples_class(read):
    """Compare with means of the features. Labels in the wrong order would give other means."""
    cell = make_cell("er", "sharc", buffer=30, associative_memory="mean", associative_settings={}, read=read)
    memory = fill(cell)
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    for task, (stored, batch) in enumerate(zip(memory.stored, memory.tasks(), strict=True)):
        last = stream.order(task, 0, cell.seeds)[:, -batch.y.shape[1] :]
        for r, index in enumerate(last):
            maps, labels = FEATURES.train_maps[index].float(), FEATURES.train_labels[index]
            means = torch.stack([maps[labels == label].mean(0) for label in labels])
            kept = stored.sparse[r].mask
            if read == "at_store":  # the completed map is stored: find the kept channels in it
                kept = (stored.sparse[r].decode() == maps).flatten(2).all(2)
                assert (kept.sum(1) >= 6).all() and not kept.all()
            completed = torch.where(kept[:, :, None, None], maps, means)
            assert len(labels.unique()) == 2
            torch.testing.assert_close(batch.x[r], completed.mean((-2, -1)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", ["plain", "sharc"])
def test_stored_logits_are_the_heads_at_storing_time(variant):
    """They are computed from the whole sample, and later training does not change them."""
    cell = make_cell("derpp", variant, buffer=30)
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    memory = make_memory(FEATURES, stream, cell)
    head = make_head("linear", 0, 3, 12, 6)
    head.initialise(cell.seeds)
    expected = []
    for task in range(3):
        order = stream.order(task, 0, cell.seeds)
        memory.store(order, head)
        last = order[:, -memory.stored[task].index.shape[1] :]
        expected.append(FEATURES.train_pooled[last] @ head.weight.mT + head.bias[:, None])
        head.vector.mul_(-2)
        memory.begin_task()
    assert not torch.allclose(expected[0], expected[1])
    for batch, logits in zip(memory.tasks(), expected, strict=True):
        torch.testing.assert_close(batch.logits, logits)


def test_samples_completed_at_store_are_not_completed_again():
    """Class means change later and complete a sample differently, unless it is stored completed."""
    features = make_features()
    stream = make_stream(features.train_labels, features.test_labels, 6, StreamConfig(tasks=3))
    outcome = {}
    for read in ("per_task", "at_store"):
        cell = make_cell("er", "sharc", associative_memory="mean", associative_settings={}, read=read)
        memory = make_memory(features, stream, cell)
        head = make_head("linear", 0, 3, 12, 6)
        head.initialise(cell.seeds)
        memory.store(stream.order(0, 0, cell.seeds), head)
        memory.begin_task()
        before = memory.tasks()[0].x.clone()
        for r, am in enumerate(memory.sharc.associative):
            am.write(features.train_maps[:80] + 1, features.train_labels[:80])
            assert r < 3
        memory.begin_task()
        outcome[read] = torch.equal(before, memory.tasks()[0].x)
    assert outcome == {"per_task": False, "at_store": True}


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("kind", ["none", "mean"])
def test_recall_error_is_that_of_the_dropped_entries_of_what_is_replayed(kind, storage):
    """A map that is stored completed is quantised again, and its error is that of the stored map."""
    changes = {"associative_memory": kind, "associative_settings": {}, "budget_unit": "slots"}
    once, per_task = (
        fill(make_cell("er", "sharc", buffer=30, storage=storage, read=read, **changes))
        for read in ("at_store", "per_task")
    )
    expected = {"at_store": [], "per_task": []}
    for kept, sparse in zip(once.stored, per_task.stored, strict=True):
        assert torch.equal(kept.index, sparse.index)
        for r, index in enumerate(kept.index):
            # both have the same samples, head and saliency, and so drop the same channels
            mask = sparse.sparse[r].mask
            dropped = ~mask[:, :, None, None].expand(-1, -1, 2, 2)
            assert dropped.float().mean() == 0.5
            true = FEATURES.train_maps[index].float()
            recalled = per_task.sharc.associative[r].read(sparse.sparse[r].decode(), mask, sparse.y[r])
            for read, maps in (("at_store", kept.sparse[r].decode()), ("per_task", recalled)):
                expected[read].append((maps - true)[dropped].square().mean())
    for read, memory in (("at_store", once), ("per_task", per_task)):
        by_seed = torch.stack(expected[read]).view(3, 3).double().mean(0).tolist()  # tasks x seeds
        assert memory.recall_mse() == pytest.approx(by_seed, rel=1e-6)
    # The quantised zeros of "none" and the unquantised values of float32 are unchanged.
    exact = kind == "none" or storage == "float32"
    assert (once.recall_mse() == pytest.approx(per_task.recall_mse(), rel=1e-9)) == exact


@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("read", ["per_task", "at_store"])
def test_associative_memories_learn_the_full_maps_of_the_stored_samples(monkeypatch, read, storage):
    """The maps equal those of the features, without masks or quantisation, and no others are learnt."""
    written = {}
    kind = ASSOCIATIVE_MEMORIES.get("mean")
    write = kind.write

    def recording(self, maps, labels):
        written.setdefault(self.seed, []).append((maps.clone(), labels.clone()))
        write(self, maps, labels)

    monkeypatch.setattr(kind, "write", recording)
    changes = {"associative_memory": "mean", "associative_settings": {}, "read": read, "storage": storage}
    memory = fill(make_cell("er", "sharc", **changes))
    for r, associative in enumerate(memory.sharc.associative):
        learnt = written[associative.seed]
        assert len(learnt) == 3
        for (maps, labels), stored in zip(learnt, memory.stored, strict=True):
            assert torch.equal(maps, FEATURES.train_maps[stored.index[r]])
            assert torch.equal(labels, stored.y[r])
        assert associative.written == memory.samples_stored


def test_every_seed_has_its_own_associative_memory():
    """Its seed depends only on the run's seed, not on other runs or their order."""

    def seeds(runs):
        stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
        memory = make_memory(FEATURES, stream, make_cell("er", "sharc", seeds=runs))
        assert len(set(map(id, memory.sharc.associative))) == len(runs)
        return [associative.seed for associative in memory.sharc.associative]

    first, second, third = seeds([4, 0, 9])
    assert len({first, second, third}) == 3
    assert seeds([9, 4]) == [third, first]
    assert [first, second, third] == [derived_seed(s, "associative") for s in (4, 0, 9)]


def test_a_budget_too_small_for_the_state_is_an_error():
    budget = Budget("bytes", 3, 3, (12, 2, 2), am_bytes=lambda samples: 10_000)
    with pytest.raises(UserError, match="holds no sample of task 1.*raise the buffer"):
        budget.check(6)


@pytest.mark.parametrize("unit", ["slots", "floats", "bytes"])
def test_a_buffer_smaller_than_the_tasks_is_an_error_in_every_unit(unit):
    """Otherwise a slice from minus zero would store everything."""
    with pytest.raises(UserError, match="a buffer of 2 .* holds no sample of task 1 of 3"):
        fill(make_cell("er", buffer=2, budget_unit=unit))


def test_empty_memory_is_false_and_costs_nothing():
    memory = EpisodicMemory(FEATURES, [0])
    assert not memory
    assert memory.episodic_bytes() == [0] and memory.recall_mse() == [None]


def test_a_sample_that_is_stored_completed_costs_a_full_map():
    """With read: at_store a budget of bytes holds as many samples as plain replay."""
    plain = fill(make_cell("er", buffer=12, budget_unit="bytes"))
    sharc = fill(make_cell("er", "sharc", buffer=12, budget_unit="bytes", theta=0.75, read="at_store"))
    assert sharc.samples_stored == plain.samples_stored
    assert sharc.episodic_bytes() == plain.episodic_bytes()


def test_int8_storage_buys_samples_and_replays_what_it_stored():
    for variant in ("plain", "sharc"):
        half = fill(make_cell("er", variant, buffer=12, budget_unit="bytes"))
        eighth = fill(make_cell("er", variant, buffer=12, budget_unit="bytes", storage="int8"))
        assert eighth.samples_stored > half.samples_stored
        assert eighth.episodic_bytes()[0] <= Budget("bytes", 12, 3, (12, 2, 2)).total
    for stored in fill(make_cell("er", buffer=12, storage="int8")).stored:
        whole = FEATURES.train_pooled[stored.index]
        assert not torch.equal(stored.x, whole)
        torch.testing.assert_close(stored.x, whole, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("method", "changes", "sample"),
    [
        # maps of 12 channels x 4 positions; a label takes 2 bytes, a channel number 2, a logit 4
        ("er", {}, 12 * (4 + 2) + 2),
        ("derpp", {}, 12 * (4 + 2) + 2 + 6 * 4),
        ("er", {"variant": "sharc", "theta": 0.5}, 6 * (4 + 2 + 2) + 2),
        ("er", {"variant": "sharc", "theta": 0.5, "read": "at_store"}, 12 * (4 + 2) + 2),
        ("er", {"variant": "sharc", "theta": 0.75, "storage": "float16"}, 3 * (8 + 2) + 2),
        ("er", {"variant": "sharc", "theta": 0.75, "storage": "float32"}, 3 * (16 + 2) + 2),
    ],
)
def test_bytes_of_a_sample_by_hand(method, changes, sample):
    """The float16 scale of an int8 channel counts as 2 bytes."""
    memory = fill(make_cell(method, buffer=12, budget_unit="bytes", **({"storage": "int8"} | changes)))
    full = 12 * 4 * 2 + 2 + (6 * 4 if method == "derpp" else 0)
    each = 12 * full // 3 // sample
    assert [stored.index.shape[1] for stored in memory.stored] == [each] * 3
    assert memory.episodic_bytes() == [3 * each * sample] * 3


def test_theta_zero_is_plain_replay_in_every_storage():
    for storage in ("float32", "float16", "int8"):
        plain = fill(make_cell("er", buffer=12, storage=storage))
        sharc = fill(make_cell("er", "sharc", buffer=12, storage=storage, theta=0.0))
        for one, other in zip(plain.stored, sharc.stored, strict=True):
            assert torch.equal(one.x, other.x)
        assert plain.episodic_bytes() == sharc.episodic_bytes()


@pytest.mark.slow
@given(
    mass=st.floats(0.05, 1.0),
    unit=st.sampled_from(["slots", "floats", "bytes"]),
    split=st.sampled_from(["equal", "carry", [3.0, 1.0, 2.0]]),
    storage=st.sampled_from(["float16", "int8"]),
)
@settings(max_examples=60, deadline=None)
def test_adaptive_theta_stays_within_its_budget(mass, unit, split, storage):
    changes = {"theta": None, "mass": mass, "budget_split": split, "storage": storage, "seeds": [1]}
    memory = fill(make_cell("er", "sharc", buffer=15, budget_unit=unit, **changes))
    budget = Budget(unit, 15, 3, (12, 2, 2))
    each = {"slots": lambda s: s.samples, "floats": lambda s: len(s.values), "bytes": lambda s: s.nbytes}[
        unit
    ]
    total, allowed = 0, 0.0
    for task, stored in enumerate(memory.stored):
        spent = each(stored.sparse[0]) + (2 * stored.index.shape[1] if unit == "bytes" else 0)
        share = 1 / 3 if isinstance(split, str) else split[task] / sum(split)
        total, allowed = total + spent, allowed + budget.total * share
        assert total <= allowed + 1 if split == "carry" else spent <= budget.total * share + 1
    assert total <= budget.total


def test_unequal_split_gives_tasks_unequal_shares():
    memory = fill(make_cell("er", buffer=12, budget_split=[4.0, 1.0, 1.0]))
    assert [s.index.shape[1] for s in memory.stored] == [8, 2, 2]


def test_what_a_task_leaves_is_carried_over():
    """A share of 11 / 3 slots stores three samples per task, or eleven in total with carrying."""
    equal = fill(make_cell("er", buffer=11))
    carried = fill(make_cell("er", buffer=11, budget_split="carry"))
    assert [s.index.shape[1] for s in equal.stored] == [3, 3, 3]
    assert [s.index.shape[1] for s in carried.stored] == [3, 4, 4]


def test_forgetting_follows_its_schedule(monkeypatch):
    calls = []
    kind = ASSOCIATIVE_MEMORIES.get("mean")
    monkeypatch.setattr(kind, "forget", lambda self, beta: calls.append((self.written, beta)))
    changes = {"associative_memory": "mean", "associative_settings": {}, "seeds": [0]}
    fill(make_cell("er", "sharc", forget_every=2, forget_beta=0.3, **changes))
    assert calls == [(8, 0.3)]  # called once, before the second task's maps are written
    calls.clear()
    fill(make_cell("er", "sharc", forget_every=1, forget_beta=0.1, **changes))
    assert calls == [(8, 0.1), (16, 0.1)]
    calls.clear()
    fill(make_cell("er", "sharc", **changes))
    assert calls == []


@pytest.mark.parametrize("unit", ["slots", "floats"])
def test_carrying_uses_the_whole_buffer(unit):
    """Eleven slots are not divisible by three tasks; the remainder is carried over."""
    carried = fill(make_cell("er", buffer=11, budget_unit=unit, budget_split="carry"))
    assert carried.samples_stored == 11
    assert fill(make_cell("er", buffer=11, budget_unit=unit)).samples_stored == 9


def test_the_state_is_paid_for_by_the_split():
    """A class-mean memory costs the same however unequal the tasks' shares are."""
    changes = {"associative_memory": "mean", "associative_settings": {}, "count_associative_memory": True}
    for split in ("equal", [6.0, 1.0, 1.0]):
        memory = fill(make_cell("er", "sharc", buffer=36, budget_unit="bytes", budget_split=split, **changes))
        spent = memory.episodic_bytes()[0] + memory.associative_bytes()[0]
        total = Budget("bytes", 36, 3, (12, 2, 2)).total
        assert 0.85 * total < spent <= total
