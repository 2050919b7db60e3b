"""The study `time`: a planted slow saliency is found; pairs, intervals, energy and memory are as defined."""

import math
import time
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

from sharc_core.common import phases
from sharc_core.common.errors import UserError
from sharc_core.common.phases import PHASES
from sharc_core.grid.loading import load_grid
from sharc_core.saliency import SALIENCIES
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import job_file, read_rows, write_rows
from sharc_core.studies.time import Time, resources
from sharc_core.studies.time.figure import write_time_figure
from sharc_core.studies.time.measure import run_timing
from sharc_core.studies.time.resources import spent
from sharc_core.studies.time.settings import COLUMNS, SECONDS, TimeJob, TimeSettings
from sharc_core.studies.time.table import sentences, summary, tables, with_totals, write_time_tables

REPEATS = 4
SLOW = 0.03  # seconds per call of the planted saliency


def job_of(*cells, repeats: int = REPEATS) -> TimeJob:
    return TimeJob(cells=[cell.model_dump(mode="json") for cell in cells], repeats=repeats)


def pair(**changes) -> tuple:
    return tuple(make_cell("er", variant, seeds=[0], **changes) for variant in ("plain", "sharc"))


def rows_of(tmp_path, job: TimeJob) -> pd.DataFrame:
    """The rows of a job, written and read."""
    frame = run_timing(make_features(), job, lambda line: None)
    write_rows(frame, tmp_path / "runs.csv", made_by(), "key")
    return read_rows(Time(), [tmp_path / "runs.csv"], ["key"])


@pytest.fixture
def slow(monkeypatch):
    """Register saliencies that take SLOW seconds per call, asleep and at work.

    The clock of the phases shows CPU time and the time asleep, so that other work does not disturb a test.
    """
    slept = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: time.process_time() + slept[0])
    monkeypatch.setattr(phases, "time", clock)

    def asleep(head, x, y, positions, generators):
        time.sleep(SLOW)
        slept[0] += SLOW
        return torch.rand(x.shape)

    def busy(head, x, y, positions, generators):
        end = time.process_time() + SLOW
        while time.process_time() < end:
            pass
        return torch.rand(x.shape)

    entries = {**SALIENCIES._entries, "asleep": asleep, "busy": busy}
    monkeypatch.setattr(SALIENCIES, "_entries", entries)


@pytest.mark.parametrize("saliency", ["asleep", "busy"])
def test_a_slow_saliency_is_found(slow, tmp_path, saliency):
    plain, sharc = pair()
    rows = rows_of(tmp_path, job_of(plain, sharc.model_copy(update={"saliency": saliency})))
    assert len(rows) == 2 * REPEATS
    line = summary(rows).set_index("variant").loc["sharc"]
    # one call at the end of each of three tasks
    assert line.added_saliency == line.saliency_seconds_mean >= 0.99 * 3 * SLOW
    assert line.low > 1 and line.low < line.ratio < line.high
    assert max(PHASES, key=lambda name: line[f"{name}_seconds_mean"]) == "saliency"
    (first, energy) = sentences(rows)
    assert "most of it in saliency (" in first
    assert energy.startswith("Energy was not measured") == math.isnan(line.joules_mean)
    worked = summary(rows).set_index("variant").cpu_seconds_mean
    assert (worked["sharc"] - worked["plain"] > 2 * SLOW) == (saliency == "busy"), "sleep takes no CPU time"


def test_the_same_cell_twice_is_not_told_apart(tmp_path):
    """A planted absence of an effect: "SHARC" rows that are the plain ones in another order of repeats."""
    rows = rows_of(tmp_path, job_of(*pair()))
    plain = rows[rows.variant == "plain"].copy()
    for name in PHASES:
        plain[SECONDS[name]] = 0.0
    plain["steps_seconds"] = [1.0, 1.1, 1.0, 1.1]
    same = plain.assign(
        variant="sharc", cell="x", associative_memory="mean", steps_seconds=[1.1, 1.0, 1.1, 1.0]
    )
    both = pd.concat([plain, same], ignore_index=True)
    line = summary(both).iloc[1]
    assert line.ratio == pytest.approx(1) and line.low < 1 < line.high
    assert "1 of 1 cells are not told apart" in sentences(both)[0]


def test_ratios_pair_the_repeats(tmp_path):
    """A machine that is twice as slow in some repeats widens no interval."""
    rows = with_totals(rows_of(tmp_path, job_of(*pair())))
    load = np.array([1.0, 4.0, 2.0, 8.0])
    for name in PHASES:
        rows[SECONDS[name]] = 0.0
    rows.loc[rows.variant == "plain", "steps_seconds"] = load
    rows.loc[rows.variant == "sharc", ["steps_seconds", "reading_seconds"]] = np.stack([load, load / 2], 1)
    line = summary(rows).iloc[1]
    assert [line.ratio, line.low, line.high] == pytest.approx([1.5, 1.5, 1.5])
    assert line.added_reading == pytest.approx(load.mean() / 2) and line.added_steps == 0
    assert "most of it in reading (100 %" in sentences(rows)[0]


def test_cells_are_interleaved(monkeypatch):
    from sharc_core.studies.time import measure

    ran = []
    run = measure.run_cell
    monkeypatch.setattr(measure, "run_cell", lambda f, cell: ran.append(cell.variant) or run(f, cell))
    plain, sharc = pair()
    frame = run_timing(make_features(), job_of(plain, sharc, repeats=2), lambda line: None)
    assert ran == ["sharc", "plain", "plain", "sharc", "sharc", "plain"]
    assert list(frame.columns) == list(COLUMNS) and list(frame.repeat) == [0, 1, 0, 1]
    totals = with_totals(frame)
    expected = sum(frame[SECONDS[name]] for name in PHASES if name != "testing")
    assert np.allclose(totals.training_seconds, expected)
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
