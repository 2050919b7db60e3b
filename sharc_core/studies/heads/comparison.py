"""Comparisons of the study `heads`: with the uncorrected head, the linear head, and plain replay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from sharc_core.common.formats import DASH, natural_key
from sharc_core.results.comparisons import LEVEL
from sharc_core.results.display_names import method_key, method_name
from sharc_core.results.statistics import PairedTest, holm, paired_test
from sharc_core.results.summary import unique
from sharc_core.studies.heads.settings import NONE

ALL = "all"  # the mean over data sets
HEAD_ORDER = ["linear", "mlp", "cosine"]
CORRECTION_ORDER = [NONE, "weight_alignment", "unclipped_alignment"]
HEADS = {"linear": "linear", "mlp": "MLP", "cosine": "cosine"}
CORRECTIONS = {NONE: "", "weight_alignment": "weight alignment", "unclipped_alignment": "unclipped alignment"}
REFERENCES = ("none", "linear", "plain")


class Case(NamedTuple):
    """What differs between the runs on a data set."""

    method: str
    variant: str
    head: str
    correction: str
    scale: float

    @property
    def name(self) -> str:
        """Head, its scale and its correction, as shown."""
        parts = [
            HEADS[self.head],
            f"scale {self.scale:g}" if self.scale else "",
            CORRECTIONS[self.correction],
        ]
        return ", ".join(filter(None, parts))

    @property
    def model(self) -> str:
        """The method, with a plus sign for SHARC."""
        return f"{method_name(self.method)}{'+' if self.variant == 'sharc' else ''}"

    def reference(self, name: str) -> "Case":
        """Return the case to compare with: the uncorrected head, the linear one, or plain replay."""
        if name == "plain":
            return self._replace(variant="plain")
        if name == "none":
            return self._replace(correction=NONE)
        return self._replace(head="linear", correction=NONE, scale=0.0)

    @property
    def order(self) -> tuple:
        """The sort key."""
        kind, correction = HEAD_ORDER.index(self.head), CORRECTION_ORDER.index(self.correction)
        return method_key(self.method), kind, correction, self.scale, self.variant


@dataclass(frozen=True)
class Comparison:
    """The runs with one backbone, on a data set or in the mean over data sets (ALL).

    accs, recencies: by case, (S,) by seed.
    """

    dataset: str
    backbone: str
    accs: dict[Case, np.ndarray]
    recencies: dict[Case, np.ndarray]

    def over(self, case: Case, name: str) -> PairedTest | None:
        """Test the ACC of a case minus that of its reference, seed by seed; None without another one."""
        other = case.reference(name)
        if other == case or other not in self.accs:
            return None
        return paired_test(self.accs[other], self.accs[case])

    def told(self, name: str) -> dict[Case, str]:
        """Return by case what the test against a reference shows: raised, lowered, not told apart, or a dash.

        Told apart is p < 0.05 after Holm's correction for all tests against this kind of reference. Those
        against the linear head are of uncorrected heads: corrections are tested against their own head.
        """
        cases = [case for case in self.accs if name != "linear" or case.correction == NONE]
        tests = {case: test for case in cases if (test := self.over(case, name)) is not None}
        p = holm([test.p_t for test in tests.values()])
        return {
            case: _word(test.difference, value) for (case, test), value in zip(tests.items(), p, strict=True)
        }


def _word(difference: float, p: float) -> str:
    if p != p:
        return DASH
    return "not told apart" if p >= LEVEL else "raised" if difference > 0 else "lowered"


def comparisons(rows: pd.DataFrame) -> list[Comparison]:
    """Return the comparison of every backbone and data set, and of the mean over data sets."""
    made = []
    for backbone in unique(rows.backbone, natural_key):
        here = rows[rows.backbone == backbone]
        single = [_single(here[here.dataset == name]) for name in dict.fromkeys(here.dataset)]
        made += single + ([_mean(single)] if len(single) > 1 else [])
    return made


def shown(rows: pd.DataFrame) -> list[Comparison]:
    """Return the comparisons of the mean over data sets, or of the only data set."""
    made = comparisons(rows)
    averaged = {comparison.backbone for comparison in made if comparison.dataset == ALL}
    return [c for c in made if c.dataset == ALL or c.backbone not in averaged]


def _single(rows: pd.DataFrame) -> Comparison:
    groups = {}
    for (method, variant, head, correction, scale), group in rows.groupby(list(Case._fields)):
        case = Case(str(method), str(variant), str(head), str(correction), float(scale))
        groups[case] = group.sort_values("seed")
    cases = sorted(groups, key=lambda case: case.order)
    return Comparison(
        rows.dataset.iloc[0],
        rows.backbone.iloc[0],
        {case: groups[case].acc.to_numpy() for case in cases},
        {case: groups[case].recency.to_numpy() for case in cases},
    )


def _mean(single: Sequence[Comparison]) -> Comparison:
    """Return the mean over data sets, of the cases that all of them have."""
    common = [case for case in single[0].accs if all(case in other.accs for other in single)]
    return Comparison(
        ALL,
        single[0].backbone,
        {case: np.mean([c.accs[case] for c in single], 0) for case in common},
        {case: np.mean([c.recencies[case] for c in single], 0) for case in common},
    )


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per case, on each data set and in the mean over data sets (`all`).

    acc_mean, acc_std and recency_mean are over seeds. The differences of ACC from each of REFERENCES are
    paired by seed, with their 95 % Student-t interval and the verdict after Holm's correction.
    """
    lines = []
    for made in comparisons(rows):
        told = {name: made.told(name) for name in REFERENCES}
        for case, accs in made.accs.items():
            line = {"dataset": made.dataset, "backbone": made.backbone, **case._asdict(), "seeds": len(accs)}
            line |= {"acc_mean": accs.mean(), "acc_std": accs.std(ddof=1) if len(accs) > 1 else np.nan}
            line["recency_mean"] = made.recencies[case].mean()
            for name in REFERENCES:
                test = made.over(case, name)
                values = (np.nan,) * 3 if test is None else (test.difference, test.low, test.high)
                columns = (f"over_{name}", f"over_{name}_low", f"over_{name}_high")
                line |= dict(zip(columns, values, strict=True))
                line[f"over_{name}_verdict"] = told[name].get(case, "")
            lines.append(line)
    return pd.DataFrame(lines)
