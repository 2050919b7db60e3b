"""The study `memory_bound`: bounds that hold, planted entropies, break-even counted one by one, files."""

import itertools
import math
import re
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from factories import QUICK, make_features
from hypothesis import given, settings
from hypothesis import strategies as st
from result_factory import made_by
from test_config import BASE

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Training
from sharc_core.grid.loading import load_grid
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency.channel_masks import top_mask
from sharc_core.streams.settings import StreamConfig
from sharc_core.studies.memory_bound import MemoryBound, all_memories
from sharc_core.studies.memory_bound.bounds import (
    any_bits,
    binary_entropy,
    bit_patterns,
    break_even,
    content,
    patterns,
    subset_bits,
    symbol_entropy,
)
from sharc_core.studies.memory_bound.figure import write_bound_figure
from sharc_core.studies.memory_bound.measure import compressed, compressors, run_bounds
from sharc_core.studies.memory_bound.settings import (
    ALONE,
    COLUMNS,
    COMPRESSED,
    MAPS,
    MEMORY,
    MemoryBoundJob,
    MemoryBoundSettings,
)
from sharc_core.studies.memory_bound.table import BOUNDED, sentences, tables, write_bound_tables
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import read_rows, write_rows

STORAGES = ("float16", "float32", "int8")


def encoded(storage: str, maps: torch.Tensor, theta: float, seed: int = 0):
    """Return a representation and the maps as it stores them, without channels that are drawn at random."""
    representation = REPRESENTATIONS.get(storage)(tuple(maps.shape[1:]))
    source = torch.Generator().manual_seed(seed)
    saliency = torch.rand(maps.shape[:2], generator=source)
    return representation, representation.encode(maps, top_mask(saliency, theta))


# --- bounds ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    storage=st.sampled_from(STORAGES),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3)),
    theta=st.floats(0, 0.99),
    share=st.floats(0, 1),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_no_bound_is_above_what_is_stored(storage, shape, theta, share, scale, seed):
    source = torch.Generator().manual_seed(seed)
    maps = torch.randn(shape, generator=source) * scale
    maps = torch.where(torch.rand(shape, generator=source) < share, 0.0, maps).half()
    representation, stored = encoded(storage, maps, theta, seed)
    found, rounding = content(representation, stored), 1 + 1e-9
    bits = 8 * stored.nbytes / stored.samples
    assert 0 <= found.entropy_bits <= found.zeros_bits * rounding
    assert found.zeros_bits <= found.any_bits * rounding and found.any_bits <= bits
    assert bits == 8 * representation.planned_bytes(found.keep)
    assert 0 <= found.zeros <= 1 and found.value_entropy <= math.log2(max(2, stored.values.numel())) + 1e-9


def test_numbers_of_stored_values_are_counted():
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    assert patterns(torch.float16) == int(torch.isfinite(every).sum())
    positive = torch.isfinite(every) & ~torch.signbit(every)
    assert patterns(torch.float16, is_negative=False) == int(positive.sum())
    assert patterns(torch.float32) == 2**32 - 2**24
    assert patterns(torch.int8) == 255


def test_contents_are_counted_one_by_one():
    """Of 2 of 4 channels with one int8 value each: sets, values and scales."""
    representation = REPRESENTATIONS.get("int8")((4, 1, 1))
    sets = len(list(itertools.combinations(range(4), 2)))
    assert any_bits(representation, 2) == pytest.approx(math.log2(sets * 255**2 * 31744**2))
    assert subset_bits(2048, 1024) < 2048 and subset_bits(7, 7) == 0


def test_planted_entropies_are_found():
    # 1/2, 1/4, 1/8, 1/8: 1.75 bits
    values = torch.tensor([0.0] * 8 + [1.0] * 4 + [2.0] * 2 + [3.0] * 2)
    maps = values[torch.randperm(16, generator=torch.Generator().manual_seed(0))].view(1, 4, 2, 2).half()
    representation, stored = encoded("float16", maps, 0.0)
    found = content(representation, stored)
    assert found.value_entropy == pytest.approx(1.75) and found.zeros == 0.5
    assert found.entropy_bits == pytest.approx(16 * 1.75)
    assert found.zeros_bits == pytest.approx(16 * (1 + 0.5 * math.log2(patterns(torch.float16) - 1)))
    # the entropy of the zeros plus that of the others: H = H(z) + (1 - z) H(others)
    others = symbol_entropy(bit_patterns(values[values > 0]))
    assert found.value_entropy == pytest.approx(binary_entropy(0.5) + 0.5 * others)


