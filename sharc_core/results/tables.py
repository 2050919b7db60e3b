"""The paper's tables from runs, one per scenario, with bytes and published values beside ours.

Per scenario three files hold the same numbers: .md (with a second table of paired comparisons), .tex,
and .csv at full precision; the paired comparisons have a .csv of their own.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sharc_core.common.files import write_text
from sharc_core.common.formats import DASH, bytes_text, mean_text, natural_key, number_text
from sharc_core.grid.protocol import PAPER
from sharc_core.grid.sub_grid import MAIN
from sharc_core.provenance.lineage import csv_text, latex_text, lineage, markdown_text
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.pairs import pair_tables, tidy_pairs
from sharc_core.results.published import SETTING, SOURCE, published_for, published_lookup
from sharc_core.results.summary import (
    COSTS,
    METRICS,
    SETTINGS,
    Entry,
    block_title,
    blocks,
    buffer_item,
    model_label,
    row_key,
    runs_of,
    seeds_text,
    setting_text,
    summarise,
    unique,
    varying_settings,
)
from sharc_core.results.table_formats import Item, Table, to_latex, to_markdown

FORMULAS = (
    "a[i][j] is the accuracy on task j after training on task i of T; ACC = mean_j a[T][j]; "
    "AIA = mean_i mean_(j <= i) a[i][j]; BWT = mean_(j < T) (a[T][j] - a[j][j])"
)
OUTSIDE = "†"
AXIS_NAMES = {
    "theta": "theta",
    "mass": "mass",
    "associative_memory": "associative memory",
    "saliency": "saliency",
    "importance": "importance",
    "read": "read",
    "protocol": "protocol",
}


def write_tables(
    runs: pd.DataFrame, published: pd.DataFrame, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write {scenario}.md, .csv, .tex and {scenario}_pairs.csv for every scenario present; returns the paths.

    runs: results.runs_table. published: published.load_published or published.no_published. config: the
    grid's hash, which every table names beside where its runs come from.
    """
    written = []
    entries = summarise(runs)
    for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
        chosen = [entry for entry in entries if entry.scenario == scenario]
        main, pairs = main_tables(chosen, published), pair_tables(chosen)
        origin = lineage(runs_of(runs, MAIN, scenario), config)
        base = Path(folder) / scenario
        contents = {
            base.with_suffix(".md"): markdown_text(
                f"# {scenario_name(scenario)}\n\n" + "\n".join(map(to_markdown, main + pairs)), origin
            ),
            base.with_suffix(".csv"): csv_text(tidy(chosen, published), origin),
            base.with_suffix(".tex"): latex_text(
                "% needs booktabs; with graphicx, wide tables are fitted to the text\n"
                + "\n".join(map(to_latex, main)),
                origin,
            ),
            base.with_name(f"{scenario}_pairs.csv"): csv_text(tidy_pairs(chosen), origin),
        }
        for path, text in contents.items():
            write_text(path, text)
        written += contents
    return written


def write_study_tables(
    runs: pd.DataFrame,
    published: pd.DataFrame,
    folder: Path | str,
    studies: Sequence[str],
    config: str = UNKNOWN,
) -> list[Path]:
    """Write study_{name}.csv, a study's numbers as `tidy` has them, both scenarios; returns the paths."""
    written = []
    for name in studies:
        entries = summarise(runs, name)
        scenarios = sorted({entry.scenario for entry in entries}, key=scenario_key)
        parts = [tidy([e for e in entries if e.scenario == scenario], published) for scenario in scenarios]
        written.append(Path(folder) / f"study_{name}.csv")
        origin = lineage(runs_of(runs, name), config)
        write_text(written[-1], csv_text(pd.concat(parts, ignore_index=True), origin))
    return written


def main_tables(entries: Sequence[Entry], published: pd.DataFrame) -> list[Table]:
    """The paper's layout for one scenario: a table per backbone and budget unit.

    Rows: methods without a buffer, then per buffer every method, plain before SHARC. Columns per data
    set: ACC, AIA, BWT (mean and sample deviation), the paper's ACC and the difference to it where the paper
    has the data set, bytes. Bold: the best mean ACC of a buffer and data set, ties as shown included.
    """
    lookup = published_lookup(published)
    return [_main_table(block, lookup) for block in blocks(entries)]


def _main_table(entries: Sequence[Entry], lookup: dict) -> Table:
    varying = varying_settings(entries)
    datasets = unique((entry.dataset for entry in entries), natural_key)
    with_paper = {entry.dataset for entry in entries if published_for(entry, lookup)}
    best = {(e.buffer, e.dataset) for e in entries if e.buffer is not None}
    best = {key: _best(entries, *key) for key in best}
    rows: dict[tuple, dict[str, Entry]] = {}
    for entry in sorted(entries, key=row_key):
        rows.setdefault(entry.row, {})[entry.dataset] = entry
    body, breaks, above = [], [], None
    for index, found in enumerate(rows.values()):
        any_entry = next(iter(found.values()))
        if index and any_entry.buffer != above:
            breaks.append(index)
        above = any_entry.buffer
        items = [buffer_item(any_entry), Item(model_label(any_entry, varying))]
        for dataset in datasets:
            top = best.get((above, dataset))
            items += _dataset_items(found.get(dataset), top, dataset in with_paper, lookup)
        body.append(items)
    header, groups = ["Buffer", "Model"], [("", 2)]
    for dataset in datasets:
        names = ["ACC", "AIA", "BWT", *(["paper", "diff."] if dataset in with_paper else []), "bytes"]
        header += names
        groups.append((dataset, len(names)))
    caption = _caption(entries, varying, bool(with_paper))
    return Table(block_title(entries), caption, groups, header, body, breaks)


