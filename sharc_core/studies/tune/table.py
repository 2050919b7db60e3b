"""Tables of the study `tune`: what was chosen for each cell, its accuracy, and the spread of all trials."""

import json
from pathlib import Path

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.files import write_text
from sharc_core.common.formats import DASH, escape_markdown, mean_text, number_text
from sharc_core.provenance.lineage import csv_text, latex_text, lineage, markdown_text
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import scenario_name
from sharc_core.results.table_formats import Item, Table, to_latex, to_markdown
from sharc_core.studies.tune.settings import TuneSettings, column_of

PLACE = ["dataset", "backbone", "cell"]


def trials(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line per trial: the mean and standard deviation over seeds of the ACC that decides.

    rows: of the jobs (COLUMNS), in the order of the cells.
    """
    lines = []
    for place, group in rows.groupby([*PLACE, "trial"], sort=False):
        first = group.iloc[0]
        values = group[column_of(first.criterion)]
        line = dict(zip([*PLACE, "trial"], place, strict=True))
        line |= {
            name: first[name]
            for name in ("method", "variant", "buffer", "cell_digest", "criterion", "settings")
        }
        line |= {"own": bool(first.own), "chosen": bool(first.chosen), "seeds": len(group)}
        lines.append(line | {"acc_mean": values.mean(skipna=False), "acc_std": values.std(ddof=1)})
    return pd.DataFrame(lines).astype({"buffer": "Int64"})


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line per cell: own and chosen settings with their ACC, and the extent of all trials."""
    lines = []
    for place, group in trials(rows).groupby(PLACE, sort=False):
        own, chosen = group[group.own].iloc[0], group[group.chosen].iloc[0]
        line = dict(zip(PLACE, place, strict=True))
        line |= {name: own[name] for name in ("method", "variant", "buffer", "cell_digest", "criterion")}
        line |= {"own_settings": own.settings, "chosen_settings": chosen.settings}
        for name, trial in (("own", own), ("chosen", chosen)):
            line |= {f"{name}_acc_mean": trial.acc_mean, f"{name}_acc_std": trial.acc_std}
        valid = group.acc_mean.dropna()
        line |= {"gain": chosen.acc_mean - own.acc_mean, "worst": valid.min(), "best": valid.max()}
        line |= {"trials_std": valid.std(ddof=1), "trials": len(group), "failed": len(group) - len(valid)}
        lines.append(line | {"seeds": own.seeds})
    return pd.DataFrame(lines).astype({"buffer": "Int64"})


def chosen_settings(rows: pd.DataFrame, settings: TuneSettings) -> dict:
    """Return the content of tune.json, which `tuned` of a grid file reads (grid.tuned.Tuned)."""
    chosen: dict[str, dict[str, dict[str, dict]]] = {}
    cells: dict[str, dict[str, dict[str, str]]] = {}
    for line in summary(rows).itertuples():
        for found, value in ((chosen, json.loads(line.chosen_settings)), (cells, line.cell_digest)):
            found.setdefault(line.dataset, {}).setdefault(line.backbone, {})[line.cell] = value
    how = settings.model_dump(include={"trials", "validation", "sampler", "select_by"})
    return {"settings": list(settings.settings), **how, "chosen": chosen, "cells": cells}


def write_tune_tables(
    rows: pd.DataFrame, settings: TuneSettings, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write tune.csv (all trials), .md, .tex and .json and return the paths. config: the grid's hash."""
    lines, origin = summary(rows), lineage(rows, config)
    groups = lines.groupby(["dataset", "backbone"], sort=False)
    tables = [_table(group, place, settings) for place, group in groups]
    text = f"# Tuned settings\n\n{escape_markdown(sentence(rows))}\n\n"
    contents = {
        "csv": csv_text(trials(rows), origin),
        "md": markdown_text(text + "\n".join(map(to_markdown, tables)), origin),
        "tex": latex_text("% needs booktabs\n" + "\n".join(map(to_latex, tables)), origin),
        "json": json.dumps(chosen_settings(rows, settings), indent=1) + "\n",
    }
    for kind, content in contents.items():
        write_text(Path(folder) / f"tune.{kind}", content)
    return [Path(folder) / f"tune.{kind}" for kind in contents]


def settings_text(text: str) -> str:
    """Return settings in JSON as `lr 0.03, alpha 0.2`."""
    values = json.loads(text)
    return ", ".join(
        f"{name.rsplit('.', 1)[-1]} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in values.items()
    )


def _table(lines: pd.DataFrame, place: tuple[str, str], settings: TuneSettings) -> Table:
    header = ["Cell", "chosen", "own", "ACC chosen", "ACC own", "gain", "worst to best", "std", "trials"]
    rows = []
    for line in lines.itertuples():
        failed = f", {line.failed} failed" if line.failed else ""
        rows.append(
            [
                Item(line.cell),
                Item(settings_text(line.chosen_settings)),
                Item(settings_text(line.own_settings)),
                Item(mean_text(line.chosen_acc_mean, line.chosen_acc_std), line.chosen_acc_mean),
                Item(mean_text(line.own_acc_mean, line.own_acc_std), line.own_acc_mean),
                Item(number_text(line.gain, signed=True) if line.gain == line.gain else DASH, line.gain),
                Item(f"{number_text(line.worst)} to {number_text(line.best)}", line.worst),
                Item(number_text(line.trials_std), line.trials_std),
                Item(f"{line.trials}{failed}", line.trials),
            ]
        )
    shared = sorted({scenario_name(name) for name in lines.criterion})
    parts = [
        f"Validation ACC in {' and '.join(shared)}, in percent, on {settings.validation:.0%} of each class's "
        "training images, which no trial trains on; the test images are not used",
        f"At most {settings.trials} trials per cell (sampler {settings.sampler}), of which the first has the "
        f"grid's own settings; {len(settings.seeds)} seed{'s' if len(settings.seeds) > 1 else ''} per trial",
        "Gain: ACC of the chosen minus the own settings. As the best of all trials it is an upper estimate; "
        "train a grid with `tuned` and compare on the test images",
        "std: sample standard deviation over the trials",
    ]
    return Table(
        f"{place[0]}, {place[1]}", ". ".join(parts) + ".", [("", len(header))], header, rows, text_columns=3
    )


def sentence(rows: pd.DataFrame) -> str:
    """Return how far the grid's own settings are from the best trial."""
    lines = summary(rows)
    kept = int((lines.chosen_settings == lines.own_settings).sum())
    largest = lines.loc[lines.gain.fillna(float("inf")).idxmax()]
    gain = "from a run that failed" if pd.isna(largest.gain) else f"by {largest.gain:.1f} points"
    return (
        f"Tuning kept the grid's own settings in {kept} of {len(lines)} cells. The largest change raises the "
        f"validation ACC of {largest.cell} on {largest.dataset} {gain}."
    )
