"""Compare microseconds per SGD step of the closed-form gradient and of autograd.

    python benchmarks/gradient.py

One thread, five replicas, batch size 10, 512 features, 10 and 100 classes, both heads, in one process.
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sharc_core.heads import Batch, Head, make_head

LR = 0.01


def closed_form(head: Head, batch: Batch) -> None:
    """Take the step as the learner does."""
    head.descend(head.cross_entropy(batch), LR)


def autograd(head: Head, batch: Batch) -> None:
    """Take the same step with torch's autograd, on the same parameter matrix."""
    with torch.enable_grad():
        vector = head.vector.detach().requires_grad_()
        head._adopt(vector)
        logits = head.logits(batch.x)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.y.flatten(), reduction="none")
        (loss.view(batch.y.shape).mean(1).sum()).backward()
    head._adopt((vector - LR * vector.grad).detach())


def microseconds(step, head: Head, batch: Batch, steps: int = 2000) -> float:
    """Return the mean time of a step, after a warm-up."""
    for _ in range(200):
        step(head, batch)
    start = time.perf_counter()
    for _ in range(steps):
        step(head, batch)
    return (time.perf_counter() - start) / steps * 1e6


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = []
    with torch.no_grad():
        for kind in ("linear", "mlp"):
            for classes in (10, 100):
                head = make_head(kind, 256, 5, 512, classes)
                head.initialise([0, 1, 2, 3, 4])
                batch = Batch(torch.rand(5, 10, 512), torch.randint(classes, (5, 10)))
                closed = microseconds(closed_form, head, batch)
                by_autograd = microseconds(autograd, head, batch)
                rows.append([kind, classes, closed, by_autograd, by_autograd / closed])
    header = ["head", "classes", "closed form, us", "autograd, us", "ratio"]
    print(tabulate(rows, header, floatfmt=".1f"))


if __name__ == "__main__":
    main()
