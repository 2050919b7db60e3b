"""The study `capacity`: theory against iteration and simulation, planted capacities, files."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
import yaml
from result_factory import made_by
from test_config import BASE

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.studies.capacity import Capacity
from sharc_core.studies.capacity import measure as measuring
from sharc_core.studies.capacity.figure import write_capacity_figure
from sharc_core.studies.capacity.measure import (
    binary_points,
    failing,
    half_known,
    new_memory,
    run_capacity,
    sphere,
    write,
)
from sharc_core.studies.capacity.settings import (
    CLASSICAL,
    COLUMNS,
    HALF,
    HEBBIAN,
    MODERN,
    PATTERN,
    PREDICTIVE,
    PROJECTION,
    CapacityJob,
    CapacitySettings,
)
from sharc_core.studies.capacity.table import (
    ABOVE,
    BELOW,
    capacities,
    crossing,
    growths,
    other_levels,
    sentences,
    summary,
    tables,
    write_capacity_tables,
)
from sharc_core.studies.capacity.theory import (
    critical_load,
    failures,
    load_at,
    log_patterns,
    retrieved,
    shannon,
)
from sharc_core.studies.registered import configured_jobs, study_of
from sharc_core.studies.rows import read_rows, write_rows

ROOT = Path(__file__).parents[1]
SMALL = CapacitySettings(
    units=[40, 80],
    loads=[0.05, 0.15, 0.3],
    projection_loads=[0.2, 0.5, 1.0],
    updates=10,
    known=[2, 4],
    most_patterns=64,
    memories=["pcn"],
    entries=16,
    hidden=[2, 4],
    counts=[2, 8, 32],
    maps=8,
    hidden_maps=4,
    seeds=[0, 1],
)


def job(memory: str = CLASSICAL, study: CapacitySettings = SMALL, **settings) -> CapacityJob:
    complete = ASSOCIATIVE_MEMORIES.get(memory).Settings.model_validate(settings).model_dump()
    return CapacityJob(
        dataset="toy",
        backbone="net",
        part=memory if memory in (CLASSICAL, MODERN) else PREDICTIVE,
        memory=memory,
        kind=memory,
        settings=complete,
        study=study,
    )


def changed(**values) -> CapacitySettings:
    return CapacitySettings.model_validate(SMALL.model_dump() | values)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- theory ----------------------------------------------------------------------------------------------


def test_the_critical_load_is_that_of_amit_gutfreund_and_sompolinsky():
    assert critical_load() == pytest.approx(0.1379, abs=1e-4)
    loads, errors = retrieved()
    assert errors[0] == pytest.approx(0.016, abs=5e-4)  # their share of wrong units at the critical load
    assert (np.diff(loads) < 0).all() and (np.diff(errors) < 0).all()


@pytest.mark.parametrize(
    ("load", "clamped"), [(0.1, 0.0), (0.13, 0.0), (0.2, 0.5), (0.4, 0.5), (0.3, 0.3), (0.13, 0.1)]
)
def test_retrieved_states_solve_the_mean_field_equations(load, clamped):
    """Iterate overlap m, susceptibility C and noise r to their fixed point instead."""
    m, free = 1.0, 1 - clamped
    c = 0.0
    for _ in range(20000):
        r = 1 / (1 - c) ** 2
        x = m / math.sqrt(2 * load * r)
        m = clamped + free * math.erf(x)
        c = 0.9 * c + 0.1 * free * math.sqrt(2 / (math.pi * load * r)) * math.exp(-(x**2))
    expected = math.erfc(m / math.sqrt(2 * load) * (1 - c)) / 2
    loads, errors = retrieved(clamped)
    assert np.interp(-load, -loads, errors) == pytest.approx(expected, rel=1e-3)
    assert load_at(expected, clamped) == pytest.approx(load, rel=1e-3)


@pytest.mark.parametrize("clamped", [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.9])
def test_loads_and_errors_fall_for_every_share_of_held_units(clamped):
    loads, errors = retrieved(clamped)
    assert (np.diff(loads) < 0).all() and (np.diff(errors) < 0).all() and len(loads) > 4000


def test_beyond_the_collapse_the_load_is_the_critical_one():
    assert load_at(0.03) == load_at(0.4) == critical_load()


@pytest.mark.parametrize(("patterns", "known", "noise"), [(10, 4, 1.0), (40, 3, 0.3), (2, 2, 2.0)])
def test_failures_are_those_of_a_simulation(patterns, known, noise):
    draws = np.random.default_rng(0)
    points = draws.normal(size=(4000, patterns, known))
    points *= math.sqrt(known) / np.linalg.norm(points, axis=2, keepdims=True)
    cues = points[:, 0] + noise * draws.normal(size=(4000, known))
    distances = ((points - cues[:, None]) ** 2).sum(2)
    simulated = (distances.argmin(1) > 0).mean()
    assert failures(math.log(patterns), known, noise) == pytest.approx(simulated, abs=0.025)


@pytest.mark.parametrize("noise", [0.7, 1.0])
def test_many_entries_have_shannons_capacity(noise):
    slope = (log_patterns(300, noise) - log_patterns(150, noise)) / 150
    assert slope == pytest.approx(shannon(noise), abs=0.01)
    assert failures(log_patterns(10, noise), 10, noise) == pytest.approx(0.5)


# --- classical network -----------------------------------------------------------------------------------


def test_a_free_network_is_the_textbook_network():
    """The points of our class equal those of a network that is written out here."""
    size, count = 60, 9
    study = changed(maps=9, updates=30)
    found = list(binary_points(job(study=study), 3, size, count, HEBBIAN, (PATTERN,)))
    draws = measuring.generator(3, "capacity", CLASSICAL, HEBBIAN, size, count)
    patterns = (2 * torch.randint(2, (count, size), generator=draws) - 1).numpy().astype(float)
    weights = patterns.T @ patterns / size
    np.fill_diagonal(weights, 0)
    wrong = 0
    for pattern in patterns:
        state = pattern.copy()
        for _ in range(30):
            field = weights @ state
            state = np.where(np.abs(field) < 1e-9, state, np.sign(field))
        wrong += (state != pattern).sum()
    assert wrong > 0, "the load is high enough for errors"
    assert found[0]["error"] == pytest.approx(wrong / (count * size))


def test_errors_of_a_network_follow_the_theory_with_half_of_the_units_held():
    study = changed(maps=100, updates=50)
    for load in (0.2, 0.3):
        (row,) = binary_points(job(study=study), 0, 600, round(load * 600), HEBBIAN, (HALF,))
        loads, errors = retrieved(0.5)
        assert row["error"] == pytest.approx(np.interp(-load, -loads, errors), rel=0.25)


def test_the_projection_rule_returns_few_patterns_exactly():
    (row,) = binary_points(job(), 0, 100, 10, PROJECTION, (HALF,))
    assert row["error"] == 0 and row["rule"] == PROJECTION


def test_a_half_is_half_of_every_row():
    known = half_known(20, 9, source())
    assert (known.sum(1) == 4).all() and len(known.unique(dim=0)) > 10


# --- modern network and hidden units ---------------------------------------------------------------------


def test_points_of_the_sphere_have_its_radius():
    points = sphere(50, 12, source())
    assert torch.equal(points, points.half().float())
    torch.testing.assert_close(points.norm(dim=1), torch.full((50,), 12**0.5), rtol=1e-3, atol=0)


def test_cues_fail_if_another_pattern_is_nearer():
    one = new_memory(job(MODERN), 4, 0)
    stored = torch.tensor([[1.0, 1, 5, 5], [-1, -1, 7, 7]])
    write(one, stored)
    assert not failing(one, stored, 2, 1e-3, source()).any()
    swapped = torch.cat([-stored[:, :2], stored[:, 2:]], 1)  # nearer to the other pattern
    assert failing(one, swapped, 2, 1e-3, source()).all()
    much = torch.cat([failing(one, stored, 2, 1e4, source(seed)) for seed in range(100)])
    assert much.double().mean() == pytest.approx(0.5, abs=0.12)


def test_failures_of_the_modern_network_are_those_of_theory():
    study = changed(known=[6, 10], most_patterns=256, maps=256, seeds=[*range(6)])
    rows = run_capacity(job(MODERN, study))
    means = rows[rows.patterns >= 64].groupby(["size", "patterns"]).error.mean()
    for (size, patterns), error in means.items():
        assert error == pytest.approx(failures(math.log(patterns), size, 1.0), abs=0.05), (size, patterns)


def test_no_more_patterns_are_stored_once_the_cues_fail():
    rows = run_capacity(job(MODERN, changed(known=[2, 3], most_patterns=2**12, maps=200, seeds=[0])))
    rows = rows[rows["size"] == 2]
    assert (rows.error[:-1] < 0.9).all() and rows.error.iloc[-1] >= 0.9
    assert rows.patterns.tolist() == [2**n for n in range(1, len(rows) + 1)]


def test_more_hidden_units_hold_more_patterns():
    study = changed(entries=32, hidden=[4, 16], counts=[4, 16], hidden_maps=16, seeds=[0])
    error = run_capacity(job("pcn", study)).set_index(["hidden", "patterns"]).error
    assert error[16, 4] < 0.05 and error[4, 16] > 0.3 and error[16, 16] < error[4, 16]


def test_a_memory_that_fails_has_a_reason(monkeypatch):
    def refuse(*_):
        raise UserError("what it learnt is not finite")

    monkeypatch.setattr(measuring, "write", refuse)
    rows = run_capacity(job("pcn"))
    assert rows.error.isna().all() and set(rows.reason) == {"what it learnt is not finite"}
    assert set(summary(rows, SMALL).reason) == {"what it learnt is not finite"}
    assert growths(rows, SMALL) == []


@pytest.mark.parametrize("memory", [CLASSICAL, MODERN, "autoencoder"])
def test_equal_jobs_have_equal_rows_and_seeds_do_not_depend_on_each_other(memory):
    settings = {"steps": 5} if memory == "autoencoder" else {}
    both = run_capacity(job(memory, **settings))
    alone = run_capacity(job(memory, changed(seeds=[1]), **settings))
    assert list(both.columns) == list(COLUMNS)
    pd.testing.assert_frame_equal(both[both.seed == 1].reset_index(drop=True), alone)


# --- planted capacities ----------------------------------------------------------------------------------


def log_of(*arguments) -> float:
    return crossing(*arguments).log_patterns


def test_crossings_by_hand():
    assert log_of([1, math.e], [0.0, 1.0], 0.5) == pytest.approx(0.5)
    assert log_of([1, math.e, math.e**2], [0.0, 0.25, 0.75], 0.5) == pytest.approx(1.5)
    # an error that is high for few patterns as well, and one that falls again
    found = crossing([1, math.e, math.e**2], [0.9, 0.0, 1.0], 0.5)
    assert found.log_patterns == pytest.approx(1.5) and found.is_high_before
    # pooled to 0, 0.6, 0.6, 1
    found = crossing([1, math.e, math.e**2, math.e**3], [0.0, 0.8, 0.4, 1.0], 0.5)
    assert found.log_patterns == pytest.approx(5 / 6)
    assert (found.lower, found.upper) == (1, math.e) and not found.is_high_before
    assert math.isnan(log_of([1, 2], [0.1, 0.2], 0.5)) and math.isnan(log_of([1, 2], [0.6, 0.7], 0.5))


def jumping(at: dict[int, float]) -> pd.DataFrame:
    """Return rows of one memory whose errors jump from 0 to 1 at a number of patterns, by seed."""
    line = {"part": PREDICTIVE, "memory": "mine", "rule": None, "cue": HALF, "size": 128, "hidden": 16}
    lines = [
        line | {"seed": seed, "patterns": count, "error": float(count >= jump), "reason": None}
        for seed, jump in at.items()
        for count in (4, 8, 16, 32)
    ]
    return pd.DataFrame(lines).astype({"hidden": "Int64"})


def test_a_step_that_all_seeds_share_is_given():
    (line,) = summary(jumping({0: 9, 1: 16}), SMALL).to_dict("records")  # both between 8 and 16
    assert (line["step_low"], line["step_high"]) == (8, 16)
    assert line["low"] == line["high"] == line["capacity"], "an interval over seeds does not cover the step"
    text = "\n".join(sentences(jumping({0: 9, 1: 16}), SMALL))
    assert "in the step 8 to 16" in text and "too." not in text
    (line,) = summary(jumping({0: 9, 1: 17}), SMALL).to_dict("records")
    assert math.isnan(line["step_low"]) and "in the step" not in "\n".join(
        sentences(jumping({0: 9, 1: 17}), SMALL)
    )


def test_errors_above_the_level_for_fewer_patterns_are_marked():
    rows = jumping({0: 16, 1: 16})
    rows.loc[(rows.seed == 1) & (rows.patterns == 4), "error"] = 0.9
    (line,) = summary(rows, SMALL).to_dict("records")
    assert line["high_before"] == 1
    assert "]* in the step 8 to 16. *: it is above 0.5 for fewer patterns, too." in sentences(rows, SMALL)[0]
    table = tables(rows, SMALL)[0]
    assert table.rows[0][3].text.endswith("*") and table.rows[0][4].text == "8 to 16"


def test_the_load_of_infinitely_many_units_is_given_for_other_levels():
    rows = planted(CLASSICAL, CLASSICAL, lambda size: 0.138 * size, [250, 500, 1000])
    found = {growth.name: growth for growth in other_levels(rows)}
    # the error rises by 0.1 per unit of log P and is 0.03 at 0.138 N
    for level in (0.016, 0.1, 0.15):
        growth = found[f"load P / N at {100 * level:g} %, extrapolated to 1 / N = 0"]
        assert growth.mean == pytest.approx(0.138 * math.exp((level - 0.03) / 0.1), rel=0.05)
        assert growth.theory == load_at(level)
    assert "load P / N at 10 %, extrapolated" in "\n".join(sentences(rows, SMALL))


def planted(part: str, memory: str, capacity_of, sizes: list[int], seeds: int = 5) -> pd.DataFrame:
    """Return rows whose error rises by 0.1 per unit of log P and crosses its level at capacity_of(size)."""
    level, draws, lines = {CLASSICAL: 0.03, MODERN: 0.5, PREDICTIVE: 0.5}[part], np.random.default_rng(0), []
    for seed in range(seeds):
        for size in sizes:
            centre = math.log(capacity_of(size)) + 0.02 * draws.normal()
            for step in (-1, 0.5, 2):
                patterns = math.exp(centre + step)
                line = {
                    "part": part,
                    "memory": memory,
                    "rule": None,
                    "cue": HALF,
                    "seed": seed,
                    "reason": None,
                }
                line |= {"size": size, "hidden": pd.NA, "patterns": patterns, "error": level + 0.1 * step}
                if part == CLASSICAL:
                    line |= {"rule": HEBBIAN, "cue": PATTERN}
                if part == PREDICTIVE:
                    line |= {"size": 128, "hidden": size}
                lines.append(line)
    return pd.DataFrame(lines).astype({"hidden": "Int64"})


def test_planted_capacities_and_their_intervals_are_found():
    rows = planted(CLASSICAL, CLASSICAL, lambda size: 0.15 * size, [250, 1000])
    lines = summary(rows, SMALL).set_index("size")
    for size in (250, 1000):
        own = capacities(rows).query("size == @size").load
        assert lines.capacity[size] == pytest.approx(0.15, rel=0.03)
        half = scipy.stats.t.ppf(0.975, 4) * own.std(ddof=1) / math.sqrt(5)
        assert lines.low[size] == pytest.approx(own.mean() - half)
        assert lines.high[size] == pytest.approx(own.mean() + half)
        assert lines.theory[size] == critical_load() and not lines.is_theory_inside[size]
    (growth,) = growths(rows, SMALL)
    assert growth.mean == pytest.approx(0.15, rel=0.05)
    text = "\n".join(sentences(rows, SMALL))
    assert (
        "(theory 0.138, outside the interval for N = 250, 1000)" in text
        and "theory 0.138 (outside the interval)" in text
    )


def test_finite_networks_are_extrapolated():
    rows = planted(CLASSICAL, CLASSICAL, lambda size: (0.138 + 5 / size) * size, [250, 500, 1000])
    (growth,) = growths(rows, SMALL)
    low, high = growth.interval
    assert low < 0.138 < high and high - low < 0.02
    assert "theory 0.138 (not told apart)" in "\n".join(sentences(rows, SMALL))


def test_planted_exponential_growth_is_found():
    rows = planted(MODERN, MODERN, lambda size: math.exp(log_patterns(size, 1.0)), [4, 8, 12])
    assert summary(rows, SMALL).capacity.to_numpy() == pytest.approx(
        [log_patterns(size, 1.0) for size in (4, 8, 12)], abs=0.05
    )
    (growth,) = growths(rows, SMALL)
    low, high = growth.interval
    assert low < growth.theory < high
    faster = planted(MODERN, MODERN, lambda size: math.exp(0.6 * size), [4, 8, 12])
    (growth,) = growths(faster, SMALL)
    assert growth.mean == pytest.approx(0.6, abs=0.02) and not growth.interval[0] < growth.theory


@pytest.mark.parametrize(("exponent", "words"), [(1, "not told apart"), (2, "outside the interval")])
def test_planted_exponents_are_found(exponent, words):
    rows = planted(PREDICTIVE, "mine", lambda hidden: 3 * hidden**exponent, [8, 16, 32])
    (growth,) = growths(rows, SMALL)
    assert growth.mean == pytest.approx(exponent, abs=0.1) and math.isnan(growth.theory)
    lines = summary(rows, SMALL)
    assert lines.capacity.to_numpy() == pytest.approx(3 * np.array([8, 16, 32]) ** exponent, rel=0.05)
    assert ((lines.low > 0) & (lines.low < lines.capacity) & (lines.capacity < lines.high)).all()
    assert f"proportional (1) is {words}" in sentences(rows, SMALL)[-1]


def test_capacities_that_are_not_reached_say_why():
    rows = planted(PREDICTIVE, "mine", lambda hidden: 3 * hidden, [8, 16])
    rows.loc[(rows.hidden == 8) & (rows.seed == 0), "error"] = 0.1
    rows.loc[rows.hidden == 16, "error"] = 0.9
    lines = summary(rows, SMALL).set_index("hidden")
    assert lines.capacity.isna().all() and lines.reached.tolist() == [4, 0]
    assert lines.reason.tolist() == [ABOVE, BELOW]
    text = sentences(rows, SMALL)[0]
    assert "8 units not reached (4 of 5 seeds), 16 units error above the level (0 of 5 seeds)" in text
    assert growths(rows, SMALL) == []


# --- files and the grid ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("rows")
    paths = [folder / f"{name}.csv" for name in (CLASSICAL, MODERN, "pcn")]
    for path in paths:
        write_rows(run_capacity(job(path.stem)), path, made_by(), "key")
    return read_rows(Capacity(), paths, ["key"] * len(paths))


def test_rows_have_every_point(rows):
    counts = rows.groupby(["part", "cue"]).size()
    assert counts[CLASSICAL, PATTERN] == 2 * 2 * 3 and counts[CLASSICAL, HALF] == 2 * (2 * 3 + 3)
    assert counts[PREDICTIVE, HALF] == 2 * 2 * 3
    assert rows.error.between(0, 2).all() and rows.reason.isna().all()
    assert (rows.maps_read <= rows.patterns).all()
    assert set(rows[rows["rule"] == PROJECTION]["size"]) == {40}


def test_files_of_a_study(rows, tmp_path):
    for name in ("a", "b"):
        for path in write_capacity_tables(rows, SMALL, tmp_path / name, "c"):
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    assert all(path.is_file() for path in write_capacity_figure(rows, SMALL, tmp_path / "a", "c"))
    for table in tables(rows, SMALL):
        assert all(len(row) == len(table.header) == len(table.flat_header) for row in table.rows)
    csv = pd.read_csv(tmp_path / "a/capacity.csv", comment="#")
    assert len(csv) == 2 * 2 + 1 + 2 + 2


def test_there_is_a_job_per_memory_with_the_settings_of_the_grid():
    sharc = {"associative_settings": {"own": {"kind": "pcn", "layers": 3}}, "associative_memory": ["own"]}
    grid = load_grid(BASE | {"sharc": sharc, "capacity": {"memories": ["own", "autoencoder"]}})
    assert configured_jobs(grid) == {"capacity": 4}
    jobs = study_of(grid, "capacity").jobs(grid)
    assert [one.name for one in jobs] == [CLASSICAL, MODERN, "own", "autoencoder"]
    assert {one.dataset for one in jobs} == {next(iter(grid.datasets))}
    own = CapacityJob.model_validate(dict(jobs[2].settings))
    assert (own.part, own.kind, own.settings["layers"]) == (PREDICTIVE, "pcn", 3)
    fewer = load_grid(BASE | {"sharc": sharc, "capacity": {"memories": ["own"]}})
    assert study_of(fewer, "capacity").jobs(fewer) == jobs[:3], "a job does not depend on the other memories"
    changed_grid = load_grid(BASE | {"sharc": {"associative_settings": {"hopfield": {"rule": "hebbian"}}}})
    classical = study_of(changed_grid, "capacity").jobs(changed_grid)[0]
    assert classical.settings["settings"]["rule"] == PROJECTION, "Hopfield networks have their defaults"


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `capacity`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == CapacitySettings.model_fields.keys()
    assert CapacitySettings.model_validate(documented) == CapacitySettings()


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"loads": [0.2, 0.1]}, r"capacity.loads: must rise"),
        ({"units": [5]}, r"capacity.units"),
        ({"units": [10]}, r"capacity.loads: .*a load of 0.05 on 10 units is no pattern: raise it or units"),
        ({"units": [40, 80], "loads": [0.01, 0.1]}, r"capacity.loads: .*a load of 0.01 on 40 units"),
        ({"projection_loads": [0.001, 0.1]}, r"capacity.projection_loads: .*a load of 0.001 on 250 units"),
        ({"noise": 0}, r"capacity.noise"),
        ({"memories": ["pcn", "pcn"]}, r"'pcn' is listed twice"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=message) as caught:
        load_grid(BASE | {"capacity": block})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("memory", "message"),
    [("mean", "mean has no hidden units to vary: remove it"), ("pnc", "did you mean 'pcn'")],
)
def test_memories_that_do_not_fit_are_refused_before_any_job(memory, message):
    grid = load_grid(BASE | {"capacity": {"memories": [memory]}})
    with pytest.raises(UserError, match=rf"capacity.memories: .*{message}"):
        configured_jobs(grid)
