"""Comparisons of the study `architectures`: SHARC's gain per network, between networks, its correlations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sharc_core.common.formats import DASH
from sharc_core.results.comparisons import LEVEL
from sharc_core.results.statistics import PairedTest, holm, paired_test
from sharc_core.studies.architectures.correlation import Correlation, rank_correlation
from sharc_core.studies.architectures.settings import JOINT

ALL = "all"  # the mean over data sets
MEASURES = {"zeros": "share of zeros", "channels": "channel count"}  # what the gain is correlated with
OF_MAPS = (
    "channels",
    "height",
    "width",
    "zeros",
    "stored_bytes",
    "lzma_bytes",
    "lzma_alone_bytes",
    "held_out",
)
RAISED, LOWERED, OPEN = "raised", "lowered", "not told apart"


class Setting(NamedTuple):
    """How SHARC is run."""

    theta: float
    memory: str

    @property
    def name(self) -> str:
        """Theta and the associative memory, as shown."""
        return f"theta {self.theta:g}, {self.memory}"


class Verdict(NamedTuple):
    """A value with its corrected p-value, and what that shows: raised, lowered, not told apart, or a dash."""

    p_holm: float
    word: str


@dataclass(frozen=True)
class Network:
    """The runs with a network, on a data set or in the mean over data sets (ALL).

    maps: OF_MAPS. joint, plain: ACC (S,) by seed. gains, kept: by setting, ACC with SHARC minus that of plain
    replay (S,), and the mean share of the saliency that is kept. joint_rates, plain_rates: learning rates,
    one per data set.
    """

    dataset: str
    backbone: str
    maps: dict[str, float]
    joint: np.ndarray
    plain: np.ndarray
    gains: dict[Setting, np.ndarray]
    kept: dict[Setting, float]
    joint_rates: tuple[float, ...]
    plain_rates: tuple[float, ...]

    def gain(self, setting: Setting) -> PairedTest:
        """Test SHARC's gain against zero, over seeds."""
        return paired_test(np.zeros_like(self.gains[setting]), self.gains[setting])

    @property
    def below_joint(self) -> PairedTest:
        """Test JOINT minus plain replay against zero, over seeds."""
        return paired_test(self.plain, self.joint)

    def saved(self, alone: bool = False) -> float:
        """Return the share of a full map's bytes that LZMA saves. alone: each map compressed by itself."""
        return 1 - self.maps["lzma_alone_bytes" if alone else "lzma_bytes"] / self.maps["stored_bytes"]


# --- networks ------------------------------------------------------------------------------------------


def networks(rows: pd.DataFrame) -> list[Network]:
    """Return every network, in the order of the rows, on each data set and in the mean over its data sets."""
    made = []
    for backbone in dict.fromkeys(rows.backbone):
        here = rows[rows.backbone == backbone]
        single = [_single(here[here.dataset == name]) for name in dict.fromkeys(here.dataset)]
        made += single + ([_mean(single)] if len(single) > 1 else [])
    return made


def shown(rows: pd.DataFrame) -> list[Network]:
    """Return the networks that are compared, each once: in the mean over data sets, or on the only one.

    They are those that were run on the same data sets. If that differs, it is the largest such group.
    """
    datasets, chosen = _compared(rows)
    wanted = ALL if len(datasets) > 1 else next(iter(datasets))
    return [n for n in networks(rows) if n.backbone in chosen and n.dataset == wanted]


def on_each(rows: pd.DataFrame) -> dict[str, list[Network]]:
    """Return the compared networks on each data set, by its name; nothing for a single data set."""
    datasets, chosen = _compared(rows)
    made = [n for n in networks(rows) if n.backbone in chosen]
    return {d: [n for n in made if n.dataset == d] for d in datasets} if len(datasets) > 1 else {}


