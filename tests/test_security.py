"""Hostile names and files: nothing in a grid file, a folder or an image is executed."""

import ast
import io
import json
import re
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import EpsImagePlugin, Image
from result_factory import make_grid
from snake import ROOT, copy_project, half_written, snakemake
from test_report import Checker

from sharc_core.common.errors import UserError
from sharc_core.datasets import SOURCES
from sharc_core.datasets.pictures import EXTENSIONS, FORMATS, decode
from sharc_core.figures import write_figures
from sharc_core.grid.sub_grid import SubGrid
from sharc_core.report.page import write_report
from sharc_core.results.published import no_published
from sharc_core.results.runs import runs_table
from sharc_core.results.tables import write_tables

# Special characters of shells, Snakemake's formatting, wildcards, regular expressions and HTML.
NASTY = "a b'c\"d $(touch ran) `touch ran`; touch ran & | * ? [a] # %s %(x)s \\n ~ !x ü"
HOSTILE = r"a_b & 50% #1 $x$ {y} ~^\z <script>alert(1)</script> | *c*"


# --- the workflow ----------------------------------------------------------------------------------


@pytest.mark.reliability("shell")
@pytest.mark.pipeline
def test_paths_and_class_names_are_only_names(project, tmp_path):
    """All paths of a grid, the project's path, and names of classes and images are hostile."""
    folder = tmp_path / f"project {NASTY}"
    copy_project(folder)
    classes = [
        "<img src=x onerror=alert(1)>",
        "$(touch ran)",
        "`touch ran`; touch ran #",
        HOSTILE.replace("/", ""),
    ]
    noise = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in classes:
            place = folder / f"images {NASTY}" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                image.save(place / f"{number} $(touch ran).png")
    (weights,) = (project / "data/backbones").glob("*.safetensors")
    (folder / f"weights {NASTY}.safetensors").write_bytes(weights.read_bytes())
    grid = {
        "datasets": {"mine": {"source": "image_folder", "path": f"images {NASTY}", "tasks": 2}},
        "backbone": {"arch": "resnet_small", "weights": f"weights {NASTY}.safetensors", "image_size": 32},
        "methods": ["sgd"],
        "scenarios": ["class_il"],
        "seeds": [0],
        "data_dir": str(tmp_path / f"data {NASTY}"),
        "results_dir": f"results {NASTY}",
    }
    (folder / f"grid {NASTY}.yaml").write_text(yaml.safe_dump(grid, allow_unicode=True))
    done = snakemake(folder, "--configfile", f"grid {NASTY}.yaml")
    assert done.returncode == 0, done.stdout
    assert len(pd.read_csv(folder / f"results {NASTY}/runs.csv")) == 1
    page = (folder / f"results {NASTY}/report.html").read_text()
    assert "alert(1)" not in page and "<img src=x" not in page and "touch ran" not in page
    assert [path for path in tmp_path.rglob("*") if path.name == "ran"] == []
    assert not (ROOT / "ran").exists() and half_written(tmp_path) == []


FORBIDDEN = {
    "a shell": r"shell=True|os\.system|os\.popen",
    "code from text": r"(?<![\w.])(eval|exec)\(",
    "objects from YAML": r"yaml\.(load|load_all|full_load|unsafe_load)\(",
    "objects from arrays": r"allow_pickle=True",
    "objects from weights": r"torch\.load\((?!.*weights_only=True)|weights_only=False",
    "markup from text": r"\|\s*safe\b|autoescape=False",
    "archives unpacked": r"extractall|\.extract\(|unpack_archive",
}


@pytest.mark.reliability("shell")
@pytest.mark.parametrize("what", FORBIDDEN)
def test_forbidden_calls_do_not_occur(what):
    files = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]
    for folder in ("sharc_core", "workflow", "envs", "benchmarks"):
        files += [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.j2")]
    assert len(files) > 100
    for path in files:
        found = re.search(FORBIDDEN[what], path.read_text(), re.MULTILINE)
        assert found is None, f"{path.relative_to(ROOT)}: {found.group()}"


@pytest.mark.reliability("shell")
def test_shell_commands_quote_their_parts():
    """Every formatted part of the rules' commands is quoted (:q is Snakemake's quoting)."""
    parts = []
    for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]:
        for block in re.findall(r"^    shell:\n((?:        .*\n)+)", path.read_text(), re.MULTILINE):
            parts += re.findall(r"(?<!{){([^{}]+)}(?!})", block)
    assert parts and all(part.endswith(":q") for part in parts), parts


@pytest.mark.reliability("markup")
def test_markup_is_made_of_our_own_drawings_and_paragraphs_only():
    """Texts without escaping: figures, the explanation of a study's class, and the drawing library."""
    found = []
    for path in (ROOT / "sharc_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Markup":
                found.append((path.name, ast.unparse(node)))
    assert sorted(found) == [
        ("figure_html.py", "Markup(svg)"),
        ("page.py", "Markup(study.explanation)"),
        ("page.py", "Markup(vega_script())"),
    ]


# --- images ----------------------------------------------------------------------------------------


def encoded(kind: str, size=(8, 8)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_of_the_documented_extensions_are_read(kind):
    assert decode(encoded(kind), "x").getpixel((4, 4))[0] > 150


def test_every_extension_is_one_of_the_formats():
    Image.init()
    assert {Image.EXTENSION[extension] for extension in EXTENSIONS} == set(FORMATS)


@pytest.mark.reliability("image-formats")
@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "SGI", "ICNS"])
def test_other_formats_are_refused_whatever_the_name(kind, monkeypatch):
    """Pillow detects the format from the content and passes PostScript to Ghostscript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("ran"))
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, kind)
    with pytest.raises(UserError, match=r"x\.png is not a readable image .*: replace or remove it"):
        decode(stream.getvalue(), "x.png")


def bomb(side: int) -> bytes:
    """Return a PNG of a few hundred bytes that claims to have side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.reliability("image-bombs")
