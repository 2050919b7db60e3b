"""JOINT: all tasks shuffled together, one pass. The upper baseline."""

from sharc_core.methods.base import METHODS
from sharc_core.methods.sgd import SGD


@METHODS.register("joint")
class Joint(SGD):
    """SGD on one task that holds the whole stream."""

    title = "JOINT"
    joint = True
