"""One job of the study `robustness`: recall of every associative memory (AM) from every kind of cue.

Half of the classes are stored. Cues are of stored maps, except for new images of stored classes and images of
the other classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sharc_core.associative import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.features.cache import Features
from sharc_core.heads import Head
from sharc_core.streams.stream import streamed
from sharc_core.studies.recall.measure import joint_head, saliency_mask
from sharc_core.studies.robustness.cues import Cues, cues_of
from sharc_core.studies.robustness.settings import COLUMNS, CUES, NEW_CLASS, NEW_IMAGE, RobustnessJob

Progress = Callable[[str], None] | None


# --- reading ---------------------------------------------------------------------------------------------


def read(memory: AssociativeMemory, cues: Cues, labels: torch.Tensor) -> torch.Tensor:
    """Complete cues (n, K, h, w) whose known entries need not be whole channels."""
    first = cues.known.flatten(2)[:, :, 0]
    if torch.equal(first[:, :, None, None].expand_as(cues.known), cues.known):
        return memory.read(cues.maps, first, labels)
    flat = by_entries(memory)
    shape = (len(cues.maps), *flat.shape)
    return flat.read(cues.maps.reshape(shape), cues.known.flatten(1), labels).view_as(cues.maps)


def by_entries(memory: AssociativeMemory) -> AssociativeMemory:
    """Return an AM of the same kind and state for maps (K h w, 1, 1): each entry is a channel of its own.

    An AM takes one truth value per channel, so that this one completes any set of entries. It was written
    with the original maps: an autoencoder, for example, has seen whole channels missing. Raises UserError for
    a kind whose state does not consist of entries in the order of the map.
    """
    shape = (memory.size, 1, 1)
    flat = type(memory)(memory.settings, shape, memory.classes, seed=memory.seed, device=memory.device)
    state, empty = memory.state_dict(), flat.tensors()
    for name, tensor in empty.items():
        first = state[name].shape[:1] if memory.grows and name in memory.parts else tensor.shape[:1]
        wanted = (*first, *tensor.shape[1:])
        if state[name].numel() == torch.Size(wanted).numel():
            state[name] = state[name].reshape(wanted)
    flat.load_state_dict(state)
    return flat


# --- measures --------------------------------------------------------------------------------------------


def measure(
    recalled: torch.Tensor,
    true: torch.Tensor,
    labels: torch.Tensor,
    cues: Cues,
    stored: torch.Tensor,
    stored_classes: torch.Tensor,
    head: Head,
) -> dict[str, float]:
    """Return the measures of recalled maps (n, K, h, w) with labels (n,), among them MEASURES.

    stored: all maps of the AM, (m, K, h, w). stored_classes: theirs. head: one replica. See docs/results.md.
    """
    unseen = ~cues.known
    predicted, of_true = (
        head.logits(pool(maps.float())[None])[0].argmax(1) for maps in (recalled, true.float())
    )
    return {
        "relative_error": relative_error(recalled.double(), true.double(), unseen, stored.double().mean(0)),
        "nearest": nearest_rate(recalled.double(), true.double(), unseen, stored.double()),
        "accuracy": _share(predicted == labels),
        "true_accuracy": _share(of_true == labels),
        "stored_class": _share(torch.isin(predicted, stored_classes)),
        "true_stored_class": _share(torch.isin(of_true, stored_classes)),
    }


def relative_error(
    recalled: torch.Tensor, true: torch.Tensor, unseen: torch.Tensor, mean: torch.Tensor
) -> float:
    """Return the squared error over unseen entries, divided by that of `mean` (K, h, w), of the stored maps.

    The others are (n, K, h, w). NaN for an error where the mean map is exact.
    """
    error = (recalled - true)[unseen].square().sum()
    spread = (true - mean)[unseen].square().sum()
    return 0.0 if error == 0 else float(error / spread) if spread > 0 else float("nan")


def nearest_rate(
    recalled: torch.Tensor, true: torch.Tensor, unseen: torch.Tensor, stored: torch.Tensor
) -> float:
    """Return the share of recalled maps that no stored map is nearer to than the true one (L2, unseen only).

    recalled, true, unseen: (n, K, h, w). stored (m, K, h, w): a copy of the true map is not nearer.
    """
    hits = []
    for guess, own, missing in zip(recalled, true, unseen, strict=True):
        others = (stored[:, missing] - guess[missing]).square().sum(1).amin()
        hits.append((own - guess)[missing].square().sum() <= others)
    return _share(torch.stack(hits))


def _share(hits: torch.Tensor) -> float:
    return float(hits.double().mean())


# --- a job -----------------------------------------------------------------------------------------------


def run_robustness(features: Features, job: RobustnessJob, progress: Progress = None) -> pd.DataFrame:
    """Return a row per memory, seed, theta and kind of cue (COLUMNS; see docs/results.md).

    What an AM, the maps or the data set do not allow gives a row with the reason instead of measures. Runs on
    one thread, so that equal seeds give equal bits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            rows = _rows(features, job, progress)
    finally:
        torch.set_num_threads(threads)
    common = {"dataset": job.dataset, "backbone": job.backbone}
    return pd.DataFrame([common | row for row in rows], columns=list(COLUMNS)).astype(COLUMNS)


