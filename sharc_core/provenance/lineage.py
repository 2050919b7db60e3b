"""The lineage of a table: commits, grid file, data, weights, versions and hosts of its results.

Every table contains its lineage. All of it except the grid's hash is in the rows behind the table (runs.csv,
the files of a study's jobs). So a table depends only on results and grid, not on the commit that writes it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.files import short_sha256
from sharc_core.common.formats import escape_markdown
from sharc_core.provenance.origin import UNKNOWN

SHORT = 12  # hex digits shown of a commit
# Columns that state the origin of a row, and their types.
FIELDS = {
    "commit": "str",
    "dirty": "boolean",
    "data": "str",
    "weights": "str",
    "versions": "str",
    "host": "str",
}


def origin_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the FIELDS of a result document with `origin` and `versions`, with shortened checksums."""
    origin = document["origin"]
    fields = {name: origin[name] for name in ("commit", "dirty", "host")}
    fields |= {name: short_sha256(origin[name]) for name in ("data", "weights")}
    fields["versions"] = "; ".join(f"{name} {text}" for name, text in sorted(document["versions"].items()))
    return fields


def lineage(rows: pd.DataFrame, config: str = UNKNOWN) -> dict[str, Any]:
    """Return the lineage of rows with FIELDS, `dataset` and `backbone`; JSON-able, every list sorted.

    config: hash of the grid (Grid.config_hash). The `dirty` state of a commit is None if unknown.
    """
    states = zip(rows["commit"], rows["dirty"], strict=True)
    commits = {(commit, None if pd.isna(dirty) else bool(dirty)) for commit, dirty in states}
    return {
        "commits": [{"commit": c, "dirty": d} for c, d in sorted(commits, key=str)],
        "config": config,
        "data": _by_name(zip(rows["dataset"], rows["data"], strict=True)),
        "weights": _by_name(zip(rows["backbone"], rows["weights"], strict=True)),
        "versions": sorted(set(rows["versions"])),
        "hosts": sorted(set(rows["host"])),
    }


def _by_name(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in sorted(set(pairs)):
        values.setdefault(name, []).append(value)
    return values


def sentence(lineage: Mapping[str, Any]) -> str:
    """Return a lineage as one line of text."""
    versions = " and ".join(text.replace(";", ",") for text in lineage["versions"])
    return (
        f"Provenance: run at commit {_commits(lineage)}; config {lineage['config']}; "
        f"data {_names(lineage['data'])}; weights {_names(lineage['weights'])}; "
        f"with {versions}; on {' and '.join(lineage['hosts'])}."
    )


def facts(lineage: Mapping[str, Any]) -> dict[str, str | bool | None]:
    """Return a lineage as one value per name, for a CSV table's last columns and the foot of the report."""
    states = {state["dirty"] for state in lineage["commits"]}
    return {
        "commit": " and ".join(dict.fromkeys(state["commit"] for state in lineage["commits"])),
        "dirty": True if True in states else None if None in states else False,
        "config": lineage["config"],
        "data": _names(lineage["data"]),
        "weights": _names(lineage["weights"]),
        "versions": " and ".join(lineage["versions"]),
        "host": " and ".join(lineage["hosts"]),
    }


def csv_text(frame: pd.DataFrame, lineage: Mapping[str, Any]) -> str:
    """Return a table as CSV at full precision, with its lineage in further columns, the same in every row."""
    return frame.assign(**facts(lineage)).to_csv(index=False, lineterminator="\n")


def markdown_text(text: str, lineage: Mapping[str, Any]) -> str:
    """Return a Markdown text with its lineage as the last paragraph."""
    return f"{text.rstrip()}\n\n{escape_markdown(sentence(lineage))}\n"


def latex_text(text: str, lineage: Mapping[str, Any]) -> str:
    """Return a LaTeX text with its lineage as the first comment."""
    return f"% {sentence(lineage)}\n{text}"


def _commits(lineage: Mapping[str, Any]) -> str:
    words = {True: " with uncommitted changes", False: "", None: ""}
    return " and ".join(state["commit"][:SHORT] + words[state["dirty"]] for state in lineage["commits"])


def _names(hashes: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{name} {' and '.join(values)}" for name, values in hashes.items())
