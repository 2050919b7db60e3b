"""What plans keep of networks and budgets, so that later ones need no torch."""

import os
import sys
from dataclasses import asdict

import pytest
from small_grid import small_grid

from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.networks import network_of
from sharc_core.common.errors import UserError
from sharc_core.common.kept import kept_file, read_kept, write_kept
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.stages import known_networks, preflight
from sharc_core.stages.known_networks import KnownNetwork, known


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place of its own for what is kept, empty at first."""
    file = tmp_path / "__pycache__/networks.json"
    monkeypatch.setattr(known_networks, "kept_file", lambda module, name: file)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return file


def forget() -> None:
    """Start as a later process does."""
    known_networks._values.cache_clear()


def facts(config: BackboneConfig) -> list:
    network = KnownNetwork(config)
    found = [network.check(), network.input_format, network.further, network.code, network.architecture_file]
    return [*found, network.has_batch_norm(), network.weights_identity if config.is_torchvision else None]


CONFIGS = [
    BackboneConfig(arch="resnet_small", weights="pretrain", image_size=32),
    BackboneConfig(arch="resnet18", weights="imagenet1k_v1", image_size=64, resize_size=72),
    BackboneConfig(arch="vit_b_32", weights="imagenet1k_v1", tokens="cls"),
]


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.arch)
def test_known_networks_are_described_as_the_networks(place, monkeypatch, config):
    forget()
    first, network = facts(config), network_of(config)
    assert first[:2] == [network.check(), asdict(network.form)]
    assert first[2:4] == [network.further, network.code] and first[5] == network.has_batch_norm()
    assert first[6] == (network.weights_identity if config.is_torchvision else None)
    forget()
    monkeypatch.setattr("sharc_core.backbones.networks.network_of", lambda config: pytest.fail("built again"))
    assert facts(config) == first


def test_values_belong_to_their_key_and_to_the_code(place, monkeypatch):
    forget()
    assert known(["a"], lambda: 1) == 1 and known(["b"], lambda: None) is None
    forget()
    assert known(["a"], lambda: 2) == 1 and known(["b"], lambda: 2) is None and known(["c"], lambda: 3) == 3
    monkeypatch.setattr(known_networks, "_rules", lambda: "other code")
    assert known(["a"], lambda: 4) == 4


def test_the_latest_values_are_kept(place, monkeypatch):
    monkeypatch.setattr(known_networks, "MOST", 3)
    forget()
    for number in range(5):
        known([number], lambda number=number: number)
    assert list(read_kept(place, known_networks._rules()).values()) == [2, 3, 4]


def test_a_changed_or_refused_weights_file_is_checked_again(place, tmp_path):
    forget()
    path = tmp_path / "weights.safetensors"
    config = BackboneConfig(arch="resnet_small", weights=str(path), image_size=32)
    for _ in range(2):
        with pytest.raises(UserError, match="is missing"):
            KnownNetwork(config).check()
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in network_of(config).body().state_dict().items()}
    save_file(tensors, path)
    assert KnownNetwork(config).check() == network_of(config).check()
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        KnownNetwork(config).check()
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match="cannot be read"):
        KnownNetwork(config).check()


def test_checked_budgets_are_kept_and_refused_ones_are_not(place, tmp_path, monkeypatch):
    grid = load_grid(small_grid(tmp_path).model_dump(mode="json") | {"methods": ["er"]})
    trained, calls = cells(grid), []
    shapes = {(cell.dataset, cell.backbone): (8, 2, 2) for cell in trained}
    classes = dict.fromkeys(grid.datasets, 10)
    check = preflight._check_each_budget
    monkeypatch.setattr(preflight, "_check_each_budget", lambda *given: calls.append(1) or check(*given))
    for _ in range(2):
        forget()
        preflight._check_budgets(grid, trained, shapes, classes)
    assert len(calls) == 1
    few = [cell.model_copy(update={"buffer": 1, "budget_unit": "slots"}) for cell in trained if cell.buffer]
    for number in (2, 3):
        forget()
        with pytest.raises(UserError, match="holds no sample"):
            preflight._check_budgets(grid, few, shapes, classes)
        assert len(calls) == number
    preflight._check_budgets(grid, trained, dict.fromkeys(shapes, (8, 2, 3)), classes)
    assert len(calls) == 4  # maps of another shape


def test_what_cannot_be_read_or_written_counts_as_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = kept_file(str(tmp_path / "module.py"), "facts")
    assert read_kept(file, "rules") == {} and file.parent.name == "__pycache__"
    assert write_kept(file, "rules", {"a": [1, None]})
    assert read_kept(file, "rules") == {"a": [1, None]} and read_kept(file, "other rules") == {}
    for damage in ("", "{", "[]", '{"rules": "rules"}', '{"rules": "rules", "values": 5}'):
        file.write_text(damage)
        assert read_kept(file, "rules") == {}
    (tmp_path / "file").write_text("")
    assert not write_kept(tmp_path / "file/__pycache__/facts.json", "rules", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert not write_kept(tmp_path / "other/facts.json", "rules", {}) and not (tmp_path / "other").exists()
