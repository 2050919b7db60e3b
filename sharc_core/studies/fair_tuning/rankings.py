"""Rankings of the study `fair_tuning`: Kendall's tau, its intervals, and pairs that are told apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pandas as pd
import scipy

from sharc_core.common.formats import natural_key
from sharc_core.results.comparisons import LEVEL, verdict
from sharc_core.results.display_names import method_key, method_name, scenario_key
from sharc_core.results.statistics import PairedTest, holm, kendall_tau, paired_test
from sharc_core.results.summary import unique
from sharc_core.studies.fair_tuning.settings import PUBLISHED, TUNED

ALL = "all"  # the mean over data sets
RESAMPLES = 2000
SPLITS = 500


@dataclass(frozen=True)
class Rankings:
    """The entrants of one backbone and scenario on one data set, or in the mean over data sets (ALL).

    entrants: (method, variant). published, tuned: ACC (N, S) by entrant and seed. cells: of the entrants on
    all data sets. kept: how many of them were best with their published settings.
    """

    dataset: str
    backbone: str
    scenario: str
    entrants: list[tuple[str, str]]
    published: np.ndarray
    tuned: np.ndarray
    cells: int
    kept: int

    @property
    def seeds(self) -> int:
        """S, the number of seeds."""
        return self.published.shape[1]

    @property
    def tau(self) -> float:
        """Kendall's tau-b between the mean ACC with published and with tuned settings."""
        return float(kendall_tau(self.published.mean(1), self.tuned.mean(1)))

    @property
    def tau_interval(self) -> tuple[float, float]:
        """The 95 % percentile bootstrap interval of tau over seeds, which all entrants share.

        It holds for the settings that were chosen. Other draws of the search, which may choose others, are
        not part of it.
        """
        if self.seeds < 2:
            return np.nan, np.nan
        drawn = np.random.default_rng(0).integers(self.seeds, size=(RESAMPLES, self.seeds))
        taus = kendall_tau(*(acc[:, drawn].mean(2).T for acc in (self.published, self.tuned)))
        low, high = np.nanpercentile(taus, [2.5, 97.5])
        return float(low), float(high)

    @property
    def tau_halves(self) -> float:
        """The mean tau between the published rankings of two disjoint halves of the seeds.

        What seeds alone change. Each half has fewer seeds than the rankings, so that it is a lower estimate.
        """
        return self._across_halves((self.published, self.published))

    @property
    def tau_across(self) -> float:
        """The mean tau between the published ranking of one half of the seeds and the tuned one of the other.

        What seeds and tuning change together: to be compared with tau_halves, as no run is in both rankings.
        `tau` is higher for shared seeds, and for entrants that kept their settings.
        """
        return self._across_halves((self.published, self.tuned), (self.tuned, self.published))

    def _across_halves(self, *pairs: tuple[np.ndarray, np.ndarray]) -> float:
        """Return the mean tau over splits. pairs: ACC (N, S) of the first and the second half of seeds."""
        half = self.seeds // 2
        if half < 1:
            return np.nan
        source = np.random.default_rng(1)
        orders = source.permuted(np.tile(np.arange(self.seeds), (SPLITS, 1)), axis=1)
        taus = []
        for pair in pairs:
            parts = zip(pair, (orders[:, :half], orders[:, half:]), strict=True)
            taus.append(kendall_tau(*(acc[:, part].mean(2).T for acc, part in parts)))
        return float(np.nanmean(taus))

    def ranks(self, source: str) -> np.ndarray:
        """Return the ranks (N,) of the entrants, 1 for the highest ACC; equal ones share the mean rank."""
        acc = self.published if source == PUBLISHED else self.tuned
        return scipy.stats.rankdata(-acc.mean(1).round(9))

    @property
    def pairs(self) -> dict[str, int]:
        """Count pairs of entrants: all, told apart by the paired interval, and reversed.

        reversed: told apart with both kinds of settings, in opposite directions. <name>_holm: the same after
        Holm's correction for the number of pairs of each ranking.
        """
        count = len(self.entrants)
        pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
        signs, corrected = {}, {}
        for source, acc in ((PUBLISHED, self.published), (TUNED, self.tuned)):
            tests = [paired_test(acc[a], acc[b]) for a, b in pairs]
            directions = np.sign([test.difference for test in tests])
            told = [verdict(test.low, test.high) in ("raised", "lowered") for test in tests]
            signs[source] = directions * told
            corrected[source] = directions * (np.array(holm([test.p_t for test in tests])) < LEVEL)
        counts = {"all": len(pairs)}
        for suffix, found in (("", signs), ("_holm", corrected)):
            counts |= {f"{source}{suffix}": int(np.abs(found[source]).sum()) for source in found}
            counts[f"reversed{suffix}"] = int((found[PUBLISHED] * found[TUNED] < 0).sum())
        return counts

    def gain(self, number: int) -> PairedTest:
        """Test what tuning changes for an entrant, seed by seed."""
        return paired_test(self.published[number], self.tuned[number])

    def sharc(self, source: str) -> PairedTest | None:
        """Test SHARC minus plain, in the mean over the methods that have both; None without one."""
        acc = self.published if source == PUBLISHED else self.tuned
        by_entrant = dict(zip(self.entrants, acc, strict=True))
        methods = [m for m, variant in self.entrants if variant == "sharc" and (m, "plain") in by_entrant]
        if not methods:
            return None
        means = [
            np.mean([by_entrant[method, variant] for method in methods], 0) for variant in ("plain", "sharc")
        ]
        return paired_test(*means)


