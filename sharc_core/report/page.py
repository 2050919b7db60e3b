"""results/report.html: one self-contained page, with the same bytes for the same results."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sharc_core.backbones.names import network_and_batch_norm
from sharc_core.common.files import digest, write_text
from sharc_core.common.formats import DASH, natural_key
from sharc_core.grid.sub_grid import MAIN_FIGURES
from sharc_core.grid.tuned import tuned_note
from sharc_core.provenance.lineage import facts, lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.report.budget_tables import areas_table, limits_table, rank_tables
from sharc_core.report.charts import charts
from sharc_core.report.figure_html import embedded
from sharc_core.report.findings import scenario_findings
from sharc_core.report.protocol_effects import protocol_findings, protocol_tables
from sharc_core.report.scorecard import scorecard
from sharc_core.report.vega_files import vega_script
from sharc_core.report.verdicts import INTERVALS, verdicts
from sharc_core.results.comparisons import setting_here, setups
from sharc_core.results.display_names import method_key, method_name, scenario_key, scenario_name
from sharc_core.results.main_figures import further_figures
from sharc_core.results.published import SOURCE, published_for, published_lookup, with_published_streams
from sharc_core.results.summary import Entry, summarise, unique
from sharc_core.results.tables import equal_bytes_table, main_tables, pair_tables
from sharc_core.studies.base import Results, Study
from sharc_core.studies.registered import backbones_of_runs, cell_studies

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    runs: pd.DataFrame,
    cells: list[dict],
    published: pd.DataFrame,
    figures_folder: Path | str,
    out: Path | str,
    title: str,
    provenance: Mapping[str, object],
    cards: Sequence[Mapping[str, object]] = (),
    drawn: Sequence[Path | str] = (),
    config: str = UNKNOWN,
    values: Mapping[str, object] | None = None,
    measured: Sequence[tuple[Study, Results]] = (),
) -> None:
    """Write the report: a section per scenario, then scorecard, protocols, studies, sub-grids and provenance.

    A scenario opens with its verdict, two figures and the main table; everything else is folded.

    runs, cells: as for figures.write_figures, which wrote the figures in figures_folder. provenance: shown
    at the foot, before the origin of the runs; a date would make the page differ from run to run. cards:
    backbone cards. drawn: further SVG files of the grid, which get a section of their own. A figure's
    title, alternative text and caption come from the JSON file of the same name. config: the grid's hash.
    values: the grid's keys and values, which may have settings of registered studies. measured: studies with
    jobs, and their results. Raises UserError for a missing figure.
    """
    entries, all_entries = summarise(runs), summarise(runs, None)
    published = with_published_streams(published, values)
    lookup = published_lookup(published)
    scenarios, own = [], set()
    for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
        chosen = [entry for entry in entries if entry.scenario == scenario]
        names = (*MAIN_FIGURES, *further_figures(chosen))
        own |= {f"{name}_{scenario}.svg" for name in names}
        scenarios.append(
            {
                "id": scenario,
                "name": scenario_name(scenario),
                "findings": scenario_findings(chosen, published),
                "tables": main_tables(chosen, published, tuned_note(values or {})),
                "equal_bytes": equal_bytes_table(chosen),
                "pairs": pair_tables(chosen),
                "verdicts": verdicts(chosen),
                "limits": limits_table(chosen),
                "areas": areas_table(chosen),
                "ranks": rank_tables(chosen),
                "figures": {
                    name: embedded(Path(figures_folder) / f"{name}_{scenario}.svg", charts(name, chosen))
                    for name in names
                },
            }
        )
    further = [Path(path) for path in drawn if Path(path).name not in own]
    backbones = backbones_of_runs(runs)
    results = Results(config, runs=runs, published=published, documents=cells)
    studies = [(study, results) for study in cell_studies(values or {}, backbones)] + list(measured)
    of_studies = {name for study, _ in studies for name in study.figure_names(backbones)}
    batch_norms = {network_and_batch_norm(entry.backbone)[1] for entry in all_entries}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        scorecard=scorecard(entries, published),
        scenarios=scenarios,
        protocols={
            "sentences": protocol_findings(all_entries, published),
            "tables": protocol_tables(all_entries, published),
        },
        studies=[
            _section(study, results, [p for p in further if p.name in study.figure_names(backbones)])
            for study, results in studies
        ],
        sub_grids=[embedded(path) for path in further if path.name not in of_studies],
        is_frozen=batch_norms == {"frozen"},
        setting=setting_here(setups(all_entries)),
        scope=_scope(entries, cells),
        intervals=INTERVALS,
        filters=_filters(entries),
        vega=Markup(vega_script()),
        has_sharc=any(entry.is_sharc for entry in entries),
        has_paper=any(published_for(entry, lookup) for entry in entries),
        paper=SOURCE,
        cards=[flatten(card) for card in cards],
        provenance=flatten(provenance) + _origin(runs, cells, config),
    )
    write_text(out, page)


def _section(study: Study, results: Results, figures: Sequence[Path]) -> dict[str, object]:
    return {
        "id": study.name.replace("_", "-"),
        "title": study.title,
        "explanation": Markup(study.explanation),
        "sentences": study.sentences(results),
        "tables": study.report_tables(results),
        "figures": [embedded(path) for path in figures],
    }


def flatten(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted key, text) pairs; a list of plain values is one pair."""
    pairs = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping | list | tuple) for v in value):
            pairs += flatten({str(i): v for i, v in enumerate(value)}, f"{name}.")
        elif isinstance(value, list | tuple):
            pairs.append((name, ", ".join(_text(v) for v in value)))
        else:
            pairs.append((name, _text(value)))
    return pairs


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return DASH if value is None else str(value)


def _filters(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Return the page's filters with their values; a filter with a single value is omitted."""
    buffers = unique(((e.buffer, e.buffer_text) for e in entries if e.buffer is not None), lambda b: b)
    methods = unique((e.method for e in entries if not e.is_joint), method_key)
    values: list[tuple[str, str, list[str]]] = [
        ("dataset", "Data set", unique((e.dataset for e in entries), natural_key)),
        ("buffer", "Buffer", list(dict.fromkeys(text for _, text in buffers))),
        ("method", "Method", [method_name(method) for method in methods]),
    ]
    return [{"name": name, "title": title, "values": of} for name, title, of in values if len(of) > 1]


def _scope(entries: Sequence[Entry], cells: list[dict]) -> dict[str, object]:
    def names(attribute: str) -> list[str]:
        return list(dict.fromkeys(str(v) for e in entries if (v := getattr(e, attribute)) is not None))

    seeds = sorted({seed for entry in entries for seed in entry.seeds})
    return {
        "datasets": names("dataset"),
        "backbones": names("backbone"),
        "units": names("budget_unit"),
        "seeds": len(seeds),
        "cells": len(cells),
    }


def _origin(runs: pd.DataFrame, cells: list[dict], config: str) -> list[tuple[str, str]]:
    hashes = sorted({str(document["config_hash"]) for document in cells})
    pairs = [
        ("cells", str(len(cells))),
        ("rows of runs.csv", str(len(runs))),
        ("hash of all cells' configurations", digest(hashes, 12)),
    ]
    if len(hashes) <= 4:
        pairs.append(("config hashes", ", ".join(hashes)))
    return pairs + flatten(facts(lineage(runs, config)))
