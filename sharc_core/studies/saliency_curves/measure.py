"""One job of the study `saliency_curves`: accuracy of a trained head while channels of test maps are removed.

Deletion and insertion curves are those of Petsiuk et al. 2018 (RISE, arXiv 1806.07421), for channels in place
of pixels. A removed channel is zero, as SHARC stores it. The head reads the pooled map, so that removing a
channel of the map sets one entry of the pooled vector to zero.
"""

from collections.abc import Callable, Iterator

import numpy as np
import scipy

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.deferred import torch
from sharc_core.common.seeds import generator
from sharc_core.features.cache import Features
from sharc_core.heads import Head
from sharc_core.learning.joint_head import joint_head
from sharc_core.saliency import SALIENCIES
from sharc_core.saliency.channel_masks import top_mask
from sharc_core.saliency.occlusion import occlusion
from sharc_core.studies.saliency_curves.settings import COLUMNS, CurveJob

PART = 1000  # test images per product
HALF = 0.5  # share of the channels of the masks that are counted per class
DELETION, INSERTION = "deletion", "insertion"
SALIENT, INVERSE, RANDOM = "saliency", "inverse", "random"  # orders of removal: most, least salient first


def ranks_of(scores: torch.Tensor) -> torch.Tensor:
    """Return the rank of every channel by falling |score|, (..., K) int64: 0 is the most salient.

    The order is that of equation 4 (channel_masks.top_mask): of equal channels the lower number comes first.
    """
    order = scores.abs().sort(dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(order).scatter_(
        -1, order, torch.arange(scores.shape[-1], device=order.device).expand_as(order)
    )


def removed_channels(share: float, channels: int) -> int:
    """Return how many of K channels a share is: floor(share K), as for theta."""
    return int(share * channels + 1e-9)


def accuracy(head: Head, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the share of correct predictions (R,) in percent, among all classes, of x (R, n, K), y (R, n).

    As in the learner, a prediction is correct if the true logit exceeds all others; ties are wrong.
    """
    scores = head.logits(x)
    true = scores.gather(2, y.unsqueeze(2))
    others = scores.scatter(2, y.unsqueeze(2), -torch.inf)
    return 100 * (true.squeeze(2) > others.amax(2)).double().mean(1)


def curve(
    head: Head, x: torch.Tensor, y: torch.Tensor, ranks: torch.Tensor, shares: list[float], sweep: str
) -> torch.Tensor:
    """Return accuracies (R, S) with a share of the channels deleted or inserted in the order of `ranks`.

    x, ranks: (R, n, K). Deletion removes the first channels of the order; insertion keeps them alone.
    """
    columns = []
    for share in shares:
        first = ranks < removed_channels(share, x.shape[2])
        columns.append(accuracy(head, torch.where(first == (sweep == INSERTION), x, 0.0), y))
    return torch.stack(columns, 1)


def rank_correlations(scores: torch.Tensor, effects: torch.Tensor) -> np.ndarray:
    """Return Spearman's rank correlation of |scores| and |effects| (R, n, K) per sample, (R, n) float64.

    Equal values share their mean rank. NaN where all of a sample's values are equal.
    """
    a, b = (
        scipy.stats.rankdata(values.abs().double().numpy(), axis=-1) - (values.shape[-1] + 1) / 2
        for values in (scores, effects)
    )
    norms = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), norms, out=np.full(norms.shape, np.nan), where=norms > 0)


def masks_per_class(scores: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Return for each replica the mean over classes of the number of different masks of its images.

    scores (R, n, K). The masks keep the most salient half of the channels. labels: (n,).
    """
    masks = top_mask(scores, HALF)
    return [
        float(np.mean([len(mask[labels == label].unique(dim=0)) for label in labels.unique()]))
        for mask in masks
    ]


def measure(
    head: Head,
    x: torch.Tensor,
    labels: torch.Tensor,
    positions: int,
    saliency: str,
    seeds: list[int],
    shares: list[float],
    random_orders: int,
) -> pd.DataFrame:
    """Return a row per seed, sweep, order and share, and one per seed with the rank correlation (COLUMNS).

    head: R replicas, one per seed. x (n, K): pooled test maps of `positions` = h * w entries per channel.
    labels: (n,). The columns of the place (dataset, backbone, head) are left to the caller.
    """
    draws = [generator(seed, "saliency_curves", "saliency") for seed in seeds]
    orders = [generator(seed, "saliency_curves", "order") for seed in seeds]
    replicas, channels = len(seeds), x.shape[1]
    curves: dict[tuple[str, str], torch.Tensor] = {}
    scored, correlations = [], []
    for x_part, y_part in _parts(x, labels):
        weight = len(y_part) / len(labels)
        inputs, y = x_part.expand(replicas, -1, -1), y_part.expand(replicas, -1)
        scores = SALIENCIES.get(saliency)(head, inputs, y, positions, draws)
        scored.append(scores)
        correlations.append(rank_correlations(scores, occlusion(head, inputs, y, positions, [])))
        ranks = ranks_of(scores)
        chosen = [(SALIENT, ranks), (INVERSE, channels - 1 - ranks)]
        chosen += [(RANDOM, ranks_of(_noise(scores.shape, orders))) for _ in range(random_orders)]
        for sweep in (DELETION, INSERTION):
            for order, of_order in chosen:
                share = weight / (random_orders if order == RANDOM else 1)
                part = share * curve(head, inputs, y, of_order, shares, sweep)
                curves[sweep, order] = curves.get((sweep, order), 0) + part
    masks = masks_per_class(torch.cat(scored, 1), labels)
    found = np.concatenate(correlations, 1)
    images = len(labels) / len(labels.unique())
    rows: list[dict] = []
    for r, seed in enumerate(seeds):
        common = {"saliency": saliency, "seed": seed}
        for (sweep, order), values in curves.items():
            points = zip(shares, values[r].tolist(), strict=True)
            rows += [common | {"sweep": sweep, "order": order, "share": s, "accuracy": a} for s, a in points]
        valid = found[r][~np.isnan(found[r])]
        correlation = float(valid.mean()) if len(valid) else float("nan")
        rows.append(
            common
            | {"sweep": "effect", "order": SALIENT, "correlation": correlation}
            | {"masks_per_class": masks[r], "images_per_class": images}
        )
    return pd.DataFrame(rows)


def _parts(x: torch.Tensor, labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(x.split(PART), labels.split(PART), strict=True)


def _noise(shape: torch.Size, draws: list[torch.Generator]) -> torch.Tensor:
    return torch.stack([torch.rand(shape[1:], generator=g) for g in draws])


def run_curves(
    features: Features, job: CurveJob, progress: Callable[[str], None] | None = None
) -> pd.DataFrame:
    """Train the job's heads as JOINT does and measure its saliencies on the test features (COLUMNS).

    Runs on one thread, so that equal seeds give equal bits. Raises UserError when the training diverges.
    """
    cell, threads = job.opened, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            features, head = joint_head(features, cell)
            x, labels = features.test_pooled.float(), features.test_labels
            positions = features.train_maps[0, 0].numel()
            frames = []
            for name in job.saliencies:
                frames.append(
                    measure(head, x, labels, positions, name, cell.seeds, job.shares, job.random_orders)
                )
                if progress:
                    progress(f"{name}, {cell.head.kind} head")
    finally:
        torch.set_num_threads(threads)
    rows = pd.concat(frames, ignore_index=True)
    rows = rows.assign(dataset=cell.dataset, backbone=cell.backbone, head=cell.head.kind)
    return rows.reindex(columns=list(COLUMNS)).astype(COLUMNS)
