"""A table as data, and how it is written as Markdown and LaTeX; report.html.j2 writes it as HTML."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tabulate import tabulate

from sharc_core.common.formats import DASH, bytes_text, escape_markdown, number_text


class Item(NamedTuple):
    """One field of a table. text: as shown. sort: what the HTML page sorts by; None for the text."""

    text: str
    sort: float | None = None
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its title and caption.

    groups: (title, number of columns) above the header, with an empty title for columns without a group.
    breaks: indices of the rows that have a rule above them, such as the first of a buffer. text_columns: how
    many columns from the left hold words; they are left-aligned.
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
        """Return the header in one line, with names such as `s_digits ACC`."""
        titles = [title for title, width in self.groups for _ in range(width)]
        return [f"{title} {name}".strip() for title, name in zip(titles, self.header, strict=True)]


def round_bytes_text(count: float) -> str:
    """Return `1.5 MB` or `2 MB`, like bytes_text without trailing zeros."""
    number, unit = bytes_text(count).split()
    return f"{float(number):g} {unit}"


def interval_text(low: float, high: float) -> str:
    """Return `[+0.31, +1.20]`, or a dash for NaN."""
    signed = number_text(low, signed=True), number_text(high, signed=True)
    return DASH if DASH in signed else f"[{signed[0]}, {signed[1]}]"


def p_text(p: float) -> str:
    """Return a p-value with three decimals, or a dash for NaN."""
    return DASH if p != p else "<0.001" if p < 0.001 else f"{p:.3f}"


def to_markdown(table: Table) -> str:
    """Return title, table (GitHub's pipe tables) and caption."""
    rows = [[_markdown_item(item) for item in row] for row in table.rows]
    align = ["left"] * table.text_columns + ["right"] * (len(table.header) - table.text_columns)
    header = [escape_markdown(name) for name in table.flat_header]
    # tabulate raises an error when it aligns a table without rows
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
    """Escape a text so that LaTeX prints it as it is."""
    return "".join(LATEX_SPECIAL.get(c, c) for c in text)


FIT = (
    r"\providecommand{\sharcfit}[1]{\ifdefined\resizebox"
    r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{#1}\else#1\fi}"
)


def to_latex(table: Table) -> str:
    r"""Return a table* environment, which needs \usepackage{booktabs}.

    If the document also loads graphicx, a table wider than the text is scaled down to the text's width.
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
    # LaTeX would read a field that starts with [ as the optional argument of the \\ before it
    return " & ".join(f"{{{f}}}" if f.startswith("[") else f for f in fields) + r" \\"


def _latex_item(item: Item) -> str:
    text = escape_latex(item.text)
    if text[:1] == "-" and text != "--":
        text = f"$-${text[1:]}"
    return rf"\textbf{{{text}}}" if item.bold else text
