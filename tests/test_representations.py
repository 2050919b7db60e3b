"""Representations: decoded maps, and planned and stored bytes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool
from sharc_core.memory.byte_count import LABEL_BYTES, LOGIT_BYTES, sample_bytes, slot_bytes
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency.channel_masks import kept_channels, top_mask

NAMES = REPRESENTATIONS.names()
OF_MAPS = [name for name in NAMES if REPRESENTATIONS.get(name).stores_maps]
THETAS = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 0.95]), st.floats(0, 0.999))


def make(name: str, maps: torch.Tensor):
    """Return a representation of maps (n, K, h, w), of which it has learnt what it learns."""
    kind = REPRESENTATIONS.get(name)
    # product quantisation splits the channels into equal parts
    parts = {"codebooks": 1} if "codebooks" in kind.Settings.model_fields else {}
    representation = kind(tuple(maps.shape[1:]), kind.Settings(**parts), image_shape=(5, 4, 3))
    seen = maps if representation.stores_maps else pool(maps)
    representation.learn(len(maps), lambda index: seen[index])
    return representation


def sizes_of(samples: int) -> torch.Tensor:
    """Return the bytes of the files of encoded images, which a backbone's features do not tell."""
    return torch.arange(100, 100 + samples)


def encode(name: str, maps: torch.Tensor, mask: torch.Tensor | None = None):
    representation = make(name, maps)
    if representation.stores_encodings:
        return representation.encode_images(pool(maps), sizes_of(len(maps)))
    return representation.encode(maps if representation.stores_maps else pool(maps), mask)


def make_mask(
    name: str, kind: str, samples: int, channels: int, source: torch.Generator
) -> torch.Tensor | None:
    """Return a mask of kept channels: all, the same number per sample, or any number from one.

    Always all for a representation that takes no masks; test_memory_checks has the grids that would need one.
    """
    if kind == "all" or not REPRESENTATIONS.get(name).takes_masks:
        return None
    saliency = torch.rand(samples, channels, generator=source)
    if kind == "equal":
        return top_mask(saliency, torch.rand(1, generator=source).item())
    mask = saliency < torch.rand(samples, 1, generator=source)
    mask[:, 0] = True
    return mask


CASES = {
    "shape": st.tuples(st.integers(1, 20), st.integers(1, 3), st.integers(1, 3)),
    "samples": st.integers(1, 6),
    "kind": st.sampled_from(["all", "equal", "ragged"]),
    "seed": st.integers(0, 10**6),
}


# --- every representation ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@given(**CASES)
@settings(max_examples=60, deadline=None)
def test_bytes_held_are_those_planned(name, shape, samples, kind, seed):
    """Stored bytes never exceed the plan, and are equal if the representation is exact."""
    source = torch.Generator().manual_seed(seed)
    maps = torch.rand(samples, *shape, generator=source)
    mask = make_mask(name, kind, samples, shape[0], source)
    held, representation = encode(name, maps, mask).nbytes, make(name, maps)
    kept = [shape[0]] * samples if mask is None else mask.sum(1).tolist()
    kept = sizes_of(samples).tolist() if representation.stores_encodings else kept
    differ = len(set(kept)) > 1
    planned = sum(representation.planned_bytes(keep, counted=differ) for keep in kept)
    assert held <= planned
    assert held <= sum(representation.planned_bytes(keep, counted=True) for keep in kept)
    if representation.plans_exactly:
        assert held == planned


@pytest.mark.parametrize("name", NAMES)
@given(**CASES)
@settings(max_examples=30, deadline=None)
def test_what_is_decoded_fits_the_mask(name, shape, samples, kind, seed):
    source = torch.Generator().manual_seed(seed)
    maps = torch.rand(samples, *shape, generator=source)
    mask = make_mask(name, kind, samples, shape[0], source)
    stored = encode(name, maps, mask)
    decoded, mask = stored.decode(), torch.ones(maps.shape[:2], dtype=torch.bool) if mask is None else mask
    assert torch.equal(stored.mask, mask)
    assert decoded.shape == (maps.shape if make(name, maps).stores_maps else maps.shape[:2])
    assert decoded.dtype in (torch.float32, torch.float64) and torch.isfinite(decoded).all()
    assert not decoded[~mask].any(), "dropped channels are zero"
    assert torch.equal(stored.pooled(), pool(decoded) if decoded.ndim == 4 else decoded)


@pytest.mark.parametrize("name", OF_MAPS)
def test_value_bytes_is_a_lower_bound(name):
    """Planning uses it to estimate how many samples may be stored."""
    representation = make(name, torch.rand(1, 16, 3, 3))
    if representation.value_bytes is not None:
        for keep in (1, 8, 16):
            assert representation.planned_bytes(keep) >= keep * 9 * representation.value_bytes


