"""One job of the study `equal_compute`: train cells with as many steps as use equal compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import pandas as pd

from sharc_core.common.phases import TESTING, measured
from sharc_core.features.cache import Features
from sharc_core.grid.cell import Cell
from sharc_core.grid.tuned import with_values
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.studies.equal_compute.settings import (
    COLUMNS,
    MOST_STEPS,
    ONE_STEP,
    SAMPLES,
    SECONDS,
    ComputeJob,
)

PROBE = 2.0  # steps per minibatch at which a cell is timed if no other number is known
STEPS = "training.steps_per_batch"


@dataclass(frozen=True)
class Trained:
    """A cell trained with some steps per minibatch. seconds: of the CPU, of all seeds, without testing."""

    steps: float
    seconds: float
    document: dict

    @property
    def samples(self) -> int:
        """The gradient samples of one seed."""
        return self.document["costs"]["gradient_samples"][0]


def trained(features: Features, cell: Cell, steps: float) -> Trained:
    """Train a cell with some steps per minibatch and time it."""
    with measured(cpu=True) as seconds:
        document = run_cell(features, with_values(cell, {STEPS: steps}))
    return Trained(steps, sum(value for name, value in seconds.items() if name != TESTING), document)


def run_compute(features: Features, job: ComputeJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Return a row per cell, kind of compute and seed (COLUMNS; see docs/results.md).

    The target of an equal number is the largest one with one step per minibatch, so that no cell sees less of
    the stream. Cells take turns while they are timed. Raises UserError when a training diverges.
    """
    cells, rounds = job.opened, []
    trained(features, cells[0], 1)  # the first run is slower
    for repeat in range(job.repeats):
        rounds.append([trained(features, cell, 1) for cell in cells])
        progress(f"one step per minibatch, {repeat + 1}/{job.repeats}")
    single = [_median(runs) for runs in zip(*rounds, strict=True)]
    samples, seconds = max(run.samples for run in single), max(run.seconds for run in single)
    rows: list[dict] = []
    for number, (cell, first) in enumerate(zip(cells, single, strict=True), start=1):
        equal = trained(features, cell, steps_for(samples, first.samples, first.samples))
        timed = _timed(features, cell, seconds, (first, equal), job.repeats)
        for compute, run, target in (
            (ONE_STEP, first, np.nan),
            (SAMPLES, equal, samples),
            (SECONDS, timed, seconds),
        ):
            rows += _rows(cell, job.scenario, compute, run, target)
        progress(f"cell {number}/{len(cells)}: {cell.id}")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def steps_for(target: float, single: float, per_step: float) -> float:
    """Return the steps per minibatch that use `target`.

    single: used by one step per minibatch. per_step: by each further one.
    """
    steps = 1 + (target - single) / per_step if per_step > 0 else 1.0
    return float(min(max(steps, 1.0), MOST_STEPS))


def slope(first: Trained, other: Trained) -> float:
    """Return the seconds of a further step per minibatch, from runs of a cell with different steps."""
    return (other.seconds - first.seconds) / (other.steps - first.steps)


def _timed(
    features: Features, cell: Cell, target: float, known: tuple[Trained, Trained], repeats: int
) -> Trained:
    """Return a run that takes about as many seconds as the target: estimated from two runs, then refined.

    known: the run with one step and one with as many as use equal samples.
    """
    first, equal = known
    other = equal if equal.steps > 1 else trained(features, cell, PROBE)
    steps = steps_for(target, first.seconds, slope(first, other))
    if steps > 1:
        steps = steps_for(target, first.seconds, slope(first, trained(features, cell, steps)))
    if steps == 1:
        return first
    return _median([trained(features, cell, steps) for _ in range(repeats)])


def _median(runs: Sequence[Trained]) -> Trained:
    """Return the first run with the median of the seconds; equal steps give equal accuracies."""
    return Trained(runs[0].steps, median(run.seconds for run in runs), runs[0].document)


def _rows(cell: Cell, scenario: str, compute: str, run: Trained, target: float) -> list[dict]:
    names = ("dataset", "backbone", "method", "variant", "buffer")
    row = {name: getattr(cell, name) for name in names} | {"cell": cell.id, "scenario": scenario}
    row |= {"compute": compute, "steps_per_batch": run.steps, "gradient_samples": run.samples}
    row |= {"seconds": run.seconds, "target": target}
    row["train_flops"] = fmean(run.document["costs"]["train_flops"])
    accs = acc(np.array(run.document["matrix"][scenario], dtype=float)).tolist()
    return [row | {"seed": seed, "acc": value} for seed, value in zip(cell.seeds, accs, strict=True)]
