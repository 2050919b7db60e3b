"""Effects of protocols: how each rule of the published code, or of mammoth, changes SHARC's gain."""

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
from sharc_core.results.comparisons import Pair, paired
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.published import SOURCE, published_for, published_lookup
from sharc_core.results.statistics import PairedTest, paired_test
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
from sharc_core.results.table_formats import Item, Table, interval_text

# The axes that are equal under all protocols of a comparison, besides the network; the rules set the others.
COMMON: tuple[str, ...] = ("scenario", "dataset", "buffer", "method", "theta", "mass", "associative_memory")
COMMON += ("saliency", "budget_split", "storage")


@dataclass(frozen=True)
class Effect:
    """SHARC's gain under one protocol.

    change: the gain minus the gain under `paper`, by seed; None for `paper`. protocol: its name, with
    `batch_norm` where the backbone drifts; the plain run's name may have fewer rules.
    """

    pair: Pair
    change: PairedTest | None
    protocol: str

    @property
    def direction(self) -> int:
        """1 or -1 where the interval of the change is above or below zero, else 0."""
        assert self.change is not None
        return int(self.change.low > 0) - int(self.change.high < 0)

    @property
    def is_exactly_zero(self) -> bool:
        """Whether every seed has the same gain as under `paper`."""
        assert self.change is not None
        return self.change.difference == self.change.low == self.change.high == 0


@dataclass(frozen=True)
class Comparison:
    """A row of the grid under several protocols, `paper` first. published: the paper's gain, or NaN."""

    effects: list[Effect]
    published: float

    @property
    def base(self) -> Entry:
        """The SHARC entry under `paper`."""
        return self.effects[0].pair.sharc

    @property
    def direction_to_published(self) -> int:
        """1 or -1 where the published gain is above or below the interval under `paper`, else 0."""
        gain = self.effects[0].pair.test
        return int(self.published > gain.high) - int(self.published < gain.low)

    def under(self, protocol: str) -> Effect | None:
        """Return the effect under a protocol; None if it was not run or does not apply to the method."""
        return next((effect for effect in self.effects if effect.protocol == protocol), None)


def comparisons(entries: Sequence[Entry], published: pd.DataFrame) -> list[Comparison]:
    """Return every SHARC row that was run under `paper` and another protocol with common seeds.

    A protocol with the code's budget is compared with each budget that `paper` was run with. A drifting
    backbone, which is the rule `batch_norm`, is compared with the same network with frozen batch norm.
    """
    lookup, rows = published_lookup(published), []
    backbones = {entry.backbone for entry in entries}
    pairs = [(pair, *network_and_protocol(pair.sharc, backbones)) for pair in paired(entries)]
    for base, network, rules in pairs:
        if rules != PAPER:
            continue
        others = [
            Effect(pair, change, protocol)
            for pair, other, protocol in pairs
            if protocol != PAPER and other == network and _is_like(pair.sharc, base.sharc)
            if (change := _change(base, pair)) is not None
        ]
        if others:
            others.sort(key=lambda effect: protocol_key(effect.protocol))
            rows.append(Comparison([Effect(base, None, PAPER), *others], _published_gain(base, lookup)))
    return sorted(
        rows,
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


def _change(base: Pair, other: Pair) -> PairedTest | None:
    base_gains, other_gains = _gains(base), _gains(other)
    seeds = [seed for seed in base_gains if seed in other_gains]
    return paired_test([base_gains[s] for s in seeds], [other_gains[s] for s in seeds]) if seeds else None


def _gains(pair: Pair) -> dict[int, float]:
    """Return ACC with SHARC minus ACC without, by seed; rounded, so that equal gains differ by exactly 0."""
    plain = pair.plain.acc_by_seed
    return {
        seed: round(acc - plain[seed], 9) for seed, acc in pair.sharc.acc_by_seed.items() if seed in plain
    }


def _published_gain(pair: Pair, lookup: dict) -> float:
    sharc, plain = published_for(pair.sharc, lookup), published_for(pair.plain, lookup)
    return sharc["acc_mean"] - plain["acc_mean"] if sharc and plain else math.nan


def protocol_tables(entries: Sequence[Entry], published: pd.DataFrame) -> list[Table]:
    """Return SHARC's gain under every protocol and its change: a table per scenario, backbone and budget."""
    blocks: dict[tuple, list[Comparison]] = {}
    for comparison in comparisons(entries, published):
        base = comparison.base
        blocks.setdefault((base.scenario, base.backbone, base.budget), []).append(comparison)
    return [_table(block) for block in blocks.values()]


def _table(block: Sequence[Comparison]) -> Table:
    bases = [comparison.base for comparison in block]
    varying = varying_settings(bases)
    rows: list[list[Item]] = []
    breaks: list[int] = []
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
                    *_difference(gain),
                    *([Item(DASH)] * 2 if effect.change is None else _difference(effect.change)),
                    Item(number_text(comparison.published, signed=True), comparison.published),
                ]
            )
    header = ["Data set", "Buffer", "Model", "Protocol"]
    header += ["gain", "95 % interval", "change", "95 % interval", "published gain"]
    caption = (
        "gain: ACC with SHARC minus ACC of the plain method under the same rules, seed by seed, with its "
        "95 % Student-t interval. change: the gain minus the gain under paper, seed by seed, with its "
        "interval. The intervals are not corrected for the number of comparisons. paper+<rule>: the paper's "
        "protocol with that rule changed; code: all rules of the published code except batch_norm; mammoth: "
        "mammoth's rules. A rule that does not apply to a method has no row. published gain: "
        f"{SOURCE}, a difference of means. In the published code the batch norm of the backbone drifts while "
        "the head trains. This is the rule batch_norm, which code omits; code+batch_norm has every rule of "
        f"the code. {seeds_text(bases)}."
    )
    title = f"SHARC's gain by protocol. {block_title(bases)}"
    return Table(title, caption, [("", len(header))], header, rows, breaks, text_columns=4)


