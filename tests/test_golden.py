"""Pinned numbers of every method and variant on the toy features.

A change that is meant to alter results updates tests/golden.json with
`PYTHONPATH=. python tests/test_golden.py` and says why in its commit.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from factories import make_cell, make_features

from sharc_core.learning import metrics
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS

GOLDEN = Path(__file__).with_name("golden.json")
BUILT_IN = ["sgd", "joint", "er", "mer", "gem", "agem", "derpp", "clser"]
CASES = [(m, v) for m in BUILT_IN for v in ("plain", "sharc") if v == "plain" or METHODS.get(m).uses_memory]


def measure(method: str, variant: str) -> dict[str, float]:
    """Return the mean over seeds of each metric in percent, and the costs."""
    document = run_cell(
        make_features(separation=2.0),
        make_cell(method, variant, buffer=None if method in ("sgd", "joint") else 24),
    )
    found = {}
    for scenario in ("task_il", "class_il"):
        matrix = np.array(document["matrix"][scenario], dtype=float)
        untrained = np.array(document["untrained"][scenario], dtype=float)
        found[f"{scenario}_acc"] = metrics.acc(matrix).mean()
        if method != "joint":
            found[f"{scenario}_bwt"] = metrics.bwt(matrix).mean()
            found[f"{scenario}_fwt"] = metrics.fwt(matrix, untrained).mean()
    found["episodic_bytes"] = document["costs"]["episodic_bytes"][0]
    found["associative_bytes"] = document["costs"]["associative_bytes"][0]
    found["samples_stored"] = document["costs"]["samples_stored"][0]
    return {key: round(float(value), 4) for key, value in found.items()}


@pytest.mark.parametrize(("method", "variant"), CASES)
def test_results_equal_the_pinned_numbers(method, variant):
    """The tolerance is one test image of 90 on one of three seeds: processors may round ties differently."""
    expected = json.loads(GOLDEN.read_text())[f"{method}-{variant}"]
    assert measure(method, variant) == pytest.approx(expected, abs=100 / 30 / 3)


if __name__ == "__main__":
    values = {f"{method}-{variant}": measure(method, variant) for method, variant in CASES}
    GOLDEN.write_text(json.dumps(values, indent=1) + "\n")
