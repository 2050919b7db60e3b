"""Paths of cached data, weights and features depend only on what these are made from."""

import copy
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_config import BASE

from sharc_core.datasets.archives import Container
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.stages import layout as layout_module
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import extraction_plan


def features(path: str | None = None, **changes) -> Path:
    """Return the feature folder of BASE with changed keys of its backbone."""
    values = copy.deepcopy(BASE)
    values["backbone"] |= changes
    layout = Layout(load_grid(values))
    return layout.features("s_digits", next(iter(layout.backbones)))


def test_pretraining_settings_decide_where_pretrained_features_lie():
    assert features() == features()
    assert features(pretrain={"epochs": 3}) != features()
    assert features(image_size=48) != features()
    assert (
        features(pretrain={"dataset": {"source": "glyphs", "classes": 9, "first_class": 500}}) != features()
    )


@pytest.mark.parametrize("change", [{"name": "another"}, {"views": 3}, {"resize_size": 32}])
def test_settings_that_change_no_map_change_no_hash(change):
    other = features(**change)
    assert other.parent.name.rsplit("-", 1)[1] == features().parent.name.rsplit("-", 1)[1]


@pytest.mark.parametrize("change", [{"resize_size": 40}, {"interpolation": "bicubic"}, {"mean": [0.5] * 3}])
def test_input_settings_change_the_paths_of_weights_and_features(change):
    values = copy.deepcopy(BASE)
    values["backbone"] |= change
    assert moved(paths(BASE), paths(values)) == {
        "weights resnet_small-pretrain",
        "features s_digits resnet_small-pretrain",
    }


def test_precision_is_that_of_the_features_only():
    values = copy.deepcopy(BASE)
    values["backbone"]["precision"] = "bfloat16"
    assert moved(paths(BASE), paths(values)) == {"features s_digits resnet_small-pretrain"}


def test_spelling_out_torchvisions_defaults_changes_no_path():
    """The default input may be given explicitly, and `default` means the same weights as its version."""
    block = {"arch": "resnet50", "weights": "imagenet1k_v2", "name": "net"}
    spellings = [block, block | {"image_size": 224, "resize_size": 232}, block | {"weights": "default"}]
    folders = {
        Layout(load_grid(BASE | {"backbone": one})).features("s_digits", "net")
        for one in [*spellings, block | {"weights": "IMAGENET1K_V2"}]
    }
    assert len(folders) == 1
    other = Layout(load_grid(BASE | {"backbone": block | {"image_size": 224}}))
    assert other.features("s_digits", "net") not in folders


def test_local_weights_count_by_content(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    first = features(weights=str(path))
    assert features(weights=str(path), pretrain={"epochs": 3}) == first, "pre-training plays no part"
    moved = tmp_path / "elsewhere" / "weights.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    assert features(weights=str(moved)) == first
    save_file({"a": torch.ones(2)}, path)
    assert features(weights=str(path)) != first


def paths(values: dict) -> dict[str, Path]:
    """Return the paths of all files that a grid shares with other grids."""
    layout = Layout(load_grid(values))
    shared = {f"prepared {name}": layout.prepared(name) for name in layout.grid.datasets}
    for backbone in layout.backbones:
        shared[f"weights {backbone}"] = layout.weights(backbone)
        if layout.card(backbone) is not None:
            shared[f"pretraining data {backbone}"] = layout.pretraining_data(backbone)
        for name in layout.grid.datasets:
            shared[f"features {name} {backbone}"] = layout.features(name, backbone)
    return shared


def moved(before: dict[str, Path], after: dict[str, Path]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("digits.py", {"prepared s_digits", "features s_digits small"}),
        (
            "resnet_small.py backbones.pretraining",
            {"weights small", "features s_digits small", "features s_glyphs small"},
        ),
        ("resnet_small.py features.cache", {"features s_digits small", "features s_glyphs small"}),
    ],
)
@pytest.mark.parametrize("function", ["stage_hash", "library_versions"])
def test_code_and_libraries_of_a_stage_decide_where_its_output_lies(monkeypatch, function, stage, names):
    """Output of other code or of another library version is never used as a result."""
    values = copy.deepcopy(BASE)
    values["backbone"]["name"] = "small"
    values["datasets"]["s_glyphs"] = {"source": "glyphs", "classes": 10, "tasks": 5}
    before = paths(values)
    original = getattr(layout_module, function)

    def changed(*roots):
        called = {Path(root).name for root in roots}
        return "changed" if set(stage.split()) <= called else original(*roots)

    monkeypatch.setattr(layout_module, function, changed)
    assert moved(before, paths(values)) == names


def test_another_source_moves_nothing(monkeypatch):
    before = paths(BASE)
    original = layout_module.stage_hash

    def changed(*roots):
        return "changed" if any("image_folder" in str(root) for root in roots) else original(*roots)

    monkeypatch.setattr(layout_module, "stage_hash", changed)
    assert moved(before, paths(BASE)) == set()


def test_all_paths_of_a_grid_look_at_the_files_once(tmp_path, monkeypatch):
    """Listing 20,000 files or hashing weights once per cell would take longer than training the cells."""
    for split in ("train", "test"):
        for name in "abcd":
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / split / name / "1.png")
    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors")
    block = {"source": "image_folder", "path": str(tmp_path / "images")}
    values = {
        "datasets": {"mine": block | {"tasks": 2}},
        "backbone": [
            {"arch": "resnet_small", "weights": str(tmp_path / "weights.safetensors"), "image_size": 32},
            *(
                {"arch": arch, "weights": "pretrain", "image_size": 32, "pretrain": {"dataset": block}}
                for arch in ("resnet_small", "resnet18")
            ),
        ],
        "buffers": [20, 50],
    }
    reads = []
    fingerprint, sha256 = Container.fingerprint, layout_module.sha256_file
    monkeypatch.setattr(Container, "fingerprint", lambda self: reads.append("files") or fingerprint(self))
    monkeypatch.setattr(layout_module, "sha256_file", lambda path: reads.append("weights") or sha256(path))
    layout = Layout(load_grid(values))
    for cell in cells(layout.grid):
        layout.cell(cell)
        layout.features(cell.dataset, cell.backbone)
        layout.prepared(cell.dataset)
        layout.weights(cell.backbone)
        if layout.card(cell.backbone) is not None:
            layout.pretraining_data(cell.backbone)
    # the data of the stream, and the data that both backbones are pre-trained on
    assert sorted(reads) == ["files", "files", "weights"]


def test_streams_of_one_data_set_share_images_and_features():
    """Their features are extracted once, whatever the data set's name. Documents are not shared."""
    values = copy.deepcopy(BASE)
    values["datasets"] = {
        "by_5": {"source": "digits", "tasks": 5},
        "by_2": {"source": "digits", "tasks": 2},
        "other": {"source": "digits", "tasks": 5, "seed": 1},
    }
    layout = Layout(load_grid(values))
    (backbone,) = layout.backbones
    assert layout.prepared("by_5") == layout.prepared("by_2") != layout.prepared("other")
    assert layout.features("by_5", backbone) == layout.features("by_2", backbone)
    assert len({layout.cell(cell) for cell in cells(layout.grid)}) == len(cells(layout.grid))
    found = [Path(folder) for folder in {layout.features(name, backbone) for name in values["datasets"]}]
    counted = ["".join(extraction_plan(layout.grid, folders)) for folders in (found, found[:1])]
    assert [line.split(":")[2].split()[0] for line in counted] == ["3,594", "1,797"]
