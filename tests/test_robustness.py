"""The study `robustness`: cues of their kinds, planted recalls and differences, files."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
import yaml
from factories import QUICK, make_features
from result_factory import made_by
from test_config import BASE

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Training
from sharc_core.grid.loading import load_grid
from sharc_core.heads import LinearHead
from sharc_core.streams.settings import StreamConfig
from sharc_core.studies.recall.measure import relative_error as recall_error
from sharc_core.studies.registered import configured_jobs, study_of
from sharc_core.studies.robustness import Robustness
from sharc_core.studies.robustness import measure as measuring
from sharc_core.studies.robustness.cues import Cues
from sharc_core.studies.robustness.figure import write_robustness_figure
from sharc_core.studies.robustness.measure import (
    Images,
    measure,
    nearest_rate,
    relative_error,
    run_robustness,
)
from sharc_core.studies.robustness.settings import (
    BLOCK,
    COLUMNS,
    CUES,
    MEASURES,
    NEW_CLASS,
    NEW_IMAGE,
    NOISE,
    OTHERS,
    RANDOM,
    RUN,
    SALIENCY,
    ZEROS,
    RobustnessJob,
    RobustnessSettings,
)
from sharc_core.studies.robustness.table import (
    ALL,
    difference_text,
    sentences,
    summary,
    tables,
    write_robustness_tables,
)
from sharc_core.studies.rows import read_rows, write_rows

ROOT = Path(__file__).parents[1]
MADE_BY = made_by()
FEATURES = make_features()  # 6 classes of 40 images, maps of 12 x 2 x 2
NAMES = ("none", "mean", "hopfield", "modern_hopfield")
STUDY = RobustnessSettings(thetas=[0.5], patterns=12, maps=8, slow=["hopfield"], slow_maps=4, seeds=[0, 1])


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def memories(*names: str) -> dict:
    settings = {name: ASSOCIATIVE_MEMORIES.get(name).Settings for name in names}
    quick = {name: kind.model_validate(QUICK.get(name, {})).model_dump() for name, kind in settings.items()}
    return {name: {"kind": name, **values} for name, values in quick.items()}


def job(**changes) -> RobustnessJob:
    values = {
        "dataset": "toy",
        "backbone": "net",
        "stream": StreamConfig(tasks=3),
        "training": Training(),
        "memories": memories(*NAMES),
        "study": STUDY,
    }
    return RobustnessJob(**(values | changes))


def changed(**values) -> RobustnessSettings:
    return RobustnessSettings.model_validate(STUDY.model_dump() | values)


# --- measures --------------------------------------------------------------------------------------------


def planted():
    """Return 6 maps, their labels, a head that reads the class off channels 0 to 2, and cues without them."""
    labels = torch.arange(6) % 3
    maps = 0.1 * torch.rand(6, 8, 2, 2, generator=source())
    maps[torch.arange(6), labels] += 5
    head = LinearHead(1, 8, 3)
    head.initialise([0])
    head.vector.zero_()
    head.weight[0, :3, :3] = torch.eye(3)
    known = torch.zeros(6, 8, 2, 2, dtype=torch.bool)
    known[:, 4:] = True  # what tells the class is missing
    return maps, labels, head, Cues(torch.where(known, maps, 0.0), known, torch.zeros_like(known))


def test_planted_recalls_have_the_planted_measures():
    maps, labels, head, cue = planted()
    stored, classes = maps[[0, 1, 3, 4]], torch.tensor([0, 1])
    perfect = measure(maps, maps, labels, cue, stored, classes, head)
    assert (perfect["relative_error"], perfect["accuracy"], perfect["nearest"]) == (0, 1, 1)
    assert perfect["stored_class"] == perfect["true_stored_class"] == pytest.approx(4 / 6)
    mean = torch.where(cue.known, maps, maps[[0, 1, 3, 4]].mean(0))
    assert measure(mean, maps, labels, cue, stored, classes, head)["relative_error"] == pytest.approx(1)
    # every cue returns the stored map of class 0 in what is missing
    first = torch.where(cue.known, maps, maps[0])
    found = measure(first, maps, labels, cue, stored, classes, head)
    assert found["accuracy"] == pytest.approx(2 / 6) and found["stored_class"] == 1
    assert found["nearest"] == pytest.approx(1 / 6) and found["true_accuracy"] == 1


def test_nearest_looks_at_missing_entries_only():
    true = torch.tensor([[0.0, 0.0]]).view(1, 2, 1, 1).double()
    stored = torch.tensor([[9.0, 1.0]]).view(1, 2, 1, 1).double()
    unseen = torch.tensor([False, True]).view(1, 2, 1, 1)
    for value, expected in ((0.4, 1), (0.6, 0), (0.5, 1)):
        recalled = torch.tensor([[0.0, value]]).view(1, 2, 1, 1).double()
        assert nearest_rate(recalled, true, unseen, stored) == expected


def test_the_error_is_that_of_the_recall_study_if_all_stored_maps_are_read():
    maps = torch.rand(9, 5, 2, 2, generator=source()).double()
    guess, unseen = maps + 0.3, torch.rand(9, 5, 2, 2, generator=source(1)) < 0.5
    assert relative_error(guess, maps, unseen, maps.mean(0)) == pytest.approx(
        recall_error(guess, maps, unseen)
    )


# --- a job -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("rows")
    for name, seed in (("a", 0), ("b", 1)):
        frame = run_robustness(make_features(seed=seed), job(dataset=name))
        write_rows(frame, folder / f"{name}.csv", MADE_BY, "key")
    return read_rows(Robustness(), [folder / "a.csv", folder / "b.csv"], ["key", "key"])


def point(rows: pd.DataFrame, memory: str, cue: str) -> pd.DataFrame:
    return rows[(rows.memory == memory) & (rows.cue == cue)]


def test_every_memory_has_every_cue_and_reads_what_it_should(rows):
    assert list(rows.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert rows.groupby(["dataset", "memory", "seed"]).cue.agg(list).map(lambda c: c == list(CUES)).all()
    measured = rows[rows.reason.isna()]
    assert measured[list(MEASURES)].notna().all(axis=None)
    assert (measured.missing == 0.5).all()
    assert set(measured[measured.memory == "hopfield"].maps_read) == {4}
    assert set(measured[measured.memory != "hopfield"].maps_read) == {8}
    of_none = measured[(measured.memory == "none") & measured.cue.isin([SALIENCY, ZEROS])]
    assert of_none.groupby(["dataset", "seed"]).relative_error.nunique().eq(1).all(), (
        "wrong values do not count"
    )


def test_perfect_retrieval_returns_stored_maps_for_every_cue(rows):
    for cue in (SALIENCY, RANDOM, RUN, BLOCK):
        found = point(rows, "modern_hopfield", cue)
        assert (found.relative_error == 0).all() and (found.nearest == 1).all()
    for cue in (NEW_IMAGE, NEW_CLASS):
        found = point(rows, "modern_hopfield", cue)
        assert (found.relative_error > 0.3).all() and (found.nearest == 0).all()
    found = point(rows, "modern_hopfield", NEW_CLASS)
    assert (found.true_stored_class < 1).all()


def test_class_means_of_a_class_that_is_not_stored_are_refused(rows):
    refused = point(rows, "mean", NEW_CLASS)
    assert refused.relative_error.isna().all() and refused.reason.str.contains("was never written").all()
    assert point(rows, "mean", NEW_IMAGE).reason.isna().all()


@pytest.mark.parametrize("seed", range(3))
def test_images_are_disjoint_and_of_the_right_classes(seed):
    labels = FEATURES.train_labels
    images = Images.draw(labels, 50, 20, seed)
    assert len(images.classes) == 3 and len(images.stored) == 50
    assert len(images.new_image) == len(images.new_class) == 20
    assert not set(images.stored.tolist()) & set(images.new_image.tolist())
    for index, expected in ((images.stored, True), (images.new_image, True), (images.new_class, False)):
        assert (torch.isin(labels[index], images.classes) == expected).all()


def test_too_few_images_are_one_line():
    with pytest.raises(UserError, match=r"too few for robustness.patterns 120: lower it"):
        run_robustness(FEATURES, job(study=changed(patterns=120)))


def test_equal_jobs_have_equal_rows_and_seeds_do_not_depend_on_each_other(rows):
    alone = run_robustness(make_features(seed=0), job(dataset="a", study=changed(seeds=[1])))
    before = rows[(rows.dataset == "a") & (rows.seed == 1)].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, before[list(COLUMNS)])


def test_slow_memories_read_the_first_cues_of_the_others(monkeypatch):
    """Draws for eight cues must not differ from those for four."""

    def cues(slow: list[str]) -> list[tuple[torch.Tensor, ...]]:
        read, original = [], measuring.read

        def spy(memory, cues, labels):
            read.append((cues.maps, cues.known, cues.wrong, labels))
            return original(memory, cues, labels)

        with monkeypatch.context() as patch:
            patch.setattr(measuring, "read", spy)
            run_robustness(FEATURES, job(study=changed(slow=slow, slow_maps=4), memories=memories("none")))
        return read

    fast, slow = cues([]), cues(["none"])
    assert len(fast) == len(slow) == 2 * len(CUES)
    for all_cues, first in zip(fast, slow, strict=True):
        assert [len(part) for part in all_cues] == [8] * 4 and [len(part) for part in first] == [4] * 4
        assert all(torch.equal(part[:4], own) for part, own in zip(all_cues, first, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSOCIATIVE_MEMORIES.names())
def test_any_registered_memory_is_measured(name):
    frame = run_robustness(FEATURES, job(study=changed(seeds=[0]), memories=memories(name)))
    measured = frame[frame.reason.isna()]
    assert set(CUES) - set(measured.cue) <= {NEW_CLASS}
    assert measured[list(MEASURES)].notna().all(axis=None)


def test_a_memory_that_refuses_the_maps_has_a_reason_everywhere():
    chosen = {"hopfield": {"kind": "hopfield", "max_bytes": 1}}
    frame = run_robustness(FEATURES, job(memories=chosen))
    assert len(frame) == 2 * len(CUES) and frame.reason.str.contains("limit max_bytes: 1").all()


# --- planted differences ---------------------------------------------------------------------------------


def planted_rows(effects: dict[str, float], noise: float = 0.01) -> pd.DataFrame:
    """Return rows of one memory on two data sets, with an error of 0.3 plus an effect by cue, five seeds."""
    draws, lines = np.random.default_rng(0), []
    for dataset in ("a", "b"):
        for seed in range(5):
            level = 0.3 + draws.normal() * 0.2  # common to all cues of a seed: pairing removes it
            for cue in CUES:
                error = level + effects.get(cue, 0.0) + draws.normal() * noise
                line = {"dataset": dataset, "backbone": "net", "memory": "mine", "seed": seed, "theta": 0.5}
                line |= {"cue": cue, "missing": 0.5, "wrong": 0.0, "patterns": 5, "maps_read": 5}
                line |= {"relative_error": error, "accuracy": 0.9 - effects.get(cue, 0.0), "nearest": 1.0}
                line |= {"stored_class": 0.5, "true_accuracy": 1.0, "true_stored_class": 0.5, "reason": None}
                lines.append(line)
    return pd.DataFrame(lines)


def test_planted_effects_are_told_apart_and_others_are_not():
    rows = planted_rows({RUN: 0.1, BLOCK: -0.1})
    lines = summary(rows)
    of_all = lines[lines.dataset == ALL].set_index("cue")
    verdicts = of_all.relative_error_verdict
    assert verdicts[RUN] == "raised" and verdicts[BLOCK] == "lowered"
    assert set(verdicts[[RANDOM, ZEROS, NOISE, NEW_IMAGE, NEW_CLASS]]) == {"not told apart"}
    assert of_all.accuracy_difference[RUN] == pytest.approx(-10)
    values = rows.pivot_table(index="seed", columns=["dataset", "cue"], values="relative_error")
    paired = (values["a"][RUN] + values["b"][RUN] - values["a"][SALIENCY] - values["b"][SALIENCY]) / 2
    half = scipy.stats.t.ppf(0.975, 4) * paired.std(ddof=1) / math.sqrt(5)
    line = of_all.loc[RUN]
    assert line.relative_error_difference == pytest.approx(paired.mean())
    assert line.relative_error_low == pytest.approx(paired.mean() - half)
    assert line.relative_error_high == pytest.approx(paired.mean() + half)
    text = "\n".join(sentences(rows))
    expected = difference_text(
        line.relative_error_difference, line.relative_error_low, line.relative_error_high
    )
    against = "(mean over data sets, theta 0.5), against salient channels: relative error"
    assert f"A run of channels missing {against} raised for mine {expected}" in text
    assert f"As many random channels {against} not told apart for mine" in text


def test_classes_of_recalled_maps_are_compared_with_those_of_the_true_maps():
    rows = planted_rows({})
    draws = 0.001 * np.random.default_rng(1).normal(size=len(rows))
    rows["accuracy"], rows["stored_class"] = rows.true_accuracy - 0.1 + draws, rows.true_stored_class - draws
    line = summary(rows).query("dataset == @ALL and cue == @NEW_CLASS").iloc[0]
    chosen = rows[rows.cue == NEW_CLASS]
    paired = 100 * (chosen.accuracy - chosen.true_accuracy).groupby(chosen.seed).mean()
    half = scipy.stats.t.ppf(0.975, 4) * paired.std(ddof=1) / math.sqrt(5)
    assert line.own_class_against_true_difference == pytest.approx(paired.mean())
    assert line.own_class_against_true_low == pytest.approx(paired.mean() - half)
    text = sentences(rows)[-1]
    assert "in points: own class lowered for mine -10 [" in text
    assert "stored class not told apart for mine." in text


def test_a_mean_over_data_sets_needs_all_of_them():
    rows = planted_rows({})
    rows.loc[(rows.dataset == "b") & (rows.cue == NEW_CLASS), list(MEASURES)] = np.nan
    of_all = summary(rows).query("dataset == @ALL").set_index("cue")
    assert (
        math.isnan(of_all.relative_error[NEW_CLASS]) and of_all.relative_error.drop(NEW_CLASS).notna().all()
    )
    one = planted_rows({}).query("dataset == 'a'")
    assert set(summary(one).dataset) == {"a"}


def test_one_seed_has_no_interval():
    text = "\n".join(sentences(planted_rows({RUN: 0.1}).query("seed == 0")))
    assert "without an interval, of one seed, mine +0.1" in text and "raised" not in text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.2814, 0.2, 0.36), "+0.28 [+0.20, +0.36]"),
        ((-0.00071, -0.001, 1e-9), "-0.00071 [-0.0010, 0]"),
        ((12.3, math.nan, math.nan), "+12"),
        ((math.nan, math.nan, math.nan), "–"),
    ],
)
def test_differences_have_two_significant_digits(numbers, text):
    assert difference_text(*numbers) == text


# --- files and the grid ----------------------------------------------------------------------------------


def test_files_of_a_study(rows, tmp_path):
    for name in ("a", "b"):
        for path in write_robustness_tables(rows, tmp_path / name, "c"):
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    assert all(path.is_file() for path in write_robustness_figure(rows, tmp_path / "a", "c"))
    made = tables(rows)
    assert len(made) == 3 * 3  # errors, accuracies and what comes back; the mean and two data sets
    for table in made:
        assert all(len(row) == len(table.header) == len(table.flat_header) for row in table.rows)
    text = (tmp_path / "a/robustness.md").read_text()
    assert "mean: associative memory mean: class" in text and len(sentences(rows)) == len(OTHERS) + 1
    csv = pd.read_csv(tmp_path / "a/robustness.csv", comment="#")
    assert len(csv) == 3 * len(NAMES) * len(CUES)


def test_jobs_have_the_memories_of_the_block_or_all():
    grid = load_grid(BASE | {"robustness": {"memories": ["mean", "none"]}})
    assert configured_jobs(grid) == {"robustness": len(grid.datasets)}
    settings = study_of(grid, "robustness").jobs(grid)[0].settings
    assert list(RobustnessJob.model_validate(dict(settings)).memories) == ["mean", "none"]
    sharc = {"associative_settings": {"own": {"kind": "pcn", "hidden": 7}}, "associative_memory": ["own"]}
    grid = load_grid(BASE | {"sharc": sharc, "robustness": {}})
    chosen = RobustnessJob.model_validate(dict(study_of(grid, "robustness").jobs(grid)[0].settings)).memories
    assert set(chosen) == {"own", *ASSOCIATIVE_MEMORIES.names()} and chosen["own"]["hidden"] == 7


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `robustness`")[1].split("\n## ")[0]
    keys, kinds = text.split("| `cue` |")
    lines = [line.split(" | ") for line in keys.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == RobustnessSettings.model_fields.keys()
    assert RobustnessSettings.model_validate(documented) == RobustnessSettings()
    named = [line.split("|")[1].strip(" `") for line in kinds.splitlines() if line.startswith("| `")]
    assert named == list(CUES)


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"slow": ["pnc"]}, r"robustness.slow: 'pnc' is no kind of associative memory"),
        ({"thetas": [0.0]}, r"robustness.thetas"),
        ({"thetas": [0.5, 0.5]}, r"0.5 is listed twice"),
        ({"wrong": 0}, r"robustness.wrong"),
        ({"seeds": []}, r"robustness.seeds"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=message) as caught:
        load_grid(BASE | {"robustness": block})
    assert "\n" not in str(caught.value)


def test_an_unknown_memory_is_refused_before_any_job():
    grid = load_grid(BASE | {"robustness": {"memories": ["hopfeild"]}})
    with pytest.raises(UserError, match=r"robustness.memories: .*did you mean 'hopfield'"):
        configured_jobs(grid)
