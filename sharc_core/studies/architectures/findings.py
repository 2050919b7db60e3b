"""Sentences of the study `architectures`."""

from collections.abc import Iterable, Sequence

import pandas as pd

from sharc_core.common.formats import DASH, number_text
from sharc_core.results.comparisons import LEVEL
from sharc_core.results.statistics import PairedTest
from sharc_core.results.table_formats import interval_text
from sharc_core.studies.architectures.comparison import (
    ALL,
    LOWERED,
    MEASURES,
    OPEN,
    RAISED,
    Network,
    Setting,
    Verdict,
    contrasts_of,
    correlations,
    gain_verdicts,
    joint_verdicts,
    left_out,
    on_each,
    settings_of,
    shown,
)
from sharc_core.studies.architectures.correlation import FEWEST, Correlation, power, smallest_rho

HEADINGS = {RAISED: "above zero", LOWERED: "below zero", OPEN: "not told apart from zero"}


def architecture_findings(rows: pd.DataFrame, pairs: Sequence[Sequence[str]] = ()) -> list[str]:
    """Return with which networks SHARC gains, what the gain goes with, and what compression saves.

    pairs: see ArchitecturesSettings.contrasts. Told apart is p < 0.05 after Holm's correction; the tables
    state for how many tests.
    """
    made = shown(rows)
    where = f"Class-IL, {averaged(made, lower=True)}"
    sentences = [
        f"{where}, {setting.name}, SHARC minus plain replay at equal floats: {_gains(made, setting)}."
        for setting in settings_of(made)
    ]
    sentences += _disagreements(rows)
    for setting in settings_of(made):
        own = [c for c in contrasts_of(made, pairs) if c.setting == setting]
        if own:
            listed = _listed((f"{c.second} minus {c.first}", c.test, c.verdict) for c in own)
            sentences.append(f"{setting.name}, SHARC's gain with one network minus another's: {listed}.")
    sentences += _correlated(made)
    told = joint_verdicts(made)
    listed = _listed((n.backbone, n.below_joint, told[n.backbone]) for n in made)
    sentences.append(f"JOINT minus plain replay: {listed}.")
    sentences += [_saved(made, False), _saved(made, True)]
    sentences.append(
        f"Told apart is p < {LEVEL} after Holm's correction for the number of networks, or of contrasts or "
        "correlations. Intervals are not corrected."
    )
    sentences += [
        f"{backbone} is not compared: it was run on {', '.join(datasets)} alone."
        for backbone, datasets in left_out(rows).items()
    ]
    return sentences


def averaged(made: Sequence[Network], lower: bool = False) -> str:
    """Return what the compared networks are on. lower: as part of a sentence."""
    if made[0].dataset == ALL:
        return "mean over data sets" if lower else "Mean over data sets"
    return f"on {made[0].dataset}" if lower else f"On {made[0].dataset}"


def difference_text(test: PairedTest) -> str:
    """Return a difference with its interval, if there is one."""
    interval = interval_text(test.low, test.high)
    text = number_text(test.difference, signed=True)
    return text if interval == DASH else f"{text} {interval}"


def rho_text(found: Correlation) -> str:
    """Return a correlation with its interval, if there is one."""
    interval = interval_text(found.low, found.high)
    text = number_text(found.rho, signed=True)
    return text if interval == DASH else f"{text} {interval}"


def told_apart(verdict: Verdict) -> bool:
    """Return whether a value is told apart from zero."""
    return verdict.word in (RAISED, LOWERED)


def power_text(n: int) -> str:
    """Return which correlations n networks can show, as a sentence and a space; empty for too few."""
    if n < FEWEST:
        return ""
    return (
        f"Over {n} networks a single test needs |rho| >= {smallest_rho(n):.2f}; it finds a true correlation "
        f"of 0.5 in {100 * power(n, 0.5):.0f} % of the cases and one of 0.8 in {100 * power(n, 0.8):.0f} %. "
    )


# --- parts of sentences --------------------------------------------------------------------------------


def _gains(made: Sequence[Network], setting: Setting) -> str:
    told = gain_verdicts(made, setting)
    return _listed((n.backbone, n.gain(setting), told[n.backbone]) for n in made if setting in n.gains)


def _listed(found: Iterable[tuple[str, PairedTest, Verdict]]) -> str:
    """Return names and differences by verdict, the largest first."""
    by_word: dict[str, list[tuple[float, str]]] = {word: [] for word in (*HEADINGS, DASH)}
    for name, test, verdict in found:
        by_word[verdict.word].append((test.difference, f"{name} {difference_text(test)}"))
    parts = []
    for word, texts in by_word.items():
        if texts:
            listed = ", ".join(text for _, text in sorted(texts, reverse=True))
            parts.append(f"{HEADINGS.get(word, 'without an interval')} with {listed}")
    return "; ".join(parts)


def _disagreements(rows: pd.DataFrame) -> list[str]:
    """Name the networks whose verdicts differ between data sets, by setting."""
    places, sentences = on_each(rows), []
    for setting in settings_of(network for made in places.values() for network in made):
        told = {name: gain_verdicts(made, setting) for name, made in places.items()}
        groups: dict[str, list[str]] = {}
        for backbone in next(iter(told.values())):
            words = {name: there[backbone].word for name, there in told.items()}
            if len(set(words.values())) > 1:
                text = ", ".join(f"{HEADINGS.get(word, DASH)} on {name}" for name, word in words.items())
                groups.setdefault(text, []).append(backbone)
        if groups:
            parts = [f"{text} with {', '.join(backbones)}" for text, backbones in groups.items()]
            sentences.append(f"{setting.name}, the verdict differs between data sets: {'; '.join(parts)}.")
    return sentences


def _correlated(made: Sequence[Network]) -> list[str]:
    """State how the gain goes with zeros and channels over networks, or that so few cannot tell."""
    sentences = []
    for setting, found in correlations(made).items():
        count = max(one.n for one, _ in found.values())
        start = f"{setting.name}: over {count} networks"
        if count < FEWEST:
            sentences.append(f"{start} the gain cannot be correlated; it takes at least {FEWEST}.")
            continue
        parts = []
        for name, (one, verdict) in found.items():
            if verdict.word == DASH:
                parts.append(
                    f"with the {MEASURES[name]} it does not exist, because one of them does not vary"
                )
                continue
            known = "" if told_apart(verdict) else "not "
            parts.append(f"with the {MEASURES[name]} it is {rho_text(one)}, {known}told apart from zero")
        sentences.append(f"{start}, rank correlation of the gain: {'; '.join(parts)}.")
    sentences += [power_text(len(made)).strip()] if len(made) >= FEWEST else []
    return sentences


def _saved(made: Sequence[Network], alone: bool) -> str:
    saved = sorted(made, key=lambda network: network.saved(alone))
    ends = [
        f"{100 * n.saved(alone):.0f} % ({n.backbone}, {100 * n.maps['zeros']:.0f} % zeros)"
        for n in (saved[0], saved[-1])
    ]
    how = "of each map by itself" if alone else "of all maps in one stream"
    return f"Without dropping a channel LZMA {how} saves {ends[0]} to {ends[1]}."
