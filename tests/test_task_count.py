"""The study `task_count`: planted growth, falls to chance and gains are found; cells, features, files."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from factories import make_cell, make_features
from result_factory import made_by
from snake import ROOT
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.features.cache import Features
from sharc_core.grid.loading import load_grid
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc, bwt
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import read_rows, write_rows
from sharc_core.studies.task_count import TaskCount
from sharc_core.studies.task_count.figure import write_count_figure
from sharc_core.studies.task_count.measure import first_classes, run_counts
from sharc_core.studies.task_count.settings import COLUMNS, CountJob, CountSettings
from sharc_core.studies.task_count.summary import growth, summary
from sharc_core.studies.task_count.table import sentences, tables, write_count_tables

SEEDS = range(3)
NOISE = np.array([0.0, 0.4, -0.4])  # by seed
GLYPHS = {"source": "glyphs", "classes": 40, "tasks": 20}


def planted(
    method: str = "er",
    variant: str = "plain",
    power: float = 1.0,
    bytes_power: float = 1.0,
    acc_of=lambda tasks: 50.0,
    **changes,
) -> list[dict]:
    """Rows of a cell on streams of 10 and 100 tasks, whose costs grow with a power of the tasks."""
    rows = []
    for tasks in (10, 100):
        for seed in SEEDS:
            speed = 1 + 0.02 * NOISE[seed] * (tasks / 10)
            row = {name: 0 if kind == "int64" else np.nan for name, kind in COLUMNS.items()}
            row |= {"dataset": "s_glyphs", "backbone": "tiny", "tasks": tasks, "classes": 2 * tasks}
            row |= {"method": method, "variant": variant, "seed": seed, "bwt": -5.0}
            row |= {"associative_memory": "mean" if variant == "sharc" else None}
            row |= {"train_seconds": 0.01 * tasks**power * speed, "test_seconds": 1.0}
            row |= {"total_bytes": round(1000 * tasks**bytes_power), "memory_growth": 1e6}
            for scenario, chance in (("task_il", 50.0), ("class_il", 50 / tasks)):
                accuracy = acc_of(tasks) + NOISE[seed]
                rows.append(row | {"scenario": scenario, "chance": chance, "acc": accuracy} | changes)
    return rows


def frame(*cells: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for rows in cells for row in rows], columns=list(COLUMNS)).astype(COLUMNS)


# --- planted truths ----------------------------------------------------------------------------------


def test_a_quadratic_cost_is_found_and_a_linear_one_is_not():
    noisy = planted("derpp", bytes_power=1.8)
    for row in noisy:
        row["train_seconds"] *= 1 + NOISE[row["seed"]]
        row["train_seconds"] *= 1 if row["tasks"] == 10 else 1 - NOISE[row["seed"]]
    rows = frame(planted("er"), planted("gem", power=2.0), noisy)
    lines = growth(rows).set_index(["label", "cost"])
    time, kept = (lines.xs(cost, level="cost") for cost in ("training time", "bytes kept"))
    assert time.exponent.to_dict() == pytest.approx({"ER": 1, "GEM": 2, "DER++": 1}, abs=0.05)
    assert time.verdict.to_dict() == {"ER": "linear", "GEM": "faster", "DER++": "not told apart"}
    assert time.low["GEM"] > 1.5 and time.low["ER"] < 1 < time.high["ER"]
    assert kept.verdict.to_dict() == {"ER": "linear", "GEM": "linear", "DER++": "faster"}
    assert kept.exponent["DER++"] == pytest.approx(1.8, abs=0.01)
    seconds, bytes_kept = sentences(rows)[-2:]
    assert "faster than the number of tasks for GEM (2.0" in seconds
    assert seconds.endswith("; it is linear or slower for ER; it is not told apart from linear for DER++.")
    assert "faster than the number of tasks for DER++ (1.80 [1.80, 1.80]);" in bytes_kept


def test_a_fall_to_chance_is_found():
    """ACC is far above chance after 10 tasks; after 100 that of one cell is a guess among 200 classes."""
    falls = planted("sgd", acc_of=lambda tasks: 40.0 if tasks == 10 else 0.6)
    rows = frame(falls, planted("er"))
    rows = rows[rows.scenario == "class_il"]
    lines = summary(rows).set_index(["label", "tasks"]).over_chance
    assert lines.to_dict() == {
        ("SGD", 10): "above",
        ("SGD", 100): "not told apart",
        ("ER", 10): "above",
        ("ER", 100): "above",
    }
    first = sentences(rows)[0]
    assert first == (
        "s_glyphs (tiny), Class-IL, 100 tasks of 2 classes (chance 0.50 %): the best ACC is 50.00 % (ER); "
        "not told apart from chance, or below it: SGD 0.60 %."
    )
    below = frame(planted("sgd", acc_of=lambda tasks: 10.0))
    assert set(summary(below[below.scenario == "task_il"]).over_chance) == {"below"}


def test_where_sharcs_gain_goes():
    """The gain is 4 points after 10 tasks, the same for every seed, and is gone after 100."""
    sharc = planted("er", "sharc", acc_of=lambda tasks: 54.0 if tasks == 10 else 50.0)
    rows = frame(planted("er"), sharc)
    noisy = rows.index[(rows.variant == "sharc") & (rows.tasks == 100)]
    rows.loc[noisy, "acc"] -= 2 * (rows.loc[noisy, "acc"] - 50.0)  # the noise of the seeds, mirrored
    lines = summary(rows).set_index(["scenario", "label", "tasks"])
    short, long = (lines.loc["class_il", "ER + mean", tasks] for tasks in (10, 100))
    assert (short.gain, short.gain_low, short.gain_high) == pytest.approx((4, 4, 4))
    assert long.gain_low < 0 < long.gain_high and long.gain == pytest.approx(0)
    text = next(s for s in sentences(rows) if "Class-IL, ER + mean" in s)
    assert "+4.00 [+4.00, +4.00] at 10 tasks" in text and text.endswith("(not told apart) at 100 tasks.")
    assert lines.loc["class_il", "ER", 10].gain != lines.loc["class_il", "ER", 10].gain


def test_what_forgetting_changes():
    memories = [planted("er", "sharc"), planted("er", "sharc", acc_of=lambda tasks: 50 - tasks / 50)]
    rows = frame(planted("er"), memories[0], [row | {"forget_every": 1} for row in memories[1]])
    texts = [text for text in sentences(rows) if "forgetting changes" in text]
    assert texts[1] == (
        "s_glyphs (tiny), Class-IL: forgetting changes the mean ACC by at most -2.00 (ER + mean, forgets "
        "every 1, 100 tasks); it is the same in 0 of 2 pairs."
    )
    assert not any("forgets every" in text for text in sentences(rows) if "against plain" in text)


def test_one_seed_has_no_interval():
    rows = frame(planted("er", power=3.0), planted("er", "sharc"))
    rows = rows[rows.seed == 0]
    assert set(summary(rows).over_chance) == {"–"} and set(growth(rows).verdict) == {"one seed"}
    assert all("[" not in text for text in sentences(rows))
    assert "has no interval with one seed" in sentences(rows)[-1]


def test_a_single_length_has_no_growth():
    rows = frame(planted("er"))
    rows = rows[rows.tasks == 10]
    assert growth(rows).empty and len(tables(rows)) == 1 and len(sentences(rows)) == 2


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
    part = first_classes(features, 4)
    assert part.classes == features.classes[:4] and int(part.train_labels.max()) == 3
    for split in ("train", "test"):
        keep = getattr(features, f"{split}_labels") < 4
        for kind in ("maps", "pooled", "labels"):
            assert torch.equal(getattr(part, f"{split}_{kind}"), getattr(features, f"{split}_{kind}")[keep])
    is_view = part.train_maps.untyped_storage().data_ptr() == features.train_maps.untyped_storage().data_ptr()
    assert is_view != shuffled, "in the order of the labels no map is copied"


def job_of(tasks: int, method: str) -> CountJob:
    variants = ("plain", "sharc") if method == "er" else ("plain",)
    cells = [make_cell(method, variant, tasks=tasks, seeds=[0, 1]) for variant in variants]
    return CountJob(cells=[cell.model_dump(mode="json") for cell in cells], classes=2 * tasks)


def test_rows_are_those_of_the_learner(tmp_path):
    features, paths = as_features(), []
    for tasks in (2, 3):
        for method in ("er", "sgd"):
            job = job_of(tasks, method)
            rows = run_counts(features, job, lambda line: None)
            assert list(rows.columns) == list(COLUMNS)
            for cell in job.opened:
                document = run_cell(first_classes(features, 2 * tasks), cell)
                own = rows[(rows.scenario == "class_il") & (rows.variant == cell.variant)]
                matrix = np.array(document["matrix"]["class_il"], dtype=float)
                np.testing.assert_array_equal(own.acc, acc(matrix))
                np.testing.assert_array_equal(own.bwt, bwt(matrix))
                assert own.peak_bytes.tolist() == document["costs"]["peak_bytes"]
                assert own.chance.tolist() == [100 / (2 * tasks)] * 2
            assert (rows[rows.scenario == "task_il"].chance == 50).all()
            assert (rows.train_seconds > 0).all() and (rows.test_seconds > 0).all()
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
    broken = SimpleNamespace(**{name: getattr(grid, name) for name in ("datasets", "study_blocks")})
    broken.source = lambda name: SimpleNamespace(class_names=Path("/nowhere").read_text)
    assert TaskCount().jobs(broken) == []


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"most_tasks": {"geem": 3}}, r"most_tasks: 'geem' is no method.*did you mean 'gem'"),
        ({"methods": ["err"], "tasks": [2]}, "unknown method 'err'"),
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
