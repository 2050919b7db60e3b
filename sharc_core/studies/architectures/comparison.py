"""Comparisons of the study `architectures`: SHARC's gain per network, and what it goes with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sharc_core.common.formats import natural_key
from sharc_core.results.comparisons import verdict
from sharc_core.results.statistics import PairedTest, paired_test
from sharc_core.results.summary import unique
from sharc_core.studies.architectures.correlation import Correlation, rank_correlation
from sharc_core.studies.architectures.settings import JOINT

ALL = "all"  # the mean over data sets
MEASURES = {"zeros": "share of zeros", "channels": "channel count"}  # what the gain is correlated with
OF_MAPS = ("channels", "height", "width", "zeros", "stored_bytes", "lzma_bytes", "held_out")


class Setting(NamedTuple):
    """How SHARC is run."""

    theta: float
    memory: str

    @property
    def name(self) -> str:
        """Theta and the associative memory, as shown."""
        return f"theta {self.theta:g}, {self.memory}"


@dataclass(frozen=True)
class Network:
    """The runs with a network, on a data set or in the mean over data sets (ALL).

    maps: OF_MAPS. joint, plain: ACC (S,) by seed. gains, kept: by setting, ACC with SHARC minus that of plain
    replay (S,), and the mean share of the saliency that is kept.
    """

    dataset: str
    backbone: str
    maps: dict[str, float]
    joint: np.ndarray
    plain: np.ndarray
    gains: dict[Setting, np.ndarray]
    kept: dict[Setting, float]

    def gain(self, setting: Setting) -> PairedTest:
        """Test SHARC's gain against zero, over seeds."""
        return paired_test(np.zeros_like(self.gains[setting]), self.gains[setting])

    @property
    def saved(self) -> float:
        """The share of a full map's bytes that lossless compression saves."""
        return 1 - self.maps["lzma_bytes"] / self.maps["stored_bytes"]


def networks(rows: pd.DataFrame) -> list[Network]:
    """Return every network on each data set, and in the mean over data sets."""
    made = []
    for backbone in unique(rows.backbone, natural_key):
        here = rows[rows.backbone == backbone]
        single = [_single(here[here.dataset == name]) for name in dict.fromkeys(here.dataset)]
        made += single + ([_mean(single)] if len(single) > 1 else [])
    return made


def shown(rows: pd.DataFrame) -> list[Network]:
    """Return each network once: in the mean over data sets, or on its only data set."""
    made = networks(rows)
    averaged = {network.backbone for network in made if network.dataset == ALL}
    return [n for n in made if n.dataset == ALL or n.backbone not in averaged]


def settings_of(made: Sequence[Network]) -> list[Setting]:
    """Return the settings of SHARC that any of the networks was run with."""
    return sorted(dict.fromkeys(setting for network in made for setting in network.gains))


def _single(rows: pd.DataFrame) -> Network:
    rows = rows.sort_values("seed")
    is_joint, is_sharc = rows.method == JOINT, rows.variant == "sharc"
    plain = rows[~is_joint & ~is_sharc].acc.to_numpy()
    gains, kept = {}, {}
    for (theta, memory), group in rows[is_sharc].groupby(["theta", "associative_memory"]):
        setting = Setting(float(theta), str(memory))
        gains[setting], kept[setting] = group.acc.to_numpy() - plain, float(group.kept_mass.mean())
    first = rows.iloc[0]
    maps = {name: float(first[name]) for name in OF_MAPS}
    joint = rows[is_joint].acc.to_numpy()
    return Network(first.dataset, first.backbone, maps, joint, plain, gains, kept)


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
    )


def correlations(made: Sequence[Network], setting: Setting) -> dict[str, Correlation]:
    """Return the rank correlation over networks of SHARC's mean gain with each of MEASURES."""
    own = [network for network in made if setting in network.gains]
    gains = [float(network.gains[setting].mean()) for network in own]
    return {name: rank_correlation([n.maps[name] for n in own], gains) for name in MEASURES}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per network and setting, on each data set and in the mean over data sets (`all`).

    joint_mean, plain_mean, gain are over seeds; the gain has its 95 % Student-t interval and its verdict.
    """
    lines = []
    for network in networks(rows):
        for setting in settings_of([network]):
            test = network.gain(setting)
            line: dict[str, Any] = {"dataset": network.dataset, "backbone": network.backbone, **network.maps}
            line |= {"saved": network.saved, "joint_mean": network.joint.mean()}
            line |= {"plain_mean": network.plain.mean(), **setting._asdict()}
            line |= {"kept_mass": network.kept[setting], "seeds": test.n}
            line |= {"gain": test.difference, "gain_low": test.low, "gain_high": test.high}
            lines.append(line | {"gain_verdict": verdict(test.low, test.high)})
    return pd.DataFrame(lines)
