"""Whole runs under `protocol: code` compared with runs of the authors' classes (tests/peer/README.md)."""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import predictor

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.associative.base import AssociativeMemory
from sharc_core.common.pooling import pool
from sharc_core.features.cache import Features
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.heads import make_head
from sharc_core.learning import learner, metrics
from sharc_core.learning.costs import Costs
from sharc_core.methods import METHODS, agem, gem
from sharc_core.selection import batches
from sharc_core.selection.batches import whole_batches
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import Stream, make_stream

torch.set_num_threads(1)  # more threads do not help with small products

PEER = Path(__file__).with_name("peer")
ARRAYS = np.load(PEER / "runs.npz", allow_pickle=False)
RUNS = json.loads((PEER / "runs.json").read_text())["runs"]
KEYS = sorted(RUNS)
# every method and every setting of the associative memory; the other six runs agree too, but take long
OWN_MEMORY = ["er_t0.5", "er_t0.8", "er_m70_t0.5", "gem_t0.8", "agem_t0.5", "derpp_t0.5", "mer_t0.8"]
OWN_MEMORY += ["mer_b2_t0.5", "clser_t0.8", "clser_fast_t0.5"]
NAMES = {
    "gem": {"gamma": "margin"},
    "mer": {"batch_num": "batches"},
    "clser": {
        "reg_weight": "reg",
        "stable_model_update_freq": "stable_rate",
        "stable_model_alpha": "stable_decay",
        "plastic_model_update_freq": "plastic_rate",
        "plastic_model_alpha": "plastic_decay",
    },
}


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name])


@pytest.fixture(scope="module")
def features():
    """The runs' exact maps in float64."""
    train, test = array("train_maps").double(), array("test_maps").double()
    return Features(
        train_maps=train,
        train_pooled=pool(train),
        train_labels=array("train_labels").long(),
        test_maps=test,
        test_pooled=pool(test),
        test_labels=array("test_labels").long(),
        classes=list("abcdef"),
        manifest={},
    )


def code_cell(key: str):
    """Return the run's cell as a grid file with `protocol: code` defines it, with storage in float64."""
    run = RUNS[key]
    method, theta = run["method"], run["theta"]
    names = NAMES.get(method, {})
    given = {names.get(name, name): value for name, value in run["settings"].items()}
    given = {name: value if name == "batches" else float(value) for name, value in given.items()}
    grid = load_grid(
        {
            "datasets": {"peer": {"source": "digits", "tasks": 3}},
            "backbone": {"arch": "resnet_small", "weights": "pretrain", "image_size": 32},
            "methods": [method],
            "variants": ["sharc" if theta else "plain"],
            "buffers": [run["buffer"]],
            "scenarios": ["class_il"],
            "seeds": [0],
            "protocol": "code",
            "method_settings": {method: given},
            "sharc": {
                "theta": float(theta),
                "associative_memory": "bayespcn",
                "associative_settings": {"bayespcn": {"hidden": 32}},
            },
        }
    )
    (cell,) = cells(grid)
    return cell.model_copy(update={"storage": "float64"})


class Draws:
    """Returns the positions that the authors' run drew, one minibatch after the other."""

    def __init__(self, key: str):
        drawn = ARRAYS[f"{key}_drawn"] if f"{key}_drawn" in ARRAYS else np.zeros((0, 0, 10), int)
        self.rows = [torch.from_numpy(row) for step in drawn for row in step if row[0] >= 0]

    def draw(self) -> torch.Tensor:
        return self.rows.pop(0).long()[None]


class Recorded:
    """An associative memory that returns what the authors' memory recalled."""

    state_bytes = 0
    picks = False
    learns_together = False
    write_all = classmethod(AssociativeMemory.write_all.__func__)
    read_all = AssociativeMemory.read_all

    def __init__(self, key: str):
        self.recalled = list(array(f"{key}_am_recalled"))
        self.kept = list(array(f"{key}_am_keep"))
        self.calls: list[str] = []

    def write_rows(self, rows, labels):
        self.calls.append("learn")

    def forget(self, beta):
        assert beta == 0.1
        self.calls.append("forget")

    def read(self, maps, mask, labels):
        self.calls.append("infer")
        assert torch.equal(mask, self.kept.pop(0).bool())
        return self.recalled.pop(0).view_as(maps)


