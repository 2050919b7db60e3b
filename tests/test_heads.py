"""Closed-form gradients compared with autograd on a plain torch implementation of one replica."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from sharc_core.grid.cell import HeadConfig
from sharc_core.heads import HEADS, Batch, CosineHead, Loss, make_head

R, B, D, C = 3, 7, 5, 4


@pytest.fixture(params=list(HEADS))
def head(request):
    head = make_head(request.param, 6, R, D, C, scale=3.0)
    head.initialise([3, 4, 5])
    return head


def reference_logits(head, vector: torch.Tensor, r: int, x: torch.Tensor) -> torch.Tensor:
    """Return one replica's logits from its row of parameters with torch's layers."""
    views = {k: v[0] for k, v in head._views(vector[None]).items()}
    if "scale" in views:
        return views["scale"] * F.linear(F.normalize(x[r], dim=1), F.normalize(views["weight"], dim=1))
    if "weight" in views:
        return F.linear(x[r], views["weight"], views["bias"])
    hidden = F.linear(x[r], views["weight1"], views["bias1"]).relu()
    return F.linear(hidden, views["weight2"], views["bias2"])


def make_batch(seed: int = 0, size: int = B) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        torch.rand(R, size, D, generator=g),
        torch.randint(C, (R, size), generator=g),
        torch.randn(R, size, C, generator=g),
    )


def autograd(head, loss) -> torch.Tensor:
    """Return the gradients (R, P) of loss(r, logits function), one replica at a time."""
    rows = []
    for r in range(R):
        vector = head.vector[r].clone().requires_grad_()
        loss(r, lambda x, r=r, v=vector: reference_logits(head, v, r, x)).backward()
        rows.append(vector.grad)
    return torch.stack(rows)


def test_logits_equal_torchs_layers(head):
    batch = make_batch()
    for r in range(R):
        torch.testing.assert_close(
            head.logits(batch.x)[r], reference_logits(head, head.vector[r], r, batch.x)
        )


def test_cross_entropy_and_mse_gradients(head):
    now, then = make_batch(0), make_batch(1, 3)
    mine = head.gradient(head.cross_entropy(now) + 0.3 * head.logit_mse(then, then.logits))
    truth = autograd(
        head, lambda r, f: F.cross_entropy(f(now.x), now.y[r]) + 0.3 * F.mse_loss(f(then.x), then.logits[r])
    )
    torch.testing.assert_close(mine, truth)


def test_a_loss_in_plain_torch_equals_the_closed_forms(head):
    """`loss` differentiates by the logits and continues with the same chain rule, alone and in sums."""
    now, then = make_batch(0), make_batch(1, 3)

    def cross_entropy(logits):
        return F.cross_entropy(logits.flatten(0, 1), now.y.flatten(), reduction="none").view(R, B).mean(1)

    def mse(logits):
        return (logits - then.logits).square().mean((1, 2))

    plain = head.loss(now.x, cross_entropy) + 0.3 * head.loss(then.x, mse)
    closed = head.cross_entropy(now) + 0.3 * head.logit_mse(then, then.logits)
    torch.testing.assert_close(head.gradient(plain), head.gradient(closed))
    mixed = head.cross_entropy(now) + 0.3 * head.loss(then.x, mse)
    torch.testing.assert_close(head.gradient(mixed), head.gradient(closed))
    expected = head.copy()
    expected.descend(closed, 0.1)
    head.descend(plain, 0.1)
    torch.testing.assert_close(head.vector, expected.vector)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_any_function_of_the_logits_is_differentiated_as_by_full_autograd(head, mode):
    """Test focal loss with a penalty on the logits, which has no closed form here."""
    batch = make_batch()

    def focal(logits, y):  # (..., B, C) -> (...)
        p = logits.softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
        return (-((1 - p) ** 2) * p.log()).mean(-1) + 0.01 * logits.pow(4).mean((-2, -1))

    before = head.vector.clone()
    with mode():
        mine = head.gradient(head.loss(batch.x, lambda logits: focal(logits, batch.y)))
    assert not mine.requires_grad and torch.equal(head.vector, before)
    torch.testing.assert_close(mine, autograd(head, lambda r, f: focal(f(batch.x), batch.y[r])))


@pytest.mark.parametrize(
    "function", [lambda z: z.square().mean(), lambda z: z.square().mean(2), lambda z: z.sum((0, 2))]
)
def test_a_loss_without_one_value_per_replica_is_refused(head, function):
    """A mean over all replicas would silently train each with 1 / R of its gradient."""
    with pytest.raises(ValueError, match=r"shape \(R,\) = \(3,\), but this has"):
        head.loss(make_batch().x, function)


def test_heads_have_the_expected_sizes(head):
    assert (head.replicas, head.features, head.classes) == (R, D, C)


def test_descend_is_a_gradient_step(head):
    now, then = make_batch(0), make_batch(1, 3)
    loss = head.cross_entropy(now) + 0.5 * head.cross_entropy(then)
    expected = head.vector - 0.1 * head.gradient(loss)
    head.descend(loss, 0.1)
    torch.testing.assert_close(head.vector, expected)


def test_input_gradient_equals_autograd(head):
    batch = make_batch()
    slope = F.one_hot(batch.y, C).float()
    x = batch.x.clone().requires_grad_()
    (head.logits(x) * slope).sum().backward()
    torch.testing.assert_close(head.input_gradient(batch.x, slope), x.grad)


def test_copy_is_independent_and_views_share(head):
    twin = head.copy()
    twin.descend(twin.cross_entropy(make_batch()), 0.1)
    assert not torch.equal(twin.vector, head.vector)
    assert twin.logits(make_batch().x).ne(head.logits(make_batch().x)).any()


def test_initialisation_is_per_seed_and_bounded(head):
    alone = head.copy()
    alone._adopt(torch.zeros(1, head.vector.shape[1]))
    alone.initialise([4])
    assert torch.equal(alone.vector[0], head.vector[1])
    first = head._views(head.vector)[next(iter(head.shapes))]
    assert first.abs().max() <= D**-0.5 and first.abs().max() > 0.8 * D**-0.5


def test_losses_can_be_scaled_and_added():
    one = Loss([(torch.ones(1), torch.ones(1), 2.0)])
    assert [w for *_, w in (0.5 * one + one).terms] == [1.0, 2.0]
    assert (Loss() + one).terms == one.terms


def test_every_kind_of_a_grid_is_a_head():
    assert get_args(HeadConfig.model_fields["kind"].annotation) == tuple(HEADS)


# --- the cosine head -----------------------------------------------------------------------------------


def test_fisher_equals_the_squares_of_autograds_gradients(head):
    """Summed over samples: of the labels, and expected over labels that the head predicts."""
    batch = make_batch()
    p = head.logits(batch.x).softmax(-1)
    expected, of_labels = torch.zeros_like(head.vector), torch.zeros_like(head.vector)
    for b in range(B):
        x = batch.x[:, b : b + 1]
        for c in range(C):
            square = autograd(head, lambda r, f, x=x, c=c: F.cross_entropy(f(x), torch.tensor([c]))).square()
            expected += p[:, b, c, None] * square
            of_labels += (batch.y[:, b, None] == c) * square
    torch.testing.assert_close(head.fisher(batch.x), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.fisher(batch.x, batch.y), of_labels, rtol=1e-4, atol=1e-6)


def test_channel_effects_equal_the_loop(head):
    batch = make_batch()
    loop = torch.empty_like(batch.x)
    for k in range(D):
        without = batch.x.clone()
        without[..., k] = 0
        change = head.logits(batch.x) - head.logits(without)
        loop[..., k] = change.gather(2, batch.y.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(head.channel_effects(batch.x, batch.y), loop, rtol=1e-4, atol=1e-5)


def test_channel_effects_of_one_large_feature_equal_the_loop():
    """Sums of all features hide the small ones: differences from such sums have no correct digit."""
    width, g = 64, torch.Generator().manual_seed(0)
    head = make_head("cosine", 0, 1, width, C, scale=10.0)
    head.initialise([3])
    x = 1e-4 * (0.5 + torch.rand(1, C, width, generator=g))
    x[..., 7] = 10
    y = torch.arange(C)[None]
    u, w = x.double(), head.weight.double()
    loop = torch.empty_like(u)
    for k in range(width):
        without = u.clone()
        without[..., k] = 0
        scores = [10 * F.cosine_similarity(values[0], w[0], dim=1) for values in (u, without)]
        loop[0, :, k] = scores[0] - scores[1]
    assert loop[..., 7].abs().max() > 0.1
    torch.testing.assert_close(head.channel_effects(x, y).double(), loop, rtol=1e-4, atol=1e-5)


def test_cosines_depend_on_directions_alone():
    head = make_head("cosine", 0, R, D, C, scale=7.0)
    head.initialise([3, 4, 5])
    assert torch.equal(head.scale, torch.full((R, 1), 7.0))
    linear = make_head("linear", 0, R, D, C)
    linear.initialise([3, 4, 5])
    assert torch.equal(head.weight, linear.weight), "the same draws as a linear head"
    x = make_batch().x
    logits = head.logits(x)
    assert logits.abs().max() <= 7.0 + 1e-5
    torch.testing.assert_close(head.logits(100 * x), logits)
    head.weight.mul_(torch.rand(R, C, 1) + 0.1)
    torch.testing.assert_close(head.logits(x), logits)


def test_the_scale_is_trained_and_copied():
    head = make_head("cosine", 0, R, D, C, scale=2.0)
    head.initialise([3, 4, 5])
    twin = head.copy()
    for _ in range(20):
        head.descend(head.cross_entropy(make_batch()), 0.5)
    assert isinstance(twin, CosineHead) and (head.scale != 2).all() and (twin.scale == 2).all()
    twin.initialise([1, 2, 3])
    assert (twin.scale == 2).all()


def test_vectors_without_length_are_no_errors():
    head = make_head("cosine", 0, R, D, C)
    batch = make_batch()
    batch.x[:, 0] = 0
    batch.x[:, 1] = 0
    batch.x[:, 1, 2] = 1  # without feature 2 nothing is left
    assert (head.logits(batch.x) == 0).all(), "all weights are zero before `initialise`"
    head.initialise([3, 4, 5])
    head.descend(head.cross_entropy(batch), 0.1)
    assert torch.isfinite(head.vector).all() and (head.logits(batch.x)[:, 0] == 0).all()
    effects = head.channel_effects(batch.x, batch.y)
    assert torch.isfinite(effects).all()
    true = head.logits(batch.x).gather(2, batch.y.unsqueeze(2))[:, 1, 0]
    torch.testing.assert_close(effects[:, 1, 2], true)


def test_replicas_have_the_bits_of_single_heads():
    """At the widths of backbones, also where libraries choose kernels by the number of replicas."""
    width, seeds = 320, [0, 1, 2, 3, 4]
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(5, 10, width, generator=g), torch.randint(6, (5, 10), generator=g)
    heads = [make_head("cosine", 0, n, width, 6, scale=10.0) for n in (5, 1)]
    heads[0].initialise(seeds)
    for r, seed in enumerate(seeds):
        heads[1].initialise([seed])
        together = heads[0].copy()
        for _ in range(3):
            together.descend(together.cross_entropy(Batch(x, y)), 0.1)
            heads[1].descend(heads[1].cross_entropy(Batch(x[r : r + 1], y[r : r + 1])), 0.1)
        assert torch.equal(together.vector[r], heads[1].vector[0])
