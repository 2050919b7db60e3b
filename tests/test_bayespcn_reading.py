"""BayesPCN's options for starting and reading, compared with autograd and torch's Adam."""

import pytest
import torch
from test_bayespcn import KIND, SHAPE, direct_log_joint, make, patterns, written

from sharc_core.associative import ASSOCIATIVE_MEMORIES, bayespcn, cues
from sharc_core.associative.base import by_mask
from sharc_core.associative.gradient_steps import phi

PUBLISHED = {"write_start": "normal", "read_start": "normal", "coupled_reading": False, "unobserved": "joint"}


def some_masks(count: int) -> torch.Tensor:
    """Return cues of three masks; the first mask has more cues than a batch."""
    masks = torch.rand(3, 12, generator=torch.Generator().manual_seed(3)) < 0.5
    return masks[torch.tensor([0, 1, 0, 0, 2, 0, 0, 1, 2, 0, 1, 0])[:count]]


def direct_reading(memory, maps: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Return recalled maps and each batch's number of steps, by autograd on whole maps."""
    s, flat = memory.settings, maps.double().flatten(1)
    start = memory.draw_start("read", 0, len(flat))
    observed = mask.repeat_interleave(6, 1)
    coupled = s.coupled_reading and s.log_joint == "predictive"
    sets = [members for _, members in by_mask(mask)] if coupled else [torch.arange(len(flat))]
    recalled, counts = flat.clone(), []
    for members in [part for each in sets for part in each.split(s.batch)]:
        hidden, seen = start[members].requires_grad_(), observed[members]
        cue = torch.where(seen, flat[members], 0.0)
        entries = cue.clone().requires_grad_()
        optimiser = torch.optim.Adam([hidden, entries] if s.unobserved == "joint" else [hidden], lr=s.lr)
        before, count, still = None, 0, False
        while count < s.steps and not still:
            count += 1
            layers, x = list(hidden.split(s.hidden, dim=1)), entries
            if s.unobserved == "exact":
                x = torch.where(seen, cue, phi(s.activation, layers[0]) @ memory.layers[0].mean)
            value = direct_log_joint(memory, x, layers, coupled=coupled)
            optimiser.zero_grad()
            (-value.sum()).backward()
            optimiser.step()
            with torch.no_grad():
                entries.copy_(torch.where(seen, cue, entries))
            still = before is not None and bool(((value - before).abs() <= (s.tolerance or -1)).all())
            before = value.detach()
        prediction = phi(s.activation, hidden[:, : s.hidden]) @ memory.layers[0].mean
        end = entries if s.unobserved == "joint" else torch.where(seen, cue, prediction)
        recalled[members] = end.detach()
        counts.append(count)
    return recalled.view(maps.shape), counts


WAYS = [(2, "predictive"), (3, "predictive"), (2, "map"), (3, "map")]
# an orthogonal array: every pair of values of coupled, unobserved and tolerance
READINGS = [
    (False, "joint", None, 0.1),
    (False, "exact", 3.0, 2),
    (True, "joint", 3.0, 2),
    (True, "exact", None, 0.1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "log_joint"), WAYS)
@pytest.mark.parametrize(("coupled", "unobserved", "tolerance", "many"), READINGS)
def test_every_reading_option_equals_autograd(
    monkeypatch, layers, log_joint, coupled, unobserved, tolerance, many
):
    """Steps and stop equal autograd, with several blocks and stacks.

    many: the exact form uses Gram matrices (2) or columns (0.1).
    """
    monkeypatch.setattr(cues, "BLOCK", 18)
    monkeypatch.setattr(cues, "MANY", many)
    monkeypatch.setattr(bayespcn, "STACK", 8)
    settings = PUBLISHED | {"coupled_reading": coupled, "unobserved": unobserved, "tolerance": tolerance}
    memory, maps = written(layers=layers, log_joint=log_joint, sigma_obs=0.1, **settings)
    memory.settings = memory.settings.model_copy(update={"steps": 120 if tolerance else 20, "lr": 0.05})
    mask = some_masks(12)
    expected, counts = direct_reading(memory, maps, mask)
    if tolerance:
        assert min(counts) < 120, "else the stop was not tried"
    recalled = memory.read(maps.double(), mask, torch.zeros(12))
    torch.testing.assert_close(recalled, expected, rtol=1e-7, atol=1e-7)


def test_each_setting_changes_what_is_recalled():
    recalled = []
    changes = [{}, {"write_start": "constant"}, {"read_start": "constant"}, {"coupled_reading": True}]
    for change in [*changes, {"unobserved": "exact"}, {"tolerance": 100.0}]:
        memory, maps = written(**PUBLISHED | change)
        recalled.append(memory.read(maps, some_masks(12), torch.zeros(12)))
    for number, one in enumerate(recalled):
        for other in recalled[:number]:
            assert (one - other).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("unobserved", ["joint", "exact"])
@pytest.mark.parametrize("log_joint", ["predictive", "map"])
def test_recall_of_a_cue_does_not_depend_on_other_cues(monkeypatch, unobserved, log_joint):
    """Without a tolerance, reading cues together equals reading one at a time, for any masks and blocks."""
    monkeypatch.setattr(cues, "BLOCK", 18)
    monkeypatch.setattr(bayespcn, "STACK", 8)
    settings = {"tolerance": None, "unobserved": unobserved, "log_joint": log_joint}
    memory, maps = written(**PUBLISHED | {"read_start": "constant"} | settings)
    mask = some_masks(12)
    together = memory.read(maps.double(), mask, torch.zeros(12))
    for row in range(12):
        alone = memory.read(maps[[row]].double(), mask[[row]], torch.zeros(1))
        torch.testing.assert_close(together[[row]], alone, rtol=1e-9, atol=1e-9)


def test_a_batch_of_cues_shares_the_stop():
    """Cues of a batch take as many steps as the slowest one, so a single cue may stop earlier."""
    memory, maps = written(**PUBLISHED | {"read_start": "constant", "tolerance": 3.0, "steps": 200})
    mask = some_masks(4)
    together = memory.read(maps[:4].double(), mask, torch.zeros(4))
    alone = [memory.read(maps[[i]].double(), mask[[i]], torch.zeros(1)) for i in range(4)]
    same = [torch.allclose(together[i], alone[i][0], rtol=0, atol=1e-9) for i in range(4)]
    assert any(same) and not all(same)


def test_nothing_or_everything_may_be_observed():
    memory, maps = written(**PUBLISHED)
    mask = some_masks(6)
    mask[1], mask[2] = False, True
    recalled = memory.read(maps[:6], mask, torch.zeros(6))
    assert recalled.isfinite().all() and torch.equal(recalled[2], maps[2].float())
    mask[:] = False
    assert memory.read(maps[:6], mask, torch.zeros(6)).isfinite().all()


def test_unobserved_entries_are_not_the_prediction():
    """The published procedure returns the optimised entries; the exact one returns the prediction."""
    memory, maps = written(**PUBLISHED)
    modes, hidden_mode = [], memory.hidden_mode
    memory.hidden_mode = lambda *a, **k: modes.append(hidden_mode(*a, **k)) or modes[-1]
    mask = some_masks(1).expand(4, 12)
    for unobserved in ("joint", "exact"):
        memory.settings = memory.settings.model_copy(update={"unobserved": unobserved})
        recalled = memory.read(maps[:4].double(), mask, torch.zeros(4))
        prediction = (phi("relu", modes.pop()[0][0]) @ memory.layers[0].mean).view_as(recalled)
        distance = (recalled - prediction)[~mask].abs().max()
        assert distance > 1e-3 if unobserved == "joint" else distance < 1e-12


# --- where hidden units start ------------------------------------------------------------------------


def test_a_start_is_a_function_of_seed_call_and_position():
    memory = make(seed=3, hidden=50, layers=3, **PUBLISHED)
    start = memory.draw_start("read", 0, 25)
    assert start.shape == (25, 100) and start.dtype == torch.float64
    assert start.std().item() == pytest.approx(50**-0.5, rel=0.05)
    assert start.mean().item() == pytest.approx(0, abs=0.02)
    assert torch.equal(start[:10], memory.draw_start("read", 0, 10))
    assert torch.equal(start[10:20], memory.draw_start("read", 10, 10))
    other = make(seed=4, hidden=50, layers=3, **PUBLISHED)
    assert not torch.equal(start, other.draw_start("read", 0, 25))
    assert not torch.equal(start, memory.draw_start("write", 0, 25))
    memory.written = 10
    assert not torch.equal(start, memory.draw_start("read", 0, 25))
    memory.settings = memory.settings.model_copy(update={"read_start": "constant"})
    assert torch.equal(memory.draw_start("read", 0, 2), torch.full((2, 100), 50**-0.5, dtype=torch.float64))


def test_reading_twice_gives_the_same_bits():
    memory, maps = written(**PUBLISHED)
    mask, twin = some_masks(12), make(**PUBLISHED)
    twin.load_state_dict(memory.state_dict())
    reads = [each.read(maps, mask, torch.zeros(12)) for each in (memory, memory, twin)]
    assert torch.equal(reads[0], reads[1]) and torch.equal(reads[0], reads[2])
    # the first batch of a call starts as if it were read alone
    few = memory.read(maps[:4], mask[:4], torch.zeros(4))
    torch.testing.assert_close(few, reads[0][:4], rtol=1e-5, atol=1e-5)


# --- the exact kind ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_exact_kind_changes_two_defaults():
    exact = ASSOCIATIVE_MEMORIES.get("bayespcn_exact")
    assert issubclass(exact, KIND)
    ours, published = exact.Settings().model_dump(), KIND.Settings().model_dump()
    changed = {name: value for name, value in ours.items() if value != published[name]}
    assert changed == {"read_start": "constant", "unobserved": "exact"}
    with_same_settings = KIND(KIND.Settings(**ours | {"hidden": 8}), SHAPE, 3)
    memory = exact(exact.Settings(hidden=8), SHAPE, 3)
    maps, mask = patterns(6), some_masks(6)
    for each in (memory, with_same_settings):
        each.write(maps, torch.zeros(6))
    reads = [each.read(maps, mask, torch.zeros(6)) for each in (memory, with_same_settings)]
    assert torch.equal(*reads)


# --- precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{}, {"unobserved": "exact"}, {"unobserved": "exact", "coupled_reading": True}]
)
def test_double_precision_is_kept(change):
    """Float64 maps and weights are read and written in float64; float32 weights round the result."""
    maps = patterns(6).double() + 1e-9
    mask, labels, recalled = some_masks(6), torch.zeros(6), []
    for single in (False, True):
        memory = make(**PUBLISHED | {"tolerance": None} | change)
        memory.write(maps.float().double() if single else maps, labels)
        full = memory.read(maps, mask, labels)
        assert full.dtype == torch.float64 and memory.layers[0].mean.dtype == torch.float64
        assert torch.equal(full[mask], maps[mask])
        recalled.append(full)
    assert 0 < (recalled[0] - recalled[1])[~mask].abs().max() < 1e-3
    memory.layers[0].mean = memory.layers[0].mean.float()
    assert memory.read(maps.float(), mask, labels).dtype == torch.float32
    assert memory.read(maps.half(), mask, labels).dtype == torch.float32
