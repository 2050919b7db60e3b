"""The study `task_count` finds planted growth, falls to chance and gains; tables, figure and sentences."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import scipy

from sharc_core.studies.task_count.figure import count_figure
from sharc_core.studies.task_count.findings import sentences
from sharc_core.studies.task_count.settings import COLUMNS
from sharc_core.studies.task_count.summary import growth, summary
from sharc_core.studies.task_count.table import tables

SEEDS = range(3)
NOISE = np.array([0.0, 0.4, -0.4])  # by seed
LENGTHS = (10, 20, 100)  # costs planted here bend at 20 tasks
IMAGES = 1000  # of the tests of a run


def planted(
    method: str = "er",
    variant: str = "plain",
    power: float = 1.0,
    bytes_power: float = 1.0,
    acc_of=lambda tasks: 50.0,
    seeds=SEEDS,
    lengths=LENGTHS,
    **changes,
) -> list[dict]:
    """Rows of a cell whose costs do not grow up to 20 tasks, and then with a power of the tasks."""
    rows = []
    for tasks, seed in product(lengths, seeds):
        grown = max(20, tasks)
        row = {name: 0 if kind == "int64" else np.nan for name, kind in COLUMNS.items()}
        row |= {"dataset": "s_glyphs", "backbone": "tiny", "tasks": tasks, "classes": 2 * tasks}
        row |= {"method": method, "variant": variant, "seed": seed, "bwt": -5.0 - tasks / 10}
        row |= {"associative_memory": "mean" if variant == "sharc" else None, "test_images": IMAGES}
        row |= {"train_seconds": 0.01 * grown**power * (1 + seed), "test_seconds": 1e-3 * grown**3}
        row |= {"other_seconds": 0.25, "run_seconds": 0.5 * tasks, "peak_memory": 1e6 * tasks}
        row |= {"total_bytes": round(1000 * grown**bytes_power), "memory_growth": 2e6}
        for scenario, chance in (("task_il", 50.0), ("class_il", 50 / tasks)):
            accuracy = acc_of(tasks) + NOISE[seed]
            correct = round(accuracy * IMAGES / 100)
            own = {"scenario": scenario, "chance": chance, "acc": accuracy, "correct": correct}
            rows.append(row | own | changes)
    return rows


def frame(*cells: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for rows in cells for row in rows], columns=list(COLUMNS)).astype(COLUMNS)


def text_with(rows: pd.DataFrame, *words: str) -> str:
    (text,) = [text for text in sentences(rows) if all(word in text for word in words)]
    return text


# --- planted truths ----------------------------------------------------------------------------------


def test_the_growth_of_every_cost():
    rows = frame(
        planted("er", bytes_power=1.01),
        planted("gem", power=2.0),
        planted("derpp", power=0.5, bytes_power=1.8),
        planted("agem"),
    )
    unclear = (rows.method == "agem") & (rows.tasks == 100)
    rows.loc[unclear, "train_seconds"] *= 1 + rows.loc[unclear, "seed"]
    lines = growth(rows).set_index(["label", "cost"])
    assert set(lines.start) == {20} and set(lines.end) == {100}, "the two longest streams"
    time, kept = (lines.xs(cost, level="cost") for cost in ("training time", "bytes kept"))
    powers = {"ER": 1, "GEM": 2, "DER++": 0.5, "A-GEM": 1 + np.log(6) / 3 / np.log(5)}
    assert time.exponent.to_dict() == pytest.approx(powers)
    assert time.low["GEM"] == pytest.approx(2) == time.high["GEM"], "seeds are paired"
    assert (time.low["A-GEM"], time.high["A-GEM"]) == pytest.approx((1, 1 + np.log(3) / np.log(5)))
    words = {"ER": "linear", "GEM": "faster", "DER++": "slower", "A-GEM": "unclear"}
    assert time.verdict.to_dict() == words
    words = {"ER": "linear", "GEM": "linear", "DER++": "faster", "A-GEM": "linear"}
    assert kept.verdict.to_dict() == words, "labels and counters may add a little"
    assert lines.loc["ER", "testing time"].exponent == pytest.approx(3)
    assert lines.loc["ER", "other time"].exponent == pytest.approx(0)
    assert text_with(rows, "training time") == (
        "s_glyphs (tiny), training time (power of the number of tasks): grows faster than the number of "
        "tasks for GEM (2.00); is linear for ER (1.00); grows slower for DER++ (0.50); is unclear for "
        "A-GEM (1.37)."
    )
    assert "faster than the number of tasks for DER++ (1.80); is linear for ER (1.01)," in text_with(
        rows, "bytes kept"
    )


def test_a_fall_to_chance():
    """SGD ends at chance, which is below what its last task alone gives; CLS-ER, not run to the end, too."""
    falls = planted("sgd", acc_of=lambda tasks: 40.0 if tasks == 10 else 0.6)
    rows = frame(falls, planted("er"), planted("clser", acc_of=lambda tasks: 5.2, lengths=(10, 20)))
    rows = rows[rows.scenario == "class_il"]
    lines = summary(rows).set_index(["label", "tasks"])
    word = "not told apart"
    assert lines.over_chance.loc["SGD"].to_dict() == {10: "above", 20: "below", 100: word}
    assert lines.over_chance.loc["ER"].eq("above").all() and lines.over_last_task.loc["ER"].eq("above").all()
    assert lines.over_last_task.loc["SGD"].to_dict() == {10: "above", 20: "below", 100: "below"}
    first, second, third = sentences(rows)[:3]
    assert first == (
        "s_glyphs (tiny), Class-IL, 100 tasks of 2 classes (chance 0.50 %): the best ACC is 50.00 % (ER)."
    )
    place = "s_glyphs (tiny), Class-IL, each cell on its longest stream: "
    assert second == f"{place}not told apart from chance, or below it: SGD 0.60 % (100 tasks)."
    assert third == (
        f"{place}not above 100 % / tasks, which a model has that knows the last task alone: SGD 0.60 % (100 "
        "tasks), CLS-ER 5.20 % (20 tasks)."
    )
    assert text_with(rows, "not run") == "s_glyphs (tiny): not run on more than 20 tasks: CLS-ER."
    assert "Not run on more than 20 tasks: CLS-ER." in tables(rows)[0].caption
    above = text_with(rows[rows.method != "sgd"], "every cell")
    assert above == f"{place}every cell is above chance, the closest CLS-ER 5.20 % (20 tasks)."


def test_a_capped_cell_at_chance_is_named():
    capped = planted("sgd", acc_of=lambda tasks: 5.0, lengths=(10,))
    rows = frame(capped, planted("er"))
    text = text_with(rows, "Class-IL", "not told apart from chance")
    assert text.endswith("below it: SGD 5.00 % (10 tasks).")


def test_chance_is_a_binomial_test():
    """The p-value is that of scipy's exact test of the answers of all seeds, also with one seed."""
    rows = frame(planted("er", acc_of=lambda tasks: 6.3))
    line = summary(rows[rows.scenario == "class_il"]).set_index("tasks").loc[10]
    assert (line.correct, line.test_images) == (63 + 67 + 59, 3 * IMAGES)
    exact = scipy.stats.binomtest(int(line.correct), 3 * IMAGES, 0.05, alternative="greater").pvalue
    assert line.chance_p == pytest.approx(exact) and line.over_chance == "above"
    seed = summary(rows[(rows.scenario == "class_il") & (rows.seed == 0)]).set_index("tasks").loc[10]
    assert seed.over_chance == "not told apart" and 0.01 < seed.chance_p < 0.05, "two-sided"
    below = frame(planted("sgd", acc_of=lambda tasks: 10.0))
    assert set(summary(below[below.scenario == "task_il"]).over_chance) == {"below"}


