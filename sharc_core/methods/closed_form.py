"""What closed-form classifiers share: traits, the bytes that they hold, and samples gathered in chunks."""

from collections.abc import Iterator

from sharc_core.common.deferred import torch
from sharc_core.heads import Batch, Head
from sharc_core.methods.base import Method

NOT_STATE = ("head", "settings", "generators")  # attributes of every method that are no state of its own


class ClosedForm(Method):
    """A linear classifier made of sums over the stream: no gradient, no replay, any order of the samples.

    Its tensors are allocated when it is made and keep their size, so that the bytes of a run are known before
    it starts (on the device `meta`, without allocating anything).
    """

    heads = ("linear",)
    trains_head = False
    uses_memory = False
    order_matters = False
    passes = 1

    @property
    def extra_bytes(self) -> int:
        """Bytes per run of all tensors in the attributes."""
        state = {name: value for name, value in vars(self).items() if name not in NOT_STATE}
        return held_bytes(state) // self.replicas


def held_bytes(value: object) -> int:
    """Return the bytes of all tensors in a container, or in the attributes of an object of this package."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(held_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(held_bytes, value))
    return held_bytes(vars(value)) if type(value).__module__.startswith(__package__) else 0


class Chunks:
    """Gathers minibatches into chunks of a fixed number of samples.

    Updates then add the same samples at a time whatever the size of the minibatches, so results have the same
    bits, and a large matrix is read and written once for many samples.

    x (R, rows, D), y (R, rows): samples of the task that no chunk has returned yet.
    """

    def __init__(self, head: Head, rows: int):
        """head: gives R, D, dtype and device. rows: samples of a chunk, at least one."""
        like = head.vector
        self.x = like.new_zeros(head.replicas, max(1, rows), head.features)
        self.y = like.new_zeros(self.x.shape[:2], dtype=torch.int64)
        self._filled = 0

    def add(self, batch: Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Add a minibatch and yield each full chunk, x (R, rows, D) and y (R, rows)."""
        rows, start = self.x.shape[1], 0
        while start < batch.y.shape[1]:
            count = min(rows - self._filled, batch.y.shape[1] - start)
            into, source = slice(self._filled, self._filled + count), slice(start, start + count)
            self.x[:, into] = batch.x[:, source]
            self.y[:, into] = batch.y[:, source]
            start += count
            self._filled += count
            if self._filled == rows:
                yield from self.rest()

    def rest(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the samples that fill no chunk, if there are any."""
        count, self._filled = self._filled, 0
        if count:
            yield self.x[:, :count], self.y[:, :count]
