"""`python -m sharc_core verify` reports every edited, missing and leftover file, and nothing else."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from record_factory import add_recall, finished_grid
from snake import sharc_core, snakemake

from sharc_core.__main__ import main
from sharc_core.common.files import read_json, sha256_file, write_json
from sharc_core.learning.documents import checksum
from sharc_core.provenance.lineage import FIELDS
from sharc_core.verification import verify as verify_module
from sharc_core.verification.record import record_name

pytestmark = pytest.mark.slow
MATRICES = "matrices/s_digits/resnet_small-pretrain"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished grid with a recall study. Tests change copies of it."""
    done = finished_grid(tmp_path_factory.mktemp("made"))
    add_recall(done)
    return done


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of results and data in another folder."""
    shutil.copytree(made.results, tmp_path / "results")
    shutil.copytree(made.data, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def verify(capsys):
    def call(*arguments: str) -> tuple[int, list[str]]:
        """Return exit status and lines. Only one error line may go to stderr."""
        status = main(["verify", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert not err or (status == 1 and not out and len(err.splitlines()) == 1)
        return status, (out or err).splitlines()

    return call


def edit(path, pattern: str, change) -> None:
    """Change the first match of a pattern in a file, as a manual edit would."""
    text = path.read_text(encoding="utf-8")
    new = re.sub(pattern, change, text, count=1)
    assert new != text
    path.write_text(new, encoding="utf-8")


def other_digit(match: re.Match) -> str:
    """Change the third digit after the point, which keeps the number of bytes."""
    whole, part = match.group().split(".")
    return f"{whole}.{part[:2]}{(int(part[2]) + 1) % 10}{part[3:]}"


def bless(place, name: str) -> None:
    """Update the checksums of an edited file in the record, and of a document's numbers in the document."""
    path = place / "results/provenance.json"
    record = read_json(path)
    edited = place / "results" / name
    if name.startswith("matrices/"):
        document = read_json(edited)
        (training,) = document["trainings"]
        training["sums"] = [checksum(document, seed) for seed in training["seeds"]]
        write_json(edited, document)
    record["files"][name] = {"sha256": sha256_file(edited), "bytes": edited.stat().st_size}
    write_json(path, record)


NUMBER = r"\d+\.\d{3,}"


def test_all_is_well_in_one_line(place, verify):
    status, lines = verify()  # the folder `results` unless another is named
    assert status == 0 and len(lines) == 1, lines
    assert lines[0].startswith("results: fine; ")
    assert "12 tables equal those recomputed from 4 matrices (12 rows), byte for byte" in lines[0]
    assert "3 tables equal those recomputed from 1 files of the recall study" in lines[0]


def test_the_results_alone_are_enough(place, verify):
    shutil.rmtree(place / "data")
    (place / "archive").mkdir()
    (place / "results").rename(place / "archive/of_2023")
    assert verify(place / "archive/of_2023")[0] == 0
    assert verify("archive/of_2023/")[0] == 0


@pytest.mark.reliability("damaged-results")
@pytest.mark.parametrize(
    ("name", "place_of_it"),
    [
        ("runs.csv", r"row 1 has acc \d+\.\d+, recomputed \d"),
        ("tables/task_il.csv", r"row 1 has acc_mean \d+\.\d+, recomputed \d"),
        ("tables/class_il_pairs.csv", r"row 1 has difference -?\d+\.\d+, recomputed"),
        ("tables/scorecard.csv", r"row 1 has plain_acc \d+\.\d+, recomputed"),
        ("tables/study_sweep.csv", r"row 1 has acc_mean \d+\.\d+, recomputed"),
        ("tables/recall.csv", r"row 1 has relative_error_mean 0\.\d+, recomputed 0"),
    ],
)
def test_a_number_edited_in_a_csv_file(place, verify, name, place_of_it):
    edit(place / "results" / name, NUMBER, other_digit)
    status, lines = verify()
    assert status == 1
    assert re.fullmatch(
        rf"altered: {name}: its SHA-256 is not the recorded one; {place_of_it}.*", lines[0]
    ), lines
    assert lines[1:] == ["results: 1 problem"]
    if not name.endswith("recall.csv"):
        bless(place, name)  # the edit is also found without the checksum
        status, lines = verify()
        assert status == 1 and lines[0].startswith(f"differs: {name}: row 1 has "), lines


