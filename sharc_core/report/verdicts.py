"""The verdict of a scenario, the first sentences of the report: bytes, SHARC's gain, closed forms.

Every sentence is computed from the results. A sentence that the grid cannot support is omitted: the best
method needs two of them, SHARC's gain needs pairs, and the last sentence needs a closed form.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sharc_core.common.formats import bytes_text, number_text
from sharc_core.results.comparisons import Pair, Setup, equal_bytes, overall, setups
from sharc_core.results.equal_budgets import (
    Standing,
    is_closed_form,
    is_replay,
    limits,
    places_of,
    standings,
)
from sharc_core.results.statistics import PairedTest, paired_test
from sharc_core.results.summary import Entry
from sharc_core.results.table_formats import interval_text, round_bytes_text

INTERVALS = "Brackets: 95 % interval of the difference over the seeds, in points of ACC."
TOTAL = "total_bytes"  # unit of a budget that counts everything
MOST_LIMITS = 3  # in the sentence about equal bytes; the table has all
MOST_SETUPS = 3  # with a sentence about SHARC's gain
SAME_BYTES = 1.02  # totals that differ by at most this factor count as equal


class Verdict(NamedTuple):
    """A sentence of the verdict. lead: what it is about, in a few words."""

    lead: str
    text: str


def verdicts(entries: Sequence[Entry]) -> list[Verdict]:
    """Return the sentences of one scenario's verdict, in the order in which the report shows them.

    Brackets hold 95 % Student-t intervals over the seeds, as INTERVALS tells the reader.
    """
    with_pairs = [setup for setup in setups(entries) if setup.pairs]
    sentences = [Verdict(f"Best at equal bytes{_over(entries)}", best_at_equal_bytes(entries))]
    sentences += [Verdict("SHARC's gain", gain(setup)) for setup in with_pairs[:MOST_SETUPS]]
    if len(with_pairs) > MOST_SETUPS:
        rest = len(with_pairs) - MOST_SETUPS
        sentences.append(Verdict("SHARC's gain", f"the scorecard has {rest} more ways of running SHARC."))
    sentences.append(Verdict("Replay or closed form", replay_against_closed_form(entries)))
    return [sentence for sentence in sentences if sentence.text]


def best_at_equal_bytes(entries: Sequence[Entry]) -> str:
    """Name the best method within each of a few limits of total bytes; empty with fewer than two methods."""
    every = limits(entries)
    chosen = every if len(every) <= MOST_LIMITS else [every[0], every[len(every) // 2], every[-1]]
    parts = [f"{_best(standings(entries, limit))} within {round_bytes_text(limit)}" for limit in chosen]
    return f"{'; '.join(parts)}." if parts else ""


def _best(ranked: Sequence[Standing]) -> str:
    """Return `ER with 48.10 % (+1.20 [+0.80, +1.60] against GEM)`."""
    first, second = ranked[:2]
    test, name = first.minus(second), second.series.name
    lead = f"{_effect(test)} against {name}"
    if _holds_zero(test):
        lead = f"not told apart from {name}, {_effect(test)}"
    return f"{first.series.name} with {number_text(first.acc)} % ({lead})"


def _effect(test: PairedTest) -> str:
    """Return `+1.20 [+0.80, +1.60]`, or the difference alone where one seed gives no interval."""
    text = number_text(test.difference, signed=True)
    return f"{text} (one seed)" if test.low != test.low else f"{text} {interval_text(test.low, test.high)}"


def _holds_zero(test: PairedTest) -> bool:
    return test.low <= 0 <= test.high


def _over(entries: Sequence[Entry]) -> str:
    """Return what a mean is taken over, where there are several places."""
    places = places_of([e for e in entries if not e.is_joint])
    if len(places) < 2:
        return ""
    datasets = len({dataset for dataset, _ in places})
    text = f"{datasets} data sets" if datasets == len(places) else f"{len(places)} data sets and backbones"
    return f" (mean over {text})"


# --- SHARC's gain --------------------------------------------------------------------------------------


def gain(setup: Setup) -> str:
    """State SHARC's gain at the same buffer, and against a plain run of the same method and as many bytes.

    At the same buffer the associative memory costs nothing, unless the budget is charged for it. With its
    bytes counted, SHARC is compared with the best plain run that keeps no more bytes. Pairs for which the
    grid has no plain run between the bytes of the two are left out of that comparison.
    """
    parts = []
    free = [pair for pair in setup.pairs if not _is_charged(pair)]
    if free:
        parts.append(f"{_mean_effect(free)} at the same buffer, where its associative memory is not counted")
    counted = counted_pairs(setup)
    if counted:
        words = "against plain runs of the same method with no more bytes, its associative memory counted"
        if len(counted) < len(setup.pairs):
            words += f" ({len(counted)} of {len(setup.pairs)} pairs have such a run)"
        parts.append(f"{_mean_effect(counted)} {words}")
    else:
        parts.append("no plain run of the same method has as many bytes as SHARC with its associative memory")
    text = f"{'; '.join(parts)}."
    return f"{setup.label}: {text}" if setup.label else text


def counted_pairs(setup: Setup) -> list[Pair]:
    """Return SHARC against the best plain run of the same method that keeps no more bytes in total.

    A pair counts if its budget is charged for the associative memory, if SHARC keeps as many bytes as the
    plain run at the same buffer, or if a plain run with more bytes than that fits. Where the buffer is a
    total of bytes that includes the associative memory, the pair at the same buffer is the comparison, as
    neither run may exceed it.
    """
    cases = {id(case.sharc): case.same_method for case in equal_bytes(setup.entries)}
    result = []
    for pair in setup.pairs:
        if pair.sharc.budget_unit == TOTAL and _is_charged(pair):
            result.append(pair)
            continue
        best = cases[id(pair.sharc)]
        if best is None:
            continue
        fits = any(
            e.method == pair.sharc.method
            and not e.is_sharc
            and (e.dataset, e.backbone) == (pair.sharc.dataset, pair.sharc.backbone)
            and pair.plain.total_bytes < e.total_bytes <= pair.sharc.total_bytes
            for e in setup.entries
        )
        is_equal = pair.sharc.total_bytes <= SAME_BYTES * pair.plain.total_bytes
        common = [seed for seed in pair.sharc.seeds if seed in best.acc_by_seed]
        if common and (fits or is_equal or _is_charged(pair)):
            plain, sharc = best.acc_by_seed, pair.sharc.acc_by_seed
            test = paired_test([plain[seed] for seed in common], [sharc[seed] for seed in common])
            result.append(Pair(best, pair.sharc, test))
    return result


def _is_charged(pair: Pair) -> bool:
    """Return whether the budget of a pair counts the associative memory."""
    return pair.sharc.count_associative_memory


def _mean_effect(pairs: Sequence[Pair]) -> str:
    """Return the mean difference over all pairs, as in the scorecard, with its interval over the seeds."""
    (effect,) = overall(pairs)
    text = _effect(effect.over_seeds)
    return f"not told apart from zero, {text}," if _holds_zero(effect.over_seeds) else text


# --- replay and closed forms -----------------------------------------------------------------------------


def replay_against_closed_form(entries: Sequence[Entry]) -> str:
    """Compare the best replay method with the best closed form, at any bytes; empty where one is missing."""
    ranked = standings(entries)
    replay = next((s for s in ranked if is_replay(s.series.method)), None)
    closed = next((s for s in ranked if is_closed_form(s.series.method)), None)
    if replay is None or closed is None:
        return ""
    test = replay.minus(closed)
    words = "is above" if test.difference > 0 else "is below"
    if _holds_zero(test):
        words = "is not told apart from"
    return (
        f"the best replay method, {_with_bytes(replay)}, {words} the best closed form, "
        f"{_with_bytes(closed)}: {_effect(test)}."
    )


def _with_bytes(standing: Standing) -> str:
    return f"{standing.series.name} ({number_text(standing.acc)} %, {bytes_text(standing.total_bytes)})"
