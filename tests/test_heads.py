"""Closed-form gradients against autograd, on an obvious torch implementation of one replica at a time."""

import pytest
import torch
import torch.nn.functional as F

from sharc_core.heads import Batch, Loss, make_head

R, B, D, C = 3, 7, 5, 4


@pytest.fixture(params=["linear", "mlp"])
def head(request):
    head = make_head(request.param, 6, R, D, C)
    head.initialise([3, 4, 5])
    return head


def reference_logits(head, vector: torch.Tensor, r: int, x: torch.Tensor) -> torch.Tensor:
    """One replica's logits from its row of parameters, with torch's own layers."""
    views = {k: v[0] for k, v in head._views(vector[None]).items()}
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
    """(R, P): loss(r, logits function) differentiated replica by replica."""
    rows = []
    for r in range(R):
        vector = head.vector[r].clone().requires_grad_()
        loss(r, lambda x, r=r, v=vector: reference_logits(head, v, r, x)).backward()
        rows.append(vector.grad)
    return torch.stack(rows)


def test_logits(head):
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


def test_descend_is_a_gradient_step(head):
    now, then = make_batch(0), make_batch(1, 3)
    loss = head.cross_entropy(now) + 0.5 * head.cross_entropy(then)
    expected = head.vector - 0.1 * head.gradient(loss)
    head.descend(loss, 0.1)
    torch.testing.assert_close(head.vector, expected)


def test_input_gradient(head):
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


def test_loss_algebra():
    one = Loss([(torch.ones(1), torch.ones(1), 2.0)])
    assert [w for *_, w in (0.5 * one + one).terms] == [1.0, 2.0]
    assert (Loss() + one).terms == one.terms
