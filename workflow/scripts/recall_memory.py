"""Measure one associative memory on one data set's features, all points and seeds."""

from pathlib import Path

from common import job

with job(snakemake, f"recall {snakemake.params.job['dataset']} {Path(snakemake.output[0]).stem}"):
    from sharc_core.features.cache import open_features
    from sharc_core.grid.recall_settings import RecallJob
    from sharc_core.provenance.origin import run_origin, versions
    from sharc_core.studies.recall import run_recall
    from sharc_core.studies.recall_table import write_rows

    features = open_features(Path(snakemake.input[0]).parent)
    made_by = {"origin": run_origin(features.manifest), "versions": versions()}
    measured = run_recall(features, RecallJob.model_validate(snakemake.params.job), progress=print)
    write_rows(measured, snakemake.output[0], made_by, snakemake.params.key)
