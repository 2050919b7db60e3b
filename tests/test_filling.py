"""Selection of whole batches, as in the published code, and the reservoir."""

import pytest
import torch
from factories import make_cell, make_features
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import BASE, changed
from test_memory import FEATURES

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.heads import Batch, make_head
from sharc_core.learning.learner import make_memory, run_cell
from sharc_core.memory.budget import Budget
from sharc_core.methods import METHODS
from sharc_core.saliency.channel_masks import kept_channels
from sharc_core.selection.batches import whole_batches
from sharc_core.selection.reservoir import Reservoir
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

torch.set_num_threads(1)
KINDS = {name: METHODS.get(name) for name in METHODS.names()}
RESERVOIRS = [
    name
    for name, kind in KINDS.items()
    if kind.uses_memory
    and not kind.fills_at_task_end
    and (not kind.selections or "reservoir" in kind.selections)
]


# --- whole batches -------------------------------------------------------------------------------


@given(
    costs=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    batch=st.integers(1, 7),
    allowance=st.integers(1, 60),
)
@settings(max_examples=200, deadline=None)
def test_invariants_of_whole_batches(costs, batch, allowance):
    """No sample is stored twice; only the oldest are dropped and only the first of a batch are added."""
    held = whole_batches(costs, batch, allowance)
    assert held and len(set(held)) == len(held) and held == sorted(held)
    before = [whole_batches(costs[:end], batch, allowance) for end in range(batch, len(costs), batch)]
    for one, then in zip(before, [*before[1:], held], strict=False):
        kept = [position for position in one if position in then]
        assert kept == one[len(one) - len(kept) :], "only the oldest go"
        new = [position for position in then if position not in one]
        assert new == list(range(new[0], new[0] + len(new))) if new else True, "the first of the batch come"


def test_whole_batches_by_hand():
    """Two batches fit. The third drops enough for all its samples, but may be added only in part."""
    assert whole_batches([1] * 6, 2, 4) == [2, 3, 4, 5]
    # the third batch needs 4: dropping one sample of cost 4 is enough, so one of its samples is added
    assert whole_batches([4, 1, 1, 1, 2, 2], 2, 7) == [1, 2, 3, 4]
    # dropping all samples does not make room for 9: the batch is not stored
    assert whole_batches([1, 1, 5, 4], 2, 8) == [0, 1]
    # the first batch is always stored; a later batch fits only if all of it is dropped
    assert whole_batches([9, 9, 1, 1], 2, 4) == [2, 3]
    # if more samples must be dropped than the batch has, the whole batch is added
    assert whole_batches([1, 1, 1, 1, 2, 2], 2, 4) == [4, 5]
    assert whole_batches([1, 1, 1, 1, 1, 3, 3], 5, 6) == [5, 6]


def test_of_samples_of_equal_cost_the_last_batches_stay():
    cell = make_cell("er", buffer=30, selection="batches", seeds=[0, 1])
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    memory = make_memory(FEATURES, stream, cell)
    order = stream.order(0, 0, cell.seeds)
    memory.store(order, make_head("linear", 0, 2, 12, 6))
    assert torch.equal(memory.stored[0].index, order[:, -10:])


# --- reservoir -----------------------------------------------------------------------------------


def test_a_reservoir_keeps_every_visit_equally_often():
    counts = torch.zeros(40)
    for seed in range(3000):
        reservoir, held = Reservoir(10, torch.Generator().manual_seed(seed)), {}
        for start in range(0, 40, 5):
            for position, slot in enumerate(reservoir.slots(5), start):
                if slot >= 0:
                    held[slot] = position
        assert len(held) == 10
        counts[list(held.values())] += 1
    share = counts / 3000
    assert (share - 0.25).abs().max() < 0.03  # four standard deviations


@pytest.fixture
def reservoir():
    """Return a reservoir memory after two tasks of a derpp cell, and the logits of every visit."""

    def run(variant: str, **changes):
        cell = make_cell("derpp", variant, selection="reservoir", seeds=[0, 1], **changes)
        stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
        memory, head = make_memory(FEATURES, stream, cell), make_head("linear", 0, 2, 12, 6)
        head.initialise(cell.seeds)
        logits = {}
        for task in range(2):
            memory.begin_task()
            order = stream.order(task, 0, cell.seeds)
            for index in order.split(10, 1):
                batch = Batch(FEATURES.train_pooled[index], FEATURES.train_labels[index])
                memory.visit(index, batch, head)
                outputs = head.logits(batch.x)
                for r in range(2):
                    logits |= {(r, int(i)): row for i, row in zip(index[r], outputs[r], strict=True)}
                head.vector.mul_(1.01)
                memory.admit()
            memory.store(order, head)
        return memory, logits

    return run


