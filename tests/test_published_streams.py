"""The paper's numbers are compared with runs on the paper's streams only."""

from pathlib import Path

import pytest
from snake import ROOT
from test_config import BASE

from sharc_core.grid.loading import load_config, load_grid
from sharc_core.results.published import PUBLISHED_TASKS, load_published, with_published_streams

PUBLISHED = load_published(ROOT / "workflow/paper/paper_results.csv")


def compared(values: dict) -> set[str]:
    return set(with_published_streams(PUBLISHED, values)["dataset"])


def test_streams_of_the_papers_grid_are_the_papers():
    values = load_config(Path(ROOT / "config/paper.yaml")).model_dump(mode="json")
    assert compared(values) == set(PUBLISHED["dataset"]) == set(PUBLISHED_TASKS)
    assert {name: values["datasets"][name]["tasks"] for name in PUBLISHED_TASKS} == PUBLISHED_TASKS


@pytest.mark.parametrize(
    ("stream", "is_compared"),
    [
        ({"tasks": 5}, True),
        ({"tasks": 5, "class_order_seed": 3}, True),
        ({"tasks": 10}, False),
        ({"tasks": [4, 3, 1, 1, 1]}, False),
        ({"tasks": 5, "order": "iid"}, False),
    ],
)
def test_other_streams_are_not_compared_with_the_paper(stream, is_compared):
    datasets = {"s_cifar10": {"source": "cifar10", **stream}}
    grid = load_grid(BASE | {"datasets": datasets, "scenarios": ["class_il"]})
    assert ("s_cifar10" in compared(grid.model_dump(mode="json"))) is is_compared
