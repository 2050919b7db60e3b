"""Assign the files of a folder or an archive to classes and splits, and list those that are left out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sharc_core.common.errors import UserError
from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.base import SPLITS
from sharc_core.datasets.file_names import composed, is_hidden, is_text
from sharc_core.datasets.pictures import EXTENSIONS

TRAIN = "train"  # folder of the training images; the folder of the test images is a setting
Parts = tuple[str, ...]
Classes = dict[str, list[str]]  # the files of each class


@dataclass(frozen=True)
class Layout:
    """The layout of a data set.

    index: files by split and class. names: maps a file to its path in the data set. left_out: maps a file
    that is not used to the reason.
    """

    index: dict[str, Classes]
    names: dict[str, str]
    left_out: dict[str, str]

    @property
    def files(self) -> list[str]:
        """Return all files in use, class by class."""
        return [file for classes in self.index.values() for files in classes.values() for file in files]


class Reader:
    """Base of the two readers of a container's layout, SplitReader and ClassReader.

    Class names are compared in Unicode's composed form, so that a folder of macOS and one of Linux with
    the same name are one class. Files are read by their original names.
    """

    expected: str  # the layout, as messages describe it

    def __init__(self, path: str, container: Container):
        self.path = path
        # several files may have the same parts; each remains a separate file
        self.parts: dict[str, Parts] = {file: _parts(file) for file in container.names()}
        self.skipped = container.skipped()

    def read(self) -> Layout:
        """Return the layout. Raises UserError for a layout that is not the expected one."""
        root = self.root()
        taken = {file: parts for file, parts in self.parts.items() if self.is_image(parts, root)}
        left_out = self._left_out(taken, root)
        index = self.index(taken)
        self._check_classes(index, left_out)
        return Layout(
            {split: _in_order(classes) for split, classes in index.items()},
            {file: "/".join(parts[len(root) :]) for file, parts in taken.items()},
            left_out,
        )

    def root(self) -> Parts:
        """Return the folder of the data set, () for the top. Raises UserError if it is ambiguous."""
        raise NotImplementedError  # abstract

    def is_image(self, parts: Parts, root: Parts) -> bool:
        """Return whether a path is an image of the data set."""
        raise NotImplementedError  # abstract

    def index(self, taken: Mapping[str, Parts]) -> dict[str, Classes]:
        """Return the files by split and class. Raises UserError for a class or split without files."""
        raise NotImplementedError  # abstract

    def class_folder(self, parts: Parts, root: Parts) -> Parts | None:
        """Return the class folder of a file that is left out.

        Returns () for a file outside any class folder, None for a file that is not part of the data set.
        """
        raise NotImplementedError  # abstract

    def _left_out(self, taken: Mapping[str, Parts], root: Parts) -> dict[str, str]:
        """Map each file of the data set that is not used to the reason, in natural order.

        Raises UserError for a class folder without any usable file.
        """
        others = {file: f"expected {self.expected}" for file in self.parts if file not in taken}
        full = {parts[:-1] for parts in taken.values()}
        left_out = {}
        for file, why in sorted((others | self.skipped).items(), key=lambda item: natural(item[0])):
            parts = _parts(file)
            folder = self.class_folder(parts, root)
            if folder is None:
                continue
            if folder and folder not in full and len(parts) > len(folder) and not is_hidden(file):
                raise UserError(
                    f"{self.path}: no file of the class folder {'/'.join(folder)} can be taken, e.g. {file}: "
                    f"{why}; move or convert the files, or remove the folder"
                )
            left_out[file] = why
        return left_out

    def _check_classes(self, index: Mapping[str, Classes], left_out: Mapping[str, str]) -> None:
        for name in index["train"]:
            if not is_text(name):
                raise UserError(
                    f"{self.path}: the name of the class folder {name!r} is not UTF-8: rename the folder"
                )
        if len(index["train"]) < 2:
            example = next(iter(left_out), None)
            hint = f" ({example} is left out, for example)" if example else ""
            raise UserError(f"{self.path} has only one class{hint}; a stream needs two at least")


class SplitReader(Reader):
    """Read a layout of <train|test>/<class>/<image>, at the top or in one folder."""

    def __init__(self, path: str, container: Container, test_split: str):
        super().__init__(path, container)
        self.folders = {TRAIN: "train", test_split: "test"}
        self.test_split = test_split
        self.expected = f"<{TRAIN}|{test_split}>/<class>/<image> with an extension of {', '.join(EXTENSIONS)}"

    def root(self) -> Parts:
        """Return the folder that holds train and test. Raises UserError for several."""
        paths = [parts for parts in self.parts.values() if len(parts) in (3, 4)]
        roots = {parts[:-3] for parts in paths if _is_image(parts) and parts[-3] in self.folders}
        if () in roots:  # then train/test/sub/1.png is too deep in a class "test", not below a root "train"
            roots -= {(folder,) for folder in self.folders}
        _refuse_several(
            self.path, roots, f"keep one {TRAIN}/ and one {self.test_split}/ folder, side by side"
        )
        return roots.pop() if roots else ()

    def is_image(self, parts: Parts, root: Parts) -> bool:
        """Return whether a path is <root>/<train|test>/<class>/<image>."""
        is_below = len(parts) == len(root) + 3 and parts[: len(root)] == root
        return is_below and parts[-3] in self.folders and _is_image(parts)

    def index(self, taken: Mapping[str, Parts]) -> dict[str, Classes]:
        """Group files by the names of their folders. Raises UserError for a class or split without files."""
        index: dict[str, Classes] = {split: {} for split in SPLITS}
        for file, parts in taken.items():
            index[self.folders[parts[-3]]].setdefault(parts[-2], []).append(file)
        for split, other in (SPLITS, SPLITS[::-1]):
            self._check_split(split, index, next(iter(taken.values()), ())[:-3])
            unpaired = sorted(set(index[other]) - set(index[split]), key=natural)
            if unpaired and index[split]:
                raise UserError(
                    f"{self.path}: class {unpaired[0]!r} has no {split} image: add some or remove the class"
                )
        return index

    def _check_split(self, split: str, index: Mapping[str, Classes], root: Parts) -> None:
        if index[split]:
            return
        folder = {split: folder for folder, split in self.folders.items()}[split]
        message = f"{self.path} has no {split} images: expected {folder}/<class>/<image>"
        if not any(index.values()):
            raise UserError(
                f"{message}; set test_fraction if there is no split, only <class>/<image>, or test_split "
                "if the folder of test images has another name"
            )
        if split == "train":
            raise UserError(f"{message}; rename the folder of the training images to {TRAIN}")
        siblings = sorted({p[-3] for p in self.parts.values() if _is_sibling(p, root)} - set(self.folders))
        candidates = f" ({', '.join(f'{name}/' for name in siblings)} is there)" if siblings else ""
        raise UserError(
            f"{message}; set test_split to the name of the folder that holds them{candidates}, or "
            "test_fraction to hold out a share of every class"
        )

    def class_folder(self, parts: Parts, root: Parts) -> Parts | None:
        """Return the first two folders below the root for files in train/ and test/.

        Images of a third folder of classes next to them (an unused `val`, for example) are part of the data
        set and get (). Other files are not part of it and get None.
        """
        start = len(root) if parts[: len(root)] == root else 0
        below = [depth for depth in range(start, len(parts) - 1) if parts[depth] in self.folders]
        if not below:
            return () if _is_sibling(parts, root) else None
        # the root is at most one folder below the top
        return parts[: below[0] + 2] if below[0] <= 1 and len(parts) > below[0] + 2 else ()


class ClassReader(Reader):
    """Read a layout of <class>/<image>, at the top or in one folder, and hold out a share of every class."""

    expected = f"<class>/<image> with an extension of {', '.join(EXTENSIONS)}"

    def __init__(self, path: str, container: Container, test_fraction: float, seed: int):
        super().__init__(path, container)
        self.test_fraction, self.seed = test_fraction, seed

    def root(self) -> Parts:
        """Return the folder of the classes. Raises UserError for none, several or an existing split."""
        roots = {parts[:-2] for parts in self.parts.values() if len(parts) > 1 and _is_image(parts)}
        if not roots:
            raise UserError(f"{self.path} has no images: expected {self.expected}")
        for root in sorted(roots):
            siblings = sorted(r[-1] for r in roots if r and r[:-1] == root[:-1] and r != root)
            if root[-1:] == (TRAIN,) and siblings:
                raise UserError(
                    f"{self.path} has a split already, {TRAIN}/ and {siblings[0]}/: leave out test_fraction, "
                    f"and set test_split to {siblings[0]} unless that is test"
                )
        roots = {root for root in roots if len(root) == min(map(len, roots))}
        _refuse_several(self.path, roots, "keep the classes side by side in one folder")
        return roots.pop()

    def is_image(self, parts: Parts, root: Parts) -> bool:
        """Return whether a path is <root>/<class>/<image>."""
        return len(parts) == len(root) + 2 and parts[: len(root)] == root and _is_image(parts)

    def index(self, taken: Mapping[str, Parts]) -> dict[str, Classes]:
        """Return the files by split and class. Hashes of seed and name select the test images of a class.

        So the split is the same on every system. Raises UserError for a class with one image.
        """
        classes: Classes = {}
        for file, parts in taken.items():
            classes.setdefault(parts[-2], []).append(file)
        index: dict[str, Classes] = {split: {} for split in SPLITS}
        for name, files in classes.items():
            if len(files) < 2:
                raise UserError(
                    f"{self.path}: class {name!r} has one image, and test_fraction needs two, one to train "
                    "and one to test: add some or remove the class"
                )
            count = min(max(int(len(files) * self.test_fraction + 0.5), 1), len(files) - 1)
            ranked = sorted(files, key=lambda file: (self._rank(taken[file]), file))
            index["test"][name], index["train"][name] = ranked[:count], ranked[count:]
        return index

    def _rank(self, parts: Parts) -> bytes:
        text = f"{self.seed}\0{parts[-2]}\0{parts[-1]}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    def class_folder(self, parts: Parts, root: Parts) -> Parts | None:
        """Return the folder below the root. An image outside any class folder gets (), other files None."""
        if parts[: len(root)] != root:
            return () if _is_image(parts) else None
        if len(parts) == len(root) + 1:
            return () if _is_image(parts) else None
        return parts[: len(root) + 1]


def _parts(file: str) -> Parts:
    return PurePosixPath(composed(file)).parts


def _is_image(parts: Sequence[str]) -> bool:
    return PurePosixPath(parts[-1]).suffix.lower() in EXTENSIONS


def _is_sibling(parts: Parts, root: Parts) -> bool:
    """Return whether a path is an image of a class in any folder of the root."""
    return len(parts) == len(root) + 3 and parts[: len(root)] == root and _is_image(parts)


def _refuse_several(path: str | Path, roots: set[Parts], remedy: str) -> None:
    if len(roots) > 1:
        first, second = ("/".join((*root, "")) or "its top" for root in sorted(roots)[:2])
        raise UserError(f"{path} holds several data sets, in {first} and in {second}: {remedy}")


def _in_order(classes: Classes) -> Classes:
    """Sort the classes, and the files of a class, in natural order of their composed names."""
    return {
        name: sorted(files, key=lambda file: (natural(composed(file)), file))
        for name, files in sorted(classes.items(), key=lambda item: natural(item[0]))
    }
