"""MIR compared with autograd, one replica at a time, and with ER."""

import pytest
import torch
import torch.nn.functional as F
from factories import make_cell, make_features
from test_config import BASE
from test_methods import PARAMETERS, B, D, FixedMemory, Net, R, load, make, random_batch, scene  # noqa: F401

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.heads import Batch, make_head
from sharc_core.learning.learner import run_cell
from sharc_core.methods.mir import most


def test_update_is_algorithm_1(scene):  # noqa: F811
    """Of 14 candidates, five are replayed, and each replica has its own."""
    candidates, expected, replayed = random_batch(12, 14), [], []
    for r in range(R):
        net, ahead = Net(scene.head, r), Net(scene.head, r)
        load(ahead, ahead.step(ahead.ce(scene.batch)))
        before, after = (
            F.cross_entropy(n.logits(candidates), candidates.y[r], reduction="none") for n in (net, ahead)
        )
        top = (after - before).detach().argsort(descending=True)[:B]
        replayed.append(set(top.tolist()))
        own = F.cross_entropy(net.logits(candidates)[top], candidates.y[r, top])
        expected.append(net.step(net.ce(scene.batch) + own))
    assert len({frozenset(own) for own in replayed}) == R
    make("mir", scene.head).observe(scene.batch, FixedMemory([candidates], []))
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_an_mlp_takes_the_same_virtual_step():
    head = make_head("mlp", 7, R, D, 4)
    head.initialise([0, 1, 2])
    batch, candidates, expected = random_batch(1), random_batch(12, 14), []
    for r in range(R):
        net = torch.nn.Sequential(torch.nn.Linear(D, 7), torch.nn.ReLU(), torch.nn.Linear(7, 4))
        names = ("weight1", "bias1", "weight2", "bias2")
        for parameter, name in zip(net.parameters(), names, strict=True):
            parameter.data.copy_(getattr(head, name)[r])
        start = [p.detach().clone() for p in net.parameters()]
        now, x, y = F.cross_entropy(net(batch.x[r]), batch.y[r]), candidates.x[r], candidates.y[r]
        before = F.cross_entropy(net(x), y, reduction="none")
        for p, g in zip(net.parameters(), torch.autograd.grad(now, list(net.parameters())), strict=True):
            p.data.sub_(g, alpha=0.1)
        top = (F.cross_entropy(net(x), y, reduction="none") - before).argsort(descending=True)[:B]
        for p, old in zip(net.parameters(), start, strict=True):
            p.data.copy_(old)
        loss = F.cross_entropy(net(batch.x[r]), batch.y[r]) + F.cross_entropy(net(x[top]), y[top])
        gradient = torch.autograd.grad(loss, list(net.parameters()))
        expected.append(torch.cat([(p - 0.1 * g).flatten() for p, g in zip(start, gradient, strict=True)]))
    make("mir", head).observe(batch, FixedMemory([candidates], []))
    found = head.vector[:, : expected[0].numel()]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_of_equal_scores_the_first_are_replayed_in_the_order_of_the_batch():
    batch = Batch(torch.arange(12.0).view(2, 6, 1), torch.arange(12).view(2, 6))
    chosen = most(batch, torch.tensor([[0.0, 2, 1, 2, 1, 1], [0.0] * 6]), 3)
    assert chosen.y.tolist() == [[1, 2, 3], [6, 7, 8]] and torch.equal(chosen.x.squeeze(2), chosen.y.float())
    assert torch.equal(most(batch, torch.rand(2, 6), 9).y, batch.y), "a small memory is replayed completely"


@pytest.mark.parametrize("variant", ["plain", "sharc"])
@pytest.mark.parametrize("selection", ["last", "reservoir"])
def test_with_as_many_candidates_as_replayed_samples_it_is_er(variant, selection):
    """Runs are equal bit for bit; with more candidates they differ."""
    changes = {"selection": selection} | ({"saliency_at": "visit"} if selection == "reservoir" else {})
    changes = {k: v for k, v in changes.items() if variant == "sharc" or k != "saliency_at"}
    features = make_features()
    er, mir, more = (
        run_cell(features, make_cell(name, variant, buffer=30, method_settings=settings, **changes))["matrix"]
        for name, settings in (
            ("er", {"replay": "minibatch", "mean": "separate"}),
            ("mir", {"candidates": 3}),
            ("mir", {"candidates": 9}),
        )
    )
    assert mir == er != more


@pytest.mark.reliability("unfit-method")
def test_fewer_candidates_than_replayed_samples_are_refused():
    grid = {"methods": ["sgd", "mir"], "method_settings": {"mir": {"candidates": 9}}}
    with pytest.raises(UserError) as error:
        load_grid(BASE | grid)
    assert str(error.value) == (
        "config: method_settings.mir.candidates 9 is smaller than training.replay_batch_size 10: raise "
        "candidates to 10 or more"
    )
    load_grid(BASE | grid | {"training": {"replay_batch_size": 9}})
    load_grid(BASE | grid | {"methods": ["sgd", "er"]})
