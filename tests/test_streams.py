"""Streams partition the data; orders are permutations that depend only on their axis."""

import json
from fractions import Fraction

import pytest
import torch
from factories import make_cell
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sharc_core.common.errors import UserError
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.grid.cell import Cell
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream, split_classes

# The settings of a cell in documents that were written before cells held a stream, and their config_hash.
DOCUMENT = {
    "dataset": "s_digits",
    "tasks": 5,
    "class_order_seed": 3,
    "backbone": "small",
    "method": "sgd",
    "variant": "plain",
    "training": {"lr": 0.1, "batch_size": 10, "replay_batch_size": 10, "epochs": 1},
    "head": {"kind": "linear", "hidden": 256},
    "method_settings": {},
    "buffer": None,
    "budget_unit": None,
    "budget_split": "equal",
    "selection": "last",
    "count_associative_memory": False,
    "storage": "float16",
    "theta": None,
    "mass": None,
    "saliency": None,
    "importance": None,
    "associative_memory": None,
    "associative_kind": None,
    "associative_settings": {},
    "saliency_at": None,
    "read": None,
    "complete": None,
    "forget_every": None,
    "forget_unit": None,
    "forget_beta": None,
    "views": 1,
    "batch_norm": "frozen",
    "passes": None,
    "protocol": "paper",
    "device": "cpu",
}
HASH = "1c6ec5b7"


@given(tasks=st.integers(1, 6), size=st.integers(2, 5), seed=st.one_of(st.none(), st.integers(0, 9)))
def test_split_partitions_the_classes(tasks, size, seed):
    config = StreamConfig(tasks=tasks, class_order_seed=seed)
    parts = split_classes(tasks * size, config)
    assert [len(p) for p in parts] == [size] * tasks == [tasks * size * share for share in config.shares]
    assert sorted(sum(parts, [])) == list(range(tasks * size))
    if seed is None:
        assert sum(parts, []) == list(range(tasks * size))


@pytest.mark.parametrize(("classes", "tasks"), [(10, 3), (10, 20), (7, 2)])
def test_tasks_that_do_not_divide_the_classes(classes, tasks):
    with pytest.raises(UserError, match=f"tasks: {tasks} does not divide {classes} classes"):
        split_classes(classes, StreamConfig(tasks=tasks))


def test_stream_without_tasks_is_refused():
    with pytest.raises(ValidationError, match="tasks"):
        StreamConfig(tasks=0)


def test_shares_of_the_tasks_add_up_to_one():
    assert StreamConfig(tasks=3).shares == (Fraction(1, 3),) * 3


def test_a_cell_holds_its_stream_and_documents_hold_its_keys():
    """A document that was written before cells held a stream object still matches its cell."""
    cell = Cell(**DOCUMENT, seeds=[0], scenarios=["class_il"])
    assert cell.stream == StreamConfig(tasks=5, class_order_seed=3)
    assert json.dumps(cell.settings) == json.dumps(DOCUMENT)
    assert cell.config_hash == HASH
    assert cell.job == DOCUMENT | {"seeds": [0]}
    assert Cell.model_validate(cell.job) == cell.model_copy(update={"scenarios": ["task_il", "class_il"]})
    assert Cell.model_validate(cell) == cell


def test_keys_of_a_cells_stream_are_checked():
    for change in ({"tasks": 0}, {"tasks": "5"}, {"class_order_seed": 0.5}):
        with pytest.raises(ValidationError, match=next(iter(change))):
            make_cell("er", **change)
    with pytest.raises(ValidationError, match=r"stream\.tasks"):
        Cell(**{key: value for key, value in DOCUMENT.items() if key != "tasks"}, seeds=[0])


def test_stream_covers_every_sample_once():
    labels = torch.randint(6, (200,), generator=torch.Generator().manual_seed(0))
    stream = make_stream(labels, labels[:90], 6, StreamConfig(tasks=3, class_order_seed=1))
    assert torch.equal(torch.cat(stream.train).sort().values, torch.arange(200))
    assert torch.equal(stream.joint().train[0], torch.arange(200))
    for index, classes in zip(stream.train, stream.classes_per_task, strict=True):
        assert set(labels[index].tolist()) == set(classes)


def test_order_is_a_permutation_per_seed_task_and_epoch():
    labels = torch.arange(60) % 6
    stream = make_stream(labels, labels, 6, StreamConfig(tasks=3))
    both = stream.order(1, 0, [4, 5])
    assert torch.equal(both.sort(1).values, stream.train[1].expand(2, -1))
    assert torch.equal(both[1], stream.order(1, 0, [5])[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, stream.order(1, 1, [4, 5]))


def test_a_task_without_test_images():
    with pytest.raises(UserError, match="task 2 has no test image"):
        make_stream(torch.arange(4), torch.tensor([0, 1]), 4, StreamConfig(tasks=2))


def test_axes_are_independent_and_stable():
    assert derived_seed(0, "order", 1) != derived_seed(0, "order", 11)
    assert derived_seed(0, "a") != derived_seed(1, "a")
    assert torch.rand(1, generator=generator(0, "a")) == torch.rand(1, generator=generator(0, "a"))


@pytest.mark.parametrize("key", ["class_order", "tasks"])
def test_a_number_that_is_also_the_name_of_another_class_is_refused(key):
    names = ["0", "1", "10", "2"]
    values = (
        {"class_order": [0, 1, 2, 3], "tasks": 2} if key == "class_order" else {"tasks": [[0, 1], [2, 3]]}
    )
    with pytest.raises(
        UserError, match=rf"^{key}: 2 is the number of class '10' and the name of another class"
    ):
        split_classes(names, StreamConfig(**values))
    named = {"class_order": names, "tasks": 2} if key == "class_order" else {"tasks": [names[:2], names[2:]]}
    assert split_classes(names, StreamConfig(**named)) == [[0, 1], [2, 3]]
