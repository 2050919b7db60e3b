"""The study `saliency_curves`: planted truths, plain loops, the learner's JOINT, tables, figure, refusals."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from factories import make_cell, make_features
from result_factory import made_by
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import HeadConfig
from sharc_core.grid.loading import load_grid
from sharc_core.heads import LinearHead, MLPHead
from sharc_core.learning.joint_head import joint_head
from sharc_core.learning.learner import run_cell
from sharc_core.saliency import SALIENCIES
from sharc_core.saliency.channel_masks import top_mask
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import read_rows, write_rows
from sharc_core.studies.saliency_curves import SaliencyCurves
from sharc_core.studies.saliency_curves.figure import write_curve_figure
from sharc_core.studies.saliency_curves.measure import (
    DELETION,
    INSERTION,
    INVERSE,
    PREDICTED,
    RANDOM,
    SALIENT,
    accuracy,
    centred_ranks,
    curve,
    effect_ranks,
    masks_per_class,
    measure,
    rank_correlations,
    ranks_of,
    removed_channels,
    run_curves,
)
from sharc_core.studies.saliency_curves.settings import COLUMNS, CurveJob, CurveSettings
from sharc_core.studies.saliency_curves.table import (
    curve_findings,
    curve_tables,
    gains,
    interval,
    simultaneous,
    summary,
    write_curve_tables,
)

SEEDS = [*range(6)]
SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]
USED, CHANNELS = (2, 5, 9), 12  # the channels that the planted head reads


def planted(kind: str = "linear") -> LinearHead | MLPHead:
    """Return a head of 3 classes that reads three channels only; class c has the largest channel USED[c]."""
    torch.manual_seed(0)
    if kind == "linear":
        head: LinearHead | MLPHead = LinearHead(len(SEEDS), CHANNELS, 3)
        for label, channel in enumerate(USED):
            head.weight[:, :, channel] = -0.5
            head.weight[:, label, channel] = 1.0
        return head
    head = MLPHead(len(SEEDS), CHANNELS, 3, 3)
    for label, channel in enumerate(USED):
        head.weight1[:, label, channel] = 1.0
        head.weight2[:, :, label] = -0.5
        head.weight2[:, label, label] = 1.0
    return head


def images(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pooled maps (n, K) whose three read channels tell the class, and labels (n,)."""
    source = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    x = torch.rand(count, CHANNELS, generator=source)
    x[torch.arange(count), torch.tensor(USED)[labels]] += 0.8
    return x, labels


def measured(head, x: torch.Tensor, labels: torch.Tensor, saliency: str) -> pd.DataFrame:
    return measure(head, x, labels, effect_ranks(head, x, labels, 4), 4, saliency, SEEDS, SHARES, 5)


def placed(rows: pd.DataFrame, kind: str = "linear") -> pd.DataFrame:
    rows = rows.assign(dataset="toy", backbone="net", head=kind)
    return rows.reindex(columns=list(COLUMNS)).astype(COLUMNS)


def planted_rows(saliency: str, kind: str = "linear") -> pd.DataFrame:
    x, labels = images()
    rows = measured(planted(kind), x, labels, saliency)
    return placed(rows, kind)


# --- planted truths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("saliency", ["gradient", "gradient_x_activation", "occlusion"])
def test_three_channels_that_a_head_reads_are_found(saliency, kind):
    rows = planted_rows(saliency, kind)
    (line,) = summary(rows).to_dict("records")
    for gain in ("deletion", "insertion", "inverse"):
        assert line[f"{gain}_low"] > 0 and line[f"{gain}_verdict"] == "better", gain
    # a quarter of the channels is what the head reads: deleted first, nothing is left; inserted, everything
    points = rows.set_index(["sweep", "order", "share"]).accuracy
    full = points[DELETION, SALIENT, 0.0].mean()
    assert full > 80
    assert points[DELETION, SALIENT, 0.25].max() == 0 and points[DELETION, INVERSE, 0.75].mean() == full
    assert points[INSERTION, SALIENT, 0.25].mean() == full


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_noise_is_not_told_apart_from_a_random_order(kind):
    (line,) = summary(planted_rows("random", kind)).to_dict("records")
    for gain in ("deletion", "insertion", "inverse"):
        assert line[f"{gain}_low"] <= 0 <= line[f"{gain}_high"]
        assert line[f"{gain}_verdict"] == "not told apart"
    assert abs(line["correlation"]) < 0.1


