"""Tables in the paper's layout: numbers, bold, dashes and published values in Markdown, CSV and LaTeX."""

import math
import random
import re

import pandas as pd
import pytest
from result_factory import constant_matrix, make_document, make_grid

from sharc_core.common.errors import UserError
from sharc_core.common.formats import bytes_text, mean_text, natural_key, number_text
from sharc_core.results.comparisons import equal_bytes, matched, paired
from sharc_core.results.display_names import method_name
from sharc_core.results.published import load_published, no_published, published_lookup
from sharc_core.results.runs import runs_table
from sharc_core.results.summary import summarise
from sharc_core.results.table_formats import Item, Table, escape_latex, to_latex, to_markdown
from sharc_core.results.tables import main_tables, pair_tables, tidy, write_tables

PAPER = "workflow/paper/paper_results.csv"


def document(method, accs, variant="plain", buffer=200, **changes):
    """Return a document with these ACC values in Task-IL, one per seed, over two tasks."""
    matrices = {"task_il": constant_matrix(accs), "class_il": constant_matrix([0.0] * len(accs), 0.0)}
    if method == "joint":
        matrices = {k: [[[math.nan] * 2, m[1]] for m in v] for k, v in matrices.items()}
    return make_document(
        method,
        variant,
        matrices=matrices,
        buffer=buffer,
        seeds=range(len(accs)),
        **({"dataset": "s_cifar10", "scenarios": ["task_il"]} | changes),
    )


def small_grid():
    return [
        document("joint", [95.0, 97.0]),
        document("sgd", [92.0, 93.0]),
        document("er", [85.0, 87.0]),
        document("er", [90.0, 92.0], "sharc"),
        document("derpp", [91.0, 91.0]),
        document("derpp", [88.0, 89.0], "sharc"),
        document("er", [86.0, 86.0], buffer=500),
        document("mine", [80.0, 81.0], buffer=500),
    ]


# †: two equal seeds have an interval of width zero; other intervals are +-12.7 deviations wide
GOLDEN = """\
| Buffer   | Model   |    s_cifar10 ACC |   s_cifar10 AIA |   s_cifar10 BWT |   s_cifar10 paper |   s_cifar10 diff. |   s_cifar10 bytes |
|:---------|:--------|-----------------:|----------------:|----------------:|------------------:|------------------:|------------------:|
| –        | JOINT   |     96.00 ± 1.41 |               – |               – |             93.49 |             +2.51 |           8.21 kB |
| –        | SGD     |     92.50 ± 0.71 |    91.25 ± 0.35 |     2.50 ± 0.71 |             92.31 |             +0.19 |           8.21 kB |
| 200      | ER      |     86.00 ± 1.41 |    88.00 ± 0.71 |    -4.00 ± 1.41 |             86.36 |             -0.36 |           3.29 MB |
| 200      | ER+     | **91.00 ± 1.41** |    90.50 ± 0.71 |     1.00 ± 1.41 |             91.48 |             -0.48 |           3.62 MB |
| 200      | DER++   | **91.00 ± 0.00** |    90.50 ± 0.00 |     1.00 ± 0.00 |            84.94† |             +6.06 |           3.29 MB |
| 200      | DER+++  |     88.50 ± 0.71 |    89.25 ± 0.35 |    -1.50 ± 0.71 |             89.89 |             -1.39 |           3.62 MB |
| 500      | ER      | **86.00 ± 0.00** |    88.00 ± 0.00 |    -4.00 ± 0.00 |            88.05† |             -2.05 |           8.20 MB |
| 500      | MINE    |     80.50 ± 0.71 |    85.25 ± 0.35 |    -9.50 ± 0.71 |                 – |                 – |           8.20 MB |
"""  # noqa: E501


@pytest.fixture
def published(request):
    return load_published(request.config.rootpath / PAPER)


def test_golden_markdown(published, tmp_path):
    write_tables(runs_table(small_grid()), published, tmp_path)
    text = (tmp_path / "task_il.md").read_text(encoding="utf-8")
    assert GOLDEN in text
    for part in (
        "ACC = mean_j a[T][j]",
        "AIA = mean_i mean_(j <= i) a[i][j]",
        "BWT = mean_(j < T) (a[T][j] - a[j][j])",
        "Seeds: 2.",
        "backbone tiny, budget in floats",
        "theta 0.8, associative memory mean, saliency gradient, read per_task",
    ):
        assert part in text