def _difference(test: PairedTest) -> list[Item]:
    return [
        Item(number_text(test.difference, signed=True), test.difference),
        Item(interval_text(test.low, test.high), test.low),
    ]


def protocol_findings(entries: Sequence[Entry], published: pd.DataFrame) -> list[str]:
    """Return sentences: what each rule alone changes over all comparisons, then every comparison.

    A rule changes the gain only if the interval of the change excludes zero. Changes are described as towards
    or away from the published gain only if that lies outside our interval under `paper`.
    """
    rows = comparisons(entries, published)
    rules = filter(None, (_rule(rule, rows) for rule in RULES))
    return [*_where_gains_exist(rows), *rules, *map(_comparison, rows)]


def _where_gains_exist(rows: Sequence[Comparison]) -> list[str]:
    """List the gains under the paper's rules only, under its published code only, and under both.

    An interval that contains zero is undecided: a gain exists "only" under one of the two if its interval is
    above zero and the other gain is shown to be smaller or negative. Single seeds, which have no interval,
    are omitted.
    """
    both = [(c, code) for c in rows if (code := c.under(CODE)) is not None]
    both = [(c, code) for c, code in both if not math.isnan(c.effects[0].pair.test.low + code.pair.test.low)]
    if not both:
        return []
    paper_signs, code_signs = [_sign(c.effects[0]) for c, _ in both], [_sign(code) for _, code in both]
    sentences = [
        f"Rows run under the paper's rules and under protocol code: {len(both)}. SHARC gains in "
        f"{paper_signs.count(1)} under the paper's (95 % interval above zero) and in {code_signs.count(1)} "
        f"under the code's, where it loses in {code_signs.count(-1)} (interval below zero). “Only” means "
        "that under the other rules no gain is shown, and the gain is shown to be smaller or a loss."
    ]
    groups: dict[str, list[str]] = {}
    for (comparison, code), paper_sign, code_sign in zip(both, paper_signs, code_signs, strict=True):
        name = _existence(paper_sign, code_sign, code.direction)
        groups.setdefault(name, []).append(_place(comparison.base))
    return [*sentences, *(f"{name}: {'; '.join(places)}." for name, places in sorted(groups.items()))]


