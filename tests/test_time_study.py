"""The study `time`: planted costs are found, planted nulls are not; energy and memory are as defined."""

import itertools
import math
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from factories import make_cell, make_features
from result_factory import made_by
from snake import ROOT, snakemake
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.common.phases import PHASES
from sharc_core.grid.loading import load_grid
from sharc_core.saliency import SALIENCIES
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import job_file, read_rows, write_rows
from sharc_core.studies.time import Time, resources
from sharc_core.studies.time.figure import write_time_figure
from sharc_core.studies.time.measure import order, run_timing
from sharc_core.studies.time.resources import spent
from sharc_core.studies.time.settings import COLUMNS, SECONDS, TimeJob, TimeSettings
from sharc_core.studies.time.table import sentences, summary, tables, with_totals, write_time_tables

REPEATS = 4
SLOW = 0.03  # seconds per call of the planted saliency


PLAIN_RUNS = 2


def job_of(*cells, repeats: int = REPEATS, plain_runs: int = PLAIN_RUNS) -> TimeJob:
    dumped = [cell.model_dump(mode="json") for cell in cells]
    return TimeJob(cells=dumped, repeats=repeats, plain_runs=plain_runs)


def pair(**changes) -> tuple:
    return tuple(make_cell("er", variant, seeds=[0], **changes) for variant in ("plain", "sharc"))


def rows_of(tmp_path, job: TimeJob) -> pd.DataFrame:
    """The rows of a job, written and read."""
    frame = run_timing(make_features(), job, lambda line: None)
    write_rows(frame, tmp_path / "runs.csv", made_by(), "key")
    return read_rows(Time(), [tmp_path / "runs.csv"], ["key"])


@pytest.fixture
def slow(monkeypatch):
    """Register saliencies that take SLOW seconds per call, asleep and at work."""

    def asleep(head, x, y, positions, generators):
        time.sleep(SLOW)
        return torch.rand(x.shape)

    def busy(head, x, y, positions, generators):
        end = time.process_time() + SLOW
        while time.process_time() < end:
            pass
        return torch.rand(x.shape)

    entries = {**SALIENCIES._entries, "asleep": asleep, "busy": busy}
    monkeypatch.setattr(SALIENCIES, "_entries", entries)


def with_saliency(saliency: str) -> TimeJob:
    plain, sharc = pair()
    return job_of(plain, sharc.model_copy(update={"saliency": saliency}))


def test_a_slow_saliency_is_found(slow, tmp_path):
    rows = rows_of(tmp_path, with_saliency("busy"))
    assert len(rows) == (1 + PLAIN_RUNS) * REPEATS
    line = summary(rows).set_index("variant").loc["sharc"]
    # one call at the end of each of three tasks
    assert line.added_saliency == line.saliency_seconds_mean >= 0.99 * 3 * SLOW
    assert line.low > 1 and line.low < line.ratio < line.high
    assert max(PHASES, key=lambda name: line[f"{name}_seconds_mean"]) == "saliency"
    (first, energy) = sentences(rows)
    assert "most of it in saliency (" in first
    assert energy.startswith("Energy was not measured") == math.isnan(line.joules_mean)


def test_waiting_is_no_cpu_time(slow, tmp_path):
    """Another process that takes the processor adds to the clock's seconds, and to no phase."""
    line = summary(rows_of(tmp_path, with_saliency("asleep"))).set_index("variant").loc["sharc"]
    assert line.clock_seconds_mean > 3 * SLOW
    assert line.saliency_seconds_mean < SLOW


def planted(rows: pd.DataFrame, plain: list[list[float]], sharc: list[float]) -> pd.DataFrame:
    """Return rows with planted seconds of training: of every repeat's plain runs, and of its SHARC run."""
    rows = rows.sort_values(["variant", "repeat", "position"], ignore_index=True)
    for name in PHASES:
        rows[SECONDS[name]] = 0.0
    rows.loc[rows.variant == "plain", "steps_seconds"] = np.array(plain).ravel()
    rows.loc[rows.variant == "sharc", "steps_seconds"] = sharc
    return rows


@pytest.fixture(scope="module")
def measured_rows(tmp_path_factory) -> pd.DataFrame:
    return rows_of(tmp_path_factory.mktemp("time"), job_of(*pair()))


def test_the_same_times_are_not_told_apart(measured_rows):
    """A planted absence of an effect: the repeats have the same times in another order."""
    rows = planted(measured_rows, [[1.0, 1.0], [1.1, 1.1]] * 2, [1.1, 1.0] * 2)
    line = summary(rows).iloc[1]
    assert line.ratio == pytest.approx(1) and line.low < 1 < line.high
    assert f"1 of 1 cells are not told apart from plain: {line.label}." in sentences(rows)[0]


