"""How things are called and ordered wherever results are shown."""

from sharc_core.common.errors import UserError

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
