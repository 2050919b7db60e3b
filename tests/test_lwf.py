"""Learning without Forgetting, compared with an autograd version step by step."""

import numpy as np
import pytest
import torch
from autograd_net import TASKS, C, held_bytes, make_method, paths, stream, train
from factories import make_cell, make_features
from test_method_contract import HEADS

from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS

KINDS = pytest.mark.parametrize("kind", HEADS)


def recorded(net) -> object:
    """Return a function of a batch that returns the net's current logits, for later."""
    values = net.copies()

    def logits(batch):
        now = net.parameters
        net.parameters = dict(zip(now, values, strict=True))
        found = net.logits(batch)
        net.parameters = now
        return found

    return logits


@KINDS
@pytest.mark.parametrize("outputs", ["shared", "per_task"])
def test_every_step_is_that_of_autograd(kind, outputs):
    weight, temperature, old = 1.5, 3.0, {}

    def step(net, task, batch):
        logits, number = net.logits(batch), task.number
        if batch.x.shape[1] == 6:  # the first minibatch of a task
            old[net.r] = recorded(net)
        labels, classes = batch.y[net.r], list(range(C))
        if outputs == "per_task":
            classes = list(task.classes)
            labels = labels - classes[0]
        loss = torch.nn.functional.cross_entropy(logits[:, classes], labels)
        groups = [list(classes) for classes in TASKS[:number]]
        if outputs == "shared" and number:
            groups = [sum(groups, [])]
        for group in groups:
            target = torch.softmax(old[net.r](batch)[:, group] / temperature, 1)
            now = torch.log_softmax(logits[:, group] / temperature, 1)
            loss = loss + weight * torch.nn.functional.kl_div(now, target, reduction="batchmean")
        net.step(loss)

    train(make_method("lwf", kind, weight=weight, temperature=temperature, outputs=outputs), step)


@KINDS
def test_without_weight_it_is_sgd(kind):
    pairs = zip(paths("lwf", kind, weight=0), paths("sgd", kind), strict=True)
    assert all(torch.equal(ours, sgds) for ours, sgds in pairs)
    assert not torch.equal(paths("lwf", kind)[-1], paths("sgd", kind)[-1])


def test_with_a_softmax_per_task_a_linear_head_keeps_the_old_classes():
    """Their gradient is 0 where they start, because the features do not change."""
    method = make_method("lwf", "linear", outputs="per_task")
    with torch.no_grad():
        for task, batches in stream():
            method.begin_task(task, None)
            before = method.head.weight.clone()
            for batch in batches:
                method.observe(batch, None)
            changed = (method.head.weight - before).abs().amax(2) > 1e-12
            assert changed.sum(1).tolist() == [2] * 3 and changed[:, list(task.classes)].all()


@KINDS
def test_bytes_are_those_of_the_previous_head(kind):
    method = make_method("lwf", kind)
    assert method.extra_bytes == held_bytes(method) == method.head.bytes_per_replica


def test_a_run_costs_a_second_head_and_its_logits():
    features = make_features(separation=1.0, train_per_class=60)
    sgd, shared, per_task = (
        run_cell(features, make_cell(name, method_settings=settings_of(METHODS, name, given, "")))
        for name, given in (("sgd", {}), ("lwf", {}), ("lwf", {"outputs": "per_task"}))
    )
    assert shared["costs"]["learner_bytes"] == [2 * 4 * 6 * 13] * 3
    assert shared["costs"]["backbone_passes"] == sgd["costs"]["backbone_passes"] == [6 * 60] * 3
    # loss and gradient of SGD; in two of three tasks also logits of both heads and a second gradient
    of_product = 2 * 12 * 6 * 6 * 60
    assert sgd["costs"]["train_flops"] == [2 * of_product] * 3
    assert shared["costs"]["train_flops"] == [2 * of_product + 3 * of_product * 2 // 3] * 3
    matrix = np.array(per_task["matrix"]["task_il"])
    for task in range(2):
        assert (matrix[:, task, task] == matrix[:, -1, task]).all(), "a linear head forgets nothing"