def test_sentences_name_both_with_their_intervals():
    rows = pd.concat([planted_rows("gradient"), planted_rows("random")], ignore_index=True)
    sentences = curve_findings(rows)
    assert sentences[0].startswith(
        "Deletion with a linear head, mean over data sets in points of area: better"
    )
    assert "better than at random: gradient +" in sentences[0]
    assert "; not told apart from random: random " in sentences[0] and sentences[0].count("[") == 2
    assert "gradient +" in sentences[2] and sentences[2].startswith("Rank correlation")
    # the planted head's gradient is a row of W, so it is the same for every image of a class
    assert sentences[-2].startswith("With a linear head, gradient gives all images of a class one mask")
    assert summary(rows).masks_per_class.tolist()[0] == 1


def test_a_choice_of_channels_that_tells_the_class_is_found():
    """Images without information: only the true class's own half of the channels is kept."""
    head = LinearHead(len(SEEDS), CHANNELS, 2)
    head.weight[:] = 0.1
    head.weight[:, 0, :6] = head.weight[:, 1, 6:] = 1.0
    x = torch.rand(60, CHANNELS, generator=torch.Generator().manual_seed(4))
    frames = [measured(head, x, torch.arange(60) % 2, name) for name in ("gradient", "random")]
    rows = placed(pd.concat(frames, ignore_index=True))
    lines = summary(rows).set_index("saliency")
    assert (
        lines.half.gradient > 30 and lines.half_low.gradient > 0 and lines.half_verdict["random"] != "better"
    )
    sentence = curve_findings(rows)[3]
    assert sentence.startswith("With a linear head, the most salient half of the channels gives a higher")
    assert "gradient +" in sentence and "random" not in sentence
    # the half that is chosen for the predicted class leaves the prediction as it is
    assert lines.true_class.gradient == pytest.approx(lines.half.gradient, abs=5)
    assert lines.true_class_low.gradient > 0 and lines.true_class["random"] == 0
    assert sentence.endswith("The choice of channels tells the head the true class with: gradient.")


def test_a_gain_without_the_class_is_not_put_down_to_it():
    """Channels with small activations mislead the head, so `activation` drops them whatever the class is."""
    head, labels = LinearHead(len(SEEDS), CHANNELS, 2), torch.arange(60) % 2
    x = torch.rand(60, CHANNELS, generator=torch.Generator().manual_seed(5))
    x[:, 6:] *= 0.5
    x[:, :6] += 1
    for label, (right, wrong) in enumerate([((0, 3), (6, 9)), ((3, 6), (9, 12))]):
        head.weight[:, label, slice(*right)] = 1.0
        head.weight[:, label, slice(*wrong)] = 5.0
        x[labels == label, slice(*right)] += 0.7
    rows = placed(measured(head, x, labels, "activation"))
    (line,) = summary(rows).to_dict("records")
    assert line["half_low"] > 10 and line["true_class"] == line["true_class_high"] == 0
    sentence = curve_findings(rows)[3]
    assert (
        "; ".join(sentence.split(": ")[1:]).startswith("activation +") and "+0.00 [+0.00, +0.00]" in sentence
    )
    assert "tells" not in sentence


