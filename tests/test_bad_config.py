"""Any content of a grid file is either valid or refused at once with one clear line; no code from it runs."""

import copy
import datetime
import itertools
from pathlib import Path

import pytest
import yaml
from snake import own_lines, snakemake
from test_config import BASE, changed

from sharc_core.__main__ import main
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import check_text, load_config, load_grid
from sharc_core.grid.models import Grid
from sharc_core.grid.study_settings import STUDIES
from sharc_core.grid.unroll import cells
from sharc_core.stages.preflight import check_inputs

TEXT = yaml.safe_dump(BASE)
COMPLETE = """
datasets:
  s_digits: {source: digits, tasks: 5, class_order_seed: 1, test_fraction: 0.25, seed: 0}
  s_glyphs: {source: glyphs, classes: 10, tasks: 5, first_class: 0, digits: true, size: 32}
  s_cifar10: {source: cifar10, tasks: 5, checksum: null}
  s_mix:
    source: sequence
    tasks: [4, 4, 4, 4, 2]
    class_order_seed: per_run
    order: blurry
    blurry: 0.1
    labels: joined
    size: 32
    parts: [{source: digits}, {source: glyphs, classes: 8, name: characters}]
  s_turned: {source: turned_glyphs, classes: 10, tasks: 5, characters: 20}
  s_order: {source: digits, tasks: 5, class_order: ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]}
  s_listed: {source: digits, tasks: [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8", "9"]]}
  s_mini: {source: mini_imagenet, tasks: 5, path: nowhere, size: 84, train_per_class: 500}
  mine: {source: image_folder, tasks: 5, path: nowhere, size: 84}
backbone:
  - arch: resnet_small
    weights: mine.safetensors
    sha256: "0000000000000000000000000000000000000000000000000000000000000000"
    image_size: 32
    resize_size: 32
    interpolation: bilinear
    views: 2
    mean: [0.5, 0.5, 0.5]
    std: [0.5, 0.5, 0.5]
    precision: float32
    name: small
    pretrain:
      dataset: {source: glyphs, classes: 8, first_class: 1000, digits: false}
      epochs: 1
      batch_size: 32
      lr: 0.1
      weight_decay: 0.1
      label_smoothing: 0.1
      max_shift: 0.1
      flip: false
      seed: 0
methods: [sgd, joint, er, gem]
variants: [plain, sharc]
buffers: [20]
scenarios: [task_il, class_il]
seeds: [0, 1]
protocol: [paper]
training: {lr: 0.1, batch_size: 10, replay_batch_size: 10, epochs: 1, steps_per_batch: 1.5}
head: {kind: linear, hidden: 256, scale: 10.0, bias_correction: none}
cells: {device: cpu, per_job: 2}
sharc:
  theta: {task_il: [0.8], class_il: 0.4}
  saliency: [gradient]
  importance: absolute
  associative_memory: [modern_hopfield, mine]
  associative_settings: {mine: {kind: bayespcn, hidden: 4}, mean: {}}
  saliency_at: visit
  read: per_task
  complete: all
  forget: {every: 2, unit: batch, beta: 0.1}
budget: [{unit: bytes, count_associative_memory: true, split: [1.0, 1.0, 1.0, 1.0, 1.0]}]
memory: {selection: last}
storage: [float16]
storage_settings: {int8: {}}
method_settings: {gem: {margin: 0.5}}
studies:
  x: {figure: theta, title: t, main: false, datasets: [s_digits], methods: [er], sharc: {theta: [0.1]}}
tune:
  settings: {training.lr: [0.1]}
  trials: 3
  sampler: random
  validation: 0.1
  seeds: [9]
  seed: 0
  select_by: class_il
tuned: null
recall: {patterns: 20, theta: 0.5, masked: [0.5], noise: [0.5], counts: [5], later_tasks: [0], seeds: [0]}
robustness:
  datasets: [s_digits]
  memories: [mean]
  thetas: [0.5]
  wrong: 0.2
  patterns: 20
  maps: 10
  slow: [pcn]
  slow_maps: 5
  seeds: [0]
capacity:
  datasets: [s_digits]
  units: [20, 30]
  loads: [0.1, 0.3]
  projection_loads: [0.2, 1.0]
  updates: 5
  known: [2, 3]
  noise: 1.0
  most_patterns: 8
  memories: [pcn]
  entries: 8
  hidden: [2, 4]
  counts: [2, 4]
  maps: 2
  hidden_maps: 2
  seeds: [0]
memory_bound: {datasets: [s_digits], thetas: [0, 0.5], storages: [float16], maps: 20, seed: 0}
time:
  datasets: [s_digits]
  methods: [er]
  associative_memories: [mean]
  saliencies: [gradient]
  theta: 0.5
  buffer: 20
  seeds: [0]
  repeats: 2
saliency_curves:
  datasets: [s_digits]
  saliencies: [gradient]
  heads: [linear]
  shares: [0, 0.5, 1]
  random_orders: 1
  seeds: [0]
saliency_choice:
  datasets: [s_digits]
  saliencies: [gradient]
  methods: [er]
  heads: [linear]
  theta: [0.5, {mass: 0.8}]
  associative_memory: [mean]
  budgets: [{unit: floats, buffer: 20}]
  seeds: [0]
fair_tuning:
  datasets: [s_digits]
  methods: [er, gem]
  buffer: 20
  settings: {training.lr: [0.1]}
  trials: 3
  sampler: random
  validation: 0.1
  seeds: [9]
  seed: 0
equal_compute: {datasets: [s_digits], methods: [sgd, er], reference: er, buffer: 20, seeds: [0], repeats: 1}
heads:
  datasets: [s_digits]
  methods: [er]
  heads: [linear]
  corrections: [none]
  scales: [10.0]
  buffer: 20
  seeds: [0]
task_count:
  datasets: [s_glyphs]
  tasks: [2, 5]
  classes_per_task: 2
  methods: [er]
  associative_memories: [mean]
  forget_every: [null, 1]
  theta: 0.5
  samples_per_class: 2
  most_tasks: {er: 5}
  seeds: [0]
orders:
  datasets: [s_glyphs]
  class_orders: [0, 1]
  seeds: [0, 1]
  blurry: [0.1]
  iid: true
  methods: [er]
  variants: [plain, sharc]
  theta: 0.5
  associative_memory: mean
  buffer: 20
equal_compute: {methods: [sgd, er], reference: er, buffer: 20, seeds: [0], repeats: 1}
heads: {methods: [er], heads: [linear], corrections: [none], scales: [10.0], buffer: 20, seeds: [0]}
architectures:
  method: er
  thetas: [0.5]
  associative_memories: [mean]
  buffer: 20
  maps: 20
  seeds: [0]
  rates: [0.1, 0.03]
  rate_seeds: [1000]
  contrasts: [[a, b]]
data_dir: data
results_dir: results
mirror: null
device: auto
"""
ITSELF: list = []
ITSELF.append(ITSELF)
JUNK = [
    None, True, -1, 0, 1.5, 10**400, -(10**30), float("nan"), float("inf"), datetime.date(2024, 1, 1), b"x",
    "", "x", "../x", "$(touch x)", "a\nb\x1b[31m", "\0", "x" * 300, "\ud800",
    [], [[]], [[1]], {}, {"a": {"b": [1]}}, {1: 2}, {None: 1}, {(1, 2): 3}, {1, 2}, ITSELF,
]  # fmt: skip


