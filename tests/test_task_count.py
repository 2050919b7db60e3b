"""The study `task_count`: features, cells, jobs and files. test_task_count_findings.py has its findings."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from factories import make_cell, make_features
from result_factory import made_by
from snake import ROOT
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.common.phases import STEPS, TESTING, phase
from sharc_core.features.cache import Features
from sharc_core.grid.loading import load_grid
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc, bwt
from sharc_core.methods import METHODS
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream, split_classes
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import read_rows, write_rows
from sharc_core.studies.task_count import TaskCount, measure
from sharc_core.studies.task_count.figure import write_count_figure
from sharc_core.studies.task_count.measure import beginning, run_counts
from sharc_core.studies.task_count.settings import COLUMNS, CountJob, CountSettings
from sharc_core.studies.task_count.summary import summary
from sharc_core.studies.task_count.table import write_count_tables

GLYPHS = {"source": "glyphs", "classes": 40, "tasks": 20}


# --- real cells --------------------------------------------------------------------------------------


def as_features(shuffled: bool = False, **sizes) -> Features:
    found = make_features(**sizes)
    names = [name for name in Features.__dataclass_fields__ if name != "further_views"]
    values = {name: getattr(found, name) for name in names}
    if shuffled:
        for split in ("train", "test"):
            order = torch.randperm(len(values[f"{split}_labels"]), generator=torch.Generator().manual_seed(1))
            values |= {
                f"{split}_{kind}": values[f"{split}_{kind}"][order] for kind in ("maps", "pooled", "labels")
            }
    return Features(**values)


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_first_classes_of_a_data_set(shuffled):
    features = as_features(shuffled)
    part, stream = beginning(features, StreamConfig(tasks=2), 4)
    assert part.classes == features.classes[:4] and int(part.train_labels.max()) == 3
    assert stream == StreamConfig(tasks=2)
    for split in ("train", "test"):
        keep = getattr(features, f"{split}_labels") < 4
        for kind in ("maps", "pooled", "labels"):
            assert torch.equal(getattr(part, f"{split}_{kind}"), getattr(features, f"{split}_{kind}")[keep])
    is_view = part.train_maps.untyped_storage().data_ptr() == features.train_maps.untyped_storage().data_ptr()
    assert is_view != shuffled, "in the order of the labels no map is copied"


@pytest.mark.parametrize("order", [{"class_order": [4, 0, 5, 2, 1, 3]}, {"class_order_seed": 3}])
def test_a_stream_begins_like_a_longer_one_in_any_class_order(order):
    features = as_features()
    longest, seen = split_classes(features.classes, StreamConfig(tasks=3, **order)), []
    for tasks in (3, 2):
        part, stream = beginning(features, StreamConfig(tasks=tasks, **order), 2 * tasks)
        learned = make_stream(part.train_labels, part.test_labels, part.classes, stream)
        for task, classes in enumerate(learned.classes_per_task):
            names = [part.classes[label] for label in classes]
            assert names == [features.classes[label] for label in longest[task]]
            images = part.train_pooled[learned.train[task]]
            keep = torch.isin(features.train_labels, torch.tensor(longest[task]))
            assert torch.equal(images, features.train_pooled[keep])
        seen.append(part.train_maps)
    assert seen[0].data_ptr() == features.train_maps.data_ptr(), "all classes: no map is copied"


def job_of(tasks: int, method: str, **changes) -> CountJob:
    variants = ("plain", "sharc") if method == "er" else ("plain",)
    cells = [make_cell(method, variant, tasks=tasks, seeds=[0, 1], **changes) for variant in variants]
    return CountJob(cells=[cell.model_dump(mode="json") for cell in cells], classes=2 * tasks)


def test_rows_are_those_of_the_learner(tmp_path):
    features, paths = as_features(), []
    for tasks in (2, 3):
        for method in ("er", "sgd"):
            job = job_of(tasks, method)
            rows = run_counts(features, job, lambda line: None)
            assert list(rows.columns) == list(COLUMNS)
            for cell in job.opened:
                document = run_cell(beginning(features, cell.stream, 2 * tasks)[0], cell)
                own = rows[(rows.scenario == "class_il") & (rows.variant == cell.variant)]
                matrix = np.array(document["matrix"]["class_il"], dtype=float)
                np.testing.assert_array_equal(own.acc, acc(matrix))
                np.testing.assert_array_equal(own.bwt, bwt(matrix))
                assert own.test_images.tolist() == [len(features.test_labels) * tasks // 3] * 2
                np.testing.assert_allclose(own.correct, own.acc * own.test_images / 100)
                costs = document["costs"]
                assert own.peak_bytes.tolist() == costs["peak_bytes"]
                kinds = ("episodic_bytes", "associative_bytes", "learner_bytes")
                assert own.total_bytes.tolist() == [
                    sum(values) for values in zip(*map(costs.get, kinds), strict=True)
                ]
                assert all(costs["learner_bytes"]) and own.chance.tolist() == [100 / (2 * tasks)] * 2
            assert (rows[rows.scenario == "task_il"].chance == 50).all()
            paths.append(tmp_path / f"{tasks}-{method}.csv")
            write_rows(rows, paths[-1], made_by(), "key")
    rows = read_rows(TaskCount(), paths, ["key"] * 4)
    assert summary(rows).gain.notna().sum() == 2 * 2
    for name in ("a", "b"):
        for path in write_count_tables(rows, tmp_path / name, "c"):
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
        assert [path.name for path in write_count_figure(rows, tmp_path / name, "c")] == [
            *TaskCount().figure_names({})
        ]
    assert {path.name for path in (tmp_path / "a").iterdir()} >= set(TaskCount().table_names())
    text = (tmp_path / "a/task_count.md").read_text()
    assert "## Streams of toy, toy" in text and "## Growth, toy, toy" in text and "ER + modern" in text


def test_images_are_counted_where_tasks_have_different_numbers():
    """ACC weighs tasks alike, the number of correct answers images."""
    found = as_features()
    keep = torch.ones(len(found.test_labels), dtype=torch.bool)
    keep[(found.test_labels == 5).nonzero().flatten()[:-1]] = False
    names = {f"test_{kind}": getattr(found, f"test_{kind}")[keep] for kind in ("maps", "pooled", "labels")}
    features, job = replace(found, **names), job_of(3, "sgd")
    rows = run_counts(features, job, lambda line: None)
    (cell,) = job.opened
    last = np.array(run_cell(features, cell)["matrix"]["class_il"])[:, -1]
    counts = np.bincount(features.test_labels.numpy() // 2)
    assert len(set(counts)) == 2
    np.testing.assert_allclose(rows[rows.scenario == "class_il"].correct, (last * counts).sum(1) / 100)


def test_seconds_are_the_processors_by_phase_after_a_discarded_run(monkeypatch):
    """Nothing that a phase of training takes counts as testing, and a sleep is no CPU time."""
    seen = []

    def learner(features, cell, progress=None):
        seen.append((cell.stream.count, cell.buffer, len(features.classes), cell.seeds))
        with phase(STEPS):
            spin(0.02)
        with phase(TESTING):
            spin(0.06)
            time.sleep(0.3)
        spin(0.12)
        return document

    def spin(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    job = job_of(3, "sgd")
    document = run_cell(as_features(), job.opened[0].model_copy(update={"seeds": [0]}))
    monkeypatch.setattr(measure, "run_cell", learner)
    rows = run_counts(as_features(), job, lambda line: None)
    assert (rows.train_seconds - 0.02).abs().max() < 0.02 and (rows.test_seconds - 0.06).abs().max() < 0.02
    assert (rows.other_seconds - 0.12).abs().max() < 0.03 and (rows.run_seconds >= 0.5).all()
    assert seen == [(2, None, 4, [0]), (3, None, 6, [0]), (2, None, 4, [1]), (3, None, 6, [1])]
    seen.clear()
    run_counts(as_features(), job_of(3, "er"), lambda line: None)
    assert [buffer for _, buffer, *_ in seen[:2]] == [8, 12], "as many slots per class"


def test_freed_memory_is_returned_during_a_run(monkeypatch):
    calls = []
    monkeypatch.setattr(measure, "TRIM", 2)
    monkeypatch.setattr(measure, "return_free_memory", lambda: calls.append(1))
    run_counts(as_features(), job_of(3, "sgd"), lambda line: None)
    assert len(calls) == 2, "after the second of three tasks, for both seeds"


def test_every_run_can_have_its_own_class_order():
    job = job_of(2, "sgd", class_order_seed="per_run")
    rows = run_counts(as_features(), job, lambda line: None)
    for seed in (0, 1):
        cell = job.opened[0].model_copy(update={"seeds": [seed]})
        part, stream = beginning(as_features(), cell.stream.of_run(seed), 4)
        document = run_cell(part, cell.model_copy(update={"stream": stream}))
        own = rows[(rows.scenario == "class_il") & (rows.seed == seed)]
        np.testing.assert_array_equal(own.acc, acc(np.array(document["matrix"]["class_il"])))


# --- settings and jobs -------------------------------------------------------------------------------


def jobs_of(**block) -> dict:
    datasets = BASE["datasets"] | {"many": GLYPHS}
    grid = load_grid(BASE | {"datasets": datasets, "task_count": block})
    jobs = study_of(grid, "task_count").chosen_jobs(grid)
    return {(job.dataset, job.name): CountJob.model_validate(dict(job.settings)) for job in jobs}


def test_a_stream_needs_enough_classes_and_takes_the_first():
    jobs = jobs_of(tasks=[2, 5, 20, 30], methods=["er", "sgd"], samples_per_class=3, theta=0.25)
    assert [name for dataset, name in jobs if dataset == "many"] == [
        "2-er", "2-sgd", "5-er", "5-sgd", "20-er", "20-sgd",
    ]  # fmt: skip
    assert ("s_digits", "5-er") in jobs and ("s_digits", "20-er") not in jobs, "ten digits"
    job = jobs["many", "20-er"]
    assert job.classes == 40 and {cell.stream.count for cell in job.opened} == {20}
    assert [(c.variant, c.theta, c.buffer) for c in job.opened] == [
        ("plain", None, 120),
        ("sharc", 0.25, 120),
    ]
    assert [cell.variant for cell in jobs["many", "20-sgd"].opened] == ["plain"]


def test_only_memories_that_forget_are_run_with_forgetting():
    block = {"associative_memories": ["modern_hopfield", "mean"], "forget_every": [None, 1]}
    jobs = jobs_of(tasks=[5], methods=["er"], datasets=["many"], **block)
    (job,) = jobs.values()
    assert [(cell.associative_memory, cell.forget_every) for cell in job.opened] == [
        (None, None),
        ("modern_hopfield", None),
        ("mean", None),
        ("mean", 1),
    ]


def test_a_memory_runs_with_the_methods_that_are_named_for_it():
    block = {"associative_memories": ["modern_hopfield", "mean"], "methods_of": {"mean": ["er"]}}
    jobs = jobs_of(tasks=[5], methods=["er", "derpp"], datasets=["many"], **block)
    memories = [[cell.associative_memory for cell in job.opened] for job in jobs.values()]
    assert memories == [[None, "modern_hopfield", "mean"], [None, "modern_hopfield"]]


def test_the_cells_have_the_studys_seeds_stream_memory_and_storage():
    """The grid's own stream, budget, memory, storage, views and seeds do not reach the cells."""
    many = GLYPHS | {"order": "blurry", "blurry": 0.3, "class_order_seed": 4}
    values = BASE | {"datasets": {"many": many}, "seeds": [5, 6], "storage": "int8"}
    values |= {"memory": {"selection": "balanced"}, "budget": {"unit": "total_bytes"}, "buffers": ["1 MB"]}
    block = {"tasks": [5], "methods": ["er", "er_ace", "gdumb"]}
    for seeds, own in (([0], [0]), (None, [5, 6])):
        grid = load_grid(values | {"task_count": block | {"seeds": seeds}})
        for job in study_of(grid, "task_count").chosen_jobs(grid):
            for cell in CountJob.model_validate(dict(job.settings)).opened:
                assert cell.seeds == own and cell.stream == StreamConfig(tasks=5, class_order_seed=4)
                assert (cell.budget_unit, cell.buffer, cell.storage) == ("floats", 20, "float16")
                assert (cell.views, cell.device) == (1, "cpu")
                chosen = {"er": "last", "er_ace": "reservoir", "gdumb": "balanced"}
                assert cell.selection == chosen[cell.method]


