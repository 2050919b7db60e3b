"""The jobs of a grid's studies, and where they write."""

from itertools import product
from pathlib import Path

from sharc_core.backbones import BackboneConfig
from sharc_core.common.files import digest
from sharc_core.grid.models import Grid, listed
from sharc_core.grid.plug_in_settings import memory_of
from sharc_core.grid.recall_settings import RecallJob
from sharc_core.learning.documents import features_name
from sharc_core.provenance.code_hashes import recall_hash
from sharc_core.stages.layout import Layout


def recall_settings(grid: Grid) -> dict[str, dict]:
    """Kind and complete settings (one dict) of every associative memory that the grid names, in its order."""
    found = {}
    for name in listed(grid.sharc.associative_memory):
        kind, settings = memory_of(grid.sharc, name)
        found[name] = {"kind": kind, **settings}
    return found


def recall_backbones(grid: Grid) -> list[BackboneConfig]:
    """The backbones whose maps are recalled: a drifting one has others for every seed."""
    return [backbone for backbone in grid.backbones if backbone.batch_norm != "drifting"]


def recall_jobs(grid: Grid) -> list[RecallJob]:
    """One job per data set, backbone and associative memory, in the grid's order."""
    return [
        RecallJob(
            dataset=name,
            tasks=dataset.tasks,
            class_order_seed=dataset.class_order_seed,
            backbone=backbone.path_name,
            associative_memory=called,
            associative_kind=values["kind"],
            associative_settings={key: value for key, value in values.items() if key != "kind"},
            training=grid.training,
            study=grid.recall,
        )
        for (name, dataset), backbone, (called, values) in product(
            grid.datasets.items(), recall_backbones(grid), recall_settings(grid).items()
        )
    ]


def recall_path(grid: Grid, job: RecallJob) -> Path:
    """The job's rows."""
    folder = Path(grid.results_dir) / "recall" / job.dataset / job.backbone
    return folder / f"{job.associative_memory}.csv"


def recall_key(job: RecallJob, layout: Layout) -> str:
    """Of all that a job's numbers are a function of: settings, code and features; its rows name it."""
    features = features_name(layout.features(job.dataset, job.backbone))
    return digest([job.model_dump(mode="json"), recall_hash(job.memory_kind), features], 16)
