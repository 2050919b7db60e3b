"""The paper's numbers are compared with runs on the paper's streams only."""

from pathlib import Path

import pytest
from result_factory import make_grid
from snake import ROOT
from test_config import BASE

from sharc_core.figures import write_figures
from sharc_core.grid.loading import load_config, load_grid
from sharc_core.report.page import write_report
from sharc_core.report.tables import write_all_tables
from sharc_core.results.published import PUBLISHED_TASKS, load_published, with_published_streams
from sharc_core.results.runs import runs_table

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


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [5, 10])
def test_tables_and_report_show_the_papers_numbers_for_its_stream_only(tasks, tmp_path):
    documents = make_grid(("s_cifar10",), ("sgd", "er"), buffers=(200,))
    runs = runs_table(documents)
    values = load_grid(BASE | {"datasets": {"s_cifar10": {"source": "cifar10", "tasks": tasks}}}).model_dump()
    write_all_tables(runs, PUBLISHED, tmp_path, [], "c", values)
    figures = tmp_path / "figures"
    write_figures(documents, runs, figures)
    write_report(runs, documents, PUBLISHED, figures, tmp_path / "r.html", "T", {}, values=values)
    table, page = (tmp_path / "class_il.md").read_text(), (tmp_path / "r.html").read_text()
    is_er = (PUBLISHED.scenario == "class_il") & (PUBLISHED.method == "er") & (PUBLISHED.variant == "plain")
    (value,) = PUBLISHED[is_er & (PUBLISHED.dataset == "s_cifar10") & (PUBLISHED.buffer == 200)].acc_mean
    published = f"{value:.2f}"
    assert (published in table) == (published in page) == (tasks == 5)
