"""Bad grid files give a one-line error with key, value and remedy; good ones give the right cells."""

import copy
import math

import pytest
import yaml

from sharc_core.common.errors import UserError
from sharc_core.datasets import SOURCES
from sharc_core.grid.cell import OPTIONAL
from sharc_core.grid.loading import load_config, load_grid
from sharc_core.grid.models import config_hash
from sharc_core.grid.unroll import cells
from sharc_core.methods import METHODS
from sharc_core.stages.preflight import check_inputs
from sharc_core.studies import STUDIES

BASE = {
    "datasets": {"s_digits": {"source": "digits", "tasks": 5}},
    "backbone": {"arch": "resnet_small", "weights": "pretrain", "image_size": 32},
    "buffers": [20, 50],
    "seeds": [0, 1],
}


def changed(path: str, value) -> dict:
    """Return BASE with one dotted key set, or deleted if the value is `...`."""
    values = copy.deepcopy(BASE)
    *parents, last = path.split(".")
    block = values
    for part in parents:
        block = block.setdefault(part, {})
    if value is ...:
        del block[last]
    else:
        block[last] = value
    return values


@pytest.mark.reliability("bad-value")
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("bufers", [20], r"unknown key 'bufers' \(did you mean 'buffers'\?\); valid: .*seeds"),
        ("training.learning_rate", 0.1, r"unknown key 'training\.learning_rate'.*valid: .*lr"),
        ("training.lrr", 0.1, r"did you mean 'lr'"),
        ("sharc.thetta", 0.5, r"did you mean 'theta'"),
        ("budget.units", "floats", r"'budget\..*units'.*did you mean 'unit'"),
        ("backbone.archh", "resnet18", r"archh'.*did you mean 'arch'"),
        (
            "datasets.s_digits.task",
            5,
            r"datasets\.s_digits\.task' \(did you mean 'tasks'\?\); valid: .*test_fraction",
        ),
        ("datasets.s_digits.tasks", "five", r"datasets\.s_digits\.tasks: .*integer.*'five'"),
        ("datasets.s_digits.tasks", ..., r"datasets\.s_digits\.tasks is missing"),
        ("datasets", ..., "datasets is missing"),
        ("datasets", {}, "datasets: .*at least 1"),
        ("backbone", ..., "backbone is missing"),
        ("training.lr", "fast", r"training\.lr: .*number.*'fast'"),
        ("training.lr", -1, r"training\.lr: .*greater than 0.*-1"),
        ("training.batch_size", 0, r"training\.batch_size: .*greater than or equal to 1"),
        ("training.batch_size", 2.5, r"training\.batch_size: .*2\.5"),
        ("seeds", [], "seeds: .*at least 1"),
        ("seeds", [0, 0], "seeds: 0 is listed twice"),
        ("seeds", [-1], r"seeds\.0: .*greater than or equal to 0"),
        ("sharc.theta", 1.0, r"theta.*less than 1.*1\.0"),
        ("sharc.theta", {"task_il": 0.5}, "sharc.theta has no value for scenario class_il"),
        ("scenarios", ["domain_il"], "scenarios: domain_il does not fit data set s_digits"),
        ("scenarios", ["clas_il"], "did you mean 'class_il'"),
        ("variants", ["plane"], "did you mean 'plain'"),
        ("methods", ["err"], r"methods: unknown method 'err' \(did you mean 'er'\?\); valid: agem, clser"),
        ("methods", ["er", "er"], "'er' is listed twice"),
        ("sharc.associative_memory", "hopfild", "unknown associative memory 'hopfild'"),
        ("sharc.saliency", "gradent", "unknown saliency 'gradent'.*did you mean 'gradient'"),
        (
            "datasets.s_digits.source",
            "digit",
            r"source: unknown data source 'digit' \(did you mean 'digits'\?\)",
        ),
        ("method_settings", {"derpp": {"alfa": 1.0}}, r"method_settings\.derpp\.alfa.*did you mean 'alpha'"),
        ("method_settings", {"derpp": {"alpha": -1.0}}, r"method_settings\.derpp\.alpha: .*-1\.0"),
        ("method_settings", {"dderpp": {}}, "unknown method 'dderpp'"),
        (
            "buffers",
            [4],
            "buffers: 4 is smaller than the 5 tasks of s_digits; give each task a slot: 5 or more",
        ),
        (
            "budget",
            {"unit": "floats", "count_associative_memory": True},
            "needs unit bytes or total_bytes, not floats",
        ),
        (
            "budget",
            {"split": [1.0, 2.0]},
            r"budget\.split has 2 shares but s_digits has 5 tasks: give one share per task, or equal",
        ),
        ("budget", [{}, {"split": [1.0] * 6}], r"budget\.split has 6 shares but s_digits has 5 tasks"),
        ("device", "gpu", "device: .*'gpu'"),
        ("cells.device", "gpu", r"cells\.device: .*'gpu'"),
        ("cells.device", None, r"cells\.device: "),
        ("cells.per_job", 0, r"cells\.per_job: .*greater than or equal to 1"),
        ("cells.per_job", 2.0, r"cells\.per_job: .*integer"),
        ("cells.perjob", 2, r"unknown key 'cells\.perjob' \(did you mean 'per_job'\?\); valid: device, "),
        (
            "seeds",
            [2**63],
            r"seeds\.0: .*less than or equal to 9223372036854775807 \(got 9223372036854775808\)",
        ),
        ("datasets.s_digits.seed", 2**32, r"datasets\.s_digits\.seed: .*less than or equal to 4294967295"),
        ("backbone.pretrain", {"seed": 2**63}, r"pretrain\.seed: .*less than or equal to"),
        ("backbone.image_size", 2049, r"backbone\.image_size: .*less than or equal to 2048 \(got 2049\)"),
        ("data_dir", "", "data_dir: .*at least 1 character"),
        ("results_dir", "", "results_dir: .*at least 1 character"),
        ("backbone", [], "backbone: the list is empty: give at least one value"),
        ("budget", [], "budget: the list is empty"),
        ("sharc.theta", [], r"sharc\.theta\.task_il: the list is empty"),
        ("sharc.theta", {"task_il": 0.8, "class_il": []}, r"sharc\.theta\.class_il: the list is empty"),
        ("sharc.saliency", [], r"sharc\.saliency: the list is empty"),
        ("sharc.associative_memory", [], r"sharc\.associative_memory: the list is empty"),
        ("sharc.theta", [0.5, 0.2, 0.5], r"sharc\.theta\.task_il: 0\.5 is listed twice: remove one"),
        ("sharc.theta", [0, 0.0], r"sharc\.theta\.task_il: 0\.0 is listed twice"),
        ("sharc.theta", [{"mass": 0.9}] * 2, r"sharc\.theta\.task_il: {'mass': 0\.9} is listed twice"),
        ("storage", ["int8"] * 2, "storage: 'int8' is listed twice"),
        (
            "storage",
            "floaty16",
            r"config: storage: unknown storage 'floaty16' \(did you mean 'float16'\?\); valid: "
            "float16, float32, image, int8, jpeg, pooled_binary, pooled_float16, pooled_float32, "
            "pooled_int8, pooled_pq, pq, webp$",
        ),
        (
            "storage",
            ["int8", "float64"],
            "unknown storage 'float64' .*; valid: float16, float32, image, int8, jpeg, p",
        ),
        ("storage_settings", {"float1": {}}, r"storage_settings: unknown storage 'float1' .*did you mean"),
        ("storage_settings", {"int8": {"bits": 4}}, r"unknown key 'storage_settings\.int8\.bits'"),
        (
            "memory",
            {"selection": "herd"},
            r"memory\.selection: unknown selection 'herd' .*'herding'",
        ),
        ("memory", {"select": "last"}, r"memory\.select' \(did you mean 'selection'\?\)"),
        ("storage", [], "storage: the list is empty"),
        ("sharc.saliency", ["random"] * 2, r"sharc\.saliency: 'random' is listed twice"),
        ("sharc.associative_memory", ["mean"] * 2, r"sharc\.associative_memory: 'mean' is listed twice"),
        ("budget", [{"unit": "slots"}] * 2, "budget: .*'slots'.* is listed twice"),
        ("budget", [{}, {"unit": "floats"}], "budget: .*'floats'.* is listed twice"),
        ("backbone", [BASE["backbone"]] * 2, "backbone: 'resnet_small-pretrain' is listed twice"),
        (
            "backbone",
            [BASE["backbone"], BASE["backbone"] | {"image_size": 64}],
            "backbone: two are called 'resnet_small-pretrain': give each a name",
        ),
        ("training.lr", math.inf, r"training\.lr: .*finite number \(got inf\)"),
        ("sharc.theta", math.nan, r"sharc\.theta.*: .*finite number \(got nan\)"),
        ("method_settings", {"gem": {"margin": math.inf}}, r"method_settings\.gem\.margin: .*finite number"),
        ("method_settings", {"derpp": {"beta": math.nan}}, r"method_settings\.derpp\.beta: .*finite number"),
        ("backbone.pretrain", {"weight_decay": math.inf}, r"pretrain\.weight_decay: .*finite number"),
        ("backbone.mean", [0.5, math.nan, 0.5], r"backbone\.mean\.1: .*finite number"),
        (
            "sharc.associative_settings",
            {"modern_hopfield": {"beta": math.inf}},
            r"sharc\.associative_settings\.modern_hopfield\.beta: .*finite number",
        ),
    ],
)
def test_bad_values_are_one_clear_line(path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        load_grid(changed(path, value))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("config")


def test_unknown_architecture_suggests_the_nearest():
    with pytest.raises(UserError, match=r"resnet19.*did you mean .*resnet1"):
        check_inputs(load_grid(changed("backbone.arch", "resnet19")))


@pytest.mark.reliability("bad-tasks")
def test_tasks_must_divide_classes():
    with pytest.raises(
        UserError, match=r"datasets\.s_digits: tasks: 3 does not divide 10 classes.*valid: 1, 2, 5"
    ):
        check_inputs(load_grid(changed("datasets.s_digits.tasks", 3)))


@pytest.mark.reliability("missing-path")
def test_missing_weights_are_reported_by_name():
    with pytest.raises(UserError, match=r"backbone: .*nowhere\.safetensors"):
        check_inputs(load_grid(changed("backbone.weights", "nowhere.safetensors")))


@pytest.mark.reliability("missing-path")
def test_missing_archive_is_reported_by_name():
    block = {"source": "image_folder", "path": "nowhere.zip", "tasks": 5}
    with pytest.raises(UserError, match=r"datasets\.mine: .*nowhere\.zip"):
        check_inputs(load_grid(changed("datasets.mine", block)))


@pytest.mark.reliability("missing-path")
def test_missing_mirror_is_reported_by_name():
    with pytest.raises(UserError, match="mirror: nowhere is not a folder"):
        check_inputs(load_grid(changed("mirror", "nowhere")))


@pytest.mark.reliability("no-gpu")
@pytest.mark.parametrize("key", ["device", "cells.device"])
def test_cuda_without_a_gpu_is_an_error_in_a_run_and_a_warning_in_a_dry_run(monkeypatch, key):
    """A missing GPU is refused where jobs will run, a warning in a dry run, and not checked for a cluster."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    grid, messages = load_grid(changed(key, "cuda")), []
    with pytest.raises(UserError, match=f"^config: {key}: cuda was asked for.*no usable GPU"):
        check_inputs(grid)
    check_inputs(grid, messages.append, planning=True)
    assert len(messages) == 1 and messages[0].startswith(f"warning: config: {key}: cuda was asked for")
    check_inputs(grid, messages.append, elsewhere=True)
    assert len(messages) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check_inputs(grid)


def test_cells_depend_on_the_device_but_not_on_per_job():
    """Cells depend on the device but not on the number of cells per job."""
    blocks = {}, {"device": "cuda"}, {"device": "cuda", "per_job": 3}
    plain, gpu, batched = (load_grid(changed("cells", block)) for block in blocks)
    assert [grid.cells.batch for grid in (plain, gpu, batched)] == [1, 8, 3]
    assert load_grid(changed("cells", {"device": "auto"})).cells.batch == 8
    assert {cell.device for cell in cells(plain)} == {"cpu"}
    assert [cell.job for cell in cells(gpu)] == [cell.job for cell in cells(batched)]
    assert plain.config_hash != gpu.config_hash == batched.config_hash
    assert not {c.config_hash for c in cells(gpu)} & {c.config_hash for c in cells(plain)}
    assert [cell.id for cell in cells(gpu)] == [cell.id for cell in cells(plain)]


@pytest.mark.reliability("seen-classes")
def test_a_backbone_must_not_have_seen_the_stream():
    values = changed("datasets", {"s_glyphs": {"source": "glyphs", "classes": 20, "tasks": 5}})
    values["backbone"]["pretrain"] = {"dataset": {"source": "glyphs", "classes": 20, "first_class": 15}}
    with pytest.raises(UserError, match="shares 5 classes with data set s_glyphs"):
        check_inputs(load_grid(values))


def test_a_backbone_for_digits_must_not_have_seen_rendered_ones():
    """Classes 1000 to 1249 contain three digits: 8, a superscript 3, and an Arabic-Indic and a circled 2."""
    glyphs = {"source": "glyphs", "classes": 250, "first_class": 1000}
    values = changed("datasets", {"s_digits": {"source": "digits", "tasks": 5}})
    values["backbone"]["pretrain"] = {"dataset": glyphs}
    with pytest.raises(UserError, match="shares 3 classes with data set s_digits"):
        check_inputs(load_grid(values))
    values["backbone"]["pretrain"] = {"dataset": glyphs | {"digits": False}}
    check_inputs(load_grid(values))


def test_default_pretraining_has_no_digits():
    values = changed("datasets", {"s_digits": {"source": "digits", "tasks": 5}})
    values["backbone"].pop("pretrain", None)
    check_inputs(load_grid(values))


@pytest.mark.parametrize(
    "name", ["config.yaml", "config/smoke.yaml", "config/recall.yaml", "config/studies.yaml"]
)
def test_shipped_grids_are_valid(name):
    from pathlib import Path

    grid = load_config(path := Path(__file__).parents[1] / name)
    check_inputs(grid)
    assert set(yaml.safe_load(path.read_text())) <= {*type(grid).model_fields, *STUDIES.names()}


def test_invalid_or_missing_yaml_is_refused(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1, 2\nb: }")
    with pytest.raises(UserError, match="bad.yaml is not valid YAML"):
        load_config(bad)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


def test_small_grid_expands_to_the_expected_cells():
    unrolled = cells(load_grid(BASE))
    baselines = [c for c in unrolled if c.buffer is None]
    assert sorted(c.method for c in baselines) == ["joint", "sgd"]
    # six methods x two buffers x (plain, reporting both scenarios; SHARC once for each theta)
    assert len(unrolled) == 2 + 6 * 2 * 3
    plain = [c for c in unrolled if c.method == "er" and c.variant == "plain" and c.buffer == 20]
    assert [c.scenarios for c in plain] == [["task_il", "class_il"]]
    sharc = [c for c in unrolled if c.method == "er" and c.variant == "sharc" and c.buffer == 20]
    assert {(c.scenarios[0], c.theta) for c in sharc} == {("task_il", 0.8), ("class_il", 0.4)}
    assert len({c.place for c in unrolled}) == len(unrolled)


@pytest.mark.reliability("missing-path")
@pytest.mark.parametrize("kind", ["file", "below a file"])
@pytest.mark.parametrize("key", ["data_dir", "results_dir"])
def test_a_file_is_no_folder_to_write_to(tmp_path, key, kind):
    file = tmp_path / "file"
    file.write_text("mine")
    folder = file if kind == "file" else file / "inner"
    with pytest.raises(UserError, match=f"config: {key}: .*file is a file: choose a folder") as caught:
        check_inputs(load_grid(changed(key, str(folder))))
    assert "\n" not in str(caught.value)


def test_check_of_the_pretraining_data_reports_progress(monkeypatch):
    values = changed("backbone.pretrain", {"dataset": {"source": "glyphs", "classes": 8, "first_class": 900}})
    messages = []
    monkeypatch.setattr(SOURCES.get("glyphs"), "check", lambda self, progress=None: progress("half"))
    check_inputs(load_grid(values), progress=messages.append)
    assert messages == ["half"]


def test_close_thetas_are_two_cells_and_usual_names_stay():
    names = [c.id for c in cells(load_grid(changed("sharc.theta", [0, 0.4, 0.8, 0.12345678, 0.12345679])))]
    assert len(set(names)) == len(names)
    for theta in ("0", "0.4", "0.8", "0.12345678"):
        assert f"er-sharc-m20-floats-theta{theta}-gradient-modern_hopfield" in names


def test_equal_thetas_share_a_cell():
    unrolled = cells(load_grid(changed("sharc.theta", 0.5)))
    assert len(unrolled) == 2 + 6 * 2 * 2
    assert all(c.scenarios == ["task_il", "class_il"] for c in unrolled)


def test_lists_in_a_grid_expand_to_cells():
    values = changed("sharc.theta", [0.2, 0.5, 0.8])
    values["sharc"] |= {"associative_memory": ["none", "mean"], "saliency": ["gradient", "random"]}
    values["methods"] = ["er"]
    values["budget"] = [{"unit": "floats"}, {"unit": "bytes", "count_associative_memory": True}]
    unrolled = cells(load_grid(values))
    plain = [c for c in unrolled if c.variant == "plain"]
    sharc = [c for c in unrolled if c.variant == "sharc"]
    assert len(plain) == 2 * 2
    assert len(sharc) == 2 * 2 * 3 * 2 * 2
    assert len({c.id for c in unrolled}) == len(unrolled)


def test_splits_storages_and_masses_are_axes():
    """Each combination is a cell with its own file. Cells with one id would overwrite each other."""
    splits = ["equal", "carry", [3.0, 1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 1.0, 1.0, 1.0 + 1e-9]]
    values = changed("sharc.theta", [{"mass": 0.5}, {"mass": 0.9}, 0.5])
    values |= {"methods": ["er"], "buffers": [20], "storage": ["float16", "int8"]}
    values["budget"] = [{"split": split} for split in splits]
    unrolled = cells(load_grid(values))
    rules = [(None, None), (None, 0.5), (None, 0.9), (0.5, None)]  # theta and mass; plain has neither
    expected = [
        (split, storage, *rule) for split in splits for storage in ("float16", "int8") for rule in rules
    ]
    assert [(c.budget_split, c.storage, c.theta, c.mass) for c in unrolled] == expected
    assert len({c.id for c in unrolled}) == len({c.config_hash for c in unrolled}) == 4 * 2 * 4
    # an id names a file, so it must not change; it leaves out the default split and storage
    names = [c.id for c in unrolled]
    assert names[0] == "er-plain-m20-floats"
    assert "er-sharc-m20-floats-carry-int8-mass0.9-gradient-modern_hopfield" in names


def test_settings_are_complete_and_hashed():
    default = {c.id: c for c in cells(load_grid(BASE))}
    assert default["derpp-plain-m20-floats"].method_settings == {
        "alpha": 0.1,
        "beta": 0.5,
        "logits_at": "task_end",
    }
    explicit = {c.id: c for c in cells(load_grid(changed("method_settings", {"derpp": {"alpha": 0.1}})))}
    other = {c.id: c for c in cells(load_grid(changed("method_settings", {"derpp": {"alpha": 0.2}})))}
    for name, cell in default.items():
        assert explicit[name].config_hash == cell.config_hash
        assert (other[name].config_hash == cell.config_hash) == (cell.method != "derpp")


def test_a_new_key_without_a_value_changes_no_hash():
    """Keys that are newer than existing hashes enter the hash only if they are given."""
    grid = load_grid(BASE)
    values = grid.model_dump(mode="json")
    older = {key: value for key, value in values.items() if key not in OPTIONAL}
    assert older.keys() | OPTIONAL == values.keys() != older.keys()
    assert config_hash(older) == config_hash(values) == grid.config_hash
    assert config_hash(values | {key: {"a": {"b": 1}} for key in OPTIONAL}) != grid.config_hash
    for cell in cells(grid):
        assert not OPTIONAL & cell.job.keys() and cell.model_copy(update={"scenarios": []}).job == cell.job


def test_published_settings_are_the_defaults():
    """They equal the settings of the published runs (tests/peer/runs.json)."""
    derpp = METHODS.get("derpp").Settings()
    assert (derpp.alpha, derpp.beta) == (0.1, 0.5)
    assert METHODS.get("gem").Settings().margin == 0.5
    assert METHODS.get("clser").Settings().model_dump(exclude={"evaluated"}) == {
        "reg": 0.15,
        "stable_rate": 0.1,
        "stable_decay": 0.999,
        "plastic_rate": 0.3,
        "plastic_decay": 0.999,
    }
    grid = load_grid(BASE)
    assert grid.training.model_dump() == {"lr": 0.1, "batch_size": 10, "replay_batch_size": 10, "epochs": 1}


# --- associative memories with names from the grid file --------------------------------------------


def test_one_kind_with_several_settings():
    """Each name gives a separate cell; the kind and its defaults come from the registry."""
    values = changed("sharc.associative_memory", ["bayespcn", "bayespcn_map"])
    values["sharc"]["associative_settings"] = {"bayespcn_map": {"kind": "bayespcn", "log_joint": "map"}}
    by_name = {c.associative_memory: c for c in cells(load_grid(values)) if c.variant == "sharc"}
    assert by_name["bayespcn"].associative_settings["log_joint"] == "predictive"
    assert by_name["bayespcn_map"].associative_settings["log_joint"] == "map"
    assert by_name["bayespcn_map"].memory_kind == by_name["bayespcn"].memory_kind == "bayespcn"
    assert by_name["bayespcn_map"].id.endswith("-bayespcn_map")


@pytest.mark.reliability("parent-paths")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mine", {}, "unknown associative memory 'mine'"),
        ("mine", {"kind": "bayes"}, "unknown associative memory 'bayes'.*did you mean 'bayespcn'"),
        (
            "mine",
            {"kind": "pcn", "hiden": 3},
            r"sharc.associative_settings.mine.hiden.*did you mean 'hidden'",
        ),
        ("mean", {"kind": "pcn"}, "'mean' is the name of a kind"),
        ("a/b", {"kind": "pcn"}, "'a/b' must have at most 64 letters"),
    ],
)
def test_names_and_kinds_are_checked(name, settings, message):
    values = changed("sharc.associative_memory", name)
    values["sharc"]["associative_settings"] = {name: settings}
    with pytest.raises(UserError, match=message):
        load_grid(values)


# --- memories are checked against their budget before anything is computed -------------------------


@pytest.mark.reliability("small-memory")
def test_a_memory_too_small_for_the_maps_is_found_at_once():
    values = changed("sharc.associative_memory", "hopfield")
    values["sharc"]["associative_settings"] = {"hopfield": {"max_bytes": 1000}}
    with pytest.raises(UserError, match=r"config: s_digits, .*hopfield: .*its weight matrix would take"):
        check_inputs(load_grid(values))


@pytest.mark.reliability("small-memory")
def test_a_budget_that_holds_nothing_is_found_at_once():
    values = changed("budget", {"unit": "bytes", "count_associative_memory": True})
    values["sharc"] = {"associative_memory": "bayespcn"}
    with pytest.raises(
        UserError, match=r"config: s_digits, .*bayespcn: a buffer of .* holds no sample of task"
    ):
        check_inputs(load_grid(values))


def test_a_huge_buffer_takes_no_memory_to_check():
    check_inputs(load_grid(changed("buffers", [10**11])))


def test_forgetting_strength_alone_has_no_effect_and_is_refused():
    with pytest.raises(UserError, match=r"sharc.forget: beta has no effect without every"):
        load_grid(changed("sharc.forget", {"beta": 0.5}))
    with pytest.raises(UserError, match=r"sharc.forget: unit has no effect without every"):
        load_grid(changed("sharc.forget", {"unit": "batch"}))
    load_grid(changed("sharc.forget", {"beta": 0.5, "every": 2}))


def test_mass_beside_a_scenario_is_an_unknown_key():
    with pytest.raises(UserError, match="sharc.theta"):
        load_grid(changed("sharc.theta", {"mass": 0.9, "task_il": 0.8}))
