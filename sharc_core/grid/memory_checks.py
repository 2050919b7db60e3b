"""Checks of a grid's memory options: names of representations, and what excludes what.

The traits of selections and representations decide, so a new plug-in needs no change here.
"""

from itertools import chain

from sharc_core.common.errors import UserError, shown
from sharc_core.common.registry import nearest
from sharc_core.grid.blocks import Mass
from sharc_core.grid.models import Grid, listed
from sharc_core.grid.protocol import PAPER
from sharc_core.memory.budget_units import IN_BYTES
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS
from sharc_core.selection import SELECTIONS

Clashes = list[tuple[str, bool]]  # keys with their values, and whether the grid has them


def check_storage(names: list[str], key: str) -> None:
    """Raise UserError for names under a key that are not representations which grids may ask for."""
    valid = [name for name in REPRESENTATIONS.names() if REPRESENTATIONS.get(name).in_grids]
    for name in names:
        if name not in valid:
            raise UserError(
                f"config: {key}: unknown storage {shown(name)}{nearest(name, valid)}; valid: "
                f"{', '.join(valid)}"
            )


def check_combinations(grid: Grid, protocol: str) -> None:
    """Raise UserError for memory options that exclude each other; grid: under the protocol."""
    where = "" if protocol == PAPER else f" under protocol {protocol}"
    if grid.sharc.complete != "all" and "sharc" in grid.variants and _has_unit(grid, "total_bytes"):
        raise UserError(
            f"config: sharc.complete {grid.sharc.complete}{where} cannot be combined with budget.unit "
            "total_bytes, in which a task has no slots: use complete all, or another unit"
        )
    if _charges_associative_memory(grid) and grid.sharc.complete != "all":
        raise UserError(
            f"config: sharc.complete {grid.sharc.complete} cannot be combined with "
            "budget.count_associative_memory: the associative memory learns maps that are not stored, which "
            "the budget does not foresee; use complete all, or do not count it"
        )
    _check_replay(grid, where)
    name = grid.memory.selection
    for key, clashes in _clashes_of_selection(grid):
        if clashes:
            raise UserError(
                f"config: memory.selection {name}{where} cannot be combined with {key}: the samples it "
                "keeps must cost the same and be chosen without it; use selection last, or change the other"
            )
    for name in listed(grid.storage):
        _check_images(grid, name, where)
        for key, clashes in _clashes_of_storage(grid, name):
            if clashes:
                raise UserError(
                    f"config: storage {name}{where} cannot be combined with {key}: it stores "
                    f"{REPRESENTATIONS.get(name).contents}, not the values of single channels of maps; use "
                    "another storage, or change the other"
                )


def _check_images(grid: Grid, name: str, where: str) -> None:
    """Raise UserError for a storage of images where there are none, or where the backbone changes."""
    if not REPRESENTATIONS.get(name).replays_images or not any(
        METHODS.get(m).uses_memory for m in grid.methods
    ):
        return
    for dataset, config in grid.datasets.items():
        if config.has_features:
            raise UserError(
                f"config: storage {name} cannot be combined with data set {dataset}: source features has no "
                "images; use another storage, or a grid without it"
            )
    if any(backbone.batch_norm == "drifting" for backbone in grid.backbones):
        raise UserError(
            f"config: storage {name}{where} cannot be combined with batch_norm drifting, under which a "
            "replayed image has other features than when it was visited: use another storage, or batch_norm "
            "frozen"
        )


def _check_replay(grid: Grid, where: str) -> None:
    """Raise UserError for methods whose memory or replay batches do not fit them.

    One kind replays the current task, which a memory that is filled at its end does not hold yet.
    """
    selection = grid.memory.selection
    for name in grid.methods:
        kind = METHODS.get(name)
        if kind.selections and selection not in kind.selections:
            raise UserError(
                f"config: memory.selection {selection}{where} cannot be combined with method {name}: use "
                f"selection {' or '.join(kind.selections)}, or take {name} out of methods"
            )
        settings = kind.Settings.model_validate(grid.method_settings.get(name, {}))
        if problem := kind.misfit(settings, grid.training.replay_batch_size):
            raise UserError(f"config: method_settings.{name}.{problem}")
        if kind.replays_current_task and SELECTIONS.get(selection).has_tasks:
            raise UserError(
                f"config: memory.selection {selection}{where} cannot be combined with method {name}, whose "
                "replay must include samples of the current task: use selection reservoir, or take "
                f"{name} out of methods"
            )


def _charges_associative_memory(grid: Grid) -> bool:
    has_sharc = "sharc" in grid.variants
    return has_sharc and any(budget.count_associative_memory for budget in listed(grid.budget))


def _counts_nonzero(grid: Grid) -> tuple[str, bool]:
    return "budget.unit nonzero", _has_unit(grid, "nonzero")


def _has_unit(grid: Grid, unit: str) -> bool:
    return any(budget.unit == unit for budget in listed(grid.budget))


def _clashes_of_selection(grid: Grid) -> Clashes:
    selection = SELECTIONS.get(grid.memory.selection)
    clashes: Clashes = []
    if not selection.takes_associative_bytes:
        clashes += [("budget.count_associative_memory", _charges_associative_memory(grid))]
    replaying = [METHODS.get(method) for method in grid.methods if METHODS.get(method).uses_memory]
    if not selection.has_tasks and all(method.fills_at_task_end for method in replaying):
        return clashes  # these methods replay tasks, so they keep another selection
    sharc, has_sharc = grid.sharc, "sharc" in grid.variants
    if not selection.takes_unequal_costs:
        thetas = chain(*map(listed, sharc.theta.values()))
        clashes += [
            _counts_nonzero(grid),
            ("sharc.theta mass", has_sharc and any(isinstance(theta, Mass) for theta in thetas)),
            ("sharc.importance positive", has_sharc and sharc.importance == "positive"),
        ]
    if not selection.has_tasks:
        files = [name for name in listed(grid.storage) if REPRESENTATIONS.get(name).stores_encodings]
        in_bytes = any(budget.unit in IN_BYTES for budget in listed(grid.budget))
        if files and not selection.takes_files:
            clashes += [(f"storage {files[0]} in a budget of bytes", in_bytes)]
        for method in replaying:
            settings = method.Settings.model_validate(grid.method_settings.get(method.name, {}))
            for key, value in method.replays_tasks_if.items():
                clashes.append(
                    (f"method_settings.{method.name}.{key} {value}", getattr(settings, key) == value)
                )
        clashes += [
            ("budget.split", any(budget.split != "equal" for budget in listed(grid.budget))),
            (f"sharc.read {sharc.read}", has_sharc and sharc.read != "per_task"),
            (f"sharc.complete {sharc.complete}", has_sharc and sharc.complete != "all"),
            ("sharc.forget.unit batch", has_sharc and sharc.forget.unit == "batch"),
        ]
    return clashes


def _clashes_of_storage(grid: Grid, name: str) -> Clashes:
    representation = REPRESENTATIONS.get(name)
    if representation.stores_maps and representation.takes_masks:
        return []
    return [("variants sharc", "sharc" in grid.variants), _counts_nonzero(grid)]
