"""The report: one reproducible page without external resources, escaped names, and findings."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
from result_factory import constant_matrix, make_document, make_grid

from sharc_core.common.errors import UserError
from sharc_core.figures import write_figures
from sharc_core.figures.style import FURTHER, MARKERS
from sharc_core.report.charts import charts, marker_path
from sharc_core.report.findings import scenario_findings
from sharc_core.report.page import flatten, write_report
from sharc_core.report.scorecard import scorecard
from sharc_core.report.vega_files import FILES, FOLDER, vega_script
from sharc_core.results.published import load_published, no_published
from sharc_core.results.runs import runs_table
from sharc_core.results.summary import summarise
from sharc_core.results.tables import equal_bytes_table

VOID = {"meta", "link", "br", "input", "img"}


class Checker(HTMLParser):
    """Collects tags, text and every address that a browser would load. Fails for unbalanced tags."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.addresses, self.text, self.labels, self.scripts = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        if tag == "script":
            self.scripts.append(values.get("type"))
        if values.get("role") == "img":
            self.labels.append(values["aria-label"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def build(cells, folder, published=None, **changes):
    runs = runs_table(cells)
    write_figures(cells, runs, folder / "figures")
    arguments = {
        "title": "SHARC-Bench",
        "provenance": {"commit": "0123abcd", "dirty": False},
        "cards": [{"name": "tiny", "held_out": {"accuracy": 81.25}}],
    } | changes
    published = no_published() if published is None else published
    write_report(runs, cells, published, folder / "figures", folder / "report.html", **arguments)
    page = (folder / "report.html").read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return page, checker


def cell(method, accs, variant="plain", buffer=200, dataset="s_cifar10"):
    matrices = {"task_il": constant_matrix(accs), "class_il": constant_matrix([0.0] * len(accs), 0.0)}
    if method == "joint":
        matrices = {k: [[[math.nan] * 2, m[1]] for m in v] for k, v in matrices.items()}
    return make_document(
        method,
        variant,
        matrices=matrices,
        buffer=buffer,
        dataset=dataset,
        seeds=range(len(accs)),
        scenarios=["task_il"],
    )


KNOWN = [
    cell("joint", [97.0, 97.5]),
    cell("sgd", [92.0, 93.0]),
    cell("er", [85.0, 86.0]),
    cell("er", [93.0, 94.0], "sharc"),
    cell("gem", [92.5, 93.5]),
    cell("gem", [90.0, 91.0], "sharc"),
]


DEFAULT = make_grid(
    datasets=("s_cifar10", "s_glyphs"), methods=("sgd", "joint", "er", "derpp"), buffers=(200,)
)


@pytest.fixture(scope="module")
def default(tmp_path_factory, pytestconfig):
    published = load_published(pytestconfig.rootpath / "workflow/paper/paper_results.csv")
    return build(DEFAULT, tmp_path_factory.mktemp("report"), published)


@pytest.mark.slow
def test_the_page_loads_nothing(default):
    page, checker = default
    allowed = ("#", "data:,", "data:application/pdf;base64,")
    assert all(address.startswith(allowed) for address in checker.addresses)
    assert "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src" in page
    assert "sourceMappingURL" not in page
    assert "@import" not in page
    assert "url(http" not in page
    assert checker.tags.count("svg") == 8
    assert page.startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_every_figure_has_an_alternative_text_with_its_numbers(default):
    _, checker = default
    assert len(checker.labels) == 8
    for label in checker.labels:
        assert "s_cifar10" in label and "s_glyphs" in label and re.search(r"[0-9]\.[0-9]", label)


def test_the_page_has_its_sections_and_provenance(default):
    page, checker = default
    text = " ".join(" ".join(checker.text).split())
    for words in (
        "Findings",
        "SHARC at equal bytes",
        "frozen in evaluation mode",
        "arXiv 2310.04334",
        "held_out.accuracy 81.25",
        "commit 0123abcd",
        "dirty False",
        "3 seeds",
    ):
        assert words in text, words
    for words in ("prefers-color-scheme: dark", "viewport", "aria-sort"):
        assert words in page


def section_of(page, name):
    content = page[page.index(f'<section id="{name}">') :]
    return content[: content.index("</section>")]


@pytest.mark.slow
def test_a_scenario_opens_with_its_verdict_two_figures_and_the_table(default):
    page, _ = default
    assert page.index('id="class_il"') < page.index('id="scorecard"')
    for scenario in ("task_il", "class_il"):
        content = section_of(page, scenario)
        opening = content[: content.index("<details>")]
        tags = ('<ul class="verdict">', f'"bytes_{scenario}-', f'"sharc_gain_{scenario}-', "<table")
        positions = [opening.index(tag) for tag in tags]
        assert positions == sorted(positions), scenario
        assert opening.count("<figure>") == 2
        assert "Best at equal bytes (mean over 2 data sets):" in opening
        assert '<ul class="findings">' in content[len(opening) :]
    assert section_of(page, "scorecard").index("<details>") < section_of(page, "scorecard").index("<table")


@pytest.mark.slow
def test_without_javascript_the_static_figures_are_there(default):
    page, _ = default
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert len(figures) == 8
    for figure in figures:
        static = figure[: figure.index("<figcaption>")].split('<div class="charts')[0]
        assert "<svg " in static and 'role="img"' in static
        assert 'download="' in figure
    style = page[page.index("<style>") : page.index("</style>")]
    assert ".charts { display: none;" in style
    assert "@media screen { .live .static { display: none; } }" in style
    assert '<form class="filters" aria-label="Filters of figures and tables" hidden>' in page


@pytest.mark.slow
def test_charts_hold_the_numbers_of_the_entries(default):
    page, _ = default
    specs = [json.loads(text) for text in re.findall(r'"application/json">(.*?)</script>', page)]
    assert len(specs) == 12  # three figures, two scenarios and data sets
    for spec in specs:
        assert spec["$schema"].endswith("/vega-lite/v6.json")
        assert {param["name"] for param in spec["params"]} == {"buffer", "method"}
    rows = specs[0]["data"]["values"]
    assert {row["method"] for row in rows} == {"SGD", "ER", "DER++"}
    er = next(row for row in rows if row["model"] == "ER+, buffer 200")
    (entry,) = [
        e
        for e in summarise(runs_table(DEFAULT))
        if (e.dataset, e.scenario, e.method, e.variant) == ("s_cifar10", "task_il", "er", "sharc")
    ]
    assert (er["acc"], er["x"], er["sharc"]) == (round(entry.acc, 4), entry.total_bytes, True)
    gain = specs[2]["data"]["values"]
    assert [row["row"] for row in gain] == ["ER+, buffer 200", "DER+++, buffer 200"]
    assert gain[0]["SHARC"] == er["ACC"]


@pytest.mark.parametrize("marker", [*MARKERS.values(), *(marker for _, marker in FURTHER)])
def test_markers_are_outlines_within_the_unit_square(marker):
    path = marker_path(marker)
    numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e-?\d+)?", path)]
    assert path.startswith("M") and path.endswith("Z")
    assert max(map(abs, numbers)) == 1


def test_vega_is_what_was_released(monkeypatch, tmp_path):
    script = vega_script()
    assert script.startswith("/*\nvega.min.js") and "Interactive Data Lab" in script
    assert {path.name for path in FOLDER.glob("*.js")} == set(FILES)
    vega_script.cache_clear()
    monkeypatch.setattr("sharc_core.report.vega_files.FOLDER", tmp_path)
    (tmp_path / "LICENSE").write_text("licence")
    with pytest.raises(UserError, match=r"vega\.min\.js is missing or was changed: install "):
        vega_script()


def test_vega_lite_compiles_the_charts():
    """Needs vl-convert-python, which has Vega-Lite's compiler and is no dependency."""
    compiler = pytest.importorskip("vl_convert")
    entries = [e for e in summarise(runs_table(KNOWN)) if e.scenario == "task_il"]
    for kind in ("bytes", "sharc_gain"):
        (chart,) = charts(kind, entries)
        assert compiler.vegalite_to_vega(chart.spec, "v6_1")["marks"]


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(tmp_path):
    cells = make_grid(("s_digits",), ("sgd", "er"), (100,))
    first, _ = build(cells, tmp_path / "a")
    second, _ = build(cells[::-1], tmp_path / "b")
    assert first == second


@pytest.mark.slow
def test_hostile_names_are_text(tmp_path):
    name = '<script>alert(1)</script>--> "onload="x" {{ 7*7 }}'
    cells = [
        make_document(m, v, dataset=name, backbone="<b>b</b>") for m, v in (("er", "plain"), ("er", "sharc"))
    ]
    page, checker = build(
        cells,
        tmp_path,
        title="<i>title</i>",
        provenance={"<u>": "<img src=x>"},
        cards=[{"<s>": "</dl>"}],
    )
    assert "<script>alert" not in page
    assert not {"i", "b", "u", "s", "img"} & set(checker.tags)
    assert checker.scripts == ["application/json"] * 6 + [None] * 3
    assert "49" not in "".join(t for t in checker.text if "alert" in t)
    assert any(name in text for text in checker.text)


def test_findings_on_known_data():
    entries = summarise(runs_table(KNOWN))
    text = [" ".join(finding) for finding in scenario_findings(entries, no_published())]
    assert text[0].startswith("SHARC raises the mean ACC in 1 of 2 pairs.")
    # differences by seed: ER 8 and 8, GEM -2.5 and -2.5
    assert "is above zero in 1, contains zero in 0 and is below zero in 1." in text[0]
    assert "The median difference is +2.75" in text[0]
    assert "Lowered: GEM+ (s_cifar10 200)." in text[0]
    assert text[1].startswith("At the same buffer SHARC keeps 1.10 times the bytes of the plain method")
    assert text[2].startswith("s_cifar10: the best ACC is 93.50 % (ER+, buffer 200, 3.62 MB).")
    assert "JOINT, trained on all tasks at once, reaches 97.25 %." in text[2]
    assert len(text) == 3


def test_findings_of_the_scorecard_on_known_data():
    card = scorecard(summarise(runs_table(KNOWN)), no_published())
    text = [" ".join(finding) for finding in card.findings]
    assert text[0].startswith("Here SHARC raises the mean ACC in 1 of 2 pairs.")
    assert text[1] == (
        "SGD, which replays nothing, has a higher ACC than 1 of 2 plain rows and 1 of 2 SHARC rows in "
        "Task-IL. Rows below SGD. Task-IL, plain: ER (s_cifar10 200). Task-IL, SHARC: GEM+ (s_cifar10 200)."
    )
    # plain GEM (93.0) against ER+ (93.5) and GEM+ (90.5)
    assert "a plain row of any method (also SGD) matches SHARC in 1 of 2 rows" in text[2]
    assert "A plain row of the same method does so in 1 of 2." in text[2]
    assert len(text) == 3


def test_agreement_with_the_papers_sign(request):
    published = load_published(request.config.rootpath / "workflow/paper/paper_results.csv")
    text, detail = scenario_findings(summarise(runs_table(KNOWN)), published)[-1]
    # the paper's GEM 88.44 to 91.01 and ER 86.36 to 91.48
    assert text.startswith("SHARC's effect has the paper's sign in 1 of the 2 pairs")
    assert "+2.75 here, +3.8" in detail
    assert detail.endswith("in the paper. Opposite sign: GEM+ (s_cifar10 200).")


def test_findings_omit_what_the_grid_cannot_answer():
    alone = summarise(runs_table([cell("er", [85.0, 86.0])]))
    (only,) = scenario_findings(alone, no_published())
    assert only.text.startswith("s_cifar10: the best ACC is 85.50 % (ER, buffer 200, ")
    assert equal_bytes_table(alone) is None
    assert scenario_findings(summarise(runs_table([cell("joint", [97.0])])), no_published()) == []


def test_equal_bytes_table_names_the_plain_rows():
    table = equal_bytes_table(summarise(runs_table(KNOWN)))
    rows = {row[2].text: [item.text for item in row] for row in table.rows}
    assert rows["ER+"][5] == "ER, buffer 200"
    assert rows["ER+"][8] == "+8.00"
    assert rows["ER+"][9] == "GEM, buffer 200"
    assert rows["GEM+"][12] == "-2.50"


@pytest.mark.slow
@pytest.mark.parametrize(
    "cells",
    [
        pytest.param([cell("sgd", [90.0])], id="one baseline, one seed"),
        pytest.param([cell("joint", [97.0])], id="JOINT alone"),
        pytest.param([make_document("er", "sharc", tasks=1)], id="SHARC without plain, one task"),
    ],
)
def test_small_grids_have_no_empty_sections(cells, tmp_path):
    page, _ = build(cells, tmp_path, cards=[])
    assert 'id="backbones"' not in page
    assert 'id="paper"' not in page


@pytest.mark.reliability("damaged-json")
def test_missing_figure_is_one_line(tmp_path):
    cells = [cell("sgd", [90.0])]
    with pytest.raises(UserError, match=r"learning_curves_task_il\.svg is missing"):
        write_report(runs_table(cells), cells, no_published(), tmp_path, tmp_path / "r.html", "T", {})
    assert not (tmp_path / "r.html").exists()


@pytest.mark.slow
@pytest.mark.reliability("damaged-json")
def test_a_damaged_figure_is_one_line(tmp_path):
    cells = [cell("sgd", [90.0])]
    write_figures(cells, runs_table(cells), tmp_path)
    for content in (b"", b"not a drawing", b"\xff<svg"):
        (tmp_path / "learning_curves_task_il.svg").write_bytes(content)
        with pytest.raises(
            UserError, match=r"learning_curves_task_il\.svg is not a drawing: delete it and run again"
        ):
            write_report(runs_table(cells), cells, no_published(), tmp_path, tmp_path / "r.html", "T", {})
        assert not (tmp_path / "r.html").exists()


def test_flatten_joins_nested_keys():
    card = {"a": 1, "b": {"c": [1, 2.5], "d": None}, "e": [{"f": True}], "g": 0.1 + 0.2}
    assert flatten(card) == [("a", "1"), ("b.c", "1, 2.5"), ("b.d", "–"), ("e.0.f", "True"), ("g", "0.3")]