@pytest.mark.reliability("damaged-results")
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        *((f"{table}.md", r"(\d+\.\d+) ±", r"1\1 ±") for table in ("task_il", "class_il", "recall")),
        *((f"{table}.tex", r"(\d+\.\d+) \$\\pm", r"1\1 $\\pm") for table in ("task_il", "class_il")),
        ("recall.tex", r"(0\.\d+) ", r"1\1 "),
        ("scorecard.md", r"\d+ of", "99 of"),
    ],
)
def test_a_number_edited_in_a_page(place, verify, name, old, new):
    edit(place / "results/tables" / name, old, new)
    status, lines = verify()
    assert status == 1
    assert re.match(rf"altered: tables/{name}: .*; line \d+ has '.*', recomputed '.*'$", lines[0]), lines
    assert lines[1:] == ["results: 1 problem"]


@pytest.mark.reliability("damaged-results")
def test_a_number_edited_in_a_matrix(place, verify):
    name = f"{MATRICES}/er-plain-m20-floats.json"
    edit(place / "results" / name, NUMBER, other_digit)
    status, lines = verify()
    assert status == 1
    assert f"altered: {name}: its SHA-256 is not the recorded one" in lines
    assert re.match(r"unchecked: .*the numbers of seed \d do not match their checksum", lines[1]), lines
    bless(place, name)
    status, lines = verify()
    assert status == 1 and not [line for line in lines if name in line]
    assert [line for line in lines if line.startswith("differs: runs.csv: row ")], lines
    assert [line for line in lines if line.startswith("differs: tables/")], lines


def test_a_time_edited_in_a_matrix(place, verify):
    """Wall times are only in runs.csv, not in tables."""
    name = f"{MATRICES}/sgd.json"
    edit(place / "results" / name, r'("train_seconds": \[\s+)0\.\d+', r"\g<1>0.1")
    bless(place, name)
    status, lines = verify()
    assert status == 1
    assert re.match(r"differs: runs.csv: row \d+ has train_seconds 0\.333\d*, recomputed 0\.1", lines[0])
    assert lines[1:] == ["results: 1 problem"]


@pytest.mark.reliability("damaged-results")
@pytest.mark.parametrize("name", ["report.html", "figures/bytes_task_il.svg"])
def test_other_files_are_known_by_their_checksums(place, verify, name):
    (place / "results" / name).write_text(f"<P>{name}</p>\n")
    assert verify() == (1, [f"altered: {name}: its SHA-256 is not the recorded one", "results: 1 problem"])
    (place / "results" / name).write_text("")
    assert verify()[1][0] == f"altered: {name}: 0 bytes instead of {len(name) + 8}"


@pytest.mark.parametrize(
    "name", ["runs.csv", "tables/task_il.tex", "tables/recall.md", "figures/bytes_task_il.svg", "report.html"]
)
def test_a_missing_file(place, verify, name):
    (place / "results" / name).unlink()
    assert verify() == (1, [f"missing: {name}", "results: 1 problem"])


@pytest.mark.parametrize(
    "name", [f"{MATRICES}/sgd.json", "recall/s_digits/resnet_small-pretrain/modern_hopfield.csv"]
)
def test_a_missing_source_of_the_tables(place, verify, name):
    (place / "results" / name).unlink()
    status, lines = verify()
    kind = "grid" if name.endswith("json") else "recall"
    assert status == 1 and lines[0] == f"missing: {name}"
    assert lines[1].startswith(f"unchecked: tables of the {kind}: cannot be recomputed: ")
    assert name in lines[1]
    assert lines[2:] == ["results: 2 problems"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{MATRICES}/gem-plain-m20-floats.json", "no table is made from it"),
        ("recall/s_digits/resnet_small-pretrain/pcn.csv", "no table is made from it"),
        ("tables/study_old.csv", "not recorded"),
        ("figures/theta.svg", "not recorded"),
    ],
)
def test_leftover_files_are_reported(place, verify, name, why):
    (place / "results" / name).write_text("{}")
    told = f"extra: {name}: {why}: delete it, or run the grid that has it"
    assert verify() == (1, [told, "results: 1 problem"])


