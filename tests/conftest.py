"""What several files of tests share and only want to be made once."""

import pytest
from snake import copy_project, snakemake


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """The project's files, and the smoke grid run in them; who changes a file puts it back."""
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    done = snakemake(folder, "--configfile", "config/smoke.yaml")
    assert done.returncode == 0, done.stdout
    return folder
