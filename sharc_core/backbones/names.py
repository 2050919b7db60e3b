"""Names of backbones in the results, which consist of a network and the mode of its batch norm."""

from collections.abc import Iterable

# Modes of batch norm, with a description that can follow the backbone's name.
BATCH_NORMS = {
    "frozen": "in evaluation mode, features computed once",
    "drifting": (
        "with batch norm in train mode: training batches are normalised by their own statistics, test images "
        "by running statistics that follow the stream"
    ),
    "adapted": (
        "in evaluation mode with batch statistics of the first task's training images, features computed once"
    ),
}


def network_and_batch_norm(name: str) -> tuple[str, str]:
    """Split a backbone's name in the results into its network's name and a key of BATCH_NORMS.

    Inverts BackboneConfig.path_name. A network with frozen batch norm has its plain name.
    """
    for batch_norm in BATCH_NORMS:
        network = name.removesuffix(f"-{batch_norm}")
        if batch_norm != "frozen" and network not in ("", name):
            return network, batch_norm
    return name, "frozen"


def has_batch_norms(backbones: Iterable[str]) -> bool:
    """Return whether a network occurs with frozen and other batch norm. backbones: names in results."""
    names = set(backbones)
    split = [network_and_batch_norm(name) for name in names]
    return any(batch_norm != "frozen" and network in names for network, batch_norm in split)
