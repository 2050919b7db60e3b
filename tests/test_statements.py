"""Digests of files that are kept between processes."""

import json

import pytest

from sharc_core.provenance import statements
from sharc_core.provenance.code_hashes import PACKAGE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place of its own for what is kept, empty at first."""
    monkeypatch.setattr(statements, "_file", lambda: tmp_path / "cache" / "statements.json")
    monkeypatch.setattr(statements.sys, "dont_write_bytecode", False)
    forget()
    yield tmp_path / "cache"
    forget()


def forget():
    statements.read.cache_clear()
    statements._kept.cache_clear()
    statements._USED.clear()


def all_files():
    return {path: statements.read(path.read_text(), True) for path in sorted(PACKAGE.rglob("*.py"))}


def test_kept_digests_are_those_of_parsing(folder, monkeypatch):
    parsed = all_files()
    statements.keep()
    forget()
    monkeypatch.setattr(statements, "_parsed", lambda text: pytest.fail("parsed again"))
    assert all_files() == parsed
    assert [path.name for path in folder.iterdir()] == ["statements.json"]


DAMAGES = [
    "",
    "{",
    "[]",
    '{"rules": "others", "values": {}}',
    '{"rules": "RULES", "values": []}',
    '{"rules": "RULES", "values": {"a": 5}}',
    '{"rules": "RULES", "values": {"a": ["0", [[1]]]}}',
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_parsed_again(folder, damage):
    text = "import ast\nx = ast"
    parsed = statements.read(text, True)
    statements.keep()
    rules = json.loads((folder / "statements.json").read_text())["rules"]
    (folder / "statements.json").write_text(damage.replace("RULES", rules))
    forget()
    assert statements.read(text, True) == parsed
    statements.keep()
    assert len(json.loads((folder / "statements.json").read_text())["values"]) == 1


def test_nothing_is_written_where_python_writes_no_bytecode(folder, monkeypatch):
    monkeypatch.setattr(statements.sys, "dont_write_bytecode", True)
    statements.read("x = 1", True)
    statements.keep()
    assert not folder.exists()


def test_texts_of_earlier_versions_are_dropped(folder, monkeypatch):
    monkeypatch.setattr(statements, "MOST", 3)
    for number in range(4):
        statements.read(f"x = {number}", True)
        statements.keep()
        forget()
    assert len(json.loads((folder / "statements.json").read_text())["values"]) <= 3


def test_a_folder_that_cannot_be_written_is_no_error(folder, monkeypatch):
    folder.parent.joinpath("cache").write_text("a file")
    statements.read("x = 2", True)
    statements.keep()