def test_the_control_chooses_for_the_predicted_class(monkeypatch):
    """Also of random scores, which are drawn twice with equal bits, in several parts."""
    monkeypatch.setattr("sharc_core.studies.saliency_curves.measure.PART", 7)
    x, labels = images()
    labels = labels.roll(7)  # most predictions are wrong
    head = planted("mlp")
    points = (
        measured(head, x, labels, "gradient")
        .set_index(["sweep", "order", "seed", "share"])
        .accuracy.sort_index()
    )
    predicted = head.logits(x.expand(len(SEEDS), -1, -1)).argmax(2)
    ranks = ranks_of(SALIENCIES.get("gradient")(head, x.expand(len(SEEDS), -1, -1), predicted, 4, []))
    expected = curve(
        head, x.expand(len(SEEDS), -1, -1), labels.expand(len(SEEDS), -1), ranks, SHARES, INSERTION
    )
    found = points[INSERTION, PREDICTED].to_numpy().reshape(len(SEEDS), -1)
    np.testing.assert_allclose(found, expected)
    assert (DELETION, PREDICTED) not in points.index
    points = (
        measured(head, x, labels, "random")
        .set_index(["sweep", "order", "seed", "share"])
        .accuracy.sort_index()
    )
    assert points[INSERTION, PREDICTED].equals(points[INSERTION, SALIENT])


def test_an_inverted_saliency_is_worse(monkeypatch):
    true = SALIENCIES.get("gradient")
    entries = dict(SALIENCIES._entries) | {"random": lambda *given: 1 / (true(*given).abs() + 1e-3)}
    monkeypatch.setattr(SALIENCIES, "_entries", entries)
    rows = planted_rows("random")
    (line,) = summary(rows).to_dict("records")
    assert line["deletion_verdict"] == line["insertion_verdict"] == line["inverse_verdict"] == "worse"
    assert "worse than at random: random -" in curve_findings(rows)[0]


# --- measures by plain loops -------------------------------------------------------------------------


def test_curves_are_those_of_loops():
    x, labels = images(9)
    head, source = planted("mlp"), torch.Generator().manual_seed(2)
    scores = torch.randn(len(SEEDS), 9, CHANNELS, generator=source)
    ranks = ranks_of(scores)
    inputs, y = x.expand(len(SEEDS), -1, -1), labels.expand(len(SEEDS), -1)
    for sweep in (DELETION, INSERTION):
        found = curve(head, inputs, y, ranks, SHARES, sweep)
        for r in range(len(SEEDS)):
            for s, share in enumerate(SHARES):
                hits = 0
                for n in range(9):
                    order = sorted(range(CHANNELS), key=lambda k, r=r, n=n: -abs(float(scores[r, n, k])))
                    first = order[: removed_channels(share, CHANNELS)]
                    kept = first if sweep == INSERTION else [k for k in range(CHANNELS) if k not in first]
                    vector = torch.zeros(CHANNELS)
                    vector[kept] = x[n, kept]
                    logits = head.logits(vector.expand(len(SEEDS), 1, -1))[r, 0].tolist()
                    true = logits.pop(int(labels[n]))
                    hits += true > max(logits)
                assert found[r, s].item() == pytest.approx(100 * hits / 9)


def test_ranks_are_those_of_the_masks():
    scores = torch.tensor([[3.0, -4.0, 0.0, 3.0]])
    assert ranks_of(scores).tolist() == [[1, 0, 3, 2]], "by |score|, ties by number"
    assert [removed_channels(share, 10) for share in (0, 0.3, 0.7, 1)] == [0, 3, 7, 10]


def test_rank_correlation_is_scipys():
    source = torch.Generator().manual_seed(3)
    a = torch.randn(2, 5, 7, generator=source)
    b = torch.randint(0, 3, (2, 5, 7), generator=source).float()
    b[1, 4] = 2.0
    found = rank_correlations(centred_ranks(a), centred_ranks(b))
    for r in range(2):
        for n in range(5):
            if (r, n) == (1, 4):
                assert math.isnan(found[r, n])
            else:
                expected = scipy.stats.spearmanr(a[r, n].abs(), b[r, n].abs()).statistic
                assert found[r, n] == pytest.approx(expected)


