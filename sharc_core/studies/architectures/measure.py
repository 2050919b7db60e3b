"""One job of the study `architectures`: the maps of a network, and cells trained on them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json
from sharc_core.common.seeds import generator
from sharc_core.features.cache import Features
from sharc_core.grid.cell import Cell
from sharc_core.grid.tuned import with_values
from sharc_core.heads import Head
from sharc_core.learning.joint_head import joint_head
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.saliency import SALIENCIES
from sharc_core.saliency.channel_masks import kept_mask
from sharc_core.studies.architectures.settings import (
    COLUMNS,
    JOINT,
    SCENARIO,
    VALIDATION,
    ArchitecturesJob,
)
from sharc_core.studies.memory_bound.measure import compressors
from sharc_core.studies.tune.measure import best_trial, with_validation
from sharc_core.studies.tune.measure import held_out as validation_images

PLAIN = {"associative_memory": None, "theta": math.nan, "kept_mass": math.nan}


def run_architecture(
    features: Features, job: ArchitecturesJob, progress: Callable[[str], None]
) -> pd.DataFrame:
    """Measure the maps, train the cells, and return a row per cell and seed (COLUMNS; see docs/results.md).

    JOINT and plain replay choose a rate each; SHARC has that of plain replay. Raises UserError when the
    training diverges with it or with all rates, and when the card of the pre-trained network is missing.
    """
    rates = {c.method: chosen_rate(features, c, job, progress) for c in job.opened if c.variant == "plain"}
    cells = [with_rate(cell, rates[cell.method]) for cell in job.opened]
    maps = maps_of(features, job.maps, cells[0].seeds[0])
    common = {"held_out": held_out(job.cards, features.manifest["backbone"]["sha256"]), **shape_of(features)}
    common |= {"maps": len(maps), "zeros": zeros_of(maps), **bytes_of(maps)}
    joint = next(cell for cell in cells if cell.method == JOINT)
    own, head = _on_one_thread(features, joint)
    rows: list[dict[str, Any]] = []
    for number, cell in enumerate(cells, start=1):
        names = ("dataset", "backbone", "method", "variant", "buffer")
        row = common | {name: getattr(cell, name) for name in names} | {"cell": cell.id} | PLAIN
        row["lr"] = cell.training.lr
        mass = [math.nan] * len(cell.seeds)
        if cell.variant == "sharc":
            row |= {"associative_memory": cell.associative_memory, "theta": cell.theta}
            mass = kept_mass(own, head, cell, job.maps)
        document = run_cell(features, cell)
        accs = acc(np.array(document["matrix"][SCENARIO], dtype=float)).tolist()
        samples = document["costs"]["samples_stored"]
        rows += [
            row | {"seed": seed, "acc": value, "kept_mass": share, "samples": stored}
            for seed, value, share, stored in zip(cell.seeds, accs, mass, samples, strict=True)
        ]
        progress(f"cell {number}/{len(cells)}: {cell.id}")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _on_one_thread(features: Features, joint: Cell) -> tuple[Features, Head]:
    """Train JOINT's heads, one per seed, with equal bits on any number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return joint_head(features, joint)
    finally:
        torch.set_num_threads(threads)


# --- learning rates ------------------------------------------------------------------------------------


def chosen_rate(
    features: Features, cell: Cell, job: ArchitecturesJob, progress: Callable[[str], None]
) -> float:
    """Return the rate of the job with the highest mean ACC of a cell on held-out training images.

    Neither the test images nor the cell's own seeds are used: the runs have job.rate_seeds. The first of
    equally good rates is taken, and a single rate without a run. Raises UserError if training diverges with
    every rate.
    """
    if len(job.rates) == 1:
        return job.rates[0]
    subset = with_validation(features, validation_images(features.train_labels, VALIDATION, 0))
    own = cell.model_copy(update={"seeds": job.rate_seeds})
    scores, reason = [], ""
    for rate in job.rates:
        try:
            document = run_cell(subset, with_rate(own, rate))
        except UserError as error:
            scores.append(math.nan)
            reason = reason or str(error)
            continue
        scores.append(float(acc(np.array(document["matrix"][SCENARIO], dtype=float)).mean()))
    best = best_trial(scores)
    if best is None:
        raise UserError(f"architectures: no learning rate in rates can be used: {reason}")
    found = ", ".join(f"{rate:g}: {score:.2f}" for rate, score in zip(job.rates, scores, strict=True))
    progress(f"{cell.id}: training.lr {job.rates[best]:g} (validation ACC in % by rate: {found})")
    return job.rates[best]


