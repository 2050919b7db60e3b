"""iCaRL compared with a loop over its algorithms, one replica at a time."""

import pytest
import torch
import torch.nn.functional as F
from factories import make_cell, make_features
from test_config import BASE
from test_methods import LR, B, C, D, FixedMemory, R, random_batch
from test_ncm import methods  # noqa: F401

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import HeadConfig
from sharc_core.grid.loading import load_grid
from sharc_core.heads import Batch, make_head
from sharc_core.learning import learner
from sharc_core.learning.learner import make_memory, run_cell
from sharc_core.methods import METHODS, Task
from sharc_core.methods.icarl import sigmoid

H = 7  # hidden units
HEADS = pytest.mark.parametrize("kind", ["linear", "mlp"])


def make(kind: str, seeds: list[int] = [0, 1, 2]):  # noqa: B006
    head = make_head(kind, H, len(seeds), D, C)
    head.initialise(seeds)
    return METHODS.get("icarl")(
        head, METHODS.get("icarl").Settings(), LR, B, [torch.Generator()] * len(seeds)
    )


def module_of(head, r: int) -> torch.nn.Module:
    """Return one replica of a head as a module of torch, whose last layer is its last item."""
    layers = [torch.nn.Linear(head.features, head.embedding_width), torch.nn.ReLU()]
    last = torch.nn.Linear(head.embedding_width, head.classes)
    net = torch.nn.Sequential(*(layers if "weight1" in head.shapes else []), last)
    for parameter, name in zip(net.parameters(), head.shapes, strict=True):
        parameter.data.copy_(getattr(head, name)[r])
    return net


def labelled(batch: Batch, labels: tuple[int, ...]) -> Batch:
    """Return the batch with only these labels."""
    return Batch(batch.x, torch.tensor(labels)[batch.y % len(labels)])


@HEADS
def test_updates_are_those_of_algorithm_3(kind):
    """Three tasks of one or two classes; class 3 is seen last. Old classes have the old head's outputs."""
    method, replay = make(kind), labelled(random_batch(11), (0, 2))
    nets = [module_of(method.head, r) for r in range(R)]
    tasks, seen = [(2,), (0, 1), (3,)], []
    for number, classes in enumerate(tasks):
        old, seen = list(seen), [*seen, *classes]
        memory = FixedMemory([replay], [])
        memory.is_filled = number > 0
        method.begin_task(Task(number, 3, classes, tuple(seen), C), memory)
        before = [module_of(method.head, r) for r in range(R)]
        for step in range(3):
            batch = labelled(random_batch(10 * number + step), classes)
            method.observe(batch, memory)
            for r, (net, previous) in enumerate(zip(nets, before, strict=True)):
                x, y = batch.x[r], batch.y[r]
                if number:
                    x, y = torch.cat([x, replay.x[r]]), torch.cat([y, replay.y[r]])
                loss = 0.0
                for label in old:
                    target = previous(x).detach()[:, label].sigmoid()
                    loss += F.binary_cross_entropy(net(x)[:, label].sigmoid(), target)
                for label in classes:
                    loss += F.binary_cross_entropy(net(x)[:, label].sigmoid(), (y == label).float())
                gradients = torch.autograd.grad(loss / len(seen), list(net.parameters()))
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter.data.sub_(gradient, alpha=LR)
        expected = torch.stack([torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets])
        found = method.head.vector[:, : expected.shape[1]]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_classes_of_the_task_have_labels_even_if_they_were_seen_before():
    """As in streams whose tasks share classes. With all classes in the task, the old head does not matter."""
    heads = []
    for offset in (0.0, 5.0):
        method = make("linear")
        method.begin_task(Task(1, 2, tuple(range(C)), tuple(range(C)), C), None)
        method.previous.vector.add_(offset)
        method.observe(random_batch(1), FixedMemory([random_batch(2)], []))
        heads.append(method.head.vector)
    assert torch.equal(*heads)


