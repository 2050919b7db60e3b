"""Write every table of a grid: the paper's layout, the scorecard, sub-grids and studies made from cells."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from sharc_core.common.files import write_text
from sharc_core.common.formats import escape_markdown
from sharc_core.grid.tuned import tuned_note
from sharc_core.provenance.lineage import csv_text, lineage, markdown_text
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.report.scorecard import scorecard
from sharc_core.results.comparisons import equal_bytes, published_key, setups, verdict
from sharc_core.results.published import (
    PublishedPair,
    published_lookup,
    published_pairs,
    with_published_streams,
)
from sharc_core.results.summary import SETTINGS, Entry, runs_of, summarise
from sharc_core.results.table_formats import to_markdown
from sharc_core.results.tables import write_study_tables, write_tables
from sharc_core.studies.base import Results
from sharc_core.studies.registered import backbones_of_runs, cell_studies


def write_all_tables(
    runs: pd.DataFrame,
    published: pd.DataFrame,
    folder: Path | str,
    sub_grids: Sequence[str],
    config: str,
    values: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a grid's tables, its scorecard, and the tables of its sub-grids and studies; return the paths.

    runs: results.runs_table. published: published.load_published. config: Grid.config_hash. values: the
    grid's keys and values, which may have settings of registered studies.
    """
    published = with_published_streams(published, values)
    paths = [
        *write_tables(runs, published, folder, config, tuned_note(values or {})),
        *write_scorecard(runs, published, folder, config),
        *write_study_tables(runs, published, folder, sub_grids, config),
    ]
    results = Results(config, runs=runs, published=published)
    for study in cell_studies(values or {}, backbones_of_runs(runs)):
        study.write_tables(results, Path(folder))
        paths += [Path(folder) / name for name in study.table_names()]
    return paths


def write_scorecard(
    runs: pd.DataFrame, published: pd.DataFrame, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write scorecard.md, and scorecard.csv with a row per pair at full precision; return the paths.

    runs: results.runs_table. published: as for scorecard(). config: the grid's hash.
    """
    entries, origin = summarise(runs), lineage(runs_of(runs), config)
    card = scorecard(entries, published)
    lines = [f"- {escape_markdown(f'{text} {detail}'.strip())}" for text, detail in card.findings]
    tables = "\n".join(to_markdown(table) for table in [card.counts, *card.tables, *card.pairs])
    paths = [Path(folder) / "scorecard.md", Path(folder) / "scorecard.csv"]
    write_text(paths[0], markdown_text("\n".join(["# Scorecard", "", *lines, "", tables]), origin))
    write_text(paths[1], csv_text(tidy_scorecard(entries, published), origin))
    return paths


def tidy_scorecard(entries: Sequence[Entry], published: pd.DataFrame) -> pd.DataFrame:
    """Return a row for every pair of every setup, then one for every pair that only the paper has."""
    paper, rows = published_pairs(published_lookup(published)), []
    columns = ["setup", "scenario", "dataset", "buffer", "method", "backbone", "budget", *SETTINGS, "seeds"]
    columns += ["plain_acc", "sharc_acc", "difference", "low", "high", "effect"]
    columns += ["p_t", "p_holm", "p_wilcoxon"]
    columns += ["verdict", "plain_bytes", "sharc_bytes", "plain_acc_at_no_more_bytes"]
    columns += [f"paper_{name}" for name in PublishedPair._fields]
    missing = dict(paper)
    for setup in setups(entries):
        best_plain = {id(case.sharc): case.any_method for case in equal_bytes(setup.entries)}
        for pair, p_holm in zip(setup.pairs, setup.p_holm, strict=True):
            key, best = published_key(pair.sharc), best_plain[id(pair.sharc)]
            row = {name: getattr(pair.sharc, name) for name in columns[1 : columns.index("seeds")]}
            row |= asdict(pair.test) | {"setup": setup.label, "seeds": pair.test.n, "p_holm": p_holm}
            row |= {"plain_acc": pair.plain.acc, "sharc_acc": pair.sharc.acc}
            row |= {"plain_bytes": pair.plain.total_bytes, "sharc_bytes": pair.sharc.total_bytes}
            row["verdict"] = verdict(pair.test.low, pair.test.high)
            row["plain_acc_at_no_more_bytes"] = best.acc if best else None
            rows.append(row | _paper_columns(paper.get(key)))
            missing.pop(key, None)
    for (scenario, dataset, buffer, method), pair in missing.items():
        row = {"scenario": scenario, "dataset": dataset, "buffer": buffer, "method": method}
        rows.append(row | _paper_columns(pair))
    return pd.DataFrame(rows, columns=columns).astype({"buffer": "Int64", "seeds": "Int64"})


def _paper_columns(pair: PublishedPair | None) -> dict[str, float]:
    return {f"paper_{name}": value for name, value in pair._asdict().items()} if pair else {}
