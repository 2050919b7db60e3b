"""How far each rule in which other code departs from the paper moves what SHARC gains."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sharc_core.common.formats import DASH, natural_key, number_text
from sharc_core.grid.protocol import (
    BATCH_NORM,
    CODE,
    MAMMOTH,
    PAPER,
    PRESETS,
    RULES,
    name_of,
    protocol_key,
    rules_of,
)
from sharc_core.learning.metrics import PairedTest, paired_test
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.pairs import Pair, interval_text, paired
from sharc_core.results.published import SOURCE, published_for, published_lookup
from sharc_core.results.summary import (
    Entry,
    block_title,
    buffer_item,
    model_label,
    network_and_protocol,
    row_key,
    seeds_text,
    varying_settings,
)
from sharc_core.results.table_formats import Item, Table

# What a comparison has in common under every protocol, the network aside; the rules set the other axes.
COMMON = ("scenario", "dataset", "buffer", "method", "theta", "mass", "associative_memory")
COMMON += ("saliency", "budget_split", "storage")


@dataclass(frozen=True)
class Effect:
    """SHARC's gain under one protocol. moved: the gain less that under `paper`, by seed; None for `paper`.

    protocol: its name, with `batch_norm` where the backbone drifts; the plain run's may be shorter.
    """

    pair: Pair
    moved: PairedTest | None
    protocol: str

    @property
    def direction(self) -> int:
        """1 or -1 where the interval of the movement lies above or below zero, else 0."""
        return int(self.moved.low > 0) - int(self.moved.high < 0)

    @property
    def is_exactly_none(self) -> bool:
        """Whether every seed gains what it gains under `paper`."""
        return self.moved.difference == self.moved.low == self.moved.high == 0


@dataclass(frozen=True)
class Comparison:
    """One row of the grid under several protocols, `paper` first. published: the paper's gain, or NaN."""

    effects: list[Effect]
    published: float

    @property
    def base(self) -> Entry:
        """The SHARC entry under `paper`."""
        return self.effects[0].pair.sharc

    @property
    def missing(self) -> int:
        """1 or -1 where the published gain lies above or below the interval under `paper`, else 0."""
        gain = self.effects[0].pair.test
        return int(self.published > gain.high) - int(self.published < gain.low)

    def under(self, protocol: str) -> Effect | None:
        """The effect under one protocol; None where it was not run, or does not concern the method."""
        return next((effect for effect in self.effects if effect.protocol == protocol), None)


def comparisons(entries: Sequence[Entry], published: pd.DataFrame) -> list[Comparison]:
    """Every SHARC row under `paper` and under at least one more protocol, with common seeds.

    A protocol with the code's budget is compared with each of the budgets that `paper` was run with; a
    drifting backbone, which is the rule `batch_norm`, with the same network in evaluation mode.
    """
    lookup, found = published_lookup(published), []
    backbones = {entry.backbone for entry in entries}
    pairs = [(pair, *network_and_protocol(pair.sharc, backbones)) for pair in paired(entries)]
    for base, network, rules in pairs:
        if rules != PAPER:
            continue
        others = [
            Effect(pair, moved, protocol)
            for pair, other, protocol in pairs
            if protocol != PAPER and other == network and _is_like(pair.sharc, base.sharc)
            if (moved := _moved(base, pair)) is not None
        ]
        if others:
            others.sort(key=lambda effect: protocol_key(effect.protocol))
            found.append(Comparison([Effect(base, None, PAPER), *others], _published_gain(base, lookup)))
    return sorted(
        found,
        key=lambda c: (
            scenario_key(c.base.scenario),
            natural_key(c.base.backbone),
            c.base.budget,
            natural_key(c.base.dataset),
            row_key(c.base),
        ),
    )


def _is_like(other: Entry, base: Entry) -> bool:
    names = COMMON
    if "budget" not in rules_of(other.protocol):
        names += ("budget_unit", "count_associative_memory")
    return all(getattr(other, name) == getattr(base, name) for name in names)


def _moved(base: Pair, other: Pair) -> PairedTest | None:
    before, after = _gains(base), _gains(other)
    seeds = [seed for seed in before if seed in after]
    return paired_test([before[s] for s in seeds], [after[s] for s in seeds]) if seeds else None


def _gains(pair: Pair) -> dict[int, float]:
    """ACC with SHARC less ACC without, by seed; rounded, so that equal gains differ by exactly nothing."""
    plain = pair.plain.acc_by_seed
    return {
        seed: round(acc - plain[seed], 9) for seed, acc in pair.sharc.acc_by_seed.items() if seed in plain
    }


