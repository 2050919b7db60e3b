"""Selections: which samples of a task are stored, and that budgets are never exceeded."""

from dataclasses import dataclass

import pytest
import torch
from factories import QUICK, make_cell, make_features
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import BASE
from test_memory import FEATURES, fill

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.features.drifting.part import Kept
from sharc_core.grid.drifting_parts import kept_for
from sharc_core.grid.loading import load_grid
from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.grid.unroll import cells
from sharc_core.learning.cell_memory import budget_of
from sharc_core.learning.learner import run_cell
from sharc_core.selection import SELECTIONS
from sharc_core.selection.base import in_turn, latest_first
from sharc_core.selection.herding import exemplars
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

KINDS = {name: SELECTIONS.get(name) for name in SELECTIONS.names()}
OF_TASKS = [name for name, kind in KINDS.items() if kind.has_tasks]
RANKED = [name for name in OF_TASKS if name != "batches"]  # batches swaps samples, so it ranks none
SPARSE = make_features(classes=6, train_per_class=25)  # about half of the values are zero, as after a ReLU
SPARSE.train_maps = (SPARSE.train_maps - 0.9).clamp_min(0)


@dataclass
class Samples:
    """Candidates with given labels, costs and vectors, as passed to a selection."""

    labels: torch.Tensor
    cost: torch.Tensor
    vectors: torch.Tensor
    allowance: int
    batch_size: int = 4

    def costs(self):
        return self.cost

    def pooled(self):
        return self.vectors

    def most(self):
        return int((self.cost.sort().values.cumsum(0) <= self.allowance).sum())

    def fitting(self, ranked):
        spent = self.cost[ranked].cumsum(0)
        count = int((spent <= self.allowance).sum())
        return count, self.allowance - int(spent[count - 1])


@st.composite
def samples(draw, least: int = 9):
    """Draw up to 40 samples of up to 4 classes; the allowance holds at least one of any cost."""
    count, seed = draw(st.integers(1, 40)), draw(st.integers(0, 10**6))
    source = torch.Generator().manual_seed(seed)
    return Samples(
        torch.randint(draw(st.integers(1, 4)), (count,), generator=source),
        torch.randint(1, 10, (count,), generator=source),
        torch.rand(count, 5, generator=source),
        draw(st.integers(least, 200)),
    )


# --- every selection -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_TASKS)
@given(candidates=samples())
@settings(max_examples=60, deadline=None)
def test_chosen_samples_are_distinct_and_in_the_order_of_the_visit(name, candidates):
    chosen, left = KINDS[name]().choose(candidates, candidates.fitting)
    assert chosen.dtype == torch.int64 and len(chosen)
    assert (chosen.diff() > 0).all() and chosen.min() >= 0 and chosen.max() < len(candidates.labels)
    assert left == candidates.allowance - int(candidates.cost[chosen].sum())
    again, _ = KINDS[name]().choose(candidates, candidates.fitting)
    assert torch.equal(again, chosen)


