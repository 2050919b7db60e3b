"""A real `snakemake` on the smoke grid in a copy of the project."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from snake import own_lines, ran, snakemake

pytestmark = pytest.mark.pipeline


def test_smoke_grid_writes_all_outputs(project):
    out = project / "results/smoke"
    runs = pd.read_csv(out / "runs.csv")
    # sgd: 2 scenarios x 2 seeds; er plain the same; er sharc one theta per scenario
    assert len(runs) == 3 * 2 * 2
    assert runs.groupby(["scenario", "method", "variant"]).size().eq(2).all()
    assert runs.acc.between(0, 100).all()
    assert (runs.total_bytes >= runs.episodic_bytes + runs.associative_bytes).all()
    for scenario in ("task_il", "class_il"):
        for kind in ("md", "csv", "tex"):
            assert (out / f"tables/{scenario}.{kind}").stat().st_size > 100
        for figure in ("learning_curves", "bytes"):
            assert (out / f"figures/{figure}_{scenario}.svg").stat().st_size > 1000
    assert "ER" in (out / "report.html").read_text()
    # the digits are not in the paper
    assert "2 of the paper's claims need another grid" in (out / "tables/scorecard.md").read_text()
    matrices = sorted(p.stem for p in out.glob("matrices/s_digits/*/*.json"))
    assert matrices == [
        "er-plain-m20-floats",
        "er-sharc-m20-floats-theta0.4-gradient-modern_hopfield",
        "er-sharc-m20-floats-theta0.8-gradient-modern_hopfield",
        "sgd",
    ]


def test_snakemakes_own_report_contains_captions_and_labels(project):
    """It has tables, figures and page with captions, categories and labels, and needs no network."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    for path in ("own.html", "own.zip"):
        arguments = ("--configfile", "config/smoke.yaml", "--report", path)
        done = snakemake(project, *arguments, environment=nowhere)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Missing" not in done.stdout + done.stderr
    with zipfile.ZipFile(project / "own.zip") as archive:
        names = {Path(name).name for name in archive.namelist()}
        page = archive.read("own/report.html").decode()
    scenarios = ("task_il", "class_il")
    kinds = (".md", ".csv", ".tex", "_pairs.csv")
    tables = {f"{scenario}{kind}" for scenario in scenarios for kind in kinds}
    figures = {f"{name}_{scenario}.svg" for name in ("bytes", "learning_curves") for scenario in scenarios}
    assert tables | figures | {"scorecard.md", "scorecard.csv", "report.html"} <= names
    for words in ('"Tables"', '"Figures"', '"Report"', '"what"', "learning curves task il"):
        assert words in page
    for caption in (
        "sample standard deviation over the seeds",
        "solid lines SHARC",
        "One self-contained page",
    ):
        assert caption in page


def test_default_data_sets_do_not_leak_in(project):
    """A grid file is independent of config.yaml, which also has s_glyphs."""
    assert not list((project / "data/prepared").glob("glyphs*"))
    assert not list((project / "results/smoke/matrices").glob("s_glyphs"))


def test_nothing_to_be_done_again(project):
    again = snakemake(project, "--configfile", "config/smoke.yaml")
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def planned_outputs(project: Path, config: Path) -> list[str]:
    """Return the outputs of all jobs of a dry run; a job lists several outputs in one line."""
    dry = snakemake(project, "--configfile", str(config), "--dry-run")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    text = dry.stdout + dry.stderr
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("output: ")]
    return [line.removeprefix("output: ").removesuffix(" (update)") for line in lines]


def planned(project: Path, config: Path) -> list[str]:
    """Return the outputs of the cell jobs of a dry run."""
    return [line for line in planned_outputs(project, config) if "/matrices/" in line]


def stages(outputs: list[str]) -> list[str]:
    """Return the folders of outputs below data/ or results/smoke/, or their names there."""
    names = {Path(line.split(", ")[0]).parts for line in outputs}
    return sorted(parts[1] if parts[0] == "data" else parts[2] for parts in names)


@pytest.mark.reliability("method-setting")
def test_a_method_setting_reruns_that_method_only(project):
    values = yaml.safe_load((project / "config/smoke.yaml").read_text())
    values["method_settings"] = {"er": {"replay": "whole"}}
    (project / "config/changed.yaml").write_text(yaml.safe_dump(values))
    outputs = planned(project, Path("config/changed.yaml"))
    assert len(outputs) == 3
    assert all("/er-" in name for name in outputs)


