"""The study `saliency_curves`: what a head loses without the channels that a saliency calls important."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.saliency import SALIENCIES
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.parts import cells_of
from sharc_core.studies.saliency_curves.settings import COLUMNS, CurveJob, CurveSettings

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("saliency_curves")
class SaliencyCurves(Study):
    """Deletion and insertion curves of every saliency, on heads that are trained as JOINT trains them."""

    title = "Does saliency point at what matters?"
    explanation = (
        "Channels of test maps are set to zero (deleted), or all but some are (inserted), in the order of "
        "saliency, in the inverse order and at random. A saliency points at what matters if deletion in its "
        "order lowers the accuracy faster than at random. Saliencies that use a class get the true one, as "
        "in SHARC. What that adds is measured with half of the channels, chosen for the true class and for "
        "the class that the head predicts from all channels."
    )
    columns = COLUMNS
    no_jobs = "no channels to remove: every backbone of the grid drifts; use batch_norm frozen or adapted"

    class Settings(CurveSettings):
        """What is removed, under `saliency_curves`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set, backbone and head, in the grid's order.

        All saliencies share a job, since the start of a process takes longer than one of them.
        """
        settings = self.settings
        cells = [
            cell for kind in settings.heads for cell in cells_of(grid, self.name, self._changes(grid, kind))
        ]
        order = {name: number for number, name in enumerate(grid.datasets)}
        return [
            Job(
                cell.dataset,
                cell.backbone,
                cell.head.kind,
                CurveJob(
                    cell=cell.model_dump(mode="json"),
                    saliencies=settings.names,
                    shares=settings.shares,
                    random_orders=settings.random_orders,
                ).model_dump(mode="json"),
                (
                    "studies.saliency_curves.measure",
                    *(Path(SALIENCIES.module_file(n)) for n in settings.names),
                ),
            )
            for cell in sorted(cells, key=lambda cell: order[cell.dataset])
        ]

    def _changes(self, grid: Grid, kind: str) -> dict:
        """Return what turns a grid into JOINT's cells with a kind of head."""
        return {
            "methods": ["joint"],
            "protocol": ["paper"],
            "head": {"kind": kind, "hidden": grid.head.hidden},
            "seeds": self.settings.seeds,
        }

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Train the heads and measure every saliency at all shares and seeds."""
        from sharc_core.studies.saliency_curves.measure import run_curves

        return run_curves(features, CurveJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("saliency_curves")

    def table_code(self) -> Roots:
        """Return the module of the tables."""
        return ("studies.saliency_curves.table",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write the areas between the curves and the sentences."""
        from sharc_core.studies.saliency_curves.table import write_curve_tables

        write_curve_tables(results.rows, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of all curves."""
        return [f"saliency_curves_accuracy.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the module of the figure."""
        return ("studies.saliency_curves.figure",)

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw the curves."""
        from sharc_core.studies.saliency_curves.figure import write_curve_figure

        write_curve_figure(results.rows, folder)

    def sentences(self, results: Results) -> list[str]:
        """Return per head what beats a random order, and which saliencies ignore the image."""
        from sharc_core.studies.saliency_curves.table import curve_findings

        return curve_findings(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return one table per data set and backbone."""
        from sharc_core.studies.saliency_curves.table import curve_tables

        return curve_tables(results.rows)
