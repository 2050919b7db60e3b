"""Ridge regression and RanPAC compared with scikit-learn."""

import numpy as np
import pytest
import torch
from factories import make_cell, make_features
from sklearn.linear_model import Ridge, RidgeClassifier
from test_ncm import methods  # noqa: F401

from sharc_core.heads import Batch, make_head
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS, Task
from sharc_core.methods.ridge import RIDGES

C, D = 6, 32
ALL = Task(0, 1, tuple(range(C)), tuple(range(C)), C)


def unbalanced():
    """Return features with fewer training images of the first classes."""
    features = make_features(channels=D, separation=0.2)
    kept = torch.rand(len(features.train_labels), generator=torch.Generator().manual_seed(0))
    kept = kept < (1 + features.train_labels) / C
    for name in ("train_maps", "train_pooled", "train_labels"):
        setattr(features, name, getattr(features, name)[kept])
    return features


def make(name: str, features: int = D, **settings):
    kind = METHODS.get(name)
    head = make_head("linear", 0, 1, features, C)
    return kind(head, kind.Settings(**settings), 0.1, 10, [torch.Generator().manual_seed(0)])


def learn(method, x: torch.Tensor, y: torch.Tensor, task: Task = ALL):
    method.begin_task(task, None)
    for part in torch.arange(len(y)).split(10):
        method.observe(Batch(x[part][None], y[part][None]), None)
    method.end_task(task, None)
    return method


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [0.1, 1.0, 50.0])
def test_outputs_are_those_of_sklearn(methods, ridge, intercept):  # noqa: F811
    """A run over three tasks equals a fit to all samples at once."""
    features = unbalanced()
    settings = {"ridge": ridge, "intercept": intercept}
    document = run_cell(features, make_cell("ridge", method_settings=settings))
    x, y, tests = features.train_pooled.double(), features.train_labels, features.test_pooled.double()
    theirs = Ridge(alpha=ridge, fit_intercept=intercept).fit(x, np.eye(C)[y])
    scores = methods[-1].predict(features.test_pooled.expand(3, -1, -1))
    for r in range(3):
        torch.testing.assert_close(scores[r], torch.from_numpy(theirs.predict(tests)), rtol=1e-8, atol=1e-9)
    if intercept:
        classifier = RidgeClassifier(alpha=ridge).fit(x, y)
        assert torch.equal(scores[0].argmax(1), torch.from_numpy(classifier.predict(tests)))
    correct = (scores[0].argmax(1) == features.test_labels).double()
    assert 0.3 < correct.mean() < 0.95, "neither trivial nor hopeless"
    for row in document["matrix"]["class_il"]:
        per_task = [correct[features.test_labels // 2 == task].mean().item() * 100 for task in range(3)]
        assert row[-1] == pytest.approx(per_task)


def test_ranpac_is_ridge_regression_on_the_explicit_projection(methods):  # noqa: F811
    """Seeds run one after the other, each with its own projection."""
    features = unbalanced()
    run_cell(
        features, make_cell("ranpac", method_settings={"projections": 50, "ridge": 2.0, "intercept": False})
    )
    last = methods[3::4]
    assert len(last) == 3 and len({float(method.projection.sum()) for method in last}) == 3
    for method in last:
        assert method.replicas == 1 and abs(float(method.projection.std()) - 1) < 0.1
        train, tests = (
            np.maximum(x.double().numpy() @ method.projection[0].double().numpy(), 0)
            for x in (features.train_pooled, features.test_pooled)
        )
        theirs = Ridge(alpha=2.0, fit_intercept=False).fit(train, np.eye(C)[features.train_labels])
        scores = method.predict(features.test_pooled[None])[0]
        torch.testing.assert_close(scores, torch.from_numpy(theirs.predict(tests)), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["ridge", "ranpac"])
def test_the_ridge_is_the_best_on_the_held_out_samples_of_the_task(name):
    """scikit-learn fits each candidate to four of five samples and is tested on the fifth, task by task."""
    features, source = unbalanced(), torch.Generator().manual_seed(3)
    settings = {"ranpac": {"projections": 40}, "ridge": {"ridge": None}}[name]
    method = make(name, **settings)
    chosen = []
    for number in range(3):
        index = (features.train_labels // 2 == number).nonzero().flatten()
        index = index[torch.randperm(len(index), generator=source)]
        x, y = features.train_pooled[index], features.train_labels[index]
        classes = (2 * number, 2 * number + 1)
        learn(method, x, y, Task(number, 3, classes, tuple(range(2 * number + 2)), C))
        inputs, targets = method.inputs(0, x).numpy(), np.eye(C)[y]
        held = np.arange(len(y)) % 5 == 4
        errors = []
        for ridge in RIDGES:
            theirs = Ridge(alpha=ridge, fit_intercept=method.settings.intercept)
            theirs.fit(inputs[~held], targets[~held])
            errors.append(((theirs.predict(inputs[held]) - targets[held]) ** 2).mean())
        chosen.append(RIDGES[int(np.argmin(errors))])
        assert method.ridges.item() == chosen[-1]
    assert min(chosen) > RIDGES[0] and max(chosen) < RIDGES[-1]
    # the choice of the last task applies to the fit to all samples
    fixed = make(name, **settings | {"ridge": chosen[-1]})
    order = torch.cat([(features.train_labels // 2 == n).nonzero().flatten() for n in range(3)])
    learn(fixed, features.train_pooled[order], features.train_labels[order])
    tests = features.test_pooled[None]
    torch.testing.assert_close(method.predict(tests), fixed.predict(tests), rtol=1e-6, atol=1e-8)


def test_a_task_of_four_samples_keeps_the_ridge():
    method = make("ridge", ridge=None)
    learn(method, torch.rand(4, D), torch.tensor([0, 1, 2, 3]))
    assert method.ridges.tolist() == [1.0]


def test_a_ridge_too_small_for_float64_is_raised_until_it_is_not():
    """One sample, and sums of squares of about 1e8: rounding is above a ridge of 1e-12."""
    method = make("ridge", ridge=1e-12, intercept=False)
    x = torch.rand(1, D, generator=torch.Generator().manual_seed(0)) * 1e4
    learn(method, x, torch.tensor([2]))
    scores = method.predict(x[None])
    assert scores[0, 0, 2].item() == pytest.approx(1, abs=1e-3)
    assert scores[0, 0, 0] == -torch.inf


def test_classes_that_were_not_seen_are_not_predicted():
    for name in ("ridge", "ranpac"):
        settings = {"ridge": 1.0} | ({"projections": 100} if name == "ranpac" else {})
        kind = METHODS.get(name).Settings
        cell = make_cell(name, method_settings=kind(**settings).model_dump())
        document = run_cell(make_features(channels=D, separation=2.0), cell)
        assert set(sum(document["untrained"]["task_il"], [])) == {0.0}
        for r in range(3):
            classes = document["matrix"]["class_il"][r]
            assert all(classes[i][i + 1 :] == [0.0] * (2 - i) for i in range(3))
            assert min(classes[-1]) > 80


@pytest.mark.parametrize(
    ("name", "ridge"), [("ridge", 1.0), ("ridge", None), ("ranpac", 1.0), ("ranpac", None)]
)
def test_bytes_are_those_of_its_sums(name, ridge):
    """They are sums, three times if the ridge is chosen, weights and gathered samples."""
    width = D if name == "ridge" else 48
    settings = {"ridge": ridge, "intercept": True} | ({} if name == "ridge" else {"projections": width})
    document = run_cell(make_features(channels=D), make_cell(name, method_settings=settings))
    sums = 8 * (width * width + C * width + C) * (1 if ridge else 3)
    rest = 8 * (C * width + C + 1) + (width // 16) * (4 * D + 8) + (0 if name == "ridge" else 4 * D * width)
    assert document["costs"]["learner_bytes"] == [sums + rest] * 3
    assert document["costs"]["episodic_bytes"] == [0] * 3
