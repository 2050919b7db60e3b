"""FeCAM compared with an obvious version in NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from factories import make_cell, make_features
from sklearn.covariance import empirical_covariance
from test_ncm import methods  # noqa: F401

from sharc_core.common.errors import UserError
from sharc_core.heads import Batch, make_head
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS, Task

C, D = 6, 32
DEFAULTS = METHODS.get("fecam").Settings().model_dump()


def make(**settings):
    kind = METHODS.get("fecam")
    return kind(make_head("linear", 0, 1, D, C), kind.Settings(**settings), 0.1, 10, [torch.Generator()])


def shrink(covariance: np.ndarray, on: float, off: float) -> np.ndarray:
    """Return the covariance shrunk by equation 7 of the paper."""
    eye = np.eye(len(covariance))
    v1 = covariance.diagonal().mean()
    v2 = covariance[eye == 0].mean()
    return covariance + on * v1 * eye + off * v2 * (1 - eye)


def correlations(covariance: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(covariance.diagonal())
    return covariance / np.outer(deviation, deviation)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def distances(tests: np.ndarray, mean: np.ndarray, covariance: np.ndarray, power: float) -> np.ndarray:
    """Return the Mahalanobis distance of each test vector, one by one."""
    inverse = np.linalg.pinv(covariance)
    differences = unit(tests**power) - unit(mean**power)
    return np.array([d @ inverse @ d for d in differences])


def unbiased(x: np.ndarray) -> np.ndarray:
    return empirical_covariance(x) * len(x) / (len(x) - 1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tukey": 1.0},
        {"tukey": 0.3, "correlation": False},
        {"shrink_diagonal": 1.0, "shrink_off_diagonal": 0.0},
        {"shrink_diagonal": 0.0, "shrink_off_diagonal": 0.0, "correlation": False},
    ],
)
def test_scores_are_those_of_the_definition(methods, changes):  # noqa: F811
    features = make_features(channels=D, separation=0.2)
    settings = DEFAULTS | changes
    document = run_cell(features, make_cell("fecam", method_settings=settings))
    x, y = features.train_pooled.double().numpy(), features.train_labels.numpy()
    tests, columns = features.test_pooled.double().numpy(), []
    for label in range(C):
        own = x[y == label]
        covariance = unbiased(own ** settings["tukey"])
        covariance = shrink(covariance, settings["shrink_diagonal"], settings["shrink_off_diagonal"])
        if settings["correlation"]:
            covariance = correlations(covariance)
        columns.append(-distances(tests, own.mean(0), covariance, settings["tukey"]))
    wanted = torch.from_numpy(np.stack(columns, 1))
    last = methods[3::4]
    assert len(last) == 3 and all(method.replicas == 1 for method in last), "seeds run one after the other"
    for method in last:
        scores = method.predict(features.test_pooled[None])[0]
        torch.testing.assert_close(scores, wanted, rtol=1e-7, atol=1e-8)
    correct = (wanted.argmax(1) == features.test_labels).double()
    assert 0.3 < correct.mean() < 0.97, "neither trivial nor hopeless"
    for row in document["matrix"]["class_il"]:
        per_task = [correct[features.test_labels // 2 == task].mean().item() * 100 for task in range(3)]
        assert row[-1] == pytest.approx(per_task)


def test_the_default_shrinkage_is_the_authors_two_times_one():
    covariance = np.cov(np.random.default_rng(0).random((50, 8)).T)
    twice = shrink(shrink(covariance, 1, 1), 1, 1)
    once = make()._shrunk(torch.from_numpy(covariance)).numpy()
    assert np.allclose(once, correlations(twice), rtol=1e-12)


def test_a_common_covariance_is_the_mean_over_tasks_by_their_classes(methods):  # noqa: F811
    """Tasks of three, one and two classes; each task's covariance is that of all its samples."""
    features = make_features(channels=D, separation=0.2)
    settings = DEFAULTS | {"covariance": "common", "correlation": False}
    run_cell(features, make_cell("fecam", method_settings=settings, tasks=[3, 1, 2], seeds=[0]))
    x, y = features.train_pooled.double().numpy(), features.train_labels.numpy()
    tests, common = features.test_pooled.double().numpy(), 0
    for classes in ([0, 1, 2], [3], [4, 5]):
        common = common + len(classes) / C * unbiased(x[np.isin(y, classes)] ** 0.5)
    common = shrink(common, 3, 3)
    wanted = np.stack([-distances(tests, x[y == label].mean(0), common, 0.5) for label in range(C)], 1)
    scores = methods[-1].predict(features.test_pooled[None])[0]
    torch.testing.assert_close(scores, torch.from_numpy(wanted), rtol=1e-7, atol=1e-8)


def test_one_sample_per_class_is_nearest_mean():
    """There is no variance yet, so every feature counts alike."""
    source = torch.Generator().manual_seed(0)
    x, tests = torch.rand(1, C, D, generator=source), torch.rand(1, 50, D, generator=source)
    for changes in ({}, {"correlation": False}, {"covariance": "class", "tukey": 1.0}):
        method = make(**changes)
        method.observe(Batch(x, torch.arange(C)[None]), None)
        method.end_task(Task(0, 1, tuple(range(C)), tuple(range(C)), C), None)
        power = method.settings.tukey
        units = [torch.nn.functional.normalize(v.double() ** power, dim=2) for v in (tests, x)]
        nearest = torch.cdist(*units).argmin(2)
        assert torch.equal(method.predict(tests).argmax(2), nearest)


def test_a_class_may_come_back_in_a_later_task():
    """Its covariance is then that of all its samples."""
    source = torch.Generator().manual_seed(0)
    x, y = torch.rand(1, 120, D, generator=source), torch.randint(3, (1, 120), generator=source)
    whole, parts = make(), make()
    task = Task(0, 1, (0, 1, 2), (0, 1, 2), C)
    whole.observe(Batch(x, y), None)
    whole.end_task(task, None)
    for part in (slice(0, 50), slice(50, 120)):
        parts.observe(Batch(x[:, part], y[:, part]), None)
        parts.end_task(task, None)
    torch.testing.assert_close(parts.predict(x), whole.predict(x), rtol=1e-9, atol=1e-9)


@pytest.mark.reliability("negative-features")
def test_negative_features_are_refused_in_one_line_that_names_the_setting():
    features = make_features(channels=D)
    features.train_pooled[7, 3] = -0.1
    with pytest.raises(UserError, match=r"^method fecam: a feature is negative.*method_settings.fecam.tukey"):
        run_cell(features, make_cell("fecam"))
    document = run_cell(features, make_cell("fecam", method_settings=DEFAULTS | {"tukey": 1.0}))
    assert np.isfinite(np.array(document["matrix"]["class_il"], float)).all()


def test_classes_that_were_not_seen_are_not_predicted():
    document = run_cell(make_features(channels=D, separation=2.0), make_cell("fecam"))
    assert set(sum(document["untrained"]["task_il"], [])) == {0.0}
    for r in range(3):
        classes = document["matrix"]["class_il"][r]
        assert all(classes[i][i + 1 :] == [0.0] * (2 - i) for i in range(3))
        assert min(classes[-1]) > 80


def test_bytes_are_one_square_matrix_per_class_and_vectors():
    document = run_cell(make_features(channels=D), make_cell("fecam"))
    vectors = C * D * 3 + C * 3
    gathered = (C * D // 64) * (4 * D + 8)
    assert document["costs"]["learner_bytes"] == [8 * (C * D * D + vectors) + gathered] * 3
    assert document["costs"]["episodic_bytes"] == [0] * 3