def test_logs_notes_half_written_files_and_other_grids_are_no_matter(place, verify):
    for name in ("logs/runs.log", "notes.txt", f"{MATRICES}/.sgd.json.x.part", "smoke/tables/task_il.csv"):
        (place / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "results" / name).write_text("x")
    assert verify()[0] == 0


@pytest.mark.reliability("damaged-results")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("not json", "cannot be recomputed: results/.*/sgd.json is not valid JSON"),
        ("[1]", "cannot be recomputed: results/.*/sgd.json is not a JSON object"),
        (
            "{}",
            "cannot be recomputed: results/.*/sgd.json does not match this grid .its provenance is",
        ),
        ('{"cell": {"method": "sgd"}}', "cannot be recomputed: results/.*/sgd.json does not match this grid"),
    ],
)
def test_a_damaged_matrix_is_a_line_and_no_traceback(place, verify, content, reason):
    name = f"{MATRICES}/sgd.json"
    (place / "results" / name).write_text(content)
    status, lines = verify()
    assert status == 1 and len(lines) == 3, lines
    assert lines[0].startswith(f"altered: {name}: ")
    assert re.match(f"unchecked: tables of the grid: {reason}", lines[1]), lines


def test_impossible_matrix_is_not_reported_as_a_bug(place, verify):
    """A Class-IL accuracy above the Task-IL accuracy stops the tables, but must not be called a defect."""
    path = place / "results" / MATRICES / "sgd.json"
    document = read_json(path)
    document["matrix"]["class_il"][0][0][0] = 100.5
    write_json(path, document)
    bless(place, f"{MATRICES}/sgd.json")
    status, lines = verify()
    assert status == 1 and "is below the Class-IL accuracy 100.5" in lines[0]
    assert "report it" not in "".join(lines)


# --- the record ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], r"is not valid JSON \("),
        (lambda text: "", r"is not valid JSON \("),
        (lambda text: "[]", r"is not a JSON object: "),
        (lambda text: text.replace('"format": 2', '"format": 3'), r"is damaged \(format: "),
        (lambda text: text.replace('"files"', '"flies"'), r"is damaged \("),
        (
            lambda text: text.replace('"runs.csv"', '"../runs.csv"'),
            r"is damaged \(files: '../runs.csv' is not",
        ),
        (lambda text: re.sub(r'"sha256": "[0-9a-f]', '"sha256": "g', text), r"is damaged \(.*sha256: "),
        (lambda text: re.sub(r'"bytes": \d+', '"bytes": "7"', text), r"is damaged \(files\..*bytes: "),
    ],
)
def test_a_damaged_record_is_one_line(place, verify, change, message):
    path = place / "results/provenance.json"
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    status, lines = verify()
    assert status == 1 and len(lines) == 1, lines
    assert re.match(rf"error: results/provenance\.json {message}", lines[0]), lines


def test_missing_record_is_refused(place, verify):
    assert verify("nowhere") == (1, ["error: nowhere is not a folder of results"])
    (place / "runs/smoke").mkdir(parents=True)
    message = "error: runs/provenance.json is missing: "
    assert verify("runs") == (1, [f"{message}run the grid to its end, or name another folder"])
    shutil.copy(place / "results/provenance.json", place / "runs/smoke")
    assert verify("runs") == (1, [f"{message}name one of runs/smoke"])


@pytest.mark.reliability("unsigned-document")
def test_an_edited_config_or_origin(place, verify):
    path = place / "results/provenance.json"
    record = read_json(path)
    record["config"]["training"]["lr"] = 0.2
    record["origin"]["hosts"] = ["a supercomputer"]
    write_json(path, record)
    told = "altered: provenance.json: config_hash does not match config; origin does not match the runs"
    status, lines = verify()
    assert status == 1 and lines[0] == told and lines[-1] == "results: 5 problems"
    other = "it does not match the recorded grid: training.lr is 0.1 in the document and 0.2 in the grid"
    assert all(line.startswith(f"altered: {MATRICES}/") and line.endswith(other) for line in lines[1:-1])


