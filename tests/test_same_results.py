"""With a real `snakemake`, results equal a fresh run of the same grid file, whatever happened before.

In a random walk, settings are changed back and forth, seeds, buffers and methods are added and removed,
`.snakemake` is deleted, results are copied, renamed, deleted or damaged, and jobs are killed. After every run
runs.csv equals a training of the grid's cells in this process with all seeds together.
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
# The values of the walk; so few that it returns to earlier grids.
CHOICES = {
    "training": [{"lr": 0.1}, {"lr": 0.05}],
    "seeds": [[0], [0, 1], [1, 2], [2, 0, 1]],
    "buffers": [[20], [20, 25], [25]],
    "methods": [["sgd", "er"], ["er"], ["er", "gem"]],
    "variants": [["plain"], ["plain", "sharc"]],
    "cells": [{}, {"per_job": 2}],
}
AFTER = {"runs", "tables", "figures", "report", "provenance", "all"}  # rules after the cells
TIMES = ("train_seconds", "commit", "dirty", "host")


class Walk:
    """A project and its grid file, changed at random. here: runs.csv of cells trained here, by grid."""

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

    # --- random changes ------------------------------------------------------------------------------

    def set_something(self):
        key = self.random.choice(list(CHOICES))
        self.grid[key] = self.random.choice([value for value in CHOICES[key] if value != self.grid[key]])
        return f"{key}: {self.grid[key]}"

    def forget(self):
        shutil.rmtree(self.folder / ".snakemake", ignore_errors=True)
        return "no .snakemake"

    def copy_results(self):
        """Copy the results to another folder with new mtimes and delete the old ones."""
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
        """Kill a job as soon as there is one, if any."""
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

    # --- a run and its expected result -----------------------------------------------------------------

    def arguments(self):
        path = self.folder / "config/walk.yaml"
        path.write_text(yaml.safe_dump(self.grid))
        return f"{self.grid['results_dir']}/runs.csv", "--configfile", "config/walk.yaml"

    def run(self):
        done = snakemake(self.folder, *self.arguments())
        assert done.returncode == 0, done.stdout
        return done.stdout

    def trained_here(self):
        """Return runs.csv of the current grid, trained in this process."""
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
def test_random_walk_of_settings_ends_in_the_same_bits(copy, monkeypatch, number):
    monkeypatch.chdir(copy)  # features are searched below the folder, as in Snakemake
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
    assert len(lines) == 1, (happened, checked.stdout)  # apart from documents that the grid no longer has
    again = snakemake(copy, "--configfile", "config/walk.yaml")
    assert "Nothing to be done" in again.stdout, (happened, again.stdout)


@pytest.mark.reliability("fewer-cells", "more-cells", "shared-setting", "lost-notes")
def test_changed_settings_without_snakemakes_metadata_retrain_only_their_cells(copy):
    """Users reported this: .snakemake is missing, the rate is changed, then a buffer is added."""
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
    """Return the rules of the jobs of a dry run."""
    done = snakemake(folder, *arguments, "--dry-run")
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("rule ")]
    return {line.removeprefix("rule ").removesuffix(":") for line in lines}


@pytest.mark.reliability("copied-results")
def test_copied_read_only_data_dir_is_reused(smoke_run, tmp_path):
    """A new clone uses a data_dir through a link; it was copied with new mtimes and is read-only."""
    copy_project(tmp_path / "clone")
    for path in ("data", "results"):
        # mtimes are reversed: the newest file becomes the oldest
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
    assert planned(tmp_path / "clone", *elsewhere) == {"provenance", "all"}  # the record contains data_dir
    for path in (tmp_path / "data", *(tmp_path / "data").rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.reliability("edited-table")
def test_edited_output_reruns_its_rule_and_later_ones(copy):
    """Rules before the edited file are not rerun."""
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
def test_forced_rules_and_files_are_rerun(copy):
    """Force a rule, a file or everything. A finished document that is only a target is not trained again."""
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
