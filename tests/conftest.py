"""What several files of tests share and only want to be made once."""

import shutil

import pytest
from small_grid import small_grid
from snake import SMOKE, copy_project, smoke_results, snakemake

from sharc_core.pipeline import ensure_features


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """The project's files, and the smoke grid run in them; who changes a file puts it back."""
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    done = snakemake(folder, *SMOKE)
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def copy(project, tmp_path):
    """The finished project, to be disturbed."""
    folder = tmp_path / "copy"
    shutil.copytree(project, folder)
    return folder


@pytest.fixture
def undisturbed(copy):
    """The copy's matrices and tables, as it should have them in the end, whatever is done to it."""
    found = smoke_results(copy)
    assert len([name for name in found if "/matrices/" in name]) == 4
    return found


@pytest.fixture(scope="session")
def small_features(tmp_path_factory):
    """A folder in which the small grid's data, weights and features were made; to be copied."""
    folder = tmp_path_factory.mktemp("small")
    ensure_features(small_grid(folder), "s_glyphs")
    return folder
