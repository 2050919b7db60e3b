"""Display names and order of methods and scenarios in tables, figures and the report."""

from sharc_core.common.errors import UserError

SCENARIO_NAMES = {"task_il": "Task-IL", "class_il": "Class-IL", "domain_il": "Domain-IL"}

# Methods of the paper's tables, in their order. All other methods follow in alphabetical order.
PAPER_ORDER = ["joint", "sgd", "gem", "agem", "er", "mer", "derpp", "clser"]


def method_name(method: str) -> str:
    """Return the display name of a method: its title, or its registered name in upper case."""
    from sharc_core.methods import traits  # runs.csv is written without torch

    return traits(method).title or method.upper()


def method_key(method: str) -> tuple[int, str]:
    """Return the sort key of a method: the paper's order, then alphabetical."""
    return (PAPER_ORDER.index(method) if method in PAPER_ORDER else len(PAPER_ORDER), method)


def scenario_key(scenario: str) -> tuple[int, str]:
    """Return the sort key of a scenario: Task-IL first, as in the paper."""
    order = list(SCENARIO_NAMES)
    return (order.index(scenario) if scenario in order else len(order), scenario)


def scenario_name(scenario: str) -> str:
    """Return the display name of a scenario. Raises UserError for an unknown one."""
    if scenario not in SCENARIO_NAMES:
        raise UserError(f"unknown scenario {scenario!r} in the results; valid: {', '.join(SCENARIO_NAMES)}")
    return SCENARIO_NAMES[scenario]