def test_ratios_pair_the_repeats(measured_rows):
    """A machine that is twice as slow in some repeats widens no interval."""
    load = np.array([1.0, 4.0, 2.0, 8.0])
    rows = planted(
        measured_rows, np.outer(load, [0.5, 2.0]).tolist(), load.tolist()
    )  # mean of logarithms: load
    rows.loc[rows.variant == "sharc", "reading_seconds"] = load / 2
    line = summary(rows).iloc[1]
    assert [line.ratio, line.low, line.high] == pytest.approx([1.5, 1.5, 1.5])
    assert line.added_reading == pytest.approx(load.mean() / 2)
    assert line.added_steps == pytest.approx(load.mean() * (1 - 1.25))
    assert line.counted == line.repeats == REPEATS
    assert summary(rows).iloc[0].counted == PLAIN_RUNS * REPEATS


def test_testing_is_no_part_of_training(measured_rows):
    """Neither of the ratio nor of the sentence: SHARC with slow tests takes as long as plain replay."""
    rows = planted(measured_rows, [[1.0, 1.0], [1.1, 1.1]] * 2, [1.1, 1.0] * 2)
    slow = rows.assign(testing_seconds=np.where(rows.variant == "sharc", 50.0, 0.1))
    slow = slow.assign(user_seconds=slow.testing_seconds, clock_seconds=slow.testing_seconds)
    names = ["ratio", "low", "high", "training_seconds_mean"]
    assert summary(slow)[names].equals(summary(rows)[names])
    assert sentences(slow)[0] == sentences(rows)[0]


def faked(
    monkeypatch, seconds: dict[str, float], after_slow: float, cells: list, repeats: int
) -> pd.DataFrame:
    """Return rows of runs with planted seconds, times `after_slow` right after a run of "slow"."""
    from sharc_core.studies.time import measure

    ran = []

    def timed(features, cell):
        name = cell.associative_memory or "plain"
        factor = after_slow if ran and ran[-1] == "slow" else 1.0
        ran.append(name)
        row = dict.fromkeys(COLUMNS, 0) | {"dataset": "toy", "backbone": "net", "cell": cell.id}
        row |= {
            "method": cell.method,
            "variant": cell.variant,
            "associative_memory": name,
            "saliency": "random",
        }
        return row | {"steps_seconds": factor * seconds[name], "runs": 1}

    monkeypatch.setattr(measure, "_timed", timed)
    job = SimpleNamespace(opened=cells, repeats=repeats, plain_runs=3)
    return run_timing(None, job, lambda line: None)


def fake_cells(*memories: str) -> list[SimpleNamespace]:
    plain = SimpleNamespace(id="plain", method="er", variant="plain", associative_memory=None)
    others = [SimpleNamespace(id=m, method="er", variant="sharc", associative_memory=m) for m in memories]
    return [plain, *others]


def test_what_a_slow_cell_leaves_behind_is_charged_to_no_other(monkeypatch):
    """Planted: `same` takes as long as plain, and whatever runs after `slow` takes twice as long."""
    seconds = {"plain": 1.0, "same": 1.0, "slow": 70.0}
    rows = faked(monkeypatch, seconds, 2.0, fake_cells("same", "slow"), repeats=60)
    line = summary(rows).set_index("associative_memory").loc["same"]
    assert line.low < 1 < line.high and 0.85 < line.ratio < 1.18
    assert summary(rows).set_index("associative_memory").loc["slow"].low > 50


def test_orders_differ_between_repeats_and_are_the_same_again():
    cells = fake_cells("mean", "pcn", "hopfield")
    orders = [order(cells, 3, repeat) for repeat in range(1000)]
    assert all(sorted(one) == [0, 0, 0, 1, 2, 3] for one in orders)
    assert orders[:3] == [order(cells, 3, repeat) for repeat in range(3)]
    assert len(set(map(tuple, orders))) > 110  # of 120
    pairs = Counter(pair for one in orders for pair in itertools.pairwise(one))
    after = [pairs[2, other] / runs for other, runs in ((0, 3), (1, 1), (3, 1))]  # per run, after pcn
    assert max(after) < 1.5 * min(after)


def test_cells_are_interleaved(monkeypatch):
    from sharc_core.studies.time import measure

    ran = []
    run = measure.run_cell
    monkeypatch.setattr(measure, "run_cell", lambda f, cell: ran.append(cell.variant) or run(f, cell))
    cells = pair()
    frame = run_timing(make_features(), job_of(*cells, repeats=2, plain_runs=3), lambda line: None)
    expected = [cells[number].variant for repeat in range(2) for number in order(list(cells), 3, repeat)]
    assert ran == ["plain", "sharc", *expected] and expected.count("plain") == 6
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame.variant) == ["plain"] * 6 + ["sharc"] * 2
    assert list(frame.repeat) == [0, 0, 0, 1, 1, 1, 0, 1]
    for repeat in range(2):
        own = frame[frame.repeat == repeat].sort_values("position")
        assert list(own.variant) == expected[4 * repeat : 4 * repeat + 4]
    totals = with_totals(frame)
    phases = sum(frame[SECONDS[name]] for name in PHASES if name != "testing")
    assert np.allclose(totals.training_seconds, phases)
    assert (frame.kept_bytes > 0).all() and (frame.train_flops > 0).all()


