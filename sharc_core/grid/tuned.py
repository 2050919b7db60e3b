"""Settings that tuning chose for the cells of a grid, and how a setting of a cell is named and replaced.

The study `tune` chooses them on validation data and writes them to a file. A grid file whose key `tuned`
names that file trains every cell with the settings chosen for it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sharc_core.common.errors import UserError, shown
from sharc_core.common.files import digest, read_json
from sharc_core.common.registry import nearest
from sharc_core.common.settings import Settings
from sharc_core.common.validation_messages import explain
from sharc_core.grid.cell import Cell, HeadConfig, Scenario, Training
from sharc_core.methods import METHODS

Value = bool | int | float | str
Values = dict[str, Value]  # by name of a setting
THETA = "sharc.theta"
WIDTH = "head.hidden"
COSINE_SCALE = "head.scale"
OF_METHOD = "method_settings"
OF_MEMORY = ("training.replay_batch_size",)  # settings without effect on a method that has no memory


class Tuned(Settings):
    """What tuning chose, and how.

    settings: names of the settings that were tuned. trials: the largest number of trials of a cell.
    validation: share of each class's training images that was held out. select_by: scenario whose accuracy
    decided; a cell that is reported in the other scenario only was chosen by that one. chosen: by data set,
    backbone and id of the cell before tuning, the value of each setting. A cell that no setting concerns has
    none. cells: by the same keys, the cell_digest of the cell that was tuned.
    """

    settings: list[str]
    trials: int = Field(ge=1)
    validation: float = Field(gt=0, lt=1)
    sampler: Literal["grid", "random", "tpe"]
    select_by: Scenario
    chosen: dict[str, dict[str, dict[str, Values]]]
    cells: dict[str, dict[str, dict[str, str]]]

    def applied(self, cell: Cell) -> Cell:
        """Return the cell with the settings chosen for it.

        Raises UserError for a cell without a choice, or with other settings than the cell that was tuned.
        """
        if not can_be_tuned(cell, self.settings):
            return cell
        ids = self.chosen.get(cell.dataset, {}).get(cell.backbone, {})
        if cell.id not in ids:
            raise UserError(
                f"config: tuned: nothing was chosen for {'/'.join(cell.place)}: tune a grid with the same "
                "data sets, backbones, methods, variants and buffers"
            )
        if self.cells.get(cell.dataset, {}).get(cell.backbone, {}).get(cell.id) != cell_digest(cell):
            raise UserError(
                f"config: tuned: {'/'.join(cell.place)} was tuned with other settings (tasks, training, "
                "head ...): tune this grid"
            )
        return with_values(cell, ids[cell.id])


def can_be_tuned(cell: Cell, names: Iterable[str]) -> bool:
    """Return whether one of the settings concerns a cell, and its features do not depend on held-out images.

    Batch statistics that drift or are adapted are those of training images, held-out ones included.
    """
    return cell.batch_norm == "frozen" and any(concerns(cell, name) for name in names)


def cell_digest(cell: Cell) -> str:
    """Return a hash of a cell's settings, without its seeds and the device."""
    return digest({key: value for key, value in cell.settings.items() if key != "device"}, 16)


def read_tuned(path: str) -> dict[str, Any]:
    """Read the file that the study `tune` wrote. Raises UserError."""
    try:
        is_there = Path(path).is_file()
    except (OSError, ValueError):  # a name that the system cannot have
        is_there = False
    if not is_there:
        raise UserError(f"there is no file {shown(path)}: run the tuning study first, its tables include it")
    values = read_json(path)
    try:
        Tuned.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path} is no file of tuned settings ({explain(error, Tuned)})") from None
    return values


def tuned_note(values: Mapping[str, Any]) -> str:
    """Return a sentence for the captions of tables, empty if settings were not tuned. values: of a grid."""
    if not values.get("tuned"):
        return ""
    tuned = Tuned.model_validate(values["tuned"])
    return (
        f"Settings are tuned: the best of at most {tuned.trials} trials per cell ({tuned.sampler}) on "
        f"{tuned.validation:.0%} of each class's training images, held out during tuning"
    )


def check_name(name: str) -> None:
    """Raise UserError if a name is that of no setting that can be tuned."""
    parts = name.split(".")
    known = [f"training.{field}" for field in Training.model_fields] + [WIDTH, COSINE_SCALE, THETA]
    if parts[0] == OF_METHOD and len(parts) == 3:
        fields = METHODS.get(parts[1]).Settings.model_fields
        if parts[2] in fields:
            return
        known = [f"{OF_METHOD}.{parts[1]}.{field}" for field in fields]
    if name not in known:
        also = ", ".join([*known, f"{OF_METHOD}.<method>.<setting>"])
        raise UserError(f"unknown setting {shown(name)}{nearest(name, known)}; valid: {also}")


def concerns(cell: Cell, name: str) -> bool:
    """Return whether a setting can change a cell's numbers."""
    method = METHODS.get(cell.method)
    if name == THETA:
        return cell.theta is not None
    if name == WIDTH:
        return method.trains_head and cell.head.kind == "mlp"
    if name == COSINE_SCALE:
        return method.trains_head and cell.head.kind == "cosine"
    if name.startswith(f"{OF_METHOD}."):
        return name.split(".")[1] == cell.method
    if name in OF_MEMORY and not method.uses_memory:
        return False
    return method.trains_head and method.uses_training


def value_of(cell: Cell, name: str) -> Value:
    """Return a cell's value of a setting that concerns it."""
    if name == THETA:
        assert cell.theta is not None
        return cell.theta
    block, *_, field = name.split(".")
    return cell.method_settings[field] if block == OF_METHOD else getattr(getattr(cell, block), field)


def with_values(cell: Cell, values: Mapping[str, Value]) -> Cell:
    """Return the cell with other values of some settings. Raises UserError for a value that is not valid."""
    changes: dict[str, Any] = {}
    models: dict[str, type[Settings]] = {"training": Training, "head": HeadConfig}
    for name, value in values.items():
        block, *_, field = name.split(".")
        try:
            if name == THETA:
                changes["theta"] = Theta(theta=value).theta  # type: ignore[arg-type]  # validated here
            elif block == OF_METHOD:
                settings = changes.get(block, cell.method_settings) | {field: value}
                changes[block] = METHODS.get(cell.method).Settings.model_validate(settings).model_dump()
            else:
                settings = changes.get(block, getattr(cell, block)).model_dump() | {field: value}
                changes[block] = models[block].model_validate(settings)
        except ValidationError as error:
            raise UserError(f"{name} cannot be {shown(value)}: {error.errors()[0]['msg']}") from None
    return cell.model_copy(update=changes)


class Theta(Settings):
    """The range of theta, as in `sharc.theta`."""

    theta: float = Field(ge=0, lt=1)
