"""Protocols: the paper's rules, and those in which the published code departs from them.

Each rule is an override of ordinary options (docs/config.md), so a protocol can do nothing that a grid
file cannot: `paper` leaves the grid's options as they are, `code` sets all of RULES, and
`paper+read+forget` sets those that it names.
"""

import copy
from typing import Any

from sharc_core.errors import UserError
from sharc_core.registry import nearest

PAPER, CODE = "paper", "code"
# What the published code does, by the keys of a grid file, in the order in which names list them.
RULES: dict[str, dict[str, dict[str, Any]]] = {
    "importance": {"sharc": {"importance": "positive"}},
    "budget": {"budget": {"unit": "nonzero", "count_associative_memory": False}},
    "read": {"sharc": {"read": "at_store"}},
    "forget": {"sharc": {"forget": {"every": 1}}},
    "replay": {"method_settings": {"er": {"replay": "whole"}}},
}


def rules_of(protocol: str) -> tuple[str, ...]:
    """The rules that a protocol switches on, in the order of RULES. Raises UserError for no protocol."""
    if protocol in (PAPER, CODE):
        return tuple(RULES) if protocol == CODE else ()
    first, *named = protocol.split("+")
    if first != PAPER:
        raise UserError(
            f"unknown protocol {protocol!r}{nearest(protocol, [PAPER, CODE])}; valid: {PAPER}, {CODE}, or "
            f"{PAPER}+<rule> with {', '.join(RULES)} (several: {PAPER}+read+forget)"
        )
    for rule in named:
        if rule not in RULES:
            raise UserError(
                f"unknown rule {rule!r}{nearest(rule, list(RULES))} in protocol {protocol!r}; valid: "
                f"{', '.join(RULES)}"
            )
        if named.count(rule) > 1:
            raise UserError(f"protocol {protocol!r} names the rule {rule!r} twice: remove one")
    return tuple(rule for rule in RULES if rule in named)


def name_of(rules: tuple[str, ...], among: tuple[str, ...] = tuple(RULES)) -> str:
    """The one name of a set of rules: `paper` for none, `code` for all of `among`."""
    if rules and set(among) <= set(rules):
        return CODE
    return "+".join([PAPER, *(rule for rule in RULES if rule in rules)])


def concerning(protocol: str, method: str, variant: str) -> str:
    """The protocol as far as it concerns the runs of a method with a memory: those of equal names are one.

    A rule of SHARC changes nothing in a plain run, nor one of ER's settings in another method: it is left
    out of the name. `code` is what has all the rules that concern it.
    """
    all_rules = tuple(rule for rule in RULES if _concerns(RULES[rule], method, variant))
    return name_of(tuple(rule for rule in rules_of(protocol) if rule in all_rules), all_rules)


def _concerns(options: dict[str, dict[str, Any]], method: str, variant: str) -> bool:
    ((key, values),) = options.items()
    return {"sharc": variant == "sharc", "method_settings": method in values}.get(key, True)


def with_protocol(values: dict[str, Any], protocol: str) -> dict[str, Any]:
    """A complete grid's values with the options that a protocol sets, whatever they were."""
    values = copy.deepcopy(values)
    for rule in rules_of(protocol):
        for key, options in RULES[rule].items():
            for block in values[key] if isinstance(values[key], list) else [values[key]]:
                _merge(block, options)
    if isinstance(values["budget"], list):  # budgets that differed only in what was set are now one
        values["budget"] = [b for i, b in enumerate(values["budget"]) if b not in values["budget"][:i]]
    return values


def _merge(values: dict[str, Any], options: dict[str, Any]) -> None:
    for key, value in options.items():
        if isinstance(value, dict):
            _merge(values.setdefault(key, {}), value)
        else:
            values[key] = value


def protocol_key(protocol: str) -> tuple[int, list[int]]:
    """Sort key: the paper's first, then by the number of rules."""
    indices = [list(RULES).index(rule) for rule in rules_of(protocol)]
    return len(indices), indices