@pytest.mark.reliability("more-cells")
def test_a_new_method_reruns_nothing_old(project):
    source = (
        (project / "sharc_core/methods/sgd.py").read_text().replace('register("sgd")', 'register("mine")')
    )
    (project / "sharc_core/methods/mine.py").write_text(source)
    try:
        assert planned(project, Path("config/smoke.yaml")) == []
        values = yaml.safe_load((project / "config/smoke.yaml").read_text())
        values["methods"].append("mine")
        (project / "config/added.yaml").write_text(yaml.safe_dump(values))
        outputs = planned(project, Path("config/added.yaml"))
        assert [Path(name).name for name in outputs] == ["mine.json"]
    finally:
        (project / "sharc_core/methods/mine.py").unlink()


@pytest.mark.reliability("other-studies")
def test_studies_train_only_cells_that_the_grid_lacks(project):
    """Only cells that the grid lacks are trained, even for another scenario; tables and figures follow."""
    values = yaml.safe_load((project / "config/smoke.yaml").read_text())
    values["studies"] = {
        "again": {"figure": "learning_curves"},
        "sweep": {"figure": "theta", "scenarios": ["task_il"], "sharc": {"theta": [0.4, 0.6]}},
    }
    (project / "config/studies.yaml").write_text(yaml.safe_dump(values))
    outputs = planned_outputs(project, Path("config/studies.yaml"))
    cells = [Path(name).stem for name in outputs if "/matrices/" in name]
    assert cells == ["er-sharc-m20-floats-theta0.6-gradient-modern_hopfield"]
    text = ", ".join(outputs)
    for name in ("runs.csv", "figures/again_class_il.svg", "figures/sweep_task_il.json", "study_sweep.csv"):
        assert name in text
    assert "sweep_class_il" not in text
    values["studies"]["sweep"]["sharc"] = {"theta": [0.4]}
    (project / "config/studies.yaml").write_text(yaml.safe_dump(values))
    assert planned(project, Path("config/studies.yaml")) == []


@pytest.mark.reliability("method-code")
def test_editing_a_method_reruns_it_but_a_comment_does_not(project):
    path = project / "sharc_core/methods/sgd.py"
    original = path.read_text()
    try:
        path.write_text(original + "\n# a comment\n")
        assert planned(project, Path("config/smoke.yaml")) == []
        path.write_text(original.replace("self.lr)", "self.lr * 1)"))
        assert [Path(name).name for name in planned(project, Path("config/smoke.yaml"))] == ["sgd.json"]
    finally:
        path.write_text(original)


@pytest.mark.reliability("table-code", "inputs")
@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("report/templates/report.html.j2", "<html", "<html ", ["provenance.json", "report.html"]),
        (
            "learning/metrics.py",
            "return ",
            "return 1 * ",
            ["figures", "provenance.json", "report.html", "runs.csv", "tables"],
        ),
        (
            "backbones/pretraining.py",
            "WARM_UP = 0.25",
            "WARM_UP = 0.2",
            [
                "backbones",
                "features",
                "figures",
                "matrices",
                "provenance.json",
                "report.html",
                "runs.csv",
                "tables",
            ],
        ),
        (
            "../workflow/scripts/runs.py",
            "read_all(snakemake.input,",
            "read_all(list(snakemake.input),",
            ["figures", "provenance.json", "report.html", "runs.csv", "tables"],
        ),
        # also change a message and add a data source
        ("report/tables.py", '"""', '"""Anew: ', []),
    ],
)
def test_edited_code_reruns_its_stage_and_what_comes_after(project, file, old, new, again):
    package = project / "sharc_core"
    before = {path: path.read_text() for path in (package / file, package / "grid/checks.py")}
    added = package / "datasets/mine.py"
    source = (package / "datasets/digits.py").read_text().replace('register("digits")', 'register("mine")')
    try:
        assert old in before[package / file]
        (package / file).write_text(before[package / file].replace(old, new, 1))
        (package / "grid/checks.py").write_text(
            before[package / "grid/checks.py"].replace("is listed twice", "is twice")
        )
        added.write_text(source)
        assert sorted(set(stages(planned_outputs(project, Path("config/smoke.yaml"))))) == again
    finally:
        added.unlink(missing_ok=True)
        for path, text in before.items():
            path.write_text(text)


def dry(project: Path, **changes) -> tuple[list[str], str]:
    """Return the planned outputs of the smoke grid with changed keys, and the output of the dry run."""
    values = yaml.safe_load((project / "config/smoke.yaml").read_text()) | changes
    (project / "config/changed.yaml").write_text(yaml.safe_dump(values))
    run = snakemake(project, "--configfile", "config/changed.yaml", "--dry-run")
    text = run.stdout + run.stderr
    assert run.returncode == 0, text
    lines = (line.strip() for line in text.splitlines())
    return [name.removeprefix("output: ") for name in lines if name.startswith("output: ")], text


@pytest.mark.parametrize(("folder", "prefix"), [("./out/", "out/"), (".", "")])
def test_any_spelling_of_the_results_folder(project, folder, prefix):
    outputs, text = dry(project, results_dir=folder)
    assert {f"{prefix}runs.csv", f"{prefix}report.html"} <= set(outputs)
    assert "discouraged" not in text and "unintended" not in text


