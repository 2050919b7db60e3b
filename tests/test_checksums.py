"""Damaged or altered weights are reported before anything is computed with them."""

import json
import os
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from small_grid import small_grid

from sharc_core.backbones import BackboneConfig, checksums
from sharc_core.backbones.checksums import check_weights
from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file
from sharc_core.datasets import open_prepared
from sharc_core.features.cache import open_features
from sharc_core.stages import build
from sharc_core.stages.build import build_features, ensure_features, prepare_data, pretrain_backbone
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import check_inputs


def flip(path, where: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 1
    path.write_bytes(content)


@pytest.fixture
def folder(small_features, tmp_path):
    shutil.copytree(small_features, tmp_path / "copy")
    return tmp_path / "copy"


# --- pre-trained here ------------------------------------------------------------------------------


def flipped(weights):
    flip(weights)


def cut_short(weights):
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.reliability("damaged-inputs")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [(flipped, "was altered .*card's"), (cut_short, "was altered"), (os.remove, "is missing")],
)
def test_pretrained_weights_are_compared_with_their_card(folder, how, message):
    layout = Layout(small_grid(folder))
    weights = layout.weights("small")
    how(weights)
    shutil.rmtree(layout.features("s_glyphs", "small"))
    with pytest.raises(UserError, match=rf"weights file {weights} {message}.*: delete .* and run again$"):
        build_features(small_grid(folder), "s_glyphs", "small")
    assert not layout.features("s_glyphs", "small").exists()


@pytest.mark.slow
def test_weights_and_features_that_were_deleted_come_back_the_same(folder):
    layout = Layout(small_grid(folder))
    weights, features = layout.weights("small"), layout.features("s_glyphs", "small")
    before = sha256_file(weights), open_features(features).manifest["files"]
    weights.unlink()
    layout.card("small").unlink()
    shutil.rmtree(features)
    ensure_features(small_grid(folder), "s_glyphs")
    assert (sha256_file(weights), open_features(features).manifest["files"]) == before


@pytest.mark.reliability("damaged-json")
@pytest.mark.parametrize("content", ["{}", "{", '{"weights_sha256": 3}'])
def test_damaged_card_is_reported_by_name(folder, content):
    layout = Layout(small_grid(folder))
    layout.card("small").write_text(content)
    with pytest.raises(UserError, match=r"small-.*\.(json|safetensors) .*: delete it"):
        build_features(small_grid(folder), "s_glyphs", "small")


def test_weights_on_a_full_disk_are_one_line(folder, monkeypatch):
    def full(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(build, "pretrain", full)
    with pytest.raises(UserError, match=r"^disk full while writing .*small-.*\.safetensors: free some space"):
        pretrain_backbone(small_grid(folder), "small")


@pytest.mark.reliability("damaged-inputs")
@pytest.mark.parametrize("which", ["prepared", "pretraining_data"])
def test_damaged_prepared_data_are_reported_when_they_are_read(folder, which):
    layout = Layout(small_grid(folder))
    if which == "prepared":
        place, source = layout.prepared("s_glyphs"), layout.source("s_glyphs")
        read = partial(build_features, small_grid(folder), "s_glyphs", "small")
    else:
        place, source = layout.pretraining_data("small"), layout.pretraining_source("small")
        read = partial(pretrain_backbone, small_grid(folder), "small")
    images = np.array(open_prepared(place).train_images)
    flip(place / "train_images.npy", 0.9)
    with pytest.raises(UserError, match=r"train_images\.npy was altered .*: delete the folder and run again"):
        read()
    shutil.rmtree(place)
    prepare_data(source, place)
    assert np.array_equal(open_prepared(place, verify=True).train_images, images)


# --- local files -----------------------------------------------------------------------------------


@pytest.mark.reliability("damaged-own-weights")
def test_a_file_of_ones_own_is_compared_with_the_sum_that_the_grid_states(folder):
    weights = folder / "mine.safetensors"
    shutil.copy(Layout(small_grid(folder)).weights("small"), weights)
    stated = {"weights": str(weights), "sha256": sha256_file(weights)}
    check_inputs(small_grid(folder, **stated))
    with_sum, without = Layout(small_grid(folder, **stated)), Layout(small_grid(folder, weights=str(weights)))
    assert with_sum.features("s_glyphs", "small") == without.features("s_glyphs", "small")
    flip(weights, 0.9)  # in a tensor: only the checksum shows it
    load_file(weights)
    message = rf"weights file {weights} was altered: its SHA-256 is .{{64}}, backbone\.sha256 is .{{64}}: get"
    with pytest.raises(UserError, match=rf"^config: backbone: {message}"):
        check_inputs(small_grid(folder, **stated))
    with pytest.raises(UserError, match=message):
        build_features(small_grid(folder, **stated), "s_glyphs", "small")
    # without a stated checksum it is another file with other features
    assert Layout(small_grid(folder, weights=str(weights))).features("s_glyphs", "small") != without.features(
        "s_glyphs", "small"
    )


# --- torchvision's ---------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Write a checkpoint to torch's cache under a name that contains its checksum."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path = tmp_path / "hub/checkpoints/net.pth"
    path.parent.mkdir(parents=True)
    torch.save({"a": torch.zeros(100)}, path)
    path = path.rename(path.with_name(f"net-{sha256_file(path)[:8]}.pth"))
    entry = SimpleNamespace(url=f"somewhere/{path.name}")
    monkeypatch.setattr(checksums, "weights_entry", lambda arch, name: entry)
    return path


def check(mirror=None) -> None:
    check_weights(BackboneConfig(arch="resnet18", weights="imagenet1k_v1"), None, None, mirror)


@pytest.mark.reliability("damaged-torchvision-weights")
@pytest.mark.parametrize("how", [flipped, cut_short])
def test_torchs_cache_is_not_trusted(cached, tmp_path, how):
    """Torch checks downloads, but not files that are already in its cache."""
    check()
    how(cached)
    with pytest.raises(UserError, match=rf"weights file {cached} is damaged .*: delete it and run again$"):
        check()
    cached.rename(tmp_path / cached.name)
    check()  # a missing file will be downloaded
    shutil.copy(tmp_path / cached.name, cached)
    check(mirror=tmp_path)  # a mirror's file is used first and checked when it is read


def test_every_way_to_weights_is_checked_before_they_are_read(folder, monkeypatch):
    """build_features checks the weights, whatever their origin."""
    asked = []

    def read(*arguments, **options):
        assert asked
        raise UserError("read")

    monkeypatch.setattr(build, "check_weights", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr("sharc_core.backbones.registered.load_backbone", read)
    with pytest.raises(UserError, match="^read$"):
        build_features(small_grid(folder), "s_glyphs", "small")
    layout = Layout(small_grid(folder))
    assert asked == [(layout.backbones["small"], layout.weights("small"), layout.card("small"), None)]
    assert "weights_sha256" in json.loads(layout.card("small").read_text())
