"""The rules of the published code: each option, and protocols as presets of these options."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import make_cell, make_features
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import BASE, changed
from test_memory import FEATURES, fill

from sharc_core.__main__ import main
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.protocol import RULES, concerning, name_of, rules_of, with_protocol
from sharc_core.grid.unroll import cells
from sharc_core.heads import make_head
from sharc_core.learning.cell_memory import budget_of
from sharc_core.learning.learner import make_memory, run_cell
from sharc_core.memory.budget import Budget
from sharc_core.memory.options import SharcSettings
from sharc_core.memory.task_memory import TaskMemory
from sharc_core.methods import METHODS
from sharc_core.saliency.channel_masks import kept_mask, percentile_mask, top_mask
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

EIGHTHS = st.integers(0, 7).map(lambda n: n / 8)
SPARSE = make_features(classes=6, train_per_class=25)  # about half of the entries are zero, as after a ReLU
SPARSE.train_maps = (SPARSE.train_maps - 0.9).clamp_min(0)
OF_CELLS = [rule for rule in RULES if rule != "batch_norm"]  # batch_norm concerns the backbone


# --- importance ----------------------------------------------------------------------------------


def slow_absolute(row: list[float], theta: float) -> set[int]:
    """Drop the channel of the smallest |alpha|, of equal ones the last, floor(theta K) times."""
    kept = list(range(len(row)))
    for _ in range(math.floor(theta * len(row))):
        kept.remove(min(kept, key=lambda k: (abs(row[k]), -k)))
    return set(kept)


def slow_positive(row: list[float], theta: float) -> set[int]:
    """Keep every channel whose positive part is not below NumPy's percentile of the positive parts."""
    importance = [max(value, 0.0) for value in row]
    least = np.percentile(np.array(importance), 100 * theta)
    return {k for k, value in enumerate(importance) if value >= least}


@given(seed=st.integers(0, 999), channels=st.integers(2, 33), theta=EIGHTHS, levels=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_importances_equal_a_plain_loop(seed, channels, theta, levels):
    """Integers give ties, and eighths avoid rounding in the loops."""
    g = torch.Generator().manual_seed(seed)
    saliency = torch.randint(-levels, levels + 1, (4, channels), generator=g).float()
    for importance, slow in (("absolute", slow_absolute), ("positive", slow_positive)):
        masks = kept_mask(saliency, theta, None, importance)
        for row, mask in zip(saliency.tolist(), masks, strict=True):
            assert set(mask.nonzero().flatten().tolist()) == slow(row, theta)


@given(seed=st.integers(0, 999), channels=st.integers(2, 60), silent=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_positive_importance_drops_nothing_up_to_the_share_that_has_none(seed, channels, silent):
    """With n channels not positive, all stay up to theta = (n - 1) / (K - 1) and n are dropped at n / K."""
    g = torch.Generator().manual_seed(seed)
    n = round(silent * channels)
    saliency = torch.rand(channels, generator=g) + 0.1
    saliency[torch.randperm(channels, generator=g)[:n]] *= -1
    assert percentile_mask(saliency[None], 0.0).all()
    if n:
        assert percentile_mask(saliency[None], min((n - 1) / (channels - 1), 0.999)).all()
    if n < channels:
        assert torch.equal(percentile_mask(saliency[None], n / channels)[0], saliency > 0) or n == 0


def test_theta_is_inert_for_symmetric_weights_until_a_half():
    saliency = torch.cat([torch.arange(1.0, 257), -torch.arange(1.0, 257)])[None]
    assert all(percentile_mask(saliency, theta).all() for theta in (0.0, 0.1, 0.3, 0.4, 0.49))
    assert percentile_mask(saliency, 0.5).sum() == 256
    assert top_mask(saliency, 0.4).sum() == 308


def test_rounding_drops_no_channel_at_the_percentile():
    """Theta (K - 1) is an integer from which its float value differs slightly on either side."""
    assert 0.07 * 100 > 7 and 0.29 * 100 < 29
    saliency = torch.arange(1.0, 102)[None]
    kept = [int(percentile_mask(saliency, t / 100).sum()) for t in range(100)]
    assert kept == [101 - t for t in range(100)]


@given(seed=st.integers(0, 999), mass=st.floats(0.01, 1))
@settings(max_examples=40, deadline=None)
def test_positive_importance_by_mass(seed, mass):
    saliency = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed)).double()
    for row, kept in zip(saliency, kept_mask(saliency, None, mass, "positive"), strict=True):
        assert (row[kept] > 0).all(), "no mass in what counts for nothing"
        assert row[kept].sum() >= mass * row.clamp_min(0).sum() * (1 - 1e-9)


