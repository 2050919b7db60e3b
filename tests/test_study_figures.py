"""Figures of studies: what is drawn, and their alternative texts."""

import json

import numpy as np
import pytest
from result_factory import constant_matrix, make_document, make_grid

from sharc_core.common.errors import UserError
from sharc_core.figures import alt_text, write_figures
from sharc_core.figures.protocols import protocols_figure
from sharc_core.figures.settings import settings_figure
from sharc_core.figures.theta import theta_figure
from sharc_core.grid.sub_grid import MAIN_FIGURES, SubGrid
from sharc_core.results.runs import runs_table
from sharc_core.results.summary import summarise


def cell(method, value, variant="plain", **axes):
    """Return a cell of two seeds with Class-IL ACC one point below and above `value`."""
    return document(method, variant, [value - 1, value + 1], **axes)


def document(method, variant, accs, **axes):
    matrices = {"task_il": constant_matrix([99.0] * len(accs), 99.0), "class_il": constant_matrix(accs)}
    return make_document(method, variant, matrices=matrices, seeds=range(len(accs)), **axes)


def entries_of(cells, scenario="class_il"):
    return [e for e in summarise(runs_table(cells)) if e.scenario == scenario]


SWEEP = [cell("sgd", 20.0), cell("er", 40.0)]
SWEEP += [cell("er", value, "sharc", theta=theta) for theta, value in ((0.9, 30.0), (0.1, 45.0), (0.5, 50.0))]
MEMORIES = [cell("sgd", 20.0), cell("gem", 40.0)]
MEMORIES += [
    cell("gem", value, "sharc", associative_memory=name)
    for name, value in (("mean", 50.0), ("none", 30.0), ("pcn", 45.0))
]


def test_theta_is_drawn_in_its_order_with_deviations_and_levels():
    (panel,) = theta_figure(entries_of(SWEEP)).axes
    curve = next(line for line in panel.lines if len(line.get_xdata()) == 3)
    assert list(curve.get_xdata()) == [0.1, 0.5, 0.9]
    assert curve.get_ydata() == pytest.approx([45, 50, 30])
    (band,) = panel.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((30 - 2**0.5, 50 + 2**0.5))
    levels = [line.get_ydata()[0] for line in panel.lines if line is not curve]
    assert levels == pytest.approx([20, 40])
    assert panel.get_title() == "s_digits, buffer 100"


def test_every_buffer_data_set_and_method_of_a_sweep_is_drawn():
    cells = [
        cell(method, 50.0, "sharc", theta=theta, buffer=buffer, dataset=dataset)
        for method in ("er", "gem")
        for theta in (0.1, 0.9)
        for buffer in (100, 300)
        for dataset in ("a", "b")
    ]
    figure = theta_figure(entries_of(cells))
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert [p.get_title() for p in shown] == [f"{d}, buffer {b}" for d in "ab" for b in (100, 300)]
    assert [len(p.lines) for p in shown] == [2] * 4
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["GEM+", "ER+"]


def test_sweeps_under_several_settings_are_lines_of_their_own():
    cells = [
        cell("er", value, "sharc", theta=theta, associative_memory=name)
        for name, value in (("mean", 50.0), ("none", 30.0))
        for theta in (0.1, 0.9)
    ]
    figure = theta_figure(entries_of(cells))
    curves = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert curves == [pytest.approx([50, 50]), pytest.approx([30, 30])]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["ER+", "mean", "none"]


def test_settings_are_drawn_in_the_order_of_their_acc_with_bytes_beside():
    entries = entries_of(MEMORIES)
    left, right = settings_figure(entries, "associative_memory").axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["none", "pcn", "mean"]
    points = next(line for line in left.lines if len(line.get_xdata()) == 3)
    assert points.get_xdata() == pytest.approx([30, 45, 50])
    assert sorted(line.get_xdata()[0] for line in left.lines if line is not points) == pytest.approx([20, 40])
    (bars,) = left.collections
    assert np.ptp(bars.get_segments()[0][:, 0]) == pytest.approx(2 * 2**0.5)
    by_acc = sorted((e for e in entries if e.is_sharc), key=lambda e: e.acc)
    assert right.lines[0].get_xdata().tolist() == [e.total_bytes for e in by_acc]
    plain = next(e for e in entries if e.method == "gem" and not e.is_sharc)
    assert right.lines[1].get_xdata()[0] == plain.total_bytes


def protocols():
    """Return plain ER and SHARC under several protocols, one of which has a separate plain run."""
    return [
        cell("er", 40.0),
        cell("er", 50.0, "sharc"),
        cell("er", 55.0, "sharc", protocol="paper+read", read="at_store"),
        cell("er", 30.0, protocol="paper+replay"),
        cell("er", 35.0, "sharc", protocol="paper+replay"),
    ]


