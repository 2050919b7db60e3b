"""Properties of whole runs of every method, plain and with SHARC."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import QUICK, is_replica, make_cell, make_features, state
from test_methods import REFERENCES

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.grid.cell import HeadConfig, Training
from sharc_core.learning.learner import evaluate, make_memory, run_cell
from sharc_core.methods import METHODS, Method, Task
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream, split_classes

torch.set_num_threads(1)  # as in a cell's job; with more threads, rounding depends on the number of replicas

REPLAYING = [m for m in METHODS.names() if METHODS.get(m).uses_memory]
CASES = [(m, "plain") for m in METHODS.names()] + [(m, "sharc") for m in REPLAYING]


@pytest.fixture(scope="module")
def features():
    return make_features()


def outcome(document: dict) -> dict:
    """Return everything that must be equal between equal runs, which excludes times."""
    costs = {k: v for k, v in document["costs"].items() if k != "train_seconds"}
    return {"matrix": document["matrix"], "untrained": document["untrained"], "costs": costs}


@pytest.fixture
def weights(monkeypatch):
    """Record each method's state at its evaluations, because accuracies hide differences in rounding."""
    seen = []

    def recording(tests, stream, method, device="cpu"):
        seen.append(state(method))
        return evaluate(tests, stream, method, device)

    monkeypatch.setattr("sharc_core.learning.learner.evaluate", recording)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("method", "variant"), CASES)
@pytest.mark.parametrize(("kind", "channels"), [("linear", 320), ("mlp", 128)])
def test_five_together_equal_five_apart(weights, side_by_side, method, variant, kind, channels):
    """Results are equal bit for bit at sizes where libraries choose kernels by the number of replicas.

    This holds for feature widths that are multiples of 16, as those of backbones are. Rows of other widths
    are aligned differently for each replica, and kernels may then differ in the last bit.
    """
    features = make_features(channels=channels, train_per_class=30)
    cell = make_cell(method, variant, seeds=[0, 1, 2, 3, 4], head=HeadConfig(kind=kind, hidden=64))
    together = run_cell(features, cell)
    ours = list(weights)
    for r, seed in enumerate(cell.seeds):
        weights.clear()
        alone = run_cell(features, cell.model_copy(update={"seeds": [seed]}))
        assert all(is_replica(a, r, b) for a, b in zip(ours, weights, strict=True))
        for scenario in ("task_il", "class_il"):
            assert together["matrix"][scenario][r] == alone["matrix"][scenario][0]
            assert together["untrained"][scenario][r] == alone["untrained"][scenario][0]
        for cost in ("episodic_bytes", "associative_bytes", "peak_bytes", "samples_stored", "train_flops"):
            assert together["costs"][cost][r] == alone["costs"][cost][0]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "variant"), CASES)
def test_seeds_differ_and_repeat(features, method, variant):
    cell = make_cell(method, variant)
    first, second = run_cell(features, cell), run_cell(features, cell)
    assert outcome(first) == outcome(second)
    matrix = first["matrix"]["class_il"]
    assert (matrix[0] != matrix[1]) == METHODS.get(method).order_matters, "seeds differ in the order alone"


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_task_il_is_never_below_class_il(features, method, variant):
    matrix = run_cell(features, make_cell(method, variant))["matrix"]
    task, classes = (np.array(matrix[s], dtype=float) for s in ("task_il", "class_il"))
    known = ~np.isnan(task)
    assert known[:, -1].all()
    assert (task[known] >= classes[known]).all()


def scored(features, scores: torch.Tensor) -> dict:
    """Return the accuracies of a method with these scores (images, C), in the order of the test images."""
    stream = make_stream(features.train_labels, features.test_labels, 6, StreamConfig(tasks=3))
    order = torch.cat(stream.test)
    assert torch.equal(order, order.sort().values), "evaluated task by task, which is in order here"
    rows = iter(scores[order])
    predict = lambda x: torch.stack([next(rows) for _ in range(x.shape[1])])[None]  # noqa: E731
    return evaluate(features, stream, SimpleNamespace(replicas=1, predict=predict))


def test_a_class_that_scores_minus_infinity_is_never_predicted(features):
    """Task 0 and one class of task 1 are always predicted correctly; the other classes were never seen."""
    right = torch.nn.functional.one_hot(features.test_labels, 6).float()
    right[:, 3:] = -torch.inf
    found = scored(features, right)
    assert found["class_il"].tolist() == [[100.0, 50.0, 0.0]]
    assert found["task_il"].tolist() == [[100.0, 50.0, 0.0]]
    nothing = scored(features, torch.full((len(features.test_labels), 6), -torch.inf))
    assert nothing["task_il"].tolist() == nothing["class_il"].tolist() == [[0.0, 0.0, 0.0]]