def _published_gain(pair: Pair, lookup: dict) -> float:
    sharc, plain = published_for(pair.sharc, lookup), published_for(pair.plain, lookup)
    return sharc["acc_mean"] - plain["acc_mean"] if sharc and plain else math.nan


def protocol_tables(entries: Sequence[Entry], published: pd.DataFrame) -> list[Table]:
    """SHARC's gain under every protocol and how it moves: a table per scenario, backbone and budget."""
    blocks: dict[tuple, list[Comparison]] = {}
    for comparison in comparisons(entries, published):
        base = comparison.base
        blocks.setdefault((base.scenario, base.backbone, base.budget), []).append(comparison)
    return [_table(block) for block in blocks.values()]


def _table(block: Sequence[Comparison]) -> Table:
    bases = [comparison.base for comparison in block]
    varying = varying_settings(bases)
    rows, breaks = [], []
    for comparison in block:
        if rows:
            breaks.append(len(rows))
        for effect in comparison.effects:
            gain = effect.pair.test
            rows.append(
                [
                    Item(comparison.base.dataset),
                    buffer_item(comparison.base),
                    Item(model_label(comparison.base, varying)),
                    Item(effect.protocol),
                    *_change(gain),
                    *([Item(DASH)] * 2 if effect.moved is None else _change(effect.moved)),
                    Item(number_text(comparison.published, signed=True), comparison.published),
                ]
            )
    header = ["Data set", "Buffer", "Model", "Protocol"]
    header += ["gain", "95 % interval", "moved", "95 % interval", "published gain"]
    caption = (
        "gain: ACC with SHARC less ACC of the plain method under the same rules, seed by seed, with its 95 % "
        "Student-t interval. moved: the gain less that under paper, seed by seed, with its interval. The "
        "intervals are not corrected for the number of comparisons. paper+<rule>: the paper's protocol with "
        "that rule; code: the published code's rules but batch_norm; mammoth: mammoth's. A rule "
        "that does not concern "
        f"a method has no row. published gain: {SOURCE}, a difference of means. In the published code the "
        "batch norm of the backbone drifts while the head trains: that is the rule batch_norm, which code "
        f"leaves out, and code+batch_norm is all of the code. {seeds_text(bases)}."
    )
    title = f"SHARC's gain by protocol. {block_title(bases)}"
    return Table(title, caption, [("", len(header))], header, rows, breaks, text_columns=4)


def _change(test: PairedTest) -> list[Item]:
    return [
        Item(number_text(test.difference, signed=True), test.difference),
        Item(interval_text(test.low, test.high), test.low),
    ]


def protocol_findings(entries: Sequence[Entry], published: pd.DataFrame) -> list[str]:
    """Sentences: what each rule alone does over all comparisons, then each comparison by itself.

    A rule is said to move the gain only where the interval of the movement leaves zero out, and to lead to
    the published gain or away from it only where that lies outside our interval under `paper`.
    """
    found = comparisons(entries, published)
    rules = filter(None, (_rule(rule, found) for rule in RULES))
    return [*_where_gains_exist(found), *rules, *map(_comparison, found)]


def _where_gains_exist(found: Sequence[Comparison]) -> list[str]:
    """Which gains exist under the paper's text, which in its published code, and which under both.

    An interval that holds zero decides nothing: a gain is said to exist only under one of the two where it is
    shown there and the other's is shown to be smaller or a loss. Single seeds have no interval: they are left
    out.
    """
    both = [(c, code) for c in found if (code := c.under(CODE)) is not None]
    both = [(c, code) for c, code in both if not math.isnan(c.effects[0].pair.test.low + code.pair.test.low)]
    if not both:
        return []
    text, code_signs = [_sign(c.effects[0]) for c, _ in both], [_sign(code) for _, code in both]
    sentences = [
        f"Comparisons under the paper's rules and under protocol code: {len(both)}. SHARC gains in "
        f"{text.count(1)} under the paper's (95 % interval above zero) and in {code_signs.count(1)} under "
        f"the code's, where it loses in {code_signs.count(-1)} (interval below zero). A gain is said to "
        "exist only under one of the two where it is shown to be smaller under the other, and none is shown "
        "there."
    ]
    groups: dict[str, list[str]] = {}
    for (comparison, code), here, there in zip(both, text, code_signs, strict=True):
        name = _existence(here, there, code.direction)
        groups.setdefault(name, []).append(_place(comparison.base))
    return [*sentences, *(f"{name}: {'; '.join(places)}." for name, places in sorted(groups.items()))]


