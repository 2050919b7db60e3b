"""Effects of protocols from synthetic runs with known gains and changes."""

import re

import pandas as pd
import pytest
from result_factory import constant_matrix, make_document

from sharc_core.grid.protocol import concerning
from sharc_core.learning.documents import selected
from sharc_core.report.protocol_effects import comparisons, protocol_findings, protocol_tables
from sharc_core.results.comparisons import paired
from sharc_core.results.published import COLUMNS, no_published
from sharc_core.results.runs import runs_table
from sharc_core.results.summary import blocks, model_label, summarise, varying_settings
from sharc_core.results.tables import main_tables

NOISE = (0.0, 1.0, -1.0)  # by seed, equal for plain and SHARC, so that intervals of gains stay narrow


def document(variant: str, protocol: str, accs: list[float], method: str = "er", **changes) -> dict:
    """Return a document of a protocol, with these ACC values by seed."""
    if "budget" in protocol or protocol == "code":
        changes = {"budget_unit": "nonzero"} | changes
    if variant == "sharc" and ("read" in protocol or protocol == "code"):
        changes = {"read": "at_store"} | changes
    matrix = constant_matrix(accs)
    matrices = {"task_il": matrix, "class_il": matrix}
    name = concerning(protocol, method, variant)
    return make_document(
        method, variant, protocol=name, matrices=matrices, scenarios=["class_il"], tasks=2, **changes
    )


def gaining(
    protocol: str, gains: list[float], method: str = "er", plain: float = 40.0, **changes
) -> list[dict]:
    """Return a plain and a SHARC document of one protocol; SHARC is better by `gains`, seed by seed."""
    without = [plain + noise for noise in NOISE]
    with_sharc = [a + gain for a, gain in zip(without, gains, strict=True)]
    return [
        document("plain", protocol, without, method, **changes),
        document("sharc", protocol, with_sharc, method, **changes),
    ]


def entries_of(*documents: list[dict]) -> list:
    unique = {}  # protocols that do not change the plain cell share it
    for one in sum(documents, []):
        cell = one["cell"]
        keys = ("dataset", "backbone", "method", "variant", "buffer", "protocol", "budget_unit", "theta")
        unique[tuple(cell[key] for key in keys)] = one
    return summarise(runs_table(list(unique.values())))


def paper_of(plain: float, sharc: float, method: str = "er") -> pd.DataFrame:
    common = ["class_il", "s_digits", 100, method]
    rows = [[*common, variant, acc, 1.0, -9.0, 1.0] for variant, acc in (("plain", plain), ("sharc", sharc))]
    return pd.DataFrame(rows, columns=COLUMNS)


KNOWN = (
    gaining("paper", [4.0, 5.0, 6.0]),
    gaining("paper+importance", [1.0, 2.0, 3.0]),  # smaller by 3 for every seed
    gaining("paper+budget", [9.0, 10.1, 10.9], plain=50.0),  # larger by 5, with little variation over seeds
    gaining("paper+read", [0.0, 5.0, 10.0]),  # equal on average, with much variation over seeds
    gaining("paper+forget", [4.0, 5.0, 6.0]),  # equal for every seed
    gaining("code", [2.0, 2.1, 1.9], plain=50.0),
)


def test_gains_and_changes_are_computed_seed_by_seed():
    (comparison,) = comparisons(entries_of(*KNOWN), paper_of(50.0, 58.0))
    assert comparison.published == 8.0
    gains = {e.protocol: e.pair.test.difference for e in comparison.effects}
    assert list(gains) == ["paper", "paper+importance", "paper+budget", "paper+read", "paper+forget", "code"]
    assert list(gains.values()) == pytest.approx([5, 2, 10, 5, 5, 2])
    changes = {e.protocol: e.change for e in comparison.effects if e.change}
    assert [change.difference for change in changes.values()] == pytest.approx([-3, 5, 0, 0, -3])
    # differences of differences: 5, 5.1 and 4.9, whose t interval is 5 -+ 4.3027 * 0.1 / sqrt(3)
    assert (changes["paper+budget"].low, changes["paper+budget"].high) == pytest.approx(
        (4.7516, 5.2484), abs=1e-4
    )
    assert {e.protocol: e.direction for e in comparison.effects[1:]} == {
        "paper+importance": -1,
        "paper+budget": 1,
        "paper+read": 0,
        "paper+forget": 0,
        "code": -1,
    }


def test_rounding_errors_are_no_change():
    again = gaining("paper+replay", [4.0, 5.0, 6.0], plain=30.2)
    assert 30.2 + 4.0 - 30.2 != 4.0
    (comparison,) = comparisons(entries_of(KNOWN[0], again), no_published())
    assert comparison.effects[1].is_exactly_zero and comparison.effects[1].direction == 0


