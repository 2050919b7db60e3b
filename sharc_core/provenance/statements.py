"""The statements of a file that can change a number, as a digest, and its imports.

Parsing all files takes one to two seconds, and every call of Snakemake needs it. So what was found is kept
beside the compiled modules, by the file's text; like these, it can be deleted at any time.
"""

import ast
import contextlib
import functools
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

MOST = 1000  # texts to keep; what this process did not ask for is dropped beyond it


class Import(NamedTuple):
    """One imported name.

    level, module, symbol: as in `from module import symbol`; symbol is "" for `import module`. name: the name
    in the file. is_used: whether the file's statements use that name.
    """

    level: int
    module: str
    symbol: str
    name: str
    is_used: bool


class Module(NamedTuple):
    """The hashed parts of a file: the digest of its statements, and its imports."""

    digest: str
    imports: list[Import]


def hash_of(texts: list[str]) -> str:
    """Return a short hash of texts, one after the other."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


@functools.cache
def read(text: str, is_python: bool) -> Module:
    """Parse a file's text, or look it up. A text that is not Python is hashed as it is."""
    if not is_python:
        return Module(hash_of([text]), [])
    key = hashlib.sha256(text.encode()).hexdigest()
    known = _kept().get(key)
    if known is not None:
        digest, imports = known
        _USED[key] = known
        return Module(digest, [Import(*fields) for fields in imports])
    module = _parsed(text)
    _USED[key] = [module.digest, [list(item) for item in module.imports]]
    return module


def _parsed(text: str) -> Module:
    tree = ast.parse(text)
    imports: list[tuple[int, str, str, str]] = []
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom):
            imports += [(node.level, node.module or "", a.name, a.asname or a.name) for a in node.names]
        elif isinstance(node, ast.Import):
            imports += [(0, a.name, "", a.asname or a.name.split(".")[0]) for a in node.names]
    code = ast.dump(_statements_that_count(tree))
    items = [Import(*fields, fields[3] == "*" or f"id='{fields[3]}'" in code) for fields in imports]
    return Module(hash_of([code]), items)


def _statements(tree: ast.Module) -> list[ast.AST]:
    """Return the module and all nested nodes that may hold statements. Five times faster than ast.walk."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                nodes += inner
    return nodes


def _statements_that_count(tree: ast.Module) -> ast.Module:
    """Remove docstrings, import statements and the arguments of raised exceptions, in place."""
    for node in _statements(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                del body[0]
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                inner[:] = [child for child in inner if not isinstance(child, ast.Import | ast.ImportFrom)]
    return tree


# --- what earlier processes parsed ---------------------------------------------------------------------

_USED: dict[str, list[Any]] = {}  # by the hash of a text: what this process read


def _file() -> Path:
    tag = f"statements.{sys.implementation.cache_tag}.json"
    return Path(__file__).with_name("__pycache__") / tag


@functools.cache
def _rules() -> str:
    """Return a hash of what a kept digest depends on besides the text: this file and Python's parser."""
    return hash_of([Path(__file__).read_text(encoding="utf-8"), sys.version])


@functools.cache
def _kept() -> dict[str, list[Any]]:
    """Return what was kept under the present rules; nothing if it cannot be read."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        texts = found["texts"] if found["rules"] == _rules() else {}
        for digest, imports in texts.values():
            Module(str(digest), [Import(*fields) for fields in imports])
        return texts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def keep() -> None:
    """Keep what this process parsed, where Python may write compiled modules."""
    kept = _kept()
    if sys.dont_write_bytecode or _USED.keys() <= kept.keys():
        return
    texts = _USED if len(kept) + len(_USED) > MOST else kept | _USED
    path = _file()
    part = path.with_name(f"{path.name}.{os.getpid()}")  # two processes may write at once
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_text(json.dumps({"rules": _rules(), "texts": texts}), encoding="utf-8")
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return
    kept.update(_USED)
