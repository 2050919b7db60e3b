"""Comparisons of the study `equal_compute`: with the plain reference, and of SHARC with plain replay."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharc_core.common.formats import natural_key
from sharc_core.results.comparisons import verdict
from sharc_core.results.display_names import method_key, method_name, scenario_key
from sharc_core.results.statistics import PairedTest, paired_test
from sharc_core.results.summary import unique
from sharc_core.studies.equal_compute.settings import BUDGETS, ONE_STEP, SAMPLES, SECONDS

ALL = "all"  # the mean over data sets
Entrant = tuple[str, str]  # method and variant


@dataclass(frozen=True)
class Comparison:
    """All entrants of a scenario and backbone under one kind of compute, on a data set or in the mean (ALL).

    accs: by entrant, ACC (S,) by seed. costs: by entrant, steps_per_batch, gradient_samples, seconds and
    train_flops. ratios: by entrant, the compute used over the target, on every data set; empty without one.
    """

    scenario: str
    dataset: str
    backbone: str
    compute: str
    accs: dict[Entrant, np.ndarray]
    costs: dict[Entrant, dict[str, float]]
    ratios: dict[Entrant, list[float]]

    @property
    def place(self) -> tuple[str, str, str]:
        """Scenario, data set and backbone."""
        return self.scenario, self.dataset, self.backbone

    def over(self, entrant: Entrant, other: Entrant) -> PairedTest | None:
        """Test the ACC of an entrant minus another's, seed by seed; None if one of them is missing."""
        if entrant not in self.accs or other not in self.accs:
            return None
        return paired_test(self.accs[other], self.accs[entrant])

    def change(self, entrant: Entrant, other: Entrant, before: "Comparison") -> PairedTest | None:
        """Test how `over` changed since `before`, seed by seed; None if an entrant is missing.

        before: the comparison on the same data under another kind of compute.
        """
        if any(name not in made.accs for name in (entrant, other) for made in (self, before)):
            return None
        return paired_test(*(made.accs[entrant] - made.accs[other] for made in (before, self)))

    def sharc(self) -> PairedTest | None:
        """Test SHARC minus plain, in the mean over the methods that have both; None without one."""
        methods = [m for m, variant in self.accs if variant == "sharc" and (m, "plain") in self.accs]
        if not methods:
            return None
        plain, sharc = (np.mean([self.accs[m, v] for m in methods], 0) for v in ("plain", "sharc"))
        return paired_test(plain, sharc)

    def range_of(self) -> tuple[float, float]:
        """Return the smallest and largest compute used over the target; NaN without a target."""
        values = [ratio for ratios in self.ratios.values() for ratio in ratios]
        return (min(values), max(values)) if values else (np.nan, np.nan)


def comparisons(rows: pd.DataFrame) -> list[Comparison]:
    """Return the comparisons of every scenario, backbone, kind of compute and data set, and of their mean."""
    made = []
    for scenario in unique(rows.scenario, scenario_key):
        for backbone in unique(rows.backbone, natural_key):
            for compute in BUDGETS:
                here = rows[(rows.scenario == scenario) & (rows.backbone == backbone)]
                here = here[here["compute"] == compute]
                if len(here):
                    single = [_single(here[here.dataset == name]) for name in dict.fromkeys(here.dataset)]
                    made += single + ([_mean(single)] if len(single) > 1 else [])
    return made


def shown(rows: pd.DataFrame) -> list[Comparison]:
    """Return the comparisons of the mean over data sets, or of the only data set."""
    made = comparisons(rows)
    averaged = {(c.scenario, c.backbone) for c in made if c.dataset == ALL}
    return [c for c in made if c.dataset == ALL or (c.scenario, c.backbone) not in averaged]


def _single(rows: pd.DataFrame) -> Comparison:
    first = rows.iloc[0]
    groups = {
        (str(method), str(variant)): group.sort_values("seed")
        for (method, variant), group in rows.groupby(["method", "variant"])
    }
    entrants = sorted(groups, key=lambda entrant: (method_key(entrant[0]), entrant[1]))
    names = ["steps_per_batch", "gradient_samples", "seconds", "train_flops"]
    used = {SAMPLES: "gradient_samples", SECONDS: "seconds"}.get(first["compute"])
    return Comparison(
        first.scenario,
        first.dataset,
        first.backbone,
        first["compute"],
        {entrant: groups[entrant].acc.to_numpy() for entrant in entrants},
        {e: {name: float(groups[e][name].iloc[0]) for name in names} for e in entrants},
        {} if used is None else {e: [float((groups[e][used] / groups[e].target).iloc[0])] for e in entrants},
    )


def _mean(single: Sequence[Comparison]) -> Comparison:
    """Return the mean over data sets, of the entrants that all of them have."""
    first = single[0]
    common = [e for e in first.accs if all(e in other.accs for other in single)]
    return Comparison(
        first.scenario,
        ALL,
        first.backbone,
        first.compute,
        {e: np.mean([c.accs[e] for c in single], 0) for e in common},
        {e: {k: float(np.mean([c.costs[e][k] for c in single])) for k in first.costs[e]} for e in common},
        {e: [ratio for c in single for ratio in c.ratios[e]] for e in common} if first.ratios else {},
    )


def entrant_name(entrant: Entrant) -> str:
    """Return the display name of an entrant, with a plus sign for SHARC."""
    method, variant = entrant
    return f"{method_name(method)}{'+' if variant == 'sharc' else ''}"


def summary(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return a line per comparison and entrant.

    ratio_low, ratio_high: compute used over the target, over data sets. over_reference, over_plain:
    differences of ACC from the plain reference and from the same method without SHARC, paired by seed, with
    95 % Student-t intervals and verdicts. change: of over_reference since one step per minibatch.
    """
    lines = []
    all_made = comparisons(rows)
    single = {made.place: made for made in all_made if made.compute == ONE_STEP}
    for made in all_made:
        for entrant, accs in made.accs.items():
            line = {name: getattr(made, name) for name in ("scenario", "dataset", "backbone", "compute")}
            line |= {"method": entrant[0], "variant": entrant[1], "seeds": len(accs)}
            line |= {"acc_mean": accs.mean(), "acc_std": accs.std(ddof=1) if len(accs) > 1 else np.nan}
            ratios = made.ratios.get(entrant, [np.nan])
            line |= {**made.costs[entrant], "ratio_low": min(ratios), "ratio_high": max(ratios)}
            for name, other in (("reference", (reference, "plain")), ("plain", (entrant[0], "plain"))):
                test = None if other == entrant else made.over(entrant, other)
                line |= _columns(f"over_{name}", test)
            before, change = single.get(made.place), None
            if before is not None and before is not made and entrant != (reference, "plain"):
                change = made.change(entrant, (reference, "plain"), before)
            lines.append(line | _columns("change", change))
    return pd.DataFrame(lines)


def _columns(name: str, test: PairedTest | None) -> dict:
    if test is None:
        return {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan, f"{name}_verdict": ""}
    ends = {f"{name}_low": test.low, f"{name}_high": test.high}
    return {name: test.difference, **ends, f"{name}_verdict": verdict(test.low, test.high)}
