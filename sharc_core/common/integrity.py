"""Verify that files are unchanged. Checksums are computed once per change, not once per job.

A folder's manifest holds the SHA-256 and size of its files. Hashing gigabytes at the start of every cell
would cost more than the cell. So the folder also holds checked.json, with the size and mtime that each file
had when its checksum was last verified. A file that still has both counts as verified. Any other file
(rewritten, copied to another disk) is hashed again. Only damage that leaves both unchanged (a disk that flips
bits) needs `verify`, which hashes all files.
"""

import contextlib
from pathlib import Path
from typing import Any

from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, sha256_file, write_json

STAMPS = "checked.json"
REMEDY = "delete the folder and run again"


def entry(path: Path) -> dict[str, Any]:
    """Return a file's entry in its folder's manifest: sha256 and bytes."""
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def stamp(folder: Path, names: list[str]) -> None:
    """Record the current state of these files of the folder as verified."""
    write_json(folder / STAMPS, {name: _state(folder / name) for name in names})


def check_files(folder: Path, entries: dict[str, dict], verify: bool = False, remedy: str = REMEDY) -> None:
    """Compare files with their manifest's entries {name: {sha256, bytes}}.

    verify: hash every file. By default only changed files are hashed (see the module). Raises UserError
    naming the first file that is missing, cut short or altered.
    """
    known = _stamps(folder)
    verified = {}
    for name, expected in entries.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {remedy}")
        state = _state(path)
        if state[0] != expected["bytes"]:
            raise UserError(f"{path} has {state[0]:,} bytes instead of {expected['bytes']:,}: {remedy}")
        if verify or known.get(name) != state:
            if sha256_file(path) != expected["sha256"]:
                raise UserError(f"{path} was altered (its SHA-256 differs from the manifest's): {remedy}")
            verified[name] = state
    if any(known.get(name) != state for name, state in verified.items()):
        with contextlib.suppress(UserError):  # a read-only folder is checked again next time
            write_json(folder / STAMPS, {**known, **verified})


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Return the recorded states of files; empty if there is no readable record."""
    try:
        stamps = read_json(folder / STAMPS)
    except UserError:
        return {}
    return stamps if isinstance(stamps, dict) else {}
