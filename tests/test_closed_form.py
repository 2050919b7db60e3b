"""Laws of all closed-form classifiers: any minibatches give the same, and bytes are known before a run."""

import pytest
import torch
from factories import SMALL, state
from hypothesis import given, settings
from hypothesis import strategies as st

from sharc_core.heads import Batch, make_head
from sharc_core.methods import METHODS, Task
from sharc_core.methods.closed_form import Chunks, ClosedForm

R, D, C, SAMPLES = 2, 16, 4, 37
KINDS = {name: METHODS.get(name) for name in METHODS.names() if issubclass(METHODS.get(name), ClosedForm)}
CHUNKED = {"ridge", "ranpac", "fecam"}  # their bits do not depend on the size of the minibatches
VARIANTS = [(name, {}) for name in KINDS] + [
    ("ridge", {"ridge": None}),
    ("ranpac", {"ridge": 1.0}),
    ("fecam", {"covariance": "common"}),
]
EACH = pytest.mark.parametrize(("name", "changes"), VARIANTS, ids=lambda value: str(value))


def make(name: str, changes: dict, replicas: int = R, device: str = "cpu", first: int = 0):
    head = make_head("linear", 0, replicas, D, C, device)
    generators = [torch.Generator().manual_seed(first + r) for r in range(replicas)]
    kind = KINDS[name]
    return kind(head, kind.Settings(**(SMALL.get(name, {}) | changes)), 0.1, 10, generators)


def stream(seed: int = 0) -> list[Batch]:
    """Return the samples of two tasks of two classes, each as one batch."""
    source = torch.Generator().manual_seed(seed)
    y = [torch.randint(2, (R, SAMPLES), generator=source) + 2 * task for task in range(2)]
    noise = [torch.rand(R, SAMPLES, D, generator=source) for _ in y]
    return [Batch(x + torch.nn.functional.one_hot(own, D), own) for x, own in zip(noise, y, strict=True)]


def learn(method, tasks: list[Batch], sizes: list[int]):
    """Feed the tasks in minibatches whose sizes repeat the given ones."""
    for number, whole in enumerate(tasks):
        classes = tuple(range(2 * number, 2 * number + 2))
        task = Task(number, len(tasks), classes, tuple(range(2 * number + 2)), C)
        method.begin_task(task, None)
        start = 0
        for turn in range(SAMPLES):
            stop = start + sizes[turn % len(sizes)]
            if start < SAMPLES:
                method.observe(Batch(whole.x[:, start:stop], whole.y[:, start:stop]), None)
            start = stop
        method.end_task(task, None)
    return method


@EACH
@given(sizes=st.lists(st.integers(1, SAMPLES), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_any_minibatches_give_the_same(name, changes, sizes):
    one, other = (learn(make(name, changes), stream(), each) for each in ([SAMPLES], sizes))
    tests = torch.rand(R, 9, D, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one.predict(tests), other.predict(tests), rtol=1e-9, atol=1e-9)
    if name in CHUNKED:
        assert all(torch.equal(value, state(other)[key]) for key, value in state(one).items())


@EACH
def test_replicas_have_the_bits_of_separate_runs(name, changes):
    together = learn(make(name, changes), stream(), [10])
    tests = torch.rand(R, 9, D, generator=torch.Generator().manual_seed(1))
    for r in range(R):
        own = [Batch(batch.x[r : r + 1], batch.y[r : r + 1]) for batch in stream()]
        alone = learn(make(name, changes, 1, first=r), own, [10])
        assert all(torch.equal(value[r], state(alone)[key][0]) for key, value in state(together).items())
        assert torch.equal(together.predict(tests)[r], alone.predict(tests[r : r + 1])[0])


@EACH
def test_bytes_are_known_before_anything_is_allocated(name, changes):
    """They are the same on the device `meta`, for one seed, and after a run."""
    method = make(name, changes)
    known = method.extra_bytes
    assert known == make(name, changes, 1, "meta").extra_bytes > 0
    assert learn(method, stream(), [10]).extra_bytes == known


def test_chunks_return_every_sample_once_and_in_order():
    head = make_head("linear", 0, R, D, C)
    chunks, whole = Chunks(head, 5), stream()[0]
    seen = []
    for x, y in zip(whole.x.split(8, 1), whole.y.split(8, 1), strict=True):
        seen += [(a.clone(), b.clone()) for a, b in chunks.add(Batch(x, y))]
    assert {y.shape[1] for _, y in seen} == {5}
    seen += [(a.clone(), b.clone()) for a, b in chunks.rest()]
    assert not list(chunks.rest())
    x, y = (torch.cat(parts, 1) for parts in zip(*seen, strict=True))
    assert torch.equal(x, whole.x) and torch.equal(y, whole.y)
