"""An extraction that was killed or interrupted goes on where it stopped, with the same bits."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from test_features import ARRAYS, random_images

import sharc_core.features.cache as cache
from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.common.errors import UserError
from sharc_core.features import arrays
from sharc_core.features.arrays import PROGRESS, InOrder
from sharc_core.features.cache import extract_features, open_features

torch.set_num_threads(1)
BATCH = 4
TRAIN, TEST = 23, 7
CALLS = 6 + 2  # batches of both splits

KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, "tests")
import test_resumed_extraction as tests
from sharc_core.features import arrays
arrays.SECONDS_BETWEEN_RECORDS = 0
weights, out, calls = sys.argv[1:]
backbone = tests.backbone_of(weights)
tests.extract(tests.Stopped(backbone, int(calls), lambda: os.kill(os.getpid(), signal.SIGKILL)), out)
"""


def backbone_of(weights):
    config = BackboneConfig(arch="resnet_small", weights=str(weights), image_size=32)
    return load_backbone(config, Path(weights), "cpu")


def extract(backbone, out, **further):
    extract_features(random_images(TRAIN, TEST), backbone, Path(out), batch_size=BATCH, **further)


class Stopped:
    """A backbone that counts its calls, and calls `stop` in place of the one after `calls`."""

    def __init__(self, backbone, calls: int = CALLS, stop=None):
        self.backbone, self.left, self.stop, self.called = backbone, calls, stop, 0

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def to(self, device):
        return self

    def __call__(self, images):
        if not self.left:
            self.stop()
        self.left -= 1
        self.called += 1
        return self.backbone(images)


def interrupt():
    raise KeyboardInterrupt


