"""Every table, figure and report contains the provenance of its numbers, from one or several runs."""

import json

import pandas as pd
import pytest
from result_factory import make_document

from sharc_core.figures import write_figures
from sharc_core.grid.sub_grid import SubGrid
from sharc_core.provenance.lineage import lineage, sentence
from sharc_core.report.page import write_report
from sharc_core.report.tables import write_all_tables
from sharc_core.results.published import no_published
from sharc_core.results.runs import read_runs, runs_table, write_runs

CONFIG = "sha256:0123456789ab"
COLUMNS = ["commit", "dirty", "config", "data", "weights", "versions", "host"]
A, B = "a" * 40, "b" * 40


def document(*place, commit=A, dirty=False, versions=None, **settings) -> dict:
    found = make_document(*place, **settings)
    data = "d1" if settings.get("dataset") == "s_glyphs" else "d0"
    (training,) = found["trainings"]
    training["origin"] |= {"commit": commit, "dirty": dirty, "data": data * 32}
    training["versions"] |= versions or {}
    return found


@pytest.fixture
def cells():
    """Return cells of two commits, one of them dirty, and two versions of torch."""
    return [
        document("sgd"),
        document("er", commit=B, dirty=True, versions={"torch": "3"}),
        document("er", "sharc", commit=B),
        document("er", dataset="s_glyphs"),
    ]


def members(cells):
    """Return memberships in which the study contains the cells of the first commit."""
    with_study = [{"task_il": ["main", "early"], "class_il": ["main"]}, {"task_il": ["main", "early"]}]
    return [with_study[0], *[{"task_il": ["main"], "class_il": ["main"]}] * 2, with_study[1]]


@pytest.fixture
def tables(cells, tmp_path):
    runs = runs_table(cells, members(cells))
    write_all_tables(runs, no_published(), tmp_path, ["early"], CONFIG)
    return tmp_path


EARLY = {
    "commit": A,
    "dirty": False,
    "config": CONFIG,
    "data": "s_digits sha256:d0d0d0d0d0d0, s_glyphs sha256:d1d1d1d1d1d1",
    "weights": "tiny sha256:3e3e3e3e3e3e",
    "versions": "python 3.11; sharc_bench 0.1.0; torch 2; torchvision 0",
    "host": "Linux x86_64, a processor",
}


def test_csv_tables_have_provenance_columns(tables):
    """They are the last columns. A study's table lists only the study's runs."""
    frame = pd.read_csv(tables / "study_early.csv")
    assert list(frame.columns)[-7:] == COLUMNS
    for name, value in EARLY.items():
        assert frame[name].tolist() == [value] * len(frame) and len(frame) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["task_il.csv", "class_il.csv", "task_il_pairs.csv", "class_il_pairs.csv", "scorecard.csv"]
)
def test_several_commits_and_versions_are_all_named(tables, name):
    frame = pd.read_csv(tables / name)
    assert list(frame.columns)[-7:] == COLUMNS and len(frame) > 0
    assert set(frame["commit"]) == {f"{A} and {B}"}
    assert set(frame["dirty"]) == {True}
    (versions,) = set(frame["versions"])
    assert "torch 2; " in versions and "torch 3; " in versions


@pytest.mark.parametrize("name", ["task_il", "class_il", "scorecard"])
def test_markdown_ends_and_latex_begins_with_a_sentence(tables, name):
    last = (tables / f"{name}.md").read_text().rstrip().split("\n\n")[-1]
    short = f"Provenance: run at commit {A[:12]} and {B[:12]} and {B[:12]} with uncommitted changes; "
    assert last.startswith(f"{short}config {CONFIG}; data s_digits sha256:d0d0d0d0d0d0")
    for words in ("weights tiny sha256:3e3e3e3e3e3e", "torch 2,", "torch 3,", "on Linux x86_64, a processor"):
        assert words in last
    assert last.endswith(".") and "\n" not in last
    if name != "scorecard":
        first = (tables / f"{name}.tex").read_text().splitlines()[0]
        assert first == f"% {last}"


def test_a_scenario_names_its_own_data_only(tables):
    """The glyphs are reported only in Task-IL."""
    assert "s_glyphs" in pd.read_csv(tables / "task_il.csv")["data"][0]
    assert "s_glyphs" not in pd.read_csv(tables / "class_il.csv")["data"][0]


def test_a_state_that_is_not_known_stays_so(tmp_path):
    runs = runs_table([document("sgd", commit="unknown", dirty=None)])
    write_runs(runs, tmp_path / "runs.csv")
    again = read_runs(tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(runs, again)
    write_all_tables(again, no_published(), tmp_path, [], CONFIG)
    frame = pd.read_csv(tmp_path / "task_il.csv")
    assert frame["commit"].tolist() == ["unknown"] and frame["dirty"].isna().all()
    assert "run at commit unknown; " in (tmp_path / "task_il.md").read_text()


def test_runs_know_their_own_origin(cells, tmp_path):
    write_runs(runs_table(cells), tmp_path / "runs.csv")
    frame = pd.read_csv(tmp_path / "runs.csv")
    er = frame[(frame.method == "er") & (frame.variant == "plain") & (frame.dataset == "s_digits")]
    assert set(er["commit"]) == {B} and set(er["dirty"]) == {True}
    assert set(er["data"]) == {"sha256:d0d0d0d0d0d0"} and set(er["weights"]) == {"sha256:3e3e3e3e3e3e"}
    assert set(frame.loc[frame.method == "sgd", "dirty"]) == {False}


def test_the_order_of_the_cells_does_not_matter(cells):
    assert lineage(runs_table(cells), CONFIG) == lineage(runs_table(cells[::-1]), CONFIG)


def test_different_bits_under_one_name_are_both_named(cells):
    """Weights were pre-trained again on another machine between two cells."""
    cells[0]["trainings"][0]["origin"] |= {"weights": "4f" * 32, "host": "Linux aarch64"}
    said = sentence(lineage(runs_table(cells), CONFIG))
    assert "weights tiny sha256:3e3e3e3e3e3e and sha256:4f4f4f4f4f4f" in said
    assert said.endswith("on Linux aarch64 and Linux x86_64, a processor.")


@pytest.mark.slow
def test_figures_and_report_contain_provenance(cells, tmp_path):
    runs = runs_table(cells, members(cells))
    studies = {"early": SubGrid(figure="bytes")}
    write_figures(cells, runs, tmp_path, studies, CONFIG)
    found = json.loads((tmp_path / "early_task_il.json").read_text())["origin"]
    assert found == lineage(runs[runs["studies"] == "main early"], CONFIG)
    assert found["commits"] == [{"commit": A, "dirty": False}]
    write_report(runs, cells, no_published(), tmp_path, tmp_path / "r.html", "T", {"x": "y"}, config=CONFIG)
    foot = (tmp_path / "r.html").read_text().split('<footer id="provenance">')[1]
    for name, value in {**EARLY, "commit": f"{A} and {B}", "dirty": True}.items():
        if name not in ("versions", "data", "weights"):
            assert f"<dt>{name}</dt><dd>{value}</dd>" in foot
    assert "torch 3; torchvision 0" in foot and EARLY["data"] in foot and EARLY["weights"] in foot