def own_memory(key: str, cell):
    """Return our BayesPCN in float64 with the authors' prior and initial states."""
    kind = ASSOCIATIVE_MEMORIES.get("bayespcn")
    am = kind(kind.Settings.model_validate(cell.associative_settings), (16, 2, 2), 6)
    prior, top = array("R0"), array("top_mean0")
    am._prior_means = lambda: ([prior.clone()], top.clone())
    am.layers[0].mean, am.top_mean = prior.clone(), top.clone()
    starts = {"write": list(array(f"{key}_am_start_write")), "read": list(array(f"{key}_am_start_read"))}
    am.draw_start = lambda what, offset, count: starts[what].pop(0)
    am.calls, am.read_maps = [], []
    forget, write, read = am.forget, am.write, am.read

    def reading(maps, mask, labels):
        am.calls.append("infer")
        am.read_maps.append(read(maps, mask, labels))
        return am.read_maps[-1]

    am.forget = lambda beta: (am.calls.append("forget"), forget(beta))
    am.write = lambda maps, labels: (am.calls.append("learn"), write(maps, labels))
    am.read = reading
    return am


def replay(key: str, features, monkeypatch, associative=None) -> SimpleNamespace:
    """Run the learner on the authors' draws; return our values of everything in the fixture."""
    run, cell = RUNS[key], code_cell(key)
    order = array("order").long()
    monkeypatch.setattr(Stream, "order", lambda self, task, epoch, seeds: order[task][None])
    stream = make_stream(features.train_labels, features.test_labels, 6, StreamConfig(tasks=3))
    head = make_head("linear", 0, 1, 16, 6).double()
    head.weight[0], head.bias[0] = array("w0"), array("b0")
    kind = METHODS.get(cell.method)
    settings = kind.Settings.model_validate(cell.method_settings)
    method = kind(head, settings, 0.1, 10, [torch.Generator()])
    if cell.method == "clser":
        method._draws = [row[:, None] for row in array(f"{key}_uniform").flip(0)]
    store = learner.make_memory(features, stream, cell)
    draws = Draws(key)
    store.replay.sampler = lambda *args: draws
    if store.sharc is not None:
        store.sharc.associative[0] = associative or Recorded(key)
    seen = SimpleNamespace(every10=[], task=[], masks=[], costs=[], importance=[], drawn=draws, store=store)
    seen.tested, seen.replaced = defaultdict(list), []
    observe, masks, saliency = method.observe, store._masks, store._saliency

    def observing(batch, memory):
        observe(batch, memory)
        seen.steps = getattr(seen, "steps", 0) + 1
        if seen.steps % 10 == 0:
            seen.every10.append((head.weight[0].clone(), head.bias[0].clone()))
        if seen.steps % 12 == 0:
            heads = {"": head} | {n: getattr(method, n) for n in ("stable", "plastic") if hasattr(method, n)}
            seen.task.append({n: (h.weight[0].clone(), h.bias[0].clone()) for n, h in heads.items()})
            for name, tested in heads.items():
                seen.tested[name or "net"].append(learner.evaluate(features, stream, predictor(tested)))

    def masking(*args):
        seen.masks.append(masks(*args))
        return seen.masks[-1]

    def noting(*args):
        seen.importance.append(saliency(*args)[0])
        return seen.importance[-1][None]

    def filling(costs, batch_size, allowance):
        seen.costs.append((costs, allowance))
        return whole_batches(costs, batch_size, allowance)

    def projecting(project):
        def projected(gradient, *args):
            step = project(gradient, *args)
            if not torch.equal(step, gradient):
                seen.replaced.append(getattr(seen, "steps", 0))
            return step

        return projected

    for module, name in ((gem, "project_many"), (agem, "project_one")):
        monkeypatch.setattr(module, name, projecting(getattr(module, name)))
    method.observe, store._masks, store._saliency = observing, masking, noting
    monkeypatch.setattr(batches, "whole_batches", filling)
    seen.untrained = learner.evaluate(features, stream, predictor(head))
    seen.rows = learner._train(features, stream, cell, method, store, [], Costs(cell.passes), "cpu", None)
    seen.run, seen.order = run, order
    return seen


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def check_heads(key: str, seen, tolerance: float) -> None:
    for step, (w, b) in enumerate(seen.every10):
        close(w, array(f"{key}_w_every10")[step], tolerance)
        close(b, array(f"{key}_b_every10")[step], tolerance)
    for task, heads in enumerate(seen.task):
        for name, (w, b) in heads.items():
            prefix = f"{key}_{name}_" if name else f"{key}_"
            close(w, array(f"{prefix}w_task")[task], tolerance)
            close(b, array(f"{prefix}b_task")[task], tolerance)


