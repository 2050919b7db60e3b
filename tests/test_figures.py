"""Figures: their files, reproducible bytes, and content."""

import itertools
import random

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from result_factory import constant_matrix, make_document, make_grid

from sharc_core.figures import COLOURS, STYLE, curves_of, look, pareto_front, write_figures
from sharc_core.figures.style import bytes_axis
from sharc_core.grid.axes import AXES
from sharc_core.results.runs import runs_table
from sharc_core.results.summary import summarise

CELLS = make_grid(datasets=("s_digits",), methods=("sgd", "joint", "er"))


def entries_of(cells, scenario="class_il"):
    return [e for e in summarise(runs_table(cells)) if e.scenario == scenario]


@pytest.mark.slow
def test_writes_these_files_and_no_others(tmp_path):
    paths = write_figures(CELLS, runs_table(CELLS), tmp_path / "figures")
    expected = {
        f"{name}_{scenario}.{kind}"
        for name in ("learning_curves", "bytes", "sharc_gain", "compute")
        for scenario in ("task_il", "class_il")
        for kind in ("svg", "png", "pdf", "json")
    }
    assert {path.name for path in paths} == expected == {p.name for p in (tmp_path / "figures").iterdir()}
    for path in paths:
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5  # not an empty image


@pytest.mark.slow
def test_bytes_depend_on_neither_the_order_of_cells_nor_the_users_style(tmp_path):
    shuffled = CELLS[:]
    random.Random(1).shuffle(shuffled)
    first = write_figures(CELLS, runs_table(CELLS), tmp_path / "a")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "axes.facecolor": "red"}):
        second = write_figures(shuffled, runs_table(shuffled), tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 20
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
        assert b"<dc:date>" not in one.read_bytes()


@pytest.mark.slow
def test_only_scenarios_with_runs_are_drawn(tmp_path):
    cells = make_grid(("s_digits",), ("er",), scenarios=["task_il"])
    paths = write_figures(cells, runs_table(cells), tmp_path)
    names = {f"{name}_task_il" for name in ("learning_curves", "bytes", "sharc_gain", "compute")}
    assert {path.stem for path in paths} == names


@pytest.mark.slow
@pytest.mark.parametrize(
    "cells",
    [
        pytest.param([make_document("sgd")], id="baselines only"),
        pytest.param([make_document("er", seeds=[0])], id="one seed"),
        pytest.param([make_document("er", tasks=1), make_document("joint", tasks=1)], id="one task"),
        pytest.param([make_document("er", dataset="$x_$ ^ & <b>")], id="name with markup"),
        pytest.param(
            [make_document(m, backbone=b) for m in ("er", "mine", "other") for b in ("b1", "b2")],
            id="backbones and added methods",
        ),
        pytest.param(
            [make_document("er", budget_unit=unit) for unit in ("floats", "bytes")],
            id="budget units",
        ),
    ],
)
def test_unusual_grids(cells, tmp_path):
    paths = write_figures(cells, runs_table(cells), tmp_path)
    assert len(paths) == 24
    assert all(path.stat().st_size > 1000 for path in paths if path.suffix != ".json")


def test_curves_are_keyed_by_the_axes_of_their_entries():
    curves = curves_of(CELLS)
    entries = summarise(runs_table(CELLS))
    assert set(curves) == {tuple(getattr(e, name) for name in AXES) for e in entries}
    assert all(curve.shape == (3, 3) for curve in curves.values())


def test_pareto_front_has_the_best_acc_up_to_each_number_of_bytes():
    def cell(method, value, buffer, variant="plain"):
        matrices = {"task_il": constant_matrix([value]), "class_il": constant_matrix([0.0], 0.0)}
        return make_document(method, variant, matrices=matrices, buffer=buffer, seeds=[0])

    cells = [cell("joint", 99.0, None), cell("sgd", 70.0, None), cell("er", 60.0, 100)]
    cells += [cell("mer", 80.0, 100), cell("er", 80.0, 300), cell("er", 85.0, 300, "sharc")]
    entries = entries_of(cells, "task_il")
    bytes_of = {(e.method, e.variant, e.buffer): e.total_bytes for e in entries}
    assert pareto_front(entries) == [
        (bytes_of["sgd", "plain", None], 70.0),
        (bytes_of["mer", "plain", 100], 80.0),
        (bytes_of["er", "sharc", 300], 85.0),
    ]


@pytest.mark.parametrize(
    "values", [[1.9e6, 2.0e6], [1.6e6, 2.0e6], [5e3, 4e5], [9.9e5, 1.01e6], [20e3, 1e6], [7], [1e3, 5e9]]
)
def test_labels_of_a_bytes_axis_do_not_overlap(values):
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(2.9, 1.2), layout="constrained")  # as narrow as in the figures of studies
        panel = figure.subplots()
        bytes_axis(panel, values)
        FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in panel.get_xticklabels()]
    assert len(boxes) >= 2
    assert all(left.x1 + 3 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("values", [[0.0], [0.0, 5000.0]])
def test_a_method_that_keeps_no_bytes_has_an_axis(values):
    panel = Figure().subplots()
    bytes_axis(panel, values)
    low, high = panel.get_xlim()
    assert 0 < low < max(*values, 1.0) < high


def test_added_methods_look_different_from_each_other_and_from_ours():
    entries = entries_of([make_document(m) for m in ("er", "mine", "other", "third")])
    looks = [look(m, entries) for m in ("er", "mine", "other", "third")]
    assert len({colour for colour, _ in looks}) == 4
    assert not {colour for colour, _ in looks[1:]} & set(COLOURS.values())
