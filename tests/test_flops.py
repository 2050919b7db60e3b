"""Operations, backbone passes and peak bytes of runs; operations are compared with torch's counter.

torch.utils.flop_counter counts products of matrices as they are dispatched. It does not know the forms that
write in place or multiply by a vector, so IN_PLACE adds them to it. Neither it nor SHARC-Bench counts
factorisations and triangular solves (SLDA, BayesPCN).
"""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from factories import QUICK, make_cell, make_features
from test_method_contract import HEADS
from torch.utils.flop_counter import FlopCounterMode

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.flops import FlopCount
from sharc_core.grid.cell import Cell, HeadConfig, Training
from sharc_core.heads import make_head
from sharc_core.learning import learner
from sharc_core.learning.costs import Costs
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency import SALIENCIES

CHANNELS, IMAGES = 16, 6 * 20  # of a tiny data set with three tasks
STEPS = 8  # with a memory: tasks 2 and 3 have four minibatches each


def after_first(*shapes, out_shape=None, **kwargs) -> int:
    """Return 2 x multiply-adds of `c.addmm_(a, b)` and `c.baddbmm_(a, b)`."""
    _, first, second, *_ = shapes
    return 2 * torch.Size(first).numel() * second[-1]


def by_vector(matrix, vector, *_, out_shape=None, **kwargs) -> int:
    """Return 2 x multiply-adds of `a @ v`."""
    return 2 * torch.Size(matrix).numel()


def outer(matrix, *_, out_shape=None, **kwargs) -> int:
    """Return 2 x multiply-adds of `c.addr_(v, w)`."""
    return 2 * torch.Size(matrix).numel()


aten = torch.ops.aten
IN_PLACE = {
    aten.addmm_: after_first,
    aten.baddbmm_: after_first,
    aten.mv: by_vector,
    aten.addr_: outer,
}


def parameters(cell: Cell) -> int:
    """Return the length of a row of the head's parameters."""
    return make_head(cell.head.kind, cell.head.hidden, 1, CHANNELS, 6).vector.shape[1]


WITHOUT_PRODUCTS = ("knn",)  # it stores samples, and compares them in predictions only
# By method, operations of one run that torch does not see as products of matrices, and why.
UNSEEN: dict[str, Callable[[Cell], int]] = {
    # two inner products per step on a memory, written as elementwise products and sums
    "agem": lambda cell: STEPS * 2 * 2 * parameters(cell),
}


@pytest.fixture(scope="module")
def features():
    return make_features(channels=CHANNELS, train_per_class=20)


def make_tiny(method: str, variant: str = "plain", **changes) -> Cell:
    if METHODS.get(method).replays_current_task:
        changes = {"selection": "reservoir"} | changes
    return make_cell(method, variant, seeds=[0, 1], **changes)


def counted(features, cell: Cell, monkeypatch) -> tuple[int, int]:
    """Return the operations of all seeds by SHARC-Bench and by torch, without those of evaluations."""
    mode, aside = FlopCounterMode(display=False, custom_mapping=IN_PLACE), []
    evaluate = learner.evaluate

    def evaluated(*args):
        before = mode.get_total_flops()
        rows = evaluate(*args)
        aside.append(mode.get_total_flops() - before)
        return rows

    monkeypatch.setattr(learner, "evaluate", evaluated)
    with mode:
        document = run_cell(features, cell)
    kind = METHODS.get(cell.method)
    runs = 1 if kind.advances_together else len(cell.seeds)
    assert len(aside) == runs * (2 if kind.joint else 4)
    return sum(document["costs"]["train_flops"]), mode.get_total_flops() - sum(aside)


@pytest.mark.parametrize(
    ("method", "kind"), [(method, kind) for method in METHODS.names() for kind in METHODS.get(method).heads]
)
def test_every_method_counts_what_torch_counts(features, method, kind, monkeypatch):
    cell = make_tiny(method, head=HeadConfig(kind=kind, hidden=8))
    ours, torchs = counted(features, cell, monkeypatch)
    unseen = UNSEEN[method](cell) * len(cell.seeds) if method in UNSEEN else 0
    assert (torchs > 0) == (method not in WITHOUT_PRODUCTS)
    assert ours - unseen == pytest.approx(torchs, rel=0.01)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("er", {"replay": "whole"}),
        ("er", {"mean": "joint"}),
        ("mer", {"inner": "sample", "batches": 2, "beta": 0.5}),
        ("derpp", {"logits_at": "visit"}),
        ("gem", {"ridge": 1e-3}),
    ],
)
def test_settings_that_change_the_products_are_counted(features, method, settings, monkeypatch):
    settings = METHODS.get(method).Settings(**settings).model_dump()
    ours, torchs = counted(features, make_tiny(method, method_settings=settings), monkeypatch)
    assert ours == pytest.approx(torchs, rel=0.01) and torchs > 0


MEMORIES = [(name, {}) for name in ASSOCIATIVE_MEMORIES.names()] + [
    ("hopfield", {"rule": "hebbian", "update": "asynchronous", "updates": 2}),
    ("modern_hopfield", {"beta": 1.0, "iterations": 3}),
    ("pcn", {"layers": 3}),
    ("bayespcn", {"layers": 3, "coupled_reading": True}),
    ("bayespcn", {"log_joint": "map", "tolerance": 10.0, "steps": 12}),
    ("bayespcn_exact", {"coupled_reading": True, "batch": 3}),
]


