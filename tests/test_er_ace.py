"""ER-ACE compared with the paper's loss, one replica at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from factories import make_cell, make_features
from test_config import BASE
from test_methods import PARAMETERS, B, C, Net, R, make, scene  # noqa: F401

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.heads import Batch
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import forgetting
from sharc_core.methods import Task
from sharc_core.methods.er_ace import cross_entropy_among


def among(classes: list[int], net: Net, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of a softmax over the given classes only."""
    place = {label: position for position, label in enumerate(classes)}
    labels = torch.tensor([place[label] for label in batch.y[net.r].tolist()])
    return F.cross_entropy(net.logits(batch)[:, classes], labels)


@pytest.mark.parametrize("current", ["batch", "task"])
@pytest.mark.parametrize("is_filled", [True, False])
def test_update_is_the_papers(scene, current, is_filled):  # noqa: F811
    """Task 1 has classes 1 and 3; class 0 was seen before, class 2 comes later."""
    batch = Batch(scene.batch.x, torch.where(scene.batch.y % 2 == 0, 1, 3))
    batch.y[0] = 3  # one replica's batch lacks a class of the task
    replay = scene.memory.minibatches[0]
    replay.y = torch.where(replay.y == 2, 0, replay.y)
    scene.memory.is_filled = is_filled
    method = make("er_ace", scene.head, current=current)
    expected = []
    for r in range(R):
        net = Net(scene.head, r)
        present = sorted(set(batch.y[r].tolist())) if current == "batch" else [1, 3]
        loss = among(present, net, batch)
        expected.append(net.step(loss + among([0, 1, 3], net, replay) if is_filled else loss))
    method.begin_task(Task(1, 3, (1, 3), (0, 1, 3), C), scene.memory)
    method.observe(batch, scene.memory)
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], torch.stack(expected), rtol=1e-4, atol=1e-5)
    absent = scene.head.weight[:, 2]
    assert torch.equal(absent, torch.stack([Net(scene.head, r).w[2].detach() for r in range(R)]))


def test_among_all_classes_it_is_the_cross_entropy():
    source = torch.Generator().manual_seed(0)
    logits, y = torch.randn(R, B, C, generator=source), torch.randint(C, (R, B), generator=source)
    ours = cross_entropy_among(torch.ones(1, C, dtype=torch.bool), logits, y)
    wanted = torch.stack([F.cross_entropy(logits[r], y[r]) for r in range(R)])
    torch.testing.assert_close(ours, wanted)


def test_old_classes_are_not_pushed_down(scene):  # noqa: F811
    """Without replay, only the rows of the batch's classes change, whereas SGD changes all rows."""
    scene.memory.is_filled = False
    batch = Batch(scene.batch.x, torch.where(scene.batch.y < 2, 2, 3))
    for name, moved in (("er_ace", [False, False, True, True]), ("sgd", [True] * 4)):
        head = scene.head.copy()
        method = make(name, head)
        method.begin_task(Task(1, 2, (2, 3), (0, 1, 2, 3), C), scene.memory)
        method.observe(batch, scene.memory)
        assert (head.weight != scene.head.weight).any(2).any(0).tolist() == moved


def test_it_forgets_less_than_er():
    """On easy clusters with a small reservoir, test the direction of the paper's claim, not its size."""
    features = make_features(separation=3.0, train_per_class=60)
    forgotten = {}
    for name in ("er", "er_ace"):
        cell = make_cell(name, buffer=6, selection="reservoir", seeds=[0, 1, 2, 3, 4])
        matrix = np.array(run_cell(features, cell)["matrix"]["class_il"], dtype=float)
        forgotten[name] = forgetting(matrix).mean()
    assert forgotten["er_ace"] < forgotten["er"] - 5


def test_without_the_current_task_in_the_memory_its_classes_are_never_predicted():
    """Nothing trains them against the old classes, so a grid refuses this combination."""
    cell = make_cell("er_ace", seeds=[0])
    assert cell.selection == "last"
    document = run_cell(make_features(separation=3.0, train_per_class=60), cell)
    last = document["matrix"]["class_il"][0][-1]
    assert last[-1] < 5 and min(last[:-1]) > 60
    assert document["matrix"]["task_il"][0][-1][-1] > 90
    with pytest.raises(UserError, match="memory.selection last cannot be combined with method er_ace, whose"):
        load_grid(BASE | {"methods": ["er", "er_ace"]})
    for changes in ({"memory": {"selection": "reservoir"}}, {"protocol": "paper+reservoir"}):
        grid = load_grid(BASE | {"methods": ["gem", "er_ace"]} | changes)
        assert {cell.method: cell.selection for cell in cells(grid)} == {"gem": "last", "er_ace": "reservoir"}