def with_rate(cell: Cell, rate: float) -> Cell:
    """Return the cell with another learning rate."""
    return with_values(cell, {"training.lr": rate})


# --- maps ----------------------------------------------------------------------------------------------


def maps_of(features: Features, count: int, seed: int) -> torch.Tensor:
    """Return up to `count` training maps (n, K, h, w) float16, drawn without replacement."""
    return features.train_maps[_drawn(features, count, seed)]


def _drawn(features: Features, count: int, seed: int) -> torch.Tensor:
    order = torch.randperm(len(features.train_labels), generator=generator(seed, "architectures", "maps"))
    return order[:count]


def shape_of(features: Features) -> dict[str, int]:
    """Return the shape of the maps by column."""
    return dict(zip(("channels", "height", "width"), features.train_maps.shape[1:], strict=True))


def zeros_of(maps: torch.Tensor) -> float:
    """Return the share of the values that are zero as they are stored."""
    return float((maps == 0).double().mean())


def bytes_of(maps: torch.Tensor) -> dict[str, float]:
    """Return the mean bytes of a stored full map, and those that LZMA makes of it.

    lzma_bytes: all maps in one stream, from which a single map cannot be read. lzma_alone_bytes: each map by
    itself, as a buffer that is read sample by sample needs it.
    """
    compress, n = compressors()["lzma"], len(maps)
    stored = [values.tobytes() for values in maps.contiguous().numpy()]
    return {
        "stored_bytes": sum(map(len, stored)) / n,
        "lzma_bytes": len(compress(b"".join(stored))) / n,
        "lzma_alone_bytes": sum(len(compress(data)) for data in stored) / n,
    }


@torch.no_grad()
def kept_mass(features: Features, head: Head, cell: Cell, count: int) -> list[float]:
    """Return, per seed, the mean over maps of the share of |saliency| that the kept channels hold.

    The saliency is the cell's, of the head of the same seed that JOINT has trained. A map without any
    saliency counts as kept.
    """
    index = _drawn(features, count, cell.seeds[0])
    replicas = len(cell.seeds)
    x = features.train_pooled[index].expand(replicas, -1, -1)
    y = features.train_labels[index].expand(replicas, -1)
    draws = [generator(seed, "architectures", "saliency") for seed in cell.seeds]
    positions = features.train_maps[0, 0].numel()
    scores = SALIENCIES.get(cell.saliency)(head, x, y, positions, draws)
    importance = cell.importance or "absolute"
    mask = kept_mask(scores.flatten(0, 1), cell.theta, cell.mass, importance).view_as(scores)
    size = scores.double().abs()
    if importance == "positive":
        size = scores.double().clamp_min(0)
    whole = size.sum(-1)
    shares = torch.where(whole > 0, (size * mask).sum(-1) / whole, 1.0)
    return shares.mean(1).tolist()


# --- the network ---------------------------------------------------------------------------------------


def held_out(cards: str | None, sha256: str) -> float:
    """Return the held-out accuracy in [0, 1] of a network that is pre-trained here, by its weights' hash.

    cards: folder of the cards; NaN without it. Raises UserError if no card there has this hash.
    """
    if cards is None:
        return math.nan
    for path in sorted(Path(cards).glob("*.json")):
        card = read_json(path)
        if card.get("weights_sha256") == sha256:
            return float(card["held_out_top1"])
    raise UserError(
        f"{cards} has no card of the weights {sha256[:12]} that these features come from: delete the weights "
        "there and run snakemake again, which pre-trains the network"
    )
