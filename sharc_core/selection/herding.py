"""Herding (iCaRL, Rebuffi et al. 2017, arXiv 1611.07725, equation 4)."""

from collections.abc import Iterator
from itertools import islice

from sharc_core.common.deferred import torch
from sharc_core.selection.base import SELECTIONS, TaskSelection, in_turn, latest_first


@SELECTIONS.register("herding")
class Herding(TaskSelection):
    """Stores, of each class, samples whose mean feature vector is close to that of the whole class.

    Every class of the task has the same quota, to within one sample, unless one of them has no more.
    """

    def rank(self, candidates):
        """Return the first exemplar of each class, then the second of each, and so on."""
        pooled = candidates.pooled()
        by_class = [of_class(numbers, pooled) for numbers in latest_first(candidates.labels)]
        return torch.tensor(list(islice(in_turn(by_class), candidates.most())))


def of_class(numbers: torch.Tensor, pooled: torch.Tensor) -> Iterator[int]:
    """Yield the candidates of one class, by their numbers (n,), in the order of their choice."""
    for row in exemplars(pooled[numbers]):
        yield int(numbers[row])


def exemplars(vectors: torch.Tensor) -> Iterator[int]:
    """Yield the rows of vectors (n, D) in the order in which herding chooses them, each once.

    With phi the vectors scaled to length 1 and mu their mean, the k-th choice p_k minimises
    |mu - (phi(p_k) + phi(p_1) + ... + phi(p_k-1)) / k|. As in the authors' code, means are not scaled to
    length 1 again. So the first m choices do not depend on how many follow.
    """
    phi = torch.nn.functional.normalize(vectors.double(), dim=1)
    mean, squares = phi.mean(0), phi.square().sum(1)
    target = mean.clone()  # k mu minus the sum of the vectors chosen so far
    free = torch.ones(len(phi), dtype=torch.bool)
    for _ in range(len(phi)):
        # |target - phi|^2 without |target|^2, which is the same for all rows
        distances = squares - 2 * (phi @ target)
        row = int(torch.where(free, distances, torch.inf).argmin())
        yield row
        free[row] = False
        target += mean - phi[row]
