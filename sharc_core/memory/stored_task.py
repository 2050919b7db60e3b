"""What is stored of one task."""

from dataclasses import dataclass, field

from sharc_core.common.deferred import torch
from sharc_core.heads import Batch
from sharc_core.memory.byte_count import label_and_logit_bytes
from sharc_core.memory.picked import PickedSamples
from sharc_core.representations import Stored


@dataclass
class StoredTask:
    """One task's samples for all R replicas, n for each.

    index (R, n): into the training set. y (R, n): labels. logits: (R, n, C) or None.
    sparse: what is kept of each replica's maps.
    x (R, n, K): pooled vectors as they are replayed, set when they are known.
    completes (R, n) bool: samples that the AM completes; in the others dropped channels stay zero.
    recall_errors: of each replica, at the latest completion.
    picked: of each replica, if its AM picks one stored map per sample.
    """

    index: torch.Tensor
    y: torch.Tensor
    logits: torch.Tensor | None
    sparse: list[Stored]
    x: torch.Tensor = field(init=False)
    completes: torch.Tensor | None = None
    recall_errors: list[float] | None = None
    picked: list[PickedSamples] | None = None

    @property
    def samples(self) -> int:
        """n, samples per replica."""
        return self.index.shape[1]

    def nbytes(self, replica: int) -> int:
        """Return the bytes that a replica's samples hold: maps as represented, labels and logits."""
        logits = 0 if self.logits is None else self.logits.shape[-1]
        return self.sparse[replica].nbytes + self.samples * label_and_logit_bytes(logits)

    def batch(self, device: torch.device) -> Batch:
        """Return all samples as a batch (R, n, K) on a device."""
        return Batch(self.x, self.y.to(device), self.logits)