def test_findings_follow_from_the_intervals():
    summary, where, *texts = protocol_findings(entries_of(*KNOWN), paper_of(50.0, 58.0))
    assert summary == (
        "Rows run under the paper's rules and under protocol code: 1. SHARC gains in 1 under the paper's "
        "(95 % interval above zero) and in 1 under the code's, where it loses in 0 (interval below zero). "
        "“Only” means that under the other rules no gain is shown, and the gain is shown to be smaller or a "
        "loss."
    )
    assert where == "Gains under both: ER+ on s_digits, Class-IL, buffer 100, floats, theta 0.8, mean."
    assert texts[:2] == [
        "The code's rule 'importance' alone raises SHARC's gain in 0 of 1 comparisons and lowers it in 1; "
        "where the published gain is outside our interval, towards it in 0 of 1.",
        "The code's rule 'budget' alone raises SHARC's gain in 1 of 1 comparisons and lowers it in 0; "
        "where the published gain is outside our interval, towards it in 1 of 1.",
    ]
    assert not any("'replay'" in text for text in texts), "was not run"
    (text,) = [text for text in texts if text.startswith("ER+ on s_digits, Class-IL, buffer 100, floats, ")]
    assert (
        "gain is +5.00 [+2.52, +7.48] (the published gain is outside) under paper and +2.00 [+1.75, +2.25]"
        in text
    )
    assert "Of the +3.00 to the published gain: budget +5.00 [+4.75, +5.25]." in text
    assert "Away from it: importance -3.00 [-3.00, -3.00]." in text
    assert "Without any effect: forget." in text
    assert "No effect shown: read." in text


def test_intervals_decide_where_gains_exist():
    """Gains exist under the paper's rules, under the code's, under both or under neither."""
    sure, lost, unsure, smaller = [4.0, 5.0, 6.0], [-4.0, -5.0, -6.0], [-5.0, 1.0, 5.0], [-1.0, 0.0, 1.0]
    documents = []
    cases = [
        (sure, lost),
        (lost, sure),
        (sure, sure),
        (lost, unsure),
        (sure, unsure),
        (unsure, sure),
        (sure, smaller),
    ]
    for number, (text, code) in enumerate(cases, 1):
        buffer = 10 * number
        documents += [gaining("paper", text, buffer=buffer), gaining("code", code, buffer=buffer)]
    documents.append(gaining("mammoth", sure, buffer=10))
    texts = protocol_findings(entries_of(*documents), no_published())
    assert "gains in 4 under the paper's (95 % interval above zero) and in 3 under the code's" in texts[0]
    assert "where it loses in 1 (interval below zero)." in texts[0]
    groups = {text.split(":")[0]: re.findall(r"buffer (\d+)", text) for text in texts[1:7]}
    assert groups == {
        "Gains under the paper's rules only": ["10", "70"],
        "Gains in the paper's code only": ["20"],
        "Gains under both": ["30"],
        "No gain shown under either": ["40"],
        "Gains under the paper's rules, undecided in its code": ["50"],
        "Gains in the paper's code, undecided under its rules": ["60"],
    }
    assert any("under code and +5.00 [+2.52, +7.48] under mammoth" in text for text in texts)


def test_the_direction_is_relative_to_the_published_gain():
    """If the published gain is below ours, the rule that lowers the gain leads towards it."""
    _, _, *texts = protocol_findings(entries_of(*KNOWN), paper_of(50.0, 51.0))
    assert "towards it in 1 of 1" in texts[0] and "towards it in 0 of 1" in texts[1]
    assert "Of the -4.00 to the published gain: importance -3.00" in texts[-1]


@pytest.mark.parametrize("gain", [4.0, 6.0])
def test_no_direction_where_the_published_gain_is_inside_our_interval(gain):
    texts = protocol_findings(entries_of(*KNOWN), paper_of(50.0, 50.0 + gain))
    assert "(the published gain is inside) under paper" in texts[-1]
    assert f"published: {gain:+.2f}." in texts[-1]
    assert "Rules that change it: importance -3.00 [-3.00, -3.00], budget +5.00 [+4.75, +5.25]." in texts[-1]
    assert not any("towards" in text for text in texts)


def test_findings_without_published_values_do_not_mention_them():
    texts = protocol_findings(entries_of(*KNOWN), no_published())
    assert not any("published" in text for text in texts)
    assert "Rules that change it: importance -3.00 [-3.00, -3.00], budget +5.00 [+4.75, +5.25]." in texts[-1]


def test_one_seed_shows_no_change():
    one = [[make_one(d) for d in documents] for documents in KNOWN]
    (comparison,) = comparisons(entries_of(*one), no_published())
    assert all(effect.direction == 0 and not effect.is_exactly_zero for effect in comparison.effects[1:])


def make_one(cell: dict) -> dict:
    """Return a document with the first seed only."""
    return selected(cell, cell["seeds"][:1])