def test_names_that_run_together_are_told_apart(project):
    small = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32}
    digits = {"source": "digits", "tasks": 5}
    outputs, _ = dry(
        project,
        datasets={"a": digits, "a_b": digits | {"seed": 1}},
        backbone=[small | {"name": "b_c"}, small | {"name": "c", "image_size": 40}],
    )
    features = [name for name in outputs if "/features/" in name]
    assert len(features) == 4
    # both are pre-trained on the same data, which are made once
    assert len([name for name in outputs if "/prepared/pretraining-" in name]) == 1


def test_torchvision_weights_are_no_input_file(project):
    backbone = {"arch": "resnet18", "weights": "imagenet1k_v1", "image_size": 32}
    outputs, _ = dry(project, backbone=backbone)
    assert [name for name in outputs if "resnet18-imagenet1k_v1" in name and "/features/" in name]


def test_each_view_is_a_job_and_an_input_of_the_cells(project):
    """Seeds 0 and 1 need two of three views, and the weights do not depend on the number of views."""
    values = yaml.safe_load((project / "config/smoke.yaml").read_text())
    outputs, text = dry(project, backbone=values["backbone"] | {"views": 3}, results_dir="results/views")
    features = sorted(Path(name).parent.name for name in outputs if "/features/" in name)
    assert features == ["view1", "view2"]
    assert not [name for name in outputs if name.startswith("data/backbones")]
    inputs = [line.strip() for line in text.splitlines() if line.strip().startswith("input: ")]
    cells = [line for line in inputs if line.count("manifest.json") == 2 and "/view1/" in line]
    assert len(cells) == 4 and all("/view2/" in line for line in cells)


@pytest.mark.reliability("bad-file")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: }", "error: config file config.yaml is not valid YAML: "),
        ("", "error: config file config.yaml must hold keys and values"),
    ],
)
def test_a_broken_default_grid_is_one_line(project, text, message):
    path = project / "config.yaml"
    original = path.read_text()
    try:
        path.write_text(text)
        run = snakemake(project, "--dry-run")
    finally:
        path.write_text(original)
    lines = own_lines(run)
    assert run.returncode == 1
    assert len(lines) == 1 and lines[0].startswith(message), lines


def test_the_recall_study_is_a_target_of_its_own(project):
    """It is not part of `all` although the grid file has its block, and it uses the same features."""
    values = yaml.safe_load((project / "config/smoke.yaml").read_text())
    values["sharc"]["associative_memory"] = ["none", "modern_hopfield"]
    values["recall"] = {
        "patterns": 20,
        "masked": [0.5],
        "noise": [0.5],
        "counts": [5, 20],
        "later_tasks": [0, 1],
        "seeds": [0],
        "side": 8,
        "pictures": 6,
    }
    (project / "config/recall.yaml").write_text(yaml.safe_dump(values))
    out = project / "results/smoke"
    assert not (out / "recall").exists()
    run = snakemake(project, "recall", "--configfile", "config/recall.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "study_job" in ran(run.stdout) and "features" not in ran(run.stdout)
    assert "Recall of associative memories: results/smoke/tables/recall.md (2 jobs run, 0 up to" in run.stdout
    table = pd.read_csv(out / "tables/recall.csv")
    assert table.memory.tolist() == ["none", "modern_hopfield"]
    assert table.relative_error_mean[0] > 0 == table.relative_error_mean[1]
    rows = [len(pd.read_csv(path)) for path in out.glob("recall/s_digits/*/*.csv")]
    assert rows == [1 + 2 + 1 + 2 + 4] * 2
    for name in ("masked", "noise", "patterns", "tasks", "pictures"):
        assert (out / f"figures/recall_{name}.svg").stat().st_size > 1000


@pytest.mark.reliability("bad-value")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bufers": [20]}, "error: config: unknown key 'bufers' (did you mean 'buffers'?)"),
        ({"methods": ["ur"]}, "error: config: methods: unknown method 'ur'"),
        ({"buffers": [3]}, "error: config: buffers: 3 is smaller than the 5 tasks of s_digits"),
        (
            {"datasets": {"mine": {"source": "image_folder", "path": "no.zip", "tasks": 2}}},
            "error: config: datasets.mine: ",
        ),
    ],
)
def test_bad_input_is_one_line_before_any_job(project, change, message):
    values = yaml.safe_load((project / "config/smoke.yaml").read_text()) | change
    (project / "config/bad.yaml").write_text(yaml.safe_dump(values))
    run = snakemake(project, "--configfile", "config/bad.yaml")
    assert run.returncode != 0
    text = run.stdout + run.stderr
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and lines[0].startswith(message), text
    assert "Traceback" not in text and "rule " not in text and ran(text) == []