def test_the_thousand_tasks_are_every_method_once():
    """The documented run has ER, plain and with SHARC, on 1,000 tasks of 2 classes, with two seeds."""
    grid = load_grid(yaml.safe_load((ROOT / "config/thousand_tasks.yaml").read_text()))
    study = study_of(grid, "task_count")
    assert sorted(study.settings.methods) == METHODS.names()
    jobs = {job.name: job for job in study.chosen_jobs(grid)}
    assert {f"100-{name}" for name in METHODS.names()} - jobs.keys() <= {
        f"100-{name}" for name in study.settings.most_tasks
    }
    job = CountJob.model_validate(dict(jobs["1000-er"].settings))
    assert job.classes == 2000 and all(len(cell.seeds) == 2 for cell in job.opened)
    assert [cell.variant for cell in job.opened] == ["plain", "sharc"]


def test_slow_methods_and_memories_run_on_short_streams_alone():
    limits = {"gem": 5, "mean": 2, "sgd": 2}
    jobs = jobs_of(
        tasks=[2, 5, 10],
        methods=["gem", "er", "sgd"],
        associative_memories=["mean"],
        most_tasks=limits,
        datasets=["many"],
    )
    assert [name for _, name in jobs] == ["2-gem", "2-er", "2-sgd", "5-gem", "5-er", "10-er"]
    assert [len(job.opened) for job in jobs.values()] == [2, 2, 1, 1, 1, 1]