@pytest.mark.parametrize(
    ("side", "message"),
    [
        (8193, "x.png is 8193 x 8193 pixels: too large, refused"),
        (60_000, "x.png is not a readable image .*bomb"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_would_fill_the_memory_are_refused(side, message, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(UserError, match=message):
        decode(bomb(side), "x.png")


# --- what is written -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Tables, figures and report of results in which all names and a study's title are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    cells = make_grid(
        datasets=(HOSTILE,), methods=("sgd", "er"), buffers=(100,), backbone=f"backbone {HOSTILE}"
    )
    runs = runs_table(cells, [{s: ["main", "x"] for s in cell["matrix"]} for cell in cells])
    write_tables(runs, no_published(), folder)
    studies = {"x": SubGrid(figure="learning_curves", title=f"title {HOSTILE}")}
    drawn = write_figures(cells, runs, folder / "figures", studies)
    write_report(
        runs,
        cells,
        no_published(),
        folder / "figures",
        folder / "report.html",
        title=f"page {HOSTILE}",
        provenance={f"key {HOSTILE}": f"value {HOSTILE}"},
        cards=[{f"card {HOSTILE}": HOSTILE}],
        drawn=[path for path in drawn if path.suffix == ".svg"],
    )
    return folder


@pytest.mark.reliability("markup")
@pytest.mark.slow
def test_the_page_shows_hostile_names_as_text(hostile):
    page = (hostile / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.scripts.count(None) == 3 and set(checker.scripts) == {None, "application/json"}
    assert "<script>alert" not in page
    text = " ".join(checker.text)
    for name in ("page", "title", "key", "value", "card", "backbone"):
        assert f"{name} {HOSTILE}" in text, name
    assert any(HOSTILE in label for label in checker.labels)


@pytest.mark.reliability("markup")
@pytest.mark.slow
def test_a_drawing_holds_no_script_and_its_words_are_plain(hostile):
    drawings = list((hostile / "figures").glob("*.svg"))
    assert len(drawings) == 10
    for path in drawings:
        assert "<script" not in path.read_text()
    words = json.loads((hostile / "figures/x_class_il.json").read_text())
    assert words["title"].startswith(f"title {HOSTILE}")


@pytest.mark.reliability("markup")
@pytest.mark.slow
def test_tables_escape_hostile_names(hostile):
    for scenario in ("task_il", "class_il"):
        markdown = (hostile / f"{scenario}.md").read_text()
        for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, block
        assert r"\<script>" in markdown and "<script>" not in markdown.replace(r"\<script>", "")
        assert r"\*c\*" in markdown and r"\| " in markdown
        latex = (hostile / f"{scenario}.tex").read_text()
        (header,) = {line for line in latex.splitlines() if r"a\_b" in line and r"\multicolumn" in line}
        assert r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}z" in header
        assert r"\textless{}script\textgreater{}alert(1)" in header
        rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows[1:]}) == 1
        table = pd.read_csv(hostile / f"{scenario}.csv")
        assert set(table.dataset) == {HOSTILE}


# --- what is printed -------------------------------------------------------------------------------


@pytest.mark.reliability("terminal")
def test_control_characters_in_names_are_escaped(tmp_path):
    """Line feeds and escape sequences in file names are shown in escaped form."""
    for split in ("train", "test"):
        for name in ("a", "b\n\x1b[31merror: all is well"):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            (place / "1.png").write_bytes(b"none" if name != "a" else encoded("PNG"))
    kind = SOURCES.get("image_folder")
    with pytest.raises(UserError) as caught:
        kind(kind.Settings(path=str(tmp_path / "images")), tmp_path / "data").check()
    assert r"b\n\x1b[31merror: all is well/1.png is not a readable image" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.reliability("terminal")
def test_job_prints_its_lines_and_logs_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "workflow/scripts"))
    from common import job

    log = tmp_path / "logs/x.log"
    told = SimpleNamespace(log=[str(log)], input=[])

    def body(say) -> None:
        say("half of a\nb\x1b[31m")
        print("a name that is no text: \udcff")
        print("to the log only", file=sys.stderr)
        raise UserError("a\x1b[31m is missing: bring it")

    with pytest.raises(SystemExit) as ended, job(told, "data x") as say:
        body(say)
    assert ended.value.code == 1
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        r"[data x] half of a\nb\x1b[31m",
        rf"error: data x: a\x1b[31m is missing: bring it (log: {log})",
    ]
    logged = log.read_text()
    assert r"no text: \udcff" in logged and "to the log only" in logged and "UserError" in logged
    with pytest.raises(ZeroDivisionError), job(told, "data x"):
        raise ZeroDivisionError
    assert capsys.readouterr().err == f"error: data x failed, see the log: {log}\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit), job(SimpleNamespace(log=[str(tmp_path / "file/x.log")]), "data x"):
        pytest.fail("it has no log")
    assert capsys.readouterr().err.startswith(f"error: data x: cannot write {tmp_path}/file/x.log: ")
    assert Path(log).exists()
