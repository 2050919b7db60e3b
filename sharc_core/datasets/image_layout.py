"""Which file of a folder or an archive is an image of which class and split, and which is left out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sharc_core.common.errors import UserError
from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.base import SPLITS
from sharc_core.datasets.file_names import composed, is_hidden, is_text
from sharc_core.datasets.pictures import EXTENSIONS

TRAIN = "train"  # folder of the training images; that of the test images is a setting
Parts = tuple[str, ...]
Classes = dict[str, list[str]]  # a class's files


@dataclass(frozen=True)
class Layout:
    """index: files by split and class. names: from a file to its path in the data set. left_out: and why."""

    index: dict[str, Classes]
    names: dict[str, str]
    left_out: dict[str, str]

    @property
    def files(self) -> list[str]:
        """All files that are taken, class after class."""
        return [file for classes in self.index.values() for files in classes.values() for file in files]


class Reader:
    """Reads the layout of a container. Base of the two, which say which files are images of which class.

    Class names are compared in Unicode's composed form, so that a folder of macOS and one of Linux with
    the same name are one class. Files are read under the names that they have.
    """

    expected: str  # what messages say the layout is

    def __init__(self, path: str, container: Container):
        self.path = path
        # several files may have the same parts: each is a file of its own
        self.parts: dict[str, Parts] = {file: _parts(file) for file in container.names()}
        self.skipped = container.skipped()

    def read(self) -> Layout:
        """Raises UserError for a layout that is not the expected one."""
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
        """The folder that the data set lies in: () for the top."""
        raise NotImplementedError  # abstract

    def is_image(self, parts: Parts, root: Parts) -> bool:
        """Whether a path is an image of the data set."""
        raise NotImplementedError  # abstract

    def index(self, taken: Mapping[str, Parts]) -> dict[str, Classes]:
        """The files by split and class. Raises UserError for a class or split without files."""
        raise NotImplementedError  # abstract

    def class_folder(self, parts: Parts, root: Parts) -> Parts | None:
        """The class folder of a file that is left out: () without one, None for no file of the data set."""
        raise NotImplementedError  # abstract

    def _left_out(self, taken: Mapping[str, Parts], root: Parts) -> dict[str, str]:
        """Files of the data set that are not taken, in natural order, and why."""
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
    """Images lie in <train|test>/<class>/<image>, at the top or in one folder."""

    def __init__(self, path: str, container: Container, test_split: str):
        super().__init__(path, container)
        self.folders = {TRAIN: "train", test_split: "test"}
        self.test_split = test_split
        self.expected = f"<{TRAIN}|{test_split}>/<class>/<image> with an extension of {', '.join(EXTENSIONS)}"

    def root(self) -> Parts:
        """The folder of train and test. Raises UserError for several."""
        paths = [parts for parts in self.parts.values() if len(parts) in (3, 4)]
        roots = {parts[:-3] for parts in paths if _is_image(parts) and parts[-3] in self.folders}
        if () in roots:  # then train/test/sub/1.png lies too deep in a class "test", not below a root "train"
            roots -= {(folder,) for folder in self.folders}
        _refuse_several(
            self.path, roots, f"keep one {TRAIN}/ and one {self.test_split}/ folder, side by side"
        )
        return roots.pop() if roots else ()

    def is_image(self, parts: Parts, root: Parts) -> bool:
        """Whether a path is <root>/<train|test>/<class>/<image>."""
        is_below = len(parts) == len(root) + 3 and parts[: len(root)] == root
        return is_below and parts[-3] in self.folders and _is_image(parts)

    def index(self, taken: Mapping[str, Parts]) -> dict[str, Classes]:
        """By the folders' names."""
        index: dict[str, Classes] = {split: {} for split in SPLITS}
        for file, parts in taken.items():
            index[self.folders[parts[-3]]].setdefault(parts[-2], []).append(file)
        for split, other in (SPLITS, SPLITS[::-1]):
            self._check_split(split, index, next(iter(taken.values()), ())[:-3])
            lonely = sorted(set(index[other]) - set(index[split]), key=natural)
            if lonely and index[split]:
                raise UserError(
                    f"{self.path}: class {lonely[0]!r} has no {split} image: add some or remove the class"
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
        there = f" ({', '.join(f'{name}/' for name in siblings)} is there)" if siblings else ""
        raise UserError(
            f"{message}; set test_split to the name of the folder that holds them{there}, or test_fraction "
            "to hold out a share of every class"
        )

    def class_folder(self, parts: Parts, root: Parts) -> Parts | None:
        """Below train/ and test/, the first two folders; nothing else belongs to the data set.

        A third folder of classes beside them does (a `val` that is not used, for example).
        """
        start = len(root) if parts[: len(root)] == root else 0
        below = [depth for depth in range(start, len(parts) - 1) if parts[depth] in self.folders]
        if not below:
            return () if _is_sibling(parts, root) else None
        # deeper than below one folder there is no layout of ours
        return parts[: below[0] + 2] if below[0] <= 1 and len(parts) > below[0] + 2 else ()


class ClassReader(Reader):
    """Images lie in <class>/<image>, at the top or in one folder; a share of every class is held out."""

    expected = f"<class>/<image> with an extension of {', '.join(EXTENSIONS)}"

    def __init__(self, path: str, container: Container, test_fraction: float, seed: int):
        super().__init__(path, container)
        self.test_fraction, self.seed = test_fraction, seed

    def root(self) -> Parts:
        """The folder of the classes. Raises UserError for several, or for those of a split."""
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
        """Whether a path is <root>/<class>/<image>."""
        return len(parts) == len(root) + 2 and parts[: len(root)] == root and _is_image(parts)

    def index(self, taken: Mapping[str, Parts]) -> dict[str, Classes]:
        """By the class, and within it by hashes of seed and name: the same on every system, in any order."""
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
        """The folder in the root; files that lie straight in the root count when they are images."""
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
    """Whether a path is an image of a class in some folder of the root."""
    return len(parts) == len(root) + 3 and parts[: len(root)] == root and _is_image(parts)


def _refuse_several(path: str | Path, roots: set[Parts], remedy: str) -> None:
    if len(roots) > 1:
        first, second = ("/".join((*root, "")) or "its top" for root in sorted(roots)[:2])
        raise UserError(f"{path} holds several data sets, in {first} and in {second}: {remedy}")


def _in_order(classes: Classes) -> Classes:
    """Classes, and files in a class, in natural order of their composed names."""
    return {
        name: sorted(files, key=lambda file: (natural(composed(file)), file))
        for name, files in sorted(classes.items(), key=lambda item: natural(item[0]))
    }