def test_where_sharcs_gain_goes():
    """ER gains 4 points on 10 tasks, the same for every seed, and none on 100. GEM is lower, plain too."""
    sharc = planted("er", "sharc", acc_of=lambda tasks: 54.0 if tasks == 10 else 50.0)
    others = [planted("gem", acc_of=lambda t: 20.0), planted("gem", "sharc", acc_of=lambda t: 21.0)]
    rows = frame(planted("er"), sharc, *others)
    noisy = rows.index[(rows.variant == "sharc") & (rows.tasks == 100) & (rows.method == "er")]
    rows.loc[noisy, "acc"] -= 2 * (rows.loc[noisy, "acc"] - 50.0)  # the noise of the seeds, mirrored
    lines = summary(rows).set_index(["scenario", "label", "tasks"])
    short, long = (lines.loc["class_il", "ER + mean", tasks] for tasks in (10, 100))
    assert (short.gain, short.gain_low, short.gain_high) == pytest.approx((4, 4, 4))
    assert long.gain_low < 0 < long.gain_high and long.gain == pytest.approx(0)
    assert lines.loc["class_il", "GEM + mean", 100].gain == pytest.approx(1)
    text = text_with(rows, "Class-IL, ER + mean")
    assert "+4.00 [+4.00, +4.00] at 10 tasks" in text and text.endswith("(not told apart) at 100 tasks.")
    assert "+1.00 [+1.00, +1.00] at 100 tasks" in text_with(rows, "Class-IL, GEM + mean")
    assert np.isnan(lines.loc["class_il", "ER", 10].gain)


