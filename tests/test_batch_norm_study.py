"""The batch norm study: sentences, tables, figure and report from known numbers."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from result_factory import constant_matrix, make_document, make_grid
from test_report import Checker

from sharc_core.backbones.names import has_batch_norms, network_and_batch_norm
from sharc_core.figures import curves_of, first_task_of, write
from sharc_core.figures.first_task import first_task_panels, first_task_words
from sharc_core.report.figure_files import write_all_figures
from sharc_core.report.page import write_report
from sharc_core.report.tables import write_all_tables
from sharc_core.results.published import COLUMNS, SETTING, no_published
from sharc_core.results.runs import runs_table
from sharc_core.results.summary import summarise
from sharc_core.results.tables import tidy as main_tidy
from sharc_core.studies.batch_norm.comparison import (
    NOTHING,
    batch_norm_findings,
    batch_norm_tables,
    comparisons,
    tidy,
    write_batch_norm,
)


def cell(
    backbone: str,
    accs: list[float],
    method: str = "er",
    variant: str = "plain",
    scenario: str = "class_il",
    seeds: list[int] | None = None,
    **changes,
) -> dict:
    """Return a cell's document: s_cifar10, buffer 200, ACC `accs` by seed, one scenario."""
    matrix = constant_matrix(accs)
    if method == "joint":
        matrix = [[[math.nan] * 2, rows[1]] for rows in matrix]
    return make_document(
        method,
        variant,
        backbone=backbone,
        matrices={"task_il": matrix, "class_il": matrix},
        scenarios=[scenario],
        seeds=range(len(accs)) if seeds is None else seeds,
        tasks=2,
        **{"dataset": "s_cifar10", "buffer": 200} | changes,
    )


def entries_of(*cells: dict) -> list:
    return summarise(runs_table(list(cells)))


def paper_of(*rows: tuple) -> pd.DataFrame:
    """Return a table of published ACC. rows: (method, variant, mean[, scenario])."""
    values = []
    for method, variant, mean, *scenario in rows:
        buffer = None if method in ("sgd", "joint") else 200
        place = [*(scenario or ["class_il"]), "s_cifar10", buffer, method, variant]
        values.append([*place, mean, 1.5, -9.0, 1.0])
    return pd.DataFrame(values, columns=COLUMNS).astype({"buffer": "Int64"})


def er(*accs: float, **changes) -> list[dict]:
    """Return ER with frozen ACC 44, 45 and 43, and with drifting ACC `accs`."""
    return [cell("net", [44.0, 45.0, 43.0], **changes), cell("net-drifting", list(accs), **changes)]


def sentence(cells: list[dict], published: float) -> str:
    """Return the sentence about ER's published number."""
    (text,) = batch_norm_findings(entries_of(*cells), paper_of(("er", "plain", published)))
    return text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net", ("net", "frozen")),
        ("net-drifting", ("net", "drifting")),
        ("net-v1-adapted", ("net-v1", "adapted")),
        ("net-frozen", ("net-frozen", "frozen")),
        ("-drifting", ("-drifting", "frozen")),
        ("drifting", ("drifting", "frozen")),
    ],
)
def test_a_backbones_name_tells_its_batch_norm(name, expected):
    assert network_and_batch_norm(name) == expected


def test_comparison_needs_a_frozen_backbone_of_the_same_network():
    assert has_batch_norms(["net", "net-drifting"]) and has_batch_norms(["net-adapted", "x", "net"])
    for names in (["net"], ["net-drifting"], ["net-drifting", "net-adapted"], ["net", "x-drifting"], []):
        assert not has_batch_norms(names)


def test_differences_are_paired_and_the_share_is_of_the_distance():
    """The differences are -16, -17.5 and -17: mean -16.8333, deviation 0.76376, t_2 = 4.30265."""
    (found,) = comparisons(entries_of(*er(28.0, 27.5, 26.0)), paper_of(("er", "plain", 29.0)))
    test = found.tests["drifting"]
    assert (found.network, test.n, found.distance("drifting")) == ("net", 3, -15.0)
    assert test.difference == pytest.approx(-16.8333, abs=1e-4)
    half = 4.30265 * 0.76376 / math.sqrt(3)
    assert (test.low, test.high) == pytest.approx((-16.8333 - half, -16.8333 + half), abs=1e-3)
    assert found.share("drifting") == pytest.approx(100 * 16.8333 / 15, abs=1e-3)
    assert math.isnan(found.share("adapted"))