@pytest.mark.parametrize(("name", "settings"), MEMORIES)
def test_every_associative_memory_counts_what_torch_counts(features, name, settings, monkeypatch):
    kind = ASSOCIATIVE_MEMORIES.get(name)
    complete = kind.Settings(**QUICK.get(name, {}) | settings).model_dump()
    cell = make_tiny("er", "sharc", associative_memory=name, associative_settings=complete)
    cell = cell.model_copy(update={"seeds": [0]})
    without = {"associative_memory": "none", "associative_settings": {}}
    plain = sum(run_cell(features, cell.model_copy(update=without))["costs"]["train_flops"])
    ours, torchs = counted(features, cell, monkeypatch)
    assert ours == pytest.approx(torchs, rel=0.01)
    of_memory = ours - plain
    if name in ("none", "mean") or (name, settings) == ("modern_hopfield", {}):
        assert of_memory == 0, "they multiply no matrices; maps kept without loss are not searched"
    else:  # the head's operations must not hide those of the memory
        assert of_memory > 0 and ours - torchs == pytest.approx(0, abs=0.01 * of_memory)


def test_the_search_for_maps_that_were_kept_with_loss_counts_what_torch_counts(features, monkeypatch):
    cell = make_tiny("er", "sharc", associative_memory="modern_hopfield", storage="int8")
    without = cell.model_copy(update={"associative_memory": "none", "associative_settings": {}})
    of_memory = -sum(run_cell(features, without)["costs"]["train_flops"])
    ours, torchs = counted(features, cell, monkeypatch)
    assert of_memory + ours > 0 and ours == pytest.approx(torchs, rel=0.01)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", SALIENCIES.names())
def test_every_saliency_counts_what_torch_counts(name, kind):
    head = make_head(kind, 8, 2, CHANNELS, 6)
    head.initialise([0, 1])
    x, y = torch.rand(2, 9, CHANNELS), torch.arange(9).expand(2, -1) % 6
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as mode, torch.no_grad():
        SALIENCIES.get(name)(head, x, y, 4, [torch.Generator()] * 2)
    assert sum(head.flops.of(2)) == mode.get_total_flops()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("with_labels", [False, True])
def test_both_fisher_matrices_count_what_torch_counts(kind, with_labels):
    head = make_head(kind, 8, 2, CHANNELS, 6)
    x, y = torch.rand(2, 9, CHANNELS), torch.arange(9).expand(2, -1) % 6
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as mode, torch.no_grad():
        head.fisher(x, y if with_labels else None)
    assert sum(head.flops.of(2)) == mode.get_total_flops()


def test_formulas_of_sgd():
    """Per image and weight: a product forwards and one for the gradient, each 2 operations."""
    document = run_cell(make_features(channels=CHANNELS, train_per_class=20), make_tiny("sgd"))
    assert document["costs"]["train_flops"] == [IMAGES * 2 * 2 * CHANNELS * 6] * 2
    assert document["costs"]["backbone_passes"] == [IMAGES] * 2


def test_operations_depend_on_the_replica_only_where_they_are_its_own():
    count = FlopCount()
    count.product(2, 3, 4)
    count.product(5, 6, replica=1)
    with count.paused():
        count.product(7)
        count.product(7, replica=0)
    assert count.of(3) == [48, 108, 48]


def test_copies_of_a_head_count_for_the_same_run():
    head = make_head("linear", 0, 2, CHANNELS, 6)
    head.copy().logits(torch.rand(2, 5, CHANNELS))
    assert head.flops.of(2) == [2 * 5 * CHANNELS * 6] * 2


def test_training_images_pass_the_backbone_once_per_epoch(features):
    for method in ("joint", "er", "ncm"):
        document = run_cell(features, make_tiny(method, training=Training(epochs=3)))
        assert document["costs"]["backbone_passes"] == [3 * IMAGES] * 2
    assert Costs(3).passes == 3, "as often as the published code runs a batch through a drifting backbone"


def test_replayed_images_pass_the_backbone_again(features, monkeypatch):
    """Minibatches of ER hold three images. GEM replays all of the past tasks, four of each, at every step.

    k-NN and iCaRL read all that is stored after each of the three tasks; iCaRL also replays like ER.
    """
    monkeypatch.setattr(REPRESENTATIONS.get("float16"), "replays_images", True)
    training = Training(replay_batch_size=3)
    stored = 4 + 8 + 12
    cases = {"sgd": 0, "er": 8 * 3, "derpp": 8 * 6, "gem": 4 * 4 + 4 * 8, "knn": stored}
    cases["icarl"] = cases["er"] + stored
    assert make_tiny("er").buffer == 12
    for method, replayed in cases.items():
        document = run_cell(features, make_tiny(method, training=training))
        assert document["costs"]["backbone_passes"] == [IMAGES + replayed] * 2


def test_peak_bytes_are_the_largest_at_the_end_of_a_task():
    """A memory that shrinks, and a learner that does not."""
    costs, method = Costs(None), SimpleNamespace(learner_bytes=100)
    for episodic in ([10, 30], [50, 20], [5, 5]):
        memory = SimpleNamespace(episodic_bytes=lambda e=episodic: e, associative_bytes=lambda: [1, 2])
        costs.end_of_task(method, memory)
    assert costs.peak == [151, 132]


@pytest.mark.parametrize("variant", ["plain", "sharc"])
def test_what_only_grows_is_largest_at_the_end(features, variant):
    costs = run_cell(features, make_tiny("clser", variant))["costs"]
    parts = zip(*(costs[f"{part}_bytes"] for part in ("episodic", "associative", "learner")), strict=True)
    assert costs["peak_bytes"] == [sum(row) for row in parts]