def test_entropy_of_masks_counts_sets_as_wholes():
    """Four maps with two distinct sets of channels have one bit each, beside constant values of none."""
    representation = REPRESENTATIONS.get("float16")((6, 1, 1))
    one, other = torch.arange(6) < 3, torch.arange(6) % 2 == 0
    stored = representation.encode(torch.ones(4, 6, 1, 1).half(), torch.stack([one, other, one, other]))
    assert content(representation, stored).entropy_bits == pytest.approx(1)


def test_independent_values_compress_to_their_entropy_and_no_further():
    """Bytes of uniform nibbles: 4 bits of entropy; compressors stay above it, and below the stored size."""
    source = torch.Generator().manual_seed(0)
    maps = torch.randint(16, (40, 16, 8, 8), generator=source).half()
    representation, stored = encoded("float16", maps, 0.0)
    found = content(representation, stored)
    assert found.value_entropy == pytest.approx(4, abs=0.01)
    sizes = compressed(stored)
    for name in compressors():
        size = sizes[COMPRESSED[list(compressors()).index(name)]]
        assert found.entropy_bits / 8 <= size < 2048
    assert sizes["zlib_bytes"] == len(zlib.compress(maps.numpy().tobytes(), 9)) / 40
    alone = [len(zlib.compress(one.numpy().tobytes(), 9)) for one in maps]
    assert sizes["zlib_alone_bytes"] == sum(alone) / 40


def test_a_code_that_knows_more_goes_below_the_bounds_of_single_values():
    """Channels with one value each, all different: a distribution per channel has nothing left to encode."""
    maps = torch.arange(1, 65).view(1, 64, 1, 1).expand(30, 64, 4, 4).half()
    representation, stored = encoded("float16", maps, 0.0)
    found, sizes = content(representation, stored), compressed(stored)
    assert found.entropy_bits == pytest.approx(1024 * 6)
    assert sum(symbol_entropy(bit_patterns(stored.values[k::64])) for k in range(64)) == 0
    assert max(sizes["lzma_bytes"], sizes["lzma_alone_bytes"]) < found.entropy_bits / 8
    assert "Compressors use more" in BOUNDED


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_what_zeros_alone_can_save(dtype):
    """Proposition 4: 1 / (1 - z) is exceeded near z = 0, the factor with the spare bit patterns never."""
    bits, others = 8 * dtype.itemsize, math.log2(patterns(dtype) - 1)
    factors = {z: bits / (binary_entropy(z) + (1 - z) * others) for z in (0, 1e-9, 1e-3, 0.1, 0.5, 0.9, 0.99)}
    assert factors[0] > 1
    for z, factor in factors.items():
        assert factor <= bits / others / (1 - z) < 1.003 / (1 - z)


def test_the_stored_format_wastes_what_proposition_2_says():
    """Little for maps of many positions, up to half of the bytes for maps of one."""
    wasted = {}
    for side in (1, 4, 7):
        representation = REPRESENTATIONS.get("float16")((128, side, side))
        shares = [
            1 - any_bits(representation, keep) / (8 * representation.planned_bytes(keep))
            for keep in range(1, 128)
        ]
        wasted[side] = max(shares)
        assert wasted[side] <= 1 / (side**2 + 1) + 0.003
    assert wasted[1] > 0.45 and wasted[4] < 0.062 and wasted[7] < 0.023


def test_an_image_of_the_digits_has_few_bits():
    """Proposition 5: maps on a frozen backbone have at most the entropy of their images."""
    from sklearn.datasets import load_digits

    images = load_digits().images
    assert images[0].size * math.log2(len(np.unique(images))) < 262


# --- break-even ------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(saved=st.integers(-5, 50), fixed=st.integers(0, 2000), each=st.integers(0, 60))
def test_break_even_is_the_first_of_all_numbers(saved, fixed, each):
    first = next((n for n in range(1, 3000) if n * saved >= fixed + each * n), None)
    assert break_even(saved, lambda n: fixed + each * n, 2999) == first


