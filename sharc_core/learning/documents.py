"""A cell's document: what each seed gave, and all that this is a function of. What is on disk is the truth.

What a seed's numbers depend on is the cell's settings, the code behind them and the features that the seed
reads, whose names carry a hash of all that they are made from. A document says all three, so that it can be
compared with what a grid wants: whoever reads one for a table takes the seeds that are the grid's and
refuses it where one is missing. Seeds that were trained later are added to those that are there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sharc_core.common.errors import UserError, shown
from sharc_core.common.files import digest, read_json
from sharc_core.grid.cell import Cell

FORMAT = 2
Document = dict[str, Any]
TIME = "train_seconds"
KEPT = re.compile(r"(-all|-last\d+)(-full\d+)?$")  # ends a part of drifting features, but in no `reads`
BY_SEED = ("matrix", "untrained")  # by scenario, lists with a value per seed
BY_TRAINED_SEED = ("seeds", "reads", "sums")  # of a training, a value per seed, the seeds first
MADE_BY = ("code", "origin", "versions")  # the same for all its seeds; `features`: of all of them


class Wanted(NamedTuple):
    """What a grid wants of a cell.

    code: hash of the code behind it. reads: by seed, names of the features that it is trained on and tested
    with, below data_dir/features.
    """

    cell: Cell
    code: str
    reads: dict[int, list[str]]

    @property
    def keys(self) -> dict[int, str]:
        """By seed, a hash of all that its numbers are a function of."""
        return {seed: _key(self.cell.settings, self.code, names) for seed, names in self.reads.items()}

    @property
    def key(self) -> str:
        """Of all its seeds."""
        return joint_key(self.keys)


def features_name(folder: Path | str) -> str:
    """What documents call a folder of features: its path below data_dir/features."""
    return "/".join(Path(folder).parts[-3:])


def joint_key(keys: Mapping[int, str]) -> str:
    """One hash of several seeds' keys."""
    return digest([keys[seed] for seed in sorted(keys)], 16)


def _key(settings: Mapping[str, Any], code: str, reads: Sequence[str]) -> str:
    return digest([settings, code, sorted(reads)], 16)


def signed(document: Document, wanted: Wanted, features: Mapping[str, str]) -> Document:
    """What a training gave, with what it comes from. features: the hash of each folder read, by its name."""
    (training,) = document["trainings"]
    seeds = training["seeds"]
    reads = [wanted.reads[seed] for seed in seeds]
    made_by = {"seeds": seeds, "sums": [checksum(document, seed) for seed in seeds]}
    made_by |= {"code": wanted.code, "features": dict(features), "reads": reads}
    return document | {"trainings": [made_by | training]}


def checksum(document: Document, seed: int) -> str:
    """A hash of a seed's numbers, so that none is taken that a disk spoilt or a hand changed.

    Without the time that it took, which no run gives twice.
    """
    place = document["seeds"].index(seed)
    numbers = [{key: values[place] for key, values in document[name].items()} for name in BY_SEED]
    costs = {key: values and values[place] for key, values in document["costs"].items() if key != TIME}
    return digest([seed, numbers, costs], 16)


def keys_of(document: Document) -> dict[int, str]:
    """By seed, the key of what a document holds. Raises UserError for one that is damaged."""
    try:
        if document["format"] != FORMAT:
            raise UserError(f"format {shown(document['format'])} instead of {FORMAT}")
        found = {}
        for training in document["trainings"]:
            for seed, reads, kept in zip(*(training[name] for name in BY_TRAINED_SEED), strict=True):
                found[seed] = _key(document["cell"], training["code"], reads)
                if checksum(document, seed) != kept:
                    raise UserError(f"the numbers of seed {seed} are not those that were written")
        if not found or sorted(found) != sorted(document["seeds"]):
            raise UserError("its seeds are not those that it says were trained")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"it does not say what it comes from: {error!r}") from None
    return found


def matching_seeds(document: Document | None, wanted: Wanted) -> list[int]:
    """Seeds of a document that are what the grid wants, also such as it would want if it had that seed."""
    if document is None:
        return []
    try:
        keys_of(document)
    except UserError:
        return []
    if document["cell"] != wanted.cell.settings:
        return []
    places = {_place(name) for names in wanted.reads.values() for name in names}
    found = []
    for training in document["trainings"]:
        if training["code"] == wanted.code:
            for seed, reads in zip(training["seeds"], training["reads"], strict=True):
                if seed in wanted.reads:
                    is_same = set(reads) == set(wanted.reads[seed])
                else:
                    is_same = {_place(name) for name in reads} <= places
                found += [seed] if is_same else []
    return found


def _place(name: str) -> str:
    """Of the features that a name is a view or a part of."""
    return name.rpartition("/")[0]


def missing_seeds(document: Document | None, wanted: Wanted) -> list[int]:
    """Seeds of the cell that a document does not hold as the grid wants them; all where there is none."""
    there = matching_seeds(document, wanted)
    return [seed for seed in wanted.reads if seed not in there]


