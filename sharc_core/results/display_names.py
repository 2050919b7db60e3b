"""Display names of scenarios and methods, and the order in which results show them."""

from sharc_core.common.errors import UserError

SCENARIO_NAMES = {"task_il": "Task-IL", "class_il": "Class-IL"}

# In the order of the paper's tables; other methods follow in alphabetical order.
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


def method_name(method: str) -> str:
    """Return the display name of a method: the literature's, or the registered name in upper case."""
    return METHOD_NAMES.get(method, method.upper())


def method_key(method: str) -> tuple[int, str]:
    """Return the sort key of a method: the paper's order, then alphabetical."""
    order = list(METHOD_NAMES)
    return (order.index(method) if method in order else len(order), method)


def scenario_key(scenario: str) -> tuple[int, str]:
    """Return the sort key of a scenario: Task-IL first, as in the paper."""
    order = list(SCENARIO_NAMES)
    return (order.index(scenario) if scenario in order else len(order), scenario)


def scenario_name(scenario: str) -> str:
    """Return the display name of a scenario. Raises UserError for an unknown one."""
    if scenario not in SCENARIO_NAMES:
        raise UserError(f"unknown scenario {scenario!r} in the results; valid: {', '.join(SCENARIO_NAMES)}")
    return SCENARIO_NAMES[scenario]
