"""The study `architectures`: planted gains and correlations, tables, figure, real cells, jobs, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
import yaml
from factories import make_cell, make_features
from result_factory import made_by
from snake import ROOT
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.features.cache import Features
from sharc_core.grid.loading import load_grid
from sharc_core.learning.joint_head import joint_head
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.results.statistics import holm
from sharc_core.results.table_formats import Table
from sharc_core.studies.architectures import Architectures, measure
from sharc_core.studies.architectures.comparison import Setting, correlations, networks, shown, summary
from sharc_core.studies.architectures.correlation import power, rank_correlation, smallest_rho
from sharc_core.studies.architectures.figure import architecture_figure, write_architecture_figure
from sharc_core.studies.architectures.findings import architecture_findings
from sharc_core.studies.architectures.measure import (
    bytes_of,
    chosen_rate,
    held_out,
    kept_mass,
    run_architecture,
    zeros_of,
)
from sharc_core.studies.architectures.settings import COLUMNS, ArchitecturesJob, ArchitecturesSettings
from sharc_core.studies.architectures.table import architecture_tables, write_architecture_tables
from sharc_core.studies.registered import configured_jobs, study_of
from sharc_core.studies.rows import read_rows, write_rows

# By data set: ACC of plain replay, of JOINT, noise of SHARC's gain, each by seed; rates of JOINT and replay.
PLAIN = {"s_digits": [60.0, 61.0, 59.0, 60.5], "s_glyphs": [71.0, 70.0, 72.5, 70.5]}
JOINT = {"s_digits": [80.0, 80.5, 80.0, 81.5], "s_glyphs": [75.0, 79.0, 78.0, 74.0]}
NOISE = {"s_digits": [0.2, -0.2, 0.1, -0.1], "s_glyphs": [-0.3, 0.1, 0.4, -0.2]}
LR = {"s_digits": (0.3, 0.03), "s_glyphs": (0.1, 0.03)}
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
MORE = {"mean": 0.0, "modern_hopfield": 10.0}  # of the gain with an associative memory
MEAN, HOPFIELD = Setting(0.8, "mean"), Setting(0.8, "modern_hopfield")


def planted(dataset="s_digits", chosen=tuple(PLANTED), shift=0.0, memories=("mean",)) -> pd.DataFrame:
    """Return rows in a shuffled order, with the networks in that of `chosen`."""
    frames = []
    for backbone in chosen:
        zeros, channels, gain = PLANTED[backbone]
        maps = {"channels": channels, "height": 4, "width": 4, "maps": 20, "zeros": zeros, "held_out": 0.5}
        stored = 32.0 * channels
        maps |= {"stored_bytes": stored, "lzma_bytes": stored * (1 - 0.8 * zeros)}
        maps |= {"lzma_alone_bytes": stored * (1 - 0.6 * zeros)}
        rows = []
        for seed, (plain, joint, noise) in enumerate(
            zip(PLAIN[dataset], JOINT[dataset], NOISE[dataset], strict=True)
        ):
            row = {"dataset": dataset, "backbone": backbone, "cell": "x", "seed": seed, **maps}
            row |= {"buffer": 20, "samples": 20.0, "lr": LR[dataset][1]}
            rows.append(row | {"method": "joint", "variant": "plain", "acc": joint, "lr": LR[dataset][0]})
            rows.append(row | {"method": "er", "variant": "plain", "acc": plain})
            sharc = row | {"method": "er", "variant": "sharc", "theta": 0.8, "kept_mass": 0.6}
            for memory in memories:
                found = plain + gain + MORE[memory] + noise + shift
                rows.append(sharc | {"associative_memory": memory, "acc": found})
        frames.append(pd.DataFrame(rows, columns=list(COLUMNS)).sample(frac=1, random_state=channels))
    return pd.concat(frames, ignore_index=True).astype(COLUMNS)


def on_both(shift=2.0, **values) -> pd.DataFrame:
    return pd.concat([planted(**values), planted("s_glyphs", shift=shift, **values)], ignore_index=True)


def interval(values) -> str:
    """Return mean and Student-t interval, as the tables show them."""
    mean, n = np.mean(values), len(values)
    half = scipy.stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def fields(table: Table, network: str) -> dict[str, str]:
    """Return the texts of a network's row, by heading."""
    row = next(row for row in table.rows if row[0].text == network)
    return dict(zip(table.flat_header, [item.text for item in row], strict=True))


