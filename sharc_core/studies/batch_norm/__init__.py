"""The batch norm study: rows of the grid that were run on one network with several kinds of batch norm.

It has no jobs. It takes part in every grid that has a network with frozen and with another batch norm.
"""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from sharc_core.backbones.names import has_batch_norms
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.studies.base import STUDIES, Backbones, Results, Roots, Study

if TYPE_CHECKING:
    from sharc_core.results.table_formats import Table

FIGURE = "first_task"


@STUDIES.register("batch_norm")
class BatchNorm(Study):
    """Frozen, drifting and adapted batch norm compared with each other and with the published numbers."""

    title = "Batch norm: frozen or drifting"
    explanation = (
        "The backbone's weights never change. Its batch norm is <em>frozen</em> (evaluation mode), "
        "<em>drifting</em> (train mode while the head trains, as in the published code of SHARC) or "
        "<em>adapted</em> (statistics of the first task's training images, then frozen). Rows are compared "
        "on one network, with the same seeds and settings."
    )

    @classmethod
    def applies(cls, backbones: Backbones) -> bool:
        """Whether a network has frozen and another batch norm, in whichever scenario."""
        return has_batch_norms(chain.from_iterable(backbones.values()))

    def table_names(self) -> list[str]:
        """Return one table in two formats."""
        return ["batch_norm.md", "batch_norm.csv"]

    def table_code(self) -> Roots:
        """Return the module of the comparison."""
        return ("studies.batch_norm.comparison",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write the comparison and the sentences."""
        from sharc_core.studies.batch_norm.comparison import write_batch_norm

        write_batch_norm(results.runs, results.published, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return the accuracy on the first task, for every scenario in which batch norms can be compared."""
        scenarios = sorted(name for name, names in backbones.items() if has_batch_norms(names))
        return [f"{FIGURE}_{scenario}.{kind}" for scenario in scenarios for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure."""
        return "figures.first_task", "figures.write", "results.summary"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw the figure, with its words and origin in a JSON file next to it."""
        from sharc_core.figures.first_task import first_task_figure, first_task_of, first_task_words
        from sharc_core.figures.write import write_figure
        from sharc_core.provenance.lineage import lineage
        from sharc_core.results.display_names import scenario_key
        from sharc_core.results.summary import runs_of, summarise

        curves, entries = first_task_of([*map(dict, results.documents)]), summarise(results.runs, None)
        for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
            shown = [entry for entry in entries if entry.scenario == scenario]
            if has_batch_norms(entry.backbone for entry in shown):
                about: dict[str, object] = {"kind": FIGURE, "study": None, "scenario": scenario}
                about |= first_task_words(shown, curves)
                about["origin"] = lineage(runs_of(results.runs, None, scenario), results.config)
                base = folder / f"{FIGURE}_{scenario}"
                write_figure(partial(first_task_figure, shown, curves), base, about)

    def sentences(self, results: Results) -> list[str]:
        """Return one sentence per published number and one per claim of the paper."""
        from sharc_core.results.summary import summarise
        from sharc_core.studies.batch_norm.comparison import batch_norm_findings

        return batch_norm_findings(summarise(results.runs, None), results.published)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return one table per scenario and network."""
        from sharc_core.results.summary import summarise
        from sharc_core.studies.batch_norm.comparison import batch_norm_tables

        return batch_norm_tables(summarise(results.runs, None), results.published)
