"""The recall study: measures compared with plain loops, sweeps on small features, files."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from factories import make_features
from pydantic import ValidationError
from result_factory import made_by

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.pooling import pool
from sharc_core.grid.cell import Training
from sharc_core.grid.loading import load_grid
from sharc_core.heads import LinearHead
from sharc_core.stages.layout import Layout
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream
from sharc_core.studies.recall import Recall
from sharc_core.studies.recall import measure as recall
from sharc_core.studies.recall.figures import write_picture_figure, write_recall_figures
from sharc_core.studies.recall.measure import (
    MEASURES,
    measure,
    noisy_cue,
    random_mask,
    run_recall,
    saliency_mask,
)
from sharc_core.studies.recall.pictures import digit_maps, recall_pictures
from sharc_core.studies.recall.settings import COLUMNS, RecallJob, RecallSettings
from sharc_core.studies.recall.table import summary, with_times, write_recall_tables
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import job_file, job_key, read_rows, write_rows

MADE_BY = made_by()
STUDY = RecallSettings(
    patterns=12,
    masked=[0.0, 0.5, 0.9],
    noise=[0.0, 0.5],
    counts=[4, 12, 30],
    later_tasks=[0, 1, 2],
    task_patterns=6,
    seeds=[0, 1],
)
FEATURES = make_features()
TIMES = ["write_seconds", "read_seconds"]


def make_job(memory="mean", study=STUDY, **settings) -> RecallJob:
    complete = ASSOCIATIVE_MEMORIES.get(memory).Settings.model_validate(settings).model_dump()
    return RecallJob(
        dataset="toy",
        tasks=3,
        class_order_seed=None,
        backbone="net",
        associative_memory=memory,
        associative_settings=complete,
        training=Training(),
        study=study,
    )


def changed(**values) -> RecallSettings:
    return RecallSettings.model_validate(STUDY.model_dump() | values)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    """The rows of four memories, written and read."""
    folder = tmp_path_factory.mktemp("rows")
    paths = [folder / f"{name}.csv" for name in ("none", "mean", "hopfield", "modern_hopfield")]
    for path in paths:
        write_rows(run_recall(FEATURES, make_job(path.stem)), path, MADE_BY, "key")
    return read_rows(Recall(), paths, ["key"] * len(paths))


def head_for(maps: torch.Tensor) -> LinearHead:
    head = LinearHead(1, maps.shape[1], 3)
    head.initialise([0])
    return head


def random_case(seed: int = 0):
    source = torch.Generator().manual_seed(seed)
    stored = torch.rand(7, 5, 2, 3, generator=source)
    mask = torch.rand(4, 5, generator=source) < 0.5
    mask[0] = False
    mask[:, 0] = True
    guess = stored[:4] + 0.3 * torch.randn(4, 5, 2, 3, generator=source)
    return stored, mask, torch.where(mask[:, :, None, None], stored[:4], guess)


# --- measures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_measures_are_those_of_plain_loops(seed):
    stored, mask, recalled = random_case(seed)
    head = head_for(stored)
    found = measure(recalled, stored, mask, head)
    true = stored[:4].double()
    mean = true.mean(0)
    error = spread = 0.0
    cosines, near, exact, agree = [], [], [], []
    deviation = true.flatten().std().item()
    for n in range(4):
        dot = a2 = b2 = worst = 0.0
        for k in range(5):
            if mask[n, k]:
                continue
            for i in range(2):
                for j in range(3):
                    a, b = recalled[n, k, i, j].double().item(), true[n, k, i, j].item()
                    error += (a - b) ** 2
                    spread += (b - mean[k, i, j].item()) ** 2
                    dot, a2, b2 = dot + a * b, a2 + a * a, b2 + b * b
                    worst = max(worst, abs(a - b))
        cosines.append(dot / math.sqrt(a2 * b2) if a2 else 1.0)
        exact.append(worst <= 1e-3 * deviation)
        distances = [(recalled[n].double() - s).square().sum().item() for s in stored.double()]
        near.append(min(range(7), key=distances.__getitem__) == n)
        logits = [head.logits(pool(m[None, None]))[0, 0] for m in (recalled[n], stored[n])]
        agree.append(logits[0].argmax() == logits[1].argmax())
    assert found["relative_error"] == pytest.approx(error / spread)
    assert found["cosine"] == pytest.approx(sum(cosines) / 4)
    assert found["nearest"] == sum(near) / 4
    assert found["exact"] == sum(exact) / 4
    assert found["agreement"] == sum(agree) / 4


def test_measures_by_hand():
    """Two maps have two single-pixel channels, of which the second is masked and swapped."""
    stored = torch.tensor([[1.0, 0.0], [1.0, 2.0]])[:, :, None, None]
    mask = torch.tensor([[True, False], [True, False]])
    found = measure(stored.flip(0), stored, mask, head_for(stored))
    # the error is 4 + 4 over a spread of 1 + 1; cosines are between 2 and 0 and between 0 and 2
    assert found["relative_error"] == 4.0
    assert found["cosine"] == 0.0
    assert found["nearest"] == 0.0 and found["exact"] == 0.0
    mean = torch.ones(2, 2, 1, 1)
    assert measure(mean, stored, mask, head_for(stored))["relative_error"] == 1.0


def test_a_perfect_recall():
    stored, mask, _ = random_case()
    for seen in (mask, torch.ones_like(mask)):
        found = measure(stored[:4], stored, seen, head_for(stored))
        assert found == {**dict.fromkeys(MEASURES, 1.0), "relative_error": 0.0}


def test_a_map_stored_twice_is_its_own_nearest():
    stored, mask, _ = random_case()
    stored[6] = stored[1]
    assert measure(stored[:4], stored, mask, head_for(stored))["nearest"] == 1.0


def test_exact_allows_a_thousandth_of_the_deviation():
    stored, mask, _ = random_case()
    step = stored[:4].std() * torch.where(mask, 0.0, 1.0)[:, :, None, None]
    head = head_for(stored)
    assert measure(stored[:4] + 0.9e-3 * step, stored, mask, head)["exact"] == 1.0
    assert measure(stored[:4] + 1.1e-3 * step, stored, mask, head)["exact"] < 1.0


# --- cues ----------------------------------------------------------------------------------------


def test_noise_of_its_size_on_observed_entries_only():
    source = torch.Generator().manual_seed(0)
    maps = 3 * torch.rand(50, 12, 4, 4, generator=source)
    mask = random_mask(50, 12, 0.5, seed=3)
    assert mask.sum(1).tolist() == [6] * 50
    seen = mask[:, :, None, None].expand_as(maps)
    assert torch.equal(noisy_cue(maps, mask, 0.0, 3), torch.where(seen, maps, 0.0))
    noisy = noisy_cue(maps, mask, 0.5, 3)
    assert (noisy[~seen] == 0).all()
    assert (noisy - maps)[seen].std() / maps.std() == pytest.approx(0.5, rel=0.05)


def test_saliency_keeps_the_channels_of_the_largest_weights():
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    head = recall.joint_head(FEATURES, stream, Training(), seed=0)
    index = torch.tensor([0, 100, 200])
    mask = saliency_mask(FEATURES, index, head, 0.75)
    for row, label in zip(mask, FEATURES.train_labels[index], strict=True):
        largest = head.weight[0, label].abs().topk(3).indices
        assert set(row.nonzero().flatten().tolist()) == set(largest.tolist())
    logits = head.logits(FEATURES.test_pooled[None])[0]
    assert (logits.argmax(1) == FEATURES.test_labels).double().mean() > 0.5, "the head has learnt something"


# --- sweeps --------------------------------------------------------------------------------------


def test_every_point_is_there(rows):
    counts = rows[rows.memory == "mean"].groupby(["seed", "sweep"]).size().unstack().to_dict("records")
    assert counts == [{"base": 1, "masked": 3 * 2, "noise": 2, "patterns": 3, "tasks": 3 * 2}] * 2
    assert rows.reason.isna().all()
    assert rows[[*MEASURES, "state_bytes", *TIMES]].notna().all(axis=None)
    assert rows.maps_read.le(rows.patterns).all()
    tasks = rows[rows.sweep == "tasks"]
    assert (tasks.patterns == 6 * (1 + tasks.later_tasks)).all() and (tasks.maps_read == 6).all()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ASSOCIATIVE_MEMORIES.names())
def test_any_registered_memory_is_measured(memory):
    study = changed(
        patterns=4, masked=[0.5], noise=[0.5], counts=[4], later_tasks=[1], task_patterns=2, seeds=[0]
    )
    found = run_recall(FEATURES, make_job(memory, study))
    assert len(found) == 1 + 2 + 1 + 1 + 2
    assert found.reason.isna().all() and found[list(MEASURES)].notna().all(axis=None)


def test_top_one_retrieval_is_perfect_on_clean_cues(rows):
    perfect = rows[(rows.memory == "modern_hopfield") & (rows.noise == 0)]
    assert (perfect.relative_error == 0).all() and (perfect[list(MEASURES[1:])] == 1).all(axis=None)
    stored = perfect.state_bytes / perfect.patterns
    assert (stored == FEATURES.train_maps[0].nbytes).all()


def test_unmasked_cues_are_recalled_perfectly_by_every_memory(rows):
    whole = rows[(rows.masked == 0) & (rows.noise == 0)]
    assert len(whole) == 4 * 2 * 2
    assert (whole.relative_error == 0).all() and (whole[list(MEASURES[1:])] == 1).all(axis=None)


def test_no_memory_has_the_error_of_zeros(rows):
    point = rows[(rows.memory == "none") & (rows.sweep == "masked") & (rows["mask"] == "random")]
    point = point[(point.masked == 0.5) & (point.seed == 1)].iloc[0]
    order = torch.randperm(240, generator=recall.generator(1, "recall", "order"))[:12]
    true = FEATURES.train_maps[order].double()
    unseen = ~random_mask(12, 12, 0.5, seed=1)[:, :, None, None].expand_as(true)
    expected = true[unseen].square().sum() / (true - true.mean(0))[unseen].square().sum()
    assert point.relative_error == pytest.approx(expected.item())
    assert point.cosine == 0 and point.state_bytes == 0


def test_equal_points_of_different_sweeps_agree(rows):
    """Noise 0, the share theta by saliency and the same number of maps occur in four sweeps."""
    for _, group in rows.groupby(["memory", "seed"]):
        same = group[(group["mask"] == "saliency") & (group.masked == 0.5) & (group.noise == 0)]
        same = same[(same.patterns == 12) & (same.sweep != "tasks")]
        assert sorted(same.sweep) == ["base", "masked", "noise", "patterns"]
        assert same[list(MEASURES)].drop_duplicates().shape[0] == 1


def test_same_seed_same_numbers(rows):
    again = run_recall(FEATURES, make_job("hopfield")).drop(columns=TIMES)
    before = rows[rows.memory == "hopfield"]
    for name in (*MEASURES, "state_bytes", "patterns"):
        assert again[name].tolist() == before[name].tolist(), name


def test_one_seed_alone_gives_what_it_gave_among_others(rows):
    alone = run_recall(FEATURES, make_job("mean", changed(seeds=[1])))
    before = rows[(rows.memory == "mean") & (rows.seed == 1)]
    assert alone.relative_error.tolist() == before.relative_error.tolist()


@pytest.mark.parametrize("memory", ["mean", "hopfield"])
def test_forgetting_by_zero_equals_not_forgetting(memory):
    def tasks(beta):
        found = run_recall(FEATURES, make_job(memory, changed(forget_beta=beta)))
        found = found[found.sweep == "tasks"]
        return [found[found.forgetting == how][list(MEASURES)].to_numpy() for how in (False, True)]

    without, with_nothing = tasks(0.0)
    assert (without == with_nothing).all()
    if memory == "hopfield":
        without, with_much = tasks(0.9)
        assert (without != with_much).any()


# --- what cannot be measured ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_memory_that_cannot_hold_the_maps_is_one_row_with_the_reason(tmp_path):
    found = run_recall(FEATURES, make_job("hopfield", max_bytes=100))
    assert len(found) == 1
    assert "hopfield cannot hold maps of 12 x 2 x 2" in found.reason[0]
    write_rows(found, tmp_path / "hopfield.csv", MADE_BY, "key")
    write_rows(run_recall(FEATURES, make_job("mean")), tmp_path / "mean.csv", MADE_BY, "key")
    both = read_rows(Recall(), [tmp_path / "hopfield.csv", tmp_path / "mean.csv"], ["key", "key"])
    write_recall_tables(both, STUDY, tmp_path)
    text = (tmp_path / "recall.md").read_text()
    assert "| hopfield |" in " ".join(text.split()) and "hopfield: associative memory hopfield cannot" in text
    assert len(write_recall_figures(both, tmp_path, ["masked"])) == 3
    write_recall_figures(both[both.memory == "hopfield"], tmp_path, ["patterns"])  # nothing to draw


def test_points_that_the_data_do_not_allow_say_why():
    study = changed(patterns=10, counts=[4, 1000], later_tasks=[1, 2, 3, 7], seeds=[0])
    found = run_recall(FEATURES, make_job("mean", study))
    refused = found[found.reason.notna()]
    assert refused[refused.sweep == "patterns"].patterns.tolist() == [1000]
    assert "240 training images" in refused[refused.sweep == "patterns"].reason.iloc[0]
    assert refused[refused.sweep == "tasks"].later_tasks.tolist() == [3, 7] * 2
    assert set(refused[refused.sweep == "tasks"].reason) == {"the stream has 3 tasks"}
    assert found[found.sweep == "tasks"].relative_error.notna().sum() == 2 * 2
    everything = changed(patterns=500, seeds=[0])
    base = run_recall(FEATURES, make_job("mean", everything))
    assert base[base.sweep.isin(["base", "masked", "noise"])].reason.notna().all()


# --- files ---------------------------------------------------------------------------------------


def test_rows_are_unchanged_by_writing_and_reading(tmp_path):
    before = run_recall(FEATURES, make_job("mean"))
    write_rows(before, tmp_path / "mean.csv", MADE_BY, "key")
    after = with_times(read_rows(Recall(), [tmp_path / "mean.csv"], ["key"]))
    assert list(COLUMNS) == list(before)
    for name in MEASURES:
        assert after[name].tolist() == before[name].tolist()
    assert after.read_ms.iloc[0] == pytest.approx(1000 * before.read_seconds[0] / 12)
    assert after.write_ms.iloc[-1] == pytest.approx(1000 * before.write_seconds.iloc[-1] / 18)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "mean.csv"
    monkeypatch.setattr("sharc_core.common.files.os.replace", lambda *_: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(RuntimeError):
        write_rows(run_recall(FEATURES, make_job("none", changed(seeds=[0]))), path, MADE_BY, "key")
    assert list(tmp_path.iterdir()) == []


def test_damaged_file_is_reported_by_name(tmp_path):
    (tmp_path / "mean.csv").write_text("a,b\n1,2\n")
    with pytest.raises(recall.UserError, match=r"mean\.csv has other columns"):
        read_rows(Recall(), [tmp_path / "mean.csv"], ["key"])
    with pytest.raises(recall.UserError, match="none.csv cannot be read"):
        read_rows(Recall(), [tmp_path / "none.csv"], ["key"])


def test_tables_contain_the_measured_means(rows, tmp_path):
    paths = write_recall_tables(rows, STUDY, tmp_path)
    assert [p.name for p in paths] == ["recall.csv", "recall.md", "recall.tex"]
    table = pd.read_csv(paths[0])
    assert table.memory.tolist() == ["none", "mean", "hopfield", "modern_hopfield"]
    base = rows[(rows.sweep == "base") & (rows.memory == "mean")].relative_error
    assert table.relative_error_mean[1] == pytest.approx(base.mean())
    assert table.relative_error_std[1] == pytest.approx(base.std())
    text = paths[1].read_text()
    assert "0.000 ± 0.000" in text and "100.0 ± 0.0" in text
    assert f"{base.mean():.3f} ± {base.std():.3f}" in text
    assert paths[2].read_text().count(r"\begin{tabular}") == 1
    alone = summary(with_times(rows[rows.seed == 0]))
    assert alone.relative_error_std.isna().all()


@pytest.mark.slow
def test_figures_are_repeatable(rows, tmp_path):
    first = write_recall_figures(rows, tmp_path / "a")
    second = write_recall_figures(rows, tmp_path / "b", ["masked"])
    assert {p.name for p in first} == {
        f"recall_{sweep}.{kind}"
        for sweep in ("masked", "noise", "patterns", "tasks")
        for kind in ("svg", "png", "pdf")
    }
    for one, two in zip(first[:3], second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


@pytest.mark.slow
def test_pictures_show_recalled_digits_and_errors(tmp_path):
    memories = {"none": {}, "mean": {}, "modern_hopfield": {}, "hopfield": {"max_bytes": 10}}
    found = recall_pictures(memories, count=8, side=10)
    lower, scattered = found
    assert lower.images.shape == (8, 10, 10)
    assert lower.seen[:, :5].all() and not lower.seen[:, 5:].any()
    assert scattered.seen.flatten(1).sum(1).tolist() == [50] * 8
    for recalls in found:
        assert torch.equal(recalls.recalled["modern_hopfield"], recalls.images)
        assert recalls.errors["modern_hopfield"] == 0 and recalls.errors["none"] > 1
        assert "cannot hold" in recalls.recalled["hopfield"]
        seen = recalls.seen
        assert torch.equal(recalls.recalled["mean"][seen], recalls.images[seen])
    paths = write_picture_figure(found, tmp_path)
    assert sorted(p.name for p in paths) == [f"recall_pictures.{kind}" for kind in ("pdf", "png", "svg")]


def test_digit_maps_are_digits():
    maps, labels = digit_maps(60, 16)
    assert maps.shape == (60, 256, 1, 1) and maps.dtype == torch.float16
    assert maps.min() == 0 and 0.9 < maps.max() <= 1
    assert set(labels.tolist()) == set(range(10))
    assert torch.equal(maps[:10], digit_maps(10, 16)[0])


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"masked": [1.0]},
        {"noise": [-0.1]},
        {"counts": []},
        {"seeds": [1, 1]},
        {"side": 3},
        {"forget_beta": 2.0},
    ],
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ValidationError):
        RecallSettings.model_validate(values)


def test_every_key_is_documented_with_its_default():
    text = (Path(__file__).parents[1] / "docs/config.md").read_text()
    text = text.split("\n## `recall`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented == RecallSettings().model_dump()


def test_grid_has_a_job_per_data_set_and_memory():
    grid = load_grid(
        {
            "datasets": {
                "a": {"source": "digits", "tasks": 5},
                "b": {"source": "glyphs", "classes": 10, "tasks": 2},
            },
            "backbone": {"arch": "resnet_small", "weights": "pretrain", "image_size": 32},
            "sharc": {
                "associative_memory": ["modern_hopfield", "mean"],
                "associative_settings": {"modern_hopfield": {"beta": 2.0}},
            },
            "recall": {"patterns": 9},
        }
    )
    study = study_of(grid, "recall")
    jobs = [RecallJob.model_validate(job.settings) for job in study.jobs(grid)]
    assert [(j.dataset, j.associative_memory, j.stream.tasks) for j in jobs] == [
        ("a", "modern_hopfield", 5),
        ("a", "mean", 5),
        ("b", "modern_hopfield", 2),
        ("b", "mean", 2),
    ]
    assert jobs[0].associative_settings["beta"] == 2.0 and jobs[0].study.patterns == 9
    job = study.jobs(grid)[3]
    assert job_file(study, job) == "recall/b/resnet_small-pretrain/mean.csv"
    assert "mean" in str(job.code[1]) and job.code[0] == "studies.recall.measure"
    layout = Layout(grid)
    keys = {job_key(study, job, layout) for job in study.jobs(grid)}
    assert len(keys) == 4
    more = load_grid(grid.model_dump() | {"methods": ["sgd"], "seeds": [7]})
    assert {job_key(study, job, Layout(more)) for job in study_of(more, "recall").jobs(more)} == keys
