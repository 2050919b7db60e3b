"""What a result depends on: hashes of the code behind a cell, and the repository's state."""

import ast
import functools
import hashlib
import subprocess
from pathlib import Path

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.methods import METHODS

PACKAGE = Path(__file__).parent

# Modules that shape inputs or messages but not a cell's numbers: its settings and features are
# parameters and inputs of its job already, so a new check or error text re-runs nothing.
WITHOUT = {"config", "features", "backbones", "device", "datasets", "registry", "settings", "errors", "files"}


@functools.lru_cache
def code_hash(method: str, associative_memory: str | None) -> str:
    """Short hash of the code that a cell's numbers come from: learner, method, AM and what they import.

    Comments, docstrings and formatting do not count. A new plug-in changes no other cell's hash.
    """
    roots = [PACKAGE / "learner.py", Path(METHODS.module_file(method))]
    if associative_memory is not None:
        roots.append(Path(ASSOCIATIVE_MEMORIES.module_file(associative_memory)))
    found: dict[Path, ast.Module] = {}
    todo = [path.resolve() for path in roots]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found[path] = tree = ast.parse(path.read_text(encoding="utf-8"))
        todo += [file for name in _imports(tree) if (file := _file_of(name)) is not None]
    text = "".join(ast.dump(_without_docstrings(found[path])) for path in sorted(found))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _imports(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sharc_core"):
            names.append(node.module)
    return names


def _file_of(module: str) -> Path | None:
    parts = module.split(".")[1:]
    if not parts or parts[0] in WITHOUT:
        return None
    path = PACKAGE.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                node.body = body[1:]
    return tree


def git_state() -> dict[str, object]:
    """Commit of this checkout and whether files differ from it; empty outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
