"""One self-contained page: the question, the tables, the figures, what held up."""

from pathlib import Path

from common import job

with job(snakemake, "report"):
    from sharc_core.common.files import read_json
    from sharc_core.learning.documents import read_all
    from sharc_core.report.page import write_report
    from sharc_core.results.published import load_published
    from sharc_core.results.runs import read_runs

    write_report(
        read_runs(snakemake.input.runs),
        read_all(snakemake.input.cells, snakemake.params.wanted),
        load_published(snakemake.input.published),
        Path(snakemake.input.figures[0]).parent,
        Path(snakemake.output[0]),
        title="SHARC-Bench",
        provenance={"checksums": "provenance.json beside this page; python -m sharc_core verify checks them"},
        drawn=[path for path in snakemake.input.figures if path.endswith(".svg")],
        cards=[read_json(path) for path in snakemake.input.cards],
        config=snakemake.params.grid,
    )