def test_a_config_that_is_no_grid_file(place, verify):
    path = place / "results/provenance.json"
    record = read_json(path)
    record["config"]["cells"] = None
    write_json(path, record)
    told = "altered: provenance.json: config_hash does not match config"
    status, lines = verify()
    assert status == 1 and lines[0] == told and lines[-1] == "results: 1 problem"
    assert lines[1].startswith("note: settings were not compared with the recorded grid: config: cells: ")


def test_where_the_grid_ran_is_no_part_of_its_hash(made):
    elsewhere = made.grid.model_copy(update={"data_dir": "/scratch", "results_dir": "x", "device": "cpu"})
    assert elsewhere.config_hash == made.grid.config_hash
    assert made.grid.model_copy(update={"seeds": [7]}).config_hash != made.grid.config_hash


def test_what_the_record_holds(made):
    record = read_json(made.results / "provenance.json")
    assert record["config"] == made.grid.model_dump(mode="json")
    assert (record["cells"], record["runs"]) == (4, 12)
    assert record["origin"]["config"] == record["config_hash"] == made.grid.config_hash
    assert record["data"]["s_digits"]["sha256"] == made.origin["data"]
    weights = record["weights"]["resnet_small-pretrain"]
    assert weights["sha256"] == weights["card"]["weights_sha256"] == made.origin["weights"]
    assert list(record["features"].values()) == [made.origin["features"]]
    for library in ("python", "pandas", "numpy", "scipy"):
        assert record["made"]["versions"][library]
    files = {p.relative_to(made.results).as_posix() for p in made.results.rglob("*") if p.is_file()}
    recall = {name for name in files if "recall" in name}
    assert set(record["files"]) == files - recall - {record_name("grid")}
    assert set(read_json(made.results / record_name("recall"))["files"]) == recall - {record_name("recall")}


# --- other code ------------------------------------------------------------------------------------


def test_other_code_is_noted_only_where_tables_differ(place, verify, monkeypatch):
    path = place / "results/provenance.json"
    record = read_json(path)
    record["made"]["commit"], record["made"]["versions"]["pandas"] = "0ld" + "0" * 37, "2.0.0"
    write_json(path, record)
    status, lines = verify()
    assert status == 0 and len(lines) == 1, lines
    monkeypatch.setattr("sharc_core.results.tables.FORMULAS", "other words")
    status, lines = verify()
    assert status == 1
    differing = [line for line in lines if line.startswith("differs: tables/")]
    assert {line.split(": ")[1] for line in differing} == {
        f"tables/{scenario}.{kind}" for scenario in ("task_il", "class_il") for kind in ("md", "tex")
    }
    (note,) = [line for line in lines if line.startswith("note: ")]
    assert note.startswith("note: the tables were made with other code (commit 0ld0")
    assert "pandas 2.0.0, here " in note and "code " not in note.split("(")[1]
    assert lines[-1] == "results: 4 problems"


def test_same_code_gives_no_note(place, verify):
    edit(place / "results/runs.csv", NUMBER, other_digit)
    assert not [line for line in verify()[1] if line.startswith("note")]


def test_other_published_numbers_are_told(place, verify, monkeypatch, tmp_path):
    other = tmp_path / "paper.csv"
    text = verify_module.PUBLISHED.read_text()
    other.write_text(text.replace("s_cifar10,", "s_digits,"))
    verdict = verify_module.verify(place / "results", published=other)
    assert verdict.problems and "different published numbers" in verdict.notes[0]


# --- data, weights, features -----------------------------------------------------------------------


def test_inputs_in_the_recorded_and_in_another_folder(place, made, verify):
    status, lines = verify("results", "--data")  # the original folder, given by its absolute path
    assert status == 0 and f"4 inputs in {made.data} have the recorded checksums" in lines[0], lines
    status, lines = verify("results", "--data", "data")
    assert status == 0 and "4 inputs in data have the recorded checksums" in lines[0], lines
    missing = "error: data_dir gone is not a folder here: give its location as --data FOLDER"
    assert verify("results", "--data", "gone") == (1, [missing])


