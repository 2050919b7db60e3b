"""A table as data, and its forms: Markdown and LaTeX here, HTML in templates/report.html.j2."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tabulate import tabulate

from sharc_core.common.formats import DASH, escape_markdown


class Item(NamedTuple):
    """One field of a table. text: as shown. sort: what the HTML page sorts by (None: the text)."""

    text: str
    sort: float | None = None
    bold: bool = False


class Finding(NamedTuple):
    """One sentence that results say. detail: further ones in the same paragraph, possibly empty."""

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """groups: (title, number of columns) over the header, empty titles for columns of no group.

    breaks: indices of the rows that a rule goes above (a new buffer). text_columns: how many columns
    from the left hold words and are set flush left.
    """

    title: str
    caption: str
    groups: list[tuple[str, int]]
    header: list[str]
    rows: list[list[Item]]
    breaks: list[int] = field(default_factory=list)
    text_columns: int = 2

    @property
    def flat_header(self) -> list[str]:
        """Header in one line: `s_digits ACC`."""
        titles = [title for title, width in self.groups for _ in range(width)]
        return [f"{title} {name}".strip() for title, name in zip(titles, self.header, strict=True)]


def to_markdown(table: Table) -> str:
    """Title, table (GitHub's pipe form) and caption."""
    rows = [[_markdown_item(item) for item in row] for row in table.rows]
    align = ["left"] * table.text_columns + ["right"] * (len(table.header) - table.text_columns)
    header = [escape_markdown(name) for name in table.flat_header]
    # tabulate cannot align an empty table; a header alone is a table still
    body = tabulate(rows, header, "pipe", disable_numparse=True, colalign=align if rows else None)
    return f"## {escape_markdown(table.title)}\n\n{body}\n\n{escape_markdown(table.caption)}\n"


def _markdown_item(item: Item) -> str:
    text = escape_markdown(item.text)
    return f"**{text}**" if item.bold else text


LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    DASH: "--",
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is written."""
    return "".join(LATEX_SPECIAL.get(c, c) for c in text)


FIT = (
    r"\providecommand{\sharcfit}[1]{\ifdefined\resizebox"
    r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{#1}\else#1\fi}"
)


def to_latex(table: Table) -> str:
    r"""A table* environment; needs \usepackage{booktabs}. Where graphicx is loaded too, a table that is
    wider than the text is scaled down to it.
    """
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    lines = [
        r"\begin{table*}",
        r"\centering",
        r"\scriptsize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape_latex(f'{table.title}. {table.caption}')}}}",
        r"\medskip",
        FIT,
        rf"\sharcfit{{\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    ]
    if any(title for title, _ in table.groups):
        lines += _latex_groups(table.groups)
    lines += [_latex_line([escape_latex(name) for name in table.header]), r"\midrule"]
    for index, row in enumerate(table.rows):
        if index in table.breaks:
            lines.append(r"\midrule")
        lines.append(_latex_line([_latex_item(item) for item in row]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table*}", ""])


def _latex_groups(groups: list[tuple[str, int]]) -> list[str]:
    fields, rules, column = [], [], 1
    for title, width in groups:
        if title:
            fields.append(rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(title)}}}")
            rules.append(rf"\cmidrule(lr){{{column}-{column + width - 1}}}")
        else:
            fields.append(" &" * (width - 1))
        column += width
    return [_latex_line(fields), "".join(rules)]


def _latex_line(fields: list[str]) -> str:
    # braces: a field that begins with [ would be taken for an argument of the \\ above it
    return " & ".join(f"{{{f}}}" if f.startswith("[") else f for f in fields) + r" \\"


def _latex_item(item: Item) -> str:
    text = escape_latex(item.text)
    if text[:1] == "-" and text != "--":
        text = f"$-${text[1:]}"
    return rf"\textbf{{{text}}}" if item.bold else text