def test_a_reservoir_hands_back_what_was_admitted(reservoir):
    """It has samples of both tasks, with their labels, vectors and logits at the visit."""
    memory, logits = reservoir("plain", buffer=30)
    assert memory.samples_stored == 30
    for r in range(2):
        index = memory._index[r]
        assert len(index.unique()) == 30
        assert {int(c) // 2 for c in FEATURES.train_labels[index]} == {0, 1}
        assert torch.equal(memory.replay.batch.x[r], FEATURES.train_pooled[index])
        assert torch.equal(memory.replay.batch.y[r], FEATURES.train_labels[index])
        expected = torch.stack([logits[r, i] for i in index.tolist()])
        torch.testing.assert_close(memory.replay.batch.logits[r], expected)
    batch = memory.sample(5)
    for r in range(2):
        for x, y in zip(batch.x[r], batch.y[r], strict=True):
            assert memory.replay.batch.y[r, (memory.replay.batch.x[r] == x).all(1).nonzero().item()] == y
    assert not torch.equal(memory._index[0], memory._index[1]), "each seed its own"


def test_a_reservoir_replays_masked_maps_until_they_are_completed(reservoir):
    """Samples that the associative memory has learnt are completed; twice as many fit the budget."""
    memory, _ = reservoir("sharc", buffer=12, theta=0.5)
    assert memory.samples_stored == 24
    masked = memory.replay.batch.x.clone()
    true = FEATURES.train_pooled[memory._index]
    assert not torch.equal(masked, true)
    assert ((masked == true) | (masked == 0)).all() and (masked == 0).any()
    memory.begin_task()
    assert torch.equal(memory.replay.batch.x, true) and memory.recall_mse() == [0.0, 0.0]


@pytest.mark.slow
@given(
    unit=st.sampled_from(["slots", "floats", "bytes"]),
    variant=st.sampled_from(["plain", "sharc"]),
    buffer=st.integers(3, 60),
    storage=st.sampled_from(["float16", "int8"]),
)
@settings(max_examples=25, deadline=None)
def test_a_reservoir_stays_within_its_budget(unit, variant, buffer, storage):
    sharc = {"theta": 0.8} if variant == "sharc" else {}
    cell = make_cell(
        "derpp", variant, selection="reservoir", buffer=buffer, budget_unit=unit, storage=storage,
        seeds=[3], **sharc,
    )  # fmt: skip
    costs = run_cell(FEATURES, cell)["costs"]
    keep = kept_channels(12, 0.8) if variant == "sharc" else 12
    budget = Budget(unit, buffer, 3, (12, 2, 2), logits=6)
    spent = {
        "slots": costs["samples_stored"][0],
        "floats": costs["samples_stored"][0] * keep,
        "bytes": costs["episodic_bytes"][0],
    }[unit]
    assert spent <= budget.total
    if costs["samples_stored"][0] < 150:
        assert spent > budget.total - costs["episodic_bytes"][0], "the buffer is used"


@pytest.mark.slow
@pytest.mark.parametrize("method", RESERVOIRS)
@pytest.mark.parametrize("variant", ["plain", "sharc", "random"])
def test_reservoirs_of_five_seeds_are_those_of_one(method, variant):
    """A random saliency draws the same channels with any other seeds. Without completion its zeros matter."""
    features = make_features(channels=16, train_per_class=60)
    changes = {"selection": "reservoir", "seeds": [0, 1, 2]}
    if variant == "random":
        changes |= {"saliency": "random", "associative_memory": "none", "associative_settings": {}}
        changes |= {"buffer": 4, "tasks": 3}
    cell = make_cell(method, "plain" if variant == "plain" else "sharc", **changes)
    together = run_cell(features, cell)
    for r, seed in enumerate(cell.seeds):
        alone = run_cell(features, cell.model_copy(update={"seeds": [seed]}))
        for scenario, matrices in together["matrix"].items():
            assert matrices[r] == alone["matrix"][scenario][0]


def test_theta_zero_is_plain_replay_in_a_reservoir():
    documents = [
        run_cell(FEATURES, make_cell("er", variant, selection="reservoir", **sharc))
        for variant, sharc in (("plain", {}), ("sharc", {"theta": 0.0}))
    ]
    assert documents[0]["matrix"] == documents[1]["matrix"]


def test_a_reservoir_cannot_replay_tasks():
    whole = METHODS.get("er").Settings(replay="whole").model_dump()
    with pytest.raises(UserError, match="memory.selection reservoir has no tasks"):
        run_cell(FEATURES, make_cell("er", selection="reservoir", method_settings=whole))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("budget", {"unit": "nonzero"}, "budget.unit nonzero"),
        ("budget", {"split": "carry"}, "budget.split"),
        ("budget", {"unit": "bytes", "count_associative_memory": True}, "budget.count_associative_memory"),
        ("sharc.theta", {"mass": 0.5}, "sharc.theta mass"),
        ("sharc.importance", "positive", "sharc.importance positive"),
        ("sharc.read", "at_store", "sharc.read at_store"),
        ("sharc.complete", "last_batches", "sharc.complete last_batches"),
        ("sharc.forget", {"every": 1, "unit": "batch"}, "sharc.forget.unit batch"),
        ("method_settings", {"er": {"replay": "whole"}}, "method_settings.er.replay whole"),
    ],
)
def test_what_a_reservoir_cannot_be_combined_with_is_one_line(path, value, message):
    with pytest.raises(UserError, match=f"memory.selection reservoir cannot be combined with {message}:"):
        load_grid(changed(path, value) | {"memory": {"selection": "reservoir"}})
    if "count" not in message:  # methods that do not use a reservoir allow the combination
        load_grid(changed(path, value) | {"memory": {"selection": "reservoir"}, "methods": ["gem", "agem"]})


def test_associative_memories_that_learn_maps_which_are_not_stored_cannot_be_charged():
    values = BASE | {"budget": {"unit": "bytes", "count_associative_memory": True}}
    with pytest.raises(UserError, match=r"sharc.complete last_batches cannot be combined with budget.count"):
        load_grid(values | {"sharc": {"complete": "last_batches"}})
    load_grid(values | {"sharc": {"complete": "last_batches"}, "variants": ["plain"]})


def test_a_clash_of_file_and_protocol_names_the_protocol():
    values = BASE | {"protocol": "mammoth", "budget": {"unit": "nonzero"}}
    with pytest.raises(UserError, match=r"reservoir under protocol mammoth cannot .* budget.unit nonzero"):
        load_grid(values)
    with pytest.raises(UserError, match="exclude each other"):
        load_grid(BASE | {"protocol": "paper+batches+reservoir"})