def rankings(rows: pd.DataFrame) -> list[Rankings]:
    """Return the rankings of every scenario, backbone and data set, and of the mean over data sets."""
    made = []
    for scenario in unique(rows.scenario, scenario_key):
        for backbone in unique(rows.backbone, natural_key):
            here = rows[(rows.scenario == scenario) & (rows.backbone == backbone)]
            single = [_ranking(here[here.dataset == name], name) for name in dict.fromkeys(here.dataset)]
            made += single
            if len(single) > 1:
                made.append(_mean(single))
    return made


def _ranking(rows: pd.DataFrame, dataset: str) -> Rankings:
    table = rows.pivot_table(index=["method", "variant"], columns=["source", "seed"], values="acc")
    entrants = sorted(table.index, key=lambda entrant: (method_key(entrant[0]), entrant[1]))
    published, tuned = (table[source].dropna(axis=1).loc[entrants] for source in (PUBLISHED, TUNED))
    seeds = sorted(set(published.columns) & set(tuned.columns))
    chosen = rows.pivot_table(
        index=["method", "variant"], columns="source", values="settings", aggfunc="first"
    ).loc[entrants]
    kept = int((chosen[PUBLISHED] == chosen[TUNED]).sum())
    place = rows.backbone.iloc[0], rows.scenario.iloc[0]
    arrays = published[seeds].to_numpy(), tuned[seeds].to_numpy()
    return Rankings(dataset, *place, entrants, *arrays, len(entrants), kept)


def _mean(single: Sequence[Rankings]) -> Rankings:
    """Return the rankings of the mean over data sets, of the entrants that all of them have."""
    first = single[0]
    common = [entrant for entrant in first.entrants if all(entrant in other.entrants for other in single)]
    means: list[np.ndarray] = []
    for source in (PUBLISHED, TUNED):
        chosen = [getattr(r, source)[[r.entrants.index(e) for e in common]] for r in single]
        seeds = min(acc.shape[1] for acc in chosen)
        means.append(np.mean([acc[:, :seeds] for acc in chosen], 0))
    cells, kept = sum(r.cells for r in single), sum(r.kept for r in single)
    return Rankings(ALL, first.backbone, first.scenario, common, means[0], means[1], cells, kept)


def entrant_name(entrant: tuple[str, str]) -> str:
    """Return the display name of an entrant, with a plus sign for SHARC."""
    method, variant = entrant
    return f"{method_name(method)}{'+' if variant == 'sharc' else ''}"


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per entrant and ranking, with the ranking's tau and pairs in each line.

    validation_acc, settings: of the tuned ones, on a single data set only. change: tuned minus published ACC,
    paired by seed, with its 95 % Student-t interval and verdict.
    """
    lines = []
    for ranking in rankings(rows):
        published, tuned = ranking.ranks(PUBLISHED), ranking.ranks(TUNED)
        low, high = ranking.tau_interval
        pairs = {f"pairs_{name}": value for name, value in ranking.pairs.items()}
        shared = {"tau": ranking.tau, "tau_low": low, "tau_high": high}
        shared |= {"tau_halves": ranking.tau_halves, "tau_across": ranking.tau_across}
        shared |= {"cells": ranking.cells, "kept": ranking.kept}
        for number, (method, variant) in enumerate(ranking.entrants):
            test = ranking.gain(number)
            line = {name: getattr(ranking, name) for name in ("scenario", "dataset", "backbone")}
            line |= {"method": method, "variant": variant, "seeds": ranking.seeds}
            line |= {
                "acc_published": ranking.published[number].mean(),
                "acc_tuned": ranking.tuned[number].mean(),
                "rank_published": published[number],
                "rank_tuned": tuned[number],
                "change": test.difference,
                "change_low": test.low,
                "change_high": test.high,
                "verdict": verdict(test.low, test.high),
            }
            lines.append(line | _tuning_of(rows, line) | shared | pairs)
    return pd.DataFrame(lines)


def _tuning_of(rows: pd.DataFrame, line: dict) -> dict:
    """Return how an entrant was tuned: settings and their validation ACC, trials, trials that failed."""
    own = rows[rows.source == TUNED]
    for name in ("scenario", "backbone", "method", "variant"):
        own = own[own[name] == line[name]]
    if line["dataset"] != ALL:
        own = own[own.dataset == line["dataset"]]
    cells = own.drop_duplicates("dataset")
    is_single = len(cells) == 1
    return {
        "settings": cells.settings.iloc[0] if is_single else "",
        "validation_acc": fmean(cells.validation_acc),
        "trials": int(cells.trials.max()),
        "failed": int(cells.failed.sum()),
    }
