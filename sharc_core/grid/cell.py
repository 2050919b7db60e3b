"""A cell: one training configuration with all its seeds, the unit of work.

It lies in its own module so that the job of a cell imports neither data sources nor backbones.
"""

import math
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from sharc_core.common.files import digest
from sharc_core.common.settings import Settings
from sharc_core.grid.axes import AXES, IN_ID
from sharc_core.memory.budget_units import IN_BYTES
from sharc_core.representations import REPRESENTATIONS
from sharc_core.streams.settings import StreamConfig, WithStream

Scenario = Literal["task_il", "class_il", "domain_il"]
Variant = Literal["plain", "sharc"]
Importance = Literal["absolute", "positive"]
Device = Literal["auto", "cpu", "cuda"]
# Fields newer than the format of documents. Empty ones are left out, so that older documents still match.
SCALE = 10.0  # of a cosine head before training
ROUNDING = 1e-6  # of steps: 3 * (1 / 3) must be a step
OPTIONAL = {"storage_settings", "tuned"}


class Training(Settings):
    """Plain SGD. The defaults are those of the published code.

    steps_per_batch: how often a method learns from a minibatch of the stream, each time with new replay
    draws. A fraction is spread evenly: with 1.5 every second minibatch has two steps. Methods that do not
    train the head by SGD see every minibatch once.
    """

    lr: float = Field(default=0.1, gt=0)
    batch_size: int = Field(default=10, ge=1)
    replay_batch_size: int = Field(default=10, ge=1)
    epochs: int = Field(default=1, ge=1)
    steps_per_batch: float = Field(default=1.0, ge=1, le=1000)

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the newest key out where it has its default, so that hashes of older cells still match."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if key != "steps_per_batch" or value != 1}

    def steps_of(self, batch: int) -> int:
        """Return the steps on a minibatch of a pass, counted from 0."""
        done, due = (math.floor(number * self.steps_per_batch + ROUNDING) for number in (batch, batch + 1))
        return due - done


class HeadConfig(Settings):
    """The trained classifier.

    kind: `linear` is one layer on the pooled map (the paper's tables), `mlp` has one hidden ReLU layer,
    `cosine` scores by cosines of features and weights. hidden: width of the hidden layer. scale: the initial
    one of a cosine head, which is then trained. bias_correction: `weight_alignment` scales the output weights
    of a task's new classes at its end and keeps weights from being negative, `unclipped_alignment` only
    scales; see sharc_core.learning.bias_correction.
    """

    kind: Literal["linear", "mlp", "cosine"] = "linear"
    hidden: int = Field(default=256, ge=1)
    scale: float = Field(default=SCALE, gt=0, le=1000)
    bias_correction: Literal["none", "weight_alignment", "unclipped_alignment"] = "none"

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the newest keys out where they have no effect, so that hashes of older cells still match."""
        values: dict[str, Any] = dump(self)
        absent = {"scale"} if self.kind != "cosine" else set()
        absent |= {"bias_correction"} if self.bias_correction == "none" else set()
        return {key: value for key, value in values.items() if key not in absent}


class Cell(WithStream):
    """One training configuration with all its seeds: the unit of work, a pure function of its fields.

    scenarios: scenarios whose results are reported. Training does not depend on them, so they are not part of
    the job, and a study that adds the other scenario trains nothing again. method_settings,
    associative_settings, storage_settings: complete, with all defaults, because they identify the run. views:
    of the backbone, see sharc_core.features.views. batch_norm: state of the backbone's batch norm while the
    head trains. passes: of a training batch through a drifting backbone, else None. protocol: a name for the
    values of some other fields, see sharc_core.grid.protocol. device: as in the grid file; the result names
    the device that `auto` chose.
    """

    dataset: str
    stream: StreamConfig
    backbone: str
    method: str
    variant: Variant
    scenarios: list[Scenario] = ["task_il", "class_il"]
    seeds: list[int]
    training: Training
    head: HeadConfig
    method_settings: dict[str, Any]
    buffer: int | None = None
    budget_unit: str | None = None
    budget_split: str | list[float] = AXES["budget_split"].default
    selection: str = "last"
    count_associative_memory: bool = AXES["count_associative_memory"].default
    storage: str = AXES["storage"].default
    storage_settings: dict[str, Any] = {}
    theta: float | None = None
    mass: float | None = None
    saliency: str | None = None
    importance: Importance | None = None
    associative_memory: str | None = None
    associative_kind: str | None = None
    associative_settings: dict[str, Any] = {}
    saliency_at: str | None = None
    read: str | None = None
    complete: str | None = None
    forget_every: int | None = None
    forget_unit: str | None = None
    forget_beta: float | None = None
    views: int = 1
    batch_norm: str = "frozen"
    passes: int | None = None
    protocol: str = AXES["protocol"].default
    device: Device = "cpu"

    @property
    def id(self) -> str:
        """File name of the cell, made of its values on the axes. Settings are parameters of its job."""
        if self.buffer is None:
            return self.method
        values = {name: getattr(self, name) for name in IN_ID}
        if {"importance", "code"} & set(self.protocol.split("+")):
            del values["importance"]  # the protocol's name implies it
        parts = {name: value for name, value in values.items() if value not in (None, AXES[name].default)}
        return "-".join(AXES[name].in_id(value) for name, value in parts.items())

    @property
    def place(self) -> tuple[str, str, str]:
        """Data set, backbone and id, which together are unique in a grid."""
        return self.dataset, self.backbone, self.id

    @property
    def has_ragged_channels(self) -> bool:
        """Whether the number of kept channels differs between samples."""
        return self.mass is not None or self.importance == "positive"

    @property
    def has_ragged_tasks(self) -> bool:
        """Whether the number of stored samples differs between seeds, which then cannot train together."""
        return self.has_ragged_channels or self.budget_unit == "nonzero" or self.has_ragged_files

    @property
    def has_ragged_files(self) -> bool:
        """Whether samples are files of different sizes, which the budget counts."""
        stores_encodings = self.buffer is not None and REPRESENTATIONS.get(self.storage).stores_encodings
        return stores_encodings and self.budget_unit in IN_BYTES

    @property
    def memory_kind(self) -> str | None:
        """Registered kind of the associative memory, whose name in the grid file may differ."""
        return self.associative_kind or self.associative_memory

    @property
    def plugins(self) -> tuple[str | None, ...]:
        """Names of method, associative memory, saliency, representation and selection; None where unused."""
        memory = (self.storage, self.selection) if self.buffer is not None else (None, None)
        return (self.method, self.memory_kind, self.saliency, *memory)

    @property
    def job(self) -> dict[str, Any]:
        """Everything but the features that determines the numbers of the cell."""
        values = self.model_dump(mode="json", exclude={"scenarios"})
        return {key: value for key, value in values.items() if value or key not in OPTIONAL}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything but features and code that determines the numbers of each seed."""
        return {key: value for key, value in self.job.items() if key != "seeds"}

    @property
    def config_hash(self) -> str:
        """Short hash of all fields but the seeds and the reported scenarios."""
        return digest(self.settings)