def test_only_scenarios_with_runs_have_files(published, tmp_path):
    paths = write_tables(runs_table(make_grid(scenarios=["class_il"])), published, tmp_path)
    names = ["class_il.csv", "class_il.md", "class_il.tex", "class_il_pairs.csv"]
    assert sorted(path.name for path in paths) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_csv_has_the_numbers_of_the_markdown_at_full_precision(published, tmp_path):
    write_tables(runs_table(small_grid()), published, tmp_path)
    frame = pd.read_csv(tmp_path / "task_il.csv")
    lines = GOLDEN.splitlines()[2:]
    shown = [[field.strip().strip("*") for field in line.strip("|").split("|")] for line in lines]
    again = [
        [
            "–" if pd.isna(row.buffer) else str(int(row.buffer)),
            row.model,
            mean_text(row.acc_mean, row.acc_std),
            mean_text(row.aia_mean, row.aia_std),
            mean_text(row.bwt_mean, row.bwt_std),
            number_text(row.paper_acc_mean) + ("†" if row.paper_outside_interval is True else ""),
            number_text(row.difference, signed=True),
            bytes_text(row.total_bytes),
        ]
        for row in frame.itertuples()
    ]
    assert again == shown
    assert frame["best"].tolist() == ["**" in line for line in lines]
    assert frame["acc_std"][0] == pytest.approx(math.sqrt(2), rel=1e-15)


def test_joints_published_bwt_is_dropped(published):
    assert published.loc[published["method"] == "joint", "bwt_mean"].isna().all()
    row = published_lookup(published)["class_il", "s_miniimagenet", 500, "clser", "sharc"]
    assert row == {"acc_mean": 26.31, "acc_std": 1.55, "bwt_mean": -52.68, "bwt_std": 0.55}
    assert len(published) == 156


def test_data_sets_that_the_paper_lacks_have_no_paper_columns(published):
    (table,) = main_tables(summarise(runs_table(make_grid(scenarios=["task_il"]))), published)
    assert table.header == ["Buffer", "Model"] + ["ACC", "AIA", "BWT", "bytes"] * 2
    assert table.groups == [("", 2), ("s_digits", 4), ("s_glyphs", 4)]
    assert "paper" not in table.caption


def test_single_seed_and_single_task_are_dashes():
    one = make_document("er", seeds=[0], tasks=1, matrices={"task_il": [[[90.0]]], "class_il": [[[90.0]]]})
    (table,) = main_tables(summarise(runs_table([one]))[:1], no_published())
    assert [item.text for item in table.rows[0][:5]] == ["100", "ER", "90.00 ± –", "90.00 ± –", "–"]
    assert "Seeds: 1." in table.caption


@pytest.mark.parametrize(
    ("axis", "values", "labels"),
    [
        ("theta", [0.4, 0.8], ["ER+ (theta 0.4)", "ER+ (theta 0.8)"]),
        ("mass", [0.5, 0.9], ["ER+ (mass 0.5)", "ER+ (mass 0.9)"]),
        ("associative_memory", ["mean", "none"], ["ER+ (mean)", "ER+ (none)"]),
        ("count_associative_memory", [False, True], ["ER+ (AM not charged)", "ER+ (AM charged)"]),
    ],
)
def test_labels_carry_the_settings_that_vary(axis, values, labels):
    cells = [document("er", [85.0, 86.0])]
    fixed = {"theta": None} if axis == "mass" else {}
    cells += [document("er", [88.0, 89.0], "sharc", **fixed, **{axis: value}) for value in values]
    (table,) = main_tables(summarise(runs_table(cells)), no_published())
    assert [row[1].text for row in table.rows] == ["ER", *labels]
    (pairs,) = pair_tables(summarise(runs_table(cells)))
    assert [row[2].text for row in pairs.rows] == labels