@pytest.mark.parametrize("unit", ["slots", "floats", "nonzero", "bytes"])
@pytest.mark.parametrize("theta", [0.4, 0.8])
def test_the_memory_keeps_the_positive_channels(unit, theta):
    """Compare with the head's rows, including ties at zero and samples with different numbers of channels."""
    cell = make_cell(
        "er", "sharc", theta=theta, importance="positive", budget_unit=unit, seeds=[2], buffer=24
    )
    stream = make_stream(FEATURES.train_labels, FEATURES.test_labels, 6, StreamConfig(tasks=3))
    memory = make_memory(FEATURES, stream, cell)
    head = make_head("linear", 0, 1, 12, 6)
    head.initialise(cell.seeds)
    head.weight[0, 0, :8], head.weight[0, 0, 8:] = -head.weight[0, 0, :8].abs(), head.weight[0, 0, 8:].abs()
    head.weight[0, 1] = head.weight[
        0, 1
    ].abs()  # eight of twelve channels are negative for class 0, none for class 1
    memory.store(stream.order(0, 0, cell.seeds), head)
    (stored,) = memory.stored
    for label, mask in zip(stored.y[0], stored.sparse[0].mask, strict=True):
        row = head.weight[0, label].tolist()
        assert set(mask.nonzero().flatten().tolist()) == slow_positive(row, theta)
    kept = stored.sparse[0].mask.sum(1)
    assert len(kept.unique()) == (2 if theta == 0.4 else 1)
    if unit == "floats":
        assert kept.sum() <= 24 * 12 // 3
    if unit == "bytes":
        assert memory.episodic_bytes()[0] <= budget_of(cell, (12, 2, 2), 6).allowance(0)


def test_a_share_is_refused_only_where_not_even_the_fewest_channels_fit():
    """With 12 channels, theta = 0.05 always drops one by percentile and none by rank."""
    cell = make_cell("er", "sharc", theta=0.05, budget_split=[1.0, 1.0, 0.9], buffer=3)
    assert budget_of(cell.model_copy(update={"importance": "positive"}), (12, 2, 2), 6).allowance(2) == 11
    with pytest.raises(UserError, match="holds no sample of task 3"):
        budget_of(cell, (12, 2, 2), 6)


# --- budget --------------------------------------------------------------------------------------