# --- planted truths ----------------------------------------------------------------------------------


def test_planted_gains_and_their_correlation_are_found():
    lines = summary(planted()).set_index("backbone")
    assert lines.gain.to_dict() == pytest.approx({name: gain for name, (_, _, gain) in PLANTED.items()})
    assert lines.gain_verdict.to_dict() == {
        **dict.fromkeys(("relu", "relu_wide", "relu_narrow", "swish"), "raised"),
        "gated": "not told apart",
        **dict.fromkeys(("tokens", "recurrent"), "lowered"),
    }
    p = [
        scipy.stats.ttest_1samp(np.array(NOISE["s_digits"]) + gain, 0).pvalue for *_, gain in PLANTED.values()
    ]
    np.testing.assert_allclose(lines.gain_p_holm, holm(p))
    assert lines.saved["relu"] == pytest.approx(0.48) and lines.saved["tokens"] == 0
    assert lines.saved_alone["relu"] == pytest.approx(0.36)
    found = correlations(shown(planted()))[MEAN]
    # the zeros of `gated` and `recurrent` are in the order of their gains, so is everything else
    assert found["zeros"][0].rho == pytest.approx(1.0) and found["zeros"][1].word == "raised"
    assert found["zeros"][1].p_holm == pytest.approx(2 * 2 / 5040), "two of 7! orders, two correlations"
    assert found["channels"][1].word == "not told apart"


def test_verdicts_are_corrected_for_the_number_of_networks():
    """Six networks with the same p of 0.02 are not told apart, one of them alone is."""
    rows = planted(chosen=tuple(PLANTED)[:6])
    values = np.array([0.0, 1.0, 2.0, 3.0])
    values = values / values.std(ddof=1) * 2  # deviation of the mean: 1
    is_sharc = rows.variant == "sharc"
    wanted = values - values.mean() - scipy.stats.t.ppf(0.01, 3)
    rows.loc[is_sharc, "acc"] = np.array(PLAIN["s_digits"])[rows.seed[is_sharc]] + wanted[rows.seed[is_sharc]]
    lines = summary(rows)
    assert (lines.gain_low > 0).all() and set(lines.gain_verdict) == {"not told apart"}
    np.testing.assert_allclose(lines.gain_p_holm, 0.12)
    assert "above zero" not in architecture_findings(rows)[0]
    cells = fields(architecture_tables(rows)[1], "relu")
    assert cells["theta 0.8 mean"] == interval(wanted), "no star"
    alone = rows[rows.backbone == "relu"]
    assert set(summary(alone).gain_verdict) == {"raised"}
    assert fields(architecture_tables(alone)[1], "relu")["theta 0.8 mean"] == interval(wanted) + "*"


def test_sentences_name_sizes_intervals_and_networks():
    gains, correlated, strength, joint, stream, alone, corrected = architecture_findings(planted())
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
    assert strength.startswith(
        "Over 7 networks a single test needs |rho| >= 0.79; it finds a true correlation"
    )
    assert joint.startswith("JOINT minus plain replay: above zero with ") and "gated +20.38 [" in joint
    assert "one stream saves 0 % (tokens, 0 % zeros) to 48 % (relu, 60 % zeros)" in stream
    assert "each map by itself saves 0 % (tokens, 0 % zeros) to 36 % (relu, 60 % zeros)" in alone
    assert "p < 0.05 after Holm's correction" in corrected


def test_few_networks_cannot_tell():
    rows = planted(chosen=("relu", "relu_wide", "swish", "tokens"))
    assert correlations(shown(rows))[MEAN]["zeros"][1].word == "–"
    assert architecture_findings(rows)[1] == (
        "theta 0.8, mean: over 4 networks the gain cannot be correlated; it takes at least 5."
    )
    constant = planted()
    constant["zeros"] = 0.5
    assert "with the share of zeros it does not exist" in architecture_findings(constant)[1]


