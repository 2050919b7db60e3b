"""Product quantisation, compared with a direct implementation and with scikit-learn's k-means."""

import numpy as np
import pytest
import torch
from factories import make_cell, make_features
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool
from sharc_core.common.seeds import derived_seed
from sharc_core.features.drifting.part import Kept
from sharc_core.grid.drifting_parts import kept_for
from sharc_core.learning.cell_memory import budget_of, make_memory
from sharc_core.learning.learner import run_cell
from sharc_core.memory.budget import Budget
from sharc_core.representations import REPRESENTATIONS
from sharc_core.streams.stream import make_stream

FEATURES = make_features(classes=6, train_per_class=80)
SMALL = {"codebooks": 4, "entries": 16, "iterations": 25, "points_per_entry": 256, "seed": 0}


def learnt(name: str, values: torch.Tensor, shape: tuple[int, int, int], **settings):
    kind = REPRESENTATIONS.get(name)
    quantiser = kind(shape, kind.Settings(**settings))
    quantiser.learn(len(values), lambda index: values[index])
    return quantiser


def directly(values: np.ndarray, codebooks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and reconstruction of values (M, K), one value and one part at a time."""
    size = codebooks.shape[2]
    codes = np.zeros((len(values), len(codebooks)), np.int64)
    decoded = np.zeros(values.shape)
    for row, vector in enumerate(values.astype(np.float64)):
        for part, codebook in enumerate(codebooks.astype(np.float64)):
            here = slice(part * size, (part + 1) * size)
            codes[row, part] = min(
                range(len(codebook)), key=lambda e: ((vector[here] - codebook[e]) ** 2).sum()
            )
            decoded[row, here] = codebook[codes[row, part]]
    return codes, decoded


def test_codes_and_maps_are_those_of_a_direct_implementation():
    maps = torch.rand(40, 12, 3, 2).half()
    quantiser = learnt("pq", maps, (12, 3, 2), **SMALL)
    stored = quantiser.encode(maps[:7])
    positions = maps[:7].permute(0, 2, 3, 1).reshape(-1, 12).float().numpy()
    codes, decoded = directly(positions, quantiser.codebooks.numpy())
    assert np.array_equal(stored.codes.reshape(-1, 4).numpy(), codes)
    expected = torch.from_numpy(decoded).float().reshape(7, 3, 2, 12).permute(0, 3, 1, 2)
    assert torch.equal(stored.decode(), expected)
    assert torch.equal(stored.pooled(), pool(expected))


def test_codes_and_vectors_are_those_of_a_direct_implementation():
    vectors = torch.randn(60, 12)
    quantiser = learnt("pooled_pq", vectors, (12, 3, 2), **SMALL)
    stored = quantiser.encode(vectors[:9])
    codes, decoded = directly(vectors[:9].numpy(), quantiser.codebooks.numpy())
    assert np.array_equal(stored.codes[:, 0].numpy(), codes)
    assert torch.equal(stored.decode(), torch.from_numpy(decoded).float())


def test_codebooks_are_scikit_learns_k_means():
    """Of all positions of all maps, if they are at most `points_per_entry` per entry."""
    maps = torch.rand(30, 8, 2, 3)
    quantiser = learnt("pq", maps, (8, 2, 3), codebooks=2, entries=10, seed=5)
    positions = maps.permute(0, 2, 3, 1).reshape(-1, 8).numpy()
    for part in range(2):
        seed = derived_seed(5, "k_means", part) % 2**32
        k_means = KMeans(10, init="random", n_init=1, max_iter=25, random_state=seed)
        with threadpool_limits(1):
            centres = k_means.fit(
                np.ascontiguousarray(positions[:, part * 4 : part * 4 + 4])
            ).cluster_centers_
        assert np.array_equal(quantiser.codebooks[part].numpy(), centres)


def test_positions_to_learn_from_are_drawn_uniformly_and_read_in_parts():
    maps, read = torch.arange(300.0 * 2 * 2 * 2).reshape(300, 2, 2, 2), []
    quantiser = REPRESENTATIONS.get("pq")(
        (2, 2, 2), REPRESENTATIONS.get("pq").Settings(codebooks=1, entries=5)
    )

    def reader(index):
        read.append(len(index))
        return maps[index]

    points = quantiser._points(300, reader)
    assert len(points) == 1200 and max(read) <= 128, "5 x 256 positions are more than there are"
    assert torch.equal(points, maps.permute(0, 2, 3, 1).reshape(-1, 2))
    few = quantiser.__class__((2, 2, 2), quantiser.Settings(codebooks=1, entries=5, points_per_entry=50))
    points = few._points(300, reader)
    assert len(points) == 250 == len(points.unique(dim=0))
    samples = torch.from_numpy(np.searchsorted(np.arange(300) * 8, points[:, 0].numpy(), side="right") - 1)
    assert samples.unique().numel() > 150, "of many samples"


def test_few_distinct_values_are_the_codebook():
    maps = torch.tensor([0.0, 1.0, 2.0])[torch.randint(3, (20, 1, 2, 2))].expand(-1, 4, -1, -1)
    quantiser = learnt("pq", maps, (4, 2, 2), **SMALL)
    assert torch.equal(quantiser.encode(maps).decode(), maps)
    assert quantiser.codebooks.nbytes == quantiser.shared_bytes


def test_bytes_are_those_of_remind():
    """32 codes per position of a 512 x 7 x 7 map, and 32 codebooks of 256 entries of 16 float32 values."""
    quantiser = REPRESENTATIONS.get("pq")((512, 7, 7))
    assert quantiser.planned_bytes(512) == 1568 and quantiser.shared_bytes == 524_288
    assert REPRESENTATIONS.get("pooled_pq")((512, 7, 7)).planned_bytes(512) == 32
    maps = torch.rand(20, 12, 2, 2)
    small = learnt("pq", maps, (12, 2, 2), **SMALL)
    assert small.encode(maps).nbytes == 20 * 16 and small.codebooks.nbytes == small.shared_bytes == 768


def test_more_entries_reconstruct_better():
    maps = torch.rand(200, 8, 2, 2)
    errors = []
    for entries in (2, 8, 64):
        quantiser = learnt("pq", maps, (8, 2, 2), codebooks=2, entries=entries)
        errors.append((quantiser.encode(maps).decode() - maps).square().mean().item())
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]


@pytest.mark.parametrize("name", ["pq", "pooled_pq"])
@pytest.mark.parametrize("selection", ["last", "reservoir"])
def test_a_cell_learns_from_its_first_task_and_pays_for_the_codebooks(name, selection):
    fields = {"storage": name, "storage_settings": SMALL, "selection": selection, "budget_unit": "bytes"}
    cell = make_cell("er", buffer=40, **fields)
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, cell.stream)
    memory = make_memory(FEATURES, stream, cell)
    first = FEATURES.train_maps[stream.train[0]] if name == "pq" else FEATURES.train_pooled[stream.train[0]]
    for representation in memory.encoder.representations:
        alone = learnt(name, first, (12, 2, 2), **SMALL)
        assert torch.equal(representation.codebooks, alone.codebooks)
    costs = run_cell(FEATURES, cell)["costs"]
    total = Budget("bytes", 40, 3, (12, 2, 2)).total
    each, shared = memory.encoder.representations[0].planned_bytes(12) + 2, 4 * 16 * 12
    for held, samples in zip(costs["episodic_bytes"], costs["samples_stored"], strict=True):
        assert held == shared + samples * each <= total
        assert samples == 480 or held > total - 3 * (each + 1)


def test_seeds_together_have_the_bits_of_separate_runs():
    for selection in ("last", "reservoir"):
        cell = make_cell("er", storage="pq", storage_settings=SMALL, selection=selection)
        together = run_cell(FEATURES, cell)["matrix"]
        for r, seed in enumerate(cell.seeds):
            alone = run_cell(FEATURES, cell.model_copy(update={"seeds": [seed]}))["matrix"]
            assert all(alone[scenario][0] == together[scenario][r] for scenario in together)


@pytest.mark.reliability("codebooks")
def test_codebooks_that_do_not_fit_are_refused():
    cell = make_cell("er", storage="pq", storage_settings=SMALL | {"codebooks": 5})
    with pytest.raises(
        UserError,
        match=r"^storage_settings.pq.codebooks 5 does not divide the 12 channels of .*: set it to 4 or 6$",
    ):
        budget_of(cell, (12, 2, 2), 6)
    default = REPRESENTATIONS.get("pq").Settings().model_dump()
    with pytest.raises(UserError, match="codebooks 32 does not divide the 12 channels .*: set it to 12$"):
        budget_of(cell.model_copy(update={"storage_settings": default}), (12, 2, 2), 6)
    small = make_cell("er", storage="pq", storage_settings=SMALL, buffer=4, budget_unit="bytes")
    with pytest.raises(
        UserError, match="its share is -126 bytes after its part of the 768 that all samples share, one"
    ):
        budget_of(small, (12, 2, 2), 6)
    with pytest.raises(UserError, match="storage pq cannot hold these maps: a value is not finite$"):
        learnt("pq", torch.full((9, 12, 2, 2), torch.nan), (12, 2, 2), **SMALL)


def test_drifting_maps_to_learn_from_are_kept():
    drifting = make_cell("er", storage="pq", storage_settings=SMALL, batch_norm="drifting", passes=2)
    assert kept_for([drifting]) == Kept(None)
    assert kept_for([drifting.model_copy(update={"storage": "pooled_pq"})]) == Kept()
