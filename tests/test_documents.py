"""A cell's document: its identity, the seeds that a grid reads from it, and adding seeds."""

import copy

import pytest
from factories import make_cell, make_features

from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, write_json
from sharc_core.grid.cell import Training
from sharc_core.learning.documents import (
    Wanted,
    difference,
    extended,
    joined,
    keys_of,
    matching_seeds,
    missing_seeds,
    read_document,
    selected,
    signed,
)
from sharc_core.learning.learner import run_cell

FEATURES = make_features()


def wanted(seeds, code="c0de", place="digits-1/net-1", **changes) -> Wanted:
    cell = make_cell("er", seeds=list(seeds), **changes)
    return Wanted(cell, code, {seed: [f"{place}/view0", f"{place}/view{seed + 1}"] for seed in seeds})


def trained(seeds, **changes) -> dict:
    one = wanted(seeds, **changes)
    names = {name for names in one.reads.values() for name in names}
    return signed(run_cell(FEATURES, one.cell), one, dict.fromkeys(names, "f" * 64))


def numbers(document: dict) -> dict:
    """Return a document without times and the records of its trainings."""
    costs = {name: value for name, value in document["costs"].items() if name != "train_seconds"}
    return {k: v for k, v in document.items() if k != "trainings"} | {"costs": costs}


@pytest.fixture(scope="module")
def three():
    return trained([0, 1, 2])


def test_document_is_unchanged_by_writing_and_reading(three, tmp_path):
    write_json(tmp_path / "d.json", three)
    assert read_json(tmp_path / "d.json") == three
    assert matching_seeds(read_json(tmp_path / "d.json"), wanted([0, 1, 2])) == [0, 1, 2]


@pytest.mark.reliability("seeds-more-or-less")
@pytest.mark.parametrize("parts", [([0], [1], [2]), ([2], [0, 1]), ([1, 2], [0]), ([2, 0, 1],)])
def test_seeds_trained_one_after_the_other_are_those_trained_together(three, parts):
    """Results are equal bit for bit, in any order and grouping of seeds."""
    grown = None
    for seeds in parts:
        grown = extended(grown, trained(seeds), wanted(seeds))
    assert numbers(grown) == numbers(three)
    assert keys_of(grown) == keys_of(three)
    assert sorted(seed for training in grown["trainings"] for seed in training["seeds"]) == [0, 1, 2]


def test_a_selection_is_a_training_of_those_seeds(three):
    assert numbers(selected(three, [2, 0])) == numbers(selected(trained([0, 2]), [2, 0]))
    assert selected(three, [0, 1, 2]) == three
    assert joined([selected(three, [1]), selected(three, [2, 0])]) == three


OTHERS = {
    "setting": ({"training": Training(lr=0.2)}, "training.lr is 0.1 in the document and 0.2 in the grid"),
    "buffer": ({"buffer": 13}, "buffer is 12 in the document and 13 in the grid"),
    "method's setting": ({"method_settings": {"replay": "whole"}}, "method_settings.replay is "),
    "protocol": ({"protocol": "code"}, "protocol is 'paper' in the document and 'code' in the grid"),
    "device": ({"device": "auto"}, "device is 'cpu' in the document and 'auto' in the grid"),
    "stream": ({"class_order_seed": 3}, "class_order_seed is None in the document and 3 in the grid"),
    "code": ({"code": "0ther"}, "it was trained with other code"),
    "features": ({"place": "digits-2/net-1"}, "it was trained on other features"),
    "weights": ({"place": "digits-1/net-2"}, "it was trained on other features"),
    "head": (
        {"head": {"kind": "mlp", "hidden": 8}},
        "head.kind is 'linear' in the document and 'mlp' in the grid",
    ),
}


@pytest.mark.reliability("inputs", "lost-notes")
@pytest.mark.parametrize("name", OTHERS)
def test_document_of_other_settings_code_or_features_is_replaced(three, name):
    changes, told = OTHERS[name]
    other = wanted([0, 1], **changes)
    assert missing_seeds(three, other) == [0, 1] and matching_seeds(three, other) == []
    assert difference(three, other).startswith(told)
    news = trained([0, 1], **{k: v for k, v in changes.items() if k in ("code", "place")})
    news |= {"cell": other.cell.settings}
    assert extended(three, news, other)["seeds"] == [0, 1], "nothing of the old one is left"