@pytest.mark.parametrize("name", RANKED)
@given(candidates=samples(), more=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_a_larger_allowance_only_adds_samples(name, candidates, more):
    chosen, left = KINDS[name]().choose(candidates, candidates.fitting)
    assert left >= 0
    candidates.allowance += more
    larger, _ = KINDS[name]().choose(candidates, candidates.fitting)
    assert set(chosen.tolist()) <= set(larger.tolist())


@pytest.mark.parametrize("name", RANKED)
@given(candidates=samples())
@settings(max_examples=60, deadline=None)
def test_no_further_sample_of_the_ranking_would_have_fitted(name, candidates):
    ranked = KINDS[name]().rank(candidates)
    chosen, left = KINDS[name]().choose(candidates, candidates.fitting)
    if len(chosen) < len(ranked):
        assert int(candidates.cost[ranked[len(chosen)]]) > left
    elif len(ranked) < len(candidates.labels):  # the ranking ends when no further sample could fit
        assert len(ranked) >= candidates.most()


BUDGETS = {
    "unit": st.sampled_from(["slots", "floats", "nonzero", "bytes"]),
    "split": st.sampled_from(["equal", "carry", [3.0, 1.0, 2.0]]),
    "storage": st.sampled_from(["float32", "float16", "int8"]),
    "method": st.sampled_from(["er", "derpp"]),
    "buffer": st.integers(12, 90),
    "rule": st.sampled_from(
        [
            {},
            {"variant": "sharc", "theta": 0.7},
            {"variant": "sharc", "theta": None, "mass": 0.6},
            {"variant": "sharc", "theta": 0.4, "importance": "positive"},
            {"variant": "sharc", "theta": 0.4, "importance": "positive", "read": "at_store"},
            {"variant": "sharc", "theta": 0.7, "read": "per_batch", "complete": "last_batches"},
            {"variant": "sharc", "theta": 0.7, "budget_unit": "bytes", "count_associative_memory": True},
        ]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TASKS)
@given(**BUDGETS)
@settings(max_examples=30, deadline=None)
def test_no_selection_exceeds_its_budget(name, unit, split, storage, method, buffer, rule):
    """Count the stored samples of each task, with equal and different costs."""
    rule = {"variant": "plain", "budget_unit": unit, **rule}
    if rule.get("count_associative_memory") and not KINDS[name].takes_associative_bytes:
        return
    am = settings_of(ASSOCIATIVE_MEMORIES, "mean", QUICK.get("mean", {}), "x")
    associative = {"associative_memory": "mean", "associative_settings": am}
    cell = make_cell(
        method,
        seeds=[1],
        buffer=buffer,
        budget_split=split,
        storage=storage,
        selection=name,
        **(associative if rule["variant"] == "sharc" else {}),
        **rule,
    )
    try:
        memory = fill(cell, SPARSE)
    except UserError as error:
        assert "holds no sample" in str(error) or "never written" in str(error)
        return
    budget = budget_of(cell, (12, 2, 2), 6)
    total = 0
    for task, stored in enumerate(memory.stored):
        spent = spent_by(stored, cell, memory, task)
        room = budget.allowance(task)
        if name == "batches" and stored.samples <= cell.training.batch_size:
            return  # a task's first batch is always stored
        total += spent
        if split == "carry":
            room = sum(budget.allowance(t) for t in range(task + 1)) - (total - spent)
        assert spent <= room
    state = memory.associative_bytes()[0] if cell.count_associative_memory else 0
    assert total + state <= budget.total


def spent_by(stored, cell, memory, task: int) -> int:
    """Return the cost of a task's samples in the budget's unit, without channels dropped at storing."""
    unit = cell.budget_unit
    if unit == "slots":
        return stored.samples
    if unit == "bytes":
        return stored.nbytes(0)
    # the masks at storing, because a completed sample's mask has all channels
    masked = fill(cell.model_copy(update={"read": "per_task"}), SPARSE) if cell.read != "per_task" else memory
    assert torch.equal(masked.stored[task].index, stored.index)
    mask = masked.stored[task].sparse[0].mask
    if unit == "floats":
        return int(mask.sum())
    return int((SPARSE.train_maps[stored.index[0]] * mask[:, :, None, None] != 0).sum())


@pytest.mark.parametrize("name", OF_TASKS)
@pytest.mark.parametrize("variant", ["plain", "sharc"])
def test_seeds_together_equal_seeds_apart(name, variant):
    cell = make_cell("er", variant, selection=name, buffer=30)
    together = run_cell(FEATURES, cell)
    for r, seed in enumerate(cell.seeds):
        alone = run_cell(FEATURES, cell.model_copy(update={"seeds": [seed]}))
        assert together["matrix"]["class_il"][r] == alone["matrix"]["class_il"][0]


@pytest.mark.parametrize("name", list(KINDS))
def test_only_a_selection_of_the_last_samples_lets_maps_be_dropped(name):
    """Test what the extraction of a drifting backbone keeps."""
    cell = make_cell("er", "sharc", selection=name, batch_norm="drifting", passes=2)
    assert (kept_for([cell]) == Kept(None)) == KINDS[name].needs_all_candidates


# --- balanced ------------------------------------------------------------------------------------


@given(candidates=samples())
@settings(max_examples=100, deadline=None)
def test_balanced_classes_differ_by_one_sample_at_most(candidates):
    """Unless a class has no more samples. The last samples of each class are stored."""
    chosen, _ = KINDS["balanced"]().choose(candidates, candidates.fitting)
    counts = {}
    for label in candidates.labels.unique().tolist():
        own = (candidates.labels == label).nonzero().flatten()
        stored = chosen[candidates.labels[chosen] == label]
        assert torch.equal(stored, own[len(own) - len(stored) :])
        counts[label] = (len(stored), len(stored) == len(own))
    most = max(count for count, _ in counts.values())
    assert all(count >= most - 1 or exhausted for count, exhausted in counts.values())


def test_balanced_by_hand():
    """The class visited last is ranked first. Class 2 has a single sample."""
    labels = torch.tensor([0, 0, 1, 2, 0, 1, 0])
    candidates = Samples(labels, torch.ones(7, dtype=torch.int64), torch.rand(7, 2), 5)
    assert KINDS["balanced"]().rank(candidates).tolist() == [6, 5, 3, 4, 2, 1, 0]
    assert KINDS["balanced"]().choose(candidates, candidates.fitting)[0].tolist() == [2, 3, 4, 5, 6]
    assert [numbers.tolist() for numbers in latest_first(labels)] == [[6, 4, 1, 0], [5, 2], [3]]
    assert list(in_turn([[1, 2, 3], [], [4]])) == [1, 4, 2, 3]


def test_balanced_in_one_class_is_the_last_samples():
    candidates = Samples(torch.zeros(9, dtype=torch.int64), torch.arange(1, 10), torch.rand(9, 2), 20)
    one, other = (KINDS[name]().choose(candidates, candidates.fitting) for name in ("balanced", "last"))
    assert torch.equal(one[0], other[0]) and one[1] == other[1]


def test_a_balanced_memory_stores_classes_equally_often():
    """The last samples are not balanced, because the task's order ends with a run of one class."""
    cell = make_cell("er", selection="balanced", buffer=30)
    memory = fill(cell)
    last = fill(cell.model_copy(update={"selection": "last"}))
    counts = [[row.bincount().tolist() for row in stored.y] for stored in memory.stored]
    for task, of_seeds in enumerate(counts):
        assert all(row[2 * task :] == [5, 5] for row in of_seeds)
    assert any(row.bincount().tolist()[-2:] != [5, 5] for stored in last.stored for row in stored.y)


# --- herding -------------------------------------------------------------------------------------


def slow_distances(vectors: list[list[float]], chosen: list[int]) -> dict[int, float]:
    """Return, for every remaining vector, the distance of the class mean to the exemplars' mean with it."""
    scaled = []
    for vector in vectors:
        length = sum(value**2 for value in vector) ** 0.5
        scaled.append([value / length if length else 0.0 for value in vector])
    size, mean = len(vectors[0]), [sum(column) / len(vectors) for column in zip(*scaled, strict=True)]
    distances = {}
    for row in set(range(len(vectors))) - set(chosen):
        of_exemplars = [sum(scaled[i][d] for i in [*chosen, row]) / (len(chosen) + 1) for d in range(size)]
        distances[row] = sum((a - b) ** 2 for a, b in zip(mean, of_exemplars, strict=True)) ** 0.5
    return distances


@given(count=st.integers(1, 25), size=st.integers(1, 6), seed=st.integers(0, 10**6), dead=st.booleans())
@settings(max_examples=60, deadline=None)
def test_herding_equals_a_plain_loop(count, size, seed, dead):
    """Every choice minimises the distance to the class mean, so each prefix is greedy."""
    vectors = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    vectors[0] *= not dead  # a zero vector stays zero
    chosen: list[int] = []
    for row in exemplars(vectors):
        distances = slow_distances(vectors.double().tolist(), chosen)
        assert distances[row] <= min(distances.values()) + 1e-9
        chosen.append(row)
    assert sorted(chosen) == list(range(count))


def test_herding_by_hand():
    """Of unit vectors at 0, 90 and 10 degrees the last is nearest to the mean, and 90 degrees balances it."""
    angles = torch.tensor([0.0, 90.0, 10.0]).deg2rad()
    vectors = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[3.0], [1.0], [0.2]])
    assert list(exemplars(vectors)) == [2, 1, 0]