def test_files_are_written_and_repeat(tmp_path):
    rows = rows_of(tmp_path, job_of(*pair()))
    settings = TimeSettings(repeats=REPEATS)
    for name in ("a", "b"):
        for path in write_time_tables(rows, settings, tmp_path / name, "c"):
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    assert all(path.is_file() for path in write_time_figure(rows, tmp_path / "a", "c"))
    text = (tmp_path / "a/time.md").read_text()
    assert "ER + modern_hopfield" in text and "SHARC / plain" in text
    (table,) = tables(rows, settings)
    assert all(len(row) == len(table.header) for row in table.rows)


# --- energy and memory -----------------------------------------------------------------------------------


def test_peak_memory_is_of_the_context_only():
    size = 60_000_000
    with spent() as before:
        torch.ones(size // 4).sum()
    with spent() as after:
        pass
    if math.isnan(before.peak_memory):
        pytest.skip("this system does not reset the peak of the resident memory")
    assert before.memory_growth == pytest.approx(size, rel=0.1)
    assert after.memory_growth < size / 10


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Two packages whose counters a test sets; one part of a package, which must not count twice."""
    monkeypatch.setattr(resources, "RAPL", tmp_path)

    def put(**counters: int) -> None:
        for name, value in counters.items():
            folder = tmp_path / name.replace("_", ":").replace("rapl", "intel-rapl")
            folder.mkdir(exist_ok=True)
            (folder / "energy_uj").write_text(f"{value}\n")
            (folder / "max_energy_range_uj").write_text("10000000\n")

    return put


def test_energy_is_read_from_the_packages(rapl):
    rapl(rapl_0=1_000_000, rapl_1=9_000_000, rapl_0_0=0)
    with spent() as result:
        rapl(rapl_0=3_500_000, rapl_1=1_000_000, rapl_0_0=9_999_999)  # the second one restarts
    assert result.joules == 2.5 + 2.0


def test_energy_that_cannot_be_read_is_not_measured(rapl, tmp_path):
    with spent() as result:
        pass
    assert math.isnan(result.joules)
    (tmp_path / "intel-rapl:0").mkdir()
    with spent() as result:
        pass
    assert math.isnan(result.joules)


# --- the grid --------------------------------------------------------------------------------------------


def test_jobs_have_the_grids_settings():
    values = BASE | {
        "time": {"methods": ["er"], "associative_memories": ["mean", "own"], "saliencies": ["random"]},
        "sharc": {"associative_settings": {"own": {"kind": "pcn", "hidden": 7}}},
        "budget": {"unit": "total_bytes"},
        "buffers": ["1 MB"],
    }
    grid = load_grid(values)
    jobs = study_of(grid, "time").jobs(grid)
    assert [job.dataset for job in jobs] == list(grid.datasets)
    cells = TimeJob.model_validate(dict(jobs[0].settings)).opened
    assert [(c.variant, c.associative_memory, c.saliency) for c in cells] == [
        ("plain", None, None),
        ("sharc", "mean", "random"),
        ("sharc", "own", "random"),
    ]
    assert cells[2].memory_kind == "pcn" and cells[2].associative_settings["hidden"] == 7
    assert {c.budget_unit for c in cells} == {"floats"} and {c.buffer for c in cells} == {100}


@pytest.mark.reliability("unfit-study")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"methods": ["sgd"]}, r"^config: time: methods: sgd has no memory, so SHARC does not concern it"),
        ({"methods": ["err"]}, r"^config: time: unknown method 'err' \(did you mean 'er'\?\)"),
        ({"associative_memories": ["meen"]}, r"^config: time: sharc.associative_memory: .*'meen'"),
        ({"buffer": 2}, r"^config: time: buffers: 2 is smaller than the 5 tasks"),
    ],
)
def test_cells_that_do_not_fit_are_refused(block, message):
    grid = load_grid(BASE | {"time": block})
    with pytest.raises(UserError, match=message):
        study_of(grid, "time").jobs(grid)


@pytest.mark.reliability("unfit-study")
def test_a_grid_without_the_block_need_not_fit():
    many = {"s_glyphs": {"source": "glyphs", "classes": 200, "tasks": 200}}
    grid = load_grid(BASE | {"datasets": many, "methods": ["sgd"]})
    assert study_of(grid, "time").jobs(grid) == []


@pytest.mark.pipeline
@pytest.mark.slow
def test_snakemake_times_cells(smoke_run, tmp_path):
    """On the features of the smoke run."""
    values = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    values |= {"time": {"methods": ["er"], "buffer": 20, "repeats": 2}, "results_dir": "results/timed"}
    config = tmp_path / "timed.yaml"
    config.write_text(yaml.safe_dump(values))
    run = snakemake(smoke_run, "time", "--configfile", str(config))
    assert run.returncode == 0, run.stdout + run.stderr
    grid = load_grid(values)
    study = study_of(grid, "time")
    (job,) = study.jobs(grid)
    assert (smoke_run / "results/timed" / job_file(study, job)).is_file()
    assert "ER + modern_hopfield" in (smoke_run / "results/timed/tables/time.md").read_text()
