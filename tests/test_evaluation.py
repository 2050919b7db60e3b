"""Evaluation on the test images of many tasks at once, against a loop over the tasks."""

from types import SimpleNamespace

import pytest
import torch
from factories import make_features, predictor

from sharc_core.heads import make_head
from sharc_core.learning import evaluation
from sharc_core.learning.evaluation import evaluate
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

SEEDS = [0, 1, 2]


def task_by_task(features, stream, method) -> dict[str, torch.Tensor]:
    """Return the accuracies (R, T) by the definition, one task and one image at a time."""
    rows = {"task_il": [], "class_il": []}
    for index, classes in zip(stream.test, stream.classes_per_task, strict=True):
        hits = {name: torch.zeros(method.replicas) for name in rows}
        for image in index.tolist():
            scores = method.predict(features.test_pooled[image].expand(method.replicas, 1, -1))[:, 0]
            label = int(features.test_labels[image])
            for name, among in (("task_il", classes), ("class_il", range(scores.shape[1]))):
                others = [c for c in among if c != label]
                best = scores[:, others].amax(1) if others else torch.full((method.replicas,), -torch.inf)
                hits[name] += scores[:, label] > best
        for name, correct in hits.items():
            rows[name].append(correct.double() * 100 / len(index))
    return {name: torch.stack(columns, 1) for name, columns in rows.items()}


def setting(tasks, classes: int = 12):
    features = make_features(classes=classes, channels=16, test_per_class=7)
    head = make_head("linear", 1, len(SEEDS), 16, classes)
    head.initialise(SEEDS)
    head.vector.mul_(20)
    stream = make_stream(features.train_labels, features.test_labels, classes, StreamConfig(tasks=tasks))
    return features, stream, predictor(head)


@pytest.mark.parametrize("tasks", [6, 12, 1, [5, 1, 4, 2]])
@pytest.mark.parametrize("images", [1, 10, 30, 4096])
def test_it_equals_a_loop_over_tasks_and_images(monkeypatch, tasks, images):
    """Whatever the size of the parts: fewer images than a task has, several tasks, or all."""
    features, stream, method = setting(tasks)
    monkeypatch.setattr(evaluation, "IMAGES", images)
    found, expected = evaluate(features, stream, method), task_by_task(features, stream, method)
    for name in expected:
        assert torch.equal(found[name], expected[name])
    assert found["class_il"].std() > 0


def test_scores_are_held_for_few_images_of_many_classes(monkeypatch):
    features, stream, method = setting(6)
    monkeypatch.setattr(evaluation, "SCORES", 3 * 12 * 20)
    sizes = []

    def predict(x):
        sizes.append(x.shape[1])
        return method.predict(x)

    evaluate(features, stream, SimpleNamespace(replicas=3, predict=predict))
    assert sum(sizes) == 84 and max(sizes) <= 20 and len(sizes) == 6


@pytest.mark.parametrize("images", [10, 4096])
@pytest.mark.parametrize("count", [0, 14, 20, 42, 83])
def test_tasks_whose_images_are_not_all_tested_are_nan(monkeypatch, images, count):
    features, stream, method = setting(6)
    monkeypatch.setattr(evaluation, "IMAGES", images)
    expected = evaluate(features, stream, method)
    some = SimpleNamespace(
        test_labels=features.test_labels,
        tested=lambda index: features.test_pooled[index] if int(index.max()) < count else None,
    )
    found = evaluate(some, stream, method)
    whole = count // 14
    for name, rows in found.items():
        assert torch.equal(rows[:, :whole], expected[name][:, :whole])
        assert rows[:, whole:].isnan().all()
