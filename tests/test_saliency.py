"""Saliencies compared with their definitions on the maps: autograd, captum, a loop."""

import captum.attr
import pytest
import torch

from sharc_core.heads import HEADS, make_head
from sharc_core.saliency import SALIENCIES

K, H, W, CLASSES, N = 12, 2, 3, 6, 4


def case(kind: str):
    """Return a head of two replicas, maps (2, N, K, H, W) and true classes."""
    head = make_head(kind, 7, 2, K, CLASSES)
    head.initialise([0, 1])
    source = torch.Generator().manual_seed(3)
    maps = torch.rand(2, N, K, H, W, generator=source)
    return head, maps, torch.tensor([[0, 3, 5, 1], [1, 1, 2, 4]])


def mine(name: str, head, maps, y):
    return SALIENCIES.get(name)(head, maps.mean((-2, -1)), y, H * W, [torch.Generator()] * 2)


def alone(head, r: int):
    """Return replica r as a function of maps (n, K, H, W) for captum."""

    def forward(maps):
        # all replicas get the maps, but only r's logits are returned
        return head.logits(maps.mean((-2, -1)).expand(2, -1, -1))[r]

    return forward


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("gradient", lambda f: captum.attr.Saliency(f)),
        ("gradient_x_activation", lambda f: captum.attr.InputXGradient(f)),
        ("integrated_gradients", lambda f: captum.attr.IntegratedGradients(f)),
    ],
)
def test_gradient_kinds_equal_captum(kind, name, reference):
    if name in HEADS[kind].misfits:
        pytest.skip("a grid refuses this head with this saliency")
    head, maps, y = case(kind)
    ours = mine(name, head, maps, y)
    for r in range(2):
        options = {"abs": False} if name == "gradient" else {}
        inputs = maps[r].clone().requires_grad_()
        theirs = reference(alone(head, r)).attribute(inputs, target=y[r], **options)
        torch.testing.assert_close(ours[r], theirs.mean((-2, -1)).float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", list(HEADS))
def test_occlusion_equals_captum_and_the_loop(kind):
    head, maps, y = case(kind)
    ours = mine("occlusion", head, maps, y)
    for r in range(2):
        occluder = captum.attr.Occlusion(alone(head, r))
        theirs = occluder.attribute(maps[r], target=y[r], sliding_window_shapes=(1, H, W))
        # captum returns the channel's effect at each position; ours is divided by the number of positions
        torch.testing.assert_close(ours[r], theirs.mean((-2, -1)).float() / (H * W), rtol=1e-4, atol=1e-6)
    x = maps.mean((-2, -1))
    full = head.logits(x).gather(2, y[..., None]).squeeze(2)
    for k in range(K):
        without = x.clone()
        without[..., k] = 0
        effect = full - head.logits(without).gather(2, y[..., None]).squeeze(2)
        torch.testing.assert_close(ours[..., k], effect / (H * W), rtol=1e-4, atol=1e-6)


def test_occlusion_in_chunks_is_the_same(monkeypatch):
    head, maps, y = case("mlp")
    whole = mine("occlusion", head, maps, y)
    monkeypatch.setattr("sharc_core.heads.mlp.EFFECT_FLOATS", 1)
    torch.testing.assert_close(mine("occlusion", head, maps, y), whole)


def test_integrated_gradients_are_complete():
    """All attributions of a map add up to f(map) - f(empty map)."""
    for kind in ("linear", "mlp"):
        head, maps, y = case(kind)
        total = mine("integrated_gradients", head, maps, y).sum(-1) * H * W
        x = maps.mean((-2, -1))
        gain = (head.logits(x) - head.logits(torch.zeros_like(x))).gather(2, y[..., None]).squeeze(2)
        torch.testing.assert_close(total, gain, rtol=0, atol=1e-5 if kind == "linear" else 5e-3)


def test_linear_gradient_is_the_weight():
    head, maps, y = case("linear")
    alpha = mine("gradient", head, maps, y)
    for r in range(2):
        assert torch.equal(alpha[r], head.weight[r][y[r]] / (H * W))


def test_activation_is_the_mean_map_and_random_differs_by_replica():
    head, maps, y = case("linear")
    assert torch.equal(mine("activation", head, maps, y), maps.mean((-2, -1)))
    sources = [torch.Generator().manual_seed(s) for s in (0, 1)]
    drawn = SALIENCIES.get("random")(head, maps.mean((-2, -1)), y, H * W, sources)
    assert not torch.equal(drawn[0], drawn[1])
