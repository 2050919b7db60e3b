"""The budget total_bytes: what a run keeps besides the backbone stays within one number of bytes."""

import copy

import pytest
from factories import QUICK, make_cell, make_features
from test_config import BASE

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.grid.unroll import cells
from sharc_core.learning.learner import run_cell
from sharc_core.memory.budget_units import bytes_of
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS

FEATURES = make_features(classes=6, train_per_class=25)
BUDGETS = (2_000, 4_500, 10_000, 60_000)
REPLAYING = [name for name in METHODS.names() if METHODS.get(name).uses_memory]
IN_GRIDS = [name for name in REPRESENTATIONS.names() if REPRESENTATIONS.get(name).in_grids]


def costs(budget: int, method: str = "er", variant: str = "plain", **changes) -> dict[str, list] | None:
    """Return the costs of a run within a budget of bytes, or None if the budget holds no sample."""
    changes = {"budget_unit": "total_bytes", "buffer": budget, "seeds": [0, 1]} | changes
    if METHODS.get(method).replays_current_task:
        changes["selection"] = "reservoir"
    try:
        return run_cell(FEATURES, make_cell(method, variant, **changes))["costs"]
    except UserError as error:
        assert "a budget of" in str(error) or "holds no sample" in str(error)
        return None


def total(held: dict[str, list]) -> int:
    parts = [held[f"{part}_bytes"] for part in ("episodic", "associative", "learner")]
    return max(map(sum, zip(*parts, strict=True)))


def check(runs: list[dict[str, list] | None], one_more: int) -> None:
    """Check that no budget is exceeded, that the largest is used, and that more bytes hold more samples."""
    held = [0 if run is None else min(run["samples_stored"]) for run in runs]
    assert held == sorted(held) and held[-1] > 0
    for budget, run in zip(BUDGETS, runs, strict=True):
        assert run is None or total(run) <= budget
    used = [(b, r) for b, r in zip(BUDGETS, runs, strict=True) if r and max(r["samples_stored"]) < 150]
    for budget, run in used:  # three tasks, each with less than one sample left over
        assert budget - total(run) < 3 * one_more


@pytest.mark.parametrize("method", REPLAYING)
def test_every_method_fills_its_bytes_and_no_more(method):
    logits = 4 * 6 if METHODS.get(method).needs_logits else 0
    check([costs(budget, method) for budget in BUDGETS], 12 * 4 * 2 + 2 + logits + 1)


@pytest.mark.parametrize("storage", IN_GRIDS)
@pytest.mark.parametrize("selection", ["last", "reservoir"])
def test_every_representation_fills_its_bytes_and_no_more(storage, selection):
    small = {"codebooks": 4, "entries": 16} if storage.endswith("pq") else {}
    settings = settings_of(REPRESENTATIONS, storage, small, "storage_settings")
    runs = [costs(b, storage=storage, storage_settings=settings, selection=selection) for b in BUDGETS]
    check(runs, 12 * 4 * 4 + 3)


@pytest.mark.parametrize("kind", ["none", "mean", "hopfield", "modern_hopfield", "bayespcn_exact"])
def test_the_associative_memory_is_part_of_the_total(kind):
    settings = settings_of(ASSOCIATIVE_MEMORIES, kind, QUICK.get(kind, {}), "sharc.associative_settings")
    memory = {"associative_memory": kind, "associative_settings": settings}
    for budget in BUDGETS:
        held = costs(budget, variant="sharc", count_associative_memory=True, **memory)
        free = costs(budget, variant="sharc", count_associative_memory=False, **memory)
        assert held is None or total(held) <= budget
        assert free is None or min(free["samples_stored"]) >= min((held or free)["samples_stored"])
        if free is not None:
            assert total(free | {"associative_bytes": [0, 0]}) <= budget


def test_sizes_are_decimal():
    sizes = {"100 kB": 100_000, "1.5MB": 1_500_000, "12 B": 12, "0.001 GB": 1_000_000}
    assert {text: bytes_of(text) for text in sizes} == sizes
    for other in (7, "7", "1 KB", "-1 kB", "kB", None):
        assert bytes_of(other) == other
    with pytest.raises(ValueError, match="whole number"):
        bytes_of("0.5 B")


def grid(**changes):
    return load_grid(copy.deepcopy(BASE) | {"budget": {"unit": "total_bytes"}} | changes)


def test_a_grid_file_takes_sizes_and_charges_the_associative_memory():
    loaded = grid(buffers=["100 kB", 2_000_000])
    assert loaded.buffers == [100_000, 2_000_000]
    assert {cell.count_associative_memory for cell in cells(loaded) if cell.variant == "sharc"} == {True}
    free = grid(buffers=["1 MB"], budget={"unit": "total_bytes", "count_associative_memory": False})
    assert {cell.count_associative_memory for cell in cells(free)} == {False}
    again = load_grid(loaded.model_dump())
    assert again.config_hash == loaded.config_hash


@pytest.mark.reliability("byte-budget")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"buffers": ["1 MB"], "budget": {"unit": "floats"}},
            "buffers: 1 MB is a size: it needs budget.unit total_bytes",
        ),
        ({"buffers": ["1 MB", 1_000_000]}, "buffers"),
        (
            {"buffers": ["1 MB"], "protocol": ["paper", "code"]},
            "protocol code, which counts buffers in slots",
        ),
        ({"buffers": ["0.5 B"]}, "0.5 B is not a whole number of bytes"),
        ({"buffers": ["1 MiB"]}, "buffers"),
        (
            {"buffers": ["1 MB"], "sharc": {"complete": "last_batches", "read": "at_store"}},
            "cannot be combined with budget.unit total_bytes",
        ),
    ],
)
def test_bad_budgets_of_bytes_are_refused(changes, words):
    with pytest.raises(UserError) as caught:
        grid(**changes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.reliability("byte-budget")
def test_a_budget_without_room_for_the_head_names_its_bytes():
    with pytest.raises(UserError, match=r"a budget of 200 B does not hold the head .* take 312 bytes"):
        run_cell(FEATURES, make_cell("er", buffer=200, budget_unit="total_bytes"))
