"""The registry class. There is one registry per kind of plug-in (data sources, methods, saliencies, ...).

A plug-in is one file in the kind's package with one class or function under `@KIND.register("name")`. No
other file has to be edited. A module of the package is imported when its plug-in is requested, so that no job
waits for the libraries of plug-ins that it does not use.
"""

import difflib
import functools
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharc_core.common.errors import UserError, shown


def nearest(word: object, valid: list[str]) -> str:
    """Return " (did you mean 'X'?)" for the closest valid word, or an empty string."""
    text = word if isinstance(word, str) else shown(word)
    close = difflib.get_close_matches(text, [str(v) for v in valid], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Registry:
    """Maps names to plug-ins of one kind.

    kind: the name of the kind in error messages, e.g. "method".
    package: dotted name of the package (or module) whose import registers the entries.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: dict[str, object] = {}
        self._families: dict[str, Callable[[str], object]] = {}
        self._searched: set[str] = set()
        self._imported: dict[str, str] | None = None  # the sources whose modules were imported

    def register(self, name: str) -> Callable:
        """Return a decorator that registers a class or function. It raises ValueError for a repeated name."""

        def decorate(entry):
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            entry.name = name
            self._entries[name] = entry
            return entry

        return decorate

    def register_family(self, prefix: str) -> Callable:
        """Return a decorator of a function that makes the entry of any name with a prefix that ends in "/".

        The function gets the name and raises UserError if there is no such entry. `names` omits families.
        """

        def decorate(make):
            self._families[prefix] = make
            return make

        return decorate

    def names(self) -> list[str]:
        """Return all registered names, sorted. Imports all modules of the package."""
        if self._imported is not self._sources:  # a plan asks for the names a thousand times
            for module in self._sources:
                importlib.import_module(module)
            self._imported = self._sources
        return sorted(self._entries)

    def get(self, name: object) -> Any:
        """Return the entry of a name. Raises UserError with the nearest valid name for an unknown one."""
        if isinstance(name, str) and name not in self._searched:
            self._searched.add(name)  # also if registered: a second entry of that name is an error
            registration = re.compile(rf"""\.register\(\s*["']{re.escape(name)}["']""")
            for module, text in self._sources.items():
                if registration.search(text):
                    importlib.import_module(module)
        if isinstance(name, str) and "/" in name and (make := self._family(name)):
            return make(name)
        # names that a module registers in a loop are known only after its import
        if not isinstance(name, str) or (name not in self._entries and name not in self.names()):
            valid = self.names()
            families = [f"{prefix}<name>" for prefix in sorted(self._families)]
            raise UserError(
                f"unknown {self.kind} {shown(name)}{nearest(name, valid)}; "
                f"valid: {', '.join([*valid, *families])}"
            )
        return self._entries[name]

    def _family(self, name: str) -> Callable[[str], object] | None:
        """Return the function that makes entries with the name's prefix, after the import of its module."""
        prefix = name.split("/")[0] + "/"
        registration = re.compile(rf"""\.register_family\(\s*["']{re.escape(prefix)}["']""")
        for module, text in self._sources.items():
            if prefix not in self._families and registration.search(text):
                importlib.import_module(module)
        return self._families.get(prefix)

    @functools.cached_property
    def _sources(self) -> dict[str, str]:
        """Map dotted names of the package's modules to their text."""
        package = importlib.import_module(self.package)
        sources = {}
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            name = f"{self.package}.{module.name}"
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.origin is not None  # a module with a file
            sources[name] = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
        return sources

    def module_file(self, name: str) -> str:
        """Return the path of the entry's source file, whose hash is part of a cell's identity."""
        import inspect

        path = inspect.getsourcefile(self.get(name))
        assert path is not None
        return path
