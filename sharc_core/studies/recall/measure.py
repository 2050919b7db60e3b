"""One job of the recall study: how well an associative memory (AM) completes real maps.

Four things are swept: the share of channels masked, the noise on the cue, the number of stored maps, and the
number of tasks written after the maps that are read. Every point has the AM's bytes and its times to write
and to read.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sharc_core.associative import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.common.deferred import pandas as pd
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.features.cache import Features
from sharc_core.grid.cell import Training
from sharc_core.heads import Batch, Head, LinearHead
from sharc_core.saliency.channel_masks import top_mask
from sharc_core.saliency.gradient import gradient
from sharc_core.streams.stream import Stream, streamed
from sharc_core.studies.recall.settings import COLUMNS, RecallJob

MEASURES = ("relative_error", "cosine", "nearest", "exact", "agreement")
COSTS = ("state_bytes", "write_seconds", "read_seconds")
EXACT = 1e-3  # of the standard deviation of the map entries


# --- measures ------------------------------------------------------------------------------------


def measure(recalled: torch.Tensor, stored: torch.Tensor, mask: torch.Tensor, head: Head) -> dict[str, float]:
    """Return the MEASURES of recalled maps (n, K, h, w).

    stored: all maps that the AM holds, (m, K, h, w), beginning with those that were read. mask: (n, K), true
    where a channel was observed. head: one replica. If every channel is observed, recall is perfect.
    """
    true, recalled = stored[: len(recalled)].double(), recalled.double()
    unseen = ~mask[:, :, None, None].expand_as(true)
    with_head = (head.logits(pool(maps.float())[None])[0].argmax(1) for maps in (recalled, true))
    worst = (torch.where(unseen, recalled - true, 0.0)).flatten(1).abs().amax(1)
    return {
        "relative_error": relative_error(recalled, true, unseen),
        "cosine": cosine(recalled, true, unseen),
        "nearest": nearest_rate(recalled, stored.double()),
        "exact": _share(worst <= EXACT * true.std()),
        "agreement": _share(torch.eq(*with_head)),
    }


def relative_error(recalled: torch.Tensor, true: torch.Tensor, unseen: torch.Tensor) -> float:
    """Return the squared error over unseen entries, divided by that of the mean of the true maps.

    All (n, K, h, w). 0 is perfect, 1 is as good as the mean map. NaN for an error where nothing varies.
    """
    error = (recalled - true)[unseen].square().sum()
    spread = (true - true.mean(0))[unseen].square().sum()
    return 0.0 if error == 0 else float(error / spread) if spread > 0 else float("nan")


def cosine(recalled: torch.Tensor, true: torch.Tensor, unseen: torch.Tensor) -> float:
    """Return the mean over maps of the cosine over unseen entries; 0 with one zero vector, 1 with two."""
    a, b = (torch.where(unseen, maps, 0.0).flatten(1) for maps in (recalled, true))
    norms = a.norm(dim=1) * b.norm(dim=1)
    same = (a == b).all(1)  # two zero vectors among them
    angle = (a * b).sum(1) / torch.where(norms > 0, norms, 1.0)
    return float(torch.where(same, 1.0, angle).mean())


def nearest_rate(recalled: torch.Tensor, stored: torch.Tensor) -> float:
    """Return the share of recalled maps whose nearest stored map (L2, all entries) is their own row.

    In float64, so that rounding does not hide a distance of zero. Both copies of a map stored twice count.
    """
    a, b = recalled.flatten(1), stored.flatten(1)
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    distance = norms - 2 * a @ b.T
    own = distance.diagonal()
    return _share(own <= distance.amin(1) + 1e-12 * norms.diagonal())


def _share(hits: torch.Tensor) -> float:
    return float(hits.double().mean())


# --- cues ----------------------------------------------------------------------------------------


def joint_head(features: Features, stream: Stream, training: Training, seed: int) -> LinearHead:
    """Train a linear head of one replica in one pass of plain SGD over all training data."""
    head = LinearHead(1, features.train_pooled.shape[1], stream.classes)
    head.initialise([seed])
    order = stream.joint().order(0, 0, [seed])
    for chunk in order.split(training.batch_size, dim=1):
        batch = Batch(features.train_pooled[chunk], features.train_labels[chunk])
        head.descend(head.cross_entropy(batch), training.lr)
    return head


def saliency_mask(features: Features, index: torch.Tensor, head: Head, theta: float) -> torch.Tensor:
    """Return (n, K) bool: the channels that the paper's saliency keeps of training maps `index` (n,)."""
    positions = features.train_maps[0, 0].numel()
    x, y = features.train_pooled[index][None], features.train_labels[index][None]
    return top_mask(gradient(head, x, y, positions, [])[0], theta)