def _existence(paper: int, code: int, direction: int) -> str:
    """Return where a gain exists, from the signs of its intervals under both and of the change."""
    if paper > 0 and code > 0:
        return "Gains under both"
    if paper > 0:
        is_only = code < 0 or direction < 0
        return f"Gains under the paper's rules{' only' if is_only else ', undecided in its code'}"
    if code > 0:
        is_only = paper < 0 or direction > 0
        return f"Gains in the paper's code{' only' if is_only else ', undecided under its rules'}"
    return "No gain shown under either"


def _sign(effect: Effect) -> int:
    """Return 1 or -1 where the interval of the gain is above or below zero, else 0 (one seed: 0)."""
    gain = effect.pair.test
    return int(gain.low > 0) - int(gain.high < 0)


def _rule(rule: str, rows: Sequence[Comparison]) -> str | None:
    """Summarise one rule alone over all comparisons that it was run in."""
    alone = name_of((rule,))
    cases = [(effect, c) for c in rows if (effect := c.under(alone)) is not None]
    if not cases:
        return None
    up = sum(effect.direction > 0 for effect, _ in cases)
    down = sum(effect.direction < 0 for effect, _ in cases)
    source = "Mammoth's" if rule in set(PRESETS[MAMMOTH]) - set(PRESETS[CODE]) else "The code's"
    text = f"{source} rule {rule!r} alone raises SHARC's gain in {up} of {len(cases)} comparisons"
    text += f" and lowers it in {down}"
    apart = [(effect, c) for effect, c in cases if c.direction_to_published]
    if apart:
        towards = sum(effect.direction == c.direction_to_published for effect, c in apart)
        text += f"; where the published gain is outside our interval, towards it in {towards} of {len(apart)}"
    return f"{text}."


def _comparison(comparison: Comparison) -> str:
    all_of_code = f"{CODE}+{BATCH_NORM}"
    presets = (comparison.effects[0], *(comparison.under(name) for name in (CODE, all_of_code, MAMMOTH)))
    gains = [_gain(effect, comparison.published) for effect in presets if effect]
    text = f"{_place(comparison.base)}: SHARC's gain is {' and '.join(gains)}"
    if not math.isnan(comparison.published):
        text += f"; published: {number_text(comparison.published, signed=True)}"
    text += "."
    alone = [effect for effect in comparison.effects[1:] if len(rules_of(effect.protocol)) == 1]
    changing = [effect for effect in alone if effect.direction]
    groups = [("Rules that change it", changing)]
    if direction := comparison.direction_to_published:
        apart = number_text(comparison.published - comparison.effects[0].pair.test.difference, signed=True)
        groups = [
            (f"Of the {apart} to the published gain", [e for e in changing if e.direction == direction]),
            ("Away from it", [e for e in changing if e.direction != direction]),
        ]
    text += "".join(
        f" {words}: {', '.join(map(_change_text, effects))}." for words, effects in groups if effects
    )
    others = [effect for effect in alone if not effect.direction]
    for words, effects in (
        ("Without any effect", [effect for effect in others if effect.is_exactly_zero]),
        ("No effect shown", [effect for effect in others if not effect.is_exactly_zero]),
    ):
        if effects:
            text += f" {words}: {', '.join(_rule_name(effect) for effect in effects)}."
    return text


def _place(base: Entry) -> str:
    """Name a comparison: model, data set, scenario, buffer, budget, SHARC's share and associative memory."""
    label = model_label(base, varying_settings([base]))
    share = f"theta {base.theta:g}" if base.mass is None else f"mass {base.mass:g}"
    row = f"{label} on {base.dataset}, {scenario_name(base.scenario)}, buffer {base.buffer}, {base.budget}"
    return f"{row}, {share}, {base.associative_memory}"


def _gain(effect: Effect, published: float) -> str:
    test = effect.pair.test
    text = f"{number_text(test.difference, signed=True)} {interval_text(test.low, test.high)}"
    if not (math.isnan(published) or math.isnan(test.low)):
        inside = test.low <= published <= test.high
        text += f" (the published gain is {'inside' if inside else 'outside'})"
    return f"{text} under {effect.protocol}"


def _change_text(effect: Effect) -> str:
    change = effect.change
    assert change is not None
    number = number_text(change.difference, signed=True)
    return f"{_rule_name(effect)} {number} {interval_text(change.low, change.high)}"


def _rule_name(effect: Effect) -> str:
    return rules_of(effect.protocol)[0]
