"""The statements of a file that can change a number, as a digest, and its imports.

Parsing all files takes one to two seconds, and every call of Snakemake needs it. So what was found is kept
beside the compiled modules, by the file's text; like these, it can be deleted at any time.
"""

import ast
import functools
import hashlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

from sharc_core.common import deferred
from sharc_core.common.kept import kept_file, read_kept, write_kept

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
    imports: tuple[Import, ...]


def hash_of(texts: list[str]) -> str:
    """Return a short hash of texts, one after the other."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


@functools.cache
def read(text: str, is_python: bool) -> Module:
    """Parse a file's text, or look it up. A text that is not Python is hashed as it is."""
    if not is_python:
        return Module(hash_of([text]), ())
    key = hashlib.sha256(text.encode()).hexdigest()
    known = _kept().get(key)
    if known is not None:
        digest, imports = known
        _USED[key] = known
        return Module(digest, tuple(Import(*fields) for fields in imports))
    module = _parsed(text)
    _USED[key] = [module.digest, [list(item) for item in module.imports]]
    return module


def _parsed(text: str) -> Module:
    tree = ast.parse(text)
    imports: list[tuple[int, str, str, str]] = []
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom) and node.module == deferred.__name__:
            imports += [_deferred(alias) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports += [(node.level, node.module or "", a.name, a.asname or a.name) for a in node.names]
        elif isinstance(node, ast.Import):
            imports += [(0, a.name, "", a.asname or a.name.split(".")[0]) for a in node.names]
    code = ast.dump(_statements_that_count(tree))
    items = (Import(*fields, fields[3] == "*" or f"id='{fields[3]}'" in code) for fields in imports)
    return Module(hash_of([code]), tuple(items))


def _deferred(alias: ast.alias) -> tuple[int, str, str, str]:
    """Return a name imported from common.deferred. A library is read as the import that it stands for."""
    name, imported = alias.asname or alias.name, getattr(deferred, alias.name, None)
    if isinstance(imported, deferred.DeferredName):
        return 0, imported.module, imported.name, name
    if not isinstance(imported, deferred.Deferred):
        return 0, deferred.__name__, alias.name, name
    package, _, module = imported.module.rpartition(".")
    return (0, package, module, name) if package else (0, module, "", name)


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
    tree.body = _without_deferred(tree.body)
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
                inner[:] = [child for child in inner if not _is_import(child)]
    return tree


def _is_import(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _without_deferred(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return a module's statements without `__getattr__ = exports(...)` of common.deferred.

    It is an import on first use, and the block for type checkers beside it names what is imported. Such
    blocks of other modules count.
    """
    rest = [node for node in body if not _is_deferred(node)]
    is_package = any(isinstance(node, ast.Assign) for node in body if node not in rest)
    return rest if is_package else body


def _is_deferred(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING" and all(map(_is_import, node.body))
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__getattr__"


# --- what earlier processes parsed ---------------------------------------------------------------------

_USED: dict[str, list[Any]] = {}  # by the hash of a text: what this process read


def _file() -> Path:
    return kept_file(__file__, "statements")


@functools.cache
def _rules() -> str:
    """Return a hash of what a kept digest depends on besides the text: this code and Python's parser."""
    code = (__file__, str(deferred.__file__))
    return hash_of([*(Path(file).read_text(encoding="utf-8") for file in code), sys.version])


@functools.cache
def _kept() -> dict[str, list[Any]]:
    """Return what was kept under the present rules; nothing if it cannot be read."""
    texts = read_kept(_file(), _rules())
    try:
        for digest, imports in texts.values():
            Module(str(digest), tuple(Import(*fields) for fields in imports))
        return texts
    except (ValueError, TypeError):
        return {}


def keep() -> None:
    """Keep what this process parsed, where Python may write compiled modules."""
    kept = _kept()
    if _USED.keys() <= kept.keys():
        return
    texts = _USED if len(kept) + len(_USED) > MOST else kept | _USED
    if write_kept(_file(), _rules(), texts):
        kept.update(_USED)
