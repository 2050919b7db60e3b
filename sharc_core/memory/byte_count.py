"""The bytes of one stored sample: its map as represented, its label and its logits.

This is the byte count of budgets (planned, before anything is stored) and of the reported costs (held,
counted from the stored tensors).
"""

from sharc_core.representations import Representation
from sharc_core.representations.sparse_maps import Float16

LABEL_BYTES = 2  # int16
LOGIT_BYTES = 4  # float32, for methods that replay logits


def label_and_logit_bytes(logits: int) -> int:
    """Return the bytes of a sample's label and of so many logits."""
    return LABEL_BYTES + LOGIT_BYTES * logits


def sample_bytes(representation: Representation, keep: int, logits: int = 0, counted: bool = False) -> int:
    """Return the planned bytes of a sample that keeps `keep` channels; see Representation.planned_bytes."""
    return representation.planned_bytes(keep, counted) + label_and_logit_bytes(logits)


def slot_bytes(shape: tuple[int, int, int], logits: int = 0) -> int:
    """Return what a slot is worth: the bytes of a sample with a full float16 map of shape (K, h, w)."""
    return sample_bytes(Float16(shape), shape[0], logits)