def test_data_sets_are_averaged_seed_by_seed():
    rows = on_both()
    assert [network.dataset for network in networks(rows)[:3]] == ["s_digits", "s_glyphs", "all"]
    lines = summary(rows).set_index(["dataset", "backbone"])
    noise = np.mean(list(NOISE.values()), 0)
    low, high = lines.gain_low["all", "relu"], lines.gain_high["all", "relu"]
    assert f"{lines.gain['all', 'relu']:+.2f} [{low:+.2f}, {high:+.2f}]" == interval(5 + noise)
    assert lines.seeds["all", "relu"] == 4 and lines.joint_lr["all", "relu"] == "0.3 / 0.1"
    assert architecture_findings(rows)[0].startswith("Class-IL, mean over data sets, theta 0.8, mean, SHARC")
    assert [network.backbone for network in shown(rows)] == list(PLANTED), "in the order of the rows"


def test_tables_have_each_number_under_its_heading():
    rows = on_both(memories=("modern_hopfield", "mean"))
    shown_networks, gains, *single, found = architecture_tables(rows)
    cells = fields(shown_networks, "relu_wide")
    plain, joint = (np.mean([values[s] for s in PLAIN], 0) for values in (PLAIN, JOINT))
    assert cells["channels"] == "512" and cells["zeros, %"] == "55.0" and cells["held out, %"] == "50.0"
    assert cells["JOINT"] == f"{joint.mean():.2f}" and cells["plain replay"] == f"{plain.mean():.2f}"
    assert cells["JOINT - plain"] == interval(joint - plain) + "*"
    assert cells["lr, JOINT"] == "0.3 / 0.1" and cells["lr, replay"] == "0.03"
    assert cells["LZMA saves, %"] == "44.0" and cells["LZMA per map, %"] == "33.0"
    noise = np.mean(list(NOISE.values()), 0)
    cells = fields(gains, "relu_wide")
    assert cells["theta 0.8 mean"] == interval(4 + noise) + "*"
    assert cells["theta 0.8 modern_hopfield"] == interval(14 + noise) + "*"
    assert cells["theta 0.8 saliency kept, %"] == "60.0"
    assert [table.title for table in single] == ["SHARC's gain on s_digits", "SHARC's gain on s_glyphs"]
    for table, dataset, shift in zip(single, NOISE, (0, 2), strict=True):
        expected = interval(np.array(NOISE[dataset]) + 3 + shift)
        assert fields(table, "relu_wide")["theta 0.8 mean"] == expected + "*"
    assert [row[0].text for row in found.rows] == ["theta 0.8, mean", "theta 0.8, modern_hopfield"]
    assert fields(found, "theta 0.8, mean")["with the share of zeros"].startswith("+1.00 [")


def test_networks_whose_verdicts_differ_between_data_sets_are_named():
    text = architecture_findings(on_both(shift=1.0))[1]
    assert text == (
        "theta 0.8, mean, the verdict differs between data sets: not told apart from zero on s_digits, above "
        "zero on s_glyphs with gated; below zero on s_digits, not told apart from zero on s_glyphs with "
        "tokens, recurrent."
    )
    assert not any("differs between" in line for line in architecture_findings(planted()))


def test_networks_on_fewer_data_sets_are_not_compared():
    most = tuple(PLANTED)[:5]
    rows = pd.concat([on_both(chosen=most), planted(chosen=("tokens", "recurrent"))], ignore_index=True)
    assert {n.dataset for n in shown(rows)} == {"all"} and [n.backbone for n in shown(rows)] == list(most)
    findings = architecture_findings(rows)
    assert findings[-2:] == [
        "tokens is not compared: it was run on s_digits alone.",
        "recurrent is not compared: it was run on s_digits alone.",
    ]
    assert not any("tokens" in line for line in findings[:-2])
    lines = summary(rows).set_index(["dataset", "backbone"]).gain_verdict
    assert lines["s_digits", "tokens"] == "not compared" and lines["all", "relu"] == "raised"
    assert ("all", "tokens") not in lines.index
    fewer = pd.concat([on_both(chosen=most[:2]), planted(chosen=most[2:])], ignore_index=True)
    assert [(n.dataset, n.backbone) for n in shown(fewer)] == [("s_digits", name) for name in most[2:]]


def test_contrasts_are_paired_by_seed():
    """Noise that two networks share leaves their difference."""
    rows = planted()
    is_own = (rows.backbone == "relu_wide") & (rows.variant == "sharc")
    own = np.array([0.0, 0.1, 0.0, 0.3])
    rows.loc[is_own, "acc"] += own[rows.seed[is_own]]
    pairs = [["relu_narrow", "relu_wide"], ["swish", "gated"], ["swish", "absent"]]
    table = architecture_tables(rows, pairs)[2]
    assert [row[0].text for row in table.rows] == ["relu_wide - relu_narrow", "gated - swish"]
    assert fields(table, "relu_wide - relu_narrow")["theta 0.8, mean"] == interval(1 + own) + "*"
    text = architecture_findings(rows, pairs)[1]
    assert text.startswith("theta 0.8, mean, SHARC's gain with one network minus another's: above zero with ")
    assert f"relu_wide minus relu_narrow {interval(1 + own)}; below zero with gated minus swish -1.00" in text