def fail():
    raise ValueError("mine")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(build_classifier("resnet_small", 5).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def backbone(weights):
    return backbone_of(weights)


@pytest.fixture(scope="module")
def whole(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "features"
    extract(backbone, folder)
    return files_of(folder)


@pytest.fixture
def often(monkeypatch):
    """Record what is written after every batch."""
    monkeypatch.setattr(arrays, "SECONDS_BETWEEN_RECORDS", 0)


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in [*ARRAYS, "manifest.json"]}


def left_in(place):
    (left,) = place.glob(".features.*.part")
    return left


@pytest.mark.reliability("killed-extraction")
@pytest.mark.parametrize("calls", [3, 7])  # in the training images, in the test images
def test_a_killed_extraction_goes_on_with_the_same_bits(weights, backbone, whole, tmp_path, calls):
    out = tmp_path / "features"
    command = [sys.executable, "-c", KILLED, str(weights), str(out), str(calls)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    killed = subprocess.run(command, cwd=Path(__file__).parents[1], env=environment)
    assert killed.returncode == -signal.SIGKILL
    record = json.loads((left_in(tmp_path) / PROGRESS).read_text())
    assert record["rows"]["train"] == min(calls * BATCH, TRAIN)
    counted, said = Stopped(backbone), []
    extract(counted, out, progress=said.append)
    assert counted.called == CALLS - calls
    assert files_of(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    assert not (out / PROGRESS).exists()
    assert said[0].startswith("goes on after")
    open_features(out, verify=True)


def test_interrupted_after_every_batch(backbone, whole, tmp_path, often):
    """Each call gets one batch further than the last; the last one finishes."""
    out = tmp_path / "features"
    for _ in range(CALLS - 1):
        with pytest.raises(KeyboardInterrupt):
            extract(Stopped(backbone, 1, interrupt), out)
    counted = Stopped(backbone)
    extract(counted, out)
    assert counted.called == 1
    assert files_of(out) == whole


def test_what_was_written_after_the_last_record_is_extracted_again(backbone, whole, tmp_path, monkeypatch):
    out, clock = tmp_path / "features", itertools.chain([0, 0, 0, 40], itertools.repeat(41))
    monkeypatch.setattr(arrays.time, "perf_counter", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt):
        extract(Stopped(backbone, 5, interrupt), out)
    rows = json.loads((left_in(tmp_path) / PROGRESS).read_text())["rows"]["train"]
    assert 0 < rows < 5 * BATCH
    counted = Stopped(backbone)
    extract(counted, out)
    assert counted.called == CALLS - rows // BATCH
    assert files_of(out) == whole


@pytest.mark.parametrize("damage", ["flip", "cut", "no record", "record"])
def test_damaged_remains_are_thrown_away(backbone, whole, tmp_path, often, damage):
    out = tmp_path / "features"
    with pytest.raises(KeyboardInterrupt):
        extract(Stopped(backbone, 3, interrupt), out)
    maps, record = left_in(tmp_path) / "train_maps.npy", left_in(tmp_path) / PROGRESS
    content = bytearray(maps.read_bytes())
    content[-1] ^= 1
    {
        "flip": lambda: maps.write_bytes(content),
        "cut": lambda: maps.write_bytes(content[:-1]),
        "no record": record.unlink,
        "record": lambda: record.write_text('{"of": '),
    }[damage]()
    counted = Stopped(backbone)
    extract(counted, out)
    assert counted.called == CALLS
    assert files_of(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_remains_of_other_images_are_thrown_away(backbone, whole, tmp_path, often):
    out, others = tmp_path / "features", random_images(TRAIN, TEST)
    others.manifest["source"] = "other noise"
    with pytest.raises(KeyboardInterrupt):
        extract_features(others, Stopped(backbone, 3, interrupt), out, batch_size=BATCH)
    extract(backbone, out)
    assert files_of(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


def test_what_was_left_counts_as_free_space(backbone, whole, tmp_path, often, monkeypatch):
    out = tmp_path / "features"
    with pytest.raises(KeyboardInterrupt):
        extract(Stopped(backbone, 5, interrupt), out)
    needed = cache.cache_bytes(TRAIN + TEST, (128, 4, 4))
    free = needed - 5 * BATCH * 2 * 128 * 16
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    extract(backbone, out)
    assert files_of(out) == whole
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
    with pytest.raises(UserError, match="bytes free"):
        extract(backbone, tmp_path / "others")


def test_an_error_leaves_nothing(backbone, tmp_path, often):
    with pytest.raises(ValueError, match="mine"):
        extract(Stopped(backbone, 3, fail), tmp_path / "features")
    assert list(tmp_path.iterdir()) == []


def test_an_extraction_that_still_runs_is_not_taken_over(backbone, whole, tmp_path, often):
    out, inner = tmp_path / "features", Stopped(backbone)
    outer = Stopped(backbone, 3, lambda: extract(inner, out))
    extract(outer, out)
    assert inner.called == CALLS and outer.called == CALLS
    assert files_of(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["features"]


# --- a GPU's batches are written in another thread ---------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """Write in another thread, as for a GPU."""
    monkeypatch.setattr(cache, "InOrder", lambda ahead: InOrder(cache.AHEAD))


def test_batches_written_in_another_thread_have_the_same_bits(backbone, whole, tmp_path, elsewhere):
    extract(backbone, tmp_path / "features")
    assert files_of(tmp_path / "features") == whole


def test_an_error_of_the_thread_is_the_calls(backbone, tmp_path, elsewhere):
    class Infinite(Stopped):
        def __call__(self, images):
            return super().__call__(images) * 1e9

    with pytest.raises(UserError, match=r"more than float16 holds \(in the batch from train image 0 on\)"):
        extract(Infinite(backbone), tmp_path / "features")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_calls_come_in_order(ahead):
    done = []
    with InOrder(ahead) as in_order:
        for number in range(20):
            in_order(done.append, number)
            assert len(done) >= number + 1 - ahead
        in_order.wait()
        assert done == list(range(20))


def test_calls_stay_at_most_so_many_behind():
    allowed, done = threading.Semaphore(0), []

    def call(number):
        allowed.acquire()
        done.append(number)

    with InOrder(2) as in_order:
        in_order(call, 0)
        in_order(call, 1)
        assert done == []
        allowed.release()
        in_order(call, 2)  # waits for the first
        assert done == [0]
        allowed.release(2)
        in_order.wait()
    assert done == [0, 1, 2]
