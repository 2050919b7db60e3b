"""The plan of a study with jobs: its files, and which of its jobs and stages have to run."""

from pathlib import Path

from sharc_core.planning.call import Call
from sharc_core.planning.progress import counted
from sharc_core.planning.stages import PlannedStage, Stages
from sharc_core.provenance.code_hashes import script_hash, stage_hash
from sharc_core.stages.layout import Layout
from sharc_core.studies.base import Study
from sharc_core.studies.rows import is_measured, job_file, job_key
from sharc_core.verification.record import record_name

JOB_RULE = "study_job"


class PlannedStudy:
    """A study with jobs on a grid.

    jobs, keys: by path of the rows. to_measure: paths that rules offer to make. rules: by name of the
    rule, its stage. stages: these and the record. is_in_all: whether target `all` and the report need it.
    """

    def __init__(self, study: Study, layout: Layout, call: Call, scripts: Path):
        grid, self.study, self.name, self._call = layout.grid, study, study.name, call
        self.jobs = {str(layout.results / job_file(study, job)): job for job in study.chosen_jobs(grid)}
        self.keys = {path: job_key(study, job, layout) for path, job in self.jobs.items()}
        self.is_in_all = study.is_part_of_all and self.name in grid.study_blocks
        self.to_measure = call.offered(self.jobs, lambda path: is_measured(path, self.keys[path]), JOB_RULE)
        self.record = str(layout.results / record_name(self.name))
        self.rules = {f"{self.name}_{stage.name}": stage for stage in study.stages(grid)}
        self.record_rule = f"{self.name}_provenance"
        script = script_hash(scripts / "study_stage.py")
        stages = [
            PlannedStage(
                rule,
                [str(layout.results / name) for name in stage.files],
                [list(self.keys.values()) if stage.reads_rows else None, stage.made_from, script]
                + [stage_hash(*stage.code)],
                sources=list(self.jobs) if stage.reads_rows else [],
            )
            for rule, stage in self.rules.items()
        ]
        code = [stage_hash("verification.record"), script_hash(scripts / "study_record.py")]
        made_from = [grid.data_dir, list(self.keys.values()), code]
        record = PlannedStage(self.record_rule, [self.record], made_from, list(self.rules), list(self.jobs))
        self.stages = Stages(Path(self.record), [*stages, record])

    @property
    def made(self) -> list[str]:
        """Paths of tables, figures and other files of its stages, without the record."""
        return [path for rule in self.rules for path in self.stages.files[rule]]

    @property
    def files(self) -> list[str]:
        """All paths of the study's target."""
        return [*self.jobs, *self.made, self.record]

    def outdated(self) -> set[str]:
        """Return the rules whose files have to be made."""
        every = set(self.stages.files)
        return every if self.to_measure or not self._call.compares else self.stages.outdated()

    def summary(self) -> str:
        """Return what was made, for a line at the end of the call."""
        ran = len(self.to_measure) - sum(not Path(path).exists() for path in self.to_measure)
        kept = len(self.jobs) - len(self.to_measure)
        shown = [path for path in self.made if path.endswith(".md")] or self.made or [self.record]
        return f"{self.study.title}: {shown[0]} ({counted(ran, 'job')} run, {kept} up to date)"
