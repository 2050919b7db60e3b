"""RanPAC: ridge regression on a random projection of the features.

McDonnell et al. 2023, "RanPAC: Random Projections and Pre-trained Models for Continual Learning", arXiv
2307.02251; code RanPAC/RanPAC.
"""

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.methods.base import METHODS
from sharc_core.methods.ridge import Ridge


@METHODS.register("ranpac")
class RanPAC(Ridge):
    """Ridge regression on h = relu(x W) for a fixed random W (D, M) with entries from N(0, 1).

    Each seed draws its own W. The published first-session adaptation, which trains adapters in the backbone
    on the first task, is left out, because the features are frozen: this is phase 2 of the paper's
    algorithm 1. Its M = 10,000, the missing intercept, and the choice of the ridge among 10^-8, ..., 10^8 on
    held-out samples of each task (see `Ridge.Settings`) are the defaults.

    Differences to the authors' code: sums and solutions are in float64 instead of float32, and every fifth
    sample is held out instead of the last fifth of a shuffled task, so nothing but sums is kept. A seed at
    M = 10,000 holds 2.5 GB, and 0.9 GB if the ridge is set, so seeds run one after the other.
    """

    title = "RanPAC"
    order_matters = True  # by the choice of the ridge
    advances_together = False

    class Settings(Ridge.Settings):
        """Settings of RanPAC; the defaults are the published ones. projections: M. Others: see Ridge."""

        projections: int = Field(default=10_000, ge=1)
        ridge: float | None = Field(default=None, gt=0)
        intercept: bool = False

    def __init__(self, *args):
        super().__init__(*args)
        shape = self.head.features, self.width
        draws = [torch.randn(shape, generator=source) for source in self.generators]
        self.projection = torch.stack(draws).to(self.head.vector.device)

    @property
    def width(self) -> int:
        """M, the number of projections."""
        return self.settings.projections

    def _add(self, x, y):
        """Add a chunk x (R, n, D), y (R, n), whose projection is counted."""
        self.flops.product(x.shape[1], self.head.features, self.width)
        super()._add(x, y)

    def inputs(self, r: int, x: torch.Tensor) -> torch.Tensor:
        """Return relu(x W) (n, M) float64 for pooled features x (n, D) of replica r."""
        return (x.double() @ self.projection[r].double()).relu_()
