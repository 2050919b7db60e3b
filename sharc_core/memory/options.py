"""How an episodic memory stores samples, and how SHARC's associative memories (AMs) complete them."""

from dataclasses import dataclass, field
from typing import Any

from sharc_core.associative import AssociativeMemory
from sharc_core.common.deferred import torch
from sharc_core.representations import REPRESENTATIONS, Representation
from sharc_core.saliency.channel_masks import kept_mask


@dataclass(frozen=True)
class Storing:
    """How samples are stored, with SHARC and without.

    storage, storage_settings: a representation, see sharc_core.representations. selection: which samples are
    stored, see sharc_core.selection. keep_logits: the head's logits are stored too. logits_at: "task_end" or
    "visit", as for SharcSettings.saliency_at. batch_size: of training. views: see sharc_core.features.views.
    image_shape: (H, W, 3) of the prepared images, None if there are none or if it is not known.
    """

    storage: str = "float16"
    selection: str = "last"
    keep_logits: bool = False
    logits_at: str = "task_end"
    batch_size: int = 10
    views: int = 1
    storage_settings: dict[str, Any] = field(default_factory=dict)
    image_shape: tuple[int, int, int] | None = None

    def representation(self, shape: tuple[int, int, int]) -> Representation:
        """Return a new representation of maps of shape (K, h, w), for one replica."""
        kind = REPRESENTATIONS.get(self.storage)
        return kind(shape, kind.Settings.model_validate(self.storage_settings), self.image_shape)


@dataclass(frozen=True)
class SharcSettings:
    """Which channels SHARC stores, and when its AMs learn, forget and complete.

    associative: one AM per replica.
    theta: share of the channels to drop, or mass: share of the saliency to keep.
    importance: which part of the saliency counts, see saliency.channel_masks.
    saliency_at: "task_end" computes saliency with the head at the end of the task, "visit" with the head just
    before the training step on the sample (the published code).
    read: "per_task" completes all samples at the start of each task (the paper's algorithm 1). "at_store"
    completes a sample once, after its task has been written, and stores it completed; "per_batch" completes a
    training batch right after the AM learnt that batch alone, and stores it completed (the published code).
    complete: "all" stored samples, or those of the "last_batches" of a task, as many as hold the task's share
    of the slots (the published code). The AM then learns every map of those batches, stored or not, and
    dropped channels of older samples stay zero.
    forget_every: every so many writes the AM forgets by forget_beta before it writes; None: never.
    forget_unit: one write is the maps of a "task" (nothing is forgotten before the first), or of a training
    "batch" (the published code).
    """

    associative: list[AssociativeMemory]
    theta: float | None = None
    mass: float | None = None
    saliency: str = "gradient"
    importance: str = "absolute"
    saliency_at: str = "task_end"
    read: str = "per_task"
    complete: str = "all"
    forget_every: int | None = None
    forget_unit: str = "task"
    forget_beta: float = 0.1

    @property
    def keeps_completed(self) -> bool:
        """Whether a sample's completed map replaces its masked one."""
        return self.read != "per_task"

    @property
    def writes_batches(self) -> bool:
        """Whether the AM learns a task's maps one training batch at a time."""
        return self.read == "per_batch" or self.forget_unit == "batch"

    def kept(self, saliency: torch.Tensor) -> torch.Tensor:
        """Return the channels to keep, (..., K) bool, of saliency (..., K)."""
        return kept_mask(saliency, self.theta, self.mass, self.importance)

    def completed_from(self, samples: int, batch_size: int, slots: int) -> int:
        """Return the position from which a task's samples are completed.

        samples: of the task, visited in batches of batch_size. slots: the task's share of the buffer.
        """
        if self.complete == "all":
            return 0
        batches = -(-samples // batch_size)
        return max(0, batches - -(-slots // batch_size)) * batch_size