def test_share_uses_only_the_paired_seeds():
    """Seed 2 has only a frozen run. It moves the frozen mean from 45 to 50, but not the share."""
    runs = [cell("net", [44.0, 46.0, 60.0], seeds=[0, 1, 2])]
    runs += [cell("net-drifting", [34.0, 36.0], seeds=[0, 1])]
    (found,) = comparisons(entries_of(*runs), paper_of(("er", "plain", 25.0)))
    assert found.distance("drifting") == -20.0 and found.share("drifting") == pytest.approx(50.0)


def test_only_common_seeds_count_and_rows_never_mix():
    frozen = [cell("net", [44.0, 45.0, 43.0], seeds=[0, 1, 2]), cell("net", [50.0], buffer=500)]
    drifting = [
        cell("net-drifting", [30.0, 20.0], seeds=[1, 2]),
        cell("net-drifting", [1.0], buffer=1000),
        cell("net-drifting", [2.0, 2.0], protocol="paper+replay"),
        cell("net-drifting", [3.0, 3.0], budget_unit="bytes"),
        cell("other-drifting", [4.0, 4.0]),
    ]
    (found,) = comparisons(entries_of(*frozen, *drifting), no_published())
    assert (found.tests["drifting"].n, found.tests["drifting"].difference) == (2, (-15 - 23) / 2)
    apart = [cell("net", [44.0], seeds=[0]), cell("net-drifting", [30.0], seeds=[1])]
    assert comparisons(entries_of(*apart), no_published()) == [], "no seed in common"


@pytest.mark.parametrize(
    ("drifting", "published", "words"),
    [
        ((36.0, 37.5, 35.0), 29.0, "covers 52 % of the distance; drifting - frozen = -7.83 [-8.55, -7.12]"),
        (
            (28.0, 27.5, 26.0),
            29.0,
            "covers 112 % of the distance, to 1.83 points beyond the published mean; drifting - frozen = "
            "-16.83 [-18.73, -14.94]",
        ),
        (
            (28.0, 27.5, 26.0),
            40.0,
            "passes the published mean by 12.83 points, 421 % of the distance, and lies further from it than "
            "frozen; drifting",
        ),
        ((36.0, 37.5, 35.0), 60.0, "moves away from the published mean; drifting - frozen = -7.83"),
        ((36.0, 37.5, 35.0), 44.9, "frozen lies within 1 point of the published mean; drifting - frozen"),
        (
            (40.0, 46.0, 44.0),
            29.0,
            "no difference from frozen is shown; drifting - frozen = -0.67 [-7.84, ",
        ),
        ((44.0, 45.0, 43.0), 29.0, "no difference from frozen is shown; drifting - frozen = +0.00 [+0.00"),
    ],
)
def test_a_published_number_has_a_sentence(drifting, published, words):
    text = sentence(er(*drifting), published)
    start = (
        f"ER, s_cifar10, Class-IL, buffer 200: published {published:.2f} ± 1.50; here frozen 44.00, drifting "
    )
    assert text.startswith(f"{start}{np.mean(drifting):.2f} ({words}"), text
    assert text.endswith(").")


def test_one_seed_has_no_interval():
    text = sentence([cell("net", [44.0]), cell("net-drifting", [36.5])], 29.0)
    assert text.endswith(
        "drifting 36.50 (covers 50 % of the distance; drifting - frozen = -7.50, one seed, no interval)."
    )