@pytest.mark.slow
@given(
    method=st.sampled_from(["er", "derpp"]),
    variant=st.sampled_from(["plain", "sharc"]),
    buffer=st.integers(3, 60),
    theta=st.sampled_from([0.0, 0.4, 0.8]),
    importance=st.sampled_from(["absolute", "positive"]),
    read=st.sampled_from(["per_task", "at_store"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_nonzero_budget_is_filled_and_not_exceeded(method, variant, buffer, theta, importance, read, seed):
    """Count the values before recall one by one; one more sample would exceed the budget."""
    sharc = {"theta": theta, "importance": importance, "read": "per_task"} if variant == "sharc" else {}
    cell = make_cell(method, variant, buffer=buffer, budget_unit="nonzero", seeds=[seed], **sharc)
    memory = fill(cell, SPARSE)
    stream = make_stream(SPARSE.train_labels, SPARSE.test_labels, 6, StreamConfig(tasks=3))
    allowance = buffer // 3 * 12 * 2 * 2
    for task, stored in enumerate(memory.stored):
        order = stream.order(task, 0, cell.seeds)[0]
        count = stored.index.shape[1]
        assert torch.equal(stored.index[0], order[-count:]), "the last samples"
        maps = [SPARSE.train_maps[i] for i in stored.index[0]]
        if variant == "sharc":
            maps = [m * k[:, None, None] for m, k in zip(maps, stored.sparse[0].mask, strict=True)]
        spent = sum(int(np.count_nonzero(m.numpy())) for m in maps)
        assert spent <= allowance
        if count < len(order) and variant == "plain":
            assert spent + int(np.count_nonzero(SPARSE.train_maps[order[-count - 1]].numpy())) > allowance
    # bytes include stored zeros, and the whole map if it is stored completed
    if variant == "sharc" and read == "at_store":
        dense = fill(cell.model_copy(update={"read": read}), SPARSE)
        assert torch.equal(dense.stored[0].index, memory.stored[0].index)
        logits = 4 * 6 if method == "derpp" else 0
        assert dense.episodic_bytes() == [dense.samples_stored * (12 * 4 * 2 + 2 + logits)]


def test_many_free_samples_are_counted_over_all_their_parts(monkeypatch):
    """Maps are read in blocks from the end, and the block size does not matter."""
    cell = make_cell("er", buffer=40, budget_unit="nonzero", seeds=[1])
    whole = fill(cell, SPARSE)
    monkeypatch.setattr("sharc_core.memory.choosing.COUNTED", 7)
    parts = fill(cell, SPARSE)
    for a, b in zip(whole.stored, parts.stored, strict=True):
        assert torch.equal(a.index, b.index) and 14 < a.index.shape[1] < 50


@pytest.mark.parametrize("variant", ["plain", "sharc"])
def test_maps_with_fewer_values_than_channels_are_all_kept(variant):
    """With one value per map, a share of 48 values holds 48 maps."""
    features = make_features(train_per_class=25)
    features.train_maps = torch.zeros_like(features.train_maps)
    features.train_maps[:, 0, 0, 0] = 1
    sharc = {"theta": 0.0} if variant == "sharc" else {}
    memory = fill(make_cell("er", variant, buffer=3, budget_unit="nonzero", seeds=[0], **sharc), features)
    assert [s.index.shape[1] for s in memory.stored] == [48, 48, 48]


@pytest.mark.parametrize("variant", ["plain", "sharc"])
@pytest.mark.parametrize("importance", ["absolute", "positive"])
def test_maps_without_zeros_make_it_a_budget_of_floats(variant, importance):
    features = make_features()
    features.train_maps += 0.01
    assert (features.train_maps != 0).all()
    sharc = {"importance": importance, "theta": 0.7} if variant == "sharc" else {}
    both = [
        run_cell(features, make_cell("derpp", variant, buffer=15, budget_unit=unit, **sharc))
        for unit in ("floats", "nonzero")
    ]
    for name in ("matrix", "untrained", "seeds"):
        assert both[0][name] == both[1][name]
    for cost in ("episodic_bytes", "associative_bytes", "samples_stored", "recall_mse"):
        assert both[0]["costs"][cost] == both[1]["costs"][cost]


def test_a_share_that_holds_no_sample_is_refused_before_anything_is_computed():
    budget = Budget("nonzero", 4, 3, (12, 2, 2), split=(1.0, 1.0, 0.01))
    with pytest.raises(UserError, match=r"holds no sample of task 3 of 3: its share is . non-zero values"):
        budget.check(12)


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "plain", "budget_unit": "nonzero", "buffer": 30},
        {"variant": "sharc", "importance": "positive"},
        {"variant": "sharc", "importance": "positive", "budget_unit": "nonzero", "read": "at_store"},
        {
            "variant": "sharc",
            "importance": "positive",
            "budget_unit": "nonzero",
            "read": "per_batch",
            "complete": "last_batches",
            "selection": "batches",
            "saliency_at": "visit",
        },
    ],
)
def test_seeds_that_keep_other_numbers_of_samples_are_what_they_are_alone(changes):
    cell = make_cell("er", **({"buffer": 20} | changes))
    together = run_cell(SPARSE, cell)
    for r, seed in enumerate(cell.seeds):
        alone = run_cell(SPARSE, cell.model_copy(update={"seeds": [seed]}))
        assert together["matrix"]["class_il"][r] == alone["matrix"]["class_il"][0]
        for cost in ("episodic_bytes", "samples_stored", "recall_mse"):
            assert together["costs"][cost][r] == alone["costs"][cost][0]
    assert len(set(together["costs"]["samples_stored"])) > 1


# --- protocols -----------------------------------------------------------------------------------

# The published code and mammoth as options of a grid file: see docs/fidelity.md.
BY_HAND = {
    "sharc": {
        "importance": "positive",
        "saliency_at": "visit",
        "read": "per_batch",
        "complete": "last_batches",
        "forget": {"every": 1, "unit": "batch"},
    },
    "budget": {"unit": "nonzero"},
    "memory": {"selection": "batches"},
    "method_settings": {
        "er": {"replay": "whole"},
        "derpp": {"logits_at": "visit"},
        "gem": {"ridge": 0.001},
        "clser": {"evaluated": "net"},
    },
}
MAMMOTH_BY_HAND = {
    "sharc": {"saliency_at": "visit"},
    "memory": {"selection": "reservoir"},
    "method_settings": {
        "er": {"mean": "joint"},
        "mer": {"mean": "joint"},
        "derpp": {"logits_at": "visit"},
        "gem": {"ridge": 0.001},
    },
}