def test_masks_are_counted_per_class():
    scores = torch.tensor([[[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [5.0, 0.0]]])
    assert masks_per_class(top_mask(scores, 0.5), torch.tensor([0, 0, 0, 1])) == [1.5]


def test_insertion_mirrors_deletion_in_the_inverse_order():
    """With zero for what is removed, keeping the first channels is deleting the last ones."""
    points = planted_rows("activation").set_index(["sweep", "order", "seed", "share"]).accuracy.sort_index()
    for share in SHARES:
        inserted = points[INSERTION, SALIENT].xs(share, level="share")
        assert inserted.equals(points[DELETION, INVERSE].xs(1 - share, level="share"))


def test_images_are_counted_equally_in_parts(monkeypatch):
    whole = planted_rows("gradient")
    monkeypatch.setattr("sharc_core.studies.saliency_curves.measure.PART", 7)
    parts = planted_rows("gradient")
    drawn = whole.order == RANDOM
    np.testing.assert_allclose(whole[~drawn].accuracy, parts[~drawn].accuracy)
    np.testing.assert_allclose(whole.correlation, parts.correlation)


# --- a job -------------------------------------------------------------------------------------------


def job_of(*saliencies: str, kind: str = "linear") -> CurveJob:
    cell = make_cell("joint").model_copy(update={"head": HeadConfig(kind=kind, hidden=8)})
    return CurveJob(
        cell=cell.model_dump(mode="json"),
        saliencies=list(saliencies),
        shares=[0.0, 0.5, 1.0],
        random_orders=2,
    )


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_heads_are_those_of_joint(kind):
    features, cell = make_features(), job_of(kind=kind).opened
    found, head = joint_head(features, cell)
    x = found.test_pooled.expand(len(cell.seeds), -1, -1)
    accs = accuracy(head, x, found.test_labels.expand(len(cell.seeds), -1))
    # JOINT's last row has the accuracy on each task; all tasks have equally many test images
    matrix = np.array(run_cell(features, cell)["matrix"]["class_il"], dtype=float)
    np.testing.assert_allclose(accs.numpy(), matrix[:, -1].mean(1))


def test_a_training_that_diverges_is_refused():
    cell = job_of(kind="mlp").opened
    cell = cell.model_copy(update={"training": cell.training.model_copy(update={"lr": 1e30})})
    with pytest.raises(UserError, match="the training diverged .* lower training.lr"):
        joint_head(make_features(), cell)


def test_rows_are_written_read_and_tabulated(tmp_path):
    lines, path = [], tmp_path / "linear.csv"
    rows = run_curves(make_features(), job_of("gradient", "random"), lines.append)
    types = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS).dtypes
    assert rows.dtypes.astype(str).to_dict() == types.astype(str).to_dict()
    pd.testing.assert_frame_equal(rows, run_curves(make_features(), job_of("gradient", "random")))
    assert lines == ["gradient, linear head", "random, linear head"]
    write_rows(rows, path, made_by(), "key")
    rows = read_rows(SaliencyCurves(), [path], ["key"])
    tables = write_curve_tables(rows, tmp_path, "c")
    assert [path.name for path in tables] == SaliencyCurves().table_names()
    text = tables[1].read_text()
    assert "## toy, toy" in text and "- Deletion with a linear head" in text and "Provenance" in text
    assert len(pd.read_csv(tables[0])) == 2
    (table,) = curve_tables(rows)
    assert [row[1].text for row in table.rows] == ["gradient", "random"]
    drawn = write_curve_figure(rows, tmp_path)
    assert [path.name for path in drawn] == SaliencyCurves().figure_names({})
    assert set(gains(rows).columns) >= {"deletion", "insertion", "inverse", "deletion_area"}


def test_one_seed_has_no_interval():
    rows = planted_rows("gradient")
    assert "without an interval, as there is one seed: gradient +" in curve_findings(rows[rows.seed == 0])[0]


