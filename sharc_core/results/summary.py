"""Runs averaged over seeds, and the names and order of rows that tables, figures and report share."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sharc_core.backbones.names import network_and_batch_norm
from sharc_core.common.deferred import pandas as pd
from sharc_core.common.formats import DASH, bytes_text, natural_key
from sharc_core.grid.axes import AXES, SETTINGS
from sharc_core.grid.protocol import BATCH_NORM, name_of, protocol_key, rules_of
from sharc_core.grid.sub_grid import MAIN
from sharc_core.methods import traits
from sharc_core.results.display_names import method_key, method_name, scenario_name
from sharc_core.results.runs import WEIGHTED
from sharc_core.results.statistics import confidence_interval
from sharc_core.results.table_formats import Item

METRICS = ("acc", "aia", "bwt", "fwt", "forgetting")
COSTS = (
    "episodic_bytes",
    "associative_bytes",
    "learner_bytes",
    "total_bytes",
    "peak_bytes",
    "samples_stored",
    "recall_mse",
    "train_flops",
    "backbone_passes",
)


@dataclass(frozen=True)
class Entry:
    """The runs of one cell in one scenario, averaged over the seeds: a row of a table on one data set.

    accs: ACC of each seed, in the order of `seeds`. mean, std: by metric, with the sample deviation (NaN for
    one seed); those of WEIGHTED are there if the runs have them. costs: means over the seeds. Axes that do
    not apply are None.
    """

    dataset: str
    backbone: str
    scenario: str
    method: str
    variant: str
    buffer: int | None
    theta: float | None
    mass: float | None
    associative_memory: str | None
    saliency: str | None
    read: str | None
    budget_unit: str | None
    budget_split: str | None
    storage: str | None
    count_associative_memory: bool
    importance: str | None
    protocol: str
    seeds: tuple[int, ...]
    accs: tuple[float, ...]
    mean: dict[str, float]
    std: dict[str, float]
    costs: dict[str, float]

    @property
    def is_sharc(self) -> bool:
        """Whether SHARC is on."""
        return self.variant == "sharc"

    @cached_property
    def is_joint(self) -> bool:
        """Whether the method trains on all tasks at once."""
        return traits(self.method).joint

    @property
    def budget(self) -> str | None:
        """The budget that a buffer is counted in: its unit, and split and storage where not the default."""
        if self.budget_unit is None:
            return None
        split = {"equal": [], "carry": ["carried over"]}.get(
            self.budget_split or "equal", [f"split {self.budget_split}"]
        )
        return ", ".join(
            [self.budget_unit, *split, *([self.storage] if self.storage not in (None, "float16") else [])]
        )

    @property
    def buffer_text(self) -> str:
        """The buffer in figures and tables: slots, or a size where it is a number of bytes."""
        if self.buffer is None:
            return DASH
        return bytes_text(self.buffer) if self.budget_unit == "total_bytes" else str(self.buffer)

    @property
    def acc(self) -> float:
        """Mean ACC over the seeds, percent."""
        return self.mean["acc"]

    @property
    def has_unequal_tasks(self) -> bool:
        """Whether the tasks differ in their numbers of classes."""
        return not math.isnan(self.mean.get("acc_weighted", math.nan))

    @property
    def acc_interval(self) -> tuple[float, float]:
        """95 % Student-t interval of the mean ACC over the seeds; NaN for one seed."""
        return confidence_interval(self.accs)

    @property
    def total_bytes(self) -> float:
        """Mean bytes of all that the learner keeps, without the backbone."""
        return self.costs["total_bytes"]

    @property
    def acc_by_seed(self) -> dict[int, float]:
        """ACC by seed, percent."""
        return dict(zip(self.seeds, self.accs, strict=True))

    @property
    def row(self) -> tuple:
        """The key of a table's row: entries with equal keys are on one row, a column per data set."""
        return (self.buffer, self.method, self.variant, *(getattr(self, name) for name in SETTINGS))


def network_and_protocol(entry: Entry, backbones: Collection[str]) -> tuple[str, str]:
    """Return the network of an entry and its protocol on that network.

    A drifting backbone is treated as the rule `batch_norm` on the same network with frozen batch norm, if
    that is among the `backbones` of the other entries. Any other backbone is a network of its own.
    """
    network, batch_norm = network_and_batch_norm(entry.backbone)
    if batch_norm == "drifting" and network in backbones:
        return network, name_of((*rules_of(entry.protocol), BATCH_NORM))
    return entry.backbone, entry.protocol


def runs_of(runs: pd.DataFrame, study: str | None = MAIN, scenario: str | None = None) -> pd.DataFrame:
    """Return the runs of the grid itself (MAIN) or of one of its studies.

    study: None for all runs. scenario: None for all scenarios.
    """
    rows = zip(runs["studies"], runs["scenario"], strict=True)
    return runs[[study in (None, *names.split()) and scenario in (None, where) for names, where in rows]]


def summarise(runs: pd.DataFrame, study: str | None = MAIN) -> list[Entry]:
    """Return an entry per cell and scenario of a study (see runs_of), in the order of the runs."""
    groups: dict[tuple, list[dict]] = {}
    for record in runs_of(runs, study).to_dict("records"):
        axes = {name: None if pd.isna(record[name]) else record[name] for name in AXES}
        groups.setdefault(tuple(axes.items()), []).append(record)
    return [_entry(dict(axes), records) for axes, records in groups.items()]