def random_mask(count: int, channels: int, theta: float, seed: int) -> torch.Tensor:
    """Return (count, channels) bool with as many channels as saliency keeps; nested over theta."""
    return top_mask(torch.rand(count, channels, generator=generator(seed, "recall", "mask")), theta)


def noisy_cue(maps: torch.Tensor, mask: torch.Tensor, level: float, seed: int) -> torch.Tensor:
    """Add Gaussian noise to the observed channels of maps (n, K, h, w) and set the others to zero.

    level: standard deviation of the noise, in units of that of the maps. mask: (n, K).
    """
    maps = maps.float()
    noise = torch.randn(maps.shape, generator=generator(seed, "recall", "noise"))
    return torch.where(mask[:, :, None, None], maps + level * maps.std() * noise, 0.0)


# --- the sweeps ----------------------------------------------------------------------------------


def run_recall(
    features: Features, job: RecallJob, progress: Callable[[str], None] | None = None
) -> pd.DataFrame:
    """Measure one AM at all points and return a row per point and seed (COLUMNS; see docs/results.md).

    An AM that cannot hold such maps, and a point that the AM or the data set refuses, gives a row with the
    reason instead of measures. Runs on one thread, so that equal seeds give equal bits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return _run(features, job, progress)
    finally:
        torch.set_num_threads(threads)


def _run(features: Features, job: RecallJob, progress: Callable[[str], None] | None) -> pd.DataFrame:
    rows: list[dict] = []
    for seed in job.study.seeds:
        trial = _Trial(*streamed(features, job.stream, seed), job, seed)
        try:
            trial.new_memory()
        except UserError as error:
            rows = [trial.row("base", reason=str(error))]
            break
        rows += trial.rows()
        if progress:
            progress(f"{job.associative_memory}, seed {seed}: {len(rows)} points measured so far")
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass
class _Written:
    """An AM, the training indices of the maps that it holds, and the seconds that writing took in total."""

    memory: AssociativeMemory
    index: torch.Tensor
    seconds: float


class _Trial:
    """The measurements of one seed: its head, its order of maps, its AMs."""

    def __init__(self, features: Features, stream: Stream, job: RecallJob, seed: int):
        self.features, self.stream, self.job, self.seed = features, stream, job, seed
        self.study = job.study
        self.head = joint_head(features, stream, job.training, seed)
        self.order = torch.randperm(len(features.train_labels), generator=generator(seed, "recall", "order"))

    def new_memory(self) -> AssociativeMemory:
        """Return an empty AM. Raises UserError when it cannot hold such maps."""
        kind = ASSOCIATIVE_MEMORIES.get(self.job.memory_kind)
        settings = kind.Settings.model_validate(self.job.associative_settings)
        shape = tuple(self.features.train_maps.shape[1:])
        kind.planned_bytes(settings, shape, self.stream.classes, 0)
        return kind(settings, shape, self.stream.classes, seed=derived_seed(self.seed, "associative"))

    def rows(self) -> list[dict]:
        """Return the rows of all sweeps."""
        return [*self._on_one_memory(), *self._counts(), *self._tasks(False), *self._tasks(True)]

    def row(self, sweep: str, **values) -> dict:
        """Return a row of the frame; columns without a value stay empty."""
        job = self.job
        names = {"dataset": job.dataset, "backbone": job.backbone, "memory": job.associative_memory}
        return {**names, "seed": self.seed, "sweep": sweep, **values}

    def _on_one_memory(self) -> list[dict]:
        """Measure the base point and the sweeps of mask and noise, all on one AM."""
        study = self.study
        rows: list[dict] = []
        points = [("base", "saliency", study.theta, 0.0)]
        points += [("masked", how, share, 0.0) for share in study.masked for how in ("saliency", "random")]
        points += [("noise", "saliency", study.theta, level) for level in study.noise]
        where = [
            {"sweep": s, "mask": how, "masked": share, "noise": level} for s, how, share, level in points
        ]
        written = self._fill(study.patterns, where, rows)
        if written is not None:
            rows += [self._point(written, written.index, point) for point in where]
        return rows

    def _counts(self) -> list[dict]:
        rows: list[dict] = []
        for count in self.study.counts:
            where = self._at_theta("patterns")
            written = self._fill(count, [where], rows)
            if written is not None:
                rows.append(self._point(written, written.index, where))
        return rows

    def _tasks(self, forgetting: bool) -> list[dict]:
        """Read the first task's maps after more and more tasks, all on one AM."""
        study = self.study
        rows: list[dict] = []
        first = self._task(0)
        written = _Written(self.new_memory(), first[:0], 0.0)
        for later in range(max(study.later_tasks) + 1):
            where = self._at_theta("tasks") | {"later_tasks": later, "forgetting": forgetting}
            if later >= self.stream.tasks:
                reason = f"the stream has {self.stream.tasks} tasks"
                rows += [
                    self.row(**where | {"later_tasks": n}, reason=reason)
                    for n in sorted(study.later_tasks)
                    if n >= later
                ]
                break
            try:
                if later and forgetting:
                    written.memory.forget(study.forget_beta)
                self._write(written, self._task(later))
            except UserError as error:
                rows.append(self.row(**where, reason=str(error)))
                break  # later points would measure an AM that lacks a task
            if later in study.later_tasks:
                rows.append(self._point(written, first, where))
        return rows

    def _at_theta(self, sweep: str) -> dict:
        return {"sweep": sweep, "mask": "saliency", "masked": self.study.theta, "noise": 0.0}

    def _task(self, task: int) -> torch.Tensor:
        return self.stream.order(task, 0, [self.seed])[0, : self.study.task_patterns]

    def _fill(self, count: int, where: list[dict], rows: list[dict]) -> _Written | None:
        """Return a new AM with `count` maps, or None after adding a row with the reason for each point."""
        try:
            if count > len(self.order):
                raise UserError(f"the data set has {len(self.order)} training images")
            written = _Written(self.new_memory(), self.order[:0], 0.0)
            self._write(written, self.order[:count])
        except UserError as error:
            rows += [self.row(**point, patterns=count, reason=str(error)) for point in where]
            return None
        return written

    def _write(self, written: _Written, index: torch.Tensor) -> None:
        maps, labels = self.features.train_maps[index], self.features.train_labels[index]
        began = time.perf_counter()
        written.memory.write(maps, labels)
        written.seconds += time.perf_counter() - began
        written.index = torch.cat([written.index, index])

    def _point(self, written: _Written, index: torch.Tensor, where: dict) -> dict:
        """Read the maps `index`, which were written first, at one point."""
        common: dict[str, Any] = where | {"patterns": len(written.index), "maps_read": len(index)}
        stored = self.features.train_maps[written.index].float()
        maps, labels = stored[: len(index)], self.features.train_labels[index]
        if where["mask"] == "saliency":
            mask = saliency_mask(self.features, index, self.head, where["masked"])
        else:
            mask = random_mask(len(index), maps.shape[1], where["masked"], self.seed)
        cue = noisy_cue(maps, mask, where["noise"], self.seed)
        began = time.perf_counter()
        try:
            recalled = written.memory.read(cue, mask, labels)
        except UserError as error:
            return self.row(**common, reason=str(error))
        costs: dict[str, Any] = {
            "state_bytes": written.memory.state_bytes,
            "write_seconds": written.seconds,
            "read_seconds": time.perf_counter() - began,
        }
        measured: dict[str, Any] = measure(recalled, stored, mask, self.head)
        return self.row(**common, **measured, **costs)
