"""Unroll a grid and its studies into cells, and list the features that these read."""

from functools import partial
from itertools import product
from typing import Any

from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.own_features import OwnFeatures
from sharc_core.common.errors import UserError
from sharc_core.features.drifting.part import Kept
from sharc_core.features.folders import FeaturesFolder
from sharc_core.grid.blocks import Mass
from sharc_core.grid.cell import Cell, Scenario
from sharc_core.grid.drifting_parts import kept_for
from sharc_core.grid.feature_folders import folders_of
from sharc_core.grid.loading import sub_grid_of, under_protocol
from sharc_core.grid.models import Grid, listed
from sharc_core.grid.plug_in_settings import memory_of, settings_of
from sharc_core.grid.protocol import concerning
from sharc_core.grid.sub_grid import MAIN
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS
from sharc_core.selection import SELECTIONS

Members = dict[Scenario, list[str]]


def cells(grid: Grid) -> list[Cell]:
    """Return every training configuration of the grid and its studies once, in a fixed order.

    Raises UserError when two studies have cells of one name with different settings.
    """
    return [cell for cell, _ in memberships(grid)]


def memberships(grid: Grid) -> list[tuple[Cell, Members]]:
    """Return the cells, each with the parts of the grid that report it, by scenario.

    A part is MAIN (the grid without studies) or the name of a study. A study that asks for a cell of the
    grid again, in the same scenario or the other, adds no second cell. The cells of a study with
    `main: true` belong to both.
    """
    by_place: dict[tuple[str, str, str], tuple[Cell, Members]] = {}
    parts = {MAIN: grid} | {name: sub_grid_of(grid, name) for name in grid.sub_grids}
    for name, part in parts.items():
        for cell in _unrolled(part):
            first, members = by_place.setdefault(cell.place, (cell, {}))
            _check_same(first, cell, next(iter(members.values()), [name])[0], name)
            for scenario in cell.scenarios:
                of_scenario = members.setdefault(scenario, [])
                is_own = name in grid.studies and grid.studies[name].main and scenario in grid.scenarios
                of_scenario += [MAIN, name] if is_own and MAIN not in of_scenario else [name]
    return [
        (cell.model_copy(update={"scenarios": list(members)}), members) for cell, members in by_place.values()
    ]


def extracted_views(grid: Grid) -> list[tuple[str, str, FeaturesFolder]]:
    """Return data set, backbone and folder of all features that the grid's cells and its studies read."""
    by_pair: dict[tuple[str, str], list[Cell]] = {
        (name, backbone.path_name): [] for name, backbone in grid.all_pairs
    }
    for cell in cells(grid):
        by_pair[cell.dataset, cell.backbone].append(cell)
    extracted: list[tuple[str, str, FeaturesFolder]] = []
    for name, backbone in grid.all_pairs:
        pair = (name, backbone.path_name)
        kept = partial(kept_maps, grid, *pair)
        folders = folders_of(by_pair[pair], str(backbone.batch_norm), backbone.views, kept)
        extracted += [(*pair, folder) for folder in folders]
    return extracted


def kept_maps(grid: Grid, dataset: str, backbone: str) -> Kept:
    """Return which training maps of a drifting backbone are kept for the grid's cells."""
    (config,) = (one for name, one in grid.all_pairs if (name, one.path_name) == (dataset, backbone))
    chosen = [cell for cell in cells(grid) if (cell.dataset, cell.backbone) == (dataset, backbone)]
    return kept_for(chosen, config.maps == "all")


def _check_same(one: Cell, other: Cell, first: str, second: str) -> None:
    """Raise UserError if two cells of one name differ. The name carries the axes but not the settings."""
    values, others = one.model_dump(), other.model_dump()
    for key in values.keys() - {"scenarios"}:
        if values[key] != others[key]:
            raise UserError(
                f"config: studies: {second} and {first} both have a cell {', '.join(one.place)}, but {key} "
                f"is {others[key]} in {second} and {values[key]} in {first}: give both the same value, or "
                "write a separate grid with another results_dir"
            )