@pytest.mark.reliability("silent-damage")
@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("prepared/digits-*/train_images.npy", "was altered"),
        ("prepared/pretraining-*/images.npy", "was altered"),
        ("backbones/*.safetensors", "its SHA-256 is not the recorded one"),
        ("features/*/*/view0/train_maps.npy", "was altered"),
        ("features/*/*/view0/manifest.json", "its manifest is not the recorded one"),
        ("prepared/digits-*/manifest.json", "its manifest is not the recorded one"),
    ],
)
def test_an_altered_or_missing_input(place, verify, pattern, kind):
    (path,) = (place / "data").glob(pattern)
    content = path.read_text()
    if path.suffix == ".json":
        path.write_text(content.replace('"sha256": "', '"sha256": "0', 1))
    else:
        path.write_text(content.swapcase())
    assert verify()[0] == 0  # the results have not changed
    status, lines = verify("results", "--data", "data")
    assert status == 1 and len(lines) == 2, lines
    assert lines[0].startswith("altered: data/") and kind in lines[0]
    path.unlink()
    status, lines = verify("results", "--data", "data")
    assert status == 1 and len(lines) == 2, lines
    assert lines[0].startswith(("missing: data/", "altered: data/")) and "missing" in lines[0]


def test_cells_that_ran_with_other_weights_are_told(place, verify):
    """It happens if data_dir is rebuilt on another machine for one more method; no file is altered."""
    path = place / "results/provenance.json"
    record = read_json(path)
    record["weights"]["resnet_small-pretrain"]["sha256"] = "0" * 64
    write_json(path, record)
    status, lines = verify()
    assert status == 0
    assert lines[0] == "note: 4 of 4 cells ran with other weights than recorded"


# --- a real grid -----------------------------------------------------------------------------------


def verified(project, *arguments: str) -> subprocess.CompletedProcess:
    return sharc_core(project, "verify", *map(str, arguments))


@pytest.mark.pipeline
def test_smoke_results_are_verified_until_a_number_is_edited(project, tmp_path):
    """The smoke grid's results verify in place and as a copy, until a number is edited."""
    whole = verified(project, "results/smoke", "--data")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "11 tables equal those recomputed from 4 matrices (12 rows)" in whole.stdout
    assert "4 inputs in data have the recorded checksums" in whole.stdout
    record = json.loads((project / "results/smoke/provenance.json").read_text())
    assert record["made"]["commit"] == "unknown"  # a copy of the project, no checkout
    assert "report.html" in record["files"]
    copy = tmp_path / "sent"
    shutil.copytree(project / "results/smoke", copy)
    assert verified(project, copy).returncode == 0
    edit(copy / "runs.csv", NUMBER, other_digit)
    edited = verified(project, copy)
    assert edited.returncode == 1
    assert edited.stdout.startswith("altered: runs.csv: its SHA-256 is not the recorded one; row 1 has acc ")


@pytest.mark.pipeline
def test_a_call_that_ended_before_the_record_is_made_good_by_the_next(project, tmp_path):
    """A page is rebuilt without its record, and the next call does not accept the old record."""
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    smoke = ("--configfile", "config/smoke.yaml")
    report = copy / "results/smoke/report.html"
    before = (report.stat().st_atime_ns, report.stat().st_mtime_ns)
    edit(copy / "sharc_core/report/templates/report.html.j2", "<html", "<html ")
    done = snakemake(copy, "results/smoke/report.html", *smoke)
    assert done.returncode == 0, done.stdout
    assert verified(copy, "results/smoke").stdout.startswith("altered: report.html: ")
    os.utime(report, ns=before)  # with a slow clock mtimes do not show the change
    done = snakemake(copy, *smoke)
    assert done.returncode == 0, done.stdout
    assert verified(copy, "results/smoke").returncode == 0


def test_the_documentation_names_every_kind_of_line_and_every_column(pytestconfig):
    text = (pytestconfig.rootpath / "docs/results.md").read_text().split("## Provenance")[1]
    source = Path(verify_module.__file__).read_text()
    kinds = {*re.findall(r'\.add\("(\w+)"', source), *re.findall(r'"(missing|altered)"', source), "note"}
    assert kinds == {"missing", "altered", "differs", "extra", "unchecked", "note"}
    for kind in kinds:
        assert f"| `{kind}: ` |" in text
    for name in ("config", *FIELDS):
        assert re.search(rf"\| [^|]*`{name}`", text), name
    for name in map(record_name, ("grid", "recall")):
        assert f"`{name}`" in text
