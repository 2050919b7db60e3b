"""What a replay method is: `observe` one minibatch. One short file each; SHARC is the memory's business."""

from typing import Any

import torch

from sharc_core.common.registry import Registry
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.heads import Batch, Head
from sharc_core.memory.episodic import EpisodicMemory

METHODS = Registry("method", "sharc_core.methods")


class Method:
    """Subclass it under `@METHODS.register("name")` in a file of this package.

    A method reads as if for one run: the replica axis R is carried by the head, the batches and the
    memory. Only what is random or conditional per run has to mind it (self.generators has one
    generator per replica; masks are (R,) tensors).
    """

    name: str
    settings: Any  # of this class's own Settings
    uses_memory = True  # False: a baseline; the grid gives it no buffer and no SHARC variant
    joint = False  # True: all tasks are one, shuffled together
    needs_logits = False  # True: the memory stores the logits of each sample too
    passes = 2  # of a batch through the backbone in the published code, see `backbone.batch_norm`
    fills_at_task_end = False  # True: `memory.selection: reservoir` does not apply, the memory has tasks

    class Settings(BaseSettings):
        """The method's own settings, under `method_settings.<name>`."""

    def __init__(
        self,
        head: Head,
        settings: BaseSettings,
        lr: float,
        replay_batch_size: int,
        generators: list[torch.Generator],
    ):
        self.head = head
        self.settings = settings
        self.lr = lr
        self.replay_batch_size = replay_batch_size
        self.generators = generators

    def begin_task(self, memory: EpisodicMemory) -> None:
        """Called before a task's first batch, once the memory is ready for replay."""

    def observe(self, batch: Batch, memory: EpisodicMemory) -> None:
        """Learn from one minibatch of the current task, x (R, B, D)."""
        raise NotImplementedError  # abstract

    @property
    def evaluated_head(self) -> Head:
        """The head that predicts: the trained one, unless a method keeps a better."""
        return self.head

    @property
    def extra_bytes(self) -> int:
        """Bytes per run that the method keeps beside head and memory, model copies above all."""
        return 0
