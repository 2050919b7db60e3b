"""Files on disk compared with the grid: outdated stages, and cells with missing seeds."""

import json
from pathlib import Path

import pytest
from record_factory import finished_grid

from sharc_core.common.files import read_json, write_json
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.stages.layout import Layout
from sharc_core.verification.comparison import Comparison, outdated_stages, stage_keys

AFTER = {"tables": ["runs"], "report": ["runs"], "provenance": ["runs", "tables", "report"]}
MADE_FROM = {"runs": 1, "tables": 2, "report": 3, "provenance": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished_grid(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def finished(made, tmp_path):
    """Return the record of a finished grid, its stage keys, its files by stage and its documents."""
    record = made.results / "provenance.json"
    keys = stage_keys(MADE_FROM, AFTER)
    values = read_json(record) | {"stages": keys}
    write_json(record, values)
    tables = [str(path) for path in (made.results / "tables").iterdir()]
    outputs = {"runs": [str(made.results / "runs.csv")], "tables": tables, "provenance": [str(record)]}
    outputs["report"] = [str(made.results / "report.html")]
    documents = [str(path) for path in made.results.glob("matrices/*/*/*.json")]
    before = {path: path.read_bytes() for path in made.results.rglob("*.*") if path.is_file()}
    yield record, keys, outputs, documents
    for path, content in before.items():
        path.write_bytes(content)


def outdated(finished, **changes) -> set[str]:
    record, _, outputs, documents = finished
    keys = stage_keys(MADE_FROM | changes, AFTER)
    return outdated_stages(record, keys, AFTER, outputs, {"runs": documents})


@pytest.mark.slow
def test_finished_grid_has_no_outdated_stage(finished):
    assert outdated(finished) == set()


@pytest.mark.parametrize(
    ("stage", "follow"),
    [
        ("runs", {"runs", "tables", "report", "provenance"}),
        ("tables", {"tables", "provenance"}),
        ("report", {"report", "provenance"}),
        ("provenance", {"provenance"}),
    ],
)
def test_changed_stage_outdates_the_stages_after_it(finished, stage, follow):
    assert outdated(finished, **{stage: "other"}) == follow


def test_damaged_or_missing_files_outdate_their_stages(finished):
    record, _, outputs, documents = finished
    for path, follow in (
        (documents[0], set(MADE_FROM)),
        (outputs["runs"][0], set(MADE_FROM)),
        (outputs["tables"][0], {"tables", "provenance"}),
        (outputs["report"][0], {"report", "provenance"}),
    ):
        before = Path(path).read_bytes()
        for damaged in (before[:-1], before[:-2] + b"x\n", b""):
            Path(path).write_bytes(damaged)
            assert outdated(finished) == follow, path
        Path(path).unlink()
        assert outdated(finished) == follow, path
        Path(path).write_bytes(before)
    assert outdated(finished) == set()
    record.write_bytes(record.read_bytes()[:-9])
    assert outdated(finished) == set(MADE_FROM)


def test_record_of_an_older_format_outdates_every_stage(finished):
    record = finished[0]
    values = read_json(record)
    for older in (values | {"format": 1}, {k: v for k, v in values.items() if k != "stages"}, {}):
        write_json(record, older)
        assert outdated(finished) == set(MADE_FROM)


def compared(grid) -> Comparison:
    layout = Layout(grid)
    return Comparison(layout, {str(layout.cell(cell)): cell for cell in cells(grid)})


def test_only_missing_seeds_are_trained(made):
    """The documents are synthetic and have the keys of the grid."""
    assert compared(made.grid).unfinished() == [] and compared(made.grid).notes() == []
    more = load_grid(made.grid.model_dump(mode="json") | {"seeds": [0, 1, 7, 5]})
    found = compared(more)
    assert len(found.unfinished()) == len(found.cells) and found.notes() == []
    assert all(found.to_train(path).seeds == [7, 5] for path in found.cells)
    assert compared(load_grid(made.grid.model_dump(mode="json") | {"seeds": [1]})).unfinished() == []
    other = load_grid(made.grid.model_dump(mode="json") | {"training": {"lr": 0.3}})
    (note,) = compared(other).notes()
    assert "4 of 4 cells have documents of another grid, trained again: " in note
    assert note.endswith("training.lr is 0.1 in the document and 0.3 in the grid")


def test_a_finished_cell_is_trained_whole_when_it_is_asked_for(made):
    found = compared(made.grid)
    path = next(iter(found.cells))
    assert found.is_finished(path) and found.to_train(path).seeds == made.grid.seeds
    assert found.needed() == set()
    more = compared(load_grid(made.grid.model_dump(mode="json") | {"seeds": [0, 1, 7]}))
    assert more.to_train(path).seeds == [7]
    more.forced.add(path)
    assert more.to_train(path).seeds == [0, 1, 7]


def test_note_names_the_document_of_another_grid(made, tmp_path):
    path = next(iter(compared(made.grid).cells))
    before = read_json(path)
    try:
        write_json(path, json.loads(json.dumps(before).replace('"lr": 0.1', '"lr": 0.2')))
        found = compared(made.grid)
        assert found.unfinished() == [path]
        assert found.notes() == [
            f"note: 1 of 4 cells has a document of another grid, trained again: {path}: training.lr is 0.2 "
            "in the document and 0.1 in the grid"
        ]
    finally:
        write_json(path, before)
