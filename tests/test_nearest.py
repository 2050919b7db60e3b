"""The search for the nearest stored map: brute force, ties, later maps, and cells with the slow path."""

import math

import pytest
import torch
from factories import make_cell, make_features
from test_associative import SHAPE, make

from sharc_core.associative import nearest
from sharc_core.associative.modern_hopfield import ModernHopfield
from sharc_core.associative.rows import Observed, Rows
from sharc_core.common.errors import UserError
from sharc_core.learning.learner import run_cell
from sharc_core.memory import picked

MAPS = 60


def problem(kind: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return stored maps (N, K, h, w) float16, cues (n, K, h, w) and mask (n, K)."""
    source = torch.Generator().manual_seed(seed)
    maps = torch.randn(MAPS, *SHAPE, generator=source).relu().half()
    mask = torch.rand(MAPS, SHAPE[0], generator=source) < 0.4
    cues = maps.float()
    if kind == "noise":
        cues = torch.rand(MAPS, *SHAPE, generator=source)
    elif kind == "int8":
        scale = cues.amax((2, 3), keepdim=True) / 127
        cues = torch.where(scale > 0, (cues / scale).round() * scale, 0.0)
    elif kind == "signed":  # means near 0, so that the bounds leave many maps
        maps = torch.randn(MAPS, *SHAPE, generator=source).sign().half()
        cues = maps.float() + 0.5 * torch.randn(MAPS, *SHAPE, generator=source)
    elif kind == "copies":
        maps[20:40] = maps[:20]
        maps[45, 5:] = maps[3, 5:]
        cues, mask[:, :5] = maps.float(), False
        mask[:, 5] = True
    elif kind == "equal means":  # mirrored maps: the bounds are 0, the distances are not
        maps[1::2] = maps[::2].flip(3)
        cues = maps.float()
    elif kind == "zeros":
        maps[:, :3] = 0
        cues, mask = maps.float(), torch.zeros_like(mask)
        mask[:, :3] = True
    elif kind == "shared masks":
        mask = mask[:2].repeat_interleave(MAPS // 2, 0)
    elif kind == "double":
        cues = maps.double() + 1e-9 * torch.rand(MAPS, *SHAPE, generator=source, dtype=torch.float64)
    return maps, cues * mask[:, :, None, None], mask


KINDS = ["own", "noise", "int8", "signed", "copies", "equal means", "zeros", "shared masks", "double"]


def brute_force(maps: torch.Tensor, cues: torch.Tensor, mask: torch.Tensor) -> list[int]:
    """Return the first of the nearest maps of each cue, by a loop in float64."""
    numbers = []
    for cue, row in zip(cues.double(), mask, strict=True):
        distances = [(cue[row] - stored[row]).square().sum().item() for stored in maps.double()]
        numbers.append(min(range(len(maps)), key=distances.__getitem__))
    return numbers


def written(maps: torch.Tensor) -> ModernHopfield:
    memory = make("modern_hopfield")
    memory.write(maps, torch.zeros(len(maps)))
    return memory


@pytest.mark.parametrize("many", [0, 16, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_search_finds_what_a_loop_over_all_maps_finds(kind, many, monkeypatch):
    """Whether a cue is compared map by map or, where the bounds leave many, by matrix products."""
    monkeypatch.setattr(nearest, "MANY", many)
    monkeypatch.setattr(nearest, "CUES", 7)
    maps, cues, mask = problem(kind)
    found = written(maps).search(Observed.of(cues, mask))
    assert found.compared == MAPS
    assert found.number.tolist() == brute_force(maps, cues, mask)
    entries = mask[:, :, None, None]
    exact = torch.where(entries, cues.double() - maps[found.number].double(), 0.0).square().sum((1, 2, 3))
    torch.testing.assert_close(found.distance, exact, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_by_search_gives_the_bits_of_the_update_as_it_is_defined(kind):
    maps, cues, mask = problem(kind)
    memory = written(maps)
    full = memory.read(cues, mask, torch.zeros(MAPS))
    expected = torch.where(mask[:, :, None, None], cues, memory._updated(cues, mask))
    assert torch.equal(full, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_later_maps_alone_are_compared_with_what_was_found(kind, monkeypatch):
    maps, cues, mask = problem(kind)
    memory, found, ranges = make("modern_hopfield"), None, []
    bounds = nearest.lower_bounds
    monkeypatch.setattr(
        nearest,
        "lower_bounds",
        lambda cues, kept, first, f: (ranges.append(len(kept) - first), bounds(cues, kept, first, f))[1],
    )
    for part in maps.split([10, 1, 30, 19]):
        memory.write(part, torch.zeros(len(part)))
        found = memory.search(Observed.of(cues, mask), found)
    assert found.number.tolist() == brute_force(maps, cues, mask)
    compared = [10] if kind == "zeros" else [10, 1, 30, 19]  # all equal the first map
    assert ranges == compared
    again = memory.search(Observed.of(cues, mask), found)
    assert ranges == compared and torch.equal(again.number, found.number)


@pytest.mark.parametrize("many", [0, 1, 16, 1000])
@pytest.mark.parametrize("kind", ["own", "copies", "equal means", "zeros", "shared masks"])
def test_of_equal_maps_the_first_is_found_where_one_is_known(kind, many, monkeypatch):
    """Whatever equal map is known, and where few or many maps have the same mean."""
    monkeypatch.setattr(nearest, "MANY", many)
    monkeypatch.setattr(nearest, "CUES", 7)
    maps, cues, mask = problem(kind)
    expected = brute_force(maps, cues, mask)
    known = nearest.Found(torch.arange(MAPS), torch.zeros(MAPS, dtype=torch.float64))
    found = written(maps).search(Observed.of(cues, mask), known)
    assert found.number.tolist() == expected and not found.distance.any()
    if kind == "copies":
        assert expected != list(range(MAPS))


@pytest.mark.parametrize("observed", [[], [4], [4, 5]])
def test_equal_maps_of_zeros_are_found_whatever_is_observed(observed):
    """The first of maps that are zero where they are observed, though other channels tell them apart."""
    maps = problem("own")[0].abs() + 0.1
    maps[30:, 4:6] = 0
    mask = torch.zeros(MAPS, SHAPE[0], dtype=torch.bool)
    mask[:, observed] = True
    known = nearest.Found(torch.arange(MAPS), torch.zeros(MAPS, dtype=torch.float64))
    cues = maps.float() * mask[:, :, None, None]
    found = written(maps).search(Observed.of(cues, mask), known)
    assert found.number.tolist() == brute_force(maps, cues, mask)


def test_bounds_are_not_computed_for_cues_that_equal_a_map(monkeypatch):
    maps, cues, mask = problem("own")
    monkeypatch.setattr(nearest, "lower_bounds", None)
    known = nearest.Found(torch.arange(MAPS), torch.zeros(MAPS, dtype=torch.float64))
    assert written(maps).search(Observed.of(cues, mask), known).number.tolist() == list(range(MAPS))


def test_rows_are_found_again_among_the_stored_maps():
    maps = problem("own")[0]
    memory = make("modern_hopfield")
    memory.write(maps[:3], torch.zeros(3))  # copies have no rows
    for index in ([5, 9, 7], [7, 5, 30]):
        memory.write_rows(Rows(lambda at: maps[at], torch.tensor(index)), torch.zeros(3))
    assert memory.numbers_of(torch.tensor([9, 30, 7, 5, 8, 0])).tolist() == [4, 8, 5, 3, -1, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_never_exceed_distances(kind):
    maps, cues, mask = problem(kind)
    memory = written(maps)
    bounds = nearest.lower_bounds(Observed.of(cues, mask), memory.kept, 0, memory.flops)
    entries = mask[:, None, :, None, None]
    distances = torch.where(entries, cues.double()[:, None] - maps.double(), 0.0).square().sum((2, 3, 4))
    assert (bounds <= distances).all()
    if kind in ("own", "shared masks"):  # and are tight enough to leave one map
        assert ((bounds <= distances.diagonal()[:, None]).sum(1) == 1).all()


def test_maps_that_are_read_when_they_are_used_are_recalled_like_copies():
    maps, cues, mask = problem("own")
    copies, reads = written(maps), []
    memory = make("modern_hopfield")
    for index in torch.arange(MAPS).split(25):
        rows = Rows(lambda at: (reads.append(len(at)), maps[at])[1], index)
        memory.write_rows(rows, torch.zeros(len(rows)))
    assert memory.written == MAPS and memory.state_bytes == copies.state_bytes == maps.nbytes
    assert torch.equal(memory.stored, copies.stored) and torch.equal(memory.kept.means, copies.kept.means)
    state, other = memory.state_dict(), make("modern_hopfield")
    other.load_state_dict(state)
    reads.clear()
    expected = copies.read(cues, mask, torch.zeros(MAPS))
    assert torch.equal(memory.read(cues, mask, torch.zeros(MAPS)), expected)
    assert torch.equal(other.read(cues, mask, torch.zeros(MAPS)), expected)
    assert sum(reads) == 2 * MAPS, "one comparison per cue, and its completion"


@pytest.mark.parametrize(
    ("value", "message"), [(70_000.0, "beyond 65,504"), (math.nan, "entries that are not finite")]
)
def test_rows_that_cannot_be_stored_are_refused(value, message):
    maps = torch.zeros(100, *SHAPE)
    maps[80, 1] = value
    memory = make("modern_hopfield")
    with pytest.raises(UserError, match=message):
        memory.write_rows(Rows(lambda at: maps[at], torch.arange(100)), torch.zeros(100))
    with pytest.raises(UserError, match="there are no maps to be written"):
        memory.write_rows(Rows(lambda at: maps[at], torch.arange(0)), torch.zeros(0))
    with pytest.raises(UserError, match="cannot be written; it was made for"):
        memory.write_rows(Rows(lambda at: maps[at, :4], torch.arange(9)), torch.zeros(9))
    assert memory.written == len(memory.kept) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"storage": "int8"},
        {"storage": "float32"},
        {"theta": 0.0},
        {"theta": 0.9},
        {"theta": None, "mass": 0.6},
        {"complete": "last_batches"},
        {"read": "at_store"},
        {"method": "gem"},
    ],
    ids=str,
)
@pytest.mark.parametrize("separation", [1.0, 0.0])
def test_a_cell_has_the_results_of_the_slow_path(changes, separation, monkeypatch):
    """Recall is imperfect with theta 0.9 and copies of maps that differ in dropped channels."""
    features = make_features(separation=separation)
    if separation == 0.0:
        features.train_maps[1::2, :8] = features.train_maps[::2, :8]
        features.train_pooled = picked.pool(features.train_maps)
    monkeypatch.setattr(picked, "BLOCK", 5)
    cell = make_cell(**({"method": "derpp"} | changes), variant="sharc", buffer=36)
    fast = run_cell(features, cell)
    monkeypatch.setattr(ModernHopfield, "picks", False)
    slow = run_cell(features, cell)
    assert fast["matrix"] == slow["matrix"]
    assert fast["costs"]["recall_mse"] == pytest.approx(slow["costs"]["recall_mse"], rel=1e-5, abs=1e-12)
    for name in ("episodic_bytes", "associative_bytes", "samples_stored"):
        assert fast["costs"].get(name) == slow["costs"].get(name)


def test_samples_whose_map_was_found_are_not_searched_again(monkeypatch):
    """Every task searches for its own samples only, and for those that equal no stored map."""
    features, searched = make_features(), []
    search = ModernHopfield.search
    monkeypatch.setattr(
        ModernHopfield,
        "search",
        lambda self, cues, known=None: (searched.append(len(cues)), search(self, cues, known))[1],
    )
    for storage, expected in (("float16", [8, 8]), ("int8", [8, 8, 8])):
        searched.clear()
        cell = make_cell("er", "sharc", buffer=12, storage=storage, budget_unit="floats", seeds=[0])
        run_cell(features, cell)
        assert searched == expected
