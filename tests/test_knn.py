"""k nearest neighbours compared with scikit-learn on what the memory stores."""

import numpy as np
import pytest
import torch
from factories import make_cell, make_features
from sklearn.neighbors import KNeighborsClassifier
from test_ncm import methods  # noqa: F401

from sharc_core.heads import Batch, make_head
from sharc_core.learning import learner
from sharc_core.learning.learner import make_memory, run_cell
from sharc_core.methods import METHODS

C, D = 6, 32


def make(classes: int = C, features: int = D, **settings):
    kind = METHODS.get("knn")
    head = make_head("linear", 0, 1, features, classes)
    return kind(head, kind.Settings(**settings), 0.1, 10, [torch.Generator()])


class Stored:
    """A memory with known contents of one replica."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        self.batch = Batch(x[None], y[None])

    def contents(self) -> Batch:
        return self.batch


def filled(x: torch.Tensor, y: torch.Tensor, classes: int = C, **settings):
    """Return a k-NN classifier whose memory holds x (N, D) with labels y (N,)."""
    method = make(classes, x.shape[1], **settings)
    method.observe(Batch(x[None], y[None]), None)
    method.filled(Stored(x, y))
    return method


@pytest.fixture
def memories(monkeypatch):
    """Record the memories of runs."""
    made = []
    monkeypatch.setattr(learner, "make_memory", lambda *args: made.append(make_memory(*args)) or made[-1])
    return made


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_votes_are_those_of_sklearn(methods, memories, k, weights, metric):  # noqa: F811
    """Where no two classes have equal votes, predictions are equal, too."""
    features = make_features(channels=D, separation=0.2)
    settings = {"k": k, "weights": weights, "metric": metric}
    document = run_cell(features, make_cell("knn", buffer=60, budget_unit="slots", method_settings=settings))
    scores = methods[-1].predict(features.test_pooled.expand(3, -1, -1))
    tests = features.test_pooled.double()
    for r, row in enumerate(document["matrix"]["class_il"]):
        index = torch.cat([stored.index[r] for stored in memories[0].stored])
        x, y = features.train_pooled[index].double(), features.train_labels[index]
        theirs = KNeighborsClassifier(k, weights=weights, metric=metric, algorithm="brute").fit(x, y)
        shares = torch.from_numpy(theirs.predict_proba(tests))
        torch.testing.assert_close(scores[r], shares, rtol=1e-6, atol=1e-6)
        best = shares.topk(2).values
        is_clear = best[:, 0] - best[:, 1] > 1e-6
        assert is_clear.double().mean() > 0.5
        predicted = torch.from_numpy(theirs.predict(tests))
        assert torch.equal(scores[r].argmax(1)[is_clear], predicted[is_clear])
        correct = (scores[r].argmax(1) == features.test_labels).double()
        assert 0.3 < correct.mean() < 0.95, "neither trivial nor hopeless"
        per_task = [correct[features.test_labels // 2 == task].mean().item() * 100 for task in range(3)]
        assert row[-1] == pytest.approx(per_task)


def test_of_equal_votes_the_nearest_class_wins():
    x = torch.tensor([[0.0], [3.0], [1.0], [2.5], [9.0]])
    y = torch.tensor([2, 2, 0, 0, 1])
    scores = filled(x, y, 4, k=4).predict(torch.tensor([[[0.2], [1.1], [1.6]]]))[0]
    assert scores.argmax(1).tolist() == [2, 0, 0]
    assert torch.allclose(scores[:, [0, 2]], torch.tensor(0.5).double(), atol=1e-8)
    # classes without votes are ordered by their nearest sample; class 3 was never seen
    assert (scores[:, 1] > 0).logical_or(scores[:, 1] == 0).all() and (scores[:, 1] < 1e-8).all()
    assert (scores[:, 3] == -torch.inf).all()
    assert len(set(scores[0].tolist())) == 4, "no ties"


def test_a_stored_sample_itself_outvotes_all_others_by_distance():
    x = torch.tensor([[0.0], [0.1], [0.2], [5.0]])
    y = torch.tensor([1, 0, 0, 2])
    tests = torch.tensor([[0.0], [0.15]])
    scores = filled(x, y, 3, k=3, weights="distance").predict(tests[None])[0]
    theirs = KNeighborsClassifier(3, weights="distance").fit(x, y).predict_proba(tests)
    assert np.allclose(scores, theirs, atol=1e-8)
    assert scores[0, 1].item() == pytest.approx(1)


def test_more_neighbours_than_samples_are_all_samples():
    x, y = torch.rand(4, D), torch.tensor([0, 1, 1, 2])
    one, other = (filled(x, y, k=k).predict(torch.rand(1, 5, D) * 0 + 0.5) for k in (4, 1000))
    assert torch.equal(one, other)


def test_a_class_that_was_seen_but_is_not_stored_scores_last():
    method = filled(torch.rand(4, D), torch.tensor([0, 1, 1, 2]))
    method.observe(Batch(torch.rand(1, 2, D), torch.tensor([[4, 4]])), None)
    scores = method.predict(torch.rand(1, 5, D))[0]
    assert (scores[:, 4] < scores[:, :3].amin(1)).all() and scores[:, 4].isfinite().all()
    assert (scores[:, [3, 5]] == -torch.inf).all()


@pytest.mark.parametrize(
    "changes",
    [{"selection": "reservoir"}, {"selection": "balanced"}, {"storage": "int8"}, {"selection": "herding"}],
)
def test_any_memory_serves(methods, memories, changes):  # noqa: F811
    """The vectors are those that the memory would replay."""
    features = make_features(channels=D, separation=1.0)
    document = run_cell(features, make_cell("knn", buffer=30, budget_unit="slots", **changes))
    batch = methods[-1]._stored
    assert batch.x.shape == (3, memories[0].samples_stored, D)
    assert torch.equal(batch.x, memories[0].contents().x)
    assert document["costs"]["learner_bytes"] == [C] * 3, "a flag per class"
    assert document["costs"]["episodic_bytes"][0] > 0
    assert np.array(document["matrix"]["class_il"])[:, -1].mean() > 60


@pytest.mark.parametrize("selection", ["last", "reservoir"])
def test_masked_maps_are_completed_before_they_are_compared(methods, memories, selection):  # noqa: F811
    """A Hopfield network recalls the maps, so the vectors are those of full maps at every evaluation."""
    features = make_features(channels=D)
    at = {"selection": selection} | ({"saliency_at": "visit"} if selection == "reservoir" else {})
    document = run_cell(features, make_cell("knn", "sharc", buffer=30, budget_unit="slots", **at))
    assert document["costs"]["recall_mse"] == [0.0] * 3
    stored = methods[-1]._stored
    known = {tuple(row.tolist()) for row in features.train_pooled}
    assert all(tuple(row.tolist()) in known for row in stored.x[0])


def test_classes_that_were_not_seen_are_not_predicted():
    cell = make_cell("knn", buffer=30, budget_unit="slots", selection="balanced")
    document = run_cell(make_features(separation=2.0), cell)
    assert set(sum(document["untrained"]["task_il"], [])) == {0.0}
    for r in range(3):
        classes = document["matrix"]["class_il"][r]
        assert all(classes[i][i + 1 :] == [0.0] * (2 - i) for i in range(3))
        assert min(classes[-1]) > 60