def test_missing_seeds_are_listed_and_extra_seeds_are_kept(three):
    assert missing_seeds(three, wanted([1, 3, 0, 4])) == [3, 4]
    assert difference(three, wanted([1, 3])) is None
    assert missing_seeds(three, wanted([1])) == []
    assert matching_seeds(three, wanted([1])) == [0, 1, 2], "a seed that is dropped may come back"


def test_outdated_document_is_reported_even_if_the_grid_wants_other_seeds(three):
    """A document of other code whose seeds the grid does not want is reported and not kept."""
    other = wanted([3], code="0ther")
    assert difference(three, other) == "its seed 0 was trained with other code or features"
    assert extended(three, trained([3], code="0ther"), other)["seeds"] == [3]


def test_a_selection_names_the_features_that_it_reads(three):
    (training,) = selected(three, [1])["trainings"]
    assert sorted(training["features"]) == sorted(wanted([1]).reads[1])


@pytest.mark.reliability("lost-notes")
def test_read_document_returns_the_grids_seeds_or_fails(three, tmp_path):
    path = tmp_path / "d.json"
    write_json(path, three)
    for seeds in ([0, 1, 2], [2, 1], [1]):
        found = read_document(path, seeds, wanted(seeds).key)
        assert found == selected(three, seeds)
    for seeds, key, told in (
        ([0, 3], wanted([0, 3]).key, "seed 3 is missing"),
        ([0, 1], wanted([0, 1], code="0ther").key, "other settings, code or features"),
        ([0, 1], wanted([0, 2]).key, "other settings, code or features"),
    ):
        with pytest.raises(UserError, match=f"does not match this grid .*{told}"):
            read_document(path, seeds, key)


DAMAGE = {
    "no format": lambda d: d.pop("format"),
    "an older format": lambda d: d.update(format=1),
    "no trainings": lambda d: d.pop("trainings"),
    "trainings of no seed": lambda d: d.update(trainings=[]),
    "a list": lambda d: d.update(trainings=[[]]),
    "no code": lambda d: d["trainings"][0].pop("code"),
    "no reads": lambda d: d["trainings"][0].pop("reads"),
    "fewer reads": lambda d: d["trainings"][0]["reads"].pop(),
    "another seed": lambda d: d["trainings"][0]["seeds"].__setitem__(0, 9),
    "a seed twice": lambda d: d["seeds"].append(0),
    "an edited number": lambda d: d["matrix"]["class_il"][1][0].__setitem__(0, 99.5),
    "an edited cost": lambda d: d["costs"]["samples_stored"].__setitem__(2, 1),
    "no sums": lambda d: d["trainings"][0].pop("sums"),
    "no cell": lambda d: d.pop("cell"),
    "text": lambda d: d.update(trainings="x"),
}


@pytest.mark.reliability("damaged-cell", "unsigned-document")
@pytest.mark.parametrize("name", DAMAGE)
def test_document_without_its_identity_is_refused(three, tmp_path, name):
    found = copy.deepcopy(three)
    DAMAGE[name](found)
    one = wanted([0, 1, 2])
    assert missing_seeds(found, one) == [0, 1, 2]
    assert difference(found, one)
    write_json(tmp_path / "d.json", found)
    with pytest.raises(UserError, match="does not match this grid"):
        read_document(tmp_path / "d.json", [0, 1, 2], one.key)


def test_keys_cover_exactly_what_the_numbers_depend_on():
    keys = [wanted([0], **changes).key for changes, _ in OTHERS.values()]
    assert len({wanted([0]).key, *keys}) == 1 + len(OTHERS)
    assert wanted([0], scenarios=["task_il"]).key == wanted([0]).key
    assert wanted([0, 1]).keys[0] == wanted([0, 2]).keys[0]
    assert wanted([0, 1]).key == wanted([1, 0]).key