def places(value, above=()):
    """Yield the path of every key and list entry."""
    yield above
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*above, key))


def with_junk(values: dict, place: tuple, junk: object):
    if not place:
        return junk
    values = copy.deepcopy(values)
    block = values
    for key in place[:-1]:
        block = block[key]
    block[place[-1]] = junk
    return values


def fine_or_one_line(action, *arguments) -> bool:
    """Return whether the call succeeds. A failure must be a UserError with one readable line."""
    try:
        action(*arguments)
        return True
    except UserError as error:
        assert str(error).startswith("config")
        assert str(error).isprintable() and len(str(error)) < 2000
        return False


@pytest.mark.reliability("bad-value")
@pytest.mark.slow
def test_any_value_at_any_key_is_valid_or_gives_a_one_line_error():
    complete = yaml.safe_load(COMPLETE)
    studies = {name for name in STUDIES.names() if STUDIES.get(name).Settings.model_fields}
    assert set(complete) == set(Grid.model_fields) | studies, "COMPLETE must have every key"
    assert fine_or_one_line(load_grid, complete)
    is_valid = [
        fine_or_one_line(load_grid, with_junk(complete, place, junk))
        for place, junk in itertools.product(places(complete), JUNK)
    ]
    assert 0 < sum(is_valid) < len(is_valid) / 10


