"""Files of a measured study's tables: numbers as CSV, findings and tables as Markdown, tables as LaTeX."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.files import write_text
from sharc_core.provenance.lineage import csv_text, latex_text, markdown_text
from sharc_core.results.table_formats import Table, to_latex, to_markdown


def table_files(study: str) -> list[str]:
    """Return the names of the files that write_measured_tables writes."""
    return [f"{study}.{kind}" for kind in ("csv", "md", "tex")]


def write_measured_tables(
    study: str,
    folder: Path | str,
    origin: Mapping[str, Any],
    title: str,
    numbers: pd.DataFrame,
    findings: Sequence[str],
    tables: Sequence[Table],
) -> list[Path]:
    """Write a study's tables and return the paths. origin: the lineage of its rows. numbers: the CSV file."""
    said = "\n".join(f"- {finding}" for finding in findings)
    texts = [
        csv_text(numbers, origin),
        markdown_text(f"# {title}\n\n{said}\n\n" + "\n".join(map(to_markdown, tables)), origin),
        latex_text("% needs booktabs\n" + "\n".join(map(to_latex, tables)), origin),
    ]
    paths = [Path(folder) / name for name in table_files(study)]
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    return paths