@pytest.mark.parametrize(("protocol", "by_hand"), [("code", BY_HAND), ("mammoth", MAMMOTH_BY_HAND)])
def test_a_preset_is_its_options_given_one_by_one(protocol, by_hand):
    named = cells(load_grid(BASE | {"protocol": protocol}))
    names = {"er": protocol, "sgd": "paper"}
    assert all(c.protocol == names[c.method] for c in named if c.method in names)
    by_hand = cells(load_grid(BASE | by_hand))
    assert [c.model_copy(update={"protocol": "paper"}) for c in named] == by_hand


def test_protocol_keeps_the_files_settings_for_methods_it_does_not_concern():
    """GEM and A-GEM keep the file's whole batches; under mammoth the others get a reservoir."""
    values = BASE | {"memory": {"selection": "batches"}, "protocol": ["paper", "mammoth"]}
    found = {(c.method, c.protocol): c.selection for c in cells(load_grid(values)) if c.variant == "plain"}
    assert found["agem", "paper"] == found["gem", "paper+ridge"] == "batches"
    assert (found["er", "paper"], found["er", "mammoth"]) == ("batches", "reservoir")


def test_what_a_reservoir_takes_at_the_visit_stands_in_the_cell():
    for cell in cells(load_grid(BASE | {"memory": {"selection": "reservoir"}})):
        if cell.selection == "reservoir":
            assert cell.saliency_at == (None if cell.variant == "plain" else "visit")
            assert cell.method_settings.get("logits_at", "visit") == "visit"


def test_methods_that_no_reservoir_concerns_are_those_that_say_so():
    by_task = {name for name in METHODS.names() if METHODS.get(name).fills_at_task_end}
    assert by_task == {"gem", "agem"}
    assert concerning("paper+reservoir", "gem", "plain") == "paper"
    assert concerning("paper+reservoir", "no_longer_there", "plain") == "paper+reservoir"
    selections = {c.method: c.selection for c in cells(load_grid(BASE | MAMMOTH_BY_HAND)) if c.buffer}
    assert {m for m, selection in selections.items() if selection == "last"} == by_task


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "options", "method"),
    [("code", BY_HAND, "er"), ("code", BY_HAND, "gem"), ("mammoth", MAMMOTH_BY_HAND, "er")],
)
@pytest.mark.parametrize("variant", ["plain", "sharc"])
def test_a_preset_gives_the_numbers_of_its_options(protocol, options, method, variant):
    """Numbers are equal bit for bit with a memory that forgets, and differ from the paper's protocol."""
    toy = {
        "datasets": {"toy": {"source": "digits", "tasks": 3}},
        "backbone": {"arch": "resnet_small", "weights": "pretrain", "image_size": 32},
        "methods": [method],
        "variants": [variant],
        "buffers": [12],
        "scenarios": ["task_il"],
        "seeds": [0, 1],
    }
    sharc = {"associative_memory": "mean"}
    code, by_hand, paper = (
        run_cell(SPARSE, cell)
        for grid in (
            toy | {"sharc": sharc, "protocol": protocol},
            toy | options | {"sharc": options["sharc"] | sharc},
            toy | {"sharc": sharc},
        )
        for cell in cells(load_grid(grid))
    )
    assert code["matrix"] == by_hand["matrix"] != paper["matrix"]
    assert code["costs"]["episodic_bytes"] == by_hand["costs"]["episodic_bytes"]


def test_every_rule_changes_the_cells_that_it_concerns_and_no_other():
    values = BASE | {"methods": ["sgd", "er", "gem"]}
    paper = {c.id: c for c in cells(load_grid(values))}
    for rule in OF_CELLS:
        found = cells(load_grid(values | {"protocol": [f"paper+{rule}"]}))
        assert len(found) == len(paper)
        for cell in found:
            is_concerned = cell.method != "sgd" and {
                "replay": cell.method == "er",
                "mean": cell.method == "er",
                "reservoir": cell.method == "er",
                "ridge": cell.method == "gem",
                "logits_at": False,
                "evaluated": False,
                "budget": True,
                "batches": True,
            }.get(rule, cell.variant == "sharc")
            assert (cell.id not in paper) == is_concerned == (cell.protocol != "paper"), (rule, cell.id)
            if not is_concerned:
                assert cell == paper[cell.id]
            else:
                one, other = (c.model_dump(exclude={"protocol"}) for c in (cell, make_like(cell, paper)))
                assert one != other


