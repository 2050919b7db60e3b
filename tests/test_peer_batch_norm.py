"""Drifting features and all methods on them, compared with the authors' classes with a network."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import predictor
from safetensors.torch import load_file
from test_peer_runs import NAMES, close

from sharc_core.backbones import Backbone, BackboneConfig
from sharc_core.backbones.batch_norm import BatchNorms
from sharc_core.backbones.preprocess import resolve
from sharc_core.features.drifting.extract import Extraction
from sharc_core.features.drifting.part import Kept, Part
from sharc_core.features.drifting.reading import open_drifting
from sharc_core.features.views import replicas_of
from sharc_core.grid.cell import Cell
from sharc_core.grid.drifting_parts import parts_of
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.heads import make_head
from sharc_core.learning import learner
from sharc_core.learning.costs import Costs
from sharc_core.methods import METHODS
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import Stream, make_stream

torch.set_num_threads(1)

PEER = Path(__file__).with_name("peer")
ARRAYS = np.load(PEER / "batch_norm.npz", allow_pickle=False)
RUNS = json.loads((PEER / "batch_norm.json").read_text())
SETTINGS = json.loads((PEER / "runs.json").read_text())["runs"]
METHOD_KEYS = ["sgd", "er", "mer", "gem", "agem", "derpp", "clser"]
LAYERS = ("bn1", "layer4.0.1")
TOLERANCE = 1e-12


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name])


class Network(torch.nn.Module):
    """The fixture's network up to its maps, with the fixture's layer names."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        second = [torch.nn.Conv2d(8, 16, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(16)]
        self.layer4 = torch.nn.Sequential(torch.nn.Sequential(*second))

    def forward(self, x):
        return self.layer4(self.bn1(self.conv1(x)).relu()).relu()


def make_backbone() -> Backbone:
    network = Network()
    tensors = {key.removeprefix("net_"): array(key) for key in ARRAYS.files if key.startswith("net_")}
    network.load_state_dict(network.state_dict() | tensors)
    config = BackboneConfig(arch="resnet_small", weights="pretrain", image_size=8, batch_norm="drifting")
    body = torch.fx.symbolic_trace(network).double()
    backbone = Backbone(body, config, (16, 4, 4), "0" * 64, resolve(config), fuse=False)
    backbone.preprocess = lambda images: images.double()
    return backbone


@pytest.fixture(scope="module", autouse=True)
def _authors_order():
    """Use the authors' order of each task and of JOINT."""
    with pytest.MonkeyPatch.context() as patch:

        def order(self, task, epoch, seeds):
            return (array("joint_order") if self.tasks == 1 else array("order")[task]).long()[None]

        patch.setattr(Stream, "order", order)
        yield


@pytest.fixture(scope="module")
def stream():
    return make_stream(array("train_labels").long(), array("test_labels").long(), 6, StreamConfig(tasks=3))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, stream):
    """The parts that the seven methods and JOINT read, extracted in float64."""
    prepared = SimpleNamespace(
        manifest={"classes": list("abcdef")},
        train_images=ARRAYS["train_images"],
        train_labels=ARRAYS["train_labels"],
        test_images=ARRAYS["test_images"],
        test_labels=ARRAYS["test_labels"],
    )
    extraction = Extraction(prepared, stream, make_backbone(), maps=torch.float64, pooled=torch.float64)
    root = tmp_path_factory.mktemp("drifting")
    parts = parts_of([drifting_cell(key) for key in [*METHOD_KEYS, "joint"]], Kept(None))
    for part in parts:
        extraction.run(part, root / part.name, root / Part("train", 0, 0, 10, kept=Kept(None)).name)
    return {part: root / part.name for part in parts}


@pytest.fixture(scope="module")
def features(folders):
    return open_drifting(list(folders.values()))


def drifting_cell(method: str, **sharc) -> Cell:
    """Return the run's cell as a grid file defines it, with storage in float64."""
    given = SETTINGS.get(f"{method}_t0", {"settings": {}})["settings"]
    names = NAMES.get(method, {})
    given = {names.get(name, name): value for name, value in given.items()}
    given = {name: value if name == "batches" else float(value) for name, value in given.items()}
    backbone = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32, "batch_norm": "drifting"}
    grid = load_grid(
        {
            "datasets": {"peer": {"source": "digits", "tasks": 3}},
            "backbone": backbone,
            "methods": [method],
            "variants": ["sharc" if sharc else "plain"],
            "buffers": [30],
            "scenarios": ["class_il"],
            "seeds": [0],
            "protocol": "code",
            "method_settings": {method: given},
            **({"sharc": sharc} if sharc else {}),
        }
    )
    (cell,) = cells(grid)
    return cell.model_copy(update={"storage": "float64"})


def start_head():
    head = make_head("linear", 0, 1, 16, 6).double()
    head.weight[0], head.bias[0] = array("w0"), array("b0")
    return head