@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_break_even_of_every_memory_is_that_of_counting_bytes(name):
    kind, shape, classes = ASSOCIATIVE_MEMORIES.get(name), (16, 2, 2), 3
    values = kind.Settings.model_validate(QUICK.get(name, {}))
    planned = REPRESENTATIONS.get("float16")(shape).planned_bytes
    for keep in (1, 4, 12, 15):
        sizes = []
        for n in range(1, 1500):
            plain, sharc = n * planned(16), n * planned(keep) + kind.planned_bytes(values, shape, classes, n)
            sizes.append(sharc <= plain)
        first = sizes.index(True) + 1 if True in sizes else None
        found = break_even(
            planned(16) - planned(keep), lambda n: kind.planned_bytes(values, shape, classes, n), 1499
        )
        assert found == first, keep


def test_a_memory_that_keeps_the_maps_is_never_paid_back():
    kind, shape = ASSOCIATIVE_MEMORIES.get("modern_hopfield"), (64, 7, 7)
    planned = REPRESENTATIONS.get("float16")(shape).planned_bytes
    state = lambda n: kind.planned_bytes(kind.Settings(), shape, 10, n)  # noqa: E731
    assert break_even(planned(64) - planned(1), state) is None


def test_channel_numbers_can_cost_more_than_the_channels():
    """With maps of one position a channel and its number take two bytes each: half must be dropped."""
    planned = REPRESENTATIONS.get("float16")((100, 1, 1)).planned_bytes
    assert planned(51) > planned(100) == planned(50)
    assert break_even(planned(100) - planned(51), lambda n: 0) is None


# --- a job -----------------------------------------------------------------------------------------------

STUDY = MemoryBoundSettings(thetas=[0.0, 0.4, 0.8], storages=["float16", "int8"], maps=30)


def job(**changes) -> MemoryBoundJob:
    grid = load_grid(BASE)
    values = {
        "dataset": "toy",
        "backbone": "net",
        "stream": StreamConfig(tasks=3),
        "training": Training(),
        "memories": all_memories(grid),
        "study": STUDY,
    }
    return MemoryBoundJob(**(values | changes))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("rows") / "maps.csv"
    write_rows(run_bounds(make_features(), job()), path, made_by(), "key")
    return read_rows(MemoryBound(), [path], ["key"])


def test_rows_are_those_of_the_maps(rows):
    maps = rows[rows.kind == MAPS]
    assert len(maps) == 6 and set(maps["maps"]) == {30}
    for line in maps.itertuples():
        representation = REPRESENTATIONS.get(line.storage)((12, 2, 2))
        assert line.stored_bytes == representation.planned_bytes(line.keep)
        assert line.keep == 12 - int(line.theta * 12)
        assert line.entropy_bytes <= line.zeros_bytes <= line.any_bytes <= line.stored_bytes
    own = set(compressors())
    for names in (COMPRESSED, ALONE):
        for name in names:
            assert maps[name].notna().all() == (name.split("_")[0] in own)
    memories = rows[rows.kind == MEMORY]
    assert set(memories.memory) == set(ASSOCIATIVE_MEMORIES.names()) and len(memories) == 3 * len(
        ASSOCIATIVE_MEMORIES.names()
    )
    of_none = memories[memories.memory == "none"].set_index("theta").break_even
    assert pd.isna(of_none[0.0]) and of_none[0.4] == of_none[0.8] == 1
    assert memories[memories.memory == "modern_hopfield"].break_even.isna().all()


def test_equal_jobs_have_equal_rows():
    small = STUDY.model_copy(update={"thetas": [0.5], "storages": ["float16"]})
    first, second = (run_bounds(make_features(), job(study=small)) for _ in range(2))
    assert list(first.columns) == list(COLUMNS)
    pd.testing.assert_frame_equal(first, second)


def test_a_memory_that_refuses_the_maps_has_a_reason():
    memories = {"hopfield": {"kind": "hopfield", "max_bytes": 1}}
    small = STUDY.model_copy(update={"thetas": [0.5]})
    frame = run_bounds(make_features(), job(study=small, memories=memories))
    (line,) = frame[frame.kind == MEMORY].itertuples()
    assert "limit max_bytes: 1" in line.reason and pd.isna(line.state_bytes) and pd.isna(line.break_even)


