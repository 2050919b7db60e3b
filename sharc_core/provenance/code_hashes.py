"""What a result depends on: hashes of the code behind a cell or a stage, and the libraries of that."""

import ast
import functools
import hashlib
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.methods import METHODS
from sharc_core.saliency import SALIENCIES

PACKAGE = Path(__file__).parents[1]

# Modules that shape inputs or messages but not a cell's numbers: its settings and features are
# parameters and inputs of its job already, so a new check or error text re-runs nothing.
WITHOUT = {
    "config",
    "documents",
    "features",
    "backbones",
    "device",
    "datasets",
    "registry",
    "settings",
    "errors",
    "files",
    "origin",
}
# The same for a stage. Settings are part of the names of what it makes, so their types need not be.
STAGE_WITHOUT = {
    "config",
    "backbones.config",
    "datasets.download",  # what it gets is known by its checksum
    "device",  # which one is chosen; what it computes: determinism
    "registry",
    "settings",
    "errors",
    "files",
    "origin",
    "provenance",
}
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
SHAPES_NOTHING = {"sharc_core", "pydantic", "safetensors"}  # imported by stages, in no number of theirs


class _Module(NamedTuple):
    """A file as it counts: code without comments and docstrings; what it imports: (level, module, names)."""

    code: str
    imports: list[tuple[int, str, list[str]]]


@functools.lru_cache
def code_hash(method: str, associative_memory: str | None, saliency: str | None = None) -> str:
    """Short hash of the code behind a cell's numbers: learner, method, AM, saliency, what they import.

    Comments, docstrings and formatting do not count. A new plug-in changes no other cell's hash.
    """
    roots = [PACKAGE / "learner.py", Path(METHODS.module_file(method))]
    if associative_memory is not None:
        roots.append(Path(ASSOCIATIVE_MEMORIES.module_file(associative_memory)))
    if saliency is not None:
        roots.append(Path(SALIENCIES.module_file(saliency)))
    return _hash(_closure(roots, WITHOUT))


@functools.lru_cache
def recall_hash(associative_memory: str) -> str:
    """The same of the code behind a job of the recall study: the study, the AM and what they import."""
    roots = [PACKAGE / "studies" / "recall.py", Path(ASSOCIATIVE_MEMORIES.module_file(associative_memory))]
    return _hash(_closure(roots, WITHOUT))


@functools.lru_cache
def stage_hash(*roots: str | Path) -> str:
    """Short hash of the code that a stage's output comes from: its roots and what they import.

    roots: modules by their name below sharc_core ("datasets.base"), files, or a folder of templates.
    Comments, docstrings and formatting do not count, nor do modules of settings and messages.
    """
    return _hash(_closure(_files_of(roots), STAGE_WITHOUT))


@functools.lru_cache
def library_versions(*roots: str | Path) -> dict[str, str]:
    """Versions of the installed libraries that a stage's code imports; roots as for stage_hash."""
    modules = _closure(_files_of(roots), STAGE_WITHOUT).values()
    names = {name.split(".")[0] for module in modules for level, name, _ in module.imports if not level}
    found = {}
    for name in sorted(names - SHAPES_NOTHING - sys.stdlib_module_names):
        try:
            library = DISTRIBUTIONS.get(name, name)
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue  # a module that no package brought: its version cannot be told
    return found


def script_hash(path: Path) -> str:
    """Short hash of one script of the workflow, whatever it imports: that is its stage's or cell's hash."""
    return _hash({path: _read(path.read_text(encoding="utf-8"), True)})


def _files_of(roots: tuple[str | Path, ...]) -> list[Path]:
    files = []
    for root in roots:
        path = root if isinstance(root, Path) else PACKAGE.joinpath(*root.split("."))
        if path.is_dir() and not (path / "__init__.py").exists():
            files += sorted(path.glob("*.j2"))
        else:
            files.append(path if path.is_file() else _source(path))
    return files


def _closure(roots: list[Path], without: set[str]) -> dict[Path, _Module]:
    """The files and all that they import from this package, but for the modules `without`."""
    found: dict[Path, _Module] = {}
    todo = list(roots)
    while todo:
        path = todo.pop().resolve()
        if path not in found:
            found[path] = _read(path.read_text(encoding="utf-8"), path.suffix == ".py")
            todo += _imported(path, found[path], without)
    return found


def _hash(modules: dict[Path, _Module]) -> str:
    text = "".join(modules[path].code for path in sorted(modules))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def _read(text: str, is_python: bool) -> _Module:
    """By its text: a file that several stages import is parsed once, an edited one anew."""
    if not is_python:
        return _Module(text, [])
    tree = ast.parse(text)
    imports = []
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module or "", [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            imports += [(0, alias.name, []) for alias in node.names]
    return _Module(ast.dump(_without_docstrings(tree)), imports)


def _imported(path: Path, module: _Module, without: set[str]) -> list[Path]:
    """Files of this package that a module imports, by whichever form of the import statement."""
    files = []
    for level, name, names in module.imports:
        if level:  # relative: counted from the module's own folder
            inside = path.parents[level - 1].relative_to(PACKAGE.resolve()).parts
            parts = (*inside, *filter(None, name.split(".")))
        elif name.split(".")[0] == PACKAGE.name:
            parts = tuple(name.split(".")[1:])
        else:
            continue
        # `from package import name` may mean a module of that name
        for candidate in (parts, *((*parts, one) for one in names)):
            above = {".".join(candidate[:depth]) for depth in range(1, len(candidate) + 1)}
            file = _source(PACKAGE.joinpath(*candidate))
            if candidate and not above & without and file.is_file():
                files.append(file)
    return files


def _source(path: Path) -> Path:
    """A module's file: of a package, its __init__."""
    return path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")


def _statements(tree: ast.Module) -> list[ast.AST]:
    """A module and all that may hold statements, wherever: five times faster than ast.walk."""
    found: list[ast.AST] = [tree]
    for node in found:
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):
                found += inner
    return found


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in _statements(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                node.body = body[1:]
    return tree
