"""Synaptic Intelligence, compared with an autograd version step by step."""

import numpy as np
import pytest
import torch
from autograd_net import held_bytes, make_method, paths, stream, train
from factories import make_cell, make_features
from test_method_contract import HEADS

from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import forgetting
from sharc_core.methods import METHODS

KINDS = pytest.mark.parametrize("kind", HEADS)


@KINDS
def test_every_step_is_that_of_autograd(kind):
    c, xi = 2.0, 0.05
    anchors, importances, omegas = {}, {}, {}

    def step(net, task, batch):
        r, before = net.r, net.copies()
        if r not in anchors:
            anchors[r] = before
            importances[r] = [torch.zeros_like(value) for value in before]
            omegas[r] = [torch.zeros_like(value) for value in before]
        of_loss = net.gradients(net.cross_entropy(batch))
        terms = zip(net.values(), anchors[r], importances[r], strict=True)
        penalty = sum((importance * (v - a) ** 2).sum() for v, a, importance in terms)
        net.step(net.cross_entropy(batch) + c * penalty)
        moves = [after - start for after, start in zip(net.copies(), before, strict=True)]
        omegas[r] = [o - g * move for o, g, move in zip(omegas[r], of_loss, moves, strict=True)]

    def end(net, task, batches):
        r, now = net.r, net.copies()
        rows = zip(importances[r], omegas[r], now, anchors[r], strict=True)
        importances[r] = [(i + o / ((v - a) ** 2 + xi)).clamp_min(0) for i, o, v, a in rows]
        omegas[r] = [torch.zeros_like(value) for value in now]
        anchors[r] = now

    train(make_method("si", kind, c=c, xi=xi), step, end)


@KINDS
def test_without_c_it_is_sgd(kind):
    for ours, sgds in zip(paths("si", kind, c=0), paths("sgd", kind), strict=True):
        torch.testing.assert_close(ours, sgds, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(paths("si", kind)[-1], paths("sgd", kind)[-1], rtol=1e-6)


def test_importance_is_never_negative():
    """A step along a strong penalty opposes the gradient of the loss, so the path integral is negative."""
    method = make_method("si", "linear", c=1.0, xi=1e-3)
    task, batches = stream()[0]
    with torch.no_grad():
        method.begin_task(task, None)
        method.importance.fill_(4.0)
        method.anchor.add_(1.0)
        method.observe(batches[0], None)
        assert method.path.min() < 0
        method.end_task(task, None)
    assert method.importance.min() >= 0 and not method.path.any()


@KINDS
def test_bytes_are_those_of_its_arrays_from_the_start(kind):
    method = make_method("si", kind)
    assert method.extra_bytes == held_bytes(method) == 3 * method.head.bytes_per_replica


def test_it_forgets_less_than_sgd():
    features = make_features(separation=2.0, train_per_class=60)
    strong = settings_of(METHODS, "si", {"c": 5.0, "xi": 0.1}, "method_settings")
    cells = [make_cell("sgd"), make_cell("si", method_settings=strong)]
    documents = [run_cell(features, cell) for cell in cells]
    forgotten = [forgetting(np.array(d["matrix"]["class_il"], dtype=float)).mean() for d in documents]
    assert forgotten[1] < forgotten[0] - 5
    assert documents[1]["costs"]["learner_bytes"] == [4 * 4 * 6 * 13] * 3
    assert documents[1]["costs"]["train_flops"] == documents[0]["costs"]["train_flops"]
