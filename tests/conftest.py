"""What several files of tests share and only want to be made once."""

import os
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock
from small_grid import small_grid
from snake import CORES, SMOKE, copy_project, matrices, smoke_results, variables

from sharc_core.stages.build import ensure_features

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))  # who run parts of the tests at once


def pytest_configure():
    if WORKERS > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // WORKERS))


def pytest_collection_modifyitems(items):
    """What runs a real Snakemake first: long, and idle at times, so that nobody waits for it at the end.

    Of that, what needs no `smoke_run` before what does, so that not all workers wait while it is made.
    """
    items.sort(
        key=lambda item: (
            item.get_closest_marker("pipeline") is None,
            "smoke_run" in getattr(item, "fixturenames", ()),
        )
    )


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """The project's files, and the smoke grid run in them: once, whoever asks first. To be copied."""
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
    """A copy of it; who changes a file puts it back."""
    folder = tmp_path_factory.mktemp("project") / "project"
    shutil.copytree(smoke_run, folder)
    return folder


@pytest.fixture
def copy(smoke_run, tmp_path):
    """The finished project, to be disturbed."""
    folder = tmp_path / "copy"
    shutil.copytree(smoke_run, folder)
    return folder


@pytest.fixture
def undisturbed(copy):
    """What the copy should have in the end, whatever is done to it: matrices, tables, figures in words."""
    found = smoke_results(copy)
    assert len(matrices(found)) == 4
    return found


@pytest.fixture(scope="session")
def small_features(tmp_path_factory):
    """A folder in which the small grid's data, weights and features were made; to be copied."""
    folder = tmp_path_factory.mktemp("small")
    ensure_features(small_grid(folder), "s_glyphs")
    return folder
