"""The contract of every method, tested against the traits that its class declares.

An added method is tested here automatically. For whole runs see test_learner.py.
"""

import copy
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from factories import state
from test_config import BASE
from test_methods import FixedMemory, make

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import HeadConfig
from sharc_core.grid.loading import load_grid
from sharc_core.heads import Batch, Head, make_head
from sharc_core.methods import METHODS, Task
from sharc_core.selection import SELECTIONS

R, B, D, C = 3, 6, 8, 6
TASKS = [(0, 1), (2, 3), (4, 5)]
HEADS = get_args(HeadConfig.model_fields["kind"].annotation)
UNCOUNTED = 4096  # bytes allowed for counters and drawn random numbers

ALL = pytest.mark.parametrize("name", METHODS.names())


class Untouchable:
    """Replaces the memory of a method that declares that it uses none; any access fails."""

    def __getattr__(self, name: str):
        raise AssertionError(f"uses_memory is False, but the method asks for memory.{name}")

    def __bool__(self) -> bool:
        raise AssertionError("uses_memory is False, but the method asks whether the memory holds anything")


def random_batch(classes: tuple[int, ...], source: torch.Generator, logits: bool, size: int = B) -> Batch:
    y = torch.tensor(classes)[torch.randint(len(classes), (R, size), generator=source)]
    x = torch.rand(R, size, D, generator=source) + torch.nn.functional.one_hot(y, D)
    return Batch(x, y, torch.randn(R, size, C, generator=source) if logits else None)


def make_stream() -> list[list[Batch]]:
    """Return four minibatches of each task."""
    source = torch.Generator().manual_seed(0)
    return [[random_batch(classes, source, False) for _ in range(4)] for classes in TASKS]


def make_memory(name: str) -> FixedMemory | Untouchable:
    """Return a memory of past samples, with logits only if the method declares that it needs them."""
    kind, source = METHODS.get(name), torch.Generator().manual_seed(1)
    if not kind.uses_memory:
        return Untouchable()
    minibatches = [random_batch(TASKS[0] + TASKS[1], source, kind.needs_logits) for _ in range(2)]
    return FixedMemory(minibatches, [random_batch(task, source, kind.needs_logits, 12) for task in TASKS])


def make_method(name: str, head: str | None = None, features: int = D):
    kind = METHODS.get(name)
    made = make_head(head or kind.heads[0], 5, R, features, C)
    made.initialise(list(range(R)))
    return make(name, made)


def learn(method, memory, stream: list[list[Batch]], tasks: list[tuple[int, ...]] = TASKS) -> None:
    """Call the hooks as the learner does. A FixedMemory holds the tasks learnt so far."""
    past = memory.past if isinstance(memory, FixedMemory) else []
    with torch.no_grad():
        for number, (classes, batches) in enumerate(zip(tasks, stream, strict=True)):
            if isinstance(memory, FixedMemory):
                memory.is_filled, memory.past = number > 0, past[:number]
            task = Task(number, len(tasks), classes, sum(tasks[: number + 1], ()), C)
            method.begin_task(task, memory)
            for batch in batches:
                method.observe(batch, memory)
            for batch in batches if method.reviews_tasks else []:
                method.review(batch)
            method.end_task(task, memory)
            if isinstance(memory, FixedMemory):
                memory.past = past[: number + 1]
                memory.is_filled = True
                method.filled(memory)


def some_features() -> torch.Tensor:
    """Return features (R, n, D), equal for every replica and not contiguous, as the learner passes them."""
    return torch.rand(9, D, generator=torch.Generator().manual_seed(2)).expand(R, -1, -1)


@ALL
def test_traits_are_consistent(name):
    kind = METHODS.get(name)
    assert kind.title is None or (kind.title == kind.title.strip() and 0 < len(kind.title) <= 24)
    assert kind.heads and set(kind.heads) <= set(HEADS)
    assert kind.passes >= 1
    if not kind.uses_memory:
        of_replay = (kind.needs_logits, kind.fills_at_task_end, kind.replays_current_task)
        assert not any(of_replay) and not kind.replays_tasks_if and not kind.selections
    assert set(kind.selections) <= set(SELECTIONS.names())
    assert not (kind.fills_at_task_end and kind.replays_current_task)
    if kind.joint or kind.baseline:
        assert not kind.uses_memory
    for key, value in kind.replays_tasks_if.items():
        assert getattr(kind.Settings(**{key: value}), key) == value


def test_titles_are_distinct():
    titles = [METHODS.get(name).title or name.upper() for name in METHODS.names()]
    assert len(set(titles)) == len(titles)


@ALL
def test_method_runs_with_declared_heads_and_the_grid_refuses_the_others(name):
    for head in HEADS:
        values = {key: value for key, value in BASE.items() if key != "methods"}
        values |= {"methods": [name], "head": {"kind": head}}
        if METHODS.get(name).replays_current_task:
            values |= {"memory": {"selection": "reservoir"}}
        elif METHODS.get(name).selections:
            values |= {"memory": {"selection": METHODS.get(name).selections[0]}}
        if head in METHODS.get(name).heads:
            load_grid(values)
            method = make_method(name, head)
            learn(method, make_memory(name), make_stream())
            assert method.predict(some_features()).shape == (R, 9, C)
        else:
            with pytest.raises(UserError, match=f"^config: head.kind {head} cannot be combined with method"):
                load_grid(values)


