"""Find the four arrays of a data set of features: in one file, a file per split, or a folder of .npy."""

from functools import cached_property
from pathlib import Path

from sharc_core.common.errors import Missing, UserError
from sharc_core.datasets.array_files import CLASS_NAMES, Array, ArrayFile, Npy, Npz, Safetensors, TorchFile
from sharc_core.datasets.array_tables import Parquet
from sharc_core.datasets.base import SPLITS

KINDS = ("features", "labels")
ARRAYS = [f"{split}_{kind}" for split in SPLITS for kind in KINDS]
FORMATS: dict[str, type[ArrayFile]] = {
    ".npz": Npz,
    ".safetensors": Safetensors,
    ".pt": TorchFile,
    ".pth": TorchFile,
    ".parquet": Parquet,
}
EXPECTED = (
    f"a {', '.join(FORMATS)} file, a folder with {', '.join(f'{name}.npy' for name in ARRAYS)}, or a folder "
    "with train and test as one such file each"
)


class FeatureFiles:
    """The files at a path and the arrays in them. Files are opened when an array is requested.

    Raises UserError for a path, folder or array that is missing, and names what is there.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.exists():
            raise Missing(f"{path} does not exist: give {EXPECTED}")
        self.files = self._in_folder() if path.is_dir() else {path.suffix.lower(): path}
        unknown = [file for file in self.files.values() if file.suffix.lower() not in {*FORMATS, ".npy"}]
        if unknown or (path.suffix.lower() == ".npy" and not path.is_dir()):
            raise UserError(f"{path} is not a format that is read: give {EXPECTED}")

    def _in_folder(self) -> dict[str, Path]:
        """Return the files of a folder by their names in the data set, which do not depend on the folder."""
        there = {file.name: file for file in sorted(self.path.iterdir()) if file.is_file()}
        arrays = {name: there[name] for name in [f"{a}.npy" for a in (*ARRAYS, CLASS_NAMES)] if name in there}
        if set(arrays) - {f"{CLASS_NAMES}.npy"}:
            missing = [f"{name}.npy" for name in ARRAYS if f"{name}.npy" not in arrays]
            if missing:
                raise UserError(f"{self.path} lacks {missing[0]}; it has: {', '.join(arrays)}")
            return arrays
        of_splits = {}
        for split in SPLITS:
            names = [name for name in there if name.rpartition(".")[0] == split]
            names = [name for name in names if Path(name).suffix.lower() in FORMATS]
            if len(names) != 1:
                problem = f"has {' and '.join(names)}, which" if names else "lacks one that"
                raise UserError(
                    f"{self.path} {problem} would be the {split} split; it has: {_some(there)}: "
                    f"give {EXPECTED}"
                )
            of_splits[names[0]] = there[names[0]]
        return of_splits

    @cached_property
    def _opened(self) -> dict[str, ArrayFile]:
        return {
            name: Npy(file) if file.suffix.lower() == ".npy" else FORMATS[file.suffix.lower()](file)
            for name, file in self.files.items()
        }

    def array(self, split: str, kind: str) -> Array:
        """Return the features or labels of a split. Raises UserError for an array that is missing."""
        names = [f"{split}_{kind}"]
        files = list(self._opened.values())
        if all(isinstance(file, Npy) for file in files):
            files = [file for file in files if names[0] in file.names]
        elif len(files) > 1:  # a file per split, whose names need not repeat the split
            files, names = [files[SPLITS.index(split)]], [names[0], kind]
        (file,) = files
        for name in names:
            if name in file.names:
                return file.array(name)
        expected = ", ".join(ARRAYS if len(names) == 1 else KINDS)
        raise UserError(
            f"{file.path} has no array {names[-1]!r}; it has: {_some(file.names)}: name the arrays {expected}"
        )

    def class_names(self) -> list[str] | None:
        """Return the names of the labels 0, 1, ... where the files have them."""
        for file in self._opened.values():
            if (names := file.class_names()) is not None:
                return names
        return None


def _some(names) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"
