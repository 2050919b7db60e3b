"""The study `heads`: planted differences, real cells, tables, figure, jobs, refusals."""

import numpy as np
import pandas as pd
import pytest
import yaml
from factories import make_cell, make_features
from result_factory import made_by
from snake import ROOT
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import HeadConfig
from sharc_core.grid.loading import load_grid
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.studies.heads import Heads
from sharc_core.studies.heads.comparison import Case, comparisons, summary
from sharc_core.studies.heads.figure import write_heads_figure
from sharc_core.studies.heads.measure import recency, run_heads
from sharc_core.studies.heads.settings import COLUMNS, HeadsJob, HeadsSettings
from sharc_core.studies.heads.table import heads_findings, heads_tables, write_heads_tables
from sharc_core.studies.registered import configured_jobs, study_of
from sharc_core.studies.rows import read_rows, write_rows

LINEAR = [60.0, 61.0, 59.0, 60.5]
# points above the linear head, and whether the seeds disagree on it
PLANTED = {
    ("plain", "linear", "none"): (0.0, False),
    ("plain", "linear", "weight_alignment"): (2.0, False),
    ("plain", "mlp", "none"): (-3.0, False),
    ("plain", "mlp", "weight_alignment"): (-3.0, True),
    ("plain", "cosine", "none"): (0.0, True),
    ("sharc", "linear", "none"): (1.0, False),
    ("sharc", "mlp", "none"): (-3.0, True),
}


def planted(dataset: str = "s_digits", method: str = "er") -> pd.DataFrame:
    rows = []
    for (variant, head, correction), (points, is_unsure) in PLANTED.items():
        for seed, (acc_, sign) in enumerate(zip(LINEAR, (1, -1, 1, -1), strict=True)):
            row = {"dataset": dataset, "backbone": "tiny", "cell": "x", "method": method, "variant": variant}
            row |= {"buffer": 20, "head": head, "correction": correction, "seed": seed}
            row["scale"] = 10.0 if head == "cosine" else 0.0
            rows.append(row | {"acc": acc_ + points + sign * (2.0 if is_unsure else 0.1), "recency": 10.0})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


# --- planted truths ----------------------------------------------------------------------------------


def test_planted_differences_are_found():
    lines = summary(planted()).set_index(["variant", "head", "correction"])
    assert lines.over_none_verdict["plain", "linear", "weight_alignment"] == "raised"
    assert lines.over_none["plain", "linear", "weight_alignment"] == pytest.approx(2.0)
    assert lines.over_none_verdict["plain", "mlp", "weight_alignment"] == "not told apart"
    assert lines.over_linear_verdict["plain", "mlp", "none"] == "lowered"
    assert lines.over_linear_verdict["plain", "cosine", "none"] == "not told apart"
    assert lines.over_plain["sharc", "linear", "none"] == pytest.approx(1.0)
    assert lines.over_plain_verdict["sharc", "mlp", "none"] == "not told apart"
    assert np.isnan(lines.over_none["plain", "linear", "none"])
    assert lines.over_linear["sharc", "mlp", "none"] == pytest.approx(-4.0), "of the same variant"


def test_sentences_name_sizes_and_intervals():
    heads, corrected, of_sharc, gains, counts = heads_findings(planted())
    assert heads == (
        "Class-IL, tiny, s_digits, ER: worse than the linear head: MLP -3.00 [-3.00, -3.00]. "
        "Not told apart from the linear head: cosine, scale 10 +0.00 [-3.49, +3.49]."
    )
    assert "better than the same head without correction: linear, weight alignment +2.00 [+2.00" in corrected
    assert "Not told apart from the same head without correction: MLP, weight alignment +0.00 [" in corrected
    # the interval of this one excludes zero, but Holm's correction for three comparisons does not
    assert of_sharc.endswith("ER+: not told apart from the linear head: MLP -4.00 [-7.49, -0.51].")
    assert "with plain replay (3, 2, 2); intervals are not corrected" in counts
    assert gains.startswith(
        "Class-IL, tiny, s_digits, ER with SHARC: better than plain replay with the same "
    )


def test_data_sets_are_averaged_seed_by_seed():
    other = planted("s_glyphs")
    other["acc"] += np.where(other["head"] == "cosine", 20.0, 0.0)
    rows = pd.concat([planted(), other], ignore_index=True)
    assert [made.dataset for made in comparisons(rows)] == ["s_digits", "s_glyphs", "all"]
    mean = comparisons(rows)[-1]
    test = mean.over(Case("er", "plain", "cosine", "none", 10.0), "linear")
    assert test.difference == pytest.approx(10.0) and test.low > 0
    assert "mean over data sets" in heads_findings(rows)[0] and len(heads_tables(rows)) == 1


