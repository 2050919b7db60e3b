"""Cached data, weights and features are found again by what they are made from, and by nothing else."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_config import BASE

from sharc_core.config import load_grid
from sharc_core.pipeline import Layout


def features(path: str | None = None, **changes) -> Path:
    """Feature folder of BASE with keys of its backbone changed."""
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


@pytest.mark.parametrize("key", ["name", "views"])
def test_what_changes_no_map_changes_no_hash(key):
    other = features(**{"name": "another"} if key == "name" else {"views": 1})
    assert other.parent.name.rsplit("-", 1)[1] == features().parent.name.rsplit("-", 1)[1]


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
