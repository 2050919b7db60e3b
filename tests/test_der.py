"""DER compared with autograd, one replica at a time, and with DER++."""

import pytest
import torch
import torch.nn.functional as F
from factories import make_cell, make_features
from test_config import BASE
from test_methods import PARAMETERS, FixedMemory, Net, R, make, random_batch, scene  # noqa: F401

from sharc_core.grid.cell import HeadConfig, Training
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS


@pytest.mark.parametrize("settings", [{}, {"alpha": 1.7}])
@pytest.mark.parametrize("is_filled", [True, False])
def test_update_is_the_papers(scene, settings, is_filled):  # noqa: F811
    """Equation 5 of the paper, with the published alpha as the default."""
    scene.memory.is_filled = is_filled
    replay, expected = scene.memory.minibatches[0], []
    for r in range(R):
        net = Net(scene.head, r)
        loss = net.ce(scene.batch)
        if is_filled:
            loss = loss + settings.get("alpha", 0.3) * F.mse_loss(net.logits(replay), replay.logits[r])
        expected.append(net.step(loss))
    make("der", scene.head, **settings).observe(scene.batch, scene.memory)
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert scene.memory.calls == is_filled


def test_it_is_derpp_without_replayed_labels(scene):  # noqa: F811
    """Both get the same minibatches. DER++ adds zero times the gradient of the labels."""
    heads = []
    for name, settings in (("der", {"alpha": 0.2}), ("derpp", {"alpha": 0.2, "beta": 0.0})):
        heads.append(scene.head.copy())
        method, memory = make(name, heads[-1], **settings), FixedMemory([random_batch(10)], [])
        for seed in range(6):
            method.observe(random_batch(seed), memory)
    assert torch.equal(heads[0].vector, heads[1].vector)


@pytest.mark.parametrize("variant", ["plain", "sharc"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_runs_are_those_of_derpp_without_replayed_labels(variant, kind):
    """A minibatch is the complete memory, so that the number of draws per step does not matter."""
    features = make_features(separation=2.0)
    changes = {"training": Training(replay_batch_size=1000), "head": HeadConfig(kind=kind, hidden=16)}
    settings = {
        "der": METHODS.get("der").Settings().model_dump(),
        "derpp": METHODS.get("derpp").Settings(alpha=0.3, beta=0.0).model_dump(),
    }
    matrices = [
        run_cell(features, make_cell(name, variant, method_settings=values, **changes))["matrix"]
        for name, values in settings.items()
    ]
    for scenario in ("task_il", "class_il"):
        one, other = (torch.tensor(matrix[scenario]) for matrix in matrices)
        torch.testing.assert_close(one, other, rtol=0, atol=100 / 30)  # one test image of a task of 30


def test_logits_of_the_visit_are_an_option_a_rule_and_what_a_reservoir_takes():
    for changes in (
        {"method_settings": {"der": {"logits_at": "visit"}}},
        {"protocol": "paper+logits_at"},
        {"memory": {"selection": "reservoir"}},
    ):
        grid = load_grid(BASE | {"methods": ["der"], "variants": ["plain"]} | changes)
        assert {cell.method_settings["logits_at"] for cell in cells(grid)} == {"visit"}
    grid = load_grid(BASE | {"methods": ["der"]})
    assert {cell.method_settings["logits_at"] for cell in cells(grid)} == {"task_end"}