def _entry(axes: dict, records: list[dict]) -> Entry:
    def column(name: str) -> np.ndarray:
        return np.array([record[name] for record in records], dtype=float)

    metrics = [*METRICS, *(name for name in WEIGHTED if name in records[0])]
    return Entry(
        **axes,
        seeds=tuple(int(record["seed"]) for record in records),
        accs=tuple(column("acc").tolist()),
        mean={name: float(column(name).mean()) for name in metrics},
        std={name: sample_std(column(name)) for name in metrics},
        costs={name: float(column(name).mean()) for name in COSTS},
    )


def sample_std(values: np.ndarray) -> float:
    """Return the sample standard deviation (ddof = 1) of values (N,); NaN for N < 2."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def varying_settings(entries: Sequence[Entry]) -> list[str]:
    """Return the names of the settings that a row's label must show to be unique.

    These are SHARC's settings that differ within a protocol, and `protocol` if there are several.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.buffer is not None:
            groups.setdefault(entry.protocol, []).append(entry)
    sharc = [[entry for entry in group if entry.is_sharc] for group in groups.values()]
    varying = [n for n in SETTINGS if any(len({getattr(e, n) for e in group}) > 1 for group in sharc)]
    return [*varying, "protocol"] if len(groups) > 1 else varying


def model_label(entry: Entry, varying: Sequence[str]) -> str:
    """Return `ER`, `ER+` or `ER+ (theta 0.4, mean)`; of the varying settings plain rows show the protocol."""
    if entry.buffer is None:
        return method_name(entry.method)
    named = [name for name in varying if entry.is_sharc or name == "protocol"]
    words = [text for name in named if (text := setting_text(entry, name))]
    label = f"{method_name(entry.method)}{'+' if entry.is_sharc else ''}"
    return f"{label} ({', '.join(words)})" if words else label


def row_name(entry: Entry, among: Sequence[Entry]) -> str:
    """Return `ER+, buffer 200`, with the budget's name where the entries `among` have several."""
    label = model_label(entry, varying_settings(among))
    if entry.buffer is None:
        return label
    words = budget_words(entry, among)
    return f"{label}, buffer {entry.buffer_text}" + (f" ({words})" if words else "")


def budget_words(entry: Entry, among: Sequence[Entry]) -> str:
    """Return those of the budget's unit, split and storage that differ between the entries `among`."""
    with_buffer = [_budget_parts(e) for e in among if e.budget is not None]
    parts = _budget_parts(entry)
    return ", ".join(parts[name] for name in parts if len({other[name] for other in with_buffer}) > 1)


def _budget_parts(entry: Entry) -> dict[str, str]:
    return {
        "unit": str(entry.budget_unit),
        "split": f"split {entry.budget_split or 'equal'}",
        "storage": entry.storage or "float16",
    }


def place_name(entry: Entry, among: Sequence[Entry]) -> str:
    """Return the data set, with the backbone where the entries `among` have several."""
    several = len({e.backbone for e in among}) > 1
    return f"{entry.dataset} ({entry.backbone})" if several else entry.dataset


def setting_text(entry: Entry, name: str) -> str:
    """Return a setting's value as a word or two."""
    value = getattr(entry, name)
    if name == "theta":
        return "" if value is None else f"theta {float(value)!r}".removesuffix(".0")
    if name == "mass":
        return "" if value is None else f"mass {float(value)!r}"
    if name == "count_associative_memory":
        return "AM charged" if value else "AM not charged"
    return str(value)


def blocks(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Group entries by backbone and budget; entries without a buffer are in every block of their backbone."""
    groups = []
    for backbone in unique((e.backbone for e in entries), natural_key):
        chosen = [entry for entry in entries if entry.backbone == backbone]
        budgets = unique((e.budget for e in chosen if e.budget is not None), str)
        groups += [[e for e in chosen if e.budget in (None, budget)] for budget in budgets or [None]]
    return groups


def row_key(entry: Entry) -> tuple:
    """Return the sort key of a table row: buffer (none first), method, protocol, variant, settings."""
    settings = [
        (value is not None, value or 0 if not isinstance(value, str) else value)
        for value in (getattr(entry, name) for name in SETTINGS)
    ]
    protocol = protocol_key(entry.protocol)
    return (entry.buffer or 0, method_key(entry.method), protocol, entry.variant, settings)


def unique(values: Iterable, key: Callable) -> list:
    """Return each value once, sorted."""
    return sorted(set(values), key=key)


def block_title(entries: Sequence[Entry]) -> str:
    """Return the title of a block's table: its scenario, backbone and budget."""
    budget = next((e.budget for e in entries if e.budget is not None), None)
    title = f"{scenario_name(entries[0].scenario)}, backbone {entries[0].backbone}"
    return title if budget is None else f"{title}, budget in {budget}"


def seeds_text(entries: Sequence[Entry]) -> str:
    """Return how many seeds the entries were run with, such as `Seeds: 5`."""
    counts = sorted({len(entry.seeds) for entry in entries})
    return f"Seeds: {counts[0]}" if len(counts) == 1 else f"Seeds: {counts[0]} to {counts[-1]}"


def buffer_item(entry: Entry) -> Item:
    """Return the buffer as a field of a table; a dash for methods without one."""
    return Item(entry.buffer_text, -1 if entry.buffer is None else entry.buffer)
