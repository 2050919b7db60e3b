"""One registry for every kind of plug-in: data sources, methods, associative memories, saliencies.

A plug-in is one file in the kind's package with one class or function under `@KIND.register("name")`.
Nothing else has to be edited: a module of the package is imported when its plug-in is asked for, so that
no job waits for the libraries of plug-ins it does not use.
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
    """' (did you mean X?)' for the closest valid word, or an empty string."""
    text = word if isinstance(word, str) else shown(word)
    close = difflib.get_close_matches(text, [str(v) for v in valid], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Registry:
    """Names to plug-ins of one kind.

    kind: what error messages call an entry, e.g. "method".
    package: dotted name of the package (or module) whose import registers the entries.
    """

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._entries: dict[str, object] = {}
        self._searched: set[str] = set()

    def register(self, name: str) -> Callable:
        """Decorator: file the class or function under `name`; a second one of that name is an error."""

        def decorate(entry):
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            entry.name = name
            self._entries[name] = entry
            return entry

        return decorate

    def names(self) -> list[str]:
        """All registered names, sorted."""
        for module in self._sources:
            importlib.import_module(module)
        return sorted(self._entries)

    def get(self, name: object) -> Any:
        """The entry called `name`. Raises UserError naming the nearest valid one."""
        if isinstance(name, str) and name not in self._searched:
            self._searched.add(name)  # also where it is known: a second one of that name is an error
            named = re.compile(rf"""\.register\(\s*["']{re.escape(name)}["']""")
            for module, text in self._sources.items():
                if named.search(text):
                    importlib.import_module(module)
        # names that a module makes in a loop are only known once it was imported
        if not isinstance(name, str) or (name not in self._entries and name not in self.names()):
            valid = self.names()
            raise UserError(
                f"unknown {self.kind} {shown(name)}{nearest(name, valid)}; valid: {', '.join(valid)}"
            )
        return self._entries[name]

    @functools.cached_property
    def _sources(self) -> dict[str, str]:
        """Dotted names of the package's modules, and their text."""
        package = importlib.import_module(self.package)
        found = {}
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            name = f"{self.package}.{module.name}"
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.origin is not None  # a module with a file
            found[name] = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
        return found

    def module_file(self, name: str) -> str:
        """Path of the source file that defines the entry (its hash is part of a cell's identity)."""
        import inspect

        path = inspect.getsourcefile(self.get(name))
        assert path is not None
        return path