def test_a_plain_run_is_shared_by_the_protocols_that_do_not_change_it():
    """SHARC's rules do not change GEM's plain run, but the rule of the budget does."""
    documents = [
        gaining("paper", [4.0, 5.0, 6.0], "gem"),
        gaining("paper+importance", [1.0, 2.0, 3.0], "gem"),
        gaining("paper+budget", [2.0, 2.0, 2.0], "gem", plain=50.0),
        gaining("code", [9.0, 9.0, 9.0], "gem", plain=50.0),
    ]
    entries = entries_of(*documents)
    assert [e.protocol for e in entries if not e.is_sharc] == ["paper", "paper+budget", "code"]
    partners = {pair.sharc.protocol: pair.plain.protocol for pair in paired(entries)}
    assert partners == {
        "paper": "paper",
        "paper+importance": "paper",
        "paper+budget": "paper+budget",
        "code": "code",
    }
    (comparison,) = comparisons(entries, no_published())
    assert [e.pair.test.difference for e in comparison.effects] == pytest.approx([5, 2, 2, 9])


def test_protocols_are_compared_within_a_row():
    """Another theta or buffer is another row, and a row without the paper's protocol is not compared."""
    other = gaining("paper+read", [30.0, 30.0, 30.0], theta=0.4)
    third = gaining("code", [30.0, 30.0, 30.0], buffer=300)
    rows = comparisons(entries_of(*KNOWN, other, third), no_published())
    assert [(c.base.theta, c.base.buffer, len(c.effects)) for c in rows] == [(0.8, 100, 6)]
    assert comparisons(entries_of(KNOWN[1], KNOWN[2]), no_published()) == []
    assert protocol_tables(entries_of(KNOWN[0]), no_published()) == [], "nothing to compare"


def test_each_budget_of_the_papers_protocol_has_its_own_table():
    slots = gaining("paper", [1.0, 1.0, 1.0], budget_unit="slots")
    read = gaining("paper+read", [2.0, 2.0, 2.0], budget_unit="slots")
    tables = protocol_tables(entries_of(*KNOWN, slots, read), no_published())
    assert [table.title.split("budget in ")[1] for table in tables] == ["floats", "slots"]
    assert [row[3].text for row in tables[1].rows] == ["paper", "paper+budget", "paper+read", "code"]
    assert tables[1].rows[2][6].sort == pytest.approx(1.0), "against slots, not floats"


def test_table_has_gains_changes_and_published_gains():
    (table,) = protocol_tables(entries_of(*KNOWN), paper_of(50.0, 58.0))
    rows = {row[3].text: [item.text for item in row] for row in table.rows}
    assert rows["paper"][4:] == ["+5.00", "[+2.52, +7.48]", "–", "–", "+8.00"]
    assert rows["paper+budget"][4:] == ["+10.00", "[+7.63, +12.37]", "+5.00", "[+4.75, +5.25]", "+8.00"]
    assert all(len(row) == len(table.header) for row in table.rows)
    assert "batch norm of the backbone drifts" in table.caption
    assert "code+batch_norm has every rule" in table.caption


def test_a_drifting_backbone_is_one_of_the_rules():
    """It is compared with the frozen network, alone and together with the code's rules."""
    drifting = {"backbone": "tiny-drifting"}
    runs = [
        *KNOWN,
        gaining("paper", [1.0, 2.0, 3.0], plain=20.0, **drifting),
        gaining("code", [-1.0, -2.0, -3.0], plain=20.0, **drifting),
    ]
    (comparison,) = comparisons(entries_of(*runs), paper_of(50.0, 58.0))
    alone, whole = comparison.under("paper+batch_norm"), comparison.under("code+batch_norm")
    assert (alone.pair.test.difference, alone.change.difference) == pytest.approx((2.0, -3.0))
    assert (whole.pair.test.difference, whole.change.difference) == pytest.approx((-2.0, -7.0))
    assert comparison.under("code").pair.sharc.backbone == "tiny"
    sentences = protocol_findings(entries_of(*runs), paper_of(50.0, 58.0))
    assert any("The code's rule 'batch_norm' alone" in sentence for sentence in sentences)
    assert any("under code+batch_norm" in sentence for sentence in sentences)
    alone = [gaining("paper", [1.0, 2.0, 3.0], **drifting), gaining("code", [1.0, 2.0, 3.0], **drifting)]
    (comparison,) = comparisons(entries_of(*alone), paper_of(50.0, 58.0))
    assert comparison.under("code") is not None, "without the frozen network it is a backbone like any other"


def test_rows_of_different_protocols_stay_apart():
    entries = entries_of(*KNOWN)
    assert len(entries) == 6 + 3  # SHARC under each protocol; plain under paper, paper+budget and code
    floats, nonzero = sorted(blocks(entries), key=lambda block: block[0].budget)
    assert len({entry.row for entry in floats}) == len(floats) == 5
    labels = {model_label(entry, varying_settings(nonzero)) for entry in nonzero}
    assert labels == {"ER (paper+budget)", "ER+ (paper+budget)", "ER (code)", "ER+ (code)"}
    (table,) = main_tables(floats, no_published())
    assert "SHARC (theta 0.8, associative memory mean, saliency gradient)" in table.caption, (
        "read is not fixed"
    )
    both = entries_of(KNOWN[0], KNOWN[5])
    for block in blocks(both):  # one protocol per budget, so labels need no protocol
        assert {model_label(entry, varying_settings(block)) for entry in block} == {"ER", "ER+"}
