"""A grid and its studies unrolled into cells, the unit of work: a training configuration with its seeds."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from sharc_core.backbones import BackboneConfig
from sharc_core.common.errors import UserError
from sharc_core.features.drifting.part import Kept
from sharc_core.features.views import needed_views
from sharc_core.grid.blocks import Mass
from sharc_core.grid.cell import Cell, Scenario
from sharc_core.grid.drifting_parts import kept_for, parts_of
from sharc_core.grid.loading import study_grid, under_protocol
from sharc_core.grid.models import Grid, listed
from sharc_core.grid.plug_in_settings import memory_of, settings_of
from sharc_core.grid.protocol import concerning
from sharc_core.grid.sub_grid import MAIN
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS
from sharc_core.selection import SELECTIONS

Members = dict[Scenario, list[str]]


def cells(grid: Grid) -> list[Cell]:
    """Every training configuration of the grid and its studies, in a fixed order, none twice.

    Raises UserError when two studies mean different things by cells of one name.
    """
    return [cell for cell, _ in memberships(grid)]


def memberships(grid: Grid) -> list[tuple[Cell, Members]]:
    """The cells, each with who reports it per scenario: MAIN (the grid itself), names of studies.

    A cell of the grid that a study asks for again, in this scenario or the other, is not a second cell.
    """
    found: dict[tuple, tuple[Cell, Members]] = {}
    parts = {MAIN: grid} | {name: study_grid(grid, name) for name in grid.studies}
    for name, part in parts.items():
        for cell in _unrolled(part):
            first, members = found.setdefault((cell.dataset, cell.backbone, cell.id), (cell, {}))
            _check_same(first, cell, next(iter(members.values()), [name])[0], name)
            for scenario in cell.scenarios:
                members.setdefault(scenario, []).append(name)
    return [
        (cell.model_copy(update={"scenarios": list(members)}), members) for cell, members in found.values()
    ]


def extracted_views(grid: Grid) -> list[tuple[str, str, int | str]]:
    """Data set, backbone and view of all features that the grid's cells and its recall study read.

    Of a drifting backbone: names of parts (see sharc_core.features.drifting.part) in the place of views.
    """
    by_pair: dict[tuple[str, str], list[Cell]] = {
        (name, backbone.path_name): [] for backbone in grid.all_backbones for name in grid.datasets
    }
    for cell in cells(grid):
        by_pair[cell.dataset, cell.backbone].append(cell)
    found: list[tuple[str, str, int | str]] = []
    for backbone, name in product(grid.all_backbones, grid.datasets):
        pair = (name, backbone.path_name)
        views: Sequence[int | str]
        if backbone.batch_norm == "drifting":
            chosen = by_pair[pair]  # none where only a study on another data set has it drift
            views = [part.name for part in parts_of(chosen, kept_maps(grid, *pair))] if chosen else []
        else:
            seeds = [seed for cell in by_pair[pair] for seed in cell.seeds]
            views = needed_views(seeds, backbone.views)
        found += [(*pair, view) for view in views]
    return found


def kept_maps(grid: Grid, dataset: str, backbone: str) -> Kept:
    """Which training maps of a drifting backbone are kept for the grid's cells."""
    (config,) = (one for one in grid.all_backbones if one.path_name == backbone)
    chosen = [cell for cell in cells(grid) if (cell.dataset, cell.backbone) == (dataset, backbone)]
    return kept_for(chosen, config.maps == "all")


def _check_same(one: Cell, other: Cell, first: str, second: str) -> None:
    """Cells of one name are one training. A cell's name carries the axes of a grid, not its settings."""
    values, others = one.model_dump(), other.model_dump()
    for key in values.keys() - {"scenarios"}:
        if values[key] != others[key]:
            raise UserError(
                f"config: studies: {second} and {first} both have a cell {one.dataset}, {one.backbone}, "
                f"{one.id}, but {key} is {others[key]} in {second} and {values[key]} in {first}: give both "
                "the same, or write a grid of its own with another results_dir"
            )


def _unrolled(grid: Grid) -> list[Cell]:
    """The cells of a grid without its studies.

    Baselines without memory get no buffer; a plain method's training does not depend on the scenario,
    so one cell reports both; SHARC cells split by scenario where theta does. What no rule of a protocol
    changes is not run again for it.
    """
    found: list[Cell] = []
    for protocol in grid.protocol:
        found += _cells_under(under_protocol(grid, protocol), protocol, grid.memory.selection)
    unique: dict[tuple, Cell] = {}
    for cell in found:
        if unique.setdefault((cell.dataset, cell.backbone, cell.id), cell) != cell:
            raise AssertionError(f"two cells are called {cell.id}: this is a defect of SHARC-Bench")
    return list(unique.values())


