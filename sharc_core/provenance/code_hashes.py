"""Hashes of the code that computes a cell or a stage, and the versions of the libraries that it imports.

A hash covers statements that can change a number. Comments, docstrings, formatting, arguments of `raise`,
import statements and the folders of modules do not count. The definition that an imported name refers to
counts.
"""

import functools
import os
import sys
from importlib import metadata
from pathlib import Path

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.methods import METHODS
from sharc_core.provenance.statements import Import, Module, hash_of, keep, read
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency import SALIENCIES
from sharc_core.selection import SELECTIONS

PACKAGE = Path(__file__).parents[1]

# Modules that affect inputs or messages but not a cell's numbers. Settings and features are parameters and
# inputs of the cell's job anyway, so a new check or error text re-runs nothing.
WITHOUT = frozenset(
    {
        "common.deferred",
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
)
# Like WITHOUT, for a stage. Settings are part of the names of its outputs, so their types do not count.
STAGE_WITHOUT = frozenset(
    {
        "common.deferred",
        "common.device",  # selects the device; common.determinism decides what it computes
        "common.errors",
        "common.files",
        "common.registry",
        "common.settings",
        "backbones.config",
        "datasets.download",  # checksums identify the downloaded files
        "grid.checks",
        "grid.loading",
        "grid.models",
        "grid.plug_in_settings",
        "grid.study_settings",
        "provenance.code_hashes",
        "provenance.origin",
        "studies.base",
    }
)
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
# Imported by stages, but change no numbers
SHAPES_NOTHING = {"sharc_core", "pydantic", "safetensors", "huggingface_hub"}


@functools.lru_cache
def code_hash(
    method: str,
    associative_memory: str | None,
    saliency: str | None = None,
    storage: str | None = None,
    selection: str | None = None,
) -> str:
    """Return a short hash of a cell's code: the learner, its plug-ins and their imports.

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
    """Return a short hash of a stage's code: its roots and their imports.

    roots: modules by their name below sharc_core ("datasets.base"), files, or a folder of templates.
    Modules of settings and messages do not count.
    """
    return _hash(_closure(_files_of(roots), STAGE_WITHOUT), STAGE_WITHOUT)


@functools.lru_cache
def library_versions(*roots: str | Path) -> dict[str, str]:
    """Return the versions of the installed libraries that a stage's code imports. roots: as in stage_hash."""
    modules = _closure(_files_of(roots), STAGE_WITHOUT).values()
    imports = [imported for module in modules for imported in module.imports]
    names = {imported.module.split(".")[0] for imported in imports if not imported.level}
    versions = {}
    for name in sorted(names - SHAPES_NOTHING - sys.stdlib_module_names):
        try:
            library = DISTRIBUTIONS.get(name, name)
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue  # no package provides this module, so it has no version
    return versions


def script_hash(path: Path) -> str:
    """Return a short hash of one script of the workflow. Its imports count in the stage's or cell's hash."""
    return read(path.read_text(encoding="utf-8"), True).digest


def _files_of(roots: tuple[str | Path, ...]) -> list[Path]:
    files = []
    for root in roots:
        path = root if isinstance(root, Path) else PACKAGE.joinpath(*root.split("."))
        if path.is_dir() and not (path / "__init__.py").exists():
            files += sorted(path.glob("*.j2"))
        else:
            files.append(path if path.is_file() else _source(path))
    return files


def _closure(roots: list[Path], without: frozenset[str]) -> dict[Path, Module]:
    """Return the roots and all files that they import from this package, except the modules `without`."""
    modules: dict[Path, Module] = {}
    pending = list(roots)
    while pending:
        path = _resolved(pending.pop())
        if path not in modules:
            modules[path] = _module(path)
            for _, files in _imports(PACKAGE, path.parent, modules[path], without):
                pending += files
    keep()
    return modules


def _hash(modules: dict[Path, Module], without: frozenset[str]) -> str:
    """Return a hash of files and the definitions of their imported names, independent of the files' paths."""
    texts = []
    for path, module in modules.items():
        names = {
            (item.name, item.symbol, *_targets(item, files, modules))
            for item, files in _imports(PACKAGE, path.parent, module, without)
            if item.is_used
        }
        texts.append(module.digest + str(sorted(names)))
    return hash_of(sorted(texts))


def _targets(imported: Import, files: list[Path], modules: dict[Path, Module]) -> list[str]:
    """Return what an imported name refers to: digests of this package's files, or a library module's name."""
    if imported.level or imported.module.split(".")[0] == PACKAGE.name:
        return [modules[file].digest for file in files]
    return [imported.module]


# The caches exist because closures overlap, and each look at a path is a call of the system.
def _module(path: Path) -> Module:
    """Read a file, unless this process has read it and it was not changed since."""
    state = os.stat(path)
    return _read(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _read(path: Path, mtime: int, size: int) -> Module:
    return read(path.read_text(encoding="utf-8"), path.suffix == ".py")


@functools.cache
def _imports(
    package: Path, folder: Path, module: Module, without: frozenset[str]
) -> list[tuple[Import, list[Path]]]:
    """Return the imports of a file, each with the files of this package that it reads."""
    return [(item, _files(package, folder, item, without)) for item in module.imports]


@functools.cache
def _files(package: Path, folder: Path, imported: Import, without: frozenset[str]) -> list[Path]:
    """Return the files of this package that an import statement of any form reads.

    folder: that of the file with the statement, with links resolved.
    """
    if imported.level:  # relative to the folder of the module
        above = folder if imported.level == 1 else folder.parents[imported.level - 2]
        inside = above.relative_to(_resolved(package)).parts
        parts = (*inside, *filter(None, imported.module.split(".")))
    elif imported.module.split(".")[0] == package.name:
        parts = tuple(imported.module.split(".")[1:])
    else:
        return []
    files = []
    # `from package import name` may import a module of that name
    for candidate in (parts, (*parts, imported.symbol)) if imported.symbol else (parts,):
        prefixes = {".".join(candidate[:depth]) for depth in range(1, len(candidate) + 1)}
        if candidate and not prefixes & without and (file := _module_file(package, candidate)):
            files.append(file)
    return files


@functools.cache
def _module_file(package: Path, parts: tuple[str, ...]) -> Path | None:
    """Return a module's file with links resolved; None if there is no such file."""
    file = _source(package.joinpath(*parts))
    return _resolved(file) if file.is_file() else None


@functools.cache
def _resolved(path: Path) -> Path:
    """Return a path with links resolved."""
    return path.resolve()


def _source(path: Path) -> Path:
    """Return the path of a module's file; for a package, its __init__.py."""
    return path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")
