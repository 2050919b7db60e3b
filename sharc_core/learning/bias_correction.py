"""Weight alignment (Zhao et al. 2020, arXiv 1911.07053), for every method that trains a head.

A head that saw old classes in replay only tends to favour the new ones, by longer weights. At the end of a
task the output weights of its new classes are scaled to the mean length of those of the old classes. So that
lengths reflect logits, the paper also keeps output weights from being negative: they are clipped after every
step. Nothing is held out, and nothing is stored. Biases are left alone.
"""

from collections.abc import Sequence

from sharc_core.grid.cell import HeadConfig
from sharc_core.heads import Head
from sharc_core.methods import Method
from sharc_core.streams.stream import Stream


def clipped_heads(config: HeadConfig, method: Method) -> Sequence[Head]:
    """Return the heads whose output weights are clipped after every step, and clip them for a first time."""
    heads = method.trained_heads if config.bias_correction == "weight_alignment" else []
    clip(heads)
    return heads


def clip(heads: Sequence[Head]) -> None:
    """Set negative output weights to zero."""
    for head in heads:
        head.output_weight.clamp_(min=0)


def align(config: HeadConfig, method: Method, stream: Stream, number: int) -> None:
    """Scale the weights of a task's new classes, in every head that predicts or may become a teacher.

    Nothing happens in the first task and in one without new classes.
    """
    if config.bias_correction == "none" or number == 0:
        return
    old = stream.classes_seen(number - 1)
    new = [label for label in stream.classes_seen(number) if label not in set(old)]
    for head in method.trained_heads if new else []:
        head.align(old, new)