def test_the_cache_format_is_exact():
    maps = torch.rand(50, 33, 7, 7).half()
    for name in NAMES:
        if make(name, maps).is_cache_format:
            assert torch.equal(encode(name, maps).pooled(), pool(maps))
            assert encode(name, maps).nbytes == maps.nbytes


# --- sparse maps ---------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), theta=THETAS, side=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_kept_channels_come_back_unchanged(seed, theta, side):
    g = torch.Generator().manual_seed(seed)
    maps = torch.rand(6, 20, side, side, generator=g).half()
    stored = encode("float16", maps, top_mask(torch.rand(6, 20, generator=g), theta))
    decoded, mask = stored.decode(), stored.mask
    assert mask.sum(1).unique().tolist() == [kept_channels(20, theta)]
    assert torch.equal(decoded[mask], maps.float()[mask])
    assert not decoded[~mask].any()
    each = sample_bytes(make("float16", maps), kept_channels(20, theta))
    assert stored.nbytes == 6 * (each - LABEL_BYTES)


def test_full_maps_pool_to_the_same_bits():
    maps = torch.rand(50, 33, 7, 7).half()
    assert torch.equal(pool(encode("float16", maps).decode()), pool(maps))
    for i in range(50):
        assert torch.equal(pool(maps[i]), pool(maps)[i])


def test_bytes_of_published_maps():
    """A 512 x 7 x 7 map takes 50,176 bytes in float16, and a tenth of its channels 5,200 with numbers."""
    shape = (512, 7, 7)
    float16 = REPRESENTATIONS.get("float16")(shape)
    assert sample_bytes(float16, 512) == slot_bytes(shape) == 50_176 + LABEL_BYTES
    assert sample_bytes(float16, 52) == 52 * (98 + 2) + LABEL_BYTES
    assert slot_bytes(shape, logits=10) == slot_bytes(shape) + 10 * LOGIT_BYTES


def test_samples_that_differ_in_their_channels_store_how_many_they_keep():
    maps = torch.rand(5, 9, 2, 2).half()
    mask = torch.rand(5, 9) < 0.5
    mask[:, 0] = True
    mask[0] = True
    stored = encode("float16", maps, mask)
    assert torch.equal(stored.mask, mask)
    assert torch.equal(stored.decode(), maps.float() * mask[:, :, None, None])
    float16 = make("float16", maps)
    each = [sample_bytes(float16, keep, counted=True) - LABEL_BYTES for keep in mask.sum(1).tolist()]
    assert stored.nbytes == sum(each)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("theta", [0.0, 0.5])
def test_decoded_values_are_within_the_precision_of_the_type(storage, theta):
    """float32 and float16 return the cached values; int8 errs by at most half a step of a channel's scale."""
    maps = (torch.rand(6, 20, 3, 2) * torch.logspace(-3, 3, 20)[:, None, None]).half()
    maps[0, 3] = 0
    mask = top_mask(torch.rand(6, 20), theta)
    stored = encode(storage, maps, mask)
    error = (stored.decode() - maps.float() * mask[:, :, None, None]).abs()
    if storage == "int8":
        step = maps.float().abs().amax((2, 3), keepdim=True) / 127
        # a float16 scale below 2^-14 has an error of up to 2^-25, which a value multiplies by up to 127
        assert (error <= step * 0.52 + 127 * 2**-25).all()
    else:
        assert not error.any()
    each = sample_bytes(make(storage, maps), kept_channels(20, theta))
    assert stored.nbytes == 6 * (each - LABEL_BYTES)


@pytest.mark.parametrize(
    ("storage", "most", "limit"), [("float16", 65_504, "65,504"), ("int8", 127 * 65_504, "8,319,008")]
)
def test_values_beyond_the_types_range_are_refused(storage, most, limit):
    maps = torch.zeros(2, 5, 1, 1)
    maps[0, 3] = -most
    assert encode(storage, maps).decode()[0, 3] == -most
    maps[0, 3] = -1.01 * most
    with pytest.raises(UserError, match=f"storage {storage} cannot hold .* beyond {limit}: use .* float32"):
        encode(storage, maps)
    assert encode("float32", maps).decode()[0, 3] == maps[0, 3]
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[:, 3] = False
    assert torch.isfinite(encode(storage, maps, mask).decode()).all(), "dropped values are not stored"


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_values_that_are_not_finite_are_refused(storage):
    for value in (torch.nan, torch.inf):
        with pytest.raises(UserError, match=f"storage {storage} cannot hold .* not finite"):
            encode(storage, torch.full((1, 2, 1, 1), value))
