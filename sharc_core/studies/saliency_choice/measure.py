"""One job of the study `saliency_choice`: cells trained by the learner, as rows of runs.csv."""

from collections.abc import Callable

from sharc_core.common.deferred import pandas as pd
from sharc_core.features.cache import Features
from sharc_core.features.images import image_shape_of
from sharc_core.grid.sub_grid import MAIN
from sharc_core.learning.cell_memory import budget_of
from sharc_core.learning.learner import run_cell
from sharc_core.results.runs import runs_table
from sharc_core.streams.stream import streamed
from sharc_core.studies.saliency_choice.settings import COLUMNS, ChoiceJob


def run_choice(
    features: Features, job: ChoiceJob, progress: Callable[[str], None] | None = None
) -> pd.DataFrame:
    """Train the job's cells and return a row per cell, scenario and seed (COLUMNS).

    Raises UserError before the first training if a budget of the job holds no sample, and when a training
    diverges.
    """
    cells, documents = job.opened, []
    # an error of the last cell would lose the rows of all others
    classes = streamed(features, cells[0].stream, cells[0].seeds[0])[1].classes
    channels, height, width = features.train_maps.shape[1:]
    for cell in cells:
        budget_of(cell, (channels, height, width), classes, image_shape_of(features.manifest))
    for number, cell in enumerate(cells, start=1):
        documents.append(run_cell(features, cell))
        if progress:
            progress(f"cell {number}/{len(cells)}: {cell.id}")
    reported: list[dict[str, list[str]]] = [{name: [MAIN] for name in cell.scenarios} for cell in cells]
    rows = runs_table(documents, reported)
    return rows.assign(head=cells[0].head.kind)[list(COLUMNS)]