def test_rows_of_one_published_number_share_a_sentence():
    settings = [{"theta": 0.4}, {"theta": 0.8}, {"theta": 0.8, "protocol": "code"}]
    rows = [row for changes in settings for row in er(28.0, 27.5, 26.0, variant="sharc", **changes)]
    adapted = cell("net-adapted", [34.0, 34.5, 33.5], variant="sharc", theta=0.4)
    entries = entries_of(*rows, adapted)
    text, *claims = batch_norm_findings(entries, paper_of(("er", "sharc", 34.0)))
    assert text.startswith(
        "ER+, s_cifar10, Class-IL, buffer 200: published 34.00 ± 1.50; here (theta 0.4, paper"
    )
    assert text.count("frozen 44.00, drifting 27.17") == 3 and text.count("adapted 34.00 (covers 100 %") == 1
    assert "; here (theta 0.8, paper) frozen" in text and "; here (theta 0.8, code) frozen" in text
    assert len(claims) == 1 and "near-perfect recall" in claims[0], "no plain row, no SGD"


def test_numbers_that_were_not_published_have_no_sentence():
    assert batch_norm_findings(entries_of(*er(28.0, 27.5, 26.0)), no_published()) == []
    (table,) = batch_norm_tables(entries_of(*er(28.0, 27.5, 26.0)), no_published())
    (row,) = table.rows
    assert [row[3].text, row[-1].text] == ["–", "–"]


# Frozen: SHARC raises ER on every seed and lowers CLS-ER. Drifting: it raises both; SGD (88) is above both.
CLAIMS = [
    *(cell("net", [a] * 3, "sgd", scenario="task_il") for a in (80.0,)),
    cell("net", [85.0, 86.0, 87.0], scenario="task_il"),
    cell("net", [87.0, 88.0, 90.0], variant="sharc", scenario="task_il"),
    cell("net", [84.0, 84.0, 84.0], "clser", scenario="task_il"),
    cell("net", [83.0, 84.0, 83.0], "clser", "sharc", "task_il"),
    cell("net-drifting", [88.0] * 3, "sgd", scenario="task_il"),
    cell("net-drifting", [85.0, 86.0, 87.0], scenario="task_il"),
    cell("net-drifting", [87.0, 88.0, 90.0], variant="sharc", scenario="task_il"),
    cell("net-drifting", [80.0, 80.0, 80.0], "clser", scenario="task_il"),
    cell("net-drifting", [90.0, 91.0, 90.0], "clser", "sharc", "task_il"),
]
PAPER = paper_of(
    ("clser", "plain", 80.97, "task_il"),
    ("clser", "sharc", 91.39, "task_il"),
    ("sgd", "plain", 92.0, "task_il"),
)


def test_claims_are_counted_under_each_batch_norm():
    *numbers, improves, relative, recall, below = batch_norm_findings(entries_of(*CLAIMS), PAPER)
    assert [text.split(",")[0] for text in numbers] == ["SGD", "CLS-ER", "CLS-ER+"]
    assert improves == (
        "Claim “SHARC improves all methods”: SHARC raises the mean ACC in 1 of 2 pairs under frozen (1 with "
        "a 95 % interval above zero) and 2 of 2 pairs under drifting (2 with a 95 % interval above zero); "
        "every pair is raised under drifting, with every interval above zero under drifting."
    )
    # 250 / 252 - 1 and 271 / 240 - 1; with a constant plain ACC the interval is the t interval of the ratio:
    # deviation 0.57735 both times, half width 4.30265 * 0.57735 / sqrt(3) / 84 and / 80
    assert relative == (
        "Claim “12.9 % for CLS-ER on S-CIFAR-10, buffer 200, Task-IL”: the relative gain is -0.79 % under "
        "frozen (95 % interval -2.50 to +0.91 %) and +12.92 % under drifting (95 % interval +11.12 to "
        "+14.71 %); the published +12.87 % lies inside the interval under drifting."
    )
    assert recall.startswith(
        "Claim “near-perfect recall”: the mean squared error over the dropped entries is 0.243 under frozen "
        "with mean (mean of 2 rows) and 0.243 under drifting with mean"
    )
    assert "modern_hopfield" not in recall
    assert below == (
        "Claim “SGD without memory beats replay in Task-IL”: SGD has a higher mean ACC than 0 of 2 plain "
        "rows under frozen and 2 of 2 plain rows under drifting (1 of 1 in the paper); it beats every plain "
        "row under drifting."
    )


