"""What a study is: an experiment with its settings, cells or jobs, tables, figures and sentences."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.common.errors import UserError, shown
from sharc_core.common.registry import nearest
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.grid.study_settings import STUDIES

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.grid.cell import Cell
    from sharc_core.grid.models import Grid
    from sharc_core.results.table_formats import Table

Roots = tuple[str | Path, ...]  # of code, see provenance.code_hashes
Backbones = Mapping[str, Collection[str]]  # by scenario, names of the backbones that have cells
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One measurement on the features of one data set and backbone. Its rows are one CSV file.

    name: of the file. settings: JSON-able; the rows are a function of them, of the features and of the code.
    code: roots of that code; None stands for the study's own file. A job that is killed for memory or time
    runs again with more of both.
    """

    dataset: str
    backbone: str
    name: str
    settings: Mapping[str, Any]
    code: Roots | None = None
    mem_mb: int = 4000
    minutes: int = 120
    gpus: int = 0

    @property
    def parameters(self) -> dict[str, Any]:
        """The fields that `run` needs, JSON-able."""
        fields = {"dataset": self.dataset, "backbone": self.backbone, "name": self.name}
        return fields | {"settings": dict(self.settings)}


@dataclass(frozen=True)
class Results:
    """What tables, figures and sentences are made from.

    config: the grid's hash, which tables state. rows: of all jobs of a study that has jobs. Of a study
    without jobs, runs: runs.csv, documents: of the cells, published: the paper's numbers.
    """

    config: str
    rows: "pd.DataFrame | None" = None
    runs: "pd.DataFrame | None" = None
    published: "pd.DataFrame | None" = None
    documents: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Stage:
    """Files that a study with jobs makes in one go.

    files: names below results_dir. write: called with Results and a folder that stands for results_dir.
    code: roots of the code of `write`. made_from: JSON-able; what the files depend on besides. reads_rows:
    False for files that are made without the jobs. mem_mb, minutes: None for what takes seconds, which is
    then no job of a cluster.
    """

    name: str
    files: Sequence[str]
    write: Callable[[Results, Path], object]
    code: Roots
    made_from: Any = None
    reads_rows: bool = True
    mem_mb: int | None = None
    minutes: int | None = None


class Study:
    """Subclass it under `@STUDIES.register("name")` in a file of this package; only `title` is required.

    There are two kinds. A study without jobs is made from the grid's cells, to which it may add some
    (`sub_grids`): its tables and figures are among the grid's. A study with jobs has its own measurements,
    record and target: `snakemake <name>` makes its files. These are part of `all` and of the report when the
    grid file has its block, unless `is_part_of_all` is False.
    """

    name: str
    title: str
    settings: Any  # of this class's own Settings
    explanation = ""  # a paragraph of HTML between the study's tables and sentences in the report
    is_part_of_all = True
    columns: Mapping[str, str] = {}  # of a job's rows and their types in pandas; empty: not checked
    no_jobs = "the grid gives the study nothing to measure"  # the error when `jobs` returns nothing

    class Settings(BaseSettings):
        """The study's own block in a grid file, under its name."""

    def __init__(self, settings: BaseSettings | None = None):
        self.settings = self.Settings() if settings is None else settings

    @classmethod
    def has_jobs(cls) -> bool:
        """Whether the study has jobs of its own."""
        return cls.jobs is not Study.jobs

    @classmethod
    def applies(cls, backbones: Backbones) -> bool:
        """Whether a study without jobs is made of such cells although the grid file has no block for it."""
        return False

    # --- what is run -------------------------------------------------------------------------------------

    def sub_grids(self) -> dict[str, dict[str, Any]]:
        """Return what the study adds to the grid: entries as below `studies` in a grid file, by name."""
        return {}

    def jobs(self, grid: "Grid") -> list[Job]:
        """Return the study's jobs on all data sets of a grid."""
        return []

    def chosen_jobs(self, grid: "Grid") -> list[Job]:
        """Return the study's jobs on those data sets of a grid that its settings name.

        Raises UserError for a data set that the grid does not have.
        """
        names = getattr(self.settings, "datasets", None)
        if names is None:
            return self.jobs(grid)
        for name in names:
            if name not in grid.datasets:
                raise UserError(
                    f"config: {self.name}.datasets: the grid has no data set {shown(name)}"
                    f"{nearest(name, list(grid.datasets))}; it has: {', '.join(grid.datasets)}"
                )
        chosen = {name: dataset for name, dataset in grid.datasets.items() if name in names}
        return self.jobs(grid.model_copy(update={"datasets": chosen}))

    def trained(self, grid: "Grid") -> list["Cell"]:
        """Return cells that the study's jobs train, for a check of their budgets before any job."""
        return []

    @staticmethod
    def run(job: Job, features: "Features", progress: Progress) -> "pd.DataFrame":
        """Run one job and return its rows. Each row has `dataset` and `backbone`. Only `job` has settings."""
        raise NotImplementedError  # abstract where there are jobs

    # --- what is made of the results ---------------------------------------------------------------------

    def table_names(self) -> list[str]:
        """Return the names of the study's files in results_dir/tables: <name>.<format>."""
        return []

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write the tables into a folder. `verify` calls this again and compares the bytes."""

    def table_code(self) -> Roots:
        """Return roots of the code that the tables come from."""
        return code_of(self)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return the names of the study's files in results_dir/figures; with jobs <name>_<what>.<format>.

        The report shows the SVG files. Their captions come from a JSON file (figures.write.write_figure).
        """
        return []

    def write_figures(self, results: Results, folder: Path) -> None:
        """Write the figures into a folder."""

    def figure_code(self) -> Roots:
        """Return roots of the code that the figures come from."""
        return code_of(self)

    def stages(self, grid: "Grid") -> list[Stage]:
        """Return the stages of a study with jobs; extend it for files beyond tables and figures."""
        settings = self.settings.model_dump(mode="json")
        made = {
            "tables": (self.table_names(), self.write_tables, self.table_code(), grid.config_hash),
            "figures": (self.figure_names({}), self.write_figures, self.figure_code(), None),
        }
        return [
            Stage(
                name=kind,
                files=[f"{kind}/{name}" for name in names],
                write=partial(_into, kind, write),
                code=code,
                made_from=[settings, stated],
            )
            for kind, (names, write, code, stated) in made.items()
            if names
        ]

    def sentences(self, results: Results) -> list[str]:
        """Return what the study says in the report."""
        return []

    def report_tables(self, results: Results) -> list["Table"]:
        """Return the tables that the report shows."""
        return []


def _into(kind: str, write: Callable[[Results, Path], None], results: Results, folder: Path) -> None:
    write(results, folder / kind)


def code_of(study: Study | type[Study]) -> Roots:
    """Return the root of a study's code: its own file."""
    return (Path(STUDIES.module_file(study.name)),)
