"""What the log joint of a BayesPCN needs besides its bottom weights, for one network or for several."""

from collections.abc import Sequence
from dataclasses import dataclass

from sharc_core.associative.row_covariance import RowCovariance
from sharc_core.common.deferred import torch


@dataclass
class Posterior:
    """The posterior over the weights of a network with hidden layers of m units, all float64.

    means: of the layers above the bottom, each (m, m). covariances: of the rows of every layer from the
    bottom up; None for log_joint "map". top_mean (m,) and top_variance: of the top layer.

    For G networks, each with a batch of its own, every tensor has an axis G in front; top_mean is (G, 1, m).
    """

    means: list[torch.Tensor]
    covariances: list[RowCovariance | None]
    top_mean: torch.Tensor
    top_variance: float

    @classmethod
    def stack(cls, networks: Sequence["Posterior"]) -> "Posterior":
        """Stack networks with the same sizes and the same top variance. A single one stays as it is."""
        first = networks[0]
        if len(networks) == 1:
            return first
        covariances: list[RowCovariance | None] = []
        for level, covariance in enumerate(first.covariances):
            if covariance is None:
                covariances.append(None)
                continue
            of_level = (network.covariances[level] for network in networks)
            dense = torch.stack([each.dense for each in of_level if each is not None])
            covariances.append(RowCovariance(dense, covariance.prior, covariance.variance))
        return cls(
            [torch.stack(means) for means in zip(*(network.means for network in networks), strict=True)],
            covariances,
            torch.stack([network.top_mean for network in networks])[:, None],
            first.top_variance,
        )

    def of(self, chosen: torch.Tensor) -> "Posterior":
        """Return the networks of the batches `chosen` (G,) bool."""
        if self.top_mean.ndim == 1:
            return self
        covariances = [None if each is None else each.of(chosen) for each in self.covariances]
        means = [mean[chosen] for mean in self.means]
        return Posterior(means, covariances, self.top_mean[chosen], self.top_variance)
