"""A representation or a selection is one new file. Temporary ones are added and run here."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from factories import make_cell, make_features
from test_config import BASE
from test_memory import FEATURES, fill

from sharc_core.common.errors import UserError
from sharc_core.common.registry import Registry
from sharc_core.features.drifting.part import Kept
from sharc_core.grid.drifting_parts import kept_for
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.learning.learner import run_cell
from sharc_core.memory.budget import Budget
from sharc_core.provenance.code_hashes import code_hash
from sharc_core.representations import REPRESENTATIONS
from sharc_core.selection import SELECTIONS

POOLED = '''
"""Pooled vectors in float16 instead of maps."""

import torch

from sharc_core.representations import REPRESENTATIONS, Representation, Stored


class Vectors(Stored):
    def __init__(self, values):
        self.values = values

    def decode(self):
        return self.values.float()

    @property
    def mask(self):
        return torch.ones(self.values.shape, dtype=torch.bool)

    @property
    def nbytes(self):
        return self.values.nbytes


@REPRESENTATIONS.register("throwaway_pooled")
class Pooled(Representation):
    stores_maps = False

    def encode(self, maps, mask=None):
        assert mask is None and maps.ndim == 2
        return Vectors(maps.half())

    def planned_bytes(self, keep, counted=False):
        return 2 * keep
'''
PALETTE = '''
"""Every value is the number of the nearest of a few levels, which all samples share."""

import math

import torch
from pydantic import Field

from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.representations import REPRESENTATIONS, Representation, Stored


class Numbers(Stored):
    def __init__(self, numbers, kept, levels):
        self.numbers, self.kept, self.levels = numbers, kept, levels

    def decode(self):
        return self.levels[self.numbers.long()] * self.kept[:, :, None, None]

    @property
    def mask(self):
        return self.kept

    @property
    def nbytes(self):
        return int(self.kept.sum()) * self.numbers[0, 0].numel() + self.kept.numel() // 8


@REPRESENTATIONS.register("throwaway_palette")
class Palette(Representation):
    plans_exactly = False

    class Settings(BaseSettings):
        levels: int = Field(default=64, ge=2, le=256)
        top: float = 4.0

    @property
    def levels(self):
        return torch.linspace(0, self.settings.top, self.settings.levels)

    def encode(self, maps, mask=None):
        step = self.settings.top / (self.settings.levels - 1)
        numbers = (maps.float() / step).round().clamp(0, self.settings.levels - 1).to(torch.uint8)
        kept = torch.ones(maps.shape[:2], dtype=torch.bool) if mask is None else mask
        return Numbers(numbers, kept, self.levels)

    def planned_bytes(self, keep, counted=False):
        return keep * math.prod(self.shape[1:]) + self.shape[0]

    @property
    def shared_bytes(self):
        return 4 * self.settings.levels
'''
FIRST = '''
"""The first samples of each task."""

import torch

from sharc_core.selection import SELECTIONS, TaskSelection


@SELECTIONS.register("throwaway_first")
class First(TaskSelection):
    def rank(self, candidates):
        return torch.arange(len(candidates.labels))
'''
RING = '''
"""The latest samples of the stream, whatever their task."""

from sharc_core.selection import SELECTIONS, StreamSelection


@SELECTIONS.register("throwaway_ring")
class Ring(StreamSelection):
    def slots(self, count):
        self.seen += count
        return [number % self.capacity for number in range(self.seen - count, self.seen)]
'''
LEVELS = {"throwaway_palette": {"levels": 16, "top": 2.0}}


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Add a plug-in's file to a registry's package, from a temporary folder, until the test ends."""
    added: list[tuple[Registry, str]] = []

    def adding(registry: Registry, name: str, text: str) -> None:
        package = importlib.import_module(registry.package)
        Path(tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_searched", set(registry._searched))
        registry.__dict__.pop("_sources", None)
        added.append((registry, f"{registry.package}.{name}"))

    yield adding
    for registry, module in added:
        registry.__dict__.pop("_sources", None)
        sys.modules.pop(module, None)


# --- representations -----------------------------------------------------------------------------


def test_a_new_representation_is_a_valid_storage(add):
    with pytest.raises(UserError, match=r"storage: unknown storage 'throwaway_palette'; valid: float16, flo"):
        load_grid(BASE | {"storage": "throwaway_palette"})
    add(REPRESENTATIONS, "throwaway_palette", PALETTE)
    grid = load_grid(BASE | {"storage": ["float16", "throwaway_palette"], "storage_settings": LEVELS})
    found = [cell for cell in cells(grid) if cell.storage == "throwaway_palette"]
    assert found and all(cell.storage_settings == LEVELS["throwaway_palette"] for cell in found)
    assert all("-throwaway_palette" in cell.id for cell in found)
    with pytest.raises(UserError, match=r"unknown storage 'throwaway_palete' \(did you mean 'throwaway_pal"):
        load_grid(BASE | {"storage": "throwaway_palete"})
    with pytest.raises(UserError, match=r"storage_settings\.throwaway_palette\.levels: .*less than or equal"):
        load_grid(BASE | {"storage_settings": {"throwaway_palette": {"levels": 1000}}})


@pytest.mark.parametrize("variant", ["plain", "sharc"])
@pytest.mark.parametrize("selection", ["last", "batches", "reservoir", "herding"])
def test_a_new_representation_runs(add, variant, selection):
    """Stored bytes, including shared ones, fit the budget, and the coarse values change the run."""
    add(REPRESENTATIONS, "throwaway_palette", PALETTE)
    settings = REPRESENTATIONS.get("throwaway_palette").Settings(levels=16, top=2.0).model_dump()
    cell = make_cell("er", variant, buffer=40, budget_unit="bytes", seeds=[0, 1], selection=selection)
    exact = run_cell(FEATURES, cell)
    coarse = {"storage": "throwaway_palette", "storage_settings": settings}
    document = run_cell(FEATURES, cell.model_copy(update=coarse))
    assert document["matrix"] != exact["matrix"]
    total = Budget("bytes", 40, 3, (12, 2, 2)).total
    for held in document["costs"]["episodic_bytes"]:
        assert 64 < held <= total
    assert document["costs"]["samples_stored"][0] > exact["costs"]["samples_stored"][0], "it is smaller"


def test_shared_bytes_are_charged_once(add):
    add(REPRESENTATIONS, "throwaway_palette", PALETTE)
    palette = REPRESENTATIONS.get("throwaway_palette")((12, 2, 2))
    for split, carry in ((None, False), (None, True), ((3.0, 1.0, 2.0), False)):
        with_levels = Budget("bytes", 40, 3, (12, 2, 2), representation=palette, split=split, carry=carry)
        float16 = Budget("bytes", 40, 3, (12, 2, 2), split=split, carry=carry)
        charged = [float16.allowance(task) - with_levels.allowance(task) for task in range(3)]
        assert sum(charged) == palette.shared_bytes and min(charged) > 0


def test_pooled_vectors_are_a_representation(add):
    """They need no maps, store as many samples as their values allow, and are not completed."""
    add(REPRESENTATIONS, "throwaway_pooled", POOLED)
    name = "throwaway_pooled"
    grid = load_grid(BASE | {"storage": name, "variants": "plain"})
    assert {cell.storage for cell in cells(grid) if cell.buffer} == {name}
    for change, key in (({}, "variants sharc"), ({"budget": {"unit": "nonzero"}}, "budget.unit nonzero")):
        variants = ["plain"] if change else ["plain", "sharc"]
        with pytest.raises(UserError, match=f"storage {name} cannot be combined with {key}: it stores"):
            load_grid(BASE | {"storage": name, "variants": variants} | change)
    features = make_features(classes=6, train_per_class=150)
    for unit, samples in (("slots", 36), ("floats", 4 * 36), ("bytes", 36 * (12 * 8 + 2) // (12 * 2 + 2))):
        cell = make_cell("er", storage=name, buffer=36, budget_unit=unit)
        memory = fill(cell, features)
        assert abs(memory.samples_stored - samples) < 3
        assert memory.episodic_bytes() == [memory.samples_stored * (12 * 2 + 2)] * 3
        for stored in memory.stored:
            assert torch.equal(stored.x, features.train_pooled[stored.index].half().float())
        assert run_cell(features, cell)["costs"]["samples_stored"] == [memory.samples_stored] * 3
    drifting = make_cell("er", storage=name, batch_norm="drifting", passes=2, selection="herding")
    assert kept_for([drifting]) == Kept()


# --- selections ----------------------------------------------------------------------------------


def test_a_new_selection_runs(add):
    add(SELECTIONS, "throwaway_first", FIRST)
    grid = load_grid(BASE | {"memory": {"selection": "throwaway_first"}})
    assert {cell.selection for cell in cells(grid) if cell.buffer} == {"throwaway_first"}
    cell = make_cell("er", selection="throwaway_first")
    last = cell.model_copy(update={"selection": "last"})
    for stored, other in zip(fill(cell).stored, fill(last).stored, strict=True):
        assert stored.samples == other.samples == 4 and not torch.equal(stored.index, other.index)
    assert run_cell(FEATURES, cell)["matrix"] != run_cell(FEATURES, last)["matrix"]


def test_a_new_selection_of_the_stream_runs(add):
    """Its traits define unsupported combinations, as for the reservoir."""
    add(SELECTIONS, "throwaway_ring", RING)
    values = BASE | {"memory": {"selection": "throwaway_ring"}}
    found = [cell for cell in cells(load_grid(values)) if cell.buffer]
    assert {cell.method: cell.selection for cell in found if cell.method in ("er", "gem")} == {
        "er": "throwaway_ring",
        "gem": "last",
    }
    assert {cell.saliency_at for cell in found if cell.variant == "sharc" and cell.method == "er"} == {
        "visit"
    }
    with pytest.raises(UserError, match="selection throwaway_ring cannot be combined with budget.unit nonze"):
        load_grid(values | {"budget": {"unit": "nonzero"}})
    document = run_cell(FEATURES, make_cell("er", selection="throwaway_ring"))
    assert document["costs"]["samples_stored"] == [12] * 3


def test_a_new_file_changes_no_other_cells_code(add):
    cell = make_cell("er")
    before = code_hash.__wrapped__(*cell.plugins)
    add(SELECTIONS, "throwaway_first", FIRST)
    add(REPRESENTATIONS, "throwaway_palette", PALETTE)
    assert code_hash.__wrapped__(*cell.plugins) == before
    for change in ({"selection": "throwaway_first"}, {"storage": "throwaway_palette"}):
        assert code_hash.__wrapped__(*cell.model_copy(update=change).plugins) != before
