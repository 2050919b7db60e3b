"""`training.steps_per_batch`, and the count of gradient samples."""

import pytest
import torch
from factories import make_cell, make_features
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Training
from sharc_core.grid.loading import load_grid
from sharc_core.grid.tuned import value_of, with_values
from sharc_core.heads import Batch, make_head
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS

PER_TASK, TASKS, BATCH, REPLAY = 80, 3, 10, 3  # of make_cell on make_features
BATCHES = PER_TASK // BATCH


def with_steps(cell, steps: float):
    return with_values(cell, {"training.steps_per_batch": steps})


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [1] * 6), (2, [2] * 6), (1.5, [1, 2] * 3), (4 / 3, [1, 1, 2, 1, 1, 2]), (2.25, [2, 2, 2, 3, 2, 2])],
)
def test_a_fraction_of_a_step_is_spread_evenly(steps, expected):
    training = Training(steps_per_batch=steps)
    assert [training.steps_of(number) for number in range(6)] == expected
    done = sum(training.steps_of(number) for number in range(1000))
    assert done == int(1000 * steps + 1e-6)


def test_every_minibatch_is_observed_as_often(monkeypatch):
    seen: list[tuple] = []
    kind = METHODS.get("er")
    observe = kind.observe
    monkeypatch.setattr(
        kind, "observe", lambda s, b, m: seen.append((b.x.clone(), bool(m))) or observe(s, b, m)
    )
    run_cell(make_features(), with_steps(make_cell("er"), 2))
    assert len(seen) == 2 * BATCHES * TASKS
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert all(torch.equal(a[0], b[0]) for a, b in pairs)
    assert not torch.equal(seen[0][0], seen[2][0]) and [m for _, m in seen[::2]].count(True) == 2 * BATCHES


def test_it_equals_sgd_on_every_minibatch_twice(monkeypatch):
    """The slow way: each minibatch of a run with one step, given twice to plain gradient descent."""
    batches: list[Batch] = []
    kind = METHODS.get("sgd")
    observe = kind.observe

    def noted(self, batch, memory):
        batches.append(Batch(batch.x.clone(), batch.y.clone()))
        observe(self, batch, memory)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "observe", noted)
        run_cell(make_features(), make_cell("sgd"))
    heads = []
    end = kind.end_task
    monkeypatch.setattr(
        kind, "end_task", lambda self, *a: heads.append(self.head.vector.clone()) or end(self, *a)
    )
    run_cell(make_features(), with_steps(make_cell("sgd"), 2))
    head = make_head("linear", 1, 3, 12, 6)
    head.initialise([0, 1, 2])
    for batch in batches:
        for _ in range(2):
            head.descend(head.cross_entropy(batch), 0.1)
    assert torch.equal(head.vector, heads[-1])


@pytest.mark.parametrize("method", ["ncm", "slda", "ridge"])
def test_closed_forms_see_every_minibatch_once(method):
    documents = [run_cell(make_features(), with_steps(make_cell(method), steps)) for steps in (1, 3)]
    assert documents[0]["matrix"] == documents[1]["matrix"]
    assert documents[0]["costs"]["gradient_samples"] == [0] * 3


@pytest.mark.parametrize(
    ("method", "first", "later"),
    [  # rows of a step in the first task and in later ones; GEM takes the gradient of each past task's memory
        ("sgd", BATCH, BATCH),
        ("er", BATCH, BATCH + REPLAY),
        ("agem", BATCH, BATCH + REPLAY),
        ("derpp", BATCH, BATCH + 2 * REPLAY),
        ("clser", BATCH, BATCH + 2 * REPLAY),
    ],
)
@pytest.mark.parametrize("steps", [1, 2.5])
def test_gradient_samples_are_counted(method, first, later, steps):
    document = run_cell(make_features(), with_steps(make_cell(method), steps))
    taken = BATCHES * steps
    assert document["costs"]["gradient_samples"] == [taken * first + taken * later * (TASKS - 1)] * 3


def test_gem_takes_the_gradient_of_all_that_is_stored():
    document = run_cell(make_features(), make_cell("gem"))
    stored = 12 // TASKS
    expected = BATCHES * (TASKS * BATCH + stored * (0 + 1 + 2))
    assert document["costs"]["gradient_samples"] == [expected] * 3


def test_the_default_leaves_older_hashes_as_they_are():
    assert Training().model_dump() == {"lr": 0.1, "batch_size": 10, "replay_batch_size": 10, "epochs": 1}
    cell = make_cell("er")
    assert value_of(cell, "training.steps_per_batch") == 1
    assert with_steps(cell, 1).config_hash == cell.config_hash != with_steps(cell, 2).config_hash


@pytest.mark.parametrize("steps", [0.5, 0, -1, 1001, float("nan"), "two"])
def test_bad_values_are_refused(steps):
    with pytest.raises(UserError, match=r"^config: training\.steps_per_batch"):
        load_grid(BASE | {"training": {"steps_per_batch": steps}})


def test_a_drifting_backbone_has_one_step_per_batch():
    backbone = BASE["backbone"] | {"batch_norm": "drifting"}
    with pytest.raises(
        UserError, match=r"^config: training.steps_per_batch 2 cannot be combined with batch_norm"
    ):
        load_grid(BASE | {"backbone": backbone, "training": {"steps_per_batch": 2}})
