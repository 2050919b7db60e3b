"""Views: each seed trains on one augmented copy, together or apart, and all share the test images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import is_replica, make_cell, make_features, state
from safetensors.torch import save_file
from test_config import BASE
from test_features import random_images

from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.common.errors import UserError
from sharc_core.features.cache import View, extract_features, open_features, open_views
from sharc_core.features.folders import ViewFolder
from sharc_core.features.views import ReplicaViews, needed_views, view_numbers, view_of
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells, extracted_views
from sharc_core.heads import make_head
from sharc_core.learning.learner import evaluate, make_memory, run_cell
from sharc_core.methods import METHODS
from sharc_core.results.runs import runs_table
from sharc_core.stages.build import ensure_features
from sharc_core.stages.layout import Layout
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream

torch.set_num_threads(1)
CASES = [(m, "plain") for m in METHODS.names()] + [("er", "sharc"), ("derpp", "sharc"), ("gem", "sharc")]


@pytest.fixture(scope="module")
def features():
    """Views 1 to 3 of the toy features with 32 channels: different training maps, equal test maps."""
    first, second, third = (make_features(channels=32, seed=0, separation=1 + v / 2) for v in range(3))
    first.further_views = {
        number: View(view.train_maps, view.train_pooled) for number, view in ((2, second), (3, third))
    }
    return first


def seen_by(features, view: int):
    """Return the toy features with `view` as the only view."""
    plain = make_features(channels=32)
    if view > 1:
        plain.train_maps = features.further_views[view].maps
        plain.train_pooled = features.further_views[view].pooled
    return plain


@pytest.fixture
def heads(monkeypatch):
    """Record each method's state at its evaluations, because accuracies hide differences in rounding."""
    seen = []

    def recording(tests, stream, method, device="cpu"):
        seen.append(state(method))
        return evaluate(tests, stream, method, device)

    monkeypatch.setattr("sharc_core.learning.learner.evaluate", recording)
    return seen


def test_seeds_take_views_in_turn():
    assert view_numbers(1) == [0] and view_numbers(3) == [1, 2, 3]
    assert [view_of(seed, 1) for seed in (0, 1, 7)] == [0, 0, 0]
    assert [view_of(seed, 2) for seed in (0, 1, 2, 3)] == [1, 2, 1, 2]
    assert needed_views([0, 1, 2, 3, 4], 3) == [1, 2, 3]
    assert needed_views([2], 3) == [1, 3], "view 1 has the test images"
    assert needed_views([5], 1) == [0]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "variant"), CASES)
def test_seeds_together_equal_seeds_apart_on_their_own_view(features, heads, side_by_side, method, variant):
    """Results are equal bit for bit, also to a run with only the features of that view."""
    cell = make_cell(method, variant, seeds=[0, 1, 2, 3], views=2)
    together = run_cell(features, cell)
    ours = list(heads)
    for r, seed in enumerate(cell.seeds):
        for given, views in ((features, 2), (seen_by(features, view_of(seed, 2)), 1)):
            heads.clear()
            alone = run_cell(given, cell.model_copy(update={"seeds": [seed], "views": views}))
            assert all(is_replica(a, r, b) for a, b in zip(ours, heads, strict=True))
            assert together["matrix"]["class_il"][r] == alone["matrix"]["class_il"][0]
            if together["costs"]["recall_mse"] is not None:
                assert together["costs"]["recall_mse"][r] == alone["costs"]["recall_mse"][0]


@pytest.mark.parametrize("method", ["sgd", "joint", "er"])
def test_views_make_a_difference_to_the_seeds_that_see_them(features, heads, method):
    """Of two views, seeds 0 and 2 read view 1; of three views, seed 2 reads another one."""
    cell = make_cell(method, seeds=[0, 1, 2])
    plain = seen_by(features, 1)
    last = []
    for given, views in ((plain, 1), (features, 2), (features, 3)):
        heads.clear()
        run_cell(given, cell.model_copy(update={"views": views}))
        last.append(heads[-1]["head"])
    same = [[torch.equal(a[r], b[r]) for r in range(3)] for a, b in ((last[0], last[1]), (last[0], last[2]))]
    assert same == [[True, False, True], [True, False, False]]


@pytest.mark.parametrize("settings", [{}, {"storage": "int8"}, {"read": "at_store"}])
def test_the_memory_keeps_and_recalls_its_replicas_view(features, settings):
    cell = make_cell("er", "sharc", seeds=[0, 1, 2], views=2, budget_unit="slots", **settings)
    stream = make_stream(features.train_labels, features.test_labels, 6, StreamConfig(tasks=3))
    memory = make_memory(features, stream, cell)
    head = make_head("linear", 0, 3, 32, 6)
    head.initialise(cell.seeds)
    with torch.no_grad():
        memory.store(stream.order(0, 0, cell.seeds), head)
        memory.begin_task()
    (stored,) = memory.stored
    for r, seed in enumerate(cell.seeds):
        own = seen_by(features, view_of(seed, 2)).train_pooled[stored.index[r]]
        other = seen_by(features, 3 - view_of(seed, 2)).train_pooled[stored.index[r]]
        torch.testing.assert_close(stored.x[r], own, atol=0.02, rtol=0.02)
        assert (stored.x[r] - other).abs().max() > 0.1
        assert stored.recall_errors[r] < 1e-3


