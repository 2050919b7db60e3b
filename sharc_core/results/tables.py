"""The tables of a grid: the paper's layout per scenario, SHARC against plain, and SHARC at equal bytes.

A scenario's .md, .tex and .csv hold the same numbers, the .csv at full precision. The .md also has the table
of SHARC against plain, whose numbers are in {scenario}_pairs.csv.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.files import write_text
from sharc_core.common.formats import DASH, bytes_text, mean_text, natural_key, number_text
from sharc_core.grid.protocol import PAPER
from sharc_core.grid.sub_grid import MAIN
from sharc_core.provenance.lineage import csv_text, latex_text, lineage, markdown_text
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import equal_bytes, paired, setups
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.published import SETTING, SOURCE, published_for, published_lookup
from sharc_core.results.runs import WEIGHTED
from sharc_core.results.summary import (
    COSTS,
    METRICS,
    SETTINGS,
    Entry,
    block_title,
    blocks,
    buffer_item,
    model_label,
    place_name,
    row_key,
    row_name,
    runs_of,
    seeds_text,
    setting_text,
    summarise,
    unique,
    varying_settings,
)
from sharc_core.results.table_formats import Item, Table, interval_text, p_text, to_latex, to_markdown

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
    runs: pd.DataFrame, published: pd.DataFrame, folder: Path | str, config: str = UNKNOWN, note: str = ""
) -> list[Path]:
    """Write {scenario}.md, .csv, .tex and {scenario}_pairs.csv for every scenario; return the paths.

    runs: results.runs_table. published: published.load_published, or no_published. config: the grid's hash,
    which is part of every table's provenance. note: as for main_tables.
    """
    paths: list[Path] = []
    entries = summarise(runs)
    for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
        chosen = [entry for entry in entries if entry.scenario == scenario]
        main, pairs = main_tables(chosen, published, note), pair_tables(chosen)
        origin = lineage(runs_of(runs, MAIN, scenario), config)
        base = Path(folder) / scenario
        contents = {
            base.with_suffix(".md"): markdown_text(
                f"# {scenario_name(scenario)}\n\n" + "\n".join(map(to_markdown, main + pairs)), origin
            ),
            base.with_suffix(".csv"): csv_text(tidy(chosen, published), origin),
            base.with_suffix(".tex"): latex_text(
                "% needs booktabs; if graphicx is loaded, wide tables are scaled to the text width\n"
                + "\n".join(map(to_latex, main)),
                origin,
            ),
            base.with_name(f"{scenario}_pairs.csv"): csv_text(tidy_pairs(chosen), origin),
        }
        for path, text in contents.items():
            write_text(path, text)
        paths += contents
    return paths


def write_study_tables(
    runs: pd.DataFrame,
    published: pd.DataFrame,
    folder: Path | str,
    studies: Sequence[str],
    config: str = UNKNOWN,
) -> list[Path]:
    """Write study_{name}.csv, the columns of `tidy` for all scenarios of a study; return the paths."""
    paths = []
    for name in studies:
        entries = summarise(runs, name)
        scenarios = sorted({entry.scenario for entry in entries}, key=scenario_key)
        parts = [tidy([e for e in entries if e.scenario == scenario], published) for scenario in scenarios]
        paths.append(Path(folder) / f"study_{name}.csv")
        origin = lineage(runs_of(runs, name), config)
        write_text(paths[-1], csv_text(pd.concat(parts, ignore_index=True), origin))
    return paths


# --- the paper's layout --------------------------------------------------------------------------------


def main_tables(entries: Sequence[Entry], published: pd.DataFrame, note: str = "") -> list[Table]:
    """Return the paper's layout for one scenario: a table per backbone and budget.

    Rows: methods without a buffer, then per buffer every method, plain before SHARC. Columns per data
    set: ACC, AIA, BWT (mean and sample deviation), the paper's ACC and the difference from it where the paper
    has the data set, bytes. Bold: the best mean ACC of a buffer and data set; several rows if they show the
    same number. note: a sentence for the captions, without full stop.
    """
    lookup = published_lookup(published)
    return [_main_table(block, lookup, note) for block in blocks(entries)]


def _main_table(entries: Sequence[Entry], lookup: dict, note: str) -> Table:
    varying = varying_settings(entries)
    datasets = unique((entry.dataset for entry in entries), natural_key)
    with_paper = {entry.dataset for entry in entries if published_for(entry, lookup)}
    weighted = {entry.dataset for entry in entries if entry.has_unequal_tasks}
    places: set[tuple[Any, str]] = {(e.buffer, e.dataset) for e in entries if e.buffer is not None}
    best = {key: _best(entries, *key) for key in places}
    rows: dict[tuple, dict[str, Entry]] = {}
    for entry in sorted(entries, key=row_key):
        rows.setdefault(entry.row, {})[entry.dataset] = entry
    body, breaks, buffer = [], [], None
    for index, by_dataset in enumerate(rows.values()):
        any_entry = next(iter(by_dataset.values()))
        if index and any_entry.buffer != buffer:
            breaks.append(index)
        buffer = any_entry.buffer
        items = [buffer_item(any_entry), Item(model_label(any_entry, varying))]
        for dataset in datasets:
            top = best.get((buffer, dataset))
            columns = [*("acc_weighted" for _ in range(dataset in weighted)), "aia", "bwt"]
            items += _dataset_items(by_dataset.get(dataset), columns, top, dataset in with_paper, lookup)
        body.append(items)
    header, groups = ["Buffer", "Model"], [("", 2)]
    for dataset in datasets:
        names = ["ACC", *(["by class"] if dataset in weighted else []), "AIA", "BWT"]
        names += [*(["paper", "diff."] if dataset in with_paper else []), "bytes"]
        header += names
        groups.append((dataset, len(names)))
    caption = _caption(entries, varying, bool(with_paper), bool(weighted), note)
    return Table(block_title(entries), caption, groups, header, body, breaks)


def _dataset_items(
    entry: Entry | None, metrics: Sequence[str], best: str | None, with_paper: bool, lookup: dict
) -> list[Item]:
    """Return the cells of a data set: ACC, other metrics, paper and difference, bytes."""
    if entry is None:
        return [Item(DASH)] * (len(metrics) + (4 if with_paper else 2))
    items = [
        Item(mean_text(entry.acc, entry.std["acc"]), entry.acc, number_text(entry.acc) == best),
        *(Item(mean_text(entry.mean[n], entry.std[n]), entry.mean[n]) for n in metrics),
    ]
    if with_paper:
        paper = published_for(entry, lookup)
        published_acc = paper["acc_mean"] if paper else float("nan")
        difference = entry.acc - published_acc
        mark = OUTSIDE if outside(entry, published_acc) else ""
        items += [
            Item(number_text(published_acc) + mark, published_acc),
            Item(number_text(difference, signed=True), difference),
        ]
    return [*items, Item(bytes_text(entry.total_bytes), entry.total_bytes)]


def outside(entry: Entry, value: float) -> bool:
    """Return whether a value lies outside the 95 % interval of our mean ACC; False without an interval."""
    low, high = entry.acc_interval
    return value < low or value > high


def tidy(entries: Sequence[Entry], published: pd.DataFrame) -> pd.DataFrame:
    """Return the tables' numbers at full precision: a row per table row and data set."""
    lookup, rows = published_lookup(published), []
    for block in blocks(entries):
        varying = varying_settings(block)
        unit = next((e.budget for e in block if e.budget is not None), None)
        for entry in sorted(block, key=lambda e: (row_key(e), natural_key(e.dataset))):
            row: dict[str, Any] = {
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
                row |= _mean_and_std(entry, name)
            paper = published_for(entry, lookup) or {}
            row |= {f"paper_{k}": paper.get(k) for k in ("acc_mean", "acc_std", "bwt_mean", "bwt_std")}
            row["difference"] = entry.acc - paper["acc_mean"] if paper else None
            row |= dict(zip(("acc_low", "acc_high"), entry.acc_interval, strict=True))
            row["paper_outside_interval"] = outside(entry, paper["acc_mean"]) if paper else None
            row |= {name: entry.costs[name] for name in COSTS}
            shown = number_text(entry.acc)
            row["best"] = entry.buffer is not None and shown == _best(block, entry.buffer, entry.dataset)
            for name in (name for name in WEIGHTED if name in entry.mean):
                row |= _mean_and_std(entry, name)
            rows.append(row)
    return pd.DataFrame(rows).astype({"buffer": "Int64"})


def _mean_and_std(entry: Entry, name: str) -> dict[str, float]:
    return {f"{name}_mean": entry.mean[name], f"{name}_std": entry.std[name]}


def _best(entries: Sequence[Entry], buffer: int, dataset: str) -> str:
    """Return the best mean ACC of a buffer and data set, as the table shows it."""
    return number_text(max(e.acc for e in entries if (e.buffer, e.dataset) == (buffer, dataset)))


def _caption(
    entries: Sequence[Entry], varying: Sequence[str], with_paper: bool, with_weighted: bool, note: str
) -> str:
    rows = [entry for entry in entries if entry.is_sharc]
    sharc = next(iter(rows), None)
    parts = [f"Values are in percent, mean ± sample standard deviation. {seeds_text(entries)}", FORMULAS]
    if with_weighted:
        parts.append(
            "Tasks differ in their numbers of classes c_j: ACC, AIA and BWT count each task once; by class: "
            "sum_j c_j a[T][j] / sum_j c_j, the accuracy on all test images if all classes have equally many"
        )
    if sharc:
        fixed = ", ".join(
            setting_text(sharc, name)
            if name in ("theta", "mass", "count_associative_memory")
            else f"{AXIS_NAMES[name]} {setting_text(sharc, name)}"
            for name in SETTINGS
            if name not in varying and getattr(sharc, name) not in (None, False, PAPER)
            # a setting that differs between protocols only is in no label, but is not fixed either
            if len({getattr(entry, name) for entry in rows}) == 1
        )
        parts.append(f"+ marks SHARC ({fixed})" if fixed else "+ marks SHARC")
    if any(entry.buffer is not None for entry in entries):
        parts.append("Bold: the best ACC of a buffer and data set")
    parts.append(
        "Bytes: all that the learner keeps (episodic memory, associative memory, head and model copies) "
        "except the backbone, which all methods share; 1 kB = 1000 bytes"
    )
    if any(entry.is_joint for entry in entries):
        parts.append(
            "JOINT trains on all tasks at once: it has no AIA and no BWT, and its bytes exclude the data"
        )
    if with_paper:
        parts.append(
            f"paper: published ACC ({SOURCE}: {SETTING}); diff.: our ACC minus the paper's; {OUTSIDE}: the "
            "published mean lies outside the 95 % Student-t interval of our mean over the seeds"
        )
    if note:
        parts.append(note)
    return ". ".join(parts) + "."


# --- SHARC against plain -------------------------------------------------------------------------------


def pair_tables(entries: Sequence[Entry]) -> list[Table]:
    """Return SHARC against plain over the same seeds: difference of ACC, its interval, p-values, bytes."""
    tables = []
    for block in blocks(entries):
        pairs = sorted(paired(block), key=lambda p: (natural_key(p.sharc.dataset), row_key(p.sharc)))
        if not pairs:
            continue
        varying = varying_settings(block)
        rows, breaks = [], []
        for index, pair in enumerate(pairs):
            if index and pair.sharc.dataset != pairs[index - 1].sharc.dataset:
                breaks.append(index)
            test = pair.test
            rows.append(
                [
                    Item(pair.sharc.dataset),
                    buffer_item(pair.sharc),
                    Item(model_label(pair.sharc, varying)),
                    Item(number_text(test.difference, signed=True), test.difference),
                    Item(interval_text(test.low, test.high), test.low),
                    Item(p_text(test.p_t), test.p_t),
                    Item(p_text(test.p_wilcoxon), test.p_wilcoxon),
                    Item(bytes_text(pair.plain.total_bytes), pair.plain.total_bytes),
                    Item(bytes_text(pair.sharc.total_bytes), pair.sharc.total_bytes),
                ]
            )
        header = ["Data set", "Buffer", "Model", "diff. of ACC", "95 % interval", "p (t)", "p (Wilcoxon)"]
        header += ["bytes plain", "bytes SHARC"]
        caption = (
            "ACC with SHARC minus ACC without, seed by seed: mean difference, 95 % Student-t interval, "
            "two-sided p-values, not corrected for the number of comparisons. Over n seeds Wilcoxon's p "
            f"cannot fall below 2^(1-n). {seeds_text(block)}."
        )
        title = f"SHARC against plain. {block_title(block)}"
        tables.append(Table(title, caption, [("", len(header))], header, rows, breaks, text_columns=3))
    return tables


def tidy_pairs(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the paired comparisons at full precision; no rows where the grid has no pair."""
    columns = ["scenario", "backbone", "budget", "dataset", "buffer", "method", *SETTINGS, "seeds"]
    columns += ["difference", "low", "high", "effect", "p_t", "p_wilcoxon", "plain_bytes", "sharc_bytes"]
    rows = []
    for block in blocks(entries):
        for pair in sorted(paired(block), key=lambda p: (natural_key(p.sharc.dataset), row_key(p.sharc))):
            row = {name: getattr(pair.sharc, name) for name in columns[: columns.index("seeds")]}
            row |= asdict(pair.test) | {"seeds": pair.test.n}
            row |= {"plain_bytes": pair.plain.total_bytes, "sharc_bytes": pair.sharc.total_bytes}
            rows.append(row)
    return pd.DataFrame(rows, columns=columns).astype({"buffer": "Int64"})


def equal_bytes_table(entries: Sequence[Entry]) -> Table | None:
    """Return every SHARC row with the best plain rows that keep no more bytes; None without SHARC.

    entries: of one scenario. Plain rows are those of SHARC's setup, as in the scorecard.
    """
    cases = [case for setup in setups(entries) for case in equal_bytes(setup.entries)]
    if not cases:
        return None
    header = ["Data set", "Buffer", "Model", "bytes", "ACC"]
    header += ["same method, plain", "its bytes", "its ACC", "diff."]
    header += ["any method, plain", "its bytes", "its ACC", "diff."]
    varying, rows = varying_settings(entries), []
    for case in cases:
        sharc = case.sharc
        row = [
            Item(place_name(sharc, entries)),
            buffer_item(sharc),
            Item(model_label(sharc, varying)),
            *_bytes_and_acc(sharc),
        ]
        for plain in (case.same_method, case.any_method):
            if plain is None:
                row += [Item("none fits"), *[Item(DASH)] * 3]
                continue
            difference = sharc.acc - plain.acc
            row += [
                Item(row_name(plain, entries)),
                *_bytes_and_acc(plain),
                Item(number_text(difference, signed=True), difference),
            ]
        rows.append(row)
    caption = (
        "The plain rows are those with the best ACC among the plain rows that keep no more bytes than SHARC. "
        "diff.: SHARC minus plain. The best plain row is chosen by test ACC, which favours it slightly."
    )
    title = f"{scenario_name(entries[0].scenario)}: SHARC at equal bytes"
    return Table(title, caption, [("", len(header))], header, rows, text_columns=3)


def _bytes_and_acc(entry: Entry) -> list[Item]:
    return [Item(bytes_text(entry.total_bytes), entry.total_bytes), Item(number_text(entry.acc), entry.acc)]
