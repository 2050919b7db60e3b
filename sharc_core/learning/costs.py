"""What a run costs: bytes, operations, passes of the backbone, seconds."""

import time
from typing import Any

from sharc_core.memory.episodic import EpisodicMemory
from sharc_core.methods import Method


class Costs:
    """Collects the costs of R runs that advance together, from construction on."""

    def __init__(self, passes: int | None):
        """passes: of a training batch through a drifting backbone; None for a frozen one, which needs one."""
        self.started = time.perf_counter()
        self.passes = passes or 1
        self.backbone_passes = 0  # per run, without replayed images
        self.peak: list[int] = []  # bytes by run

    def visited(self, images: int) -> None:
        """Count training images of the stream that each run visited, which pass the backbone."""
        self.backbone_passes += images * self.passes

    def reviewed(self, images: int) -> None:
        """Count images that each run saw again at the end of a task."""
        self.backbone_passes += images

    def end_of_task(self, method: Method, memory: EpisodicMemory) -> None:
        """Note the bytes of a task's end, once the memory has stored its samples."""
        parts = zip(memory.episodic_bytes(), memory.associative_bytes(), strict=True)
        total = [episodic + associative + method.learner_bytes for episodic, associative in parts]
        self.peak = [max(pair) for pair in zip(self.peak, total, strict=True)] if self.peak else total

    def document(self, method: Method, memory: EpisodicMemory) -> dict[str, Any]:
        """Return the `costs` of a document (see docs/results.md), each a list with a value per run."""
        runs = method.replicas
        operations = zip(method.flops.of(runs), memory.flops(), strict=True)
        return {
            "episodic_bytes": memory.episodic_bytes(),
            "associative_bytes": memory.associative_bytes(),
            "learner_bytes": [method.learner_bytes] * runs,
            "peak_bytes": self.peak,
            "samples_stored": [memory.samples_stored] * runs,
            "recall_mse": memory.recall_mse(),
            "train_flops": [head + associative for head, associative in operations],
            "gradient_samples": [method.flops.samples] * runs,
            "backbone_passes": [self.backbone_passes + memory.backbone_passes()] * runs,
            "train_seconds": [(time.perf_counter() - self.started) / runs] * runs,
        }