def test_several_settings_vary_at_once():
    cells = [
        document("er", [88.0], "sharc", theta=theta, associative_memory=memory)
        for theta in (0.4, 0.8)
        for memory in ("mean", "none")
    ]
    (table,) = main_tables(summarise(runs_table(cells)), no_published())
    assert table.rows[0][1].text == "ER+ (theta 0.4, mean)"
    assert "theta" not in table.caption


def test_a_block_per_backbone_and_budget_unit_with_the_baselines_in_each():
    cells = [document("sgd", [90.0], backbone=b) for b in ("b2", "b10")]
    cells += [document("er", [85.0], backbone="b2", budget_unit=u) for u in ("floats", "bytes")]
    cells.append(document("er", [85.0], backbone="b10"))
    tables = main_tables(summarise(runs_table(cells)), no_published())
    assert [table.title for table in tables] == [
        "Task-IL, backbone b2, budget in bytes",
        "Task-IL, backbone b2, budget in floats",
        "Task-IL, backbone b10, budget in floats",
    ]
    assert all([row[1].text for row in table.rows] == ["SGD", "ER"] for table in tables)


def budgets_grid():
    """Return plain ER and ER+ (one theta, two masses) for three splits and two storages, all ACC distinct."""
    cells, acc = [document("sgd", [10.0])], 20.0
    for split in ("equal", "carry", [2.0, 1.0]):
        for storage in ("float16", "int8"):
            budget = {"budget_split": split, "storage": storage}
            cells.append(document("er", [acc], **budget))
            for n, (theta, mass) in enumerate(((0.5, None), (None, 0.5), (None, 0.9)), 1):
                cells.append(document("er", [acc + n * n], "sharc", theta=theta, mass=mass, **budget))
            acc += 10
    return cells


def test_a_block_per_split_and_storage_with_a_row_per_mass(tmp_path):
    """Every result is in exactly one block, has its own label, and is paired within its budget."""
    cells = budgets_grid()
    random.Random(0).shuffle(cells)
    entries = summarise(runs_table(cells))
    tables = main_tables(entries, no_published())
    first = {  # ACC of plain ER in each block
        "floats": 20,
        "floats, carried over": 40,
        "floats, carried over, int8": 50,
        "floats, int8": 30,
        "floats, split 2/1": 60,
        "floats, split 2/1, int8": 70,
    }
    assert [table.title for table in tables] == [
        f"Task-IL, backbone tiny, budget in {name}" for name in first
    ]
    for table, acc in zip(tables, first.values(), strict=True):
        rows = {row[1].text: row[2].sort for row in table.rows}
        assert len(rows) == len(table.rows) == 5
        assert rows == {
            "SGD": 10,
            "ER": acc,
            "ER+ (theta 0.5)": acc + 1,
            "ER+ (mass 0.5)": acc + 4,
            "ER+ (mass 0.9)": acc + 9,
        }
        assert "theta" not in table.caption and "mass" not in table.caption
    pairs = pair_tables(entries)
    assert [table.title.removeprefix("SHARC against plain. ") for table in pairs] == [t.title for t in tables]
    for table in pairs:
        assert [(row[2].text, row[3].sort) for row in table.rows] == [
            ("ER+ (mass 0.5)", 4),
            ("ER+ (mass 0.9)", 9),
            ("ER+ (theta 0.5)", 1),
        ]
    all_pairs = paired(entries)  # over all blocks, as in the report
    assert len(all_pairs) == 6 * 3
    assert all(pair.plain.budget == pair.sharc.budget for pair in all_pairs)
    write_tables(runs_table(cells), no_published(), tmp_path)
    frame = pd.read_csv(tmp_path / "task_il.csv")
    assert not frame.duplicated(["budget_unit", "model"]).any()
    assert sorted(set(frame["budget_unit"])) == sorted(first)
    again = pd.read_csv(tmp_path / "task_il_pairs.csv")
    assert again.groupby("budget")["difference"].apply(sorted).tolist() == [[1.0, 4.0, 9.0]] * 6


