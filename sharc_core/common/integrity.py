"""Are files still what their maker wrote? Checksums, paid for once per change and not once per job.

A folder's manifest names the SHA-256 and size of its files. Hashing gigabytes at the start of every
cell would cost more than the cell, so the folder also holds checked.json: the size and modification
time that each file had when its checksum was last found right. A file that still has them is taken
as checked; any other (rewritten, cut short, copied to another disk) is hashed again. Only damage
that leaves both unchanged (a disk that flips bits by itself) needs `verify`, which hashes everything.
"""

import contextlib
from pathlib import Path
from typing import Any

from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, sha256_file, write_json

STAMPS = "checked.json"
REMEDY = "delete the folder and run again"


def entry(path: Path) -> dict[str, Any]:
    """A file's entry in its folder's manifest: sha256 and bytes."""
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def stamp(folder: Path, names: list[str]) -> None:
    """Note that these files of the folder are right as they lie there now."""
    write_json(folder / STAMPS, {name: _state(folder / name) for name in names})


def check_files(folder: Path, entries: dict[str, dict], verify: bool = False, remedy: str = REMEDY) -> None:
    """Compare files with their manifest's entries {name: {sha256, bytes}}; see the module for what is hashed.

    verify: hash every file. Raises UserError naming the first that is missing, cut short or altered.
    """
    known = _stamps(folder)
    news = {}
    for name, noted in entries.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {remedy}")
        state = _state(path)
        if state[0] != noted["bytes"]:
            raise UserError(f"{path} has {state[0]:,} bytes instead of {noted['bytes']:,}: {remedy}")
        if verify or known.get(name) != state:
            if sha256_file(path) != noted["sha256"]:
                raise UserError(f"{path} was altered (its SHA-256 differs from the manifest's): {remedy}")
            news[name] = state
    if any(known.get(name) != state for name, state in news.items()):
        with contextlib.suppress(UserError):  # a read-only folder is checked again next time
            write_json(folder / STAMPS, {**known, **news})


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _stamps(folder: Path) -> dict[str, list[int]]:
    """What was noted; nothing where there is no readable note."""
    try:
        found = read_json(folder / STAMPS)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}