@pytest.mark.reliability("bad-file", "grid-programs")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: !!python/object/apply:os.system ['touch x']\n",
            "is not valid YAML: could not determine a constr",
        ),
        (TEXT + "results_dir: 2024-13-45\n", "is not valid YAML: month must be in 1..12"),
        (TEXT.replace("- 0", "- " + "9" * 5000), "is not valid YAML: Exceeds the limit"),
        (TEXT + "head: " + "[" * 600 + "]" * 600, "is not valid YAML: nested too deeply"),
        (TEXT + "? [1, 2]\n: 3\n", "is not valid YAML: while constructing .* unhashable key"),
        ("a: [1, 2\nb: }", "is not valid YAML: while parsing"),
        ("- 1\n", "must hold keys and values"),
        ("", "must hold keys and values"),
        (TEXT + "__use_yte__: true\n", "has __use_yte__, which makes Snakemake run code .*: refused"),
        ("a: 1\nb: 2\na: {}\n", "sets 'a' in line 1 and again in line 3: remove one"),
        ("a:\n- b: {c: 1,\n     c: 2}\n", "sets 'c' in line 2 and again in line 3: remove one"),
    ],
)
def test_files_that_are_no_grid(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"^config file .*bad\.yaml {message}") as caught:
        load_config(tmp_path / "bad.yaml")
    assert str(caught.value).isprintable()


@pytest.mark.reliability("bad-file")
def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bad\.yaml is not valid YAML: .*can't decode"):
        load_config(tmp_path / "bad.yaml")


