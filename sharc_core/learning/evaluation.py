"""Accuracies on the test images of every task.

The images of many tasks share a matrix product, so that a long stream costs no call per pair of tasks.
"""

from collections.abc import Iterator, Sequence

from sharc_core.common.deferred import torch
from sharc_core.common.phases import TESTING, phase
from sharc_core.features.views import TestFeatures
from sharc_core.methods import Method
from sharc_core.streams.stream import Stream

IMAGES = 4096  # most test images per product
SCORES = 2**22  # most scores per product, which are held in memory


@phase(TESTING)
def evaluate(
    tests: TestFeatures, stream: Stream, method: Method, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Return accuracies in percent on every task's test images, (R, T) float64, for both scenarios.

    A prediction is correct when the true class's score exceeds that of every other class, among all classes
    (Class-IL) or among the task's own (Task-IL). So Task-IL is never below Class-IL, ties count as wrong (a
    class with score -inf is never predicted), and the numbering of the classes does not matter. NaN for a
    task that is not tested. Raises FloatingPointError when a score is NaN.
    """
    sizes = [len(index) for index in stream.test]
    index, own = torch.cat(stream.test), _padded(stream.classes_per_task)
    tasks = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    correct = torch.zeros(2, method.replicas, len(sizes), dtype=torch.int64)
    tested = torch.ones(len(sizes), dtype=torch.bool)
    limit = max(1, min(IMAGES, SCORES // (method.replicas * stream.classes)))
    parts = list(_parts(sizes, limit))
    while parts:
        part = parts.pop(0)
        x, here = tests.tested(index[part]), tasks[part]
        if x is None and here[0] != here[-1]:  # some of its tasks are not tested
            parts[:0] = _by_task(here, part.start)
        elif x is None:
            tested[here[0]] = False
        else:
            labels = tests.test_labels[index[part]].to(device)
            hits = _hits(x.to(device), labels, own[here].to(device), method)
            correct.index_add_(2, here, hits.long().cpu())
    accuracies = correct.double() * 100 / torch.tensor(sizes)
    accuracies[..., ~tested] = torch.nan
    return {"task_il": accuracies[0], "class_il": accuracies[1]}


def _hits(x: torch.Tensor, labels: torch.Tensor, own: torch.Tensor, method: Method) -> torch.Tensor:
    """Return which predictions are correct, (2, R, n) bool: in Task-IL, in Class-IL.

    x (n, K) or (R, n, K), labels (n,). own (n, m): the classes of each image's task.
    """
    replicas = method.replicas
    scores = method.predict(x.expand(replicas, -1, -1))
    y = labels.expand(replicas, -1).unsqueeze(2)
    true = scores.gather(2, y).squeeze(2)
    others = scores.scatter(2, y, -torch.inf)
    best = others.amax(2)
    if bool((true.isnan() | best.isnan()).any()):  # amax returns NaN if any score is
        raise FloatingPointError("predicted scores are NaN")
    best_of_task = others.gather(2, own.expand(replicas, -1, -1)).amax(2)
    return torch.stack([true > best_of_task, true > best])


def _padded(classes_per_task: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the classes of each task, (T, m), where smaller tasks repeat their first class."""
    most = max(map(len, classes_per_task))
    return torch.tensor([[*own, *[own[0]] * (most - len(own))] for own in classes_per_task])


def _parts(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Yield consecutive parts of all test images: of tasks that fit into `limit` together, or of one task."""
    start = end = 0
    for size in sizes:
        if end > start and end + size - start > limit:
            yield slice(start, end)
            start = end
        end += size
        while end - start > limit:
            yield slice(start, start + limit)
            start += limit
    if end > start:
        yield slice(start, end)


def _by_task(tasks: torch.Tensor, start: int) -> list[slice]:
    """Return one part per task of images with these tasks (n,), of which the first is number `start`."""
    _, counts = tasks.unique_consecutive(return_counts=True)
    ends = (start + counts.cumsum(0)).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts.tolist(), strict=True)]
