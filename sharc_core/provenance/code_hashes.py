"""What a result depends on: hashes of the code behind a cell or a stage, and the libraries of that.

A hash covers statements that can change a number. Comments, docstrings, formatting, texts of raised errors,
import statements and the folders that modules lie in do not count; which definition an imported name stands
for does.
"""

import ast
import functools
import hashlib
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency import SALIENCIES
from sharc_core.selection import SELECTIONS

PACKAGE = Path(__file__).parents[1]

# Modules that shape inputs or messages but not a cell's numbers: its settings and features are
# parameters and inputs of its job already, so a new check or error text re-runs nothing.
WITHOUT = {
    "common.device",
    "common.errors",
    "common.files",
    "common.registry",
    "common.settings",
    "backbones",
    "datasets",
    "features.cache",
    "grid.axes",
    "grid.checks",
    "grid.loading",
    "grid.models",
    "grid.plug_in_settings",
    "grid.study_settings",
    "learning.documents",
    "provenance",
    "studies.base",
}
# The same for a stage. Settings are part of the names of what it makes, so their types need not be.
STAGE_WITHOUT = {
    "common.device",  # which one is chosen; what it computes: determinism
    "common.errors",
    "common.files",
    "common.registry",
    "common.settings",
    "backbones.config",
    "datasets.download",  # what it gets is known by its checksum
    "grid.checks",
    "grid.loading",
    "grid.models",
    "grid.plug_in_settings",
    "grid.study_settings",
    "provenance.code_hashes",
    "provenance.origin",
    "studies.base",
}
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
SHAPES_NOTHING = {"sharc_core", "pydantic", "safetensors"}  # imported by stages, in no number of theirs


class _Import(NamedTuple):
    """One imported name. level, module, symbol: as in `from module import symbol`; symbol "" for a module.

    name: what the file calls it. is_used: whether the file's statements use that name.
    """

    level: int
    module: str
    symbol: str
    name: str
    is_used: bool


class _Module(NamedTuple):
    """A file as it counts: its statements as text, a digest of them, and what it imports."""

    code: str
    digest: str
    imports: list[_Import]


@functools.lru_cache
def code_hash(
    method: str,
    associative_memory: str | None,
    saliency: str | None = None,
    storage: str | None = None,
    selection: str | None = None,
) -> str:
    """Return a short hash of the code behind a cell's numbers: learner, its plug-ins, what they import.

    A new plug-in changes no other cell's hash.
    """
    plugins = (
        (METHODS, method),
        (ASSOCIATIVE_MEMORIES, associative_memory),
        (SALIENCIES, saliency),
        (REPRESENTATIONS, storage),
        (SELECTIONS, selection),
    )
    roots = [Path(registry.module_file(name)) for registry, name in plugins if name is not None]
    return _hash(_closure([PACKAGE / "learning" / "learner.py", *roots], WITHOUT), WITHOUT)


@functools.lru_cache
def job_hash(*roots: str | Path) -> str:
    """Return a short hash of the code behind a job of a study: its roots (as for stage_hash) and imports."""
    return _hash(_closure(_files_of(roots), WITHOUT), WITHOUT)


@functools.lru_cache
def stage_hash(*roots: str | Path) -> str:
    """Short hash of the code that a stage's output comes from: its roots and what they import.

    roots: modules by their name below sharc_core ("datasets.base"), files, or a folder of templates.
    Modules of settings and messages do not count.
    """
    return _hash(_closure(_files_of(roots), STAGE_WITHOUT), STAGE_WITHOUT)


@functools.lru_cache
def library_versions(*roots: str | Path) -> dict[str, str]:
    """Versions of the installed libraries that a stage's code imports; roots as for stage_hash."""
    modules = _closure(_files_of(roots), STAGE_WITHOUT).values()
    names = {one.module.split(".")[0] for module in modules for one in module.imports if not one.level}
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
    return _digest([_read(path.read_text(encoding="utf-8"), True).code])


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
            todo += [file for one in found[path].imports for file in _files(path, one, without)]
    return found


def _hash(modules: dict[Path, _Module], without: set[str]) -> str:
    """Hash of files and of what their imported names stand for; the order and place of files do not count."""
    texts = []
    for path, module in modules.items():
        names = {
            (one.name, one.symbol, *_targets(path, one, modules, without))
            for one in module.imports
            if one.is_used
        }
        texts.append(module.digest + str(sorted(names)))
    return _digest(sorted(texts))


def _targets(path: Path, one: _Import, modules: dict[Path, _Module], without: set[str]) -> list[str]:
    """What an imported name stands for: code of this package, or the name of a library's module."""
    if one.level or one.module.split(".")[0] == PACKAGE.name:
        return [modules[file].digest for file in _files(path, one, without)]
    return [one.module]


def _digest(texts: list[str]) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


@functools.cache
def _read(text: str, is_python: bool) -> _Module:
    """Parse a file's text; a file that several stages import is parsed once."""
    if not is_python:
        return _Module(text, _digest([text]), [])
    tree = ast.parse(text)
    imports: list[tuple[int, str, str, str]] = []
    for node in _statements(tree):
        if isinstance(node, ast.ImportFrom):
            imports += [(node.level, node.module or "", a.name, a.asname or a.name) for a in node.names]
        elif isinstance(node, ast.Import):
            imports += [(0, a.name, "", a.asname or a.name.split(".")[0]) for a in node.names]
    code = ast.dump(_statements_that_count(tree))
    used = [_Import(*one, one[3] == "*" or f"id='{one[3]}'" in code) for one in imports]
    return _Module(code, _digest([code]), used)


def _files(path: Path, one: _Import, without: set[str]) -> list[Path]:
    """Files of this package that an import reads, by whichever form of the import statement."""
    if one.level:  # relative: counted from the module's own folder
        inside = path.parents[one.level - 1].relative_to(PACKAGE.resolve()).parts
        parts = (*inside, *filter(None, one.module.split(".")))
    elif one.module.split(".")[0] == PACKAGE.name:
        parts = tuple(one.module.split(".")[1:])
    else:
        return []
    files = []
    # `from package import name` may mean a module of that name
    for candidate in (parts, (*parts, one.symbol)) if one.symbol else (parts,):
        above = {".".join(candidate[:depth]) for depth in range(1, len(candidate) + 1)}
        if candidate and not above & without and (file := _module_file(PACKAGE, candidate)):
            files.append(file)
    return files


@functools.cache
def _module_file(package: Path, parts: tuple[str, ...]) -> Path | None:
    """A module's file, links resolved; None where there is none."""
    file = _source(package.joinpath(*parts))
    return file.resolve() if file.is_file() else None


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


def _statements_that_count(tree: ast.Module) -> ast.Module:
    """The module without docstrings, import statements and the arguments of raised exceptions."""
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
                inner[:] = [one for one in inner if not isinstance(one, ast.Import | ast.ImportFrom)]
    return tree
