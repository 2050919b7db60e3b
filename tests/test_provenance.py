"""Code hashes of cells and stages depend only on the code that produces the numbers."""

import shutil
from pathlib import Path

import pytest

from sharc_core.provenance import code_hashes as provenance


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package, to which provenance is redirected."""
    folder = tmp_path / "sharc_core"
    shutil.copytree(provenance.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    for registry, package in (
        (provenance.METHODS, "methods"),
        (provenance.ASSOCIATIVE_MEMORIES, "associative"),
        (provenance.SALIENCIES, "saliency"),
        (provenance.REPRESENTATIONS, "representations"),
        (provenance.SELECTIONS, "selection"),
    ):

        def module_file(name, package=package, original=registry.module_file):
            return str(folder / package / Path(original(name)).name)

        monkeypatch.setattr(registry, "module_file", module_file)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_cell_hash_covers_its_method_and_the_core(copy):
    before = provenance.code_hash.__wrapped__("gem", None)
    edit(copy / "methods/projection.py", "RIDGE = 1e-10", "RIDGE = 1e-9")
    after = provenance.code_hash.__wrapped__("gem", None)
    assert before != after
    edit(copy / "memory/task_memory.py", "index = order.gather(1,", "index = order.flip(1).gather(1,")
    assert provenance.code_hash.__wrapped__("gem", None) != after


def test_other_plugins_comments_docstrings_and_messages_do_not_count(copy):
    before = provenance.code_hash.__wrapped__("er", "mean")
    edit(copy / "methods/gem.py", "margin: float", "margin2: float")
    edit(copy / "associative/modern_hopfield.py", "half()", "float()")
    edit(copy / "methods/er.py", "Take one step on the sum", "Take a step on the sum")
    edit(copy / "grid/checks.py", "is listed twice", "is there twice")
    edit(copy / "provenance/origin.py", "platform.machine()", "platform.node()")
    (copy / "methods/new.py").write_text("x = 1\n")
    assert provenance.code_hash.__wrapped__("er", "mean") == before
    edit(copy / "associative/mean.py", "rows, maps.float())", "rows, maps.float() * 2)")
    assert provenance.code_hash.__wrapped__("er", "mean") != before


def stage(*roots) -> str:
    return provenance.stage_hash.__wrapped__(*roots)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("roots", "file", "old", "new"),
    [
        (
            ("datasets.glyphs", "datasets.base"),
            "datasets/glyph_pool.py",
            "LOOK_ALIKE = 0.86",
            "LOOK_ALIKE = 0.9",
        ),
        (("datasets.glyphs", "datasets.base"), "datasets/base.py", "np.int64", "np.int32"),
        (("datasets.cifar", "datasets.base"), "datasets/restricted_pickle.py", "latin1", "utf-8"),
        (("datasets.tiny_imagenet", "datasets.base"), "datasets/pictures.py", "BILINEAR", "BICUBIC"),
        (
            ("backbones.pretraining", "backbones.resnet_small"),
            "backbones/resnet_small.py",
            "nn.ReLU()",
            "nn.GELU()",
        ),
        (
            ("backbones.pretraining", "backbones.resnet_small"),
            "backbones/augment.py",
            "width - 1",
            "width - 2",
        ),
        (("features.cache", "backbones.resnet_small"), "common/pooling.py", ".mean(-1)", ".amax(-1)"),
        (
            ("features.cache", "backbones.resnet_small"),
            "backbones/preprocess.py",
            "255 * deviation",
            "256 * deviation",
        ),
        (("results.runs",), "learning/metrics.py", "def acc(", "def accuracy("),
        (
            ("results.tables", "results.published", "results.runs"),
            "results/table_formats.py",
            "def to_latex(",
            "def to_tex(",
        ),
        (("figures", "results.runs"), "results/summary.py", "AM charged", "charged"),
        (("report.page", "report/templates"), "report/templates/report.html.j2", "<html", "<HTML"),
    ],
)
def test_code_that_shapes_a_stages_output_counts(copy, roots, file, old, new):
    before = stage(*roots)
    edit(copy / file, old, new)
    assert stage(*roots) != before


def test_nothing_else_counts_for_a_stage(copy):
    stages = [
        ("datasets.digits", "datasets.base"),
        ("datasets.cifar", "datasets.base"),
        ("backbones.pretraining", "backbones.resnet_small"),
        ("features.cache", "backbones.resnet_small"),
        ("results.runs",),
        ("results.tables", "results.published", "results.runs"),
        ("report.page", "report/templates", "results.published", "results.runs"),
    ]
    before = [stage(*roots) for roots in stages]
    edit(copy / "provenance/origin.py", "platform.machine()", "platform.node()")
    edit(copy / "datasets/glyphs.py", "FONT_SIZE = 52", "FONT_SIZE = 50")
    edit(copy / "backbones/torchvision_nets.py", "weights=None, num_classes=classes", "num_classes=classes")
    edit(copy / "methods/gem.py", "margin: float", "margin2: float")
    edit(copy / "datasets/download.py", "nothing was kept", "it was not kept")
    edit(copy / "backbones/config.py", "must be above 0", "must be positive")
    edit(copy / "grid/checks.py", "is listed twice", "is there twice")
    edit(copy / "common/errors.py", "class UserError", "X = 1\n\n\nclass UserError")
    (copy / "datasets/new.py").write_text("x = 1\n")
    for path in [*copy.glob("*.py"), *copy.glob("*/*.py")]:
        path.write_text(path.read_text() + "\n# a comment\n")
    edit(copy / "datasets/digits.py", "8 x 8 grey levels of 0..16", "Grey levels of 0..16")
    assert [stage(*roots) for roots in stages] == before


def test_texts_of_errors_and_import_statements_do_not_count(copy):
    before = provenance.code_hash.__wrapped__("er", "mean")
    edit(copy / "memory/reservoir.py", "raise the buffer", "enlarge the buffer")
    edit(copy / "memory/task_memory.py", "each seed would keep another", "every seed would keep another")
    edit(
        copy / "methods/er.py", "from typing import Literal\n", "import os\nfrom typing import Any, Literal\n"
    )
    assert provenance.code_hash.__wrapped__("er", "mean") == before


def test_where_a_module_lies_does_not_count(copy):
    before = provenance.code_hash.__wrapped__("gem", None)
    (copy / "methods/projection.py").rename(copy / "heads/projecting.py")
    edit(copy / "methods/gem.py", "methods.projection", "heads.projecting")
    assert provenance.code_hash.__wrapped__("gem", None) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import acc, bwt", "import bwt as acc, acc as bwt"),  # another definition under the same name
        ("from .learning.metrics import acc", "from .other import acc"),
        ("import sqrt", "import exp as sqrt"),
        ("from math import sqrt", "from cmath import sqrt"),
    ],
)
def test_stage_hash_covers_the_definition_of_an_imported_name(copy, old, new):
    (copy / "other.py").write_text("def acc(matrix):\n    return 1\n")
    text = "from .learning.metrics import acc, bwt\nfrom . import other\nfrom math import sqrt\n"
    (copy / "mine.py").write_text(text + "\n\ndef f(x):\n    return sqrt(acc(x) - bwt(x)) + other.acc(x)\n")
    before = stage("mine")
    edit(copy / "mine.py", old, new)
    assert stage("mine") != before


@pytest.mark.parametrize(
    "line",
    [
        "from sharc_core.learning import metrics",
        "import sharc_core.learning.metrics",
        "from .learning import metrics",
        "from .learning.metrics import acc",
    ],
)
def test_every_form_of_import_counts(copy, line):
    (copy / "mine.py").write_text(f"{line}\n")
    before = stage("mine")
    edit(copy / "learning/metrics.py", "def acc(", "def accuracy(")
    assert stage("mine") != before


def test_library_versions_are_those_a_stage_imports():
    digits = provenance.library_versions("datasets.digits", "datasets.base")
    assert set(digits) == {"numpy", "pillow", "scikit-learn"}
    assert {"numpy", "pillow", "matplotlib"} <= set(provenance.library_versions("datasets.glyphs"))
    assert {"torch", "torchvision"} <= set(
        provenance.library_versions("backbones.pretraining", "backbones.resnet_small")
    )
    assert {"torch", "torchvision"} <= set(
        provenance.library_versions("features.cache", "backbones.resnet_small")
    )


def test_only_the_saliency_in_use_counts(copy):
    before = provenance.code_hash.__wrapped__("er", "mean", "gradient")
    edit(copy / "saliency/occlusion.py", "/ positions", "* 1.0")
    (copy / "saliency/new.py").write_text("x = 1\n")
    assert provenance.code_hash.__wrapped__("er", "mean", "gradient") == before
    assert provenance.code_hash.__wrapped__("er", "mean", "occlusion") != before
    edit(copy / "saliency/gradient.py", "/ positions", "* 1.0")
    assert provenance.code_hash.__wrapped__("er", "mean", "gradient") != before


def test_only_the_representation_and_the_selection_in_use_count(copy):
    def codes() -> list[str]:
        pairs = [("float16", "last"), ("int8", "last"), ("float16", "herding")]
        return [provenance.code_hash.__wrapped__("er", None, None, *pair) for pair in pairs]

    before = codes()
    edit(copy / "representations/int8.py", "LARGEST_INTEGER = 127", "LARGEST_INTEGER = 126")
    (copy / "selection/new.py").write_text("x = 1\n")
    assert [a == b for a, b in zip(before, codes(), strict=True)] == [True, False, True]
    edit(copy / "selection/herding.py", "2 * (phi", "3 * (phi")
    assert [a == b for a, b in zip(before, codes(), strict=True)] == [True, False, False]
    edit(copy / "representations/sparse_maps.py", "COUNT_BYTES = 2", "COUNT_BYTES = 4")
    assert [a == b for a, b in zip(before, codes(), strict=True)] == [False, False, False]


def test_a_recall_job_depends_on_the_study_and_its_own_memory(copy):
    def job(memory: str) -> str:
        roots = ["studies.recall.measure", copy / f"associative/{memory}.py"]
        return provenance.job_hash.__wrapped__(*roots)

    before = [job(name) for name in ("mean", "modern_hopfield")]
    assert before[0] != before[1]
    edit(copy / "associative/mean.py", "rows, maps.float())", "rows, 2 * maps.float())")
    edit(copy / "studies/recall/figures.py", "WORST = 3.0", "WORST = 4.0")
    after = [job(name) for name in ("mean", "modern_hopfield")]
    assert after[0] != before[0] and after[1] == before[1]
    edit(copy / "studies/recall/measure.py", "EXACT = 1e-3", "EXACT = 1e-4")
    assert job("modern_hopfield") != before[1]
