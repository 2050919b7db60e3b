"""The head that JOINT trains, for studies that examine a trained head instead of its accuracy alone.

It takes JOINT's own steps: the learner's stream, order of samples, minibatches and method. A test compares
its accuracy with the learner's, which must be equal.
"""

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.features.cache import Features
from sharc_core.features.views import replicas_of
from sharc_core.grid.cell import Cell
from sharc_core.heads import Batch, Head, make_head
from sharc_core.learning.bias_correction import clip, clipped_heads
from sharc_core.learning.cell_memory import make_memory, make_method
from sharc_core.streams.stream import streamed


@torch.no_grad()
def joint_head(features: Features, cell: Cell) -> tuple[Features, Head]:
    """Train a JOINT cell and return features with the labels that it learned, and its head of R seeds.

    Runs on the CPU, on the caller's threads: with one thread, equal seeds give equal bits. Raises UserError
    when the training diverges.
    """
    features, stream = streamed(features, cell.stream, cell.seeds[0])
    head = make_head(
        cell.head.kind,
        cell.head.hidden,
        len(cell.seeds),
        features.train_pooled.shape[1],
        stream.classes,
        scale=cell.head.scale,
    )
    head.initialise(cell.seeds)
    method, memory = make_method(cell, head, cell.seeds), make_memory(features, stream, cell)
    clipped = clipped_heads(cell.head, method)
    views = replicas_of(features, cell.seeds, cell.views, cell.training.batch_size)
    learned = stream.joint()
    for epoch in range(cell.training.epochs):
        order = learned.order(0, epoch, cell.seeds)
        for number, index in enumerate(order.split(cell.training.batch_size, dim=1)):
            batch = Batch(views.pooled(index), features.train_labels[index])
            for _ in range(cell.training.steps_of(number)):
                method.observe(batch, memory)
                clip(clipped)
    if not bool(torch.isfinite(head.vector).all()):
        raise UserError(
            f"{cell.dataset}/{cell.id}: the training diverged (the head is no longer finite): lower "
            f"training.lr ({cell.training.lr}) or check the scale of the features"
        )
    return features, head
