"""Updates compared with a plain autograd implementation, one replica and one tensor at a time.

For the contract of every method see test_method_contract.py.
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from factories import SMALL

from sharc_core.heads import Batch, make_head
from sharc_core.methods import METHODS, traits

R, B, D, C, LR = 3, 5, 6, 4, 0.1
PARAMETERS = C * D + C  # of one replica; the rest of the row is padding
REFERENCES = ["sgd", "joint", "er", "mer", "derpp", "clser", "agem", "gem"]  # see `reference`


class FixedMemory:
    """Returns known batches: minibatches in a fixed cycle, and the given past tasks."""

    def __init__(self, minibatches: list[Batch], tasks: list[Batch]):
        self.minibatches, self.past, self.calls = minibatches, tasks, 0
        self.is_filled = True

    def __bool__(self) -> bool:
        return self.is_filled

    def sample(self, size: int) -> Batch:
        self.calls += 1
        return self.minibatches[(self.calls - 1) % len(self.minibatches)]

    def tasks(self) -> list[Batch]:
        return self.past

    def contents(self) -> Batch:
        x, y = (torch.cat([getattr(batch, name) for batch in self.past], 1) for name in ("x", "y"))
        return Batch(x, y)


def random_batch(seed: int, size: int = B) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        torch.rand(R, size, D, generator=g) * 2,
        torch.randint(C, (R, size), generator=g),
        torch.randn(R, size, C, generator=g),
    )


@pytest.fixture
def scene():
    """A head with large weights, a current batch, and a memory of two minibatches and three tasks."""
    head = make_head("linear", 0, R, D, C)
    head.initialise([0, 1, 2])
    head.vector.mul_(3)
    memory = FixedMemory([random_batch(10), random_batch(11)], [random_batch(s, 8) for s in (20, 21, 22)])
    return SimpleNamespace(head=head, batch=random_batch(1), memory=memory)


def make(name: str, head, **settings):
    kind = METHODS.get(name)
    settings = SMALL.get(name, {}) | settings
    return kind(head, kind.Settings(**settings), LR, B, [torch.Generator().manual_seed(r) for r in range(R)])


class Net:
    """One replica in plain torch, with weight and bias that require gradients."""

    def __init__(self, head, r: int):
        self.r = r
        self.w = head.weight[r].clone().requires_grad_()
        self.b = head.bias[r].clone().requires_grad_()

    def logits(self, batch: Batch) -> torch.Tensor:
        return batch.x[self.r] @ self.w.T + self.b

    def ce(self, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(self.logits(batch), batch.y[self.r])

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (self.w, self.b))])

    def step(self, loss: torch.Tensor) -> torch.Tensor:
        return self.vector - LR * self.gradient(loss)

    @property
    def vector(self) -> torch.Tensor:
        return torch.cat([self.w.flatten(), self.b]).detach()


def together(one: Batch, other: Batch) -> Batch:
    return Batch(torch.cat([one.x, other.x], 1), torch.cat([one.y, other.y], 1))


def reference(name: str, scene, r: int) -> torch.Tensor:
    """Return the parameters of replica r after one step of the method, computed from its definition."""
    net, now, memory = Net(scene.head, r), scene.batch, scene.memory
    first, second = memory.minibatches
    if name in ("sgd", "joint"):
        return net.step(net.ce(now))
    if name in ("er", "mer"):
        return net.step(net.ce(now) + net.ce(first))
    if name == "derpp":
        distil = F.mse_loss(net.logits(first), first.logits[r])
        return net.step(net.ce(now) + 0.1 * distil + 0.5 * net.ce(second))
    if name == "clser":  # both averages still equal the head: no consistency loss (tested below)
        return net.step(net.ce(together(now, first)))
    if name == "agem":
        g, ref = net.gradient(net.ce(now)), net.gradient(net.ce(first))
        if g @ ref < 0:
            g = g - (g @ ref) / (ref @ ref) * ref
        return net.vector - LR * g
    if name == "gem":
        from qpsolvers import solve_qp

        g = net.gradient(net.ce(now)).double()
        rows = torch.stack([net.gradient(net.ce(task)) for task in memory.past]).double()
        if (rows @ g < 0).any():
            q = (rows @ rows.T).numpy()
            dual = solve_qp(q, (rows @ g).numpy(), lb=0.5 + 0 * (rows @ g).numpy(), solver="quadprog")
            g = g + torch.from_numpy(dual) @ rows
        return (net.vector - LR * g).float()
    raise AssertionError(f"no reference for {name}")


def test_every_update_of_a_head_has_a_reference():
    """It is here or in tests/test_<name>.py."""
    for name in METHODS.names():
        if METHODS.get(name).trains_head and name not in REFERENCES:
            own = Path(__file__).with_name(f"test_{name}.py")
            assert own.exists(), f"no reference for {name}: write one in tests/{own.name}"


@pytest.mark.parametrize("name", REFERENCES)
def test_update_equals_autograd(name, scene):
    method = make(name, scene.head)
    expected = torch.stack([reference(name, scene, r) for r in range(R)])
    method.observe(scene.batch, scene.memory)
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], expected, rtol=1e-4, atol=1e-5)


def test_er_whole_is_the_mean_over_past_tasks(scene):
    method = make("er", scene.head, replay="whole")
    expected = []
    for r in range(R):
        net = Net(scene.head, r)
        past = sum(net.ce(task) for task in scene.memory.past) / 3
        expected.append(net.step(net.ce(scene.batch) + past))
    method.observe(scene.batch, scene.memory)
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_mer_by_sample_is_riemers_algorithm(scene):
    """Compare with two batches of per-sample SGD with both Reptile steps."""
    method = make("mer", scene.head, inner="sample", beta=0.3, gamma=0.6, batches=2)
    expected = []
    for r in range(R):
        net = Net(scene.head, r)
        start = net.vector
        for minibatch in scene.memory.minibatches:
            before = net.vector
            for part in (minibatch, scene.batch):
                for i in range(B):
                    one = Batch(part.x[:, i : i + 1], part.y[:, i : i + 1])
                    load(net, net.step(net.ce(one)))
            load(net, before + 0.3 * (net.vector - before))
        expected.append(start + 0.6 * (net.vector - start))
    method.observe(scene.batch, scene.memory)
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], torch.stack(expected), rtol=1e-4, atol=1e-5)


def load(net: Net, vector: torch.Tensor) -> None:
    net.w.data.copy_(vector[: net.w.numel()].view_as(net.w))
    net.b.data.copy_(vector[net.w.numel() :])


def test_clser_teacher_is_the_better_average(scene):
    method = make("clser", scene.head)
    g = torch.Generator().manual_seed(0)
    method.stable.vector += torch.randn(method.stable.vector.shape, generator=g)
    method.plastic.vector += torch.randn(method.plastic.vector.shape, generator=g)
    replay = scene.memory.minibatches[0]
    teacher = method.teacher_logits(replay)
    for r in range(R):
        for i in range(B):
            true = replay.y[r, i]
            options = [h.logits(replay.x)[r, i] for h in (method.stable, method.plastic)]
            best = max(options, key=lambda z: z.softmax(0)[true])
            torch.testing.assert_close(teacher[r, i], best)


def test_clser_loss_is_pooled_cross_entropy_and_consistency_with_the_better_average(scene):
    """Both averages differ from the head, and fewer samples are replayed than are new."""
    method = make("clser", scene.head, reg=0.7)
    g = torch.Generator().manual_seed(0)
    for average in (method.stable, method.plastic):
        average.vector += torch.randn(average.vector.shape, generator=g)
    replay = random_batch(12, 3)
    expected, picked = [], []
    for r in range(R):
        net, stable, plastic = (Net(head, r) for head in (scene.head, method.stable, method.plastic))
        teacher = []
        for i in range(3):
            options = [average.logits(replay)[i].detach() for average in (stable, plastic)]
            picked.append(int(np.argmax([z.softmax(0)[replay.y[r, i]] for z in options])))
            teacher.append(options[picked[-1]])
        consistency = (net.logits(replay) - torch.stack(teacher)).square().mean()
        expected.append(net.step(net.ce(together(scene.batch, replay)) + 0.7 * consistency))
    assert set(picked) == {0, 1}, "both averages must be the better one for some sample"
    method.observe(scene.batch, FixedMemory([replay], []))
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_derpp_weighs_logits_and_labels_as_set(scene):
    method = make("derpp", scene.head, alpha=0.7, beta=1.3)
    first, second = scene.memory.minibatches
    expected = []
    for r in range(R):
        net = Net(scene.head, r)
        distil = (net.logits(first) - first.logits[r]).square().mean()
        expected.append(net.step(net.ce(scene.batch) + 0.7 * distil + 1.3 * net.ce(second)))
    method.observe(scene.batch, scene.memory)
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_clser_averages_follow_their_schedule(scene):
    """With both rates at 1 every step averages with decay min(1 - 1/(step+1), decay)."""
    method = make("clser", scene.head, stable_rate=1.0, plastic_rate=1.0, stable_decay=0.6, plastic_decay=0.2)
    stable, plastic = method.stable.vector.clone(), method.plastic.vector.clone()
    for step in range(1, 5):
        method.observe(scene.batch, scene.memory)
        for average, decay in ((stable, 0.6), (plastic, 0.2)):
            a = min(1 - 1 / (step + 1), decay)
            average.mul_(a).add_(scene.head.vector, alpha=1 - a)
    torch.testing.assert_close(method.stable.vector, stable)
    torch.testing.assert_close(method.plastic.vector, plastic)
    torch.testing.assert_close(method.predict(scene.batch.x), method.stable.logits(scene.batch.x))


@pytest.mark.parametrize("evaluated", ["stable", "plastic", "net"])
def test_clser_predicts_with_the_head_that_its_settings_name(scene, evaluated):
    method = make("clser", scene.head, evaluated=evaluated)
    method.stable.vector.add_(1)
    method.plastic.vector.sub_(1)
    head = {"net": method.head}.get(evaluated) or getattr(method, evaluated)
    assert torch.equal(method.predict(scene.batch.x), head.logits(scene.batch.x))
    assert method.predicts_with_copy == (evaluated != "net")


def test_clser_update_rates(scene):
    method = make("clser", scene.head)
    changed = torch.zeros(2, R)
    steps = 600
    for _ in range(steps):
        before = method.stable.vector.clone(), method.plastic.vector.clone()
        method.observe(scene.batch, scene.memory)
        for row, (old, head) in enumerate(zip(before, (method.stable, method.plastic), strict=True)):
            changed[row] += (old != head.vector).any(1)
    share = changed / steps
    assert ((share[0] - 0.1).abs() < 0.05).all() and ((share[1] - 0.3).abs() < 0.08).all()
    assert len(set(changed[1].tolist())) > 1, "replicas must draw separately"


@pytest.mark.parametrize("name", REFERENCES)
def test_no_memory_yet_is_plain_sgd(name, scene):
    nets = [Net(scene.head, r) for r in range(R)]
    expected = torch.stack([net.step(net.ce(scene.batch)) for net in nets])
    scene.memory.is_filled = False
    make(name, scene.head).observe(scene.batch, scene.memory)
    assert scene.memory.calls == 0
    torch.testing.assert_close(scene.head.vector[:, :PARAMETERS], expected, rtol=1e-4, atol=1e-6)


def test_a_method_that_is_no_longer_registered_has_the_default_traits():
    kind = traits("no_longer_there")
    assert (kind.title, kind.joint, kind.uses_memory, kind.baseline) == (None, False, True, False)
    assert traits("joint").joint and traits("derpp").title == "DER++"


def test_methods_never_mention_sharc():
    for name in METHODS.names():
        source = Path(METHODS.module_file(name)).read_text()
        for word in ("theta", "associative", "salien", "sharc_core.representations"):
            assert word not in source.lower(), f"{name} mentions {word}"