def test_each_protocol_stands_beside_the_plain_run_that_it_leads_to():
    left, right = protocols_figure(entries_of(protocols())).axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["paper", "paper+read", "paper+replay"]
    plain, sharc = (line for line in left.lines if len(line.get_xdata()) == 3)
    assert plain.get_xdata() == pytest.approx([40, 40, 30]) and plain.get_markerfacecolor() == "white"
    assert sharc.get_xdata() == pytest.approx([50, 55, 35]) and sharc.get_markerfacecolor() != "white"
    assert list(sharc.get_ydata()) == [2, 1, 0]
    assert [len(line.get_xdata()) for line in right.lines] == [3, 3]
    text = alt_text("protocol", entries_of(protocols()))
    assert "ER, s_digits, buffer 100: paper 40.0 ± 1.4 % and with SHARC 50.0 ± 1.4 %; paper+read 40.0" in text
    assert text.endswith("paper+replay 30.0 ± 1.4 % and with SHARC 35.0 ± 1.4 %.")


def test_words_of_a_sweep_say_where_it_is_best_and_worst():
    text = alt_text("theta", entries_of(SWEEP))
    assert text == (
        "Line plots for Class-IL: ACC against theta. ER+, s_digits, buffer 100: theta from 0.1 to 0.9, best "
        "50.0 ± 1.4 % at 0.5, worst 30.0 ± 1.4 % at 0.9; ER 40.0 ± 1.4 %, SGD 20.0 ± 1.4 %."
    )


def test_words_of_settings_give_every_value():
    text = alt_text("associative_memory", entries_of(MEMORIES))
    assert (
        "mean 50.0 ± 1.4 %, " in text and "; pcn 45.0 ± 1.4 %, " in text and "; none 30.0 ± 1.4 %, " in text
    )
    assert text.index("mean 50") < text.index("pcn 45") < text.index("none 30")
    assert text.endswith("; GEM 40.0 ± 1.4 %, SGD 20.0 ± 1.4 %.")
    assert text.count("MB") + text.count("kB") == 3


def test_words_of_curves_give_the_best_and_the_worst_of_a_panel():
    cells = [cell("joint", 90.0), cell("sgd", 20.0), cell("er", 40.0), cell("er", 50.0, "sharc")]
    for kind in ("learning_curves", "bytes"):
        text = alt_text(kind, entries_of(cells))
        assert "s_digits: in the end ER+ 50.0 ± 1.4 % (buffer 100" in text, text
        assert "SGD 20.0 ± 1.4 %" in text and "JOINT 90.0 ± 1.4 %" in text
    one = entries_of([document("er", "plain", [50.0])])
    assert "ER 50.0 % (buffer 100) is best." in alt_text("learning_curves", one)


@pytest.mark.slow
def test_studies_have_figures_from_their_own_rows_and_nothing_else(tmp_path):
    found = make_grid(("s_digits",), ("sgd", "er"), buffers=(100,))
    members = [{scenario: ["main"] for scenario in ("task_il", "class_il")} for _ in found]
    members[0]["class_il"] = ["main", "sweep"]
    for theta in (0.2, 0.5):
        found.append(make_document("er", "sharc", theta=theta))
        members.append({"class_il": ["sweep"]})
    studies = {"sweep": SubGrid(figure="theta", title="Channels dropped"), "table_only": SubGrid()}
    paths = write_figures(found, runs_table(found, members), tmp_path, studies)
    kinds = (*MAIN_FIGURES, "sharc_gain", "compute")
    names = {f"{name}_{scenario}" for name in kinds for scenario in ("task_il", "class_il")} | {
        "sweep_class_il"
    }
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{n}.{kind}" for n in names for kind in ("svg", "png", "pdf", "json")
    }
    assert set(tmp_path.iterdir()) == set(paths)
    words = json.loads((tmp_path / "sweep_class_il.json").read_text())
    assert list(words) == ["kind", "study", "scenario", "title", "alt", "caption", "origin"]
    assert (words["kind"], words["study"], words["scenario"]) == ("theta", "sweep", "class_il")
    assert words["title"] == "Channels dropped, Class-IL"
    assert "theta from 0.2 to 0.5" in words["alt"] and "SGD" in words["alt"] and words["caption"]
    main = json.loads((tmp_path / "bytes_class_il.json").read_text())
    assert (main["study"], main["title"]) == ("main", "Accuracy against bytes, Class-IL")


@pytest.mark.slow
def test_a_study_without_runs_is_one_line(tmp_path):
    found = make_grid(("s_digits",), ("er",), buffers=(100,))
    with pytest.raises(UserError, match=r"no run of study sweep"):
        write_figures(found, runs_table(found), tmp_path, {"sweep": SubGrid(figure="theta")})


def test_curves_of_one_buffer_stand_side_by_side(tmp_path):
    from sharc_core.figures.curves import curves_figure, curves_of

    for buffers, shape in (((100,), (1, 3)), ((100, 300), (3, 2))):
        found = make_grid(("a", "b", "c"), ("sgd", "er"), buffers=buffers)
        figure = curves_figure(entries_of(found), curves_of(found))
        assert figure.axes[0].get_gridspec().get_geometry() == shape
        # sgd, and er plain and SHARC, in every panel
        assert [len(panel.lines) for panel in figure.axes] == [3] * 3 * len(buffers)
