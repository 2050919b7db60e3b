"""Count the floating-point operations of training by formula: two per multiply-add of a matrix product.

Only products of matrices and vectors are counted, as in torch.utils.flop_counter, which the tests compare
with. Elementwise operations, sums and matrix factorisations are not. The formulas stand next to the products,
so a count costs an addition of Python integers per product.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager


class FlopCount:
    """The operations of R replicas that advance together.

    shared: operations that each replica takes. own: by replica, operations that only this one takes.
    samples: gradient samples of each replica, the rows of all loss terms whose gradient was taken. A sample
    in two terms of a loss counts twice, as it takes two products.
    """

    def __init__(self) -> None:
        self.shared = 0
        self.samples = 0
        self.own: dict[int, int] = {}

    def product(self, *sizes: int, replica: int | None = None) -> None:
        """Count a product of matrices whose multiply-adds number the product of `sizes`.

        sizes: rows, inner size and columns of one replica's product; further factors for several products of
        these sizes. replica: the only one that takes it; None for every one.
        """
        flops = 2 * math.prod(sizes)
        if replica is None:
            self.shared += flops
        else:
            self.own[replica] = self.own.get(replica, 0) + flops

    def of(self, replicas: int) -> list[int]:
        """Return the operations of each replica so far."""
        return [self.shared + self.own.get(r, 0) for r in range(replicas)]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing within a `with` block, for example while the head is tested."""
        shared, own, samples = self.shared, dict(self.own), self.samples
        try:
            yield
        finally:
            self.shared, self.own, self.samples = shared, own, samples