def test_a_grid_whose_data_sets_are_too_small_or_cannot_be_read_has_no_jobs():
    grid = load_grid(BASE | {"task_count": {"tasks": [6]}})
    assert study_of(grid, "task_count").jobs(grid) == [], "ten digits make five tasks of two"
    broken = SimpleNamespace(**{name: getattr(grid, name) for name in ("datasets", "study_blocks", "sharc")})
    broken.source = lambda name: SimpleNamespace(class_names=Path("/nowhere").read_text)
    assert TaskCount().jobs(broken) == []


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"most_tasks": {"geem": 3}}, r"most_tasks: 'geem' is no method.*did you mean 'gem'"),
        ({"methods": ["err"], "tasks": [2]}, "unknown method 'err'"),
        ({"associative_memories": ["mea"], "methods": ["sgd"]}, r"associative_memories: .*'mea'.*mean"),
        ({"forget_every": [1]}, r"forget_every: 1 has no effect.*\(modern_hopfield\): remove it"),
        ({"methods_of": {"mean": ["er"]}}, r"methods_of: 'mean' is not in the study's list.*modern_hopfield"),
        ({"methods_of": {"modern_hopfield": ["gem"]}}, r"methods_of: 'gem' is not in .* it has: sgd, er"),
        ({"datasets": ["s_digit"]}, r"datasets: the grid has no data set 's_digit' \(did you mean"),
    ],
)
def test_what_does_not_fit_the_grid_is_refused(block, message):
    grid = load_grid(BASE | {"task_count": block})
    with pytest.raises(UserError, match=f"^config: task_count.*{message}") as caught:
        study_of(grid, "task_count").chosen_jobs(grid)
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"tasks": [1]}, "tasks"),
        ({"methods_of": {"mean": []}}, "methods_of"),
        ({"tasks": [5, 5]}, "5 is listed twice"),
        ({"classes_per_task": 1}, "classes_per_task"),
        ({"theta": 1.0}, "theta"),
        ({"forget_every": [0]}, "forget_every"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: task_count.*{message}"):
        load_grid(BASE | {"task_count": block})


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `task_count`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == CountSettings.model_fields.keys()
    assert CountSettings.model_validate(documented) == CountSettings()
