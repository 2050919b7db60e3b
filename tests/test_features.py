"""Feature cache: streaming, atomic writes, independence of the batch size, and refusal of damaged files."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import sharc_core.features.cache as features_module
from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.common import integrity
from sharc_core.common.errors import UserError
from sharc_core.common.files import digest
from sharc_core.common.integrity import STAMPS
from sharc_core.common.pooling import pool
from sharc_core.datasets import PreparedData
from sharc_core.features.cache import augmented_view, extract_features, open_features, open_views

torch.set_num_threads(1)
ARRAYS = [f"{split}_{kind}.npy" for split in ("train", "test") for kind in ("maps", "pooled", "labels")]


def random_images(train: int = 23, test: int = 7, side: int = 32) -> PreparedData:
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (train + test, side, side, 3), dtype=np.uint8)
    labels = draws.integers(0, 3, train + test)
    manifest = {"source": "noise", "classes": ["a", "b", "c"], "counts": {"train": train, "test": test}}
    return PreparedData(manifest, images[:train], labels[:train], images[train:], labels[train:])


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build_classifier("resnet_small", 5).state_dict(), path)
    return load_backbone(BackboneConfig(arch="resnet_small", weights=str(path), image_size=32), path, "cpu")


@pytest.fixture
def folder(backbone, tmp_path):
    extract_features(random_images(), backbone, tmp_path / "features", batch_size=8)
    return tmp_path / "features"


def test_arrays_and_manifest(folder, backbone):
    data, features = random_images(), open_features(folder, verify=True)
    assert features.train_maps.shape == (23, 128, 4, 4) and features.test_maps.shape == (7, 128, 4, 4)
    assert features.train_maps.dtype == torch.float16 and features.train_pooled.dtype == torch.float32
    assert torch.equal(features.train_labels, torch.from_numpy(data.train_labels))
    assert torch.equal(features.test_labels, torch.from_numpy(data.test_labels))
    assert features.classes == ["a", "b", "c"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == features.manifest
    assert manifest["dataset"] == digest(data.manifest, 64)
    assert manifest["backbone"] == backbone.describe()
    assert (manifest["shape"], manifest["counts"], manifest["view"]) == (
        [128, 4, 4],
        {"train": 23, "test": 7},
        0,
    )
    assert sorted(manifest["files"]) == sorted(ARRAYS)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*ARRAYS, "manifest.json", STAMPS])


def test_maps_are_the_backbones(folder, backbone):
    data, features = random_images(), open_features(folder)
    with torch.inference_mode():
        maps = backbone(backbone.preprocess(torch.from_numpy(data.test_images)))
    torch.testing.assert_close(features.test_maps.float(), maps, rtol=2e-3, atol=2e-3)
    assert maps.std() > 0.01


def test_pooled_is_exactly_the_pooled_map(folder):
    features = open_features(folder)
    for split in ("train", "test"):
        maps, pooled = getattr(features, f"{split}_maps"), getattr(features, f"{split}_pooled")
        assert torch.equal(pool(maps), pooled)
        assert torch.equal(torch.stack([pool(one) for one in maps]), pooled)
        assert torch.equal(pool(maps[[3, 1]]), pooled[[3, 1]])


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 8), st.integers(1, 8)),
    seed=st.integers(0, 2**31),
)
def test_pooling_does_not_depend_on_other_maps(shape, seed):
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(seed)).half()
    together = pool(maps)
    assert torch.equal(torch.stack([pool(one) for one in maps]), together)
    assert torch.equal(pool(maps.unsqueeze(0).expand(3, *shape))[2], together)


def test_batch_composition_does_not_matter(backbone, tmp_path):
    results = []
    for size in (1, 5, 64):
        extract_features(random_images(), backbone, tmp_path / str(size), batch_size=size)
        results.append(open_features(tmp_path / str(size)).train_maps.float())
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=2e-3, atol=2e-3)


def test_extraction_is_reproducible(folder, backbone):
    before = {name: (folder / name).read_bytes() for name in [*ARRAYS, "manifest.json"]}
    extract_features(random_images(), backbone, folder, batch_size=8)
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_arrays_are_mapped_not_read(folder):
    features = open_features(folder)
    stored = np.load(folder / "train_labels.npy", mmap_mode="r+")
    stored[0] = 77
    stored.flush()
    assert features.train_labels[0] == 77


class Streamed:
    """An array that only returns small slices and remembers the largest."""

    def __init__(self, array):
        self.array, self.largest, self.shape = array, 0, array.shape

    def __len__(self):
        return len(self.array)

    def __array__(self, *arguments, **keywords):
        raise AssertionError("the whole split was read at once")

    def __getitem__(self, part):
        self.largest = max(self.largest, len(self.array[part]))
        return self.array[part]


def test_images_are_streamed(backbone, tmp_path):
    data = random_images()
    streamed = SimpleNamespace(
        manifest=data.manifest,
        train_images=Streamed(data.train_images),
        test_images=Streamed(data.test_images),
        train_labels=data.train_labels,
        test_labels=data.test_labels,
    )
    extract_features(streamed, backbone, tmp_path / "f", batch_size=4)
    assert streamed.train_images.largest == streamed.test_images.largest == 4


def test_interruption_leaves_nothing(backbone, tmp_path):
    data = random_images()

    class Broken(Streamed):
        def __getitem__(self, part):
            if part.start >= 4:
                raise KeyboardInterrupt
            return self.array[part]

    broken = SimpleNamespace(**{**vars(data), "test_images": Broken(data.test_images)})
    with pytest.raises(KeyboardInterrupt):
        extract_features(broken, backbone, tmp_path / "f", batch_size=4)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="missing or incomplete"):
        open_features(tmp_path / "f")


def test_interruption_keeps_what_was_there(folder, backbone):
    before = open_features(folder, verify=True).manifest
    data = random_images()
    broken = SimpleNamespace(**{**vars(data), "test_labels": None})
    with pytest.raises(TypeError):
        extract_features(broken, backbone, folder)
    assert open_features(folder, verify=True).manifest == before


def test_progress_reports_images_and_time_left(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "SECONDS_BETWEEN_LINES", -1)
    lines = []
    extract_features(random_images(), backbone, tmp_path / "f", batch_size=10, progress=lines.append)
    assert lines[0].startswith("train: 10/30 images, ") and lines[0].endswith(" s left")
    assert lines[-1].startswith("30 images in ")


def test_disk_space_is_checked_first(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=5000))
    needed = 30 * (2 * 128 * 16 + 4 * 128 + 8)
    with pytest.raises(UserError, match=r"need [\d,]+ bytes, but .* has 5,000 bytes free") as caught:
        extract_features(random_images(), backbone, tmp_path / "deep" / "f")
    said = int(str(caught.value).split(" need ")[1].split(" bytes")[0].replace(",", ""))
    assert needed <= said <= needed + 2_000_000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reliability("numbers-out-of-range")
@pytest.mark.parametrize(
    ("factor", "message"), [(1e8, "more than float16 holds"), (float("nan"), "are not finite")]
)
def test_maps_beyond_float16_are_refused(backbone, tmp_path, monkeypatch, factor, message):
    whole = type(backbone).forward
    monkeypatch.setattr(type(backbone), "forward", lambda self, x: whole(self, x) * factor)
    with pytest.raises(UserError, match=message):
        extract_features(random_images(), backbone, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_views_change_training_images_only(backbone, folder, tmp_path):
    plain = open_features(folder)
    for name, view in (("one", 1), ("again", 1), ("two", 2)):
        extract_features(random_images(), backbone, tmp_path / name, view=view, batch_size=8)
    one, again = (open_features(tmp_path / name) for name in ("one", "again"))
    two = open_views([tmp_path / "one", tmp_path / "two"]).further_views[2]
    assert torch.equal(one.train_maps, again.train_maps)
    assert torch.equal(one.test_maps, plain.test_maps)
    assert not torch.equal(one.train_maps, plain.train_maps)
    assert not torch.equal(one.train_maps, two.maps)
    assert one.manifest["view"] == 1


def test_augmented_view_moves_by_an_eighth_at_most():
    images = torch.full((200, 64, 64, 3), 255, dtype=torch.uint8)
    moved = augmented_view(images, torch.Generator().manual_seed(0))
    black = 64 - (moved[..., 0].amax(2) > 0).sum(1)
    assert moved.dtype == torch.uint8
    assert black.max() == 8 and black.min() == 0


def damage(folder, name, how):
    path = folder / name
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "short":
        path.write_bytes(content[:-1])
    elif how == "altered":
        content[-1] ^= 1
        path.write_bytes(content)


@pytest.mark.reliability("damaged-inputs")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("gone", "is missing"),
        ("short", r"has [\d,]+ bytes instead of [\d,]+"),
        ("altered", "was altered"),
    ],
)
def test_damaged_arrays_are_reported_by_name(folder, how, message):
    damage(folder, "train_maps.npy", how)
    with pytest.raises(UserError, match=rf"train_maps\.npy {message}.*delete the folder"):
        open_features(folder)


@pytest.mark.reliability("silent-damage")
def test_silent_damage_is_found_on_request(folder):
    """Damage by the disk changes neither the size nor the mtime of a file."""
    path = folder / "test_pooled.npy"
    status = path.stat()
    damage(folder, path.name, "altered")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    open_features(folder)
    with pytest.raises(UserError, match=r"test_pooled\.npy was altered"):
        open_features(folder, verify=True)


def test_fresh_features_are_not_hashed_again(folder, monkeypatch):
    monkeypatch.setattr(integrity, "sha256_file", lambda path: pytest.fail(f"{path} was hashed"))
    open_features(folder)


def test_arrays_that_differ_from_the_manifest_are_refused(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shape": [128, 2, 8]}))
    with pytest.raises(UserError, match=r"holds float16 \(23, 128, 4, 4\) instead of .*\(23, 128, 2, 8\)"):
        open_features(folder)


@pytest.mark.reliability("damaged-json")
def test_damaged_manifest_is_refused(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["shape"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        open_features(folder)


def test_bfloat16_maps_are_close_and_finite(backbone, tmp_path, folder):
    """Features are extracted under autocast, here on the CPU."""
    config = BackboneConfig(
        arch="resnet_small", weights=backbone.weights, image_size=32, precision="bfloat16"
    )
    half = load_backbone(config, None, "cpu")
    assert half.describe()["precision"] == "bfloat16"
    extract_features(random_images(), half, tmp_path / "half", batch_size=8)
    ours, theirs = open_features(tmp_path / "half"), open_features(folder)
    difference = (ours.train_pooled - theirs.train_pooled).abs()
    assert ours.train_maps.isfinite().all()
    assert 0 < difference.max() < 0.05 * theirs.train_pooled.abs().max()
    assert half(half.preprocess(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))).dtype == torch.float32
