"""Values that take a process long to compute, kept beside the compiled modules for the processes after it.

Like compiled modules, the files can be deleted at any time. One that cannot be read counts as empty, and
nothing is written where Python writes no compiled modules.
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def kept_file(module: str, name: str) -> Path:
    """Return the file of a name beside the compiled code of a module, whose `__file__` is given."""
    return Path(module).with_name("__pycache__") / f"{name}.{sys.implementation.cache_tag}.json"


def read_kept(path: Path, rules: str) -> dict[str, Any]:
    """Return the values by their key; none if they were computed under other rules."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["values"]) if content["rules"] == rules else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_kept(path: Path, rules: str, values: Mapping[str, Any]) -> bool:
    """Replace what is kept; return whether it was written. rules: a hash of what all values depend on."""
    if sys.dont_write_bytecode:
        return False
    part = path.with_name(f"{path.name}.{os.getpid()}")  # two processes may write at once
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_text(json.dumps({"rules": rules, "values": dict(values)}), encoding="utf-8")
        part.replace(path)
        return True
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return False
