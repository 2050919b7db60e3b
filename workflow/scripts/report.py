"""One self-contained page: the question, the tables, the figures, what held up."""

from pathlib import Path

from common import job

with job(snakemake, "report"):
    from sharc_core.common.files import read_json
    from sharc_core.grid.loading import load_grid
    from sharc_core.learning.documents import read_all
    from sharc_core.report.page import write_report
    from sharc_core.results.published import load_published
    from sharc_core.results.runs import read_runs
    from sharc_core.studies import Results
    from sharc_core.studies.registered import study_of
    from sharc_core.studies.rows import read_rows

    grid, inputs, params = load_grid(snakemake.config), snakemake.input, snakemake.params
    measured = []
    for name, keys in params.studies.items():
        study = study_of(grid, name)
        measured.append((study, Results(params.grid, rows=read_rows(study, list(keys), list(keys.values())))))
    write_report(
        read_runs(inputs.runs),
        read_all(inputs.cells, params.wanted),
        load_published(inputs.published),
        Path(inputs.figures[0]).parent,
        Path(snakemake.output[0]),
        title="SHARC-Bench",
        provenance={"checksums": "provenance.json beside this page; python -m sharc_core verify checks them"},
        drawn=[path for path in (*inputs.figures, *inputs.studies) if path.endswith(".svg")],
        cards=[read_json(path) for path in inputs.cards],
        config=params.grid,
        values=grid.model_dump(mode="json"),
        measured=measured,
    )
