"""results/report.html: one self-contained page, with the same bytes for the same results."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sharc_core.backbones.names import network_and_batch_norm
from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, read_json, write_text
from sharc_core.common.formats import DASH
from sharc_core.grid.sub_grid import MAIN_FIGURES
from sharc_core.grid.tuned import tuned_note
from sharc_core.provenance.lineage import facts, lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.report.findings import scenario_findings
from sharc_core.report.protocol_effects import protocol_findings, protocol_tables
from sharc_core.report.scorecard import scorecard
from sharc_core.results.comparisons import setting_here, setups
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.published import SOURCE, published_for, published_lookup, with_published_streams
from sharc_core.results.summary import Entry, summarise
from sharc_core.results.tables import equal_bytes_table, main_tables, pair_tables
from sharc_core.studies.base import Results, Study
from sharc_core.studies.registered import backbones_of_runs, cell_studies

TEMPLATES = Path(__file__).parent / "templates"
SCALE = 1.7  # largest scale of a drawing, in pixels per point: text of 10 points is as large as the page's


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
    """Write the report: scorecard, scenarios, protocols, studies, sub-grids, backbones and provenance.

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
    scenarios = []
    for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
        chosen = [entry for entry in entries if entry.scenario == scenario]
        scenarios.append(
            {
                "id": scenario,
                "name": scenario_name(scenario),
                "findings": scenario_findings(chosen, published),
                "tables": main_tables(chosen, published, tuned_note(values or {})),
                "equal_bytes": equal_bytes_table(chosen),
                "pairs": pair_tables(chosen),
                "figures": {
                    name: _figure(Path(figures_folder) / f"{name}_{scenario}.svg") for name in MAIN_FIGURES
                },
            }
        )
    own = {f"{name}_{scenario['id']}.svg" for name in MAIN_FIGURES for scenario in scenarios}
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
        sub_grids=[_figure(path) for path in further if path.name not in of_studies],
        is_frozen=batch_norms == {"frozen"},
        setting=setting_here(setups(all_entries)),
        scope=_scope(entries, cells),
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
        "figures": [_figure(path) for path in figures],
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


def _figure(path: Path) -> dict[str, object]:
    """Return a drawing as it is embedded in the page, with the captions in its JSON file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: draw the figures before the report") from None
    except UnicodeDecodeError:
        text = ""
    if "<svg" not in text:
        raise UserError(f"{path} is not a drawing: delete it and run again")
    words_path = path.with_suffix(".json")
    words = read_json(words_path)
    if missing := [key for key in ("title", "alt", "caption") if key not in words]:
        raise UserError(f"{words_path} has no {missing[0]!r}: delete it and draw the figures again")
    # without the XML declaration, which HTML does not allow; the rest is our own file, not user input
    svg = text[text.index("<svg") :]
    width = re.match(r'<svg[^>]*?\swidth="([\d.]+)pt"', svg)
    if width is None:
        raise UserError(f"{path} has no width: delete it and draw the figures again")
    # screen readers read the label below, and not the metadata of the file
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    # ids are unique within a drawing only
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{path.stem}-", svg)
    return {
        "svg": Markup(svg),
        "width": round(SCALE * float(width[1])),
        "title": words["title"],
        "alternative": words["alt"],
        "caption": words["caption"],
    }


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