def _dataset_items(entry: Entry | None, best: str | None, with_paper: bool, lookup: dict) -> list[Item]:
    if entry is None:
        return [Item(DASH)] * (6 if with_paper else 4)
    items = [
        Item(mean_text(entry.acc, entry.std["acc"]), entry.acc, number_text(entry.acc) == best),
        *(Item(mean_text(entry.mean[n], entry.std[n]), entry.mean[n]) for n in ("aia", "bwt")),
    ]
    if with_paper:
        paper = published_for(entry, lookup)
        theirs = paper["acc_mean"] if paper else float("nan")
        difference = entry.acc - theirs
        items += [
            Item(number_text(theirs) + (OUTSIDE if outside(entry, theirs) else ""), theirs),
            Item(number_text(difference, signed=True), difference),
        ]
    return [*items, Item(bytes_text(entry.total_bytes), entry.total_bytes)]


def outside(entry: Entry, value: float) -> bool:
    """Whether a value lies outside the 95 % interval of our mean ACC; False where there is none."""
    low, high = entry.acc_interval
    return value < low or value > high


def tidy(entries: Sequence[Entry], published: pd.DataFrame) -> pd.DataFrame:
    """The numbers of the tables at full precision: one row per table row and data set."""
    lookup, rows = published_lookup(published), []
    for block in blocks(entries):
        varying = varying_settings(block)
        unit = next((e.budget for e in block if e.budget is not None), None)
        for entry in sorted(block, key=lambda e: (row_key(e), natural_key(e.dataset))):
            row = {
                "scenario": entry.scenario,
                "backbone": entry.backbone,
                "budget_unit": unit,
                "dataset": entry.dataset,
                "buffer": entry.buffer,
                "model": model_label(entry, varying),
                "method": entry.method,
                "variant": entry.variant,
            }
            row |= {name: getattr(entry, name) for name in SETTINGS} | {"seeds": len(entry.seeds)}
            for name in METRICS:
                row |= {f"{name}_mean": entry.mean[name], f"{name}_std": entry.std[name]}
            paper = published_for(entry, lookup) or {}
            row |= {f"paper_{k}": paper.get(k) for k in ("acc_mean", "acc_std", "bwt_mean", "bwt_std")}
            row["difference"] = entry.acc - paper["acc_mean"] if paper else None
            row |= dict(zip(("acc_low", "acc_high"), entry.acc_interval, strict=True))
            row["paper_outside_interval"] = outside(entry, paper["acc_mean"]) if paper else None
            row |= {name: entry.costs[name] for name in COSTS}
            shown = number_text(entry.acc)
            row["best"] = entry.buffer is not None and shown == _best(block, entry.buffer, entry.dataset)
            rows.append(row)
    return pd.DataFrame(rows).astype({"buffer": "Int64"})


def _best(entries: Sequence[Entry], buffer: int, dataset: str) -> str:
    """The best mean ACC of a buffer and data set, as shown."""
    here = [e.acc for e in entries if (e.buffer, e.dataset) == (buffer, dataset)]
    return number_text(max(here))


def _caption(entries: Sequence[Entry], varying: Sequence[str], with_paper: bool) -> str:
    rows = [entry for entry in entries if entry.is_sharc]
    sharc = next(iter(rows), None)
    parts = [f"Percent, mean ± sample standard deviation. {seeds_text(entries)}", FORMULAS]
    if sharc:
        fixed = ", ".join(
            setting_text(sharc, name)
            if name in ("theta", "mass", "count_associative_memory")
            else f"{AXIS_NAMES[name]} {setting_text(sharc, name)}"
            for name in SETTINGS
            if name not in varying and getattr(sharc, name) not in (None, False, PAPER)
            # what differs only between protocols is in no label, and must not be called fixed either
            if len({getattr(entry, name) for entry in rows}) == 1
        )
        parts.append(f"+ marks SHARC ({fixed})" if fixed else "+ marks SHARC")
    if any(entry.buffer is not None for entry in entries):
        parts.append("Bold: the best ACC of a buffer and data set")
    parts.append(
        "Bytes: all that the learner keeps (episodic memory, associative memory, head and model copies) "
        "besides the frozen backbone, which is shared; 1 kB = 1000 bytes"
    )
    if any(entry.method == "joint" for entry in entries):
        parts.append(
            "JOINT trains on all tasks at once: it has no AIA and no BWT, and its bytes leave the data out"
        )
    if with_paper:
        parts.append(
            f"paper: published ACC ({SOURCE}: {SETTING}); diff.: ours less the paper's; {OUTSIDE}: the "
            "published mean lies outside the 95 % Student-t interval of our mean over the seeds"
        )
    return ". ".join(parts) + "."
