"""Real full disks: small file systems in memory, mounted if the tests run as root and skipped otherwise.

A write fails with one line that names the file, leaves no partial file, and succeeds once there is space.
"""

import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from result_factory import make_grid
from small_grid import small_grid
from snake import PATIENCE, ROOT, SMOKE, finish, half_written, jobs_of, matrices, start_snakemake, wait_for
from snakemake.utils import format as filled_in

from sharc_core.backbones import load_backbone
from sharc_core.common.errors import UserError
from sharc_core.common.files import write_json
from sharc_core.datasets import open_prepared
from sharc_core.features.cache import extract_features
from sharc_core.figures import write_figures
from sharc_core.report.page import write_report
from sharc_core.report.tables import write_scorecard
from sharc_core.results.published import no_published
from sharc_core.results.runs import runs_table, write_runs
from sharc_core.results.tables import write_study_tables, write_tables
from sharc_core.stages.build import ensure_features, prepare_data, pretrain_backbone
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import check_inputs


class Disk(SimpleNamespace):
    """A small file system at `path`."""

    def fill(self, leave: int = 0) -> None:
        """Fill the disk except `leave` bytes. It allocates pages of 4 KiB."""
        with open(self.path / "filler", "wb") as stream:
            for attempts_left in reversed(range(100)):
                try:
                    return os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(self.path).free - leave)
                except OSError:  # a process that writes at the same time took or freed a part of it
                    if not attempts_left:
                        raise

    def free(self) -> None:
        (self.path / "filler").unlink()

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.path.rglob("*") if path.is_file() and path.name != "filler")
        return {str(path.relative_to(self.path)): path.read_bytes() for path in found}


@pytest.fixture
def new_disk():
    """Mount a disk of the given size at a path, with the content of the existing folder."""
    mounted = []

    def mount(path: Path, size: int) -> Disk:
        content = path.with_name(f"{path.name}.content")
        path.rename(content) if path.exists() else content.mkdir()
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
            reason = done.stderr.strip() if done.returncode else None
        except OSError as error:
            reason = str(error)
        if reason is not None:
            pytest.skip(f"no small disk can be mounted here, which takes root: {reason}")
        mounted.append(path)
        shutil.copytree(content, path, dirs_exist_ok=True)
        shutil.rmtree(content)
        return Disk(path=path)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


CELLS = make_grid(datasets=("s_digits",), methods=("sgd", "er", "gem", "agem"), buffers=(100, 300))
RUNS = runs_table(CELLS)
DRAWN = RUNS[RUNS["scenario"] == "class_il"]  # one scenario's figures, as each figure is written alike


def tables(folder: Path) -> None:
    write_tables(RUNS, no_published(), folder)
    write_scorecard(RUNS, no_published(), folder)
    write_study_tables(RUNS, no_published(), folder, ["main"])


def report(folder: Path, figures: Path) -> None:
    write_report(DRAWN, CELLS, no_published(), figures, folder / "report.html", "T", {"commit": "0"})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_figures(CELLS, DRAWN, folder)
    return folder