def make_like(cell, paper):
    """Return the paper's cell at the same position in the grid."""
    same = ("method", "variant", "buffer", "scenarios", "theta")
    (found,) = [c for c in paper.values() if all(getattr(c, n) == getattr(cell, n) for n in same)]
    return found


def test_what_no_rule_changes_is_run_once():
    names = ["paper", *(f"paper+{rule}" for rule in OF_CELLS), "mammoth", "code"]
    grid = BASE | {"methods": ["sgd", "er", "gem"], "buffers": [20], "scenarios": ["class_il"]}
    found = cells(load_grid(grid | {"protocol": names}))
    ids = [cell.id for cell in found]
    assert len(set(ids)) == len(ids)
    by_kind = {
        (method, variant): [c.protocol for c in found if (c.method, c.variant) == (method, variant)]
        for method, variant in (("sgd", "plain"), ("er", "plain"), ("er", "sharc"), ("gem", "plain"))
    }
    assert by_kind["sgd", "plain"] == ["paper"]
    its_own = ["paper+budget", "paper+batches", "paper+replay", "paper+mean", "paper+reservoir"]
    assert by_kind["er", "plain"] == ["paper", *its_own, "mammoth", "code"]
    others = {"paper+logits_at", "paper+ridge", "paper+evaluated"}
    assert by_kind["er", "sharc"] == [name for name in names if name not in others]
    assert by_kind["gem", "plain"] == ["paper", "paper+budget", "paper+batches", "paper+ridge", "code"]
    others = {f"paper+{rule}" for rule in ("logits_at", "replay", "evaluated", "mean", "reservoir")}
    assert [c.protocol for c in found if (c.method, c.variant) == ("gem", "sharc")] == [
        name for name in names if name not in others
    ]


def test_the_backbones_rule_gives_the_cells_of_a_drifting_backbone():
    """The rule and the axis of the backbone select the same runs."""
    values = BASE | {"methods": ["sgd", "joint", "er"], "buffers": [20], "scenarios": ["class_il"]}
    network = load_grid(values).backbones[0].path_name
    by_rule = cells(load_grid(values | {"protocol": ["paper", "paper+batch_norm", "code+batch_norm"]}))
    backbone = load_grid(values).model_dump()["backbone"]
    by_axis = cells(load_grid(values | {"backbone": backbone | {"batch_norm": ["frozen", "drifting"]}}))
    of_paper = [cell for cell in by_rule if cell.protocol == "paper"]
    assert {(c.backbone, c.id): c for c in of_paper} == {(c.backbone, c.id): c for c in by_axis}
    assert {c.backbone for c in by_rule} == {network, f"{network}-drifting"}
    of_code = [cell for cell in by_rule if cell.protocol == "code"]
    assert {c.backbone for c in of_code} == {f"{network}-drifting"} and {c.method for c in of_code} == {"er"}
    both = load_grid(values | {"protocol": ["paper", "paper+batch_norm"], "backbone": backbone})
    assert [b.path_name for b in both.all_backbones] == [network, f"{network}-drifting"]
    assert [b.path_name for b in both.backbones] == [network], "what a run under `paper` has"


def test_the_preset_wins_over_the_file():
    values = BASE | {
        "protocol": "paper+read+budget",
        "sharc": {"read": "per_task", "forget": {"every": 2}},
        "budget": [{"unit": "bytes", "count_associative_memory": True}, {"unit": "floats"}],
    }
    sharc = [c for c in cells(load_grid(values)) if c.variant == "sharc"]
    assert {(c.read, c.budget_unit, c.count_associative_memory) for c in sharc} == {
        ("at_store", "nonzero", False)
    }
    assert {c.forget_every for c in sharc} == {2}, "no rule of that protocol"


def test_with_protocol_changes_nothing_of_its_input():
    values = load_grid(BASE).model_dump()
    before = copy.deepcopy(values)
    assert with_protocol(values, "code") != before == values == with_protocol(values, "paper")