def _cells_under(grid: Grid, protocol: str, given: str) -> list[Cell]:
    """The cells of one protocol. given: the file's own memory.selection."""
    found: list[Cell] = []
    for (name, dataset), backbone, method in product(grid.datasets.items(), grid.backbones, grid.methods):
        common: dict[str, Any] = {
            "dataset": name,
            "stream": dataset.stream,
            "backbone": backbone.path_name,
            "views": backbone.views,
            "batch_norm": backbone.batch_norm,
            "passes": _passes(backbone, method),
            "method": method,
            "seeds": grid.seeds,
            "device": grid.cells.device,
            "training": grid.training,
            "head": grid.head,
            "method_settings": settings_of(
                METHODS, method, grid.method_settings.get(method, {}), "method_settings"
            ),
        }
        if not METHODS.get(method).uses_memory:
            found.append(Cell(**common, variant="plain", scenarios=grid.scenarios))
            continue
        for buffer, budget, storage in product(grid.buffers, listed(grid.budget), listed(grid.storage)):
            spent = {**common, "buffer": buffer, "budget_unit": budget.unit}
            spent |= {"budget_split": budget.split, "storage": storage}
            spent["storage_settings"] = settings_of(
                REPRESENTATIONS, storage, grid.storage_settings.get(storage, {}), "storage_settings"
            )
            spent["selection"] = _selection(grid, method, given)
            in_stream = not SELECTIONS.get(spent["selection"]).has_tasks
            if in_stream and "logits_at" in common["method_settings"]:
                spent["method_settings"] = common["method_settings"] | {"logits_at": "visit"}
            if "plain" in grid.variants:
                spent["protocol"] = concerning(protocol, method, "plain")
                found.append(Cell(**spent, variant="plain", scenarios=grid.scenarios))
            if "sharc" in grid.variants:
                spent["protocol"] = concerning(protocol, method, "sharc")
                spent["count_associative_memory"] = budget.count_associative_memory
                found += _sharc_cells(grid, spent)
    return found


def _passes(backbone: BackboneConfig, method: str) -> int | None:
    """Passes of a training batch through a backbone that drifts."""
    if backbone.batch_norm != "drifting":
        return None
    return backbone.passes or METHODS.get(method).passes


def _selection(grid: Grid, method: str, given: str) -> str:
    """Which samples a method's memory keeps: one that replays tasks takes no selection without tasks."""
    selection = grid.memory.selection
    if SELECTIONS.get(selection).has_tasks or not METHODS.get(method).fills_at_task_end:
        return selection
    return given if SELECTIONS.get(given).has_tasks else "last"


def _sharc_cells(grid: Grid, spent: dict[str, Any]) -> list[Cell]:
    by_theta: dict[float | Mass, list[Scenario]] = {}
    for scenario in grid.scenarios:
        for theta in listed(grid.sharc.theta[scenario]):
            by_theta.setdefault(theta, []).append(scenario)
    memories = [(name, *memory_of(grid.sharc, name)) for name in listed(grid.sharc.associative_memory)]
    return [
        Cell(
            **spent,
            variant="sharc",
            scenarios=scenarios,
            theta=None if isinstance(theta, Mass) else theta,
            mass=theta.mass if isinstance(theta, Mass) else None,
            saliency=saliency,
            importance=grid.sharc.importance,
            associative_memory=name,
            associative_kind=kind,
            associative_settings=settings,
            # a selection without tasks chooses what a sample keeps when it admits it
            saliency_at=grid.sharc.saliency_at if SELECTIONS.get(spent["selection"]).has_tasks else "visit",
            read=grid.sharc.read,
            complete=grid.sharc.complete,
            forget_every=grid.sharc.forget.every,
            forget_unit=None if grid.sharc.forget.every is None else grid.sharc.forget.unit,
            forget_beta=None if grid.sharc.forget.every is None else grid.sharc.forget.beta,
        )
        for (theta, scenarios), saliency, (name, kind, settings) in product(
            by_theta.items(), listed(grid.sharc.saliency), memories
        )
    ]
