"""The plan of a call of Snakemake: what its rules offer to make for a grid, and what has to be made.

The contents of files decide, not Snakemake's metadata or mtimes (sharc_core/verification/comparison.py).
Names of data, weights and features carry a hash of what they are made from. A cell's document states its
settings, code and features. The record states what tables and figures were made from. Rules offer what is
missing or does not match the grid; all other files are inputs that no rule makes. Job processes, and calls
that only look (--report, --delete-all-output ...), are offered everything.
"""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from sharc_core.common.files import sha256_file
from sharc_core.grid.cell import Cell, Scenario
from sharc_core.grid.loading import sub_grid_of
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN, MAIN, MAIN_FIGURES
from sharc_core.grid.unroll import memberships
from sharc_core.planning.call import Call
from sharc_core.planning.inputs import Inputs
from sharc_core.planning.progress import Progress, counted
from sharc_core.planning.stages import PlannedStage, Stages
from sharc_core.planning.studies import PlannedStudy
from sharc_core.provenance.code_hashes import script_hash, stage_hash
from sharc_core.provenance.origin import ROOT
from sharc_core.results.main_figures import further_figures
from sharc_core.stages.cell_jobs import FINISHED, OUTDATED, batches, kept_document
from sharc_core.stages.layout import Layout
from sharc_core.studies.base import code_of
from sharc_core.studies.registered import backbones_of_cells, cell_studies, job_studies
from sharc_core.verification.comparison import Comparison
from sharc_core.verification.record import GRID, card_copy, grid_table_code, record_name

CELL_RULES = ("cell", "cells", "document")
FIGURE_KINDS = (*DRAWN, "json")  # the JSON file describes the figure in words


