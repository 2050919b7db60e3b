"""Results that ship with the project are whole, and their tables follow from their documents."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from sharc_core.grid.loading import load_config
from sharc_core.verification.verify import verify

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "docs/reference").glob("*/provenance.json"))
CIFAR = ROOT / "docs/reference/s_cifar10_mobilenet_v2"
DEFAULT = ROOT / "docs/reference/embedded_default"
CIFAR100 = ROOT / "docs/reference/s_cifar100_mobilenet_v2"


def test_results_ship():
    assert {CIFAR, CIFAR100, DEFAULT} <= set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_results_verify(folder):
    assert verify(folder).problems == {}


def test_what_the_text_says_of_cifar10_follows_from_the_runs():
    text = (CIFAR / "README.md").read_text()
    runs = pd.read_csv(CIFAR / "runs.csv")
    task = runs[runs.scenario == "task_il"]
    plain = task[(task.variant == "plain") & task.buffer.notna()]
    means = plain.groupby(["method", "buffer"])[["acc", "bwt"]].mean()
    positive, rows = re.search(r"positive mean BWT in (\d+) of (\d+) rows", text).groups()
    assert (int(positive), int(rows)) == ((means.bwt > 0).sum(), len(means))
    least, most = re.search(r"SGD has 86.2 %, replay ([\d.]+) to ([\d.]+)", text).groups()
    assert (f"{means.acc.min():.1f}", f"{means.acc.max():.1f}") == (least, most)
    assert f"{task[task.method == 'sgd'].acc.mean():.1f}" == "86.2"
    read = runs[runs.associative_memory == "bayespcn"]
    errors = read[read.buffer == 200].groupby("theta").recall_mse.mean()
    assert re.search(r"BayesPCN is ([\d.]+) at theta 0.4", text)[1] == f"{errors[0.4]:.2f}"
    assert re.search(r"and ([\d.]+) at theta 0.8", text)[1] == f"{errors[0.8]:.2f}"
    devices = [
        training["versions"]["device"]
        for path in CIFAR.glob("matrices/*/*/*.json")
        for training in json.loads(path.read_text())["trainings"]
    ]
    assert (len(devices), devices.count("cpu")) == (53, 9)
    scorecard = (CIFAR / "tables/scorecard.md").read_text()
    for said in ("-0.33 points, 95 % interval over the seeds [-0.73, +0.07]", "5 of 15 pairs (bayespcn)"):
        assert said in scorecard


def test_what_the_text_says_of_cifar100_follows_from_the_runs():
    text = (CIFAR100 / "README.md").read_text()
    runs = pd.read_csv(CIFAR100 / "runs.csv")
    task = runs[(runs.scenario == "task_il") & runs.buffer.notna()]
    bwt = task.groupby(["variant", "method", "buffer"]).bwt.agg(["mean", "std"])
    positive, rows, with_sharc = re.search(
        r"positive mean BWT in (\d+) of (\d+) rows, with SHARC it is\s+positive in (\d+)", text
    ).groups()
    plain, sharc = bwt.loc["plain"], bwt.loc["sharc"]
    assert (int(positive), int(rows)) == ((plain["mean"] > 0).sum(), len(plain))
    assert int(with_sharc) == (sharc["mean"] > 0).sum()
    moved = (sharc["mean"] - plain["mean"]).abs()
    assert "less than its deviation over seeds in 9 of 10" in text and (moved < plain["std"]).sum() == 9
    scorecard = (CIFAR100 / "tables/scorecard.md").read_text()
    for said in (
        "+0.94 points, 95 % interval over the seeds [+0.61, +1.26]",
        "+2.55 points, 95 % interval over the seeds [+1.47, +3.63]",
        "raises the mean ACC in 17 of 20 pairs",
        "p is below 0.05 for 9 raised and 0 lowered pairs",
        "matches SHARC in 15 of 20 rows",
        "here +8.92 % (37.70 to 41.06, 95 % interval +0.89 to +18.59 %",
        "here +5.37 % (43.87 to 46.23, 95 % interval +2.07 to +9.01 %",
    ):
        assert said in scorecard
    pairs = pd.read_csv(CIFAR100 / "tables/scorecard.csv")
    assert len(pairs)


def test_the_default_grid_that_ships_is_the_default_grid():
    """Its settings and results are those of config.yaml; the text says what the scorecard says."""
    assert load_config(DEFAULT / "grid.yaml") == load_config(ROOT / "config.yaml")
    text, scorecard = (DEFAULT / "README.md").read_text(), (DEFAULT / "tables/scorecard.md").read_text()
    for said, scored in (
        ("+1.40 [+1.18, +1.63]", "+1.40 points, 95 % interval over the seeds [+1.18, +1.63]"),
        ("+2.67 [+2.21, +3.14]", "+2.67 points, 95 % interval over the seeds [+2.21, +3.14]"),
        ("39 of 48 pairs", "39 of 48 pairs"),
        ("36 of 48", "matches SHARC in 36 of 48 rows"),
        ("12 of them told apart after Holm", "p is below 0.05 for 12 raised and 0 lowered pairs"),
    ):
        assert said in text and scored in scorecard
    pairs = pd.read_csv(DEFAULT / "tables/scorecard.csv")
    of_class_il = pairs[(pairs.scenario == "class_il") & pairs.method.isin(["gem", "er", "mer", "derpp"])]
    gains = of_class_il[of_class_il.dataset == "s_glyphs"].difference
    assert (round(gains.min(), 1), round(gains.max(), 1)) == (6.5, 9.4)
    digits = of_class_il[of_class_il.dataset == "s_digits"]
    assert [(row.method, row.buffer) for row in digits[digits.low > 0].itertuples()] == [("gem", 100)]
    assert not (digits.p_holm < 0.05).any()
