"""A cell's document holds the results of each seed and everything that they depend on.

The results of a seed depend on the cell's settings, the code behind the cell and the features that the seed
reads. The names of features contain a hash of everything that they are made from. A document contains all
three, so it can be compared with what a grid wants without other metadata. Code that reads a document for a
table selects the grid's seeds, and refuses the document if one is missing. Seeds that are trained later are
added.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sharc_core.common.errors import UserError, shown
from sharc_core.common.files import digest, read_json
from sharc_core.grid.cell import Cell
from sharc_core.streams.settings import PER_RUN

FORMAT = 2
Document = dict[str, Any]
TIME = "train_seconds"
KEPT = re.compile(r"(-all|-last\d+)(-full\d+)?$")  # kept maps in the name of a drifting part; not in `reads`
BY_SEED = ("matrix", "untrained")  # by scenario, lists with one value per seed
BY_TRAINED_SEED = ("seeds", "reads", "sums")  # lists of a training with one value per seed, the seeds first
MADE_BY = ("code", "origin", "versions")  # equal for all seeds of a training; its `features` cover them all


class Wanted(NamedTuple):
    """What a grid wants of a cell.

    code: hash of the code behind the cell. reads: by seed, the names of the features for training and test,
    relative to data_dir/features.
    """

    cell: Cell
    code: str
    reads: dict[int, list[str]]

    @property
    def keys(self) -> dict[int, str]:
        """By seed, a hash of everything that its results depend on."""
        return {seed: _key(self.cell.settings, self.code, names) for seed, names in self.reads.items()}

    @property
    def key(self) -> str:
        """One hash of the keys of all seeds."""
        return joint_key(self.keys)


def features_name(folder: Path | str) -> str:
    """Return the name of a folder of features in documents, which is its path below data_dir/features."""
    return "/".join(Path(folder).parts[-3:])


def joint_key(keys: Mapping[int, str]) -> str:
    """Return one hash of the keys of several seeds."""
    return digest([keys[seed] for seed in sorted(keys)], 16)


def _key(settings: Mapping[str, Any], code: str, reads: Sequence[str]) -> str:
    return digest([settings, code, sorted(reads)], 16)


def signed(document: Document, wanted: Wanted, features: Mapping[str, str]) -> Document:
    """Return the document of one training, with its seeds, checksums, code and features added.

    features: by name of each folder read, its hash.
    """
    (training,) = document["trainings"]
    seeds = training["seeds"]
    reads = [wanted.reads[seed] for seed in seeds]
    made_by = {"seeds": seeds, "sums": [checksum(document, seed) for seed in seeds]}
    made_by |= {"code": wanted.code, "features": dict(features), "reads": reads}
    return document | {"trainings": [made_by | training]}


def checksum(document: Document, seed: int) -> str:
    """Return a hash of a seed's results, which detects disk errors and edits.

    It omits the training time, which differs between runs.
    """
    index = document["seeds"].index(seed)
    numbers = [{key: values[index] for key, values in document[name].items()} for name in BY_SEED]
    costs = {key: values and values[index] for key, values in document["costs"].items() if key != TIME}
    return digest([seed, numbers, costs], 16)


def keys_of(document: Document) -> dict[int, str]:
    """Return by seed the key of the results in a document. Raises UserError if the document is damaged."""
    try:
        if document["format"] != FORMAT:
            raise UserError(f"format {shown(document['format'])} instead of {FORMAT}")
        keys = {}
        for training in document["trainings"]:
            for seed, reads, expected in zip(*(training[name] for name in BY_TRAINED_SEED), strict=True):
                keys[seed] = _key(document["cell"], training["code"], reads)
                if checksum(document, seed) != expected:
                    raise UserError(f"the numbers of seed {seed} do not match their checksum")
        if not keys or sorted(keys) != sorted(document["seeds"]):
            raise UserError("its seeds do not match those of its trainings")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"its provenance is missing or damaged: {error!r}") from None
    return keys


def matching_seeds(document: Document | None, wanted: Wanted) -> list[int]:
    """Return the seeds of a document that match the grid, or would match if the grid had that seed.

    A seed that the grid does not have matches if its features are in folders that the grid's seeds read from.
    """
    if document is None:
        return []
    try:
        keys_of(document)
    except UserError:
        return []
    if document["cell"] != wanted.cell.settings:
        return []
    folders = {_folder(name) for names in wanted.reads.values() for name in names}
    matching = []
    for training in document["trainings"]:
        if training["code"] == wanted.code:
            for seed, reads in zip(training["seeds"], training["reads"], strict=True):
                if seed in wanted.reads:
                    is_same = set(reads) == set(wanted.reads[seed])
                else:
                    is_same = {_folder(name) for name in reads} <= folders
                matching += [seed] if is_same else []
    return matching


def _folder(name: str) -> str:
    """Return the folder of features that a view or part with this name belongs to."""
    return name.rpartition("/")[0]


def missing_seeds(document: Document | None, wanted: Wanted) -> list[int]:
    """Return the grid's seeds that a document lacks or that do not match; all seeds without a document."""
    matching = matching_seeds(document, wanted)
    return [seed for seed in wanted.reads if seed not in matching]


