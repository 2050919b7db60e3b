"""What a data set's files hold, as one hash: the same wherever they lie and whatever their dates are.

Reading every file takes long, so what was found is noted in data_dir/checked under a fingerprint of the
files' names, sizes and times. The fingerprint finds the note and goes into no name: a copy of the files
has another fingerprint, is read once, and has the same hash.
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
    """Facts about files that must not be found out twice: in a file of data_dir where it can be written."""

    def __init__(self, data_dir: Path, *key: Any):
        """key: all that the facts depend on; JSON-able."""
        self.path = data_dir / "checked" / f"{digest(list(key), 16)}.json"
        self._facts: dict[str, Any] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What is known. A note that is missing or damaged holds nothing."""
        if self._facts is None:
            try:
                self._facts = read_json(self.path)
            except (UserError, OSError):
                self._facts = {}
        return self._facts

    def add(self, **facts: Any) -> None:
        """Note more facts. A data_dir that cannot be written to costs time and is no error."""
        self._facts = self.facts | facts
        with contextlib.suppress(UserError):
            write_json(self.path, self._facts)


def checksums(container: Container, names: Mapping[str, Any]) -> dict[str, str]:
    """Checksum of every file by its name; they are read unless the container states them."""
    stated = container.stated_checksums()
    if stated is not None:
        return {name: stated[name] for name in names}
    files = container.read(list(names))
    return dict(in_order(lambda file: (file[0], container.checksum(file[1])), files, os.cpu_count() or 1))


def content_hash(names: Mapping[str, str], sums: Mapping[str, str]) -> str:
    """One hash of files, whatever their order. names: from a file's name to what it is in the data set."""
    total = hashlib.sha256()
    for name, checksum in sorted((name, sums[file]) for file, name in names.items()):
        total.update(f"{name}\0{checksum}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def content_of_files(data_dir: Path, root: Path, files: Mapping[str, Path]) -> str:
    """Content hash of files that may be too large for the memory. files: by their names in the data set."""
    note = Note(data_dir, "files", fingerprint(root, files))
    if not isinstance(note.facts.get("content"), str):
        sums = in_order(lambda item: (item[0], sha256_file(item[1])), files.items(), os.cpu_count() or 1)
        note.add(content=content_hash({name: name for name in files}, dict(sums)))
    return note.facts["content"]


def content_of_container(data_dir: Path, container: Container, names: Mapping[str, str]) -> str:
    """Content hash of a container's files. names: from a file's name to what it is in the data set."""
    note = Note(data_dir, "container", container.fingerprint(), sorted(names.items()))
    if not isinstance(note.facts.get("content"), str):
        note.add(content=content_hash(names, checksums(container, names)))
    return note.facts["content"]