def test_a_mass_that_does_not_vary_is_in_the_caption():
    cells = [document("er", [85.0]), document("er", [88.0], "sharc", theta=None, mass=0.9)]
    (table,) = main_tables(summarise(runs_table(cells)), no_published())
    assert [row[1].text for row in table.rows] == ["ER", "ER+"]
    assert "+ marks SHARC (mass 0.9, associative memory mean, " in table.caption


def test_bold_is_per_buffer_and_data_set_and_never_a_baseline():
    cells = [document("joint", [99.0])]
    for dataset, buffer, er, mer in (
        ("a", 200, 80, 81),
        ("a", 500, 83, 82),
        ("b", 200, 70, 60),
        ("b", 500, 1, 2),
    ):
        cells += [document("er", [er], dataset=dataset, buffer=buffer)]
        cells += [document("mer", [mer], dataset=dataset, buffer=buffer)]
    (table,) = main_tables(summarise(runs_table(cells)), no_published())
    bold = [(r[0].text, r[1].text, i) for r in table.rows for i, item in enumerate(r) if item.bold]
    assert bold == [("200", "ER", 6), ("200", "MER", 2), ("500", "ER", 2), ("500", "MER", 6)]


def test_a_data_set_without_a_row_is_dashes():
    cells = [document("er", [80.0], dataset="a"), document("mer", [80.0], dataset="b")]
    (table,) = main_tables(summarise(runs_table(cells)), no_published())
    assert [item.text for item in table.rows[0][6:]] == ["–"] * 4


def test_pairs_compare_the_same_seeds(tmp_path):
    write_tables(runs_table(small_grid()), no_published(), tmp_path)
    pairs = pd.read_csv(tmp_path / "task_il_pairs.csv")
    assert pairs["method"].tolist() == ["er", "derpp"]
    assert pairs["difference"].tolist() == [5.0, -2.5]
    assert pairs["seeds"].tolist() == [2, 2]
    # differences -3 and -2: t_{1, 0.975} = 12.7062, s / sqrt(2) = 0.5
    assert pairs["low"][1] == pytest.approx(-2.5 - 12.7062 * 0.5, rel=1e-5)
    text = (tmp_path / "task_il.md").read_text(encoding="utf-8")
    assert re.search(r"\| DER\+\+\+ +\| +-2.50 \| +\[-8.85, \+3.85\] \|", text)


def test_pairs_take_common_seeds_only_and_a_grid_without_pairs_has_a_header(tmp_path):
    cells = [document("er", [80.0, 81.0, 82.0])]
    sharc = document("er", [85.0, 90.0], "sharc")
    sharc["seeds"] = sharc["trainings"][0]["seeds"] = [1, 7]
    (table,) = pair_tables(summarise(runs_table([*cells, sharc])))
    assert [item.text for item in table.rows[0][3:7]] == ["+4.00", "–", "–", "–"]
    write_tables(runs_table(cells), no_published(), tmp_path)
    assert pd.read_csv(tmp_path / "task_il_pairs.csv").empty


def test_equal_bytes_takes_the_best_plain_row_that_keeps_no_more():
    entries = summarise(runs_table([c for c in small_grid() if c["cell"]["method"] != "mine"]))
    case = next(c for c in equal_bytes(entries) if c.sharc.method == "er")
    assert (case.same_method.buffer, case.same_method.acc) == (200, 86.0)  # buffer 500 keeps more bytes
    assert (case.any_method.method, case.any_method.acc) == ("sgd", 92.5)  # and JOINT is excluded
    without = [e for e in entries if e.method == "er" and (e.is_sharc or e.buffer == 500)]
    assert equal_bytes(without)[0].same_method is None


@pytest.mark.parametrize(
    ("plain", "any_method", "same_method"),
    [
        pytest.param([89.0, 89.0], (0, 1), (0, 1), id="a lower ACC does not match"),
        pytest.param([90.0, 92.0], (1, 1), (1, 1), id="an equal ACC at no more bytes matches"),
        pytest.param([91.5, 91.5], (1, 1), (1, 1), id="a higher ACC matches"),
    ],
)
def test_plain_matches_sharc_at_equal_bytes(plain, any_method, same_method):
    entries = summarise(runs_table([document("er", plain), document("er", [90.0, 92.0], "sharc")]))
    assert (matched(entries), matched(entries, same_method=True)) == (any_method, same_method)


