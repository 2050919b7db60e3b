"""Online EWC, compared with an autograd version step by step."""

import numpy as np
import pytest
import torch
from autograd_net import C, Net, R, held_bytes, make_batch, make_method, paths, train
from factories import make_cell, make_features
from test_method_contract import HEADS

from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.heads import Batch
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import forgetting
from sharc_core.methods import METHODS

KINDS = pytest.mark.parametrize("kind", HEADS)
FISHERS = pytest.mark.parametrize("fisher", ["exact", "empirical"])


def sample_fishers(net: Net, batch: Batch, fisher: str) -> list[list[torch.Tensor]]:
    """Return the Fisher matrix's diagonal of every sample, by autograd and a loop over labels."""
    found = []
    for i, label in enumerate(batch.y[net.r].tolist()):
        one = Batch(batch.x[:, i : i + 1], batch.y[:, i : i + 1])
        total = [torch.zeros_like(value) for value in net.values()]
        for y in [label] if fisher == "empirical" else range(C):
            log_p = net.logits(one).log_softmax(1)[0, y]
            chance = 1.0 if fisher == "empirical" else log_p.detach().exp()
            total = [t + chance * g.square() for t, g in zip(total, net.gradients(log_p), strict=True)]
        found.append(total)
    return found


@KINDS
@FISHERS
def test_the_fisher_matrix_of_a_head_is_that_of_autograd(kind, fisher):
    head, batch = make_method("sgd", kind).head, make_batch((0, 2, 5), 1)
    ours = head._views(head.fisher(batch.x, batch.y if fisher == "empirical" else None))
    for r in range(R):
        net = Net(head, r)
        expected = [sum(parts) for parts in zip(*sample_fishers(net, batch, fisher), strict=True)]
        for name, value in zip(net.parameters, expected, strict=True):
            torch.testing.assert_close(ours[name][r], value, rtol=1e-9, atol=1e-12)


@KINDS
@FISHERS
def test_every_step_is_that_of_autograd(kind, fisher):
    weight, gamma = 3.0, 0.8
    anchors, fishers = {}, {}

    def step(net, task, batch):
        loss = net.cross_entropy(batch)
        if task.number:
            terms = zip(net.values(), anchors[net.r], fishers[net.r], strict=True)
            loss = loss + weight / 2 * sum((gamma * f * (v - a) ** 2).sum() for v, a, f in terms)
        net.step(loss)

    def end(net, task, batches):
        samples = [one for batch in batches for one in sample_fishers(net, batch, fisher)]
        mean = [sum(parts) / len(samples) for parts in zip(*samples, strict=True)]
        before = fishers.get(net.r, [torch.zeros_like(value) for value in mean])
        fishers[net.r] = [gamma * old + new for old, new in zip(before, mean, strict=True)]
        anchors[net.r] = net.copies()

    train(make_method("ewc", kind, weight=weight, gamma=gamma, fisher=fisher), step, end)


@KINDS
def test_without_weight_it_is_sgd(kind):
    pairs = zip(paths("ewc", kind, weight=0), paths("sgd", kind), strict=True)
    assert all(torch.equal(ours, sgds) for ours, sgds in pairs)
    assert not torch.equal(paths("ewc", kind)[-1], paths("sgd", kind)[-1])


def test_with_gamma_0_nothing_is_remembered():
    pairs = zip(paths("ewc", "linear", gamma=0), paths("sgd", "linear"), strict=True)
    assert all(torch.equal(ours, sgds) for ours, sgds in pairs)


@KINDS
def test_bytes_are_those_of_its_arrays_from_the_start(kind):
    method = make_method("ewc", kind)
    assert method.extra_bytes == held_bytes(method) == 3 * method.head.bytes_per_replica


@FISHERS
def test_it_forgets_less_than_sgd_and_passes_each_image_twice(fisher):
    features = make_features(separation=2.0, train_per_class=60)
    sgd = run_cell(features, make_cell("sgd"))
    settings = settings_of(METHODS, "ewc", {"fisher": fisher}, "method_settings")
    ewc = run_cell(features, make_cell("ewc", method_settings=settings))
    forgotten = [forgetting(np.array(d["matrix"]["class_il"], dtype=float)).mean() for d in (sgd, ewc)]
    assert forgotten[1] < forgotten[0] - 5
    assert ewc["costs"]["backbone_passes"] == [2 * passes for passes in sgd["costs"]["backbone_passes"]]
    assert ewc["costs"]["train_flops"] == [2 * flops for flops in sgd["costs"]["train_flops"]]
    assert ewc["costs"]["learner_bytes"] == [4 * 4 * 6 * 13] * 3