def check_accuracies(seen) -> None:
    """Compare the accuracies of every network that the code tests."""
    for name, results in seen.run["results"].items():
        for scenario, key in (("class_il", "class"), ("task_il", "task")):
            for task, row in enumerate(results[f"results_{key}"]):
                tested = min(task + 2, 3)
                ours = seen.tested[name][task][scenario][0, :tested]
                assert ours.tolist() == pytest.approx(row[:tested], abs=1e-9)
    logged = seen.run["results"]["net"]
    for scenario, name in (("class_il", "class"), ("task_il", "task")):
        ours = torch.stack([row[scenario][0] for row in seen.rows])
        for task, row in enumerate(logged[f"results_{name}"]):
            # the code's forgetting metric pads the rows with zeros after the next task
            tested = min(task + 2, 3)
            assert ours[task, :tested].tolist() == pytest.approx(row[:tested], abs=1e-9)
        matrix, untrained = ours.numpy(), seen.untrained[scenario][0].numpy()
        assert untrained.tolist() == pytest.approx(logged[f"initial_{name}"], abs=1e-9)
        assert metrics.acc(matrix) == pytest.approx(logged[f"ACC_{name}"])
        assert metrics.bwt(matrix) == pytest.approx(logged[f"BWT_{name}"])
        assert metrics.bwt_in_code(matrix, untrained) == pytest.approx(logged[f"BWT_{name}"])
        assert metrics.forgetting_in_code(matrix) == pytest.approx(logged[f"forgetting_{name}"])
        assert metrics.fwt(matrix, untrained) == pytest.approx(logged[f"FWT_{name}"])


@pytest.mark.parametrize("key", KEYS)
def test_whole_runs_equal_the_authors(key, features, monkeypatch):
    """Compare heads, samples, masks, buffers after every step and metrics, with given recalled maps."""
    seen = replay(key, features, monkeypatch)
    run = seen.run
    check_heads(key, seen, 1e-12)
    check_accuracies(seen)
    assert not seen.drawn.rows, "every draw was used"
    assert seen.replaced == run["violated_steps"]
    assert [s.index.shape[1] for s in seen.store.stored] == run["stored_after_task"]
    if run["theta"]:
        close(torch.cat(seen.importance), array(f"{key}_importance").flatten(0, 1), 1e-12)
        steps = [step for _, step in run["am_calls"]]
        assert seen.store.sharc.associative[0].calls == [name for name, _ in run["am_calls"]]
        assert sorted(set(steps)) == ARRAYS[f"{key}_am_steps"].tolist()
    ids = run["buffer_ids_after_step"]
    for task, stored in enumerate(seen.store.stored):
        costs, allowance = seen.costs[task]
        for step in range(12):
            held = whole_batches(costs[: 10 * (step + 1)], 10, allowance)
            at = 12 * task + step
            assert seen.order[task][held].tolist() == ids[at]
            assert sum(costs[position] for position in held) == run["entries_counted_after_step"][at]
        held = whole_batches(costs, 10, allowance)
        name = f"{key}_mem{task}"
        assert stored.index[0].tolist() == ARRAYS[f"{name}_ids"].tolist()
        assert stored.y[0].tolist() == ARRAYS[f"{name}_labels"].tolist()
        assert [costs[position] for position in held] == ARRAYS[f"{name}_needed"].tolist()
        close(stored.sparse[0].decode().flatten(1), array(f"{name}_values"), 1e-12)
        if run["theta"]:
            assert torch.equal(seen.masks[task][0, held], array(f"{name}_keep").bool())
            assert torch.equal(stored.completes[0], array(f"{name}_completed").bool())
        if stored.logits is not None:
            close(stored.logits[0], array(f"{name}_logits"), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("key", OWN_MEMORY)
def test_whole_runs_with_our_associative_memory_equal_the_authors(key, features, monkeypatch):
    """Only the authors' draws are given, and our BayesPCN recalls what theirs did."""
    cell = code_cell(key)
    am = own_memory(key, cell)
    seen = replay(key, features, monkeypatch, am)
    for ours, theirs in zip(am.read_maps, array(f"{key}_am_recalled"), strict=True):
        close(ours.flatten(1), theirs, 1e-6)
    close(am.layers[0].mean, array(f"{key}_am_R_end"), 1e-6)
    close(am.layers[0].covariance, array(f"{key}_am_U_end"), 1e-6)
    close(am.top_mean, array(f"{key}_am_top_mean_end"), 1e-6)
    assert am.top_variance == pytest.approx(float(ARRAYS[f"{key}_am_top_var_end"]), rel=1e-9)
    check_heads(key, seen, 1e-6)
    check_accuracies(seen)