def test_sharc_rows_without_a_plain_row_of_no_more_bytes_are_not_counted():
    cells = [document("er", [99.0, 99.0], buffer=500), document("er", [90.0, 92.0], "sharc")]
    assert matched(summarise(runs_table(cells))) == (0, 0)  # the plain row keeps more bytes
    cells.append(document("sgd", [91.0, 91.0]))
    entries = summarise(runs_table(cells))
    assert (matched(entries), matched(entries, same_method=True)) == ((1, 1), (0, 0))


def test_tidy_has_a_row_per_table_row_and_data_set():
    entries = [e for e in summarise(runs_table(make_grid())) if e.scenario == "class_il"]
    frame = tidy(entries, no_published())
    assert len(frame) == len(entries) == 2 * (2 + 6 * 2 * 2)
    assert frame["budget_unit"].unique().tolist() == ["floats"]


HOSTILE = r"a_b & 50% #1 $x$ {y} ~^\z <i> | *c*"


def test_latex_escapes():
    assert escape_latex(HOSTILE) == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}z "
        r"\textless{}i\textgreater{} | *c*"
    )
    assert escape_latex("1 ± 2 –") == r"1 $\pm$ 2 --"


def test_latex_structure(published):
    (table,) = main_tables(summarise(runs_table(small_grid())), published)
    text = to_latex(table)
    for once in (
        r"\toprule",
        r"\bottomrule",
        r"\begin{tabular}{llrrrrrr}",
        r"\multicolumn{6}{c}{s\_cifar10}",
    ):
        assert text.count(once) == 1
    assert text.count(r"\cmidrule(lr){3-8}") == 1
    assert text.count(r"\midrule") == 3  # one below the header and one above each buffer
    for environment in ("table*", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    assert r"\textbf{91.00 $\pm$ 1.41}" in text
    assert r"$-$4.00 $\pm$ 1.41" in text
    assert re.sub(r"\\[{}]", "", text).count("{") == re.sub(r"\\[{}]", "", text).count("}")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [line.count("&") for line in rows[1:]] == [7] * 9
    assert rows[0].count("&") == 2  # two empty fields, then one over six columns
    assert text.isascii()


def test_markdown_escapes_what_would_break_a_row():
    table = Table("T", "c", [("", 2)], ["a|b", "c"], [[Item("x|y*"), Item("<script>")]])
    text = to_markdown(table)
    assert r"a\|b" in text
    assert r"x\|y\*" in text
    assert r"\<script>" in text
    assert len({line.replace(r"\|", "").count("|") for line in text.splitlines() if "|" in line}) == 1


def test_names_and_numbers():
    assert [method_name(m) for m in ("derpp", "agem", "my_own")] == ["DER++", "A-GEM", "MY_OWN"]
    assert [bytes_text(b) for b in (0, 999, 1000, 20_520, 999_600, 3_614_488, 2.5e9, math.nan)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "20.5 kB",
        "1.00 MB",
        "3.61 MB",
        "2.50 GB",
        "–",
    ]
    assert [number_text(v) for v in (-0.001, 0.005, -1.005)] == ["0.00", "0.01", "-1.00"]
    assert [number_text(v, signed=True) for v in (-0.001, 0.0, 1.5)] == ["+0.00", "+0.00", "+1.50"]
    assert sorted(["s10", "s9", "s100", "a"], key=natural_key) == ["a", "s9", "s10", "s100"]


def test_a_published_file_without_the_columns_is_refused(tmp_path):
    path = tmp_path / "paper.csv"
    with pytest.raises(UserError, match="missing"):
        load_published(path)
    path.write_text("scenario,dataset\n")
    with pytest.raises(UserError, match="no column 'buffer'"):
        load_published(path)


def test_unknown_scenarios_are_refused(tmp_path):
    runs = runs_table(small_grid())
    runs["scenario"] = "instance_il"
    with pytest.raises(UserError, match="unknown scenario 'instance_il'"):
        write_tables(runs, no_published(), tmp_path)
