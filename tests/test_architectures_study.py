"""The study `architectures`: planted gains and correlations, real cells, tables, figure, jobs, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from factories import make_cell, make_features
from result_factory import made_by
from snake import ROOT
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.learning.joint_head import joint_head
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.studies.architectures import Architectures
from sharc_core.studies.architectures.comparison import Setting, correlations, networks, shown, summary
from sharc_core.studies.architectures.correlation import rank_correlation
from sharc_core.studies.architectures.figure import write_architecture_figure
from sharc_core.studies.architectures.measure import bytes_of, held_out, kept_mass, run_architecture, zeros_of
from sharc_core.studies.architectures.settings import COLUMNS, ArchitecturesJob, ArchitecturesSettings
from sharc_core.studies.architectures.table import (
    architecture_findings,
    architecture_tables,
    write_architecture_tables,
)
from sharc_core.studies.registered import configured_jobs, study_of
from sharc_core.studies.rows import read_rows, write_rows

PLAIN = [60.0, 61.0, 59.0, 60.5]
# network: share of zeros, channels, SHARC's gain in points; the gain rises with the zeros
PLANTED = {
    "relu": (0.6, 128, 4.0),
    "relu_wide": (0.55, 512, 3.0),
    "relu_narrow": (0.5, 32, 2.0),
    "swish": (0.1, 192, 1.0),
    "gated": (0.05, 256, 0.0),
    "tokens": (0.0, 64, -1.0),
    "recurrent": (0.02, 96, -0.5),
}


def planted(dataset: str = "s_digits", chosen=tuple(PLANTED), shift: float = 0.0) -> pd.DataFrame:
    rows = []
    for backbone in chosen:
        zeros, channels, gain = PLANTED[backbone]
        maps = {"channels": channels, "height": 4, "width": 4, "maps": 20, "zeros": zeros, "held_out": 0.5}
        maps |= {"stored_bytes": 32.0 * channels, "lzma_bytes": 32.0 * channels * (1 - 0.8 * zeros)}
        for seed, (plain, noise) in enumerate(zip(PLAIN, (0.2, -0.2, 0.1, -0.1), strict=True)):
            row = {"dataset": dataset, "backbone": backbone, "cell": "x", "seed": seed, **maps}
            row |= {"buffer": 20, "samples": 20.0}
            rows.append(row | {"method": "joint", "variant": "plain", "acc": 90.0})
            rows.append(row | {"method": "er", "variant": "plain", "acc": plain})
            sharc = row | {"method": "er", "variant": "sharc", "theta": 0.8, "kept_mass": 0.6}
            rows.append(sharc | {"associative_memory": "mean", "acc": plain + gain + noise + shift})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


MEAN = Setting(0.8, "mean")

# --- planted truths ----------------------------------------------------------------------------------


def test_planted_gains_and_their_correlation_are_found():
    lines = summary(planted()).set_index("backbone")
    assert lines.gain.to_dict() == pytest.approx({name: gain for name, (_, _, gain) in PLANTED.items()})
    assert lines.gain_verdict.to_dict() == {
        **dict.fromkeys(("relu", "relu_wide", "relu_narrow", "swish"), "raised"),
        "gated": "not told apart",
        **dict.fromkeys(("tokens", "recurrent"), "lowered"),
    }
    assert lines.saved["relu"] == pytest.approx(0.48) and lines.saved["tokens"] == 0
    found = correlations(shown(planted()), MEAN)
    # the zeros of `gated` and `recurrent` are in the order of their gains, so is everything else
    assert found["zeros"].rho == pytest.approx(1.0) and found["zeros"].verdict == "raised"
    assert found["channels"].verdict == "not told apart"


def test_sentences_name_sizes_intervals_and_networks():
    gains, correlated, saved = architecture_findings(planted())
    assert gains.startswith(
        "Class-IL, on s_digits, theta 0.8, mean, SHARC minus plain replay at equal floats: above zero with "
        "relu +4.00 [+3.71, +4.29], relu_wide +3.00"
    )
    assert (
        "; below zero with recurrent -0.50 [" in gains and "; not told apart from zero with gated " in gains
    )
    assert correlated.startswith(
        "theta 0.8, mean: over 7 networks, rank correlation of the gain: with the share of zeros it is +1.00"
    )
    zeros, channels = correlated.split("; with the channel count it is ")
    assert zeros.endswith("], told apart from zero") and channels.endswith("], not told apart from zero.")
    assert "saves 0 % of the bytes (tokens, 0 % zeros) to 48 % (relu, 60 % zeros)" in saved


def test_few_networks_cannot_tell():
    rows = planted(chosen=("relu", "relu_wide", "swish", "tokens"))
    assert correlations(shown(rows), MEAN)["zeros"].verdict == "–"
    assert architecture_findings(rows)[1] == (
        "theta 0.8, mean: over 4 networks the gain cannot be correlated; it takes at least 5."
    )
    constant = planted()
    constant["zeros"] = 0.5
    assert "with the share of zeros it does not exist" in architecture_findings(constant)[1]


def test_data_sets_are_averaged_seed_by_seed():
    rows = pd.concat([planted(), planted("s_glyphs", shift=2.0)], ignore_index=True)
    assert [network.dataset for network in networks(rows)[:3]] == ["s_digits", "s_glyphs", "all"]
    lines = summary(rows).set_index(["dataset", "backbone"])
    assert lines.gain["all", "relu"] == pytest.approx(5.0) and lines.seeds["all", "relu"] == 4
    assert architecture_findings(rows)[0].startswith("Class-IL, mean over data sets, theta 0.8, mean, SHARC")
    assert len(shown(rows)) == len(PLANTED)


def test_rank_correlation_equals_scipys_and_covers():
    import scipy

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 9))
    assert rank_correlation(x, y).rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    found = [rank_correlation(*rng.normal(size=(2, 8))) for _ in range(1000)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.93 <= covered <= 0.98
    assert all(one.low <= one.rho <= one.high for one in found)
    five, eight = (rank_correlation(range(n), range(n)) for n in (5, 8))
    assert five.verdict == "not told apart", "five networks in order are no evidence"
    assert eight.verdict == "raised" and eight.high == 1
    assert rank_correlation(range(8), range(8, 0, -1)).verdict == "lowered"


def test_measures_of_planted_maps():
    maps = torch.randn(50, 8, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    assert zeros_of(maps) < 0.01
    dense = bytes_of(maps)
    maps[:, :, :2] = 0
    half = bytes_of(maps)
    assert zeros_of(maps) == pytest.approx(0.5, abs=0.01)
    assert dense["stored_bytes"] == half["stored_bytes"] == 2 * 8 * 16
    assert half["lzma_bytes"] < 0.6 * dense["lzma_bytes"]


# --- the network -------------------------------------------------------------------------------------


def test_held_out_accuracy_is_of_the_card_of_these_weights(tmp_path):
    for name, accuracy in (("a", 0.25), ("b", 0.75)):
        card = {"weights_sha256": name * 64, "held_out_top1": accuracy}
        (tmp_path / f"{name}.json").write_text(json.dumps(card))
    assert held_out(str(tmp_path), "b" * 64) == 0.75
    assert np.isnan(held_out(None, "b" * 64))
    with pytest.raises(UserError, match="has no card of the weights cccccccccccc") as caught:
        held_out(str(tmp_path), "c" * 64)
    assert "\n" not in str(caught.value)


# --- real cells --------------------------------------------------------------------------------------


def job_of(cards: str | None = None) -> ArchitecturesJob:
    sharc = make_cell("er", "sharc", associative_memory="mean", associative_settings={})
    fixed = sharc.model_copy(update={"complete": "all", "importance": "absolute"})
    cells = [make_cell("joint"), make_cell("er"), fixed, fixed.model_copy(update={"theta": 0.75})]
    return ArchitecturesJob(cells=[cell.model_dump(mode="json") for cell in cells], cards=cards, maps=30)


def test_rows_are_those_of_the_learner(tmp_path):
    (tmp_path / "card.json").write_text(json.dumps({"weights_sha256": "b" * 64, "held_out_top1": 0.5}))
    features, lines = make_features(), []
    job = job_of(str(tmp_path))
    rows = run_architecture(features, job, lines.append)
    assert list(rows.columns) == list(COLUMNS) and len(rows) == 4 * 3 and len(lines) == 4
    for cell in job.opened:
        expected = acc(np.array(run_cell(features, cell)["matrix"]["class_il"], dtype=float))
        own = rows[rows.theta.fillna(-1) == (cell.theta or -1)]
        np.testing.assert_array_equal(own[own.method == cell.method].acc, expected)
    assert set(rows.held_out) == {0.5} and set(rows.channels) == {12} and set(rows.maps) == {30}
    kept = rows[rows.variant == "sharc"].groupby("theta").kept_mass.mean()
    assert 0.25 < kept[0.75] < kept[0.5] < 1
    stored = rows[rows.variant == "sharc"].groupby("theta").samples.first()
    assert stored[0.5] == 24 and stored[0.75] == 48, "a buffer of 12 full maps, in floats"
    paths = [tmp_path / "a.csv"]
    write_rows(rows, paths[0], made_by(), "key")
    rows = read_rows(Architectures(), paths, ["key"])
    written = write_architecture_tables(rows, tmp_path, "c")
    assert [path.name for path in written] == Architectures().table_names()
    text = written[1].read_text()
    assert "## Networks" in text and "## SHARC's gain" in text and "\n- Class-IL, on toy" in text
    assert "\\begin{table*}" in written[2].read_text()
    drawn = write_architecture_figure(rows, tmp_path)
    assert [path.name for path in drawn] == Architectures().figure_names({})
    assert all(len(row) == len(table.header) for table in architecture_tables(rows) for row in table.rows)


def test_kept_mass_is_the_definitions():
    """With a linear head the saliency of a map is the weights of its class, over positions."""
    features = make_features()
    joint, sharc = (cell for cell in job_of().opened if cell.method == "joint" or cell.theta == 0.75)
    own, head = joint_head(features, joint)
    found = kept_mass(own, head, sharc, 10**6)
    labels = own.train_labels.tolist()
    for replica, seed_share in enumerate(found):
        logits = torch.eye(12).expand(3, -1, -1)
        weights = (head.logits(logits) - head.logits(torch.zeros(3, 1, 12)))[replica].abs()  # (K, C)
        shares = []
        for label in labels:
            sizes = sorted(weights[:, label].tolist(), reverse=True)
            shares.append(sum(sizes[:3]) / sum(sizes))
        assert seed_share == pytest.approx(np.mean(shares), rel=1e-5)


# --- settings and jobs -------------------------------------------------------------------------------


def test_a_job_per_data_set_and_backbone():
    small = {"weights": "pretrain", "image_size": 32, "pretrain": {"epochs": 1}}
    values = BASE | {"backbone": [{"arch": name} | small for name in ("resnet_small", "vgg_small")]}
    grid = load_grid(values | {"architectures": {"thetas": [0.5], "buffer": 20, "seeds": [5]}})
    jobs = study_of(grid, "architectures").jobs(grid)
    assert [(job.dataset, job.backbone) for job in jobs] == [
        (dataset, f"{name}-pretrain") for name in ("resnet_small", "vgg_small") for dataset in grid.datasets
    ]
    job = ArchitecturesJob.model_validate(dict(jobs[0].settings))
    assert [(c.method, c.variant, c.associative_memory) for c in job.opened] == [
        ("joint", "plain", None),
        ("er", "plain", None),
        ("er", "sharc", "modern_hopfield"),
        ("er", "sharc", "mean"),
    ]
    assert all(c.scenarios == ["class_il"] and c.seeds == [5] for c in job.opened)
    assert {c.budget_unit for c in job.opened[1:]} == {"floats"} and job.cards == "data/backbones"
    assert configured_jobs(grid) == {"architectures": len(jobs)} and configured_jobs(load_grid(BASE)) == {}


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `architectures`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == ArchitecturesSettings.model_fields.keys()
    assert ArchitecturesSettings.model_validate(documented) == ArchitecturesSettings()


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"thetas": [0]}, "thetas"),
        ({"thetas": [0.5, 0.5]}, "0.5 is listed twice"),
        ({"buffer": 0}, "buffer"),
        ({"maps": 0}, "maps"),
        ({"seeds": [1, 1]}, "1 is listed twice"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: architectures\..*{message}") as caught:
        load_grid(BASE | {"architectures": block})
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"method": "sgd"}, "sgd does not train a head on the stream with replay: choose another"),
        ({"method": "err"}, "unknown method 'err'"),
        ({"associative_memories": ["meen"]}, "unknown associative memory 'meen'"),
        ({"buffer": 3}, "buffers: 3 is smaller than the 5 tasks"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_planned(block, message):
    grid = load_grid(BASE | {"architectures": {"buffer": 20} | block})
    for planned in (study_of(grid, "architectures").jobs, configured_jobs):
        with pytest.raises(UserError, match=rf"^config: architectures: .*{message}") as caught:
            planned(grid)
        assert "\n" not in str(caught.value)