def difference(document: Document, wanted: Wanted) -> str | None:
    """In words, why a document is not what the grid wants; None where it lacks seeds and nothing else."""
    try:
        keys_of(document)
    except UserError as error:
        return str(error) if document else "it cannot be read"
    told = differing(document["cell"], wanted.cell.settings)
    if told:
        return told
    for training in document["trainings"]:
        common = [seed for seed in training["seeds"] if seed in wanted.reads]
        if common and training["code"] != wanted.code:
            return "it was trained by other code"
        for seed in common:
            if set(training["reads"][training["seeds"].index(seed)]) != set(wanted.reads[seed]):
                return "it was trained on other features (other data, weights, or code that extracts them)"
    others = set(document["seeds"]) - set(matching_seeds(document, wanted))
    return f"its seed {min(others)} was trained by other code or on other features" if others else None


def differing(there: Mapping[str, Any], here: Mapping[str, Any], place: str = "") -> str | None:
    """In words, the first setting that a document has otherwise than a grid; None where all are the same."""
    for key in [*here, *(key for key in there if key not in here)]:
        one, other = there.get(key), here.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            told = differing(one, other, f"{place}{key}.")
            if told:
                return told
        elif one != other:
            return f"{place}{key} is {shown(one)} there and {shown(other)} in the grid"
    return None


def joined(documents: Iterable[Document]) -> Document:
    """One document of several of the same cell, whose seeds differ; its seeds in ascending order."""
    documents = list(documents)
    first = documents[0]
    seeds = [seed for document in documents for seed in document["seeds"]]
    together = first | {"seeds": seeds, "trainings": _trainings(documents)}
    for name in BY_SEED:
        together[name] = {key: sum((d[name][key] for d in documents), []) for key in first[name]}
    together["costs"] = {
        name: None if value is None else sum((d["costs"][name] for d in documents), [])
        for name, value in first["costs"].items()
    }
    return selected(together, sorted(seeds))


def _trainings(documents: list[Document]) -> list[dict[str, Any]]:
    """Of all of them; those that differ in nothing but their seeds and what these read as one."""
    found: list[dict[str, Any]] = []
    for training in (one for document in documents for one in document["trainings"]):
        known = next((one for one in found if _is_alike(one, training)), None)
        if known is None:
            found.append(dict(training))
            continue
        lists = [name for name in BY_TRAINED_SEED if name in known]
        columns = [known[name] + training[name] for name in lists]
        by_seed = sorted(zip(*columns, strict=True), key=lambda values: values[0])
        known |= {name: list(values) for name, values in zip(lists, zip(*by_seed, strict=True), strict=True)}
        if "features" in known:
            known["features"] = known["features"] | training["features"]
    return found


def _is_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    ours, theirs = one.get("features", {}), other.get("features", {})
    is_same_input = all(theirs[name] == ours[name] for name in ours if name in theirs)
    return is_same_input and all(one.get(name) == other.get(name) for name in MADE_BY)


def selected(document: Document, seeds: Sequence[int]) -> Document:
    """A document of some of its seeds, in the order asked for."""
    places = [document["seeds"].index(seed) for seed in seeds]

    def of(values: list) -> list:
        return [values[place] for place in places]

    trainings = []
    for training in document["trainings"]:
        mine = [n for n, seed in enumerate(training["seeds"]) if seed in seeds]
        if mine:
            found: dict[str, Any] = {
                k: [training[k][n] for n in mine] for k in BY_TRAINED_SEED if k in training
            }
            if "reads" in found:
                read = {name for names in found["reads"] for name in names}
                found["features"] = {k: v for k, v in training["features"].items() if KEPT.sub("", k) in read}
            trainings.append(training | found)
    costs = {name: None if values is None else of(values) for name, values in document["costs"].items()}
    chosen = {"seeds": list(seeds), "costs": costs, "trainings": trainings}
    for name in BY_SEED:
        chosen[name] = {key: of(values) for key, values in document[name].items()}
    return document | chosen


def extended(document: Document | None, news: Document, wanted: Wanted) -> Document:
    """The seeds of a document that still match, and those that were trained just now."""
    kept = [seed for seed in matching_seeds(document, wanted) if seed not in news["seeds"]]
    if document is None or not kept:
        return joined([news])
    return joined([selected(document, kept), news])


def read_all(paths: Iterable[Path | str], wanted: Iterable[Sequence[Any]]) -> list[Document]:
    """read_document of several. wanted: seeds and key of each."""
    return [read_document(path, list(seeds), key) for path, (seeds, key) in zip(paths, wanted, strict=True)]


def read_document(path: Path | str, seeds: Sequence[int], key: str) -> Document:
    """A document's seeds that a grid wants, for a table. key: Wanted.key.

    Raises UserError where it is not the grid's.
    """
    document = read_json(path)
    try:
        found = keys_of(document)
        absent = [seed for seed in seeds if seed not in found]
        if absent:
            problem = f"seed {absent[0]} is missing"
        elif joint_key({seed: found[seed] for seed in seeds}) == key:
            return selected(document, seeds)
        else:
            problem = "it was trained with other settings, code or features"
    except UserError as error:
        problem = str(error)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        problem = f"it is damaged: {error!r}"
    raise UserError(f"{path} is not this grid's ({problem}): run snakemake again, or delete it")