def test_intervals_hold_for_all_comparisons_together():
    assert simultaneous(1) == 0.95 and simultaneous(5) == pytest.approx(0.99)
    kinds = [planted_rows(name, kind) for kind in ("linear", "mlp") for name in ("gradient", "random")]
    rows = pd.concat(kinds, ignore_index=True)
    other = rows.assign(dataset="other", accuracy=rows.accuracy * 0.9)
    for table, places in ((rows, 4), (pd.concat([rows, other], ignore_index=True), 8)):
        line = summary(table).iloc[0]
        own = gains(table).iloc[: len(SEEDS)]
        for gain in ("deletion", "insertion", "inverse", "half", "true_class"):
            half = scipy.stats.t.ppf(1 - 0.025 / (places * 5), len(SEEDS) - 1) * scipy.stats.sem(own[gain])
            assert line[f"{gain}_low"] == pytest.approx(own[gain].mean() - half)
            assert line[f"{gain}_high"] == pytest.approx(own[gain].mean() + half)
        assert f"all {places * 5} of the study's tables hold together" in curve_tables(table)[0].caption
    # the sentences are about means over data sets: 2 heads, 2 saliencies, 4 comparisons
    found, own = curve_findings(rows), gains(rows).iloc[: len(SEEDS)].deletion
    half = scipy.stats.t.ppf(1 - 0.025 / 16, len(SEEDS) - 1) * scipy.stats.sem(own)
    assert f"gradient {own.mean():+.2f} [{own.mean() - half:+.2f}, {own.mean() + half:+.2f}]" in found[0]
    assert found[-1].startswith("Intervals: Student-t over 6 seeds of the head; all 16, ")


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_five_percent_of_families_without_any_effect_are_told_apart(seeds):
    """Six independent saliencies without an effect; a percentile bootstrap errs in 20 to 99 % of families."""
    draws = np.random.default_rng(seeds).normal(size=(600, 6, seeds))
    ends = np.array([[interval(values, 6) for values in family] for family in draws])
    errs = ((ends[..., 0] > 0) | (ends[..., 1] < 0)).any(1).mean()
    assert 0.02 < errs < 0.08


# --- settings and jobs -------------------------------------------------------------------------------


def test_a_job_has_all_saliencies_of_a_head():
    grid = load_grid(BASE | {"saliency_curves": {"saliencies": ["gradient"], "seeds": [3]}})
    jobs = study_of(grid, "saliency_curves").jobs(grid)
    assert [job.name for job in jobs] == ["linear", "mlp"]
    cell = CurveJob.model_validate(dict(jobs[1].settings)).opened
    assert (cell.method, cell.seeds, cell.head.kind, cell.head.hidden) == ("joint", [3], "mlp", 256)
    every = study_of(load_grid(BASE), "saliency_curves").jobs(load_grid(BASE))
    assert all(job.settings["saliencies"] == SALIENCIES.names() for job in every)
    assert SaliencyCurves(CurveSettings(heads=["linear"])).jobs(grid) == [
        job for job in SaliencyCurves().jobs(grid) if job.name == "linear"
    ]


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"saliencies": ["gradiant"]}, r"unknown saliency 'gradiant' \(did you mean 'gradient'\?\)"),
        ({"saliencies": ["random", "random"]}, "'random' is listed twice"),
        ({"shares": [0.0, 0.5]}, "must rise from 0 to 1"),
        ({"shares": [0.0, 0.6, 0.5, 1.0]}, "must rise from 0 to 1"),
        ({"shares": [0.0, 1.0]}, "must contain 0.5"),
        ({"heads": ["cosinus"]}, "heads"),
        ({"random_orders": 0}, "random_orders"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: saliency_curves\..*{message}") as caught:
        load_grid(BASE | {"saliency_curves": block})
    assert "\n" not in str(caught.value)
