"""Whatever happened before, results are those of a fresh run of the same grid file: a real `snakemake`.

A random walk: settings are changed and changed back, seeds, buffers and methods added and dropped,
`.snakemake` deleted, results copied, renamed, dated anew, deleted, damaged, jobs killed. After every run
runs.csv holds what the grid's cells give when they are trained here, all seeds at once.
"""

import json
import os
import random
import shutil
import signal

import pytest
import yaml
from snake import SMOKE, copy_project, jobs_of, sharc_core, snakemake, start_snakemake, wait_for

from sharc_core.grid.loading import load_config
from sharc_core.grid.unroll import memberships
from sharc_core.learning.learner import run_cell
from sharc_core.results.runs import read_runs, runs_table
from sharc_core.stages.build import ensure_features

pytestmark = pytest.mark.pipeline
STEPS = 6
# The values that a walk chooses from; small enough that it comes back to grids that it has left.
CHOICES = {
    "training": [{"lr": 0.1}, {"lr": 0.05}],
    "seeds": [[0], [0, 1], [1, 2], [2, 0, 1]],
    "buffers": [[20], [20, 25], [25]],
    "methods": [["sgd", "er"], ["er"], ["er", "gem"]],
    "variants": [["plain"], ["plain", "sharc"]],
    "cells": [{}, {"per_job": 2}],
}
AFTER = {"runs", "tables", "figures", "report", "provenance", "all"}  # what comes after cells
TIMES = ("train_seconds", "commit", "dirty", "host")