def test_no_claim_beyond_the_compared_rows():
    """Rows that were run under a single batch norm are not counted."""
    alone = [cell("net", [10.0] * 3, "gem", v, "task_il", dataset="s_other") for v in ("plain", "sharc")]
    assert batch_norm_findings(entries_of(*CLAIMS, *alone), PAPER) == batch_norm_findings(
        entries_of(*CLAIMS), PAPER
    )
    one = [c for c in CLAIMS if c["cell"]["backbone"] == "net"]
    assert batch_norm_findings(entries_of(*one), PAPER) == []


def test_claims_are_counted_per_protocol_and_without_intervals_for_one_seed():
    cells = []
    for backbone, gain in (("net", -1.0), ("net-drifting", 2.0)):
        cells.append(cell(backbone, [90.0], "sgd", scenario="task_il"))
        for protocol in ("paper", "code"):
            cells += [
                cell(backbone, [80.0], scenario="task_il", protocol=protocol),
                cell(
                    backbone,
                    [80.0 + gain],
                    variant="sharc",
                    scenario="task_il",
                    protocol=protocol,
                    associative_memory="modern_hopfield",
                ),
            ]
    improves, recall, below = batch_norm_findings(entries_of(*cells), no_published())
    assert improves == (
        "Claim “SHARC improves all methods”: SHARC raises the mean ACC in 0 of 1 pairs under frozen (code) "
        "(no interval, one seed), 0 of 1 pairs under frozen (paper) (no interval, one seed), 1 of 1 pairs "
        "under drifting (code) (no interval, one seed) and 1 of 1 pairs under drifting (paper) (no interval, "
        "one seed); every pair is raised under drifting (code) and drifting (paper)."
    )
    assert recall.endswith(
        "; modern_hopfield returns a stored map, so its recall is exact by construction where that is the "
        "sample's own."
    )
    assert "1 of 1 plain rows under frozen (code), 1 of 1 plain rows under frozen (paper)," in below
    assert "in the paper" not in below


def test_the_table_shows_what_was_measured():
    cells = [*er(28.0, 27.5, 26.0), cell("net-adapted", [40.0, 41.0, 39.0])]
    cells += [cell("net", [75.0, 75.0], "joint"), cell("net-drifting", [70.0, 72.0], "joint")]
    cells += er(36.0, 37.5, 35.0, method="gem")
    (table,) = batch_norm_tables(entries_of(*cells), paper_of(("er", "plain", 29.0)))
    assert table.title == "Batch norm. Class-IL, network net"
    assert table.flat_header == [
        *("Data set", "Buffer", "Model", "ACC paper", "ACC frozen", "ACC drifting", "ACC adapted"),
        *("BWT frozen", "BWT drifting", "drifting - frozen ACC", "drifting - frozen 95 % interval"),
        "drifting - frozen % of the distance",
    ]
    rows = {row[2].text: [item.text for item in row[3:]] for row in table.rows}
    assert list(rows) == ["JOINT", "GEM", "ER"]
    # BWT of constant_matrix: ACC - 90
    assert rows["ER"] == [
        *("29.00 ± 1.50", "44.00 ± 1.00", "27.17 ± 1.04", "40.00 ± 1.00", "-46.00 ± 1.00", "-62.83 ± 1.04"),
        *("-16.83", "[-18.73, -14.94]", "112"),
    ]
    assert rows["JOINT"][1:6] == ["75.00 ± 0.00", "71.00 ± 1.41", "–", "–", "–"]
    assert rows["GEM"][0] == rows["GEM"][3] == rows["GEM"][-1] == "–"
    for words in (
        "Backbone here: net.",
        SETTING,
        "frozen: in evaluation mode",
        "drifting: with batch norm in train",
    ):
        assert words in table.caption
    assert "Seeds: 2 to 3." in table.caption


