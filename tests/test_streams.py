"""Streams partition the data; orders are permutations that depend on their own axis only."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharc_core.common.errors import UserError
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.streams import make_stream, split_classes


@given(tasks=st.integers(1, 6), size=st.integers(2, 5), seed=st.one_of(st.none(), st.integers(0, 9)))
def test_split_partitions_the_classes(tasks, size, seed):
    parts = split_classes(tasks * size, tasks, seed)
    assert [len(p) for p in parts] == [size] * tasks
    assert sorted(sum(parts, [])) == list(range(tasks * size))
    if seed is None:
        assert sum(parts, []) == list(range(tasks * size))


@pytest.mark.parametrize(("classes", "tasks"), [(10, 3), (10, 10), (1, 1), (7, 2)])
def test_tasks_that_do_not_divide_the_classes(classes, tasks):
    with pytest.raises(UserError, match=f"tasks: {tasks} does not divide {classes} classes"):
        split_classes(classes, tasks)


def test_stream_covers_every_sample_once():
    labels = torch.randint(6, (200,), generator=torch.Generator().manual_seed(0))
    stream = make_stream(labels, labels[:90], 6, 3, class_order_seed=1)
    assert torch.equal(torch.cat(stream.train).sort().values, torch.arange(200))
    assert torch.equal(stream.joint().train[0], torch.arange(200))
    for index, classes in zip(stream.train, stream.classes_per_task, strict=True):
        assert set(labels[index].tolist()) == set(classes)


def test_order_is_a_permutation_per_seed_task_and_epoch():
    labels = torch.arange(60) % 6
    stream = make_stream(labels, labels, 6, 3)
    both = stream.order(1, 0, [4, 5])
    assert torch.equal(both.sort(1).values, stream.train[1].expand(2, -1))
    assert torch.equal(both[1], stream.order(1, 0, [5])[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, stream.order(1, 1, [4, 5]))


def test_a_task_without_test_images():
    with pytest.raises(UserError, match="task 2 has no test image"):
        make_stream(torch.arange(4), torch.tensor([0, 1]), 4, 2)


def test_axes_are_independent_and_stable():
    assert derived_seed(0, "order", 1) != derived_seed(0, "order", 11)
    assert derived_seed(0, "a") != derived_seed(1, "a")
    assert torch.rand(1, generator=generator(0, "a")) == torch.rand(1, generator=generator(0, "a"))