def test_rank_correlation_equals_scipys_and_keeps_its_level():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6))
    found, expected = rank_correlation(x, y), scipy.stats.spearmanr(x, y)
    exact = scipy.stats.permutation_test(
        (x,),
        lambda values: scipy.stats.spearmanr(values, y).statistic,
        permutation_type="pairings",
        n_resamples=np.inf,
    )
    assert found.rho == pytest.approx(expected.statistic) and found.p == pytest.approx(exact.pvalue)
    found = [rank_correlation(*rng.normal(size=(2, 7))) for _ in range(1000)]
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.98
    assert 0.03 <= np.mean([one.p < 0.05 for one in found]) <= 0.06
    assert all(one.low <= one.rho <= one.high for one in found)
    four, five, eight, twelve = (rank_correlation(range(n), range(n)) for n in (4, 5, 8, 12))
    assert np.isnan(four.p) and five.p == pytest.approx(2 / 120)
    assert eight.p == pytest.approx(2 / 40320) and eight.high == 1 and twelve.p < 0.001
    assert rank_correlation(range(8), range(8, 0, -1)).rho == -1


def test_power_is_the_rate_of_p_values_below_the_level():
    # critical values of Zar (1972), two-sided 5 %
    assert [round(smallest_rho(n), 3) for n in (5, 6, 7, 8)] == [1.0, 0.886, 0.786, 0.738]
    assert np.isnan(smallest_rho(4)) and power(4, 0.8) == 0
    rng = np.random.default_rng(1)
    x, noise = rng.normal(size=(2, 1000, 7))
    found = [rank_correlation(a, 0.8 * a + 0.6 * b).p < 0.05 for a, b in zip(x, noise, strict=True)]
    assert power(7, 0.8) == pytest.approx(np.mean(found), abs=0.05) and power(7, 0) < 0.05


# --- the figure --------------------------------------------------------------------------------------


def test_the_figure_shows_gains_intervals_zeros_and_channels():
    rows = on_both(memories=("modern_hopfield", "mean"))
    (panel,) = architecture_figure(rows).axes
    order = sorted(PLANTED, key=lambda name: PLANTED[name][0])
    for label, name in zip(panel.get_yticklabels(), order, strict=True):
        zeros, channels, _ = PLANTED[name]
        assert label.get_text() == f"{name}\n{100 * zeros:.1f} % zeros, K = {channels}"
    noise = np.mean(list(NOISE.values()), 0)
    half = scipy.stats.t.ppf(0.975, 3) * noise.std(ddof=1) / 2
    bars = [container for container in panel.containers if container.has_xerr]
    assert len(bars) == 2 * len(PLANTED)
    drawn = {}
    for bar in bars:
        (ends,) = bar.lines[2][0].get_segments()
        (x,), (y,) = bar.lines[0].get_data()
        drawn[order[round(float(y))], bar.lines[0].get_marker()] = (x, *ends[:, 0])
    for name, (_, _, gain) in PLANTED.items():
        for memory, marker in (("mean", "o"), ("modern_hopfield", "s")):
            mean = gain + 1 + MORE[memory]
            assert drawn[name, marker] == pytest.approx((mean, mean - half, mean + half))
    crosses = [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "x"]
    assert len(crosses) == 4 * len(PLANTED) and {4.0, 6.0, 14.0, 16.0} <= set(np.round(crosses, 6))


# --- measures of maps and networks -------------------------------------------------------------------


