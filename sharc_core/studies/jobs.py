"""The jobs of a grid's studies, and where they write."""

from itertools import product
from pathlib import Path

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.config import Grid, listed, settings_of
from sharc_core.recall_settings import RecallJob


def recall_settings(grid: Grid) -> dict[str, dict]:
    """The complete settings of every associative memory that the grid names, in its order."""
    return {
        kind: settings_of(
            ASSOCIATIVE_MEMORIES,
            kind,
            grid.sharc.associative_settings.get(kind, {}),
            "sharc.associative_settings",
        )
        for kind in dict.fromkeys(listed(grid.sharc.associative_memory))
    }


def recall_jobs(grid: Grid) -> list[RecallJob]:
    """One job per data set, backbone and associative memory, in the grid's order."""
    kinds = recall_settings(grid).items()
    return [
        RecallJob(
            dataset=name,
            tasks=dataset.tasks,
            class_order_seed=dataset.class_order_seed,
            backbone=backbone.path_name,
            associative_memory=kind,
            associative_settings=settings,
            training=grid.training,
            study=grid.recall,
        )
        for (name, dataset), backbone, (kind, settings) in product(
            grid.datasets.items(), grid.backbones, kinds
        )
    ]


def recall_path(grid: Grid, job: RecallJob) -> Path:
    """The job's rows."""
    folder = Path(grid.results_dir) / "recall" / job.dataset / job.backbone
    return folder / f"{job.associative_memory}.csv"