def _existence(text: int, code: int, direction: int) -> str:
    """Where a gain exists: the signs of its intervals under the text and the code, and of the movement."""
    if text > 0 and code > 0:
        return "Gains under both"
    if text > 0:
        only = code < 0 or direction < 0
        return (
            f"Gains that exist only under the paper's text{'' if only else ' or are undecided in its code'}"
        )
    if code > 0:
        only = text < 0 or direction > 0
        return (
            f"Gains that exist only in the paper's code{'' if only else ' or are undecided under its text'}"
        )
    return "No gain shown under either"


def _sign(effect: Effect) -> int:
    """1 or -1 where the interval of the gain lies above or below zero, else 0 (NaN: one seed)."""
    gain = effect.pair.test
    return int(gain.low > 0) - int(gain.high < 0)


def _rule(rule: str, found: Sequence[Comparison]) -> str | None:
    """One rule alone, over all comparisons that it was run in."""
    alone = name_of((rule,))
    ran = [(effect, c) for c in found if (effect := c.under(alone)) is not None]
    if not ran:
        return None
    up = sum(effect.direction > 0 for effect, _ in ran)
    down = sum(effect.direction < 0 for effect, _ in ran)
    whose = "Mammoth's" if rule in set(PRESETS[MAMMOTH]) - set(PRESETS[CODE]) else "The code's"
    text = f"{whose} rule {rule!r} alone raises SHARC's gain in {up} of {len(ran)} comparisons"
    text += f" and lowers it in {down}"
    apart = [(effect, c) for effect, c in ran if c.missing]
    if apart:
        towards = sum(effect.direction == c.missing for effect, c in apart)
        text += f"; where the published gain is outside our interval, towards it in {towards} of {len(apart)}"
    return f"{text}."


def _comparison(comparison: Comparison) -> str:
    whole = f"{CODE}+{BATCH_NORM}"
    presets = (comparison.effects[0], *(comparison.under(name) for name in (CODE, whole, MAMMOTH)))
    gains = [_gain(effect, comparison.published) for effect in presets if effect]
    text = f"{_place(comparison.base)}: SHARC's gain is {' and '.join(gains)}"
    if not math.isnan(comparison.published):
        text += f"; published: {number_text(comparison.published, signed=True)}"
    text += "."
    alone = [effect for effect in comparison.effects[1:] if len(rules_of(effect.protocol)) == 1]
    moving = [effect for effect in alone if effect.direction]
    groups = [("Moves it", moving)]
    if comparison.missing:
        apart = number_text(comparison.published - comparison.effects[0].pair.test.difference, signed=True)
        groups = [
            (
                f"Of the {apart} to the published gain",
                [e for e in moving if e.direction == comparison.missing],
            ),
            ("Away from it", [e for e in moving if e.direction != comparison.missing]),
        ]
    text += "".join(f" {words}: {', '.join(map(_movement, some))}." for words, some in groups if some)
    still = [effect for effect in alone if not effect.direction]
    for words, some in (
        ("Changes nothing", [effect for effect in still if effect.is_exactly_none]),
        ("Not told from no effect", [effect for effect in still if not effect.is_exactly_none]),
    ):
        if some:
            text += f" {words}: {', '.join(_rule_name(effect) for effect in some)}."
    return text


def _place(base: Entry) -> str:
    """A comparison by its SHARC entry: model, data set, scenario, buffer, budget, and how SHARC is set."""
    label = model_label(base, varying_settings([base]))
    how = f"theta {base.theta:g}" if base.mass is None else f"mass {base.mass:g}"
    where = f"{label} on {base.dataset}, {scenario_name(base.scenario)}, buffer {base.buffer}, {base.budget}"
    return f"{where}, {how}, {base.associative_memory}"


def _gain(effect: Effect, published: float) -> str:
    test = effect.pair.test
    text = f"{number_text(test.difference, signed=True)} {interval_text(test.low, test.high)}"
    if not (math.isnan(published) or math.isnan(test.low)):
        inside = test.low <= published <= test.high
        text += f" (the published one {'inside' if inside else 'outside'})"
    return f"{text} under {effect.protocol}"


def _movement(effect: Effect) -> str:
    moved = effect.moved
    number = number_text(moved.difference, signed=True)
    return f"{_rule_name(effect)} {number} {interval_text(moved.low, moved.high)}"


def _rule_name(effect: Effect) -> str:
    return rules_of(effect.protocol)[0]
