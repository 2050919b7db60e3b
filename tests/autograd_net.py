"""One replica of a head in plain torch, to compare the updates of methods with, step by step."""

import torch
import torch.nn.functional as F

from sharc_core.heads import Batch, Head, make_head
from sharc_core.methods import METHODS, Task

R, B, D, C, LR = 3, 6, 7, 6, 0.1
TASKS = [(0, 1), (2, 3), (4, 5)]


class Net:
    """The parameters of replica r as tensors that require gradients."""

    def __init__(self, head: Head, r: int):
        self.r = r
        self.parameters = {name: getattr(head, name)[r].clone().requires_grad_() for name in head.shapes}

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return logits (B, C) of the replica's samples."""
        p, x = self.parameters, batch.x[self.r]
        if "scale" in p:
            return p["scale"] * F.linear(F.normalize(x, dim=1), F.normalize(p["weight"], dim=1))
        if "weight" in p:
            return F.linear(x, p["weight"], p["bias"])
        return F.linear(F.linear(x, p["weight1"], p["bias1"]).relu(), p["weight2"], p["bias2"])

    def cross_entropy(self, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(self.logits(batch), batch.y[self.r])

    def values(self) -> list[torch.Tensor]:
        return list(self.parameters.values())

    def copies(self) -> list[torch.Tensor]:
        return [value.detach().clone() for value in self.values()]

    def gradients(self, loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, self.values()))

    def step(self, loss: torch.Tensor) -> None:
        """Take one step of SGD."""
        optimiser = torch.optim.SGD(self.values(), lr=LR)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def make_method(name: str, kind: str, **settings):
    """Return a method with a head of R replicas in float64."""
    head = make_head(kind, 5, R, D, C)
    head.initialise([3, 4, 5])
    head.vector.mul_(2)
    head.double()
    registered = METHODS.get(name)
    return registered(head, registered.Settings(**settings), LR, B, [torch.Generator()] * R)


def make_batch(classes: tuple[int, ...], seed: int, size: int = B) -> Batch:
    source = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes)[torch.randint(len(classes), (R, size), generator=source)]
    return Batch(torch.rand(R, size, D, generator=source).double() * 2, y)


def stream() -> list[tuple[Task, list[Batch]]]:
    """Return the tasks with their minibatches, of which the last of each is smaller."""
    found = []
    for number, classes in enumerate(TASKS):
        task = Task(number, len(TASKS), classes, sum(TASKS[: number + 1], ()), C)
        found.append((task, [make_batch(classes, 10 * number + i, B - i) for i in range(3)]))
    return found


def train(method, step, end=lambda net, task, batches: None) -> None:
    """Train a method and an autograd net per replica on the stream, and compare them after every step.

    step(net, task, batch): updates the net. end(net, task, batches): is called at the end of a task.
    """
    nets = [Net(method.head, r) for r in range(R)]
    with torch.no_grad():
        for task, batches in stream():
            method.begin_task(task, None)
            for batch in batches:
                method.observe(batch, None)
                for net in nets:
                    with torch.enable_grad():
                        step(net, task, batch)
                compare(method, nets)
            for batch in batches if method.reviews_tasks else []:
                method.review(batch)
            method.end_task(task, None)
            for net in nets:
                with torch.enable_grad():
                    end(net, task, batches)


def compare(method, nets: list[Net]) -> None:
    for net in nets:
        for name, value in net.parameters.items():
            ours = getattr(method.head, name)[net.r]
            torch.testing.assert_close(ours, value.detach(), rtol=1e-9, atol=1e-11)


def held_bytes(method) -> int:
    """Return the bytes of one replica's parameters in every tensor that the method holds besides the head."""
    kept = {key: value for key, value in vars(method).items() if key not in ("head", "settings")}
    vectors = [value.vector if isinstance(value, Head) else value for value in kept.values()]
    vectors = [value for value in vectors if isinstance(value, torch.Tensor)]
    assert all(vector.shape == method.head.vector.shape for vector in vectors)
    return len(vectors) * method.head.bytes_per_replica


def paths(name: str, kind: str, **settings) -> list[torch.Tensor]:
    """Return the parameters after every step of the stream."""
    method, found = make_method(name, kind, **settings), []
    with torch.no_grad():
        for task, batches in stream():
            method.begin_task(task, None)
            for batch in batches:
                method.observe(batch, None)
                found.append(method.head.vector.clone())
            for batch in batches if method.reviews_tasks else []:
                method.review(batch)
            method.end_task(task, None)
    return found
