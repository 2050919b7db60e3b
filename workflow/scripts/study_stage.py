"""Make a study's tables, its figures, or whatever else one of its stages makes."""

from pathlib import Path

from common import job

with job(snakemake, f"{snakemake.params.study} {snakemake.params.stage}"):
    import os

    from sharc_core.grid.loading import load_grid
    from sharc_core.studies import Results
    from sharc_core.studies.registered import study_of
    from sharc_core.studies.rows import read_rows

    os.environ["OMP_NUM_THREADS"] = str(snakemake.threads)  # for torch, which few stages import
    grid, wanted = load_grid(snakemake.config), snakemake.params
    study = study_of(grid, wanted.study)
    (stage,) = (stage for stage in study.stages(grid) if stage.name == wanted.stage)
    rows = read_rows(study, snakemake.input, wanted.wanted) if stage.reads_rows else None
    stage.write(Results(grid.config_hash, rows=rows), Path(grid.results_dir))