class Walk:
    """A project and its grid file, changed at random. here: by grid, runs.csv of cells trained here."""

    def __init__(self, folder, number):
        self.folder, self.random, self.here = folder, random.Random(number), {}
        base = yaml.safe_load((folder / "config/smoke.yaml").read_text())
        small = {key: values[0] for key, values in CHOICES.items()}
        self.grid = base | small | {"scenarios": ["class_il"], "results_dir": "results/walk"}
        self.copies = 0

    @property
    def results(self):
        return self.folder / self.grid["results_dir"]

    def documents(self):
        return sorted(self.results.glob("matrices/*/*/*.json"))

    # --- what may happen -----------------------------------------------------------------------------

    def set_something(self):
        key = self.random.choice(list(CHOICES))
        self.grid[key] = self.random.choice([value for value in CHOICES[key] if value != self.grid[key]])
        return f"{key}: {self.grid[key]}"

    def forget(self):
        shutil.rmtree(self.folder / ".snakemake", ignore_errors=True)
        return "no .snakemake"

    def copy_results(self):
        """Renamed, with new dates; the old ones are gone."""
        self.copies += 1
        old, self.grid["results_dir"] = self.results, f"results/walk{self.copies}"
        if old.exists():
            shutil.copytree(old, self.results, copy_function=shutil.copyfile)
            shutil.rmtree(old)
        return f"copied to {self.results.name}"

    def delete(self):
        found = [path for path in self.results.rglob("*.*") if path.is_file() and "logs" not in path.parts]
        if not found:
            return "nothing to delete"
        path = self.random.choice(sorted(found))
        path.unlink()
        return f"deleted {path.name}"

    def damage(self):
        documents = self.documents()
        if not documents:
            return "nothing to damage"
        path = self.random.choice(documents)
        text = path.read_text()
        path.write_text(
            self.random.choice([text[: len(text) // 2], "{}", text.replace('"lr": 0', '"lr": 1')])
        )
        return f"damaged {path.name}"

    def kill(self):
        """A job, as soon as there is one; there may be none."""
        process = start_snakemake(self.folder, *self.arguments())
        wait_for(lambda: process.poll() is not None or self.jobs(process), "a job or the end")
        for job in self.jobs(process):
            job.send_signal(signal.SIGKILL)
        process.ended()
        return "killed"

    def jobs(self, process):
        if process.poll() is not None:
            return []
        return jobs_of(process, "cell.py") + jobs_of(process, "cells.py")

    # --- a run, and what it must give ------------------------------------------------------------------

    def arguments(self):
        path = self.folder / "config/walk.yaml"
        path.write_text(yaml.safe_dump(self.grid))
        return f"{self.grid['results_dir']}/runs.csv", "--configfile", "config/walk.yaml"

    def run(self):
        done = snakemake(self.folder, *self.arguments())
        assert done.returncode == 0, done.stdout
        return done.stdout

    def trained_here(self):
        """runs.csv of the grid as it is, trained in this process."""
        grid = load_config(self.folder / "config/walk.yaml")
        key = json.dumps({k: v for k, v in self.grid.items() if k not in ("results_dir", "cells")})
        if key not in self.here:
            pairs = memberships(grid)
            features = ensure_features(grid, "s_digits")
            documents = [run_cell(features, cell) for cell, _ in pairs]
            self.here[key] = runs_table(documents, [members for _, members in pairs]).drop(
                columns=list(TIMES)
            )
        return self.here[key]


@pytest.mark.reliability("more-seeds", "per-job", "copied-results", "damaged-cell", "lost-notes")
@pytest.mark.parametrize("number", [1])
def test_a_walk(copy, monkeypatch, number):
    monkeypatch.chdir(copy)  # features are looked up below the folder, as by Snakemake
    walk = Walk(copy, number)
    happened = []
    walk.run()
    for _ in range(STEPS):
        for change in walk.random.choices(
            [walk.set_something, walk.forget, walk.copy_results, walk.delete, walk.damage, walk.kill],
            weights=[6, 2, 1, 2, 2, 1],
            k=2,
        ):
            happened.append(change())
        walk.run()
        found = read_runs(walk.results / "runs.csv").drop(columns=list(TIMES))
        assert found.equals(walk.trained_here()), happened
    done = snakemake(copy, "--configfile", "config/walk.yaml")
    assert done.returncode == 0, done.stdout
    checked = sharc_core(copy, "verify", walk.grid["results_dir"])
    lines = [
        line for line in checked.stdout.splitlines() if not line.startswith(("Using", "extra: matrices/"))
    ]
    assert len(lines) == 1, (happened, checked.stdout)  # documents that the grid no longer has are named
    again = snakemake(copy, "--configfile", "config/walk.yaml")
    assert "Nothing to be done" in again.stdout, (happened, again.stdout)


@pytest.mark.reliability("fewer-cells", "more-cells", "shared-setting", "lost-notes")
def test_what_users_reported(copy):
    """The cases file's row 1: without .snakemake a changed rate, then a buffer more."""
    shutil.rmtree(copy / ".snakemake")
    grid = yaml.safe_load((copy / "config/smoke.yaml").read_text())
    arguments = "--configfile", "config/changed.yaml"

    def run(**changes):
        (copy / "config/changed.yaml").write_text(yaml.safe_dump(grid | changes))
        done = snakemake(copy, *arguments, "--dry-run")
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "Nothing to be done" in run()
    said = run(training={"lr": 0.02, "batch_size": 10, "epochs": 1})
    assert "note: 4 of 4 cells have documents of another grid, trained again: results/smoke/matrices/" in said
    assert "training.lr is 0.1 in the document and 0.02 in the grid" in said
    assert said.count("rule cell:") == 4 and "rule runs:" in said and "rule provenance:" in said
    said = run(buffers=[20, 25])
    assert "note: " not in said and said.count("rule cell:") == 3
    said = run(buffers=[25])
    assert said.count("rule cell:") == 3
    said = run(seeds=[0])
    assert "rule cell:" not in said and "rule runs:" in said
    checked = sharc_core(copy, "verify", "results/smoke")
    assert checked.returncode == 0


def planned(folder, *arguments) -> set[str]:
    """Rules of the jobs that would be run."""
    done = snakemake(folder, *arguments, "--dry-run")
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("rule ")]
    return {line.removeprefix("rule ").removesuffix(":") for line in lines}


@pytest.mark.reliability("copied-results")
def test_shared_data(smoke_run, tmp_path):
    """A fresh clone takes a data_dir that was copied with new dates, over a link, and may only read it."""
    copy_project(tmp_path / "clone")
    for path in ("data", "results"):
        # in an order of its own: what was made last is now the oldest
        shutil.copytree(smoke_run / path, tmp_path / path, copy_function=shutil.copyfile)
    age = 1_600_000_000
    for path in sorted(tmp_path.glob("data/**/*"), key=lambda path: -path.stat().st_mtime_ns):
        age += 100
        os.utime(path, (age, age))
    (tmp_path / "clone/link").symlink_to(tmp_path / "data")
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        path.chmod(path.stat().st_mode & 0o555)
    arguments = (*SMOKE, "--config", "data_dir=link")
    assert planned(tmp_path / "clone", *arguments) == {"card", "cell", *AFTER}
    done = snakemake(tmp_path / "clone", "results/smoke/runs.csv", *arguments)
    assert done.returncode == 0, done.stdout
    shutil.copytree(tmp_path / "results", tmp_path / "clone/elsewhere", copy_function=shutil.copyfile)
    elsewhere = (*arguments, "results_dir=elsewhere/smoke")
    assert planned(tmp_path / "clone", *elsewhere) == {"provenance", "all"}  # it names data_dir
    for path in (tmp_path / "data", *(tmp_path / "data").rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.reliability("edited-table")
def test_an_edited_table_is_made_again(copy):
    """From one end of the chain to the other; what comes before it stays."""
    (card,) = copy.glob("results/smoke/backbones/*.json")
    for name, rules in {
        "tables/task_il.md": {"tables", "provenance", "all"},
        "figures/bytes_task_il.svg": {"figures", "report", "provenance", "all"},
        "report.html": {"report", "provenance", "all"},
        f"backbones/{card.name}": {"card", "report", "provenance", "all"},
        "provenance.json": AFTER,
    }.items():
        path = copy / "results/smoke" / name
        before = path.read_bytes()
        path.write_bytes(before[:-2])
        assert planned(copy, *SMOKE) == rules, name
        path.write_bytes(before)
    assert planned(copy, *SMOKE) == set()


@pytest.mark.reliability("forced")
def test_asked_for_anew(copy):
    """By a rule, by a file, with all before it; a finished document that is a target is left alone."""
    (document,) = copy.glob("results/smoke/matrices/*/*/sgd.json")
    path = str(document.relative_to(copy))
    assert planned(copy, *SMOKE, "--forcerun", "cell") == {"cell", *AFTER}
    assert planned(copy, *SMOKE, "--forcerun", path) == {"cell", *AFTER}
    assert planned(copy, *SMOKE, "--forcerun", "tables") == {"tables", "provenance", "all"}
    every = {"data", "pretrain", "features", "cell", "card", *AFTER}
    assert planned(copy, *SMOKE, "--forceall") == every
    shutil.rmtree(copy / ".snakemake")
    assert "cell" not in planned(copy, path, *SMOKE)
    document.unlink()
    assert planned(copy, path, *SMOKE) == {"cell"}