def test_files_and_sentences(rows, tmp_path):
    for name in ("a", "b"):
        for path in write_bound_tables(rows, tmp_path / name, "c"):
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    assert all(path.is_file() for path in write_bound_figure(rows, tmp_path / "a", "c"))
    for table in tables(rows):
        assert all(len(row) == len(table.header) == len(table.flat_header) for row in table.rows)
    compression, paid = sentences(rows)
    full = rows[(rows.kind == MAPS) & (rows.storage == "float16") & (rows.theta == 0)].iloc[0]
    joint, alone = (np.nanmin(full[names].astype(float)) for names in (COMPRESSED, ALONE))
    assert f"losslessly by a factor of {full.stored_bytes / alone:.2f} map by map" in compression
    assert f"({full.stored_bytes / joint:.2f} by " in compression
    mean = rows[(rows.memory == "mean") & (rows.theta == 0.8)].break_even.iloc[0]
    assert re.search(rf"theta 0.8 after [^;]*\b{mean:,} \([a-z_, ]*\bmean\b", paid)
    assert "never for modern_hopfield" in paid


def planted(rows: pd.DataFrame, storage: str, **values: float) -> str:
    """Return the sentence on compression of maps (128, 4, 4) with planted bytes, as far as `values` says."""
    own = rows[(rows.kind == MAPS) & (rows.storage == storage)].copy()
    own[[*COMPRESSED, *ALONE]] = np.nan
    return sentences(own.assign(channels=128, height=4, width=4, **values))[0]


@pytest.mark.parametrize(
    ("storage", "alone", "joint", "needed"),
    [
        # 34 bytes a channel: 67 take 2,278 bytes and 68 2,312; 61 take 2,074 and 62 2,108
        (
            "float16",
            2301,
            2090,
            ("drop 48 % of the channels and keep 67", "drop 52 % of the channels and keep 61"),
        ),
        (
            "float16",
            2312,
            2311,
            ("drop 47 % of the channels and keep 68", "drop 48 % of the channels and keep 67"),
        ),
        (
            "float16",
            4096,
            4095,
            ("drop 0 % of the channels and keep 128", "drop 6 % of the channels and keep 120"),
        ),
        ("float16", 34, 33, ("drop 99 % of the channels and keep 1", "cannot, even with one channel")),
        # 20 bytes a channel of int8, 18 without numbers: 2,304 of all channels
        (
            "int8",
            1200,
            2303,
            ("drop 53 % of the channels and keep 60", "drop 10 % of the channels and keep 115"),
        ),
    ],
)
def test_sharc_is_compared_with_maps_that_are_compressed_alone(rows, storage, alone, joint, needed):
    """The channels to drop are solved for, not looked up in the list of theta."""
    text = planted(
        rows, storage, zlib_alone_bytes=alone, lzma_bytes=joint, zlib_bytes=joint + 1, lzma_alone_bytes=5000
    )
    first, second = text.split("For as few bytes as zlib map by map")[1].split(
        "(for as few as the one stream"
    )
    assert needed[0] in first and needed[1] in second


# --- the grid --------------------------------------------------------------------------------------------


def test_memories_of_the_grid_have_its_settings():
    sharc = {"associative_memory": ["own"], "associative_settings": {"own": {"kind": "pcn", "hidden": 7}}}
    grid = load_grid(BASE | {"sharc": sharc, "memory_bound": {"maps": 5}})
    jobs = study_of(grid, "memory_bound").jobs(grid)
    assert [one.dataset for one in jobs] == list(grid.datasets)
    memories = MemoryBoundJob.model_validate(dict(jobs[0].settings)).memories
    assert memories["own"]["hidden"] == 7 and set(memories) == {"own", *ASSOCIATIVE_MEMORIES.names()}


@pytest.mark.reliability("unfit-study")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"storages": ["pq"]}, r"memory_bound.storages: pq does not store .* choose among float16, float32"),
        ({"storages": ["flot16"]}, r"memory_bound.storages: unknown storage 'flot16' \(did you mean"),
        ({"thetas": [1.0]}, r"memory_bound.thetas"),
        ({"thetas": [0.5, 0.5]}, r"memory_bound.thetas: 0.5 is listed twice"),
    ],
)
def test_settings_that_do_not_fit_are_refused(block, message):
    with pytest.raises(UserError, match=message):
        load_grid(BASE | {"memory_bound": block})