def _unrolled(grid: Grid) -> list[Cell]:
    """Return the cells of a grid without its studies.

    A method without memory has no buffer. The training of a plain method does not depend on the scenario, so
    one cell reports both; SHARC cells differ by scenario where theta does. A cell that no rule of a protocol
    changes is run once for all protocols.
    """
    unique: dict[tuple[str, str, str], Cell] = {}
    for protocol in grid.protocol:
        for cell in _cells_under(under_protocol(grid, protocol), protocol, grid.memory.selection):
            if grid.tuned is not None:
                cell = _merged(unique, grid.tuned.applied(cell))
            if unique.setdefault(cell.place, cell) != cell:
                raise AssertionError(f"two cells are called {cell.id}: this is a defect of SHARC-Bench")
    return list(unique.values())


def _merged(unique: dict[tuple[str, str, str], Cell], cell: Cell) -> Cell:
    """Return a tuned cell; if another one was tuned to the same theta, both as one, which replaces it.

    Raises UserError if the two differ in other settings.
    """
    known = unique.pop(cell.place, None)
    if known is None:
        return cell
    scenarios = list(dict.fromkeys([*known.scenarios, *cell.scenarios]))
    known, cell = (one.model_copy(update={"scenarios": scenarios}) for one in (known, cell))
    if known != cell:
        raise UserError(
            f"config: tuned: two cells of {cell.dataset} became {cell.id}, with other values of further "
            "settings: tune sharc.theta alone, or one scenario per grid"
        )
    return cell


def _cells_under(grid: Grid, protocol: str, given: str) -> list[Cell]:
    """Return the cells of one protocol. given: memory.selection in the grid file."""
    unrolled: list[Cell] = []
    pairs = [(name, backbone) for name in grid.datasets for backbone in grid.backbones_of(name)]
    for (name, backbone), method in product(pairs, grid.methods):
        common: dict[str, Any] = {
            "dataset": name,
            "stream": grid.datasets[name].stream,
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
            unrolled.append(Cell(**common, variant="plain", scenarios=grid.scenarios))
            continue
        for buffer, budget, storage in product(grid.buffers, listed(grid.budget), listed(grid.storage)):
            fields = {**common, "buffer": buffer, "budget_unit": budget.unit}
            fields |= {"budget_split": budget.split, "storage": storage}
            fields["storage_settings"] = settings_of(
                REPRESENTATIONS, storage, grid.storage_settings.get(storage, {}), "storage_settings"
            )
            fields["selection"] = _selection(grid, method, given)
            in_stream = not SELECTIONS.get(fields["selection"]).has_tasks
            if in_stream and "logits_at" in common["method_settings"]:
                fields["method_settings"] = common["method_settings"] | {"logits_at": "visit"}
            if "plain" in grid.variants:
                fields["protocol"] = concerning(protocol, method, "plain")
                unrolled.append(Cell(**fields, variant="plain", scenarios=grid.scenarios))
            if "sharc" in grid.variants:
                fields["protocol"] = concerning(protocol, method, "sharc")
                fields["count_associative_memory"] = budget.count_associative_memory
                unrolled += _sharc_cells(grid, fields)
    return unrolled


def _passes(backbone: BackboneConfig | OwnFeatures, method: str) -> int | None:
    """Return the passes of a training batch through a drifting backbone, None for any other."""
    if backbone.batch_norm != "drifting":
        return None
    return backbone.passes or METHODS.get(method).passes


def _selection(grid: Grid, method: str, given: str) -> str:
    """Return the selection for a method. A method that replays tasks takes no selection without tasks."""
    selection = grid.memory.selection
    if SELECTIONS.get(selection).has_tasks or not METHODS.get(method).fills_at_task_end:
        return selection
    return given if SELECTIONS.get(given).has_tasks else "last"


def _sharc_cells(grid: Grid, common: dict[str, Any]) -> list[Cell]:
    by_theta: dict[float | Mass, list[Scenario]] = {}
    for scenario in grid.scenarios:
        for theta in listed(grid.sharc.theta_of(scenario)):
            by_theta.setdefault(theta, []).append(scenario)
    memories = [(name, *memory_of(grid.sharc, name)) for name in listed(grid.sharc.associative_memory)]
    return [
        Cell(
            **common,
            variant="sharc",
            scenarios=scenarios,
            theta=None if isinstance(theta, Mass) else theta,
            mass=theta.mass if isinstance(theta, Mass) else None,
            saliency=saliency,
            importance=grid.sharc.importance,
            associative_memory=name,
            associative_kind=kind,
            associative_settings=settings,
            # a selection without tasks chooses the channels of a sample when it admits the sample
            saliency_at=grid.sharc.saliency_at if SELECTIONS.get(common["selection"]).has_tasks else "visit",
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