def test_tables_are_told_apart_by_scenario_network_budget_and_protocol():
    cells = [*er(28.0, 27.5, 26.0), *er(28.0, 27.5, 26.0, scenario="task_il")]
    cells += er(29.0, 28.5, 27.0, protocol="code", budget_unit="nonzero")
    cells += [cell("b-net", [40.0]), cell("b-net-adapted", [41.0])]
    first, second, third = batch_norm_tables(entries_of(*cells), no_published())
    assert [t.title for t in (first, second, third)] == [
        "Batch norm. Task-IL, network net",
        "Batch norm. Class-IL, network b-net",
        "Batch norm. Class-IL, network net",
    ]
    assert first.header[:3] == ["Data set", "Buffer", "Model"]
    assert second.groups[-1] == ("adapted - frozen", 3) and "drifting:" not in second.caption
    assert third.header[:5] == ["Data set", "Budget", "Buffer", "Model", "Protocol"]
    assert [[item.text for item in row[1:5]] for row in third.rows] == [
        ["floats", "200", "ER", "paper"],
        ["nonzero", "200", "ER", "code"],
    ]


def test_files_have_the_numbers_and_where_they_come_from(tmp_path):
    runs = runs_table([*er(28.0, 27.5, 26.0), cell("net", [50.0], "gem")])
    markdown, csv = write_batch_norm(runs, paper_of(("er", "plain", 29.0)), tmp_path, "abc")
    text = markdown.read_text(encoding="utf-8")
    assert text.startswith(
        "# Batch norm: frozen or drifting\n\n- ER, s_cifar10, Class-IL, buffer 200: published"
    )
    assert text.count("## Batch norm. Class-IL, network net") == 1 and "config abc" in text
    frame = pd.read_csv(csv)
    assert len(frame) == 1 and frame["config"][0] == "abc"
    row = frame.iloc[0]
    assert (row["network"], row["method"], row["buffer"], row["drifting_seeds"]) == ("net", "er", 200, 3)
    assert row["drifting_difference"] == pytest.approx(-50.5 / 3)
    assert row["drifting_share"] == pytest.approx(100 * 50.5 / 3 / 15)
    assert (row["frozen_acc_mean"], row["paper_acc_mean"], row["paper_acc_std"]) == (44.0, 29.0, 1.5)
    assert row["drifting_bwt_mean"] == pytest.approx(81.5 / 3 - 90)
    alone = main_tidy([e for e in summarise(runs) if e.backbone == "net-drifting"], no_published())
    assert alone["acc_mean"][0] == row["drifting_acc_mean"]


def test_files_are_written_even_if_nothing_can_be_compared(tmp_path):
    """Snakemake expects the files, so they are written even if no row has two batch norms."""
    cells = [cell("net", [50.0], "gem"), cell("net-drifting", [40.0])]
    markdown, csv = write_batch_norm(runs_table(cells), no_published(), tmp_path)
    assert NOTHING in markdown.read_text(encoding="utf-8")
    assert csv.read_text().startswith("network,scenario,dataset,budget,buffer,method,")
    assert len(tidy(entries_of(*cells), no_published())) == 0


@pytest.fixture
def quick_figures(monkeypatch):
    """Replace the other figures, which are tested elsewhere, by empty drawings."""
    original = write.save

    def save(figure, base):
        if base.name.startswith("first_task"):
            return original(figure, base)
        base.parent.mkdir(exist_ok=True)
        base.with_suffix(".svg").write_text('<svg width="9pt"></svg>')
        return [base.with_suffix(".svg")]

    monkeypatch.setattr(write, "save", save)


@pytest.mark.usefixtures("quick_figures")
def test_grid_with_one_batch_norm_has_no_batch_norm_outputs(tmp_path):
    cells = make_grid(("s_digits",), ("sgd", "er"), (100,), backbone="net", scenarios=["task_il"])
    runs = runs_table(cells)
    names = {path.name for path in write_all_tables(runs, no_published(), tmp_path, [], "c")}
    names |= {path.name for path in write_all_figures(cells, runs, tmp_path)}
    assert "scorecard.md" in names
    assert not any("batch_norm" in name or "first_task" in name for name in names)
    write_report(runs, cells, no_published(), tmp_path, tmp_path / "r.html", "T", {})
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert 'id="batch-norm"' not in page and "use the same frozen features" in page