@pytest.mark.reliability("disk-full-results")
@pytest.mark.slow
@pytest.mark.parametrize("room", ["none", "half"])
@pytest.mark.parametrize("what", ["cell", "runs", "tables", "figures", "report"])
def test_full_disk_while_writing_results_leaves_no_partial_file(tmp_path, new_disk, drawn, what, room):
    write = {
        "cell": lambda folder: write_json(folder / "er.json", CELLS[1] | {"padding": "x" * 10_000}),
        "runs": lambda folder: write_runs(RUNS, folder / "runs.csv"),
        "tables": tables,
        "figures": partial(write_figures, CELLS, DRAWN),
        "report": partial(report, figures=drawn),
    }[what]
    roomy = drawn if what == "figures" else tmp_path / "roomy"
    if roomy != drawn:
        roomy.mkdir()
        write(roomy)
    expected = Disk(path=roomy).files()
    assert max(map(len, expected.values())) > 8192, "half of it must be a page"
    disk = new_disk(tmp_path / "disk", 8 * 2**20)
    disk.fill(leave=0 if room == "none" else sum(map(len, expected.values())) // 2)
    with pytest.raises(UserError) as caught:
        write(disk.path)
    named = (
        str(caught.value)
        .removeprefix("disk full while writing ")
        .removesuffix(": free some space and run again")
    )
    assert str(Path(named).relative_to(disk.path)) in expected
    assert half_written(disk.path) == []
    written = disk.files()
    assert written.items() < expected.items(), "what is there is whole"
    disk.free()
    write(disk.path)
    assert disk.files() == expected


def command_of(rule: str, **values) -> str:
    """Return a rule's formatted shell command."""
    found = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    shell = found.split(f"\nrule {rule}:\n")[1].split("    shell:\n")[1].split("\n\n")[0]
    return filled_in("".join(re.findall(r'"(.*)"', shell)), **values)


@pytest.mark.reliability("disk-full-results")
def test_moving_a_batchs_document_needs_no_space(tmp_path, new_disk):
    """The document is already on the disk, so moving it needs no space."""
    disk = new_disk(tmp_path / "disk", 8 * 2**20)
    finished, document = disk.path / "it's finished", disk.path / "$(it's) done.json"
    finished.write_text("x" * 100_000)
    disk.fill(leave=0)
    params = SimpleNamespace(finished=str(finished))
    subprocess.run(["bash", "-c", command_of("document", params=params, output=str(document))], check=True)
    assert disk.files() == {document.name: b"x" * 100_000}


@pytest.mark.reliability("disk-full-results")
def test_failed_copy_of_a_card_leaves_no_file(tmp_path, new_disk):
    """The card is the only file that a shell command copies."""
    card, copy = tmp_path / "it's a card", tmp_path / "disk/$(it's) done.json"
    card.write_text("x" * 100_000)
    disk = new_disk(tmp_path / "disk", 8 * 2**20)
    disk.fill(leave=8192)
    command = command_of("card", input=str(card), output=str(copy))
    failed = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert failed.returncode != 0 and "No space left on device" in failed.stderr
    assert disk.files() == {}
    disk.free()
    subprocess.run(["bash", "-c", command], check=True)
    assert disk.files() == {copy.name: card.read_bytes()}


@pytest.mark.reliability("disk-full-inputs")
@pytest.mark.slow
@pytest.mark.parametrize("what", ["prepared", "weights", "features"])
def test_inputs_on_a_disk_that_fills_up(tmp_path, new_disk, small_features, what):
    """Stages check for space first if they can; here the disk fills up while they write."""
    shutil.copytree(small_features / "data", tmp_path / "data")
    disk = new_disk(tmp_path / "data", 64 * 2**20)
    layout = Layout(small_grid(tmp_path))
    path = {
        "prepared": layout.prepared("s_glyphs"),
        "weights": layout.weights("small"),
        "features": layout.features("s_glyphs", "small"),
    }[what]
    reference = Disk(path=small_features / "data").files()
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def fill(line: str = "") -> None:
        if not (disk.path / "filler").exists():
            disk.fill(leave=8192)

    def write() -> None:
        if what == "prepared":
            fill()
            prepare_data(layout.source("s_glyphs"), path)
        elif what == "weights":
            pretrain_backbone(layout.grid, "small", progress=fill)  # first called after an epoch
        else:
            extract()

    def extract() -> None:
        backbone = load_backbone(layout.backbones["small"], layout.weights("small"), "cpu")
        preprocess, batches = backbone.preprocess, []

        def fill_on_the_way(images):
            batches.append(len(images))
            if len(batches) == 3:
                fill()
            return preprocess(images)

        backbone.preprocess = fill_on_the_way
        extract_features(open_prepared(layout.prepared("s_glyphs")), backbone, path, batch_size=4)

    with pytest.raises(UserError, match=rf"^disk full while writing {path}: free some space and run again$"):
        write()
    assert half_written(disk.path) == []
    assert not path.exists()
    disk.free()
    if what == "prepared":
        prepare_data(layout.source("s_glyphs"), path)
    elif what == "weights":
        pretrain_backbone(layout.grid, "small")
    else:
        ensure_features(layout.grid, "s_glyphs")
    found = disk.files()
    assert found.keys() == reference.keys()
    for name in found:
        if name.endswith((".npy", ".safetensors")):
            assert found[name] == reference[name], name


@pytest.mark.slow
@pytest.mark.reliability("disk-full-before", "read-only-folder")
def test_a_disk_that_is_full_from_the_start(tmp_path, new_disk, monkeypatch):
    """The check runs before any job, because Snakemake's own files would cause a traceback."""
    disk = new_disk(tmp_path / "results", 4 * 2**20)
    wanted = small_grid(tmp_path)
    check_inputs(wanted)
    disk.fill(leave=8192)
    full = r"the disk is full, {} has 8,192 bytes free: free some space and run again$"
    with pytest.raises(
        UserError, match=rf"^config: results_dir: {tmp_path}/results: " + full.format(disk.path)
    ):
        check_inputs(wanted)
    check_inputs(wanted, planning=True)
    disk.free()
    here = new_disk(tmp_path / "here", 4 * 2**20)
    monkeypatch.chdir(here.path)
    here.fill(leave=8192)
    with pytest.raises(UserError, match=r"^config: working folder: " + full.format(here.path)):
        check_inputs(wanted)
    here.free()
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    with pytest.raises(UserError, match=rf"results: no permission to write into {disk.path}$"):
        check_inputs(wanted)


@pytest.mark.reliability("disk-too-small")
def test_a_disk_too_small_for_the_features_is_told_before_any_job(tmp_path, new_disk):
    disk = new_disk(tmp_path / "data", 1_000_000)
    message = rf"^config: data_dir: the features still .* need [\d,]+ bytes, but {disk.path} has [\d,]+ bytes"
    with pytest.raises(UserError, match=message):
        check_inputs(small_grid(tmp_path))
    assert disk.files() == {}


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error: ")]


@pytest.mark.reliability("disk-full-inputs", "disk-full-results")
@pytest.mark.pipeline
def test_grid_finishes_after_disks_filled_up(copy, undisturbed, new_disk):
    """The data disk fills up during extraction, then the results disk during training."""
    shutil.rmtree(copy / "data/features")
    shutil.rmtree(copy / "results/smoke/matrices")
    data, results = new_disk(copy / "data", 64 * 2**20), new_disk(copy / "results/smoke", 16 * 2**20)

    process = start_snakemake(copy, *SMOKE)
    wait_for(lambda: list(copy.glob("data/features/*/*/.view0.*.part/train_maps.npy")), "half an extraction")
    data.fill()
    said = process.ended(PATIENCE).stdout
    assert process.returncode == 1
    (line,) = errors(said)
    assert line.startswith("error: features s_digits: disk full while writing data/features/digits-")
    assert "/view0: free some space and run again (log: results/smoke/logs/features/" in line
    assert not list(copy.glob("data/features/*/*/view0")), "it was filled too late"
    assert half_written(copy) == [] and "Traceback" not in said
    data.free()

    process = start_snakemake(copy, *SMOKE)
    wait_for(lambda: jobs_of(process, "cell.py"), "a cell")
    results.fill()
    said = process.ended(PATIENCE).stdout
    assert process.returncode == 1
    assert errors(said) and "Traceback" not in said
    for line in errors(said):
        assert ": disk full while writing results/smoke/" in line
        assert "free some space and run again" in line
    assert list(copy.glob("results/smoke/matrices/**/*.json")) == []
    assert half_written(copy) == []
    results.free()

    finish(copy, undisturbed, *matrices(undisturbed))