def test_a_herding_memory_stores_exemplars_of_each_class():
    """They have equal quotas and are on average closer to the class means than the last samples."""
    cell = make_cell("er", selection="herding", buffer=24)
    memory = fill(cell)
    last = fill(cell.model_copy(update={"selection": "balanced"}))
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    distances = []
    for task, stored in enumerate(memory.stored):
        order = stream.order(task, 0, cell.seeds)
        for r, row in enumerate(order):
            for label in stream.classes_per_task[task]:
                own = row[FEATURES.train_labels[row] == label].flip(0)
                kept = stored.index[r][stored.y[r] == label]
                expected = own[list(exemplars(FEATURES.train_pooled[own]))[:4]]
                assert sorted(kept.tolist()) == sorted(expected.tolist())
                mean = phi(own).mean(0)
                other = last.stored[task].index[r][last.stored[task].y[r] == label]
                distances.append([(phi(index).mean(0) - mean).norm() for index in (kept, other)])
    of_exemplars, of_last = torch.tensor(distances).mean(0)
    assert of_exemplars < 0.7 * of_last


def phi(index: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(FEATURES.train_pooled[index].double(), dim=1)


def test_exemplars_of_all_seeds_are_the_same_samples():
    """Exemplars do not depend on the order of the stream."""
    memory = fill(make_cell("er", selection="herding", buffer=24))
    for stored in memory.stored:
        assert (stored.index.sort(1).values == stored.index[0].sort().values).all()


# --- in a grid -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["balanced", "herding"])
def test_a_grid_names_its_selection(name):
    found = [cell for cell in cells(load_grid(BASE | {"memory": {"selection": name}})) if cell.buffer]
    assert {cell.selection for cell in found} == {name}
    paper = [cell for cell in cells(load_grid(BASE)) if cell.buffer]
    assert [cell.id for cell in found] == [cell.id for cell in paper], "paths do not depend on it"


def test_an_unknown_selection_is_one_line():
    with pytest.raises(
        UserError,
        match=r"config: memory\.selection: unknown selection 'herdin' \(did you mean 'herding'\?\); valid: "
        "balanced, batches, herding, last, reservoir",
    ):
        load_grid(BASE | {"memory": {"selection": "herdin"}})


@pytest.mark.parametrize("name", ["last", "balanced", "herding"])
def test_the_associative_memorys_bytes_can_be_charged(name):
    values = BASE | {"budget": {"unit": "bytes", "count_associative_memory": True}}
    load_grid(values | {"memory": {"selection": name}})
    with pytest.raises(UserError, match="memory.selection batches cannot be combined with budget.count_ass"):
        load_grid(values | {"memory": {"selection": "batches"}})


def test_selections_of_one_grids_protocols_have_cells_of_their_own():
    """Methods that replay tasks keep the file's selection where a protocol asks for a reservoir."""
    values = BASE | {"memory": {"selection": "herding"}, "protocol": ["paper", "paper+batches", "mammoth"]}
    found = [cell for cell in cells(load_grid(values)) if cell.buffer]
    assert len({(cell.id, cell.selection) for cell in found}) == len({cell.id for cell in found})
    selections = {(cell.method, cell.protocol): cell.selection for cell in found if cell.variant == "plain"}
    assert selections["er", "paper"] == "herding" and selections["er", "paper+batches"] == "batches"
    assert selections["er", "mammoth"] == "reservoir" and selections["gem", "paper+ridge"] == "herding"


def test_a_study_cannot_change_the_selection_of_a_cell():
    """A cell's id does not contain the selection, so two selections need two grids."""
    study = {"figure": "theta", "title": "t", "memory": {"selection": "balanced"}, "sharc": {"theta": [0.4]}}
    with pytest.raises(UserError, match="both have a cell .* but selection is"):
        cells(load_grid(BASE | {"studies": {"x": study | {"methods": ["er"]}}}))
