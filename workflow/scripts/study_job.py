"""Run one job of a study on the features of one data set and backbone, and write its rows."""

from pathlib import Path

from common import job

with job(
    snakemake, f"{snakemake.params.study} {snakemake.params.job['dataset']} {Path(snakemake.output[0]).stem}"
):
    from sharc_core.features.cache import open_features
    from sharc_core.provenance.origin import run_origin, versions
    from sharc_core.studies import STUDIES, Job
    from sharc_core.studies.rows import write_rows

    features = open_features(Path(snakemake.input.features).parent)
    made_by = {"origin": run_origin(features.manifest), "versions": versions()}
    rows = STUDIES.get(snakemake.params.study).run(Job(**snakemake.params.job), features, print)
    write_rows(rows, snakemake.output[0], made_by, snakemake.params.key)
