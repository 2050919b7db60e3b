"""The plan of a call on a finished grid: outdated stages, forced targets, the summary."""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from record_factory import add_recall, finished_grid

from sharc_core.common.files import read_json, write_json
from sharc_core.common.integrity import entry
from sharc_core.grid.loading import load_grid
from sharc_core.planning.call import Call
from sharc_core.planning.plan import Plan
from sharc_core.studies.registered import study_of

STAGES = {"runs", "tables", "figures", "report", "provenance"}
RECALL = {"recall_tables", "recall_figures", "recall_pictures", "recall_provenance"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished grid with a recall study."""
    done = finished_grid(tmp_path_factory.mktemp("made"))
    add_recall(done)
    return done


@pytest.fixture
def plan(made, tmp_path, monkeypatch):
    """Return a function that plans a call on a copy of the results."""
    shutil.copytree(made.results, tmp_path / "results")

    def plan(*arguments: str, is_main: bool = True, rename: str = "{}", **changes) -> Plan:
        monkeypatch.setattr(sys, "argv", ["snakemake", *arguments])
        modifier = SimpleNamespace(modify_rulename=rename.format)
        call = Call(SimpleNamespace(is_main_process=is_main, modifier=modifier))
        # of the studies with jobs, only the one that has results here
        monkeypatch.setattr("sharc_core.planning.plan.job_studies", lambda grid: [study_of(grid, "recall")])
        values = made.grid.model_dump(mode="json") | {"results_dir": str(tmp_path / "results")} | changes
        return Plan(load_grid(values), values, call)

    return plan


def finish(plan: Plan) -> None:
    """Write the record with the current keys, as the jobs would."""
    for stages in (plan.stages, *(study.stages for study in plan.studies)):
        values = read_json(stages.record) | {"stages": stages.keys}
        listed = set(values["files"]) | {stages.record.name}
        for name in {
            Path(p).relative_to(stages.record.parent).as_posix() for f in stages.files.values() for p in f
        }:
            if name not in listed:
                path = stages.record.parent / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(name)
                values["files"][name] = entry(path)
        write_json(stages.record, values)


@pytest.mark.slow
def test_a_finished_grid_has_nothing_to_be_made(plan):
    before = plan()
    assert before.to_train == before.to_copy == [] and not before.studies[0].to_measure
    assert before.outdated == STAGES | RECALL, "the record's keys are made up"
    finish(before)
    after = plan()
    assert after.outdated == set() and after.to_force() == []
    assert all(after.is_current(rule) for rule in STAGES | RECALL)
    assert set(after.targets) >= {*after.cells, *after.tables, *after.figures, after.report, after.record}
    assert not any("recall" in path for path in after.targets)


def test_a_missing_document_is_trained_and_reaches_all_stages(plan):
    finish(plan())
    lost = next(iter(plan().cells))
    document = Path(lost).read_bytes()
    os.unlink(lost)
    now = plan()
    assert now.to_train == [lost] and now.outdated == STAGES
    assert lost in now.to_force() and now.report in now.to_force()
    assert now.summary() == f"Report: {now.report} (0 cells trained, 3 up to date, 1 still to be trained)"
    Path(lost).write_bytes(document)
    assert now.summary() == f"Report: {now.report} (1 cell trained, 3 up to date)"
    assert now.job(lost)["seeds"] == now.grid.seeds


def test_a_damaged_table_reaches_what_comes_after_it(plan):
    finish(plan())
    table = Path(plan().path("tables/recall.md"))
    table.write_text("x")
    now = plan()
    assert now.outdated == {"recall_tables", "recall_provenance"}
    (study,) = now.studies
    assert not study.is_in_all and set(now.to_force()) == {*study.stages.files["recall_tables"], study.record}


def test_summary_matches_the_requested_targets(plan):
    assert plan("all").summary().startswith("Report: ")
    assert plan(plan().report).summary().startswith("Report: ")
    assert plan(plan().runs).summary() == "Done: 0 cells trained, 4 up to date"
    line = plan("recall").summary()
    assert line.startswith("Recall of associative memories: ") and line.endswith(
        "tables/recall.md (0 jobs run, 1 up to date)"
    )


def test_target_studies_adds_configured_studies_to_all(plan):
    without, configured = plan("studies"), plan("studies", recall={"patterns": 5})
    assert without.study_targets == without.targets and without.configured == []
    (study,) = configured.configured
    assert not study.is_in_all and not set(study.files) & set(configured.targets)
    assert set(configured.study_targets) == {*configured.targets, *study.files}
    assert without.summary() == plan("all").summary()
    line = configured.summary()
    assert line.startswith("Report: ") and "Recall of associative memories: " in line
    assert "Recall of" not in plan("all", recall={"patterns": 5}).summary()


def test_the_end_of_a_call_that_failed_does_not_name_the_report(plan):
    now, lines = plan(), []
    now.progress = SimpleNamespace(print=lines.append, failures=lambda: ["Failed: cell x (log: x.log)"])
    now.print_end(has_failed=True)
    assert lines == ["Failed: cell x (log: x.log)"]
    now.progress.failures = list  # Snakemake failed for another reason
    now.print_end(has_failed=True)
    assert len(lines) == 1
    now.print_end()
    assert lines[1] == now.summary()


def test_forced_rules_are_planned_again(plan):
    finish(plan())
    assert plan("-R", "cell").to_train == list(plan().cells)
    assert plan("--forcerun", "sharc_cell", rename="sharc_{}").to_train == list(plan().cells)
    assert plan("-F").to_train == list(plan().cells)
    assert plan("-R", "study_job").studies[0].to_measure == list(plan().studies[0].jobs)
    asked = plan("-R", "tables")
    assert asked.to_train == [] and not asked.is_current("tables") and not asked.is_current("report")


@pytest.mark.parametrize("arguments", [["--report"], ["--delete-all-output"]])
def test_inspecting_calls_list_all_work(plan, arguments):
    finish(plan())
    look = plan(*arguments)
    assert look.to_train == list(look.cells) and look.to_copy == list(look.cards)
    assert look.outdated == STAGES | RECALL and look.inputs.missing_features
    assert plan(is_main=False).to_train == list(look.cells)


def test_a_batch_trains_what_is_missing(plan):
    cells = {"per_job": 3}
    finish(plan(cells=cells))
    now = plan(cells=cells)
    batch, documents = max(now.batches.items(), key=lambda item: len(item[1]))
    assert len(documents) == 3 and now.in_batch(batch) == documents, "all, where it is asked for as a whole"
    os.unlink(documents[1])
    now = plan(cells=cells)
    assert now.in_batch(batch) == [documents[1]] and set(now.to_force()) >= {batch, documents[1]}
    assert now.batch_of[documents[1]] == batch and now.kept_document(documents[1]).startswith(
        str(Path(batch).parent)
    )
    assert plan().batches == {}


def test_each_input_is_made_by_one_job(plan):
    """Two backbones that are pre-trained on the same data share the images."""
    backbone = plan().grid.model_dump(mode="json")["backbone"]
    several = [backbone | {"name": "b"}, backbone | {"name": "c", "image_size": 40}]
    inputs = plan(backbone=several).inputs
    assert sorted(map(str, inputs.prepared.values())) == ["{'backbone': 'b'}", "{'dataset': 's_digits'}"]
    assert sorted(inputs.pretrained.values()) == ["b", "c"]
    assert len(inputs.caches) == 2 and len(inputs.missing_features) == 2