@pytest.mark.reliability("bad-file")
def test_exploding_and_recursive_yaml_aliases_are_refused():
    """A few lines of YAML can expand to more values than fit into memory, or contain themselves."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    values = yaml.safe_load("\n".join(lines))
    for value in (values["a9"], yaml.safe_load("a: &a {b: *a}")["a"]):
        for key in ("seeds", "method_settings", "backbone.pretrain"):
            with pytest.raises(UserError, match="does an alias .* refer to itself"):
                load_grid(changed(key, {"er": value}))


@pytest.mark.reliability("late-failures", "parent-paths")
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("buffers", [10**11 + 1], r"buffers\.0: .*less than or equal to 100000000000"),
        ("training.epochs", 10**19, r"training\.epochs: numbers go up to 9223372036854775807 \(got 1000000"),
        ("head", {"kind": "mlp", "hidden": 10**19}, r"head\.hidden: numbers go up to"),
        (
            "datasets.s",
            {"source": "digits", "tasks": 5, "class_order_seed": -(10**19)},
            r"seed: numbers go up",
        ),
        (
            "backbone.pretrain",
            {"dataset": {"source": "glyphs", "classes": 10**19}},
            r"classes: numbers go up",
        ),
        ("method_settings", {"mer": {"batches": 10**400}}, r"method_settings\.mer\.batches: numbers go up"),
        ("datasets.s" + "s" * 64, {"source": "digits", "tasks": 5}, "at most 64 characters"),
        ("datasets.../x", {"source": "digits", "tasks": 5}, r"datasets\.\.\./x: .*match pattern"),
        ("datasets.a/b", {"source": "digits", "tasks": 5}, r"datasets\.a/b: .*match pattern"),
        ("datasets.s\n", {"source": "digits", "tasks": 5}, r"datasets\.s\\n: .*match pattern"),
        ("backbone.name", "../x", r"backbone\.name: .*match pattern"),
        ("backbone.name", "x" * 65, r"backbone\.name: .*at most 64 characters"),
        ("studies", {"../x": {}}, r"studies\.\.\./x: .*match pattern"),
        (
            "results_dir",
            "a{b}",
            r"results_dir: { means something to Snakemake: choose a path without { } < >",
        ),
        ("data_dir", "<results>", r"data_dir: < means something to Snakemake"),
        ("backbone.weights", "{x}.safetensors", r"backbone\.weights: { means something to Snakemake"),
        ("results_dir", "a\0b", r"results_dir: control characters are not allowed \(got 'a\\x00b'\)"),
        ("results_dir", "a\nb", r"results_dir: control characters are not allowed"),
        ("mirror", "a\x1b[31m", r"mirror: control characters are not allowed"),
        (
            "datasets.mine",
            {"source": "image_folder", "path": "\0", "tasks": 2},
            r"mine\.path: control char",
        ),
        ("datasets.s_digits", {"source": ["digits"], "tasks": 2}, r"source: input should be a valid string"),
        (
            "studies",
            {"x": {"datasets": [["s_digits"]]}},
            r"studies\.x: datasets: .*no data set \['s_digits'\]",
        ),
        ("backbone.sha256", "0" * 64, "sha256 applies to a local weights file only"),
    ],
)
def test_unusable_names_numbers_and_paths_are_refused_when_loading(path, value, message):
    if path.startswith("datasets."):  # the name may contain dots
        values = changed("datasets", {path.removeprefix("datasets."): value})
    else:
        values = changed(path, value)
    with pytest.raises(UserError, match=message) as caught:
        load_grid(values)
    assert str(caught.value).isprintable()


@pytest.mark.reliability("late-failures")
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("results_dir", "x" * 300, r"config: results_dir: '.*': file name too long"),
        ("mirror", "x" * 300, r"config: mirror: .* is not a folder"),
        (
            "datasets.mine",
            {"source": "image_folder", "path": "x" * 300, "tasks": 2},
            r"config: datasets\.mine: '.*': file name too long",
        ),
        (
            "backbone.pretrain",
            {"dataset": {"source": [1]}},
            r"config: backbone: unknown data source \[1\]; valid",
        ),
    ],
)
def test_paths_that_the_system_rejects_are_refused_by_the_check(path, value, message):
    with pytest.raises(UserError, match=message):
        check_inputs(load_grid(changed(path, value)))


@pytest.mark.reliability("late-failures")
def test_longest_cell_id_is_a_valid_file_name():
    """The longest possible id, with the affixes of its temporary file, is a valid file name."""
    name = "m" * 64
    values = changed("sharc.associative_memory", name) | {
        "methods": ["derpp"],
        "buffers": [10**11],
        "budget": {"unit": "bytes", "count_associative_memory": True, "split": [1.0, 2.0, 3.0, 4.0, 5.0]},
        "storage": "float32",
        "protocol": "paper+importance+budget+read+forget",
    }
    settings = {name: {"kind": "mean"}}
    values["sharc"] |= {"theta": 0.12345678901234567, "saliency": "integrated_gradients"}
    values["sharc"]["associative_settings"] = settings
    longest = max((cell.id for cell in cells(load_grid(values))), key=len)
    assert len(longest) > 160 and len(f".{longest}.json.12345678.part") < 255
    values["backbone"]["weights"] = "w" * 240 + ".safetensors"
    with pytest.raises(
        UserError, match="backbone: 'resnet_small-w.*' is too long for a folder name: shorten"
    ):
        load_grid(values)


YTE = "__use_yte__: true\n?__import__('pathlib').Path('run').touch(): 1\n"


@pytest.mark.reliability("grid-programs")
@pytest.mark.parametrize("named", ["config.yaml", "grid.yaml"])
def test_grid_file_with_template_code_is_refused_unread(tmp_path, monkeypatch, capsys, named):
    """Snakemake's templates can run code, so `check` refuses the file without expanding it."""
    monkeypatch.chdir(tmp_path)
    Path(named).write_text(YTE + TEXT)
    assert main(["check", "--config", named]) == 1
    assert f"error: config file {named} has __use_yte__" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "text",
    ["1: a\n'1': b\n", "a: &x {b: 1}\nc: {<<: *x, b: 2}\n", "a: &x [*x]\n", "a: " + "[" * 10**5],
)
def test_keys_that_only_look_alike_are_read(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    check_text(tmp_path / "grid.yaml")


@pytest.mark.pipeline
def test_snakemake_refuses_a_grid_file_with_a_key_twice(copy):
    (copy / "grid.yaml").write_text(TEXT + "seeds: [0]\nseeds: [1]\n")
    run = snakemake(copy, "--dry-run", "--configfile", "grid.yaml")
    assert run.returncode == 1
    (line,) = own_lines(run)
    assert line.startswith("error: config file ")
    assert "grid.yaml sets 'seeds' in line " in line


@pytest.mark.reliability("grid-programs")
@pytest.mark.pipeline
def test_snakemake_runs_no_code_of_the_default_grid(copy):
    (copy / "config.yaml").write_text(YTE + TEXT)
    run = snakemake(copy, "--dry-run")
    assert run.returncode == 1
    (line,) = own_lines(run)
    assert line.startswith("error: config file config.yaml has __use_yte__")
    assert not (copy / "run").exists()
