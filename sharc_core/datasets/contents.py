"""Content hashes of data sets. A hash does not depend on where the files lie or on their dates.

Reading every file takes long, so the result is cached in data_dir/checked under a fingerprint of the
files' names, sizes and times. The fingerprint only locates the cached result. A copy of the files has
another fingerprint, is read once, and has the same hash.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, read_json, sha256_file, write_json
from sharc_core.datasets.archives import Container, fingerprint
from sharc_core.datasets.threads import in_order


class Note:
    """Cache of facts about files, in one JSON file of data_dir (in memory if data_dir is read-only)."""

    def __init__(self, data_dir: Path, *key: Any):
        """key: everything that the facts depend on; JSON-able."""
        self.path = data_dir / "checked" / f"{digest(list(key), 16)}.json"
        self._facts: dict[str, Any] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Return the cached facts; empty when the file is missing or damaged."""
        if self._facts is None:
            try:
                self._facts = read_json(self.path)
            except (UserError, OSError):
                self._facts = {}
        return self._facts

    def add(self, **facts: Any) -> None:
        """Add facts to the cache. A read-only data_dir costs time and raises no error."""
        self._facts = self.facts | facts
        with contextlib.suppress(UserError):
            write_json(self.path, self._facts)


def checksums(container: Container, names: Mapping[str, Any]) -> dict[str, str]:
    """Return every file's checksum by its name. Files are read only if the container states no checksums."""
    stated = container.stated_checksums()
    if stated is not None:
        return {name: stated[name] for name in names}
    files = container.read(list(names))
    return dict(in_order(lambda file: (file[0], container.checksum(file[1])), files, os.cpu_count() or 1))


def content_hash(names: Mapping[str, str], sums: Mapping[str, str]) -> str:
    """Return one hex SHA-256 over all files, independent of their order.

    names: maps a file's name to its path in the data set. sums: maps a file's name to its checksum.
    """
    total = hashlib.sha256()
    for name, checksum in sorted((name, sums[file]) for file, name in names.items()):
        total.update(f"{name}\0{checksum}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def content_of_files(data_dir: Path, root: Path, files: Mapping[str, Path]) -> str:
    """Return the content hash of files that may be larger than the memory.

    files: maps names in the data set to paths.
    """
    note = Note(data_dir, "files", fingerprint(root, files))
    if not isinstance(note.facts.get("content"), str):
        sums = in_order(lambda item: (item[0], sha256_file(item[1])), files.items(), os.cpu_count() or 1)
        note.add(content=content_hash({name: name for name in files}, dict(sums)))
    return note.facts["content"]


def content_of_container(data_dir: Path, container: Container, names: Mapping[str, str]) -> str:
    """Return the content hash of a container's files. names: maps file names to paths in the data set."""
    note = Note(data_dir, "container", container.fingerprint(), sorted(names.items()))
    if not isinstance(note.facts.get("content"), str):
        note.add(content=content_hash(names, checksums(container, names)))
    return note.facts["content"]