def _rows(features: Features, job: RobustnessJob, progress: Progress) -> list[dict[str, Any]]:
    by_memory: dict[str, list[dict[str, Any]]] = {name: [] for name in job.memories}
    for seed in job.study.seeds:
        trial = Trial(*_prepared(features, job, seed), job, seed)
        for name, values in job.memories.items():
            by_memory[name] += trial.rows(name, values)
            if progress:
                progress(f"seed {seed}, {name}: {len(by_memory[name])} rows")
    return [row for rows in by_memory.values() for row in rows]


def _prepared(features: Features, job: RobustnessJob, seed: int) -> tuple[Features, Head, int]:
    features, stream = streamed(features, job.stream, seed)
    return features, joint_head(features, stream, job.training, seed), stream.classes


@dataclass(frozen=True)
class Images:
    """Training images by number: those that are stored, and those that are read for a new image and class."""

    stored: torch.Tensor
    new_image: torch.Tensor
    new_class: torch.Tensor
    classes: torch.Tensor  # that are stored

    @classmethod
    def draw(cls, labels: torch.Tensor, patterns: int, maps: int, seed: int) -> "Images":
        """Draw half of the classes (rounded up) and `patterns` of their images; the others are new.

        Raises UserError for too few classes or images.
        """
        classes = labels.unique()
        order = torch.randperm(len(labels), generator=generator(seed, "robustness", "images"))
        shuffled = classes[torch.randperm(len(classes), generator=generator(seed, "robustness", "classes"))]
        stored_classes = shuffled[: (len(classes) + 1) // 2]
        is_stored = torch.isin(labels[order], stored_classes)
        own, others = order[is_stored], order[~is_stored]
        if len(own) < patterns + 1 or not len(others):
            raise UserError(
                f"{len(own)} training images of {len(stored_classes)} classes and {len(others)} of the other "
                f"ones are too few for robustness.patterns {patterns}: lower it"
            )
        return cls(own[:patterns], own[patterns:][:maps], others[:maps], stored_classes)

    def read_by(self, kind: str) -> torch.Tensor:
        """Return the images that a kind of cue is made from."""
        return {NEW_IMAGE: self.new_image, NEW_CLASS: self.new_class}.get(kind, self.stored)


class Trial:
    """The measurements of one seed: its head, its images, its memories."""

    def __init__(self, features: Features, head: Head, classes: int, job: RobustnessJob, seed: int):
        self.features, self.head, self.classes, self.seed = features, head, classes, seed
        self.study = job.study
        self.images = Images.draw(features.train_labels, job.study.patterns, job.study.maps, seed)

    def rows(self, name: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a row per theta and kind of cue of one AM, with its kind and settings in `values`."""
        base = {"memory": name, "seed": self.seed, "patterns": len(self.images.stored)}
        try:
            memory = self.written(values)
        except UserError as error:
            reason = str(error)
            return [
                base | {"theta": theta, "cue": kind, "reason": reason}
                for theta in self.study.thetas
                for kind in CUES
            ]
        is_slow = values["kind"] in self.study.slow
        most = min(self.study.maps, self.study.slow_maps) if is_slow else self.study.maps
        return [
            base | {"theta": theta, "cue": kind} | self._point(memory, kind, theta, most)
            for theta in self.study.thetas
            for kind in CUES
        ]

    def written(self, values: dict[str, Any]) -> AssociativeMemory:
        """Return an AM that holds the stored maps. Raises UserError when it cannot hold them."""
        values = dict(values)
        kind = ASSOCIATIVE_MEMORIES.get(values.pop("kind"))
        shape = tuple(self.features.train_maps.shape[1:])
        settings = kind.Settings.model_validate(values)
        kind.planned_bytes(settings, shape, self.classes, 0)
        memory = kind(settings, shape, self.classes, seed=derived_seed(self.seed, "associative"))
        index = self.images.stored
        memory.write(self.features.train_maps[index], self.features.train_labels[index])
        return memory

    def _point(self, memory: AssociativeMemory, kind: str, theta: float, most: int) -> dict[str, Any]:
        index = self.images.read_by(kind)[: self.study.maps]
        true, labels = self.features.train_maps[index], self.features.train_labels[index]
        mask = saliency_mask(self.features, index, self.head, theta)
        source = generator(self.seed, "robustness", kind, theta)
        try:
            # all maps get their cues before some are left out, so that slow AMs read the others' first cues
            cues = cues_of(kind, true, mask, theta, self.study.wrong, source)
            cues = Cues(cues.maps[:most], cues.known[:most], cues.wrong[:most])
            true, labels = true[:most], labels[:most]
            recalled = read(memory, cues, labels)
        except UserError as error:
            return {"reason": str(error)}
        stored = self.features.train_maps[self.images.stored]
        return {
            "missing": _share(~cues.known),
            "wrong": _share(cues.wrong[cues.known]),
            "maps_read": len(true),
            **measure(recalled, true, labels, cues, stored, self.images.classes, self.head),
        }