def test_recency_is_the_last_task_against_the_others():
    matrix = np.zeros((2, 3, 3))
    matrix[0, -1], matrix[1, -1] = [10.0, 20.0, 90.0], [50.0, 50.0, 50.0]
    assert recency(matrix).tolist() == [75.0, 0.0]
    assert np.isnan(recency(np.ones((2, 1, 1)))).all()


# --- real cells --------------------------------------------------------------------------------------


def cell_of(kind: str, correction: str, variant: str = "plain"):
    return make_cell("er", variant, head=HeadConfig(kind=kind, hidden=8, bias_correction=correction))


def test_rows_are_those_of_the_learner(tmp_path):
    features, frames, lines = make_features(), [], []
    for kind, corrections in (("linear", ["none", "unclipped_alignment"]), ("cosine", ["none"])):
        cells = [cell_of(kind, name, variant) for name in corrections for variant in ("plain", "sharc")]
        job = HeadsJob(cells=[cell.model_dump(mode="json") for cell in cells])
        frames.append(run_heads(features, job, lines.append))
        for cell in cells:
            matrix = np.array(run_cell(features, cell)["matrix"]["class_il"], dtype=float)
            own = frames[-1][(frames[-1].variant == cell.variant)]
            own = own[own.correction == cell.head.bias_correction]
            np.testing.assert_array_equal(own.acc, acc(matrix))
            np.testing.assert_array_equal(own.recency, recency(matrix))
    assert len(lines) == 6 and "unclipped_alignment" in lines[2]
    paths = [tmp_path / "linear.csv", tmp_path / "cosine.csv"]
    for frame, path in zip(frames, paths, strict=True):
        assert list(frame.columns) == list(COLUMNS)
        write_rows(frame, path, made_by(), "key")
    rows = read_rows(Heads(), paths, ["key"] * 2)
    assert len(summary(rows)) == 6
    written = write_heads_tables(rows, tmp_path, "c")
    assert [path.name for path in written] == Heads().table_names()
    text = written[1].read_text()
    assert "## ER, toy" in text and "linear, unclipped alignment" in text and "\n- Class-IL, toy" in text
    assert "\\begin{table*}" in written[2].read_text()
    drawn = write_heads_figure(rows, tmp_path)
    assert [path.name for path in drawn] == Heads().figure_names({})
    (table,) = heads_tables(rows)
    assert all(len(row) == len(table.header) for row in table.rows)


# --- settings and jobs -------------------------------------------------------------------------------


def test_jobs_hold_all_corrections_of_a_head():
    grid = load_grid(BASE | {"heads": {"methods": ["er"], "buffer": 20, "seeds": [5], "scales": [3.0, 4.0]}})
    jobs = study_of(grid, "heads").jobs(grid)
    assert [job.name for job in jobs] == ["linear", "mlp", "cosine"]
    cells = [HeadsJob.model_validate(dict(job.settings)).opened for job in jobs]
    assert [(c.variant, c.head.bias_correction) for c in cells[1]] == [
        (variant, correction)
        for correction in ("none", "weight_alignment", "unclipped_alignment")
        for variant in ("plain", "sharc")
    ]
    assert [(c.head.kind, c.head.bias_correction, c.head.scale) for c in cells[2]] == [
        ("cosine", "none", scale) for scale in (3.0, 3.0, 4.0, 4.0)
    ]
    assert all(c.scenarios == ["class_il"] and c.seeds == [5] and c.buffer == 20 for c in sum(cells, []))
    assert configured_jobs(grid) == {"heads": 3} and configured_jobs(load_grid(BASE)) == {}


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `heads`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == HeadsSettings.model_fields.keys()
    assert HeadsSettings.model_validate(documented) == HeadsSettings()


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"heads": ["cosin"]}, "heads"),
        ({"corrections": ["weight_alignment"]}, "corrections are compared with none: add it"),
        ({"methods": ["er", "er"]}, "'er' is listed twice"),
        ({"scales": [0]}, "scales"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: heads\..*{message}") as caught:
        load_grid(BASE | {"heads": block})
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"methods": ["sgd"]}, "sgd does not train a head on the stream with replay: take it out"),
        ({"methods": ["err"]}, "unknown method 'err'"),
        ({"buffer": 3}, "buffers: 3 is smaller than the 5 tasks"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_planned(block, message):
    grid = load_grid(BASE | {"heads": {"buffer": 20} | block})
    for planned in (study_of(grid, "heads").jobs, configured_jobs):
        with pytest.raises(UserError, match=rf"^config: heads: .*{message}") as caught:
            planned(grid)
        assert "\n" not in str(caught.value)