def test_one_view_gathers_as_a_plain_index(features):
    plain = make_features()
    index = torch.randint(0, 240, (3, 11))
    views = ReplicaViews(plain, [0, 1, 2])
    assert torch.equal(views.pooled(index), plain.train_pooled[index])
    assert torch.equal(views.maps(1, index[1]), plain.train_maps[index[1]])


def test_missing_view_is_reported(features):
    with pytest.raises(UserError, match="the features lack view 4"):
        run_cell(features, make_cell("er", seeds=[3], views=5))


def test_the_number_of_views_identifies_a_cell_and_stands_in_its_rows(features):
    one, two = (make_cell("er", views=views) for views in (1, 2))
    assert one.config_hash != two.config_hash
    assert set(runs_table([run_cell(features, two)])["views"]) == {2}


# On disk


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Views 0 to 3 of the same images through a random network."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("views")
    save_file(build_classifier("resnet_small", 5).state_dict(), root / "w.safetensors")
    config = BackboneConfig(arch="resnet_small", weights=str(root / "w.safetensors"), image_size=32)
    backbone = load_backbone(config, None, "cpu")
    for view in range(4):
        extract_features(random_images(), backbone, root / f"view{view}", view=view)
    return [root / f"view{view}" for view in range(4)]


def test_test_images_are_stored_once_and_never_augmented(folders):
    plain, opened = open_features(folders[0]), open_views(folders[1:])
    assert torch.equal(opened.test_maps, plain.test_maps)
    assert [sorted(p.name for p in folder.glob("test_*")) for folder in folders[2:]] == [[], []]
    assert sorted(opened.further_views) == [2, 3]
    maps = [plain.train_maps, opened.train_maps, *(v.maps for v in opened.further_views.values())]
    for i, one in enumerate(maps):
        for other in maps[:i]:
            assert not torch.equal(one, other)
    with pytest.raises(UserError, match="is damaged"):
        open_features(folders[2])


def test_folders_that_do_not_belong_together_are_refused(folders, tmp_path):
    config = BackboneConfig(
        arch="resnet_small", weights=str(folders[0].parent / "w.safetensors"), image_size=40, name="other"
    )
    extract_features(random_images(), load_backbone(config, None, "cpu"), tmp_path / "v", view=2)
    with pytest.raises(UserError, match=r"/v are not a view of those in .*/view1: delete"):
        open_views([folders[1], tmp_path / "v"])


def grid(tmp_path: Path, **backbone):
    values = BASE | {"data_dir": str(tmp_path), "methods": ["sgd"]}
    weights = tmp_path / "w.safetensors"
    if not weights.exists():
        save_file(build_classifier("resnet_small", 5).state_dict(), weights)
    block = {"arch": "resnet_small", "weights": str(weights), "image_size": 32}
    return load_grid(values | {"backbone": block | backbone})


@pytest.mark.slow
def test_a_grid_makes_the_views_its_seeds_need_and_shares_them(tmp_path):
    two, one = grid(tmp_path, views=2), grid(tmp_path, views=1)
    layout = Layout(two)
    backbone = two.backbones[0].path_name
    assert layout.features("s_digits", backbone, ViewFolder(0)) == Layout(one).features("s_digits", backbone)
    assert {cell.views for cell in cells(two)} == {2} and {cell.views for cell in cells(one)} == {1}
    features = ensure_features(two, "s_digits")
    assert list(features.further_views) == [2] and features.manifest["view"] == 1
    made = layout.features("s_digits", backbone).parent
    assert sorted(path.name for path in made.iterdir()) == ["view1", "view2"]
    before = (made / "view2/train_maps.npy").stat().st_mtime_ns
    three = grid(tmp_path, views=3)
    ensure_features(three.model_copy(update={"seeds": [2]}), "s_digits")
    assert sorted(path.name for path in made.iterdir()) == ["view1", "view2", "view3"]
    assert (made / "view2/train_maps.npy").stat().st_mtime_ns == before
    document = run_cell(features, cells(two)[0])
    assert np.isfinite(np.array(document["matrix"]["class_il"], dtype=float)).all()
    fewer = dataclasses.replace(features, further_views={})
    with pytest.raises(UserError, match="lack view 2"):
        run_cell(fewer, cells(two)[0])


def test_a_study_with_seeds_of_its_own_has_their_views(tmp_path):
    """Buffer 40 runs only with seed 2, which reads view 3; the grid's seeds need views 1 and 2."""
    values = grid(tmp_path, views=3).model_dump() | {"seeds": [0, 1], "methods": ["er"], "buffers": [20]}
    studies = {"more": {"buffers": [40], "seeds": [2]}}
    backbone = grid(tmp_path).backbones[0].path_name
    found = [extracted_views(load_grid(values | {"studies": s})) for s in ({}, studies)]
    assert found == [
        [("s_digits", backbone, ViewFolder(v)) for v in numbers] for numbers in ([1, 2], [1, 2, 3])
    ]


def test_two_numbers_of_views_in_a_grid_need_two_names(tmp_path):
    block = grid(tmp_path).backbones[0].model_dump()
    values = BASE | {"backbone": [block, block | {"views": 2}]}
    with pytest.raises(UserError, match=r"backbone: two are called 'resnet_small-w': give each a name"):
        load_grid(values)
    values["backbone"][1]["name"] = "augmented"
    assert len(load_grid(values).backbones) == 2
