"""A figure as the page shows it: the static drawing, its captions, its PDF and its interactive charts."""

import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json
from sharc_core.report.charts import Chart

SCALE = 1.7  # largest scale of a drawing, in pixels per point: text of 10 points is as large as the page's


def embedded(path: Path, charts: Sequence[Chart] = ()) -> dict[str, object]:
    """Return a figure for the template, from path (.svg) and the .json and .pdf files of the same name.

    charts: shown in place of the drawing where JavaScript runs. Raises UserError for a missing or damaged
    drawing; without a PDF file the page offers none.
    """
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
    pdf = path.with_suffix(".pdf")
    return {
        "name": path.stem,
        "kind": words.get("kind", ""),
        "svg": Markup(svg),
        "pdf": b64encode(pdf.read_bytes()).decode() if pdf.is_file() else "",
        "charts": charts,
        "width": round(SCALE * float(width[1])),
        "title": words["title"],
        "alternative": words["alt"],
        "caption": words["caption"],
    }