def test_ties_are_wrong_and_other_tasks_count_in_class_il_alone(features):
    scores = torch.nn.functional.one_hot(features.test_labels, 6).double()
    scores[features.test_labels == 1, 0] = 1  # a tie within task 0
    scores[features.test_labels == 2, 5] = 2  # a higher score in another task
    found = scored(features, scores)
    assert found["class_il"].tolist() == [[50.0, 50.0, 100.0]]
    assert found["task_il"].tolist() == [[50.0, 100.0, 100.0]]


def test_a_score_that_is_no_number_is_an_error(features):
    scores = torch.zeros(len(features.test_labels), 6)
    scores[-1, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN"):
        scored(features, scores)


@pytest.mark.parametrize("method", REPLAYING)
@pytest.mark.parametrize("read", ["per_task", "at_store"])
def test_theta_zero_is_plain_replay(features, method, read):
    plain = run_cell(features, make_cell(method, "plain"))
    sharc = run_cell(features, make_cell(method, "sharc", theta=0.0, read=read))
    assert sharc["matrix"] == plain["matrix"]
    assert sharc["costs"]["episodic_bytes"] == plain["costs"]["episodic_bytes"]
    assert set(sharc["costs"]["recall_mse"]) == {0.0}


@pytest.mark.parametrize("method", REPLAYING)
@pytest.mark.parametrize("read", ["per_task", "at_store"])
def test_perfect_recall_equals_full_maps(features, method, read):
    """With equal slots and half of every map dropped, top-1 retrieval returns the exact map."""
    plain = run_cell(features, make_cell(method, "plain", budget_unit="slots"))
    sharc = run_cell(features, make_cell(method, "sharc", budget_unit="slots", read=read))
    assert sharc["costs"]["recall_mse"] == [0.0, 0.0, 0.0]
    assert sharc["matrix"] == plain["matrix"]
    stored, full = sharc["costs"]["episodic_bytes"], plain["costs"]["episodic_bytes"]
    # a map completed at store is kept and counted as a whole
    assert stored == full if read == "at_store" else stored < full


@pytest.mark.parametrize("kind", ["none", "mean"])
def test_imperfect_recall_changes_the_run(features, kind):
    """If the recalled maps were not replayed, this would equal plain replay."""
    plain = run_cell(features, make_cell("er", "plain", budget_unit="slots"))
    sharc = run_cell(
        features,
        make_cell("er", "sharc", budget_unit="slots", associative_memory=kind, associative_settings={}),
    )
    assert sharc["matrix"] != plain["matrix"]
    assert min(sharc["costs"]["recall_mse"]) > 0


@pytest.mark.parametrize("method", METHODS.names())
def test_permuting_classes_permutes_results(method):
    """Relabelled classes in the inverse class order give the same tasks and accuracies.

    Only the head's initial weights depend on a class's number, so the head starts at zero here.
    """
    features = make_features()
    swapped = make_features()
    permutation = torch.tensor([1, 0, 3, 2, 5, 4])  # within tasks, so the default class order still applies
    swapped.train_labels = permutation[features.train_labels]
    swapped.test_labels = permutation[features.test_labels]
    cell = make_cell(method, seeds=[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharc_core.heads.Head.initialise", lambda self, seeds: None)
        original, permuted = run_cell(features, cell), run_cell(swapped, cell)
    for scenario in ("task_il", "class_il"):
        one, other = (np.array(d["matrix"][scenario], dtype=float) for d in (original, permuted))
        assert np.allclose(one, other, atol=1e-9, equal_nan=True)


def test_a_methods_copies_of_the_head_are_counted(features):
    """learner_bytes counts the head and, for CLS-ER, its two averages."""
    head = 4 * (12 * 6 + 6)
    for method in METHODS.names():
        (counted,) = set(run_cell(features, make_cell(method))["costs"]["learner_bytes"])
        if method in REFERENCES:
            assert counted == (3 if method == "clser" else 1) * head, method
        else:
            assert counted >= head or not METHODS.get(method).trains_head, method


def test_derpp_stores_the_logits_of_the_trained_head(features, weights, monkeypatch):
    """They come from the head at the end of each task, not from the initial or the final head."""
    made = []
    monkeypatch.setattr(
        "sharc_core.learning.learner.make_memory", lambda *args: made.append(make_memory(*args)) or made[0]
    )
    cell = make_cell("derpp", buffer=30)
    run_cell(features, cell)
    _, *after = weights
    stream = make_stream(features.train_labels, features.test_labels, 6, StreamConfig(tasks=3))
    for task, batch in enumerate(made[0].tasks()):
        last = stream.order(task, 0, cell.seeds)[:, -batch.y.shape[1] :]
        for r in range(3):
            weight, bias = after[task]["head"][r, :72].view(6, 12), after[task]["head"][r, 72:78]
            torch.testing.assert_close(batch.logits[r], features.train_pooled[last[r]] @ weight.T + bias)


def test_mer_with_published_settings_is_er(features):
    assert run_cell(features, make_cell("mer"))["matrix"] == run_cell(features, make_cell("er"))["matrix"]


def test_mer_reptile_rates_matter(features):
    published = run_cell(features, make_cell("mer"))["matrix"]
    settings = make_cell("mer").method_settings
    for change in ({"beta": 0.5}, {"gamma": 0.5}, {"batches": 2}, {"inner": "sample"}):
        assert run_cell(features, make_cell("mer", method_settings=settings | change))["matrix"] != published


def test_er_whole_memory_differs_from_minibatch(features):
    whole = make_cell("er", method_settings={"replay": "whole"})
    assert run_cell(features, whole)["matrix"] != run_cell(features, make_cell("er"))["matrix"]


def test_replay_remembers_more_than_sgd(features):
    """On easy data ER must be far better than SGD in Class-IL, as a check of the whole loop."""
    easy = make_features(separation=4.0)
    last = {
        m: np.mean(
            np.array(run_cell(easy, make_cell(m, buffer=30))["matrix"]["class_il"], dtype=float)[:, -1]
        )
        if METHODS.get(m).uses_memory
        else np.mean(np.array(run_cell(easy, make_cell(m))["matrix"]["class_il"], dtype=float)[:, -1])
        for m in ("sgd", "er", "joint")
    }
    assert last["er"] > last["sgd"] + 20
    assert last["joint"] > 80


def test_joint_has_only_its_last_row(features):
    matrix = np.array(run_cell(features, make_cell("joint"))["matrix"]["class_il"], dtype=float)
    assert np.isnan(matrix[:, :-1]).all() and not np.isnan(matrix[:, -1]).any()


def test_divergence_is_one_clear_line(features):
    wild = make_features()
    wild.train_pooled = wild.train_pooled * 1e25
    with pytest.raises(UserError, match=r"diverged in task 1 .*lower training\.lr"):
        run_cell(wild, make_cell("er", training=Training(lr=1e20)))


def test_nan_predictions_give_a_one_line_error(features, monkeypatch):
    """The head is finite, but the scores are not: before training by NaN features, or after it."""
    broken = make_features()
    broken.test_pooled[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"toy/clser-\S+: predicted scores are NaN before any training"):
        run_cell(broken, make_cell("clser"))

    def predict(self, x):
        return self.head.logits(x) * (torch.nan if self.step else 1)

    monkeypatch.setattr(METHODS.get("clser"), "predict", predict)
    with pytest.raises(UserError, match=r"toy/clser-\S+: the training diverged in task 1 \(predicted scores"):
        run_cell(features, make_cell("clser"), progress=lambda line: pytest.fail("went on"))


def test_hooks_receive_the_task(features, monkeypatch):
    """begin_task and end_task alternate, with classes in the stream's order. JOINT has one task."""
    calls = []
    for name in ("begin_task", "end_task"):
        monkeypatch.setattr(
            Method, name, lambda self, task, memory, name=name: calls.append((name, task, bool(memory)))
        )
    run_cell(features, make_cell("er", class_order_seed=3))
    order = split_classes(6, StreamConfig(tasks=3, class_order_seed=3))
    expected = [
        Task(number, 3, tuple(order[number]), tuple(sum(order[: number + 1], [])), 6) for number in range(3)
    ]
    assert [task for name, task, _ in calls if name == "begin_task"] == expected
    assert [name for name, *_ in calls] == ["begin_task", "end_task"] * 3
    assert [task for name, task, _ in calls if name == "end_task"] == expected
    assert [holds for *_, holds in calls] == [False, False, True, True, True, True]
    calls.clear()
    run_cell(features, make_cell("joint"))
    assert [task for _, task, _ in calls] == [Task(0, 1, tuple(range(6)), tuple(range(6)), 6)] * 2


def test_filled_gets_the_memory_with_the_task_before_the_evaluation(features, monkeypatch):
    """With SHARC its samples are completed. A method without a memory is not called."""
    calls = []

    def filled(self, memory):
        calls.append([(len(task.y[0]), bool((task.x == 0).any())) for task in memory.tasks()])

    def recording(*args):
        calls.append("evaluation")
        return evaluate(*args)

    monkeypatch.setattr(Method, "filled", filled)
    monkeypatch.setattr("sharc_core.learning.learner.evaluate", recording)
    for variant, stored in (("plain", 4), ("sharc", 8)):
        calls.clear()
        run_cell(features, make_cell("er", variant))
        held = [[(stored, False)] * (task + 1) for task in range(3)]
        assert calls == ["evaluation"] + [call for task in held for call in (task, "evaluation")]
    calls.clear()
    run_cell(features, make_cell("sgd"))
    assert calls == ["evaluation"] * 4


def test_adaptive_theta_runs_its_seeds_one_by_one(features):
    """Seeds store different numbers of samples. Each equals a single run, and they share a document."""
    cell = make_cell("er", "sharc", theta=None, mass=0.7)
    together = run_cell(features, cell)
    assert together["seeds"] == [0, 1, 2] and together["cell"] == cell.settings
    for r, seed in enumerate(cell.seeds):
        alone = run_cell(features, cell.model_copy(update={"seeds": [seed]}))
        assert together["matrix"]["class_il"][r] == alone["matrix"]["class_il"][0]
        for cost in ("episodic_bytes", "associative_bytes", "samples_stored", "recall_mse", "learner_bytes"):
            assert together["costs"][cost][r] == alone["costs"][cost][0]
    assert together["config_hash"] == cell.config_hash


def test_all_the_mass_is_plain_replay(features):
    """No channel's saliency is exactly zero here; such a channel has no mass and would be dropped."""
    plain = run_cell(features, make_cell("er", budget_unit="slots"))
    sharc = run_cell(features, make_cell("er", "sharc", theta=None, mass=1.0, budget_unit="slots"))
    assert sharc["matrix"] == plain["matrix"]


def test_threads_do_not_change_bits(features):
    cell = make_cell("er", "sharc")
    threads = torch.get_num_threads()
    try:
        outcomes = []
        for count in (1, 2):
            torch.set_num_threads(count)
            outcomes.append(outcome(run_cell(features, cell)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert outcomes[0] == outcomes[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ASSOCIATIVE_MEMORIES.names())
@pytest.mark.parametrize("method", ["er", "gem"])
def test_every_memory_runs_in_a_cell(weights, kind, method):
    """Seeds together equal seeds apart bit for bit, with forgetting, and its bytes equal the planned ones."""
    features = make_features(channels=32, train_per_class=20)
    memory = ASSOCIATIVE_MEMORIES.get(kind)
    settings = memory.Settings(**QUICK.get(kind, {}))
    cell = make_cell(
        method,
        "sharc",
        associative_memory=kind,
        associative_settings=settings.model_dump(),
        forget_every=2,
        forget_beta=0.1,
    )
    together = run_cell(features, cell)
    ours = list(weights)
    for r, seed in enumerate(cell.seeds):
        weights.clear()
        run_cell(features, cell.model_copy(update={"seeds": [seed]}))
        assert all(is_replica(a, r, b) for a, b in zip(ours, weights, strict=True))
    stored = together["costs"]["samples_stored"][0]
    planned = memory.planned_bytes(settings, (32, 2, 2), 6, stored)
    assert together["costs"]["associative_bytes"] == [planned] * 3


def test_a_memory_that_cannot_hold_the_maps_says_so_before_training(features, monkeypatch):
    """It is refused whether or not its bytes are charged, although constructing it raises nothing."""

    def refuse(settings, shape, classes, samples):
        raise UserError(f"cannot hold maps of {shape}")

    monkeypatch.setattr(ASSOCIATIVE_MEMORIES.get("modern_hopfield"), "planned_bytes", refuse)
    for charge in (False, True):
        cell = make_cell("er", "sharc", budget_unit="bytes", count_associative_memory=charge)
        with pytest.raises(UserError, match=r"cannot hold maps of \(12, 2, 2\)"):
            run_cell(features, cell, progress=lambda line: pytest.fail("trained first"))


@pytest.mark.parametrize(
    ("task", "cell"),
    [
        (2, make_cell("er", budget_split=[1.0, 0.01, 1.0])),
        (3, make_cell("er", "sharc", budget_split=[1.0, 1.0, 0.01])),
        (3, make_cell("er", "sharc", theta=None, mass=0.5, budget_split=[1.0, 1.0, 0.001])),
        # the third share holds a sample, but not together with its part of the class means
        (
            3,
            make_cell(
                "er",
                "sharc",
                budget_unit="bytes",
                budget_split=[1.0, 1.0, 0.06],
                buffer=30,
                count_associative_memory=True,
                associative_memory="mean",
                associative_settings={},
            ),
        ),
    ],
)
def test_a_budget_that_holds_no_sample_is_said_before_training(features, task, cell):
    with pytest.raises(UserError, match=f"holds no sample of task {task} of 3.*raise the buffer"):
        run_cell(features, cell, progress=lambda line: pytest.fail("trained first"))


def test_maps_too_large_for_a_memory_are_said_before_training(features):
    cell = make_cell("er", "sharc", associative_memory="hopfield", associative_settings={"max_bytes": 100})
    with pytest.raises(UserError, match="hopfield cannot hold maps of 12 x 2 x 2"):
        run_cell(features, cell, progress=lambda line: pytest.fail("trained first"))
