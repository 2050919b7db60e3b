"""How things are called and ordered wherever results are shown."""

import math
import re
from collections.abc import Iterable

from sharc_core.errors import UserError

SCENARIO_NAMES = {"task_il": "Task-IL", "class_il": "Class-IL"}

# In the order of the paper's tables; methods that are not here follow in alphabetical order.
METHOD_NAMES = {
    "joint": "JOINT",
    "sgd": "SGD",
    "gem": "GEM",
    "agem": "A-GEM",
    "er": "ER",
    "mer": "MER",
    "derpp": "DER++",
    "clser": "CLS-ER",
}
DASH = "–"

# What the backbone's batch norm does, in words that can follow the backbone's name.
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


def method_name(method: str) -> str:
    """Display name of a method: the literature's, or the registered name in upper case."""
    return METHOD_NAMES.get(method, method.upper())


def method_key(method: str) -> tuple[int, str]:
    """Sort key of methods: the paper's order, then alphabetical."""
    order = list(METHOD_NAMES)
    return (order.index(method) if method in order else len(order), method)


def scenario_key(scenario: str) -> tuple[int, str]:
    """Sort key of scenarios: Task-IL first, as in the paper."""
    order = list(SCENARIO_NAMES)
    return (order.index(scenario) if scenario in order else len(order), scenario)


def scenario_name(scenario: str) -> str:
    """Display name of a scenario. Raises UserError for an unknown one."""
    if scenario not in SCENARIO_NAMES:
        raise UserError(f"unknown scenario {scenario!r} in the results; valid: {', '.join(SCENARIO_NAMES)}")
    return SCENARIO_NAMES[scenario]


def network_and_batch_norm(name: str) -> tuple[str, str]:
    """Split a backbone's name in the results into its network's name and a key of BATCH_NORMS.

    BackboneConfig.path_name puts them together: a network with frozen batch norm has its plain name.
    """
    for batch_norm in BATCH_NORMS:
        network = name.removesuffix(f"-{batch_norm}")
        if batch_norm != "frozen" and network not in ("", name):
            return network, batch_norm
    return name, "frozen"


def has_batch_norms(backbones: Iterable[str]) -> bool:
    """Whether one of the networks has frozen batch norm and another one too; backbones: names in results."""
    names = set(backbones)
    split = [network_and_batch_norm(name) for name in names]
    return any(batch_norm != "frozen" and network in names for network, batch_norm in split)


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key that puts s_cifar10 before s_cifar100 and x2 before x10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", str(name))
    return tuple((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)


def bytes_text(count: float) -> str:
    """Bytes in decimal units: 512 B, 20.5 kB, 1.43 MB (1 kB = 1000 B). A dash for NaN."""
    if math.isnan(count):
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    digits = 0 if unit == "B" or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {unit}"


def number_text(value: float, signed: bool = False) -> str:
    """Two decimals, a dash for NaN; never "-0.00"."""
    if math.isnan(value):
        return DASH
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("-", "+" if signed else "") if float(text) == 0 else text


def mean_text(mean: float, std: float) -> str:
    """`86.70 ± 0.51`; the deviation is a dash for a single seed, the whole is one for NaN."""
    return DASH if math.isnan(mean) else f"{number_text(mean)} ± {number_text(std)}"