def test_names_are_canonical():
    spelt_out = "+".join(["paper", *reversed(rules_of("code"))])
    grid = load_grid(changed("protocol", ["paper+forget+read", spelt_out]))
    assert grid.protocol == ["paper+read+forget", "code"]
    presets = ["paper", "code", "mammoth", "code+batch_norm", "mammoth+batch_norm", "paper+batch_norm"]
    presets.append("paper+read+batch_norm")
    assert [name_of(rules_of(name)) for name in presets] == presets
    assert concerning("paper+budget+batches+ridge", "gem", "plain") == "code"
    assert concerning("code", "gem", "plain") == "code"
    assert concerning("paper+budget", "er", "plain") == "paper+budget"
    assert concerning("mammoth", "gem", "plain") == "paper+ridge", "one rule is called by its name"
    assert concerning("mammoth", "agem", "plain") == "paper"
    assert concerning("paper+read+replay", "gem", "sharc") == "paper+read"
    assert concerning("paper+replay", "gem", "sharc") == "paper"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "codee",
            r"protocol: .*unknown protocol 'codee' \(did you mean 'code'\?\); valid: paper, code, mammoth",
        ),
        ("code+read", r"unknown protocol 'code\+read'.* only \+batch_norm can be added"),
        ("paper+reed", r"unknown rule 'reed' \(did you mean 'read'\?\) in protocol 'paper\+reed'"),
        ("paper+", r"unknown rule ''"),
        ("paper+read+read", r"names the rule 'read' twice"),
        ("paper+read+read_batch", r"the rules 'read' and 'read_batch' exclude each other"),
        ("paper+mean+replay", r"the rules 'replay' and 'mean' exclude each other"),
        (["paper+read+forget", "paper+forget+read"], r"'paper\+read\+forget' is listed twice"),
        ([], r"protocol: .*at least 1"),
    ],
)
def test_bad_protocols_are_one_line(value, message):
    with pytest.raises(UserError, match=message) as caught:
        load_grid(changed("protocol", value))
    assert "\n" not in str(caught.value)


def test_ids_name_the_importance_unless_the_protocol_does():
    for importance, protocol, end in (
        ("absolute", "paper", "modern_hopfield"),
        ("positive", "paper", "modern_hopfield-positive"),
        ("positive", "paper+read", "modern_hopfield-positive-paper+read"),
        ("positive", "paper+importance", "modern_hopfield-paper+importance"),
        ("positive", "code", "modern_hopfield-code"),
    ):
        assert make_cell("er", "sharc", importance=importance, protocol=protocol).id.endswith(f"-{end}")


def test_command_line_refuses_a_protocol_without_effect(capsys):
    common = ["run", "--dataset", "s_digits", "--method", "gem"]
    assert main([*common, "--protocol", "paper+read"]) == 1
    assert "--protocol paper+read: it changes nothing in gem plain" in capsys.readouterr().err
    assert main([*common, "--protocol", "cod"]) == 1
    assert "did you mean 'code'" in capsys.readouterr().err
    assert main(["run", "--dataset", "s_digits", "--method", "sgd", "--protocol", "code"]) == 1
    assert "it changes nothing in sgd plain" in capsys.readouterr().err


def test_nonzero_budget_refuses_several_seeds_at_once():
    budget = Budget("nonzero", 24, 3, (12, 2, 2))
    memory = TaskMemory(SPARSE, [0, 1, 2], budget)
    head = make_head("linear", 0, 3, 12, 6)
    stream = make_stream(SPARSE.train_labels, SPARSE.test_labels, 6, StreamConfig(tasks=3))
    with pytest.raises(UserError, match="run them one by one"):
        memory.store(stream.order(0, 0, [0, 1, 2]), head)


def test_the_docs_name_every_rule_with_what_it_sets():
    text = (Path(__file__).parents[1] / "docs/config.md").read_text().split("## `protocol`")[1].split("##")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    expected = [
        f"| `{rule}` | {', '.join(f'`{key}: {shown}`' for key, shown in flat(options))} |"
        for rule, options in RULES.items()
    ]
    assert [row.rsplit("|", 2)[0] + "|" for row in rows] == expected


def flat(options: dict, above: str = "") -> list[tuple[str, str]]:
    """Return nested keys joined by dots, with values in YAML."""
    found = []
    for key, value in options.items():
        nested = isinstance(value, dict)
        found += flat(value, f"{above}{key}.") if nested else [(above + key, yaml_text(value))]
    return found


def yaml_text(value) -> str:
    return {False: "false", True: "true"}[value] if isinstance(value, bool) else str(value)


def test_the_papers_importance_is_the_default():
    assert SharcSettings([], theta=0.5).importance == "absolute"
    assert {c.importance for c in cells(load_grid(BASE)) if c.variant == "sharc"} == {"absolute"}
    assert {c.protocol for c in cells(load_grid(BASE))} == {"paper"}