def test_the_grid_refuses_a_method_that_replays_the_current_task_from_a_memory_without_it(monkeypatch):
    load_grid(BASE | {"methods": ["er", "gem"]})
    monkeypatch.setattr(METHODS.get("er"), "replays_current_task", True)
    load_grid(BASE | {"methods": ["er", "gem"], "memory": {"selection": "reservoir"}})
    load_grid(BASE | {"methods": ["er", "gem"], "protocol": "mammoth"})
    with pytest.raises(UserError, match="^config: memory.selection last cannot be combined with method er, "):
        load_grid(BASE | {"methods": ["er", "gem"]})
    with pytest.raises(UserError, match="selection batches under protocol code cannot be .* method er, "):
        load_grid(BASE | {"methods": ["er", "gem"], "protocol": ["mammoth", "code"]})


@ALL
def test_it_trains_the_head_if_and_only_if_it_says_so(name):
    method = make_method(name)
    before = method.head.vector.clone()
    learn(method, make_memory(name), make_stream())
    changed = (method.head.vector != before).any(1)
    assert bool(changed.all() if METHODS.get(name).trains_head else not changed.any())


@ALL
def test_predictions_are_scores_and_change_nothing(name):
    method, x = make_method(name), some_features()
    untrained = method.predict(x)
    assert untrained.shape == (R, 9, C) and not untrained.isnan().any()
    for upto in range(1, len(TASKS) + 1):
        learned = copy.deepcopy(method)
        learn(learned, make_memory(name), make_stream()[:upto], TASKS[:upto])
        before = state(learned)
        scores = learned.predict(x)
        assert scores.shape == (R, 9, C) and scores.is_floating_point() and not scores.isnan().any()
        seen = list(sum(TASKS[:upto], ()))
        assert scores[..., seen].isfinite().all(), "a class that was seen has a score"
        assert torch.equal(learned.predict(x), scores)
        after = state(learned)
        assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
        assert torch.equal(x, some_features())
        one_by_one = torch.cat([learned.predict(x[:, i : i + 1]) for i in range(9)], 1)
        torch.testing.assert_close(one_by_one, scores, rtol=1e-4, atol=1e-5)


@ALL
def test_replicas_do_not_mix(name):
    """All attributes of replicas trained together equal those of replicas trained alone."""
    together, memory = make_method(name), make_memory(name)
    learn(together, memory, make_stream())

    def only(batch: Batch, r: int) -> Batch:
        return Batch(*(None if v is None else v[r : r + 1] for v in (batch.x, batch.y, batch.logits)))

    for r in range(R):
        kind = METHODS.get(name)
        head = make_head(kind.heads[0], 5, 1, D, C)
        head.initialise([r])
        generators = [torch.Generator().manual_seed(r)]
        alone = kind(head, together.settings, together.lr, together.replay_batch_size, generators)
        memory = make_memory(name)
        if kind.uses_memory:
            minibatches, past = ([only(b, r) for b in rows] for rows in (memory.minibatches, memory.past))
            memory = FixedMemory(minibatches, past)
        learn(alone, memory, [[only(b, r) for b in batches] for batches in make_stream()])
        own = state(alone)
        for attribute, tensor in state(together).items():
            torch.testing.assert_close(own[attribute][0], tensor[r], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in METHODS.names() if not METHODS.get(n).order_matters])
def test_the_order_of_the_samples_matters_only_if_it_says_so(name):
    """Shuffling within tasks, reversing tasks or joining tasks gives the same predictions."""
    method, stream = make_method(name), make_stream()
    learn(method, make_memory(name), stream)
    expected = method.predict(some_features())

    def shuffled(batches: list[Batch]) -> list[Batch]:
        x, y = torch.cat([b.x for b in batches], 1), torch.cat([b.y for b in batches], 1)
        order = torch.randperm(y.shape[1], generator=torch.Generator().manual_seed(3))
        return [Batch(x[:, part], y[:, part]) for part in order.split(B - 1)]

    for batches, tasks in (
        ([shuffled(b) for b in stream], TASKS),
        (stream[::-1], TASKS[::-1]),
        ([shuffled(sum(stream, []))], [sum(TASKS, ())]),
    ):
        again = make_method(name)
        learn(again, make_memory(name), batches, tasks)
        torch.testing.assert_close(again.predict(some_features()), expected, rtol=1e-6, atol=1e-6)


def tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Head):
        yield value.vector
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors(inner)
    elif type(value).__module__.startswith("sharc_core.methods."):
        yield from tensors(vars(value))


@ALL
def test_kept_tensors_are_counted(name):
    """Tensors in the attributes, without the head, take extra_bytes, which are known before the run."""
    wide = 512
    method = make_method(name, features=wide)
    planned = method.extra_bytes
    stream = [[Batch(b.x.repeat(1, 1, wide // D), b.y) for b in batches] for batches in make_stream()]
    memory = make_memory(name)
    if isinstance(memory, FixedMemory):
        for batch in [*memory.minibatches, *memory.past]:
            batch.x = batch.x.repeat(1, 1, wide // D)
    learn(method, memory, stream)
    kept = {k: v for k, v in vars(method).items() if k not in ("head", "settings", "generators")}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(kept)}
    assert abs(sum(storages.values()) / R - planned) <= UNCOUNTED
    assert method.extra_bytes == planned
    head = method.head.bytes_per_replica if METHODS.get(name).trains_head else 0
    assert method.learner_bytes == head + method.extra_bytes
