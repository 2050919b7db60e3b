"""Pre-training: determinism, learning, and the card."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.pretraining import one_cycle, pretrain
from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, sha256_file
from sharc_core.datasets import PreparedData

torch.set_num_threads(1)


def coloured_squares(classes: int = 4, train: int = 24, test: int = 8, side: int = 16) -> PreparedData:
    """Return noise with a bright square whose colour is the class, which is learnt in seconds."""
    draws = np.random.default_rng(0)
    colours = np.array([[c >> 2 & 1, c >> 1 & 1, c & 1] for c in range(classes)]) * 200

    def split(per_class: int):
        labels = np.repeat(np.arange(classes), per_class)
        images = draws.integers(0, 40, (len(labels), side, side, 3))
        images[:, 4:12, 4:12] += colours[labels][:, None, None, :]
        return images.clip(0, 255).astype(np.uint8), labels

    train_images, train_labels = split(train)
    test_images, test_labels = split(test)
    manifest = {
        "source": "squares",
        "classes": [str(c) for c in range(classes)],
        "counts": {"train": len(train_labels), "test": len(test_labels)},
    }
    return PreparedData(manifest, train_images, train_labels, test_images, test_labels)


def config(**pretraining) -> BackboneConfig:
    settings = {"epochs": 3, "batch_size": 16, "lr": 0.003} | pretraining
    return BackboneConfig(arch="resnet_small", weights="pretrain", image_size=16, pretrain=settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder with w.safetensors and w.json, the card, and the progress lines."""
    folder, lines = tmp_path_factory.mktemp("pretrained"), []
    card = pretrain(
        config(), coloured_squares(), folder / "w.safetensors", folder / "w.json", progress=lines.append
    )
    return folder, card, lines


def test_pretraining_learns_the_classes(trained):
    _, card, lines = trained
    assert len(card["train_loss"]) == 3
    assert card["train_loss"][-1] < card["train_loss"][0] - 0.3
    assert card["held_out_top1"] > 0.6
    assert [line.split(":")[0] for line in lines[:3]] == [f"epoch {i}/3" for i in (1, 2, 3)]


def test_time_left_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("sharc_core.backbones.pretraining.SECONDS_BETWEEN_LINES", -1)
    lines = []
    pretrain(
        config(epochs=2, batch_size=48),
        coloured_squares(),
        tmp_path / "w",
        tmp_path / "c",
        progress=lines.append,
    )
    told = [line for line in lines if line.endswith(" s left")]
    assert [line.rsplit(",", 1)[0] for line in told] == [
        f"epoch {epoch}/2, {share}%" for epoch, share in ((1, 25), (1, 50), (2, 75), (2, 100))
    ]


@pytest.mark.parametrize("total", [10, 37, 1000])
def test_one_cycle_is_torchs(total):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=total, pct_start=0.25)
    for step in range(total):
        assert one_cycle(step, total) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        if step < total - 1:
            reference.step()


@pytest.mark.parametrize("total", range(1, 10))
def test_one_cycle_of_few_steps_stays_within_bounds(total):
    shares = [one_cycle(step, total) for step in range(total)]
    assert all(0 < share <= 1 for share in shares)
    assert max(shares) > 0.5


def test_card_describes_the_training(trained):
    folder, card, _ = trained
    assert json.loads((folder / "w.json").read_text()) == card
    assert card["weights_sha256"] == sha256_file(folder / "w.safetensors")
    assert card["settings"] == config().pretrain.model_dump()
    data = coloured_squares()
    assert card["data"] == {
        "sha256": digest(data.manifest, 64),
        "classes": 4,
        "train_images": 96,
        "test_images": 32,
    }
    model = build_classifier("resnet_small", 4)
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert card["versions"]["torch"] == torch.__version__
    assert card["threads"] == torch.get_num_threads() and card["device"] == "cpu"


def test_weights_are_the_trained_classifier_and_load_as_a_backbone(trained):
    folder, card, _ = trained
    path = folder / "w.safetensors"
    with safe_open(path, framework="pt") as stream:
        assert stream.metadata() == {"arch": "resnet_small"}
    model = build_classifier("resnet_small", 4)
    model.load_state_dict(load_file(path))
    backbone = load_backbone(config(), path, "cpu")
    assert backbone.sha256 == card["weights_sha256"]
    data = coloured_squares()
    images = torch.from_numpy(data.test_images)
    with torch.inference_mode():
        predicted = model(backbone.preprocess(images)).argmax(1)
    accuracy = (predicted == torch.from_numpy(data.test_labels)).float().mean().item()
    assert accuracy == pytest.approx(card["held_out_top1"])


@pytest.mark.slow
def test_same_seed_same_bits_other_seed_other_bits(trained, tmp_path):
    folder, card, _ = trained
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = pretrain(config(), coloured_squares(), tmp_path / "a.safetensors", tmp_path / "a.json")
    assert torch.equal(torch.get_rng_state(), before), "pre-training must leave the caller's draws alone"
    assert (tmp_path / "a.safetensors").read_bytes() == (folder / "w.safetensors").read_bytes()
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in card.items() if k != "seconds"
    }
    other = pretrain(config(seed=1), coloured_squares(), tmp_path / "b.safetensors", tmp_path / "b.json")
    assert other["weights_sha256"] != card["weights_sha256"]


@pytest.mark.slow
def test_other_architectures_and_flips(tmp_path):
    """The torchvision network has batch norm and dropout."""
    settings = {"epochs": 1, "batch_size": 32, "flip": True}
    arch = BackboneConfig(arch="mobilenet_v3_small", weights="pretrain", image_size=32, pretrain=settings)
    first = pretrain(arch, coloured_squares(), tmp_path / "a.safetensors", tmp_path / "a.json")
    second = pretrain(arch, coloured_squares(), tmp_path / "b.safetensors", tmp_path / "b.json")
    assert first["weights_sha256"] == second["weights_sha256"]
    assert load_backbone(arch, tmp_path / "a.safetensors", "cpu").channels == 576


@pytest.mark.reliability("numbers-out-of-range")
def test_divergence_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"diverged in epoch 1: lower backbone\.pretrain\.lr \(1e\+30\)"):
        pretrain(config(lr=1e30), coloured_squares(), tmp_path / "w.safetensors", tmp_path / "w.json")
    assert list(tmp_path.iterdir()) == []


def test_fewer_images_than_a_batch(tmp_path):
    data = coloured_squares(classes=2, train=3, test=1)
    card = pretrain(config(epochs=1, batch_size=64), data, tmp_path / "w.safetensors", tmp_path / "w.json")
    assert np.isfinite(card["train_loss"]).all()