def test_measures_of_planted_maps():
    maps = torch.randn(50, 8, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    assert zeros_of(maps) < 0.01
    dense = bytes_of(maps)
    maps[:, :, :2] = 0
    half = bytes_of(maps)
    assert zeros_of(maps) == pytest.approx(0.5, abs=0.01)
    assert dense["stored_bytes"] == half["stored_bytes"] == 2 * 8 * 16
    assert half["lzma_bytes"] < 0.6 * dense["lzma_bytes"]
    assert half["lzma_alone_bytes"] < 0.8 * dense["lzma_alone_bytes"]
    copies = bytes_of(maps[:1].expand(50, -1, -1, -1))
    assert copies["lzma_bytes"] < 0.1 * copies["lzma_alone_bytes"], "only one stream sees that they are equal"
    assert copies["lzma_alone_bytes"] == bytes_of(maps[:1])["lzma_bytes"]


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


def toy_features() -> Features:
    """Return features of which a third of the values of each map is zero."""
    made = {key: value for key, value in vars(make_features()).items() if key not in ("tested", "encoded")}
    made["train_maps"][:, ::3] = 0
    return Features(**made)


def job_of(cards: str | None = None, rates=(0.1,)) -> ArchitecturesJob:
    sharc = make_cell("er", "sharc", associative_memory="mean", associative_settings={})
    fixed = sharc.model_copy(update={"complete": "all", "importance": "absolute"})
    cells = [make_cell("joint"), make_cell("er"), fixed, fixed.model_copy(update={"theta": 0.75})]
    dumped = [cell.model_dump(mode="json") for cell in cells]
    return ArchitecturesJob(cells=dumped, cards=cards, maps=30, rates=list(rates), rate_seeds=[7, 8])


def test_rows_are_those_of_the_learner(tmp_path, monkeypatch):
    (tmp_path / "card.json").write_text(json.dumps({"weights_sha256": "b" * 64, "held_out_top1": 0.5}))
    features, lines = toy_features(), []
    job, rates = job_of(str(tmp_path)), {"joint": 0.3, "er": 0.03}
    monkeypatch.setattr(measure, "chosen_rate", lambda features, cell, job, progress: rates[cell.method])
    rows = run_architecture(features, job, lines.append)
    assert list(rows.columns) == list(COLUMNS) and len(rows) == 4 * 3 and len(lines) == 4
    for cell in job.opened:
        training = cell.training.model_copy(update={"lr": rates[cell.method]})
        document = run_cell(features, cell.model_copy(update={"training": training}))
        own = rows[(rows.theta.fillna(-1) == (cell.theta or -1)) & (rows.method == cell.method)]
        np.testing.assert_array_equal(own.acc, acc(np.array(document["matrix"]["class_il"], dtype=float)))
        assert set(own.lr) == {rates[cell.method]}
    assert set(rows.held_out) == {0.5} and set(rows.channels) == {12} and set(rows.maps) == {30}
    assert rows.zeros.tolist() == pytest.approx([1 / 3] * len(rows), abs=0.01)
    kept = rows[rows.variant == "sharc"].groupby("theta").kept_mass.mean()
    assert 0.25 < kept[0.75] < kept[0.5] < 1
    stored = rows[rows.variant == "sharc"].groupby("theta").samples.first()
    assert stored[0.5] == 24 and stored[0.75] == 48, "a buffer of 12 full maps, in floats"
    paths = [tmp_path / "a.csv"]
    write_rows(rows, paths[0], made_by(), "key")
    rows = read_rows(Architectures(), paths, ["key"])
    written = write_architecture_tables(rows, tmp_path, [], "c")
    assert [path.name for path in written] == Architectures().table_names()
    text = written[1].read_text()
    assert "## Networks" in text and "## SHARC's gain" in text and "\n- Class-IL, on toy" in text
    assert "\\begin{table*}" in written[2].read_text()
    drawn = write_architecture_figure(rows, tmp_path)
    assert [path.name for path in drawn] == Architectures().figure_names({})
    assert all(len(row) == len(table.header) for table in architecture_tables(rows) for row in table.rows)
    single = rows[rows.seed == 0]
    assert "without an interval with toy" in architecture_findings(single)[0]
    assert architecture_figure(single).axes


def test_a_rate_is_chosen_on_held_out_training_images(monkeypatch):
    features, cell, seen = toy_features(), make_cell("er"), []
    by_rate = {0.3: 50.0, 0.1: 70.0, 0.01: 60.0}

    def trained(own, other):
        seen.append((own, other))
        rate = other.training.lr
        if rate == 3:
            raise UserError("diverged")
        return {"matrix": {"class_il": np.full((2, 3, 3), by_rate[rate]).tolist()}}

    monkeypatch.setattr(measure, "run_cell", trained)
    lines: list[str] = []
    assert chosen_rate(features, cell, job_of(rates=[3, *by_rate]), lines.append) == 0.1
    assert "training.lr 0.1 (validation ACC in % by rate: 3: nan, 0.3: 50.00, 0.1: 70.00" in lines[0]
    assert all(other.seeds == [7, 8] and other.method == "er" for _, other in seen)
    for own, _ in seen:
        held = own.train_labels == -1
        assert int(held.sum()) == 6 * 8, "a fifth of the 40 images of each class"
        assert torch.equal(own.test_pooled, features.train_pooled[held])
        assert torch.equal(own.test_labels, features.train_labels[held])
    with pytest.raises(UserError, match=r"^architectures: no learning rate in rates can be used: diverged$"):
        chosen_rate(features, cell, job_of(rates=[3, 3]), lines.append)
    seen.clear()
    assert chosen_rate(features, cell, job_of(rates=[0.3]), lines.append) == 0.3 and not seen


def test_a_useless_rate_is_not_chosen():
    lines: list[str] = []
    job = job_of(rates=[1e-7, 0.1])
    assert chosen_rate(toy_features(), make_cell("er"), job, lines.append) == 0.1


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

SMALL = {"weights": "pretrain", "image_size": 32, "pretrain": {"epochs": 1}}
TWO = BASE | {"backbone": [{"arch": name} | SMALL for name in ("resnet_small", "vgg_small")]}
NAMES = ["resnet_small-pretrain", "vgg_small-pretrain"]


def test_a_job_per_data_set_and_backbone():
    # keys that the study replaces, and training on augmented views
    others = {"backbone": [backbone | {"views": 2} for backbone in TWO["backbone"]], "storage": "float32"}
    others |= {"sharc": {"theta": 0.3, "saliency": "random"}, "budget": {"unit": "bytes"}}
    block = {"thetas": [0.5], "buffer": 20, "seeds": [5], "rates": [0.2, 0.1], "rate_seeds": [6, 7]}
    grid = load_grid(TWO | others | {"architectures": block | {"contrasts": [NAMES]}})
    jobs = study_of(grid, "architectures").jobs(grid)
    assert [(job.dataset, job.backbone) for job in jobs] == [
        (dataset, name) for name in NAMES for dataset in grid.datasets
    ]
    job = ArchitecturesJob.model_validate(dict(jobs[0].settings))
    assert [(c.method, c.variant, c.associative_memory) for c in job.opened] == [
        ("joint", "plain", None),
        ("er", "plain", None),
        ("er", "sharc", "modern_hopfield"),
        ("er", "sharc", "mean"),
    ]
    assert all(c.scenarios == ["class_il"] and c.seeds == [5] and c.views == 1 for c in job.opened)
    assert {c.budget_unit for c in job.opened[1:]} == {"floats"} and job.cards == "data/backbones"
    assert {c.storage for c in job.opened[1:]} == {"float16"}
    assert {(c.saliency, c.theta) for c in job.opened[2:]} == {("gradient", 0.5)}
    assert job.rates == [0.2, 0.1] and job.rate_seeds == [6, 7]
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
        ({"rates": [0]}, "rates"),
        ({"rates": []}, "rates"),
        ({"rate_seeds": [2, 2]}, "2 is listed twice"),
        ({"contrasts": [["a"]]}, "contrasts"),
        ({"contrasts": [["a", "a"]]}, "'a' is listed twice"),
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
        ({"method": "sgd"}, ": sgd does not train a head on the stream with replay: choose another"),
        ({"method": "err"}, ": methods: unknown method 'err'"),
        ({"associative_memories": ["meen"]}, ": sharc.associative_memory: unknown associative memory 'meen'"),
        ({"buffer": 3}, ": buffers: 3 is smaller than the 5 tasks"),
        ({"rate_seeds": [9, 1]}, ".rate_seeds: 1 is also a seed of the compared runs: choose the"),
        (
            {"contrasts": [["resnet_smal-pretrain", "x"]]},
            ".contrasts: the study has no backbone 'resnet_smal-pretrain' .did you mean 'resnet_small-",
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_planned(block, message):
    grid = load_grid(BASE | {"architectures": {"buffer": 20} | block})
    for planned in (study_of(grid, "architectures").jobs, configured_jobs):
        with pytest.raises(UserError, match=rf"^config: architectures{message}") as caught:
            planned(grid)
        assert "\n" not in str(caught.value)
