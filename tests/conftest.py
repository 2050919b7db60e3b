"""Fixtures that several test files share, and the order in which tests run."""

import gc
import os
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock
from small_grid import small_grid
from snake import CORES, SMOKE, copy_project, matrices, smoke_results, variables

from sharc_core.methods import METHODS
from sharc_core.stages.build import ensure_features

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))  # parallel pytest processes
# Files that take over 20 s, the longest first. The first two do not start with `smoke_run`, so that not all
# workers wait while one of them builds it. `pytest --durations=0` prints the duration of each test.
LONGEST = [
    "test_cluster",
    "test_paper_grid",
    "test_faults",
    "test_full_disk",
    "test_pipeline",
    "test_same_results",
    "test_studies",
    "test_stream_runs",
    "test_image_storage",
    "test_folders",
    "test_batch_jobs",
    "test_cuts",
    "test_verify",
    "test_recall_study",
    "test_pretended_gpu",
    "test_batch_norm_jobs",
    "test_security",
    "test_imagenets",
    "test_figures",
    "test_scorecard",
    "test_report",
    "test_associative",
    "test_bayespcn_reading",
    "test_peer_runs",
    "test_bayespcn",
    "test_associative_states",
]


def pytest_configure():
    if WORKERS > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // WORKERS))


def pytest_addoption(parser):
    parser.addoption(
        "--reliability", metavar="NAME", help="only the tests of this row of docs/reliability.md"
    )


def pytest_collection_modifyitems(config, items):
    """Keep only the tests of the row given by --reliability, if any, then sort."""
    row = config.getoption("--reliability")
    if row is not None:
        kept = [i for i in items if any(row in mark.args for mark in i.iter_markers("reliability"))]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    in_order(items)


def in_order(items):
    """Sort by file, the longest first, so that no worker is left with a long file when the others are done.

    Of the other files, those that run Snakemake come first, because they leave a core idle at times.
    Within a file, tests that need `smoke_run` come last, so that test_cluster.py does not wait for it.
    """
    piped = {item.path for item in items if item.get_closest_marker("pipeline") is not None}
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST),
            item.path not in piped,
            item.path,
            "smoke_run" in getattr(item, "fixturenames", ()),
        )
    )


def pytest_collection_finish():
    """Exclude the imported modules from garbage collection, because they are never freed."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def side_by_side(monkeypatch):
    """Train the seeds of every method together, also those of methods that take much memory."""
    for name in METHODS.names():
        monkeypatch.setattr(METHODS.get(name), "advances_together", True)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """A copy of the project in which the smoke grid has run. It is built once and must not be changed."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if WORKERS > 1 else shared
    folder = shared / "smoke_run"
    with FileLock(shared / "smoke_run.lock"):
        if not folder.exists():
            made = tmp_path_factory.mktemp("smoke")
            copy_project(made)
            command = [sys.executable, "-m", "snakemake", *CORES, *SMOKE]
            environment = os.environ | variables(made)
            done = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def project(smoke_run, tmp_path_factory):
    """A copy of `smoke_run` for a whole session. A test that changes a file must restore it."""
    folder = tmp_path_factory.mktemp("project") / "project"
    shutil.copytree(smoke_run, folder)
    return folder


@pytest.fixture
def copy(smoke_run, tmp_path):
    """A copy of `smoke_run` that one test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(smoke_run, folder)
    return folder


@pytest.fixture
def undisturbed(copy):
    """The results that `copy` must have at the end of the test: matrices, tables and figure texts."""
    found = smoke_results(copy)
    assert len(matrices(found)) == 4
    return found


@pytest.fixture(scope="session")
def small_features(tmp_path_factory):
    """A folder with the data, weights and features of the small grid. It must not be changed."""
    folder = tmp_path_factory.mktemp("small")
    ensure_features(small_grid(folder), "s_glyphs")
    return folder
