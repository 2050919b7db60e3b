"""Read features and labels from the columns of a parquet file, in blocks of rows."""

import contextlib
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sharc_core.common.errors import UserError, shown
from sharc_core.datasets.array_files import Array, ArrayFile
from sharc_core.datasets.base import SPLITS

SPLIT, FEATURES, LABEL = "split", "features", "label"  # columns; `split` only in a file with both splits
ROWS = 4096  # rows of a batch where only labels are read


class Parquet(ArrayFile):
    """A parquet file. With a column `split` it has the arrays of both splits, else those of one."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            # imported by name, because pyarrow's version changes no value and must not enter any hash
            self._parquet: Any = importlib.import_module("pyarrow.parquet")
            self._compute: Any = importlib.import_module("pyarrow.compute")
        except ImportError:
            raise UserError(
                f"{path}: parquet files need pyarrow, which is not installed: pip install pyarrow (the extra "
                "`parquet`), or save .npz"
            ) from None
        with self._opened() as file:
            self._schema, self._total = file.schema_arrow, file.metadata.num_rows
        missing = [name for name in (FEATURES, LABEL) if name not in self._schema.names]
        if missing:
            raise UserError(
                f"{path} has no column {missing[0]!r}; it has: {', '.join(self._schema.names)}: name the "
                f"columns {FEATURES}, {LABEL} and, for both splits in one file, {SPLIT}"
            )
        self._has_split = SPLIT in self._schema.names
        self._counts = self._counted()
        splits = [f"{split}_" for split in SPLITS] if self._has_split else [""]
        self.names = [f"{split}{kind}" for split in splits for kind in ("features", "labels")]

    def _counted(self) -> Counter:
        """Return the rows per split; all of them under None in a file without the column."""
        if not self._has_split:
            return Counter({None: self._total})
        counts: Counter = Counter()
        for batch in self._batches([SPLIT], ROWS):
            counts.update(batch.column(SPLIT).to_pylist())
        others = [value for value in counts if value not in SPLITS]
        if others:
            raise UserError(
                f"{self.path}: column {SPLIT} has the value {shown(others[0])}: it may only have "
                f"{' and '.join(SPLITS)}"
            )
        return counts

    def array(self, name: str) -> Array:
        """Return the features or labels of a split. Raises UserError for a column of another type."""
        split, _, kind = name.rpartition("_")
        where = f"{self.path}: {FEATURES if kind == 'features' else LABEL}"
        rows = self._counts[split or None]
        if kind == "labels":
            texts = self._labels(split, where)
            return Array(
                where,
                texts.shape,
                texts.dtype.name if texts.dtype.kind in "iu" else "text",
                lambda count: iter([texts] if len(texts) else []),
            )
        column = self._schema.field(FEATURES).type
        value = getattr(column, "value_type", None)
        if value is None or not str(value).removeprefix("half").startswith(
            ("float", "double", "int", "uint")
        ):
            raise UserError(f"{where} has type {column}: it must be a list of numbers per row")
        first = next(self._lists(split, 1, where), None)
        width = 0 if first is None else len(first.flatten())
        dtype = np.dtype(value.to_pandas_dtype()).name
        return Array(where, (rows, width), dtype, lambda count: self._vectors(split, width, count, where))

    def _labels(self, split: str, where: str) -> np.ndarray:
        values: list = []
        for batch in self._batches([LABEL, SPLIT] if self._has_split else [LABEL], ROWS):
            values += self._of_split(batch, LABEL, split).to_pylist()
        if all(isinstance(value, str) for value in values):
            return np.array(values, dtype=str)
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            return np.array(values)
        raise UserError(
            f"{where} has type {self._schema.field(LABEL).type}: labels are integers or names, "
            "and none is missing"
        )

    def _vectors(self, split: str, width: int, count: int, where: str) -> Iterator[np.ndarray]:
        start = 0
        for lists in self._lists(split, count, where):
            lengths = np.asarray(self._compute.list_value_length(lists))
            if (lengths != width).any():
                row = int((lengths != width).argmax())
                raise UserError(
                    f"{where}: row {start + row} of the split has {lengths[row]} numbers, row 0 has {width}: "
                    "all need the same number"
                )
            values = lists.flatten()
            if values.null_count:
                raise UserError(f"{where} has a list with a missing number: remove the row")
            yield values.to_numpy(zero_copy_only=False).reshape(len(lists), width)
            start += len(lists)

    def _lists(self, split: str, count: int, where: str) -> Iterator[Any]:
        """Yield the column of lists of a split, in blocks of up to `count` rows without empty blocks."""
        for batch in self._batches([FEATURES, SPLIT] if self._has_split else [FEATURES], count):
            lists = self._of_split(batch, FEATURES, split)
            if lists.null_count:
                raise UserError(f"{where} has a row without features: remove it")
            if len(lists):
                yield lists

    def _of_split(self, batch: Any, column: str, split: str) -> Any:
        values = batch.column(column)
        return values.filter(self._compute.equal(batch.column(SPLIT), split)) if split else values

    def _batches(self, columns: list[str], count: int) -> Iterator[Any]:
        with self._opened() as file:
            yield from file.iter_batches(batch_size=count, columns=columns)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with self._parquet.ParquetFile(self.path) as file:
                yield file
        except (OSError, ValueError) as error:  # pyarrow's errors derive from one of these
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.path} cannot be read, it is corrupt or cut short ({reason}): get it again"
            ) from None