def replay(method_name: str, features, stream) -> SimpleNamespace:
    """Run the learner with the authors' draws."""
    cell = drifting_cell(method_name)
    head = start_head()
    kind = METHODS.get(method_name)
    method = kind(head, kind.Settings.model_validate(cell.method_settings), 0.1, 10, [torch.Generator()])
    if method_name == "clser":
        method._draws = [row[:, None] for row in array("clser_uniform").flip(0)]
    store = learner.make_memory(features, stream, cell)
    drawn = array(f"{method_name}_drawn") if f"{method_name}_drawn" in ARRAYS else torch.zeros(0, 0, 10)
    rows = [row.long() for step in drawn for row in step if row[0] >= 0]
    store.replay.sampler = lambda *args: SimpleNamespace(draw=lambda: rows.pop(0)[None])
    seen = SimpleNamespace(heads=[], rows=[], store=store, left=rows)
    begin = store.begin_task
    evaluate = learner.evaluate

    def evaluating(tests, stream, tested, device="cpu"):
        names = {"": head} | {n: getattr(method, n) for n in ("stable", "plastic") if hasattr(method, n)}
        seen.heads.append({n: (h.weight[0].clone(), h.bias[0].clone()) for n, h in names.items()})
        for name in getattr(seen, "averages", {}):
            tests_of_average = views.tests(len(seen.heads) - 1, None)
            seen.averages[name].append(evaluate(tests_of_average, stream, predictor(names[name])))
        return evaluate(tests, stream, tested, device)

    if method_name == "clser":  # the code tests its averages too, each with a separate network
        views = replicas_of(features, [0], 1, 10)
        seen.averages = {"stable": [], "plastic": []}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "evaluate", evaluating)
        seen.rows = learner._train(features, stream, cell, method, store, [], Costs(cell.passes), "cpu", None)
    seen.method, seen.begin = method, begin
    return seen


def parts_matrix(rows, scenario: str) -> list[list[float]]:
    """Return row i up to the task after i, which is what the authors test."""
    found = torch.stack([row[scenario][0] for row in rows])
    assert bool(found[0, 2:].isnan().all()), "tasks beyond the next one are not tested"
    return [found[i, : min(i + 2, 3)].tolist() for i in range(3)]


@pytest.mark.parametrize("key", METHOD_KEYS)
def test_features_and_statistics_equal_the_authors(key, features, folders):
    """Compare pooled test features and running statistics after each task."""
    passes = METHODS.get(key).passes
    steps = [12 * passes * (task + 1) for task in range(3)]
    assert steps == RUNS[key]["passes_after_task"]
    backbone = make_backbone()
    norms = BatchNorms(backbone.body)
    train = folders[Part("train", 0, 0, 10, kept=Kept(None))]
    for task in range(3):
        norms.set(load_file(train / f"task{task}" / "statistics.safetensors")[f"passes{passes}"])
        for name in LAYERS:
            layer = norms.layers[name]
            close(layer.running_mean, array(f"{key}_{name}_running_mean")[task], TOLERANCE)
            close(layer.running_var, array(f"{key}_{name}_running_var")[task], TOLERANCE)
        tested = features.tested[0, 10, passes][task]
        theirs = array(f"{key}_test_pooled")[task]
        close(tested, theirs[features.test_order[: len(tested)]], TOLERANCE)


@pytest.mark.parametrize("key", METHOD_KEYS)
def test_runs_equal_the_authors(key, features, stream):
    """Compare heads, memories and accuracies."""
    seen = replay(key, features, stream)
    assert not seen.left, "every draw was used"
    for task, heads in enumerate(seen.heads):
        for name, (w, b) in heads.items():
            if name:
                theirs = array(f"{key}_{name}_w_task{task}"), array(f"{key}_{name}_b_task{task}")
            else:
                theirs = array(f"{key}_w_task")[task], array(f"{key}_b_task")[task]
            close(w, theirs[0], TOLERANCE)
            close(b, theirs[1], TOLERANCE)
    for scenario in ("class_il", "task_il"):
        matrix = parts_matrix(seen.rows, scenario)
        for ours, theirs in zip(matrix, RUNS[key]["matrices"]["net"][scenario], strict=True):
            assert ours == pytest.approx(theirs[: len(ours)], abs=1e-9)
    for name, rows in getattr(seen, "averages", {}).items():
        for scenario, theirs in RUNS[key]["matrices"][name].items():
            for row, accuracies in zip(rows, theirs, strict=True):
                assert row[scenario][0, : len(accuracies)].tolist() == pytest.approx(accuracies, abs=1e-9)
    for task, stored in enumerate(seen.store.stored):
        name = f"{key}_mem{task}"
        assert stored.y[0].tolist() == ARRAYS[f"{name}_labels"].tolist()
        close(stored.sparse[0].decode().flatten(1), array(f"{name}_values"), TOLERANCE)
    if RUNS[key]["stored_after_task"]:
        assert [s.index.shape[1] for s in seen.store.stored] == RUNS[key]["stored_after_task"]


def test_joint_equals_the_authors(features, stream):
    seen = replay("joint", features, stream)
    ((w, b),) = seen.heads[-1].values()
    assert all(bool(row["class_il"].isnan().all()) for row in seen.rows[:2]), "JOINT is tested at its end"
    for scenario, theirs in RUNS["joint"]["matrices"]["net"].items():
        assert seen.rows[2][scenario][0].tolist() == pytest.approx(theirs[-1], abs=1e-9)
    close(w, array("joint_w"), TOLERANCE)
    close(b, array("joint_b"), TOLERANCE)