def left_out(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Return the networks that are not compared, with the data sets on which they were run."""
    _, chosen = _compared(rows)
    return {b: list(d) for b, d in _datasets(rows).items() if b not in chosen}


def _compared(rows: pd.DataFrame) -> tuple[tuple[str, ...], list[str]]:
    """Return the data sets that most networks have in common, and these networks; of ties the first."""
    groups: dict[frozenset[str], list[str]] = {}
    by_name = _datasets(rows)
    for backbone, datasets in by_name.items():
        groups.setdefault(frozenset(datasets), []).append(backbone)
    chosen = max(groups.values(), key=len)
    return by_name[chosen[0]], chosen


def _datasets(rows: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for backbone in dict.fromkeys(rows.backbone):
        found[backbone] = tuple(dict.fromkeys(rows.dataset[rows.backbone == backbone]))
    return found


def settings_of(made: Iterable[Network]) -> list[Setting]:
    """Return the settings of SHARC that any of the networks was run with."""
    return sorted(dict.fromkeys(setting for network in made for setting in network.gains))


def _single(rows: pd.DataFrame) -> Network:
    rows = rows.sort_values("seed")
    is_joint, is_sharc = rows.method == JOINT, rows.variant == "sharc"
    joint, plain = rows[is_joint], rows[~is_joint & ~is_sharc]
    gains, kept = {}, {}
    for (theta, memory), group in rows[is_sharc].groupby(["theta", "associative_memory"]):
        setting = Setting(float(theta), str(memory))
        gains[setting] = group.acc.to_numpy() - plain.acc.to_numpy()
        kept[setting] = float(group.kept_mass.mean())
    first = rows.iloc[0]
    return Network(
        first.dataset,
        first.backbone,
        {name: float(first[name]) for name in OF_MAPS},
        joint.acc.to_numpy(),
        plain.acc.to_numpy(),
        gains,
        kept,
        (float(joint.lr.iloc[0]),),
        (float(plain.lr.iloc[0]),),
    )


def _mean(single: Sequence[Network]) -> Network:
    """Return the mean over data sets, seed by seed, of the settings that all of them have."""
    common = [setting for setting in single[0].gains if all(setting in other.gains for other in single)]
    return Network(
        ALL,
        single[0].backbone,
        {name: float(np.mean([network.maps[name] for network in single])) for name in OF_MAPS},
        np.mean([network.joint for network in single], 0),
        np.mean([network.plain for network in single], 0),
        {setting: np.mean([network.gains[setting] for network in single], 0) for setting in common},
        {setting: float(np.mean([network.kept[setting] for network in single])) for setting in common},
        tuple(rate for network in single for rate in network.joint_rates),
        tuple(rate for network in single for rate in network.plain_rates),
    )


# --- tests ---------------------------------------------------------------------------------------------


def verdicts(values: Sequence[float], p: Sequence[float]) -> list[Verdict]:
    """Return what values show whose tests belong together. p: of each, before Holm's correction."""
    made = []
    for value, corrected in zip(values, holm(p), strict=True):
        word = OPEN if corrected >= LEVEL else RAISED if value > 0 else LOWERED
        made.append(Verdict(corrected, DASH if corrected != corrected else word))
    return made


def gain_verdicts(made: Sequence[Network], setting: Setting) -> dict[str, Verdict]:
    """Return by backbone whether SHARC gains, corrected for the number of networks."""
    tests = {network.backbone: network.gain(setting) for network in made if setting in network.gains}
    found = verdicts([test.difference for test in tests.values()], [test.p_t for test in tests.values()])
    return dict(zip(tests, found, strict=True))


def joint_verdicts(made: Sequence[Network]) -> dict[str, Verdict]:
    """Return by backbone whether JOINT differs from plain replay, corrected for the number of networks."""
    tests = [network.below_joint for network in made]
    found = verdicts([test.difference for test in tests], [test.p_t for test in tests])
    return {network.backbone: verdict for network, verdict in zip(made, found, strict=True)}


class Contrast(NamedTuple):
    """SHARC's gain with one network minus that with another, paired by seed."""

    first: str
    second: str
    setting: Setting
    test: PairedTest
    verdict: Verdict


def contrasts_of(made: Sequence[Network], pairs: Iterable[Sequence[str]]) -> list[Contrast]:
    """Return each pair of networks (first, second) under each setting, as the second minus the first.

    Verdicts are corrected for the number of pairs under a setting. Pairs are left out of which one network
    is not compared.
    """
    by_name = {network.backbone: network for network in made}
    present = [(a, b) for a, b in pairs if a in by_name and b in by_name]
    found = []
    for setting in settings_of(made):
        tests = {
            (a, b): paired_test(by_name[a].gains[setting], by_name[b].gains[setting])
            for a, b in present
            if setting in by_name[a].gains and setting in by_name[b].gains
        }
        words = verdicts([test.difference for test in tests.values()], [test.p_t for test in tests.values()])
        found += [
            Contrast(a, b, setting, test, verdict)
            for ((a, b), test), verdict in zip(tests.items(), words, strict=True)
        ]
    return found


Correlations = dict[Setting, dict[str, tuple[Correlation, Verdict]]]


def correlations(made: Sequence[Network]) -> Correlations:
    """Return the rank correlation over networks of SHARC's mean gain with each of MEASURES, by setting.

    Verdicts are corrected for the number of settings and measures.
    """
    found: dict[tuple[Setting, str], Correlation] = {}
    for setting in settings_of(made):
        own = [network for network in made if setting in network.gains]
        gains = [float(network.gains[setting].mean()) for network in own]
        for name in MEASURES:
            found[setting, name] = rank_correlation([n.maps[name] for n in own], gains)
    words = verdicts([one.rho for one in found.values()], [one.p for one in found.values()])
    by_setting: Correlations = {}
    for ((setting, name), one), verdict in zip(found.items(), words, strict=True):
        by_setting.setdefault(setting, {})[name] = (one, verdict)
    return by_setting


# --- numbers -------------------------------------------------------------------------------------------


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per network and setting, on each data set and in the mean over data sets (`all`).

    joint_mean, plain_mean, gain are over seeds. The gain has its 95 % Student-t interval, its p-value after
    Holm's correction for the networks on this data set under this setting, and the verdict of that. Networks
    that are not compared have neither.
    """
    lines, odd = [], left_out(rows)
    made = [network for network in networks(rows) if network.dataset != ALL or network.backbone not in odd]
    told = {
        (dataset, setting): gain_verdicts(
            [n for n in made if n.dataset == dataset and n.backbone not in odd], setting
        )
        for dataset in dict.fromkeys(network.dataset for network in made)
        for setting in settings_of(made)
    }
    missing = Verdict(float("nan"), "not compared")
    for network in made:
        for setting in settings_of([network]):
            test = network.gain(setting)
            verdict = told[network.dataset, setting].get(network.backbone, missing)
            line: dict[str, Any] = {"dataset": network.dataset, "backbone": network.backbone, **network.maps}
            line |= {"saved": network.saved(), "saved_alone": network.saved(alone=True)}
            line |= {"joint_lr": rates_text(network.joint_rates), "plain_lr": rates_text(network.plain_rates)}
            line |= {"joint_mean": network.joint.mean(), "plain_mean": network.plain.mean()}
            line |= {**setting._asdict(), "kept_mass": network.kept[setting], "seeds": test.n}
            line |= {"gain": test.difference, "gain_low": test.low, "gain_high": test.high}
            lines.append(line | {"gain_p_holm": verdict.p_holm, "gain_verdict": verdict.word})
    return pd.DataFrame(lines)


def rates_text(rates: Sequence[float]) -> str:
    """Return learning rates, one per data set, as `0.1 / 0.03`, or `0.1` if they are equal."""
    different = len(set(rates)) > 1
    return " / ".join(f"{rate:g}" for rate in rates) if different else f"{rates[0]:g}"
