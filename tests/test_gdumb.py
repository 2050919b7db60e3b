"""GDumb compared with torch's optimiser and scheduler, used as in the authors' code."""

import pytest
import torch
import torch.nn.functional as F
from factories import make_cell, make_features
from test_config import BASE
from test_methods import C, D, FixedMemory, R, random_batch

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import HeadConfig, Training
from sharc_core.grid.loading import load_grid
from sharc_core.grid.tuned import concerns
from sharc_core.grid.unroll import cells
from sharc_core.heads import Batch, make_head
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS
from sharc_core.methods.gdumb import rate

SETTINGS = METHODS.get("gdumb").Settings


def make(kind: str = "linear", lr: float = 0.1, **settings):
    head = make_head(kind, 7, R, D, C)
    generators = [torch.Generator().manual_seed(r) for r in range(R)]
    return METHODS.get("gdumb")(head, SETTINGS(**settings), lr, 10, generators)


def module_of(head, r: int) -> torch.nn.Module:
    """Return one replica of a head as a module of torch."""
    layers = [torch.nn.Linear(D, 7), torch.nn.ReLU(), torch.nn.Linear(7, C)]
    net = torch.nn.Sequential(*(layers if "weight1" in head.shapes else [torch.nn.Linear(D, C)]))
    for parameter, name in zip(net.parameters(), head.shapes, strict=True):
        parameter.data.copy_(getattr(head, name)[r])
    return net


def trained(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, s, draws: torch.Generator) -> list[float]:
    """Train as the authors' code does, and return the norms of all gradients."""
    optimizer = torch.optim.SGD(
        net.parameters(), lr=s.max_lr, momentum=s.momentum, weight_decay=s.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 1, 2, eta_min=s.min_lr)
    norms = []
    for epoch in range(s.epochs):
        if epoch < 2:
            optimizer.param_groups[0]["lr"] = s.max_lr * (0.1 if epoch == 0 else 1.0)
        else:
            scheduler.step()
        order = torch.randperm(len(y), generator=draws)
        for part in order.split(s.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(net(x[part]), y[part]).backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(net.parameters(), s.clip)))
            optimizer.step()
    return norms


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("clip", [10.0, 0.4])
def test_the_head_is_trained_as_in_the_authors_code(kind, clip):
    """After one, two, ... epochs it equals a module of torch from the same start, with the same shuffles."""
    memory = FixedMemory([], [random_batch(20, 9), random_batch(21, 11)])
    x, y = (torch.cat([getattr(task, name) for task in memory.past], 1) for name in ("x", "y"))
    for epochs in (1, 2, 3, 9):
        changes = {"epochs": epochs, "batch_size": 6, "weight_decay": 0.01, "clip": clip}
        method = make(kind, **changes)
        method.filled(memory)
        for r in range(R):
            draws, start = torch.Generator().manual_seed(r), make_head(kind, 7, 1, D, C)
            start.initialise([int(torch.randint(2**62, (), generator=draws))])
            net = module_of(start, 0)
            norms = trained(net, x[r], y[r], SETTINGS(**changes), draws)
            assert (max(norms) > clip) == (clip < 1), "the small bound clips, the published one does not"
            expected = torch.cat([p.detach().flatten() for p in net.parameters()])
            torch.testing.assert_close(method.head.vector[r, : len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_rates_are_those_of_torchs_scheduler():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 1, 2, eta_min=0.0005)
    expected = [0.005, 0.05]
    for _ in range(254):
        optimizer.step()
        scheduler.step()
        expected.append(optimizer.param_groups[0]["lr"])
    rates = [rate(epoch, 0.05, 0.0005) for epoch in range(256)]
    assert rates == pytest.approx(expected)
    assert [epoch for epoch in range(1, 256) if rates[epoch] == 0.05] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert rates[-1] < 0.00052, "256 epochs end with a complete cycle"


def test_only_the_memory_and_the_seed_matter():
    """Not the head, the stream or the grid's training; each evaluation has a new head."""
    memory, heads = FixedMemory([], [random_batch(20, 9), random_batch(21, 11)]), []
    for offset in (0, 3):
        method = make(epochs=5, lr=0.1 + offset)
        method.head.weight.add_(offset)
        for seed in range(offset):
            method.observe(random_batch(seed), memory)
        method.filled(memory)
        heads.append(method.head.vector.clone())
    assert torch.equal(*heads)
    method.filled(memory)
    assert not torch.equal(method.head.vector, heads[0]), "other initial weights and shuffles"


def test_the_order_within_the_memory_does_not_matter_beyond_the_shuffle():
    """With one minibatch per epoch there is no shuffle left, and tasks and samples may be in any order."""
    tasks = [random_batch(20, 9), random_batch(21, 11)]
    mixed = []
    for task in tasks[::-1]:
        order = torch.randperm(task.y.shape[1], generator=torch.Generator().manual_seed(5))
        mixed.append(Batch(task.x[:, order], task.y[:, order]))
    heads = []
    for past in (tasks, mixed):
        method = make(batch_size=20)
        method.filled(FixedMemory([], past))
        heads.append(method.head.vector)
    torch.testing.assert_close(*heads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["plain", "sharc"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_runs_classify_all_tasks_and_ignore_the_grids_training(variant, kind):
    features = make_features(separation=3.0)
    settings = SETTINGS(epochs=63).model_dump()
    changes = {
        "buffer": 30,
        "selection": "balanced",
        "method_settings": settings,
        "head": HeadConfig(kind=kind, hidden=16),
    }
    document = run_cell(features, make_cell("gdumb", variant, **changes))
    assert min(row[-1][task] for row in document["matrix"]["class_il"] for task in range(3)) > 80
    assert document["costs"]["samples_stored"] == [30 if variant == "plain" else 60] * 3
    if variant == "plain":  # with the other variant, what is stored depends on the head of a task's end only
        other = Training(lr=3.0, replay_batch_size=7, epochs=1)
        assert (
            run_cell(features, make_cell("gdumb", **changes, training=other))["matrix"]
            == (document["matrix"])
        )


@pytest.mark.reliability("unfit-method")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "memory.selection last cannot"),
        ({"memory": {"selection": "reservoir"}}, "memory.selection reservoir cannot"),
        ({"protocol": ["paper", "mammoth"], "memory": {"selection": "herding"}}, "reservoir under protocol"),
    ],
)
def test_a_memory_that_is_not_balanced_is_refused(changes, message):
    with pytest.raises(UserError, match=message) as error:
        load_grid(BASE | {"methods": ["er", "gdumb"]} | changes)
    assert str(error.value).endswith(
        " be combined with method gdumb: use selection balanced or herding, or take gdumb out of methods"
    )


@pytest.mark.reliability("unfit-method")
def test_a_lower_rate_above_the_upper_one_is_refused():
    grid = {"methods": ["gdumb"], "memory": {"selection": "balanced"}}
    load_grid(BASE | grid)
    with pytest.raises(UserError, match=r"method_settings\.gdumb: min_lr 0\.1 is larger than max_lr 0\.05"):
        load_grid(BASE | grid | {"method_settings": {"gdumb": {"min_lr": 0.1}}})


def test_the_grids_training_is_not_tuned_for_it():
    grid = load_grid(BASE | {"methods": ["gdumb", "er"], "memory": {"selection": "balanced"}})
    tuned = {cell.method: concerns(cell, "training.lr") for cell in cells(grid)}
    assert tuned == {"gdumb": False, "er": True}
    assert all(concerns(cell, "method_settings.gdumb.max_lr") for cell in cells(grid) if cell.method != "er")
