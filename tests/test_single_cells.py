"""Studies that compare methods refuse a grid that gives a method and variant several cells."""

import pytest
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.studies.registered import configured_jobs, study_of

STUDIES = ["fair_tuning", "equal_compute", "heads"]
SEVERAL = {
    "sharc.associative_memory": {"sharc": {"associative_memory": ["mean", "modern_hopfield"]}},
    "sharc.saliency": {"sharc": {"saliency": ["gradient", "occlusion"]}},
    "sharc.theta.class_il": {"sharc": {"theta": {"task_il": 0.8, "class_il": [0.4, 0.6]}}},
    "budget": {"budget": [{"unit": "floats"}, {"unit": "slots"}]},
    "storage": {"storage": ["float32", "float16"]},
}


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("key", SEVERAL)
def test_a_second_cell_of_a_method_is_refused_before_any_job(study, key):
    grid = load_grid(BASE | SEVERAL[key] | {study: {"buffer": 20}})
    for planned in (study_of(grid, study).jobs, configured_jobs):
        with pytest.raises(UserError, match=rf"^config: {study}: {key} has several values") as caught:
            planned(grid)
        assert "\n" not in str(caught.value) and "give one value" in str(caught.value)


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("key", SEVERAL)
def test_a_grid_without_the_block_is_no_error(study, key):
    grid = load_grid(BASE | SEVERAL[key])
    assert study_of(grid, study).jobs(grid) == []


@pytest.mark.parametrize("study", STUDIES)
def test_one_theta_for_both_scenarios_is_one_cell_of_each(study):
    same = {"sharc": {"theta": {"task_il": 0.5, "class_il": 0.5}}}
    assert study_of(grid := load_grid(BASE | same | {study: {"buffer": 20}}), study).jobs(grid)
