"""Streaming LDA compared with scikit-learn on the complete stream and with the authors' updates."""

import numpy as np
import pytest
import torch
from factories import make_cell, make_features
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from test_ncm import methods  # noqa: F401

from sharc_core.heads import Batch, make_head
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS, Task
from sharc_core.methods.closed_form import Chunks

C, D = 6, 32
SETTINGS = {"shrinkage": 1e-4, "target": "identity", "covariance": "exact"}


def make_slda(replicas: int = 1, **settings):
    kind = METHODS.get("slda")
    head = make_head("linear", 0, replicas, D, C)
    return kind(head, kind.Settings(**settings), 0.1, 10, [torch.Generator()] * replicas)


def unbalanced(features, seed: int = 0):
    """Return the features with fewer training images of the first classes."""
    kept = torch.rand(len(features.train_labels), generator=torch.Generator().manual_seed(seed))
    kept = kept < (1 + features.train_labels) / C
    for name in ("train_maps", "train_pooled", "train_labels"):
        setattr(features, name, getattr(features, name)[kept])
    return features


@pytest.mark.parametrize("shrinkage", [1e-4, 0.1, 1.0])
def test_predictions_are_sklearns(methods, shrinkage):  # noqa: F811
    """Classes of equal size, equal priors and the same shrinkage give equal scores up to a constant."""
    features = make_features(channels=D, separation=0.2)
    settings = SETTINGS | {"shrinkage": shrinkage, "target": "scaled"}
    document = run_cell(features, make_cell("slda", method_settings=settings))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[1 / C] * C)
    theirs.fit(features.train_pooled.double(), features.train_labels)
    tests = features.test_pooled.double()
    wanted = torch.from_numpy(theirs.decision_function(tests)) + np.log(C)
    scores = methods[-1].predict(features.test_pooled.expand(3, -1, -1))
    for r in range(3):
        torch.testing.assert_close(scores[r], wanted, rtol=1e-8, atol=1e-8)
        assert torch.equal(scores[r].argmax(1), torch.from_numpy(theirs.predict(tests)))
    correct = (wanted.argmax(1) == features.test_labels).double()
    assert 0.3 < correct.mean() < 0.95, "neither trivial nor hopeless"
    for row in document["matrix"]["class_il"]:
        per_task = [correct[features.test_labels // 2 == task].mean().item() * 100 for task in range(3)]
        assert row[-1] == pytest.approx(per_task)


def test_classes_of_unequal_size_have_sklearns_pooled_covariance_and_no_prior(methods):  # noqa: F811
    """Samples have equal weight, as with priors from the data, but scores contain no prior."""
    features = unbalanced(make_features(channels=D, separation=0.2))
    settings = SETTINGS | {"shrinkage": 0.05, "target": "scaled"}
    run_cell(features, make_cell("slda", method_settings=settings))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.05)
    theirs.fit(features.train_pooled.double(), features.train_labels)
    assert theirs.priors_.max() > 3 * theirs.priors_.min()
    scores = methods[-1].predict(features.test_pooled.expand(3, -1, -1))
    wanted = torch.from_numpy(
        theirs.decision_function(features.test_pooled.double()) - np.log(theirs.priors_)
    )
    for r in range(3):
        torch.testing.assert_close(scores[r], wanted, rtol=1e-8, atol=1e-8)


def authors(x: np.ndarray, y: np.ndarray, shrinkage: float) -> np.ndarray:
    """Return weights (C, D) and biases (C,) of the authors' updates, sample by sample."""
    means, counts, covariance = np.zeros((C, D)), np.zeros(C), np.ones((D, D))
    for t, (sample, label) in enumerate(zip(x, y, strict=True)):
        distance = sample - means[label]
        covariance = (t * covariance + t / (t + 1) * np.outer(distance, distance)) / (t + 1)
        counts[label] += 1
        means[label] += distance / counts[label]
    weights = means @ np.linalg.pinv((1 - shrinkage) * covariance + shrinkage * np.eye(D))
    return weights, -(weights * means).sum(1) / 2


def test_published_updates_and_defaults_are_the_authors():
    """Minibatches give the same. The exact covariance differs and does not depend on the order."""
    features = unbalanced(make_features(channels=D, separation=0.2))
    x, y = features.train_pooled, features.train_labels
    scores = {}
    for name in ("published", "exact"):
        for reverse in (False, True):
            method = make_slda(covariance=name)
            order = torch.arange(len(y)).flip(0) if reverse else torch.arange(len(y))
            for part in order.split(10):
                method.observe(Batch(x[part][None], y[part][None]), None)
            method.end_task(Task(0, 1, tuple(range(C)), tuple(range(C)), C), None)
            scores[name, reverse] = method.predict(features.test_pooled[None])[0]
            weights, biases = authors(x[order].double().numpy(), y[order].numpy(), 1e-4)
            theirs = torch.from_numpy(features.test_pooled.double().numpy() @ weights.T + biases)
            assert torch.allclose(scores[name, reverse], theirs, rtol=1e-6, atol=1e-6) == (
                name == "published"
            )
    torch.testing.assert_close(scores["exact", False], scores["exact", True], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(scores["published", False], scores["published", True], rtol=1e-3)


@pytest.mark.parametrize("covariance", ["exact", "published"])
def test_minibatches_of_any_size_give_the_bits_of_one_update_per_sample(covariance):
    """They also agree, to rounding, with a scatter matrix that is updated after every sample."""
    features = unbalanced(make_features(channels=D, separation=0.2))
    x, y = features.train_pooled, features.train_labels
    results = []
    for size, rows in ((1, None), (7, None), (10, None), (len(y), None), (10, 1)):
        method = make_slda(covariance=covariance)
        if rows:
            method.chunks = Chunks(method.head, rows)
        for part in torch.arange(len(y)).split(size):
            method.observe(Batch(x[part][None], y[part][None]), None)
        method.end_task(Task(0, 1, tuple(range(C)), tuple(range(C)), C), None)
        results.append(method)
    *chunked, single = results
    for method in chunked:
        for name in ("means", "counts", "scatter", "weight", "bias"):
            assert torch.equal(getattr(method, name), getattr(chunked[0], name)), name
    torch.testing.assert_close(chunked[0].scatter, single.scatter, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(chunked[0].weight, single.weight, rtol=1e-9, atol=1e-9)


def test_classes_that_were_not_seen_are_not_predicted():
    document = run_cell(make_features(channels=D, separation=2.0), make_cell("slda"))
    assert set(sum(document["untrained"]["task_il"], [])) == {0.0}
    for r in range(3):
        classes = document["matrix"]["class_il"][r]
        assert all(classes[i][i + 1 :] == [0.0] * (2 - i) for i in range(3))
        assert min(classes[-1]) > 80


@pytest.mark.parametrize("target", ["identity", "scaled"])
def test_one_sample_per_class_is_nearest_mean(target):
    """There is no within-class variance yet, so only the target is inverted."""
    source = torch.Generator().manual_seed(0)
    x, method = torch.rand(1, C, D, generator=source), make_slda(target=target)
    method.observe(Batch(x, torch.arange(C)[None]), None)
    method.end_task(Task(0, 1, tuple(range(C)), tuple(range(C)), C), None)
    tests = torch.rand(1, 50, D, generator=source)
    nearest = torch.cdist(tests.double(), x.double()).argmin(2)
    assert torch.equal(method.predict(tests).argmax(2), nearest)


def test_bytes_are_those_of_its_tensors():
    """They are means, classifier, counts, biases, one covariance and a chunk of D / 16 samples."""
    document = run_cell(make_features(channels=D), make_cell("slda"))
    chunk = D // 16 * (4 * D + 8)
    assert document["costs"]["learner_bytes"] == [8 * (2 * (C * D + C) + D * D) + chunk] * 3
    assert document["costs"]["episodic_bytes"] == [0] * 3