def difference(document: Document, wanted: Wanted) -> str | None:
    """Return why a document does not match the grid; None if it does, or only lacks seeds."""
    try:
        keys_of(document)
    except UserError as error:
        return str(error) if document else "it cannot be read"
    setting = differing(document["cell"], wanted.cell.settings)
    if setting:
        return setting
    for training in document["trainings"]:
        common = [seed for seed in training["seeds"] if seed in wanted.reads]
        if common and training["code"] != wanted.code:
            return "it was trained with other code"
        for seed in common:
            if set(training["reads"][training["seeds"].index(seed)]) != set(wanted.reads[seed]):
                return "it was trained on other features (other data, weights, or code that extracts them)"
    mismatched = set(document["seeds"]) - set(matching_seeds(document, wanted))
    return f"its seed {min(mismatched)} was trained with other code or features" if mismatched else None


def differing(settings: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str | None:
    """Describe the first setting in which a document differs from a grid; None if all are equal.

    settings: of the document. wanted: of the grid. prefix: outer keys with dots, for nested settings.
    """
    for key in [*wanted, *(key for key in settings if key not in wanted)]:
        value, wanted_value = settings.get(key), wanted.get(key)
        if isinstance(value, dict) and isinstance(wanted_value, dict):
            nested = differing(value, wanted_value, f"{prefix}{key}.")
            if nested:
                return nested
        elif value != wanted_value:
            return f"{prefix}{key} is {shown(value)} in the document and {shown(wanted_value)} in the grid"
    return None


def joined(documents: Iterable[Document]) -> Document:
    """Merge documents of the same cell with distinct seeds; the result has its seeds in ascending order."""
    documents = list(documents)
    first = documents[0]
    seeds = [seed for document in documents for seed in document["seeds"]]
    merged = first | {"seeds": seeds, "trainings": _trainings(documents)}
    for name in BY_SEED:
        merged[name] = {key: sum((d[name][key] for d in documents), []) for key in first[name]}
    if _has_own_classes(first):
        merged["classes_per_task"] = sum((d["classes_per_task"] for d in documents), [])
    merged["costs"] = {
        name: None if value is None else sum((d["costs"][name] for d in documents), [])
        for name, value in first["costs"].items()
    }
    return selected(merged, sorted(seeds))


def _has_own_classes(document: Document) -> bool:
    """Whether each seed has its own classes per task, in the order of the seeds."""
    return document["cell"].get("class_order_seed") == PER_RUN


def task_sizes(document: Document) -> list[int] | None:
    """Return the number of classes of each task, the same for all seeds; None where all are equal."""
    classes = document["classes_per_task"]
    sizes = [len(task) for task in (classes[0] if _has_own_classes(document) else classes)]
    return sizes if len(set(sizes)) > 1 else None


def _trainings(documents: list[Document]) -> list[dict[str, Any]]:
    """Return the trainings of all documents, merging those that differ only in seeds and what these read."""
    merged: list[dict[str, Any]] = []
    for training in (training for document in documents for training in document["trainings"]):
        target = next((candidate for candidate in merged if _is_alike(candidate, training)), None)
        if target is None:
            merged.append(dict(training))
            continue
        lists = [name for name in BY_TRAINED_SEED if name in target]
        columns = [target[name] + training[name] for name in lists]
        by_seed = sorted(zip(*columns, strict=True), key=lambda values: values[0])
        target |= {name: list(values) for name, values in zip(lists, zip(*by_seed, strict=True), strict=True)}
        if "features" in target:
            target["features"] = target["features"] | training["features"]
    return merged


def _is_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether two trainings agree in MADE_BY and in the hashes of the features that both read."""
    hashes, second_hashes = first.get("features", {}), second.get("features", {})
    is_same_input = all(second_hashes[name] == hashes[name] for name in hashes if name in second_hashes)
    return is_same_input and all(first.get(name) == second.get(name) for name in MADE_BY)


def selected(document: Document, seeds: Sequence[int]) -> Document:
    """Return a document with only the given seeds, in their order."""
    indices = [document["seeds"].index(seed) for seed in seeds]

    def pick(values: list) -> list:
        return [values[index] for index in indices]

    trainings = []
    for training in document["trainings"]:
        positions = [n for n, seed in enumerate(training["seeds"]) if seed in seeds]
        if positions:
            part: dict[str, Any] = {
                k: [training[k][n] for n in positions] for k in BY_TRAINED_SEED if k in training
            }
            if "reads" in part:
                read = {name for names in part["reads"] for name in names}
                part["features"] = {k: v for k, v in training["features"].items() if KEPT.sub("", k) in read}
            trainings.append(training | part)
    costs = {name: None if values is None else pick(values) for name, values in document["costs"].items()}
    selection = {"seeds": list(seeds), "costs": costs, "trainings": trainings}
    if _has_own_classes(document):
        selection["classes_per_task"] = pick(document["classes_per_task"])
    for name in BY_SEED:
        selection[name] = {key: pick(values) for key, values in document[name].items()}
    return document | selection


def extended(document: Document | None, trained: Document, wanted: Wanted) -> Document:
    """Merge the seeds of a document that still match the grid with newly trained ones."""
    kept = [seed for seed in matching_seeds(document, wanted) if seed not in trained["seeds"]]
    if document is None or not kept:
        return joined([trained])
    return joined([selected(document, kept), trained])


def read_all(paths: Iterable[Path | str], wanted: Iterable[Sequence[Any]]) -> list[Document]:
    """Read several documents with read_document. wanted: seeds and key of each."""
    return [read_document(path, list(seeds), key) for path, (seeds, key) in zip(paths, wanted, strict=True)]


def read_document(path: Path | str, seeds: Sequence[int], key: str) -> Document:
    """Read a document for a table, and return it with only the seeds that the grid wants.

    key: Wanted.key. Raises UserError if the document does not match the grid.
    """
    document = read_json(path)
    try:
        keys = keys_of(document)
        missing = [seed for seed in seeds if seed not in keys]
        if missing:
            problem = f"seed {missing[0]} is missing"
        elif joint_key({seed: keys[seed] for seed in seeds}) == key:
            return selected(document, seeds)
        else:
            problem = "it was trained with other settings, code or features"
    except UserError as error:
        problem = str(error)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        problem = f"it is damaged: {error!r}"
    raise UserError(f"{path} does not match this grid ({problem}): run snakemake again, or delete it")
