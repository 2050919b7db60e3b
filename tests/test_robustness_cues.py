"""Cues of the study `robustness`, and memories that are read by single entries."""

import pytest
import torch
from factories import QUICK

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.saliency.channel_masks import top_mask
from sharc_core.studies.robustness.cues import Cues, block_sides, cues_of
from sharc_core.studies.robustness.measure import by_entries, read, relative_error
from sharc_core.studies.robustness.settings import BLOCK, CUES, NOISE, RANDOM, RUN, SALIENCY, ZEROS


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cues(kind: str, maps: torch.Tensor, theta: float = 0.5, share: float = 0.25, seed: int = 0) -> Cues:
    salient = top_mask(torch.rand(maps.shape[:2], generator=source(99)), theta)
    return cues_of(kind, maps, salient, theta, share, source(seed))


# --- cues ------------------------------------------------------------------------------------------------

MAPS = 1 + torch.rand(30, 16, 4, 4, generator=source())  # no entry is zero


@pytest.mark.parametrize("theta", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("kind", CUES)
def test_every_cue_lacks_the_same_share_and_is_the_map_elsewhere(kind, theta):
    found = cues(kind, MAPS, theta)
    assert ((~found.known).flatten(1).sum(1) == theta * 16 * 16).all()
    assert (found.maps[~found.known] == 0).all()
    right = found.known & ~found.wrong
    assert torch.equal(found.maps[right], MAPS[right])
    assert (found.maps[found.wrong] != MAPS[found.wrong]).all()
    assert not (found.wrong & ~found.known).any()
    assert bool(found.wrong.any()) == (kind in (ZEROS, NOISE))


def test_a_run_of_channels_has_no_gap_and_moves():
    missing = ~cues(RUN, MAPS).known
    assert torch.equal(missing, missing[:, :, :1, :1].expand_as(missing))
    starts = set()
    for row in missing[:, :, 0, 0]:
        (numbers,) = row.nonzero(as_tuple=True)
        assert numbers.tolist() == list(range(int(numbers[0]), int(numbers[0]) + 8))
        starts.add(int(numbers[0]))
    assert len(starts) > 3 and max(starts) <= 8


def test_a_block_is_a_rectangle_of_positions_in_every_channel():
    missing = ~cues(BLOCK, MAPS).known
    assert torch.equal(missing, missing[:, :1].expand_as(missing))
    places = set()
    for block in missing[:, 0]:
        rows, columns = block.nonzero(as_tuple=True)
        extent = [int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1]
        top, bottom, left, right = extent
        assert block[top:bottom, left:right].all() and (bottom - top) * (right - left) == 8
        places.add((top, left))
    assert len(places) > 1


@pytest.mark.parametrize(
    ("height", "width", "theta", "sides"),
    [
        (4, 4, 0.5, (2, 4)),
        (4, 4, 0.75, (3, 4)),
        (4, 4, 0.8, (3, 4)),  # 12 of 16 is nearest to 12.8
        (7, 7, 0.5, (5, 5)),  # 25 of 49 is nearest to 24.5; so is 4 x 6
        (2, 1, 0.9, (1, 1)),  # never the complete map
        (4, 4, 0.01, (1, 1)),
    ],
)
def test_the_block_has_the_nearest_area(height, width, theta, sides):
    assert block_sides(height, width, theta) == sides


def test_maps_of_one_position_have_no_block():
    with pytest.raises(UserError, match="one position"):
        cues(BLOCK, MAPS[:, :, :1, :1])


@pytest.mark.parametrize("kind", [ZEROS, NOISE])
def test_wrong_masks_keep_the_salient_channels_and_spoil_a_share(kind):
    found, baseline = cues(kind, MAPS), cues(SALIENCY, MAPS)
    assert torch.equal(found.known, baseline.known)
    assert (found.wrong[:, :, 0, 0].sum(1) == 2).all()  # of 8 kept channels a quarter
    assert len(found.wrong[:, :, 0, 0].unique(dim=0)) > 5
    spoilt = found.maps[found.wrong]
    if kind == ZEROS:
        assert (spoilt == 0).all()
    else:
        assert spoilt.mean() == pytest.approx(MAPS.mean().item(), abs=0.05)
        assert spoilt.std() == pytest.approx(MAPS.std().item(), rel=0.1)
    few = cues(kind, MAPS, share=0.01)
    assert (few.wrong[:, :, 0, 0].sum(1) == 1).all(), "at least one channel is wrong"


def test_random_channels_differ_from_map_to_map():
    masks = cues(RANDOM, MAPS).known[:, :, 0, 0]
    assert len(masks.unique(dim=0)) == len(masks)


# --- reading by entries ----------------------------------------------------------------------------------


def written(name: str, maps: torch.Tensor, labels: torch.Tensor, **settings):
    kind = ASSOCIATIVE_MEMORIES.get(name)
    memory = kind(
        kind.Settings.model_validate(QUICK.get(name, {}) | settings), tuple(maps.shape[1:]), 3, seed=5
    )
    memory.write(maps, labels)
    return memory


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_a_memory_of_single_entries_completes_masks_of_channels_equally(name):
    maps, labels = torch.rand(6, 8, 2, 3, generator=source()), torch.arange(6) % 3
    memory = written(name, maps, labels)
    found = cues(RANDOM, maps)
    mask = found.known[:, :, 0, 0]
    expected = memory.read(found.maps, mask, labels)
    by_channel = read(memory, found, labels)
    flat = by_entries(memory).read(found.maps.view(6, -1, 1, 1), found.known.flatten(1), labels)
    assert torch.equal(by_channel, expected)
    torch.testing.assert_close(flat.view_as(maps), expected, rtol=1e-3, atol=1e-3)
    if name not in ("none", "mean"):
        assert (flat.view_as(maps) - maps).abs().mean() < 1, "something is recalled"


@pytest.mark.parametrize("name", ["modern_hopfield", "pcn"])
def test_a_spatial_block_of_a_stored_map_is_recalled(name):
    maps, labels = torch.rand(6, 16, 4, 4, generator=source()), torch.arange(6) % 3
    memory = written(
        name, maps, labels, **({"hidden": 64, "rounds": 50, "read_steps": 100} if name == "pcn" else {})
    )
    found = cues(BLOCK, maps)
    recalled = read(memory, found, labels)
    mean = maps.double().mean(0)
    assert relative_error(recalled.double(), maps.double(), ~found.known, mean) < 0.05
    # a block that is read as channels would lose whole channels: here every channel has known entries
    assert found.known.flatten(2).any(2).all() and not found.known.flatten(2).all(2).any()


def test_a_state_that_is_not_one_of_entries_is_refused():
    maps, labels = torch.rand(6, 8, 2, 3, generator=source()), torch.arange(6) % 3
    memory = written("mean", maps, labels)
    memory.sums = memory.sums[:, :4]
    with pytest.raises(UserError, match="cannot take over a state"):
        by_entries(memory)
