"""Protocols: the paper's rules, and those in which its published code and mammoth depart from them.

Each rule is an override of ordinary options (docs/config.md), so a protocol can do nothing that a grid
file cannot: `paper` leaves the grid's options as they are, `code` and `mammoth` set the rules of theirs, and
`paper+read+forget` sets those that it names. Rule by rule, with the test that holds each: docs/fidelity.md.
"""

import copy
from typing import Any

from sharc_core.common.errors import UserError
from sharc_core.common.registry import nearest

PAPER, CODE, MAMMOTH = "paper", "code", "mammoth"
# The backbone's rule. Alone among the rules it is none of a cell's own: a drifting backbone is another one,
# with a name of its own. `code` leaves the backbone as the grid has it; `code+batch_norm` is all of the code.
BATCH_NORM = "batch_norm"
# What the rules set, by the keys of a grid file, in the order in which names list them.
RULES: dict[str, dict[str, dict[str, Any]]] = {
    "importance": {"sharc": {"importance": "positive"}},
    "budget": {"budget": {"unit": "nonzero", "count_associative_memory": False}},
    "batches": {"memory": {"selection": "batches"}},
    "saliency_at": {"sharc": {"saliency_at": "visit"}},
    "logits_at": {"method_settings": {"derpp": {"logits_at": "visit"}, "der": {"logits_at": "visit"}}},
    "read": {"sharc": {"read": "at_store"}},
    "read_batch": {"sharc": {"read": "per_batch"}},
    "forget": {"sharc": {"forget": {"every": 1, "unit": "batch", "beta": 0.1}}},
    "complete": {"sharc": {"complete": "last_batches"}},
    "replay": {"method_settings": {"er": {"replay": "whole"}}},
    "ridge": {"method_settings": {"gem": {"ridge": 0.001}}},
    "evaluated": {"method_settings": {"clser": {"evaluated": "net"}}},
    "mean": {
        "method_settings": {
            "er": {"replay": "minibatch", "mean": "joint"},
            "mer": {"inner": "batch", "mean": "joint"},
        }
    },
    "reservoir": {"memory": {"selection": "reservoir"}},
    BATCH_NORM: {"backbone": {"batch_norm": "drifting"}},
}
PRESETS: dict[str, tuple[str, ...]] = {
    PAPER: (),
    CODE: tuple(rule for rule in RULES if rule not in ("read", "mean", "reservoir", BATCH_NORM)),
    MAMMOTH: ("saliency_at", "logits_at", "ridge", "mean", "reservoir"),
}
EXCLUSIVE = (("batches", "reservoir"), ("read", "read_batch"), ("replay", "mean"))


def rules_of(protocol: str) -> tuple[str, ...]:
    """The rules that a protocol switches on, in the order of RULES. Raises UserError for no protocol."""
    if protocol in PRESETS:
        return PRESETS[protocol]
    first, *named = protocol.split("+")
    if first in (CODE, MAMMOTH) and named == [BATCH_NORM]:
        return (*PRESETS[first], BATCH_NORM)
    if first != PAPER:
        raise UserError(
            f"unknown protocol {protocol!r}{nearest(protocol, list(PRESETS))}; valid: {', '.join(PRESETS)}, "
            f"or {PAPER}+<rule> with {', '.join(RULES)} (several: {PAPER}+read+forget); to {CODE} and "
            f"{MAMMOTH} only +{BATCH_NORM} can be added"
        )
    for rule in named:
        if rule not in RULES:
            raise UserError(
                f"unknown rule {rule!r}{nearest(rule, list(RULES))} in protocol {protocol!r}; valid: "
                f"{', '.join(RULES)}"
            )
        if named.count(rule) > 1:
            raise UserError(f"protocol {protocol!r} names the rule {rule!r} twice: remove one")
    for one, other in EXCLUSIVE:
        if one in named and other in named:
            raise UserError(f"protocol {protocol!r}: the rules {one!r} and {other!r} exclude each other")
    return tuple(rule for rule in RULES if rule in named)


def name_of(rules: tuple[str, ...], among: tuple[str, ...] = tuple(RULES)) -> str:
    """The one name of a set of rules, in which only rules `among` count.

    `paper` for none; `code` or `mammoth` for two or more that are all of that preset's, with `+batch_norm`
    where that is on too; else the rules.
    """
    rules = tuple(rule for rule in RULES if rule in rules and rule in among)
    if BATCH_NORM in rules:
        rest = name_of(tuple(rule for rule in rules if rule != BATCH_NORM), among)
        return f"{rest}+{BATCH_NORM}"
    for preset, all_rules in PRESETS.items():
        if len(rules) != 1 and set(rules) == set(all_rules) & set(among):
            return preset
    return "+".join([PAPER, *rules])


def concerning(protocol: str, method: str, variant: str) -> str:
    """The protocol as far as it concerns the runs of a method with a memory: those of equal names are one.

    A rule of SHARC changes nothing in a plain run, nor one of ER's settings in another method: it is left
    out of the name, as is the backbone's, which the backbone's own name tells. `code` is what has all of the
    code's rules that concern it, if they are several.
    """
    return name_of(
        rules_of(protocol), tuple(rule for rule in RULES if _concerns(RULES[rule], method, variant))
    )


def _concerns(options: dict[str, dict[str, Any]], method: str, variant: str) -> bool:
    from sharc_core.methods import traits  # runs.csv is written without torch

    ((key, values),) = options.items()
    return {
        "backbone": False,
        "sharc": variant == "sharc",
        "method_settings": method in values,
        "memory": values.get("selection") != "reservoir" or not traits(method).fills_at_task_end,
    }.get(key, True)


def with_protocol(values: dict[str, Any], protocol: str) -> dict[str, Any]:
    """A complete grid's values with the options that a protocol sets, whatever they were."""
    values = copy.deepcopy(values)
    for rule in rules_of(protocol):
        for key, options in RULES[rule].items():
            for block in values[key] if isinstance(values[key], list) else [values[key]]:
                _merge(block, options)
    for key in ("budget", "backbone"):  # those that differed only in what was set are now one
        if isinstance(values[key], list):
            values[key] = [b for i, b in enumerate(values[key]) if b not in values[key][:i]]
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
