"""Blocks of a grid file on storage and recall: sharc, budget, memory."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sharc_core.common.settings import Settings
from sharc_core.grid.cell import Importance, Scenario
from sharc_core.memory.budget_units import IN_BYTES, Unit


class Mass(Settings):
    """Adaptive theta: keep the smallest number of channels that hold this share of the absolute saliency."""

    mass: float = Field(gt=0, le=1)


Theta = Annotated[float, Field(ge=0, lt=1)] | Mass
Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Forget(Settings):
    """Every `every` writes, the associative memory decays by `beta` before it learns the new maps.

    unit: what counts as one write, the maps of a task or those of a training batch.
    """

    every: int | None = Field(default=None, ge=1)
    unit: Literal["task", "batch"] = "task"
    beta: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _nothing_without_every(self) -> "Forget":
        for name in ("beta", "unit"):
            if self.every is None and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect without every: set every to a number of writes")
        return self


class Sharc(Settings):
    """Saliency-guided storage and associative recall. Lists are axes of the grid.

    theta: share of the channels dropped, or {mass: share of the saliency kept}, per scenario. importance: the
    value that ranks channels, see sharc_core.saliency.channel_masks. saliency_at, read, complete: see
    sharc_core.memory.options. associative_settings: by name of the associative memory.
    """

    theta: dict[Scenario, Theta | list[Theta]] = {"task_il": 0.8, "class_il": 0.4}
    saliency: str | list[str] = "gradient"
    importance: Importance = "absolute"
    associative_memory: str | list[str] = "modern_hopfield"
    associative_settings: dict[str, dict[str, Any]] = {}
    saliency_at: Literal["task_end", "visit"] = "task_end"
    read: Literal["per_task", "at_store", "per_batch"] = "per_task"
    complete: Literal["all", "last_batches"] = "all"
    forget: Forget = Forget()

    def theta_of(self, scenario: str) -> Theta | list[Theta] | None:
        """Return the thetas of a scenario, if any. Domain-IL takes Class-IL's: both are among all classes."""
        by_name: dict[str, Theta | list[Theta]] = dict(self.theta.items())
        return by_name.get(scenario, by_name.get("class_il") if scenario == "domain_il" else None)

    @model_validator(mode="before")
    @classmethod
    def _same_theta_everywhere(cls, values: Any) -> Any:
        """Apply `theta: 0.5`, `theta: [0.1, 0.5]` or `theta: {mass: 0.9}` to both scenarios."""
        theta = values.get("theta") if isinstance(values, dict) else None
        if isinstance(theta, (int, float, list)) or (isinstance(theta, dict) and set(theta) == {"mass"}):
            return {**values, "theta": {"task_il": values["theta"], "class_il": values["theta"]}}
        return values


class BudgetConfig(Settings):
    """What a buffer of m slots may hold. See sharc_core.memory.budget."""

    unit: Unit = "floats"
    count_associative_memory: bool = False
    split: Literal["equal", "carry"] | Annotated[list[Share], Field(min_length=1)] = "equal"

    @model_validator(mode="before")
    @classmethod
    def _total_bytes_are_all_bytes(cls, values: Any) -> Any:
        """Charge the associative memory's state to `total_bytes`, unless the file says otherwise."""
        if isinstance(values, dict) and values.get("unit") == "total_bytes":
            return {"count_associative_memory": True, **values}
        return values

    @model_validator(mode="after")
    def _only_bytes_can_charge_state(self) -> "BudgetConfig":
        if self.count_associative_memory and self.unit not in IN_BYTES:
            raise ValueError(f"count_associative_memory needs unit {' or '.join(IN_BYTES)}, not {self.unit}")
        return self


class MemoryConfig(Settings):
    """Which samples the episodic memory stores: a name registered in sharc_core.selection."""

    selection: str = "last"
