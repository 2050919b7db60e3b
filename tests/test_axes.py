"""The axes of a cell are defined once; columns, rows and ids derived from them cover every axis."""

import dataclasses
import itertools

from factories import make_cell

from sharc_core.grid.axes import AXES, IN_ID, OF_SHARC, SETTINGS, SORTED_BY
from sharc_core.grid.cell import Cell
from sharc_core.results.runs import COLUMNS
from sharc_core.results.summary import Entry

# For each axis, a value that differs from the base cell below.
OTHERS = {
    "method": "derpp",
    "buffer": 13,
    "budget_unit": "bytes",
    "count_associative_memory": True,
    "budget_split": "carry",
    "storage": "int8",
    "theta": 0.25,
    "mass": 0.5,
    "saliency": "random",
    "associative_memory": "mean",
    "importance": "positive",
    "protocol": "paper+read",
}


def test_every_axis_but_the_scenario_is_a_field_of_a_cell():
    assert set(AXES) - {"scenario"} <= set(Cell.model_fields)


def test_columns_of_runs_begin_with_the_axes():
    assert list(COLUMNS)[: len(AXES)] == list(AXES)
    assert set(SORTED_BY) == set(AXES) and len(SORTED_BY) == len(AXES)


def test_rows_of_tables_have_every_axis():
    assert [field.name for field in dataclasses.fields(Entry)][: len(AXES)] == list(AXES)
    assert set(OF_SHARC) < set(SETTINGS) < set(AXES)


def test_an_axis_that_is_not_in_the_id_is_a_folder_or_one_per_grid():
    assert set(AXES) - set(IN_ID) == {"dataset", "backbone", "scenario", "read"}
    assert set(OTHERS) | {"variant"} == set(IN_ID)


def test_cells_that_differ_on_an_axis_have_different_ids():
    base = make_cell("er", "sharc", mass=None)
    others = [base.model_copy(update={name: value}) for name, value in OTHERS.items()]
    plain = base.model_copy(
        update={"variant": "plain", "theta": None, "saliency": None, "associative_memory": None}
    )
    for one, other in itertools.combinations([base, plain, *others], 2):
        assert one.id != other.id


def test_an_id_names_what_is_not_the_default():
    assert make_cell("sgd").id == "sgd"
    assert make_cell("er").id == "er-plain-m12-floats"
    cell = make_cell("er", "sharc", importance="absolute")
    assert cell.id == "er-sharc-m12-floats-theta0.5-gradient-modern_hopfield"
    changed = {
        "budget_unit": "bytes",
        "count_associative_memory": True,
        "budget_split": [1.0, 2.0, 0.5],
        "storage": "int8",
        "theta": None,
        "mass": 1.0,
        "importance": "positive",
    }
    name = "er-sharc-m12-bytes-am-split7c9976-int8-mass1.0-gradient-modern_hopfield"
    assert make_cell("er", "sharc", **changed).id == f"{name}-positive"
    assert make_cell("er", "sharc", **changed, protocol="code").id == f"{name}-code"
