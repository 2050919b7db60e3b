"""Nearest class mean compared with scikit-learn's NearestCentroid after whole runs."""

import pytest
import torch
from factories import make_cell, make_features
from sklearn.neighbors import NearestCentroid

from sharc_core.learning import learner
from sharc_core.learning.learner import run_cell


@pytest.fixture
def methods(monkeypatch):
    """Record the method at every evaluation of a run."""
    seen, evaluate = [], learner.evaluate

    def recording(tests, stream, method, device="cpu"):
        seen.append(method)
        return evaluate(tests, stream, method, device)

    monkeypatch.setattr(learner, "evaluate", recording)
    return seen


@pytest.mark.parametrize("seed", [0, 1])
def test_predictions_are_nearest_centroids(methods, seed):
    """Compare on the complete stream with classes of unequal size, for any order of samples."""
    features = make_features(channels=32, separation=0.2, seed=seed)
    kept = torch.rand(len(features.train_labels), generator=torch.Generator().manual_seed(seed))
    kept = kept < (1 + features.train_labels) / 6
    for name in ("train_maps", "train_pooled", "train_labels"):
        setattr(features, name, getattr(features, name)[kept])
    document = run_cell(features, make_cell("ncm"))
    theirs = NearestCentroid().fit(features.train_pooled.double(), features.train_labels)
    wanted = torch.from_numpy(theirs.predict(features.test_pooled.double()))
    scores = methods[-1].predict(features.test_pooled.expand(3, -1, -1))
    for r in range(3):
        assert torch.equal(scores[r].argmax(1), wanted)
    correct = (wanted == features.test_labels).double()
    assert 0.3 < correct.mean() < 0.95, "neither trivial nor hopeless"
    for row in document["matrix"]["class_il"]:
        per_task = [correct[features.test_labels // 2 == task].mean().item() * 100 for task in range(3)]
        assert row[-1] == pytest.approx(per_task)


def test_classes_that_were_not_seen_are_not_predicted(methods):
    """No class is predicted before training. Task-IL accuracies of seen tasks do not change later."""
    document = run_cell(make_features(separation=2.0), make_cell("ncm"))
    assert set(sum(document["untrained"]["task_il"], [])) == {0.0}
    for r in range(3):
        classes, tasks = (document["matrix"][scenario][r] for scenario in ("class_il", "task_il"))
        for i in range(3):
            assert classes[i][i + 1 :] == tasks[i][i + 1 :] == [0.0] * (2 - i)
            assert tasks[i][: i + 1] == tasks[-1][: i + 1] and min(tasks[-1]) > 80


def test_bytes_are_a_sum_and_a_count_per_class():
    document = run_cell(make_features(channels=32), make_cell("ncm"))
    assert document["costs"]["learner_bytes"] == [8 * (6 * 32 + 6)] * 3
    assert document["costs"]["episodic_bytes"] == [0] * 3