@HEADS
def test_predictions_are_the_nearest_mean_of_exemplars(kind):
    """Compare with algorithm 1 by loops. Class 3 has no exemplar, so it is never predicted."""
    method = make(kind)
    past = [labelled(random_batch(20, 9), (0, 2)), labelled(random_batch(21, 11), (1,))]
    assert (method.predict(random_batch(0).x) == -torch.inf).all(), "there are no exemplars yet"
    method.filled(FixedMemory([], past))
    tests = random_batch(3, 40).x
    scores = method.predict(tests)
    for r in range(R):
        embed = module_of(method.head, r)[:-1]
        phi = [embed(task.x[r]).detach() for task in past]
        phi, y = torch.cat(phi), torch.cat([task.y[r] for task in past])
        means = []
        for label in range(3):
            mean = torch.stack([v / v.norm() for v in phi[y == label]]).mean(0)
            means.append(mean / mean.norm())
        for i, x in enumerate(embed(tests[r]).detach()):
            distances = torch.stack([(x / x.norm() - mean).norm() for mean in means])
            assert scores[r, i].argmax() == distances.argmin()
            torch.testing.assert_close(2 - 2 * scores[r, i, :3], distances.square(), rtol=1e-4, atol=1e-5)
        assert (scores[r, :, 3] == -torch.inf).all()


@pytest.mark.parametrize("variant", ["plain", "sharc"])
@HEADS
def test_runs_predict_by_what_the_memory_holds_after_each_task(methods, monkeypatch, variant, kind):  # noqa: F811
    """The means of the last evaluation include the exemplars of the last task, completed."""
    made = []
    monkeypatch.setattr(learner, "make_memory", lambda *args: made.append(make_memory(*args)) or made[-1])
    features = make_features(separation=3.0)
    cell = make_cell("icarl", variant, selection="herding", buffer=18, head=HeadConfig(kind=kind, hidden=24))
    document = run_cell(features, cell)
    assert min(row[-1][task] for row in document["matrix"]["class_il"] for task in range(3)) > 70
    method, memory = methods[-1], made[-1]
    for r in range(3):
        index = torch.cat([stored.index[r] for stored in memory.stored])
        counts = features.train_labels[index].bincount()
        assert counts.tolist() == [3 if variant == "plain" else 6] * 6
        embed = module_of(method.head, r)[:-1]
        phi = F.normalize(embed(features.train_pooled[index]).detach())  # recall is perfect
        for label in range(6):
            mean = F.normalize(phi[features.train_labels[index] == label].mean(0), dim=0)
            torch.testing.assert_close(method.means[r, label], mean, rtol=1e-4, atol=1e-5)


def test_training_changes_predictions_of_an_mlp_only():
    """A linear head has no embedding of its own on frozen features."""
    features = make_features(separation=0.3)
    for kind, is_changed in (("linear", False), ("mlp", True)):
        cell = make_cell("icarl", selection="herding", buffer=30, head=HeadConfig(kind=kind, hidden=24))
        found = [
            run_cell(features, cell.model_copy(update={"training": cell.training.model_copy(update=changes)}))
            for changes in ({"lr": 0.01}, {"lr": 1.0})
        ]
        assert (found[0]["matrix"] != found[1]["matrix"]) == is_changed


@HEADS
def test_bytes_are_an_old_head_the_means_and_what_is_known_of_each_class(kind):
    method = make(kind)
    width = D if kind == "linear" else H
    expected = method.head.bytes_per_replica + 4 * C * width + 3 * C
    assert method.extra_bytes == expected
    method.begin_task(Task(0, 1, tuple(range(C)), tuple(range(C)), C), None)
    method.observe(random_batch(1), FixedMemory([random_batch(2)], []))
    method.filled(FixedMemory([], [random_batch(20, 9)]))
    assert method.extra_bytes == expected


def test_sigmoid_is_the_logistic_function_and_treats_replicas_alike():
    logits = 20 * torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sigmoid(logits), logits.sigmoid())
    assert all(torch.equal(sigmoid(logits)[r], sigmoid(logits[r : r + 1])[0]) for r in range(5))
    assert sigmoid(torch.tensor([[[-200.0, 0.0, 200.0]]])).tolist() == [[[0.0, 0.5, 1.0]]]


@pytest.mark.reliability("unfit-method")
@pytest.mark.parametrize("selection", ["last", "balanced", "batches", "reservoir"])
def test_exemplars_that_herding_does_not_choose_are_refused(selection):
    grid = {"methods": ["er", "icarl"], "memory": {"selection": selection}}
    with pytest.raises(UserError) as error:
        load_grid(BASE | grid)
    assert str(error.value) == (
        f"config: memory.selection {selection} cannot be combined with method icarl: use selection herding, "
        "or take icarl out of methods"
    )
    load_grid(BASE | grid | {"memory": {"selection": "herding"}})