class Plan:
    """What the rules read. Paths are relative to the working folder and spelled as Snakemake spells them.

    cells, members: by path of a cell's document, the cell and who reports it. cards: by path of the copy in
    the results, the card of pre-trained weights. to_train, to_copy: of these, what rules offer to make.
    """

    def __init__(self, grid: Grid, config: dict[str, Any], call: Call, root: Path = ROOT):
        self.grid, self.config, self.call, self._scripts = grid, config, call, root / "workflow/scripts"
        # relative, as all inputs are, so that a project that was moved or copied re-runs nothing
        self.published = os.path.relpath(root / "workflow/paper/paper_results.csv")
        self.layout = layout = Layout(grid)
        pairs = {str(layout.cell(cell)): (cell, members) for cell, members in memberships(grid)}
        self.cells: dict[str, Cell] = {path: cell for path, (cell, _) in pairs.items()}
        self.members = {path: members for path, (_, members) in pairs.items()}
        self.comparison = Comparison(layout, self.cells)
        self.comparison.forced.update(call.forced(self.cells, *CELL_RULES))
        self.to_train = call.offered(self.cells, self.comparison.is_finished, *CELL_RULES)
        self.cards = {
            str(copy): card
            for name in layout.backbones
            if (card := layout.card(name)) is not None and (copy := card_copy(layout, name)) is not None
        }
        self.to_copy = call.offered(self.cards, self._is_right_card, "card")
        self.inputs = Inputs(layout, call)
        self.studies = [PlannedStudy(study, layout, call, self._scripts) for study in job_studies(grid)]
        self._times = {path: _time(path) for path in self.to_train}
        self.progress: Progress | None = None  # of the call that runs the jobs

    def path(self, name: str) -> str:
        """Return the path of a file of the results, for any spelling of results_dir (./out, out/, `.`)."""
        return str(self.layout.results / name)

    def names(self, folder: str, paths: Iterable[str]) -> list[str]:
        """Return the names of files below a folder of the results, without their endings."""
        return [str(Path(path).relative_to(self.path(folder)).with_suffix("")) for path in paths]

    def _is_right_card(self, path: str) -> bool:
        """Return whether a copy of a card exists and equals the card in data_dir, if that exists."""
        card, copy = Path(self.cards[path]), Path(path)
        return copy.exists() and not (card.exists() and card.read_bytes() != copy.read_bytes())

    # --- cells -------------------------------------------------------------------------------------------

    @cached_property
    def wanted(self) -> list[list]:
        """Seeds and key of every cell's document. Jobs that read the documents check them."""
        return [[cell.seeds, self.comparison.wanted(path).key] for path, cell in self.cells.items()]

    def job(self, path: str) -> dict[str, Any]:
        """Return the parameters of a cell's job: what the grid wants of the cell, and the seeds to train."""
        wanted = self.comparison.wanted(path)
        cell, seeds = wanted.cell.model_dump(mode="json"), self.comparison.to_train(path).seeds
        return {"cell": cell, "code": wanted.code, "reads": wanted.reads, "seeds": seeds}

    def features_of(self, paths: Iterable[str]) -> list[str]:
        """Return the manifests of the features that the job of some cells reads."""
        return self.inputs.features_of([self.comparison.to_train(path) for path in paths])

    def images_of(self, paths: Iterable[str]) -> list[str]:
        """Return the manifests of the prepared images that the cells of some documents store."""
        return self.inputs.images_of([self.comparison.to_train(path) for path in paths])

    @property
    def replaced(self) -> str | None:
        """The folder for documents that are replaced; None if they are not kept."""
        return self.path(OUTDATED) if self.grid.cells.keep_replaced else None

    @cached_property
    def batches(self) -> dict[str, list[str]]:
        """By the file that a batch of cells writes last, their documents. Empty with one cell per job."""
        size, documents_of = self.grid.cells.batch, {}
        for (_, _, name), cells in batches(self.cells.values(), size).items() if size > 1 else ():
            documents = [str(self.layout.cell(cell)) for cell in cells]
            documents_of[str(Path(documents[0]).parent / FINISHED / f"{name}.batch")] = documents
        return documents_of

    @cached_property
    def batch_of(self) -> dict[str, str]:
        """By document, the file that its batch writes last."""
        return {path: batch for batch, documents in self.batches.items() for path in documents}

    def in_batch(self, batch: str) -> list[str]:
        """Return the documents of a batch that lack seeds or are forced; all if there are none."""
        documents = self.batches[batch]
        is_forced, is_finished = self.comparison.forced.__contains__, self.comparison.is_finished
        return [path for path in documents if is_forced(path) or not is_finished(path)] or documents

    def kept_document(self, path: str) -> str:
        """Return where a cell's document lies once its batch has finished it."""
        return str(kept_document(Path(self.batch_of[path]).parent, self.cells[path]))

    # --- files that are made from the cells --------------------------------------------------------------

    @cached_property
    def _cell_studies(self) -> list:
        values = self.grid.model_dump(mode="json")
        return cell_studies(values, backbones_of_cells(self.cells.values()))

    @cached_property
    def tables(self) -> list[str]:
        """Paths of the tables of the grid, its sub-grids and the studies that have no jobs."""
        scenarios = self.grid.scenarios
        names = [f"{scenario}.{kind}" for scenario in scenarios for kind in ("md", "csv", "tex")]
        names += [f"{scenario}_pairs.csv" for scenario in scenarios]
        names += [f"study_{name}.csv" for name in self.grid.sub_grids]
        names += ["scorecard.md", "scorecard.csv"]
        names += [name for study in self._cell_studies for name in study.table_names()]
        return [self.path(f"tables/{name}") for name in names]

    @cached_property
    def figures(self) -> list[str]:
        """Paths of the figures of the grid, its sub-grids and the studies that have no jobs."""
        drawn = [
            f"{figure}_{scenario}"
            for scenario in self.grid.scenarios
            for figure in (*MAIN_FIGURES, *further_figures(self._reported_by_main(scenario)))
        ]
        for name, sub_grid in self.grid.sub_grids.items():
            if sub_grid.figure is not None:
                drawn += [f"{name}_{scenario}" for scenario in sub_grid_of(self.grid, name).scenarios]
        names = [f"{name}.{kind}" for name in drawn for kind in FIGURE_KINDS]
        backbones = backbones_of_cells(self.cells.values())
        names += [name for study in self._cell_studies for name in study.figure_names(backbones)]
        return [self.path(f"figures/{name}") for name in names]

    def _reported_by_main(self, scenario: Scenario) -> list[Cell]:
        """Return the cells whose results in a scenario are the grid's own."""
        of_scenario = {path: dict(members).get(scenario, []) for path, members in self.members.items()}
        return [self.cells[path] for path, studies in of_scenario.items() if MAIN in studies]

    @property
    def runs(self) -> str:
        """Path of the table of all runs."""
        return self.path("runs.csv")

    @property
    def report(self) -> str:
        """Path of the HTML report."""
        return self.path("report.html")

    @property
    def record(self) -> str:
        """Path of the grid's record."""
        return self.path(record_name(GRID))

    @property
    def reported(self) -> list[PlannedStudy]:
        """The studies with jobs that are part of `all` and of the report."""
        return [study for study in self.studies if study.is_in_all]

    @property
    def of_studies(self) -> list[str]:
        """Paths of the files of these studies that the report reads: their rows, and files made from rows."""
        return [path for study in self.reported for path in [*study.jobs, *study.made]]

    @property
    def targets(self) -> list[str]:
        """All files that the target `all` makes."""
        studies = [path for study in self.reported for path in study.files]
        return [*self.cells, self.runs, *self.tables, *self.figures, self.report, self.record, *studies]

    @property
    def configured(self) -> list[PlannedStudy]:
        """The studies with jobs that the grid file has a block for."""
        return [study for study in self.studies if study.name in self.grid.study_blocks]

    @property
    def study_targets(self) -> list[str]:
        """All files that the target `studies` makes: those of `all` and of every configured study."""
        return list(dict.fromkeys([*self.targets, *(p for study in self.configured for p in study.files)]))

    # --- what has to be made -----------------------------------------------------------------------------

    @cached_property
    def stages(self) -> Stages:
        """The stages of the grid's record."""
        grid_hash, studies, measured = self.grid.config_hash, self._cell_studies, self.reported
        table_code = grid_table_code(self.grid.model_dump(), backbones_of_cells(self.cells.values()))
        figure_code = [root for study in studies for root in study.figure_code()]
        report_code = [root for study in [*studies, *(s.study for s in measured)] for root in code_of(study)]
        figures = {name: [part.figure, part.title] for name, part in self.grid.sub_grids.items()}
        published = sha256_file(self.published)
        stages = [
            self._stage(
                "runs",
                [self.runs],
                [self._keys_and_members(), self.names(".", self.cells), stage_hash("results.runs")],
                sources=list(self.cells),
            ),
            self._stage(
                "tables",
                self.tables,
                [list(self.grid.sub_grids), grid_hash, stage_hash(*table_code), published],
                after=["runs"],
            ),
            self._stage(
                "figures",
                self.figures,
                [figures, grid_hash, stage_hash("figures", "results.runs", *figure_code)],
                after=["runs"],
            ),
            self._stage(
                "report",
                [self.report],
                [grid_hash, published, sorted(map(os.path.basename, self.cards))]
                + [stage_hash("report.page", "report/templates", "results.published", "results.runs")]
                + [stage_hash(*report_code), {study.name: list(study.keys.values()) for study in measured}],
                after=["runs", "figures"],
                sources=[*self.cards, *self.of_studies],
            ),
            self._stage(
                "provenance",
                [self.record],
                [self.grid.data_dir, stage_hash("verification.record")],
                after=["runs", "tables", "figures", "report"],
            ),
        ]
        return Stages(Path(self.record), stages)

    def _stage(self, name: str, files: list[str], made_from: list, **reads: list[str]) -> PlannedStage:
        script = script_hash(self._scripts / f"{name}.py")
        return PlannedStage(name, files, [*made_from, script], **reads)

    def _keys_and_members(self) -> list[list]:
        return [[self.comparison.wanted(path).key, members] for path, members in self.members.items()]

    @cached_property
    def outdated(self) -> set[str]:
        """Rules of the stages whose files have to be made. In a job, or a call that only looks, all rules."""
        rules = set(self.stages.files)
        if self.call.compares and not self.to_train:
            rules = self.stages.outdated()
        for study in self.studies:
            of_study = study.outdated()
            rules |= of_study
            if of_study and study.is_in_all:
                rules |= {"report", "provenance"}
        return rules

    @cached_property
    def files_of(self) -> dict[str, list[str]]:
        """By rule of a stage, its files."""
        files = dict(self.stages.files)
        for study in self.studies:
            files |= study.stages.files
        return files

    def key(self, rule: str) -> str:
        """Return the key of a stage: a hash of all that its files are made from."""
        keys = self.stages.keys
        for study in self.studies:
            keys = keys | study.stages.keys
        return keys[rule]

    def is_current(self, rule: str) -> bool:
        """Return whether the files of a stage stay as they are, regardless of the mtimes of its inputs."""
        return rule not in self.outdated and not self._is_asked_for

    @cached_property
    def _is_asked_for(self) -> bool:
        """True if any stage is forced, with --forcerun or a similar option."""
        return any(self.call.forced(paths, rule) for rule, paths in self.files_of.items())

    def to_force(self) -> list[str]:
        """Return the files whose jobs Snakemake has to run, regardless of its own metadata."""
        paths = [*self.to_train, *self.to_copy]
        paths += [path for study in self.studies for path in study.to_measure]
        paths += [path for rule in self.outdated for path in self.files_of[rule]]
        return paths + [self.batch_of[path] for path in self.to_train if path in self.batch_of]

    # --- the end of the call -----------------------------------------------------------------------------

    def print_end(self, has_failed: bool = False) -> None:
        """Print the last line of a call that ran jobs: what was made, or each job that failed."""
        if self.progress is not None and self.call.compares:
            for line in self.progress.failures() if has_failed else [self.summary()]:
                self.progress.print(line)

    def summary(self) -> str:
        """Return one line about the requested files and the number of jobs that ran."""
        lines = [study.summary() for study in self.studies if self.call.asks_for(study.record, study.name)]
        if lines:
            return "; ".join(lines)
        trained = [path for path, time in self._times.items() if _time(path) != time]
        left = set(self.to_train).difference(trained)
        counts = f"{counted(len(trained), 'cell')} trained, {len(self.cells) - len(self.to_train)} up to date"
        counts += f", {len(left)} still to be trained" if left else ""
        if self.call.asks_for(self.report, "all", "report", "studies"):
            shown = self.configured if self.call.asks_for(None, "studies") else self.reported
            counts = "; ".join([counts, *(study.summary() for study in shown)])
            return f"Report: {self.report} ({counts})"
        return f"Done: {counts}"


def _time(path: str) -> int | None:
    """Return the mtime of a file in nanoseconds; None if there is no file."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None
