"""results/report.html: one page that needs nothing else, the same bytes for the same results."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sharc_core.backbones.names import network_and_batch_norm
from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, read_json, write_text
from sharc_core.figures import FIRST_TASK, NAMES
from sharc_core.provenance.lineage import facts, lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.report.findings import equal_bytes_table, findings
from sharc_core.report.protocol_effects import protocol_findings, protocol_tables
from sharc_core.report.scorecard import scorecard
from sharc_core.results.comparisons import own_setting, setups
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.pairs import pair_tables
from sharc_core.results.published import SOURCE, published_for, published_lookup
from sharc_core.results.summary import Entry, summarise
from sharc_core.results.tables import main_tables
from sharc_core.studies.batch_norm import batch_norm_findings, batch_norm_tables

TEMPLATES = Path(__file__).parent / "templates"
SCALE = 1.7  # pixels per point of a drawing, at most: letters of 10 points as large as the page's


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
) -> None:
    """Write the report: scorecard, findings, tables, figures, batch norm, the paper's numbers, backbones,
    provenance.

    runs, cells: as for figures.write_figures, whose SVG files are read from figures_folder. provenance:
    shown at the foot as given, before where the runs come from; a date would make the page differ from run
    to run. cards: backbone cards. drawn: further SVG files of the grid, for a section of their own. A
    figure's title, alternative text and caption are read from the JSON file beside it. config: the grid's
    hash. Raises UserError for a missing figure.
    """
    entries, everything = summarise(runs), summarise(runs, None)
    lookup = published_lookup(published)
    scenarios = []
    for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
        chosen = [entry for entry in entries if entry.scenario == scenario]
        scenarios.append(
            {
                "id": scenario,
                "name": scenario_name(scenario),
                "findings": findings(chosen, published),
                "tables": main_tables(chosen, published),
                "equal_bytes": equal_bytes_table(chosen),
                "pairs": pair_tables(chosen),
                "figures": [
                    _figure(
                        Path(figures_folder) / f"{name}_{scenario}.svg", _figure_words(name, scenario, chosen)
                    )
                    for name in NAMES
                ],
            }
        )
    own = {f"{name}_{chosen['id']}.svg" for name in NAMES for chosen in scenarios}
    further = [Path(path) for path in drawn if Path(path).name not in own]
    first_task = [p for p in further if p.stem in {f"{FIRST_TASK}_{e.scenario}" for e in everything}]
    batch_norms = {network_and_batch_norm(entry.backbone)[1] for entry in everything}
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
            "sentences": protocol_findings(everything, published),
            "tables": protocol_tables(everything, published),
        },
        batch_norm={
            "sentences": batch_norm_findings(everything, published),
            "tables": batch_norm_tables(everything, published),
            "figures": [_figure(path) for path in first_task],
        },
        studies=[_figure(path) for path in further if path not in first_task],
        is_frozen=batch_norms == {"frozen"},
        setting=own_setting(setups(everything)),
        scope=_scope(entries, cells),
        has_sharc=any(entry.is_sharc for entry in entries),
        has_paper=any(published_for(entry, lookup) for entry in entries),
        paper=SOURCE,
        cards=[flatten(card) for card in cards],
        provenance=flatten(provenance) + _own_provenance(runs, cells, config),
    )
    write_text(out, page)


def flatten(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted key, text) pairs; lists of plain values in one line."""
    found = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping | list | tuple) for v in value):
            found += flatten({str(i): v for i, v in enumerate(value)}, f"{name}.")
        elif isinstance(value, list | tuple):
            found.append((name, ", ".join(_text(v) for v in value)))
        else:
            found.append((name, _text(value)))
    return found


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else str(value)


def _figure(path: Path, words: tuple[str, str, str] | None = None) -> dict[str, object]:
    """A figure to be set into the page.

    words: (title, alternative, caption), for a figure without a file beside it that has them.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: draw the figures before the report") from None
    except UnicodeDecodeError:
        text = ""
    beside = path.with_suffix(".json")
    if beside.exists():
        found = read_json(beside)
        if missing := [key for key in ("title", "alt", "caption") if key not in found]:
            raise UserError(f"{beside} has no {missing[0]!r}: delete it and draw the figures again")
        words = found["title"], found["alt"], found["caption"]
    title, alternative, caption = words or (path.stem.replace("_", " "),) * 3
    if "<svg" not in text:
        raise UserError(f"{path} is no drawing: delete it and run again")
    # the XML head must not stand inside HTML; what is left is our own file, not user input
    svg = text[text.index("<svg") :]
    width = re.match(r'<svg[^>]*?\swidth="([\d.]+)pt"', svg)
    if width is None:
        raise UserError(f"{path} does not say how wide it is: delete it and draw the figures again")
    # a label and not the file's own metadata: screen readers skip the drawing's parts
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    # each drawing names its glyphs and clips for itself; in one page the names would meet
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{path.stem}-", svg)
    return {
        "svg": Markup(svg),
        "width": round(SCALE * float(width[1])),
        "title": title,
        "alternative": alternative,
        "caption": caption,
    }


def _figure_words(name: str, scenario: str, entries: Sequence[Entry]) -> tuple[str, str, str]:
    """Title, alternative text that says what is drawn and what it shows, and caption."""
    where = ", ".join(dict.fromkeys(entry.dataset for entry in entries)) + f", {scenario_name(scenario)}"
    ranked = sorted((e for e in entries if e.method != "joint"), key=lambda e: e.acc)
    span = (
        f"ACC from {ranked[0].acc:.1f} to {ranked[-1].acc:.1f} percent without JOINT"
        if ranked
        else "JOINT only"
    )
    if name == "bytes":
        words = f"ACC against total bytes for {where}; {span}"
        caption = (
            "ACC against the bytes that the learner keeps (logarithmic). Open markers: plain; filled: SHARC; "
            "bars: standard deviation over seeds. The grey steps are the best ACC at no more bytes."
        )
        alternative = f"Scatter plot: {words}. The numbers are in the table."
        return "Accuracy against bytes", alternative, caption
    words = f"accuracy on the tasks seen so far, task by task, for {where}; {span}"
    caption = (
        "Accuracy over the tasks seen so far, mean_(j ≤ i) a[i][j]. Dashed: plain; solid: SHARC; band: "
        "standard deviation over seeds. JOINT is trained once, on all tasks, and is a point."
    )
    return "Learning curves", f"Line plots: {words}. The final values are in the table.", caption


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


def _own_provenance(runs: pd.DataFrame, cells: list[dict], config: str) -> list[tuple[str, str]]:
    hashes = sorted({str(document["config_hash"]) for document in cells})
    found = [
        ("cells", str(len(cells))),
        ("rows of runs.csv", str(len(runs))),
        ("hash of all cells' configurations", digest(hashes, 12)),
    ]
    if len(hashes) <= 4:
        found.append(("config hashes", ", ".join(hashes)))
    return found + flatten(facts(lineage(runs, config)))