def drifting_grid() -> list[dict]:
    """Return SGD, JOINT and ER under two batch norms; drifting cells are tested up to the next task only."""
    cells = []
    for backbone in ("net", "net-drifting"):
        methods = ("sgd", "joint", "er")
        cells += make_grid(("s_cifar10",), methods, (200, 500), backbone=backbone, scenarios=["class_il"])
    for one in cells:
        if one["cell"]["backbone"] == "net-drifting":
            for matrix in one["matrix"]["class_il"]:
                matrix[0][2] = None
    return cells


def test_the_figure_follows_the_first_task(tmp_path):
    cells = drifting_grid()
    runs = runs_table(cells)
    entries = summarise(runs)
    curves = first_task_of(cells)
    assert set(curves) == set(curves_of(cells))
    panels = first_task_panels(entries)
    assert [panel.model for panel in panels] == ["SGD", "ER, buffer 200"], "plain rows, smallest buffer"
    assert all(list(panel.entries) == list(panel.joint) == ["frozen", "drifting"] for panel in panels)
    words = first_task_words(entries, curves)
    sgd = next(c for c in cells if (c["cell"]["backbone"], c["cell"]["method"]) == ("net-drifting", "sgd"))
    column = np.array(sgd["matrix"]["class_il"], dtype=float)[:, :, 0].mean(0)
    assert f"drifting from {column[0]:.1f} to {column[2]:.1f} %" in words["alt"]
    assert "s_cifar10, JOINT: frozen " in words["alt"] and "dashed: drifting" in words["caption"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_figure_and_report_are_the_same_twice(tmp_path):
    cells = drifting_grid()
    pages, drawn = [], []
    for folder, chosen in ((tmp_path / "a", cells), (tmp_path / "b", cells[::-1])):
        runs = runs_table(chosen)
        written = write_all_figures(chosen, runs, folder)
        drawn.append([path for path in written if path.stem == "first_task_class_il"])
        svgs = [path for path in written if path.suffix == ".svg"]
        write_report(runs, chosen, no_published(), folder, folder / "r.html", "T", {}, drawn=svgs)
        pages.append((folder / "r.html").read_text(encoding="utf-8"))
    assert [path.suffix for path in drawn[0]] == [".svg", ".png", ".pdf", ".json"]
    for one, two in zip(*drawn, strict=True):
        assert one.read_bytes() == two.read_bytes()
    about = json.loads(drawn[0][-1].read_text(encoding="utf-8"))
    assert (about["kind"], about["study"], about["scenario"]) == ("first_task", None, "class_il")
    assert pages[0] == pages[1]
    section = pages[0][pages[0].index('<section id="batch-norm">') :]
    section = section[: section.index("</section>")]
    assert "Claim “SHARC improves all methods”" in section and "Batch norm. Class-IL, network net" in section
    assert section.index("<svg") < section.index("<table") < section.index("Claim “SHARC")
    assert 'id="studies"' not in pages[0]
    assert "use backbones with frozen weights" in pages[0]
    checker = Checker()
    checker.feed(pages[0])
    assert checker.open == []


@pytest.mark.parametrize(
    ("cells", "models"),
    [
        pytest.param([("er", "sharc")], ["ER+, buffer 200"], id="SHARC alone"),
        pytest.param([("joint", "plain")], ["JOINT"], id="JOINT alone"),
    ],
)
def test_panels_of_small_grids(cells, models):
    found = [cell(name, [50.0], m, v) for m, v in cells for name in ("net", "net-drifting")]
    panels = first_task_panels(entries_of(*found))
    assert [panel.model for panel in panels] == models
    assert [panel.place for panel in panels] == ["s_cifar10"]


def test_panels_name_the_network_and_leave_out_what_is_frozen_alone():
    cells = [cell(f"{net}{end}", [50.0]) for net in ("a", "b") for end in ("", "-adapted")]
    cells += [cell("a", [50.0], buffer=100), cell("c", [50.0])]
    panels = first_task_panels(entries_of(*cells))
    assert [(p.place, p.model) for p in panels] == [
        ("s_cifar10, a", "ER, buffer 200"),
        ("s_cifar10, b", "ER, buffer 200"),
    ]
