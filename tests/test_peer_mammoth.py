"""Updates compared with mammoth's methods, and masks with SHARC's code (tests/peer/README.md)."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sharc_core.grid.protocol import MAMMOTH, RULES, rules_of
from sharc_core.heads import Batch, make_head
from sharc_core.methods import METHODS
from sharc_core.saliency.channel_masks import percentile_mask

PEER = Path(__file__).with_name("peer")
ARRAYS = {k: torch.from_numpy(v) for k, v in np.load(PEER / "mammoth.npz", allow_pickle=False).items()}
SETTINGS = json.loads((PEER / "mammoth.json").read_text())
PERCENTILE = json.loads((PEER / "percentile.json").read_text())
NAMES = {
    "gamma": "margin",
    "batch_num": "batches",
    "reg_weight": "reg",
    "stable_alpha": "stable_decay",
    "plastic_alpha": "plastic_decay",
}
STEPS, PER_TASK = 40, 10


def under_mammoth(method: str) -> dict:
    """Return the settings of a method under `protocol: mammoth`."""
    found = {}
    for rule in rules_of(MAMMOTH):
        found |= RULES[rule].get("method_settings", {}).get(method, {})
    return found


class Replay:
    """Returns the fixture's replay batches of one step, and whole past tasks."""

    def __init__(self, step: int):
        self.rows = list(ARRAYS["replay"][step])
        self.past = ARRAYS["memory"][: step // PER_TASK]

    def __bool__(self):
        return len(self.past) > 0

    def sample(self, size: int) -> Batch:
        return samples(self.rows.pop(0))

    def tasks(self) -> list[Batch]:
        return [samples(index) for index in self.past]


def samples(index: torch.Tensor) -> Batch:
    index = index.long()
    return Batch(*(ARRAYS[f"pool_{name}"][index][None] for name in ("x", "y", "logits")))


def trained(key: str, **changes) -> SimpleNamespace:
    """Return a method after the 40 steps in float64."""
    name = key.split("_")[0]
    given = {NAMES.get(k, k): v for k, v in SETTINGS[key].items() if not k.startswith(("lr", "current"))}
    if name == "mer":
        given["gamma"] = given.pop("margin")
    kind = METHODS.get(name)
    head = make_head("linear", 0, 1, 16, 8).double()
    head.weight[0], head.bias[0] = ARRAYS["w0"], ARRAYS["b0"]
    settings = kind.Settings(**(under_mammoth(name) | given | changes))
    method = kind(head, settings, 0.1, 10, [torch.Generator()])
    if name == "clser":
        method._draws = list(ARRAYS["uniform"].flip(0)[:, :, None])
    for step in range(STEPS):
        batch, replay = samples(ARRAYS["cur"][step]), Replay(step)
        if name == "mer":  # mammoth requires batches of one sample
            batch = Batch(batch.x[:, :1], batch.y[:, :1])
        method.lr = SETTINGS[key].get("lr_with_replay", 0.1) if replay else 0.1
        method.observe(batch, replay)
    return method


def is_theirs(head, key: str, tolerance: float = 1e-12) -> None:
    for ours, name in ((head.weight[0], "w"), (head.bias[0], "b")):
        torch.testing.assert_close(ours, ARRAYS[f"{key}_{name}"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("key", [key for key in SETTINGS if key != "gem_ridge0"])
def test_updates_under_mammoths_protocol_are_mammoths(key):
    method = trained(key)
    is_theirs(method.head, key)
    if key.startswith("clser"):
        is_theirs(method.stable, f"{key}_stable")
        is_theirs(method.plastic, f"{key}_plastic")


def test_adding_two_means_is_mammoths_step_of_twice_the_length():
    """For batches of equal size the sum of two means is twice their joint mean."""
    summed = trained("er", mean="separate")
    torch.testing.assert_close(summed.head.weight[0], ARRAYS["er_lr2_w"], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(summed.head.weight[0], ARRAYS["er_w"])


def test_our_ridge_leaves_the_projection_without_one():
    """Ours is 1e-10 on normalised gradients, theirs is 1e-10 on the gradients."""
    ours = trained("gem_ridge0", ridge=None)
    is_theirs(ours.head, "gem_ridge0", tolerance=1e-6)
    is_theirs(trained("gem_ridge0").head, "gem_ridge0")
    with pytest.raises(AssertionError):
        is_theirs(ours.head, "gem", tolerance=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("theta", PERCENTILE["thetas"])
def test_masks_by_percentile_are_those_of_the_published_code(theta, dtype):
    rows = torch.tensor(PERCENTILE["rows"], dtype=dtype)
    kept = torch.tensor(PERCENTILE["keep"][str(theta)]).bool()
    assert torch.equal(percentile_mask(rows, theta), kept)
