"""One job of the study `capacity`: how well an associative memory (AM) recalls more and more random patterns.

`error` is the share of wrong units for the classical Hopfield network, the share of cues that do not return
their own pattern for the modern one, and the relative error for memories with hidden units.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from sharc_core.associative import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.associative.hopfield import Hopfield
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.studies.capacity.settings import (
    CLASSICAL,
    COLUMNS,
    HALF,
    HEBBIAN,
    MODERN,
    PATTERN,
    PROJECTION,
    CapacityJob,
)
from sharc_core.studies.recall.measure import relative_error

ENOUGH = 0.9  # share of failing cues from which no more patterns are stored
Row = dict[str, Any]
Progress = Callable[[str], None] | None


def run_capacity(job: CapacityJob, progress: Progress = None) -> pd.DataFrame:
    """Return a row per seed, size and number of patterns (COLUMNS; see docs/results.md).

    Runs on one thread, so that equal seeds give equal bits.
    """
    points = {CLASSICAL: _classical, MODERN: _modern}.get(job.part, _predictive)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            rows = []
            for seed in job.study.seeds:
                rows += [{"seed": seed, **row} for row in points(job, seed)]
                if progress:
                    progress(f"{job.memory}, seed {seed}: {len(rows)} points measured so far")
    finally:
        torch.set_num_threads(threads)
    common = {name: getattr(job, name) for name in ("dataset", "backbone", "part", "memory")}
    return pd.DataFrame([common | row for row in rows], columns=list(COLUMNS)).astype(COLUMNS)


def new_memory(job: CapacityJob, size: int, seed: int, **changes: Any) -> AssociativeMemory:
    """Return an empty AM for patterns of `size` entries, each a channel of its own."""
    kind = ASSOCIATIVE_MEMORIES.get(job.kind)
    settings = kind.Settings.model_validate(job.settings | changes)
    return kind(settings, (size, 1, 1), 1, seed=derived_seed(seed, "associative"))


def write(memory: AssociativeMemory, patterns: torch.Tensor) -> None:
    """Write patterns (n, d)."""
    memory.write(patterns[:, :, None, None], torch.zeros(len(patterns), dtype=torch.long))


def read(memory: AssociativeMemory, cues: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return what cues (n, d) are completed to, where `known` (n, d) is false."""
    labels = torch.zeros(len(cues), dtype=torch.long)
    return memory.read(torch.where(known, cues, 0.0)[:, :, None, None], known, labels).flatten(1)


def half_known(count: int, size: int, source: torch.Generator) -> torch.Tensor:
    """Return (count, size) bool with floor(size / 2) true entries per row, at random."""
    return torch.rand(count, size, generator=source).argsort(1) < size // 2


# --- classical Hopfield network --------------------------------------------------------------------------


def _classical(job: CapacityJob, seed: int) -> Iterator[Row]:
    study = job.study
    for size in study.units:
        for load in study.loads:
            yield from binary_points(job, seed, size, round(load * size), HEBBIAN, (PATTERN, HALF))
    for load in study.projection_loads:
        size = study.units[0]
        yield from binary_points(job, seed, size, round(load * size), PROJECTION, (HALF,))


def binary_points(
    job: CapacityJob, seed: int, size: int, count: int, rule: str, cues: tuple[str, ...]
) -> Iterator[Row]:
    """Yield the share of wrong units for each kind of cue, after `count` patterns of +-1 are stored."""
    source = generator(seed, "capacity", CLASSICAL, rule, size, count)
    patterns = 2.0 * torch.randint(2, (count, size), generator=source) - 1
    memory = new_memory(job, size, seed, rule=rule, updates=job.study.updates)
    assert isinstance(memory, Hopfield)
    write(memory, patterns)
    shown = patterns[: job.study.maps]
    for cue in cues:
        if cue == PATTERN:
            wrong = memory.settle(shown, torch.zeros_like(shown, dtype=torch.bool)) != shown
        else:
            known = half_known(len(shown), size, source)
            recalled = read(memory, shown, known)
            wrong = ((recalled > 0) != (shown > 0))[~known]
        row = {"rule": rule, "cue": cue, "size": size, "patterns": count, "maps_read": len(shown)}
        yield row | {"error": float(wrong.double().mean())}


# --- modern Hopfield network -----------------------------------------------------------------------------


def _modern(job: CapacityJob, seed: int) -> Iterator[Row]:
    """Store 2, 4, 8 ... patterns until most noisy cues fail."""
    for known in job.study.known:
        source = generator(seed, "capacity", MODERN, known)
        memory, count = new_memory(job, 2 * known, seed), 2
        stored = torch.empty(0, 2 * known)
        while count <= job.study.most_patterns:
            new = torch.cat([sphere(count - len(stored), known, source) for _ in range(2)], 1)
            write(memory, new)
            stored = torch.cat([stored, new])
            shown = stored[: job.study.maps]
            error = float(failing(memory, shown, known, job.study.noise, source).double().mean())
            row = {"cue": HALF, "size": known, "patterns": count, "maps_read": len(shown), "error": error}
            yield row
            if error >= ENOUGH:
                break
            count *= 2


def sphere(count: int, size: int, source: torch.Generator) -> torch.Tensor:
    """Return points (count, size), uniform on the sphere of radius sqrt(size), rounded to float16."""
    points = torch.randn(count, size, generator=source)
    return (points * (size**0.5 / points.norm(dim=1, keepdim=True))).half().float()


def failing(
    memory: AssociativeMemory, shown: torch.Tensor, known: int, noise: float, source: torch.Generator
) -> torch.Tensor:
    """Return (n,) bool: the noisy first `known` entries of stored patterns (n, d) do not return the others.

    A cue fails if an entry is off by more than a tenth of its standard deviation, which is 1.
    """
    mask = (torch.arange(shown.shape[1]) < known).expand_as(shown)
    recalled = read(memory, shown + noise * torch.randn(shown.shape, generator=source), mask)
    return ((recalled - shown).abs() > 0.1)[:, known:].any(1)


# --- memories with hidden units --------------------------------------------------------------------------


def _predictive(job: CapacityJob, seed: int) -> Iterator[Row]:
    study = job.study
    for hidden in study.hidden:
        for count in study.counts:
            source = generator(seed, "capacity", "predictive", count)  # the same for all memories and units
            patterns = torch.randn(count, study.entries, generator=source)
            shown = patterns[: study.hidden_maps]
            known = half_known(len(shown), study.entries, source)
            row = {"cue": HALF, "size": study.entries, "hidden": hidden, "patterns": count}
            try:
                memory = new_memory(job, study.entries, seed, hidden=hidden)
                write(memory, patterns)
                recalled = read(memory, shown, known).double()
            except UserError as error:
                yield row | {"maps_read": 0, "reason": str(error)}
                continue
            yield row | {
                "maps_read": len(shown),
                "error": relative_error(recalled, shown.double(), ~known),
            }