def test_what_forgetting_changes():
    """It costs a point with pcn, nothing with mean, in pairs of the same method and memory."""
    rows = frame(
        planted("er"),
        planted("er", "sharc"),
        planted("er", "sharc", forget_every=1),
        planted("er", "sharc", associative_memory="pcn", acc_of=lambda t: 40.0),
        planted("er", "sharc", associative_memory="pcn", acc_of=lambda t: 39.9 - t / 100, forget_every=1),
    )
    moved = (rows.associative_memory == "mean") & (rows.forget_every == 1) & (rows.tasks == 100)
    rows.loc[moved, "acc"] += rows.loc[moved, "seed"].map({0: 0.0, 1: 0.3, 2: -0.3})
    start = "s_glyphs (tiny), Class-IL, forgetting with"
    assert text_with(rows, start, "mean:") == (
        f"{start} mean: ACC is the same for every seed in 2 of 3 pairs, raised in 0 and lowered in 0; the "
        "largest change is +0.00 [+0.00, +0.00] (not told apart) (ER + mean, forgets every 1, 10 tasks)."
    )
    assert text_with(rows, start, "pcn:") == (
        f"{start} pcn: ACC is the same for every seed in 0 of 3 pairs, raised in 0 and lowered in 3; the "
        "largest change is -1.10 [-1.10, -1.10] (ER + pcn, forgets every 1, 100 tasks)."
    )
    assert not any("forgets every" in text for text in sentences(rows) if "against plain" in text)
    alone = rows[(rows.associative_memory != "mean") | (rows.forget_every == 1)]
    assert "ER + mean, forgets every 1 against plain: +0.00" in text_with(alone, "Class-IL, ER + mean")


def test_backward_transfer_and_the_largest_run():
    slow = planted("gem", bwt=-80.0, run_seconds=77.0)
    rows = frame(planted("er"), slow)
    assert text_with(rows, "Class-IL", "BWT") == (
        "s_glyphs (tiny), Class-IL, 100 tasks: BWT is between -80.00 (GEM) and -15.00 (ER)."
    )
    assert text_with(rows, "a run takes") == (
        "s_glyphs (tiny), 100 tasks: a run takes at most 77 s (GEM), and its process at most 100 MB (GEM)."
    )


def test_the_fields_of_the_tables():
    rows = frame(planted("er"), planted("er", "sharc", acc_of=lambda tasks: 54.0, seeds=(0, 1)))
    results, grown = tables(rows)
    line = dict(zip(results.flat_header, results.rows[-1], strict=True))
    assert {name: item.text for name, item in line.items()} == {
        "Tasks": "100",
        "Cell": "ER + mean",
        "Task-IL ACC": "54.20 ± 0.28",
        "Task-IL BWT": "-15.00 ± 0.00",
        "Task-IL SHARC - plain": "+4.00 [+4.00, +4.00]",
        "Class-IL ACC": "54.20 ± 0.28",
        "Class-IL BWT": "-15.00 ± 0.00",
        "Class-IL SHARC - plain": "+4.00 [+4.00, +4.00]",
        "bytes": "100 kB",
        "ms per task": "15.0",
        "test, s": "1000.0",
        "other, s": "0.2",
        "run, s": "50.0",
        "memory": "2.00 MB",
        "process": "100 MB",
    }
    assert "over 2 to 3 seeds" in results.caption
    names = [item.text for item in grown.rows[0]]
    assert names == ["ER", "20 and 100 tasks", "1.00", "linear", "3.00", "faster", "0.00", "slower"] + [
        "1.00", "linear",
    ]  # fmt: skip


def test_the_lines_of_the_figure():
    rows = frame(
        planted("er"),
        planted("er", "sharc", acc_of=lambda tasks: 54.0),
        planted("er", "sharc", acc_of=lambda tasks: 53.0, forget_every=1),
        planted("er", "sharc", associative_memory="pcn", acc_of=lambda tasks: 52.0, lengths=(10,)),
    )
    figure = count_figure(rows)
    accuracy, time, kept = (figure.axes[number] for number in (1, 2, 3))
    chance, plain, sharc = (line for line in accuracy.lines if len(line.get_xdata()) == 3)
    assert chance.get_ydata().tolist() == [5.0, 2.5, 0.5]
    assert plain.get_ydata().tolist() == pytest.approx([50.0] * 3) and plain.get_linestyle() == "--"
    assert sharc.get_ydata().tolist() == pytest.approx([54.0] * 3) and sharc.get_linestyle() == "-"
    assert (plain.get_markerfacecolor(), sharc.get_markerfacecolor()) == ("white", sharc.get_color())
    assert time.lines[0].get_ydata().tolist() == pytest.approx([40.0, 20.0, 20.0]), "milliseconds"
    assert kept.lines[0].get_ydata().tolist() == [20_000, 20_000, 100_000]
    assert "--" in [line.get_linestyle() for line in figure.legends[0].legend_handles]


def test_one_seed_has_no_interval():
    rows = frame(planted("er", power=3.0), planted("er", "sharc"))
    rows = rows[rows.seed == 0]
    assert set(growth(rows).verdict) == {"faster", "linear", "slower"}
    texts = [text for text in sentences(rows) if "against plain" in text]
    assert texts and all("[" not in text for text in sentences(rows))


def test_cells_without_a_common_seed_have_no_growth():
    rows = frame(planted("er", lengths=(20,), seeds=[0]), planted("er", lengths=(100,), seeds=[1]))
    assert growth(rows).empty and not any("nan" in text.lower() for text in sentences(rows))
    other = frame(planted("gem", seeds=[0]))
    assert set(growth(pd.concat([rows, other])).label) == {"GEM"}


def test_a_single_length_has_no_growth():
    rows = frame(planted("er"))
    rows = rows[rows.tasks == 10]
    assert growth(rows).empty and len(tables(rows)) == 1 and len(sentences(rows)) == 7
