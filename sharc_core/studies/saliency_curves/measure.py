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
# Orders of removal: most, least salient first, random, and most salient for the class that the head predicts.
SALIENT, INVERSE, RANDOM, PREDICTED = "saliency", "inverse", "random", "predicted"


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


def centred_ranks(values: torch.Tensor) -> np.ndarray:
    """Return the rank of |values| (R, n, K) in its sample minus the mean rank, (R, n, K) float32, exactly.

    Equal values share their mean rank.
    """
    ranks = scipy.stats.rankdata(values.abs().double().numpy(), axis=-1) - (values.shape[-1] + 1) / 2
    return ranks.astype(np.float32)


def rank_correlations(scores: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation per sample, (R, n) float64, of centred_ranks (R, n, K).

    NaN where all of a sample's values are equal.
    """
    a, b = scores.astype(float), effects.astype(float)
    norms = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.divide((a * b).sum(-1), norms, out=np.full(norms.shape, np.nan), where=norms > 0)


def masks_per_class(masks: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Return for each replica the mean over classes of the number of different masks of its images.

    masks: (R, n, K) bool. labels: (n,).
    """
    return [
        float(np.mean([len(mask[labels == label].unique(dim=0)) for label in labels.unique()]))
        for mask in masks
    ]


def effect_ranks(head: Head, x: torch.Tensor, labels: torch.Tensor, positions: int) -> np.ndarray:
    """Return the centred_ranks (R, n, K) of what channels add to the true logit. Arguments: see `measure`."""
    parts = [
        occlusion(head, part.expand(head.replicas, -1, -1), y.expand(head.replicas, -1), positions, [])
        for part, y in _parts(x, labels)
    ]
    return np.concatenate([centred_ranks(part) for part in parts], 1)


def measure(
    head: Head,
    x: torch.Tensor,
    labels: torch.Tensor,
    effects: np.ndarray,
    positions: int,
    saliency: str,
    seeds: list[int],
    shares: list[float],
    random_orders: int,
) -> pd.DataFrame:
    """Return a row per seed, sweep, order and share, and one per seed with the rank correlation (COLUMNS).

    head: R replicas, one per seed. x (n, K): pooled test maps of `positions` = h * w entries per channel.
    labels: (n,). effects (R, n, K): effect_ranks, which all saliencies share. The columns of the place
    (dataset, backbone, head) are left to the caller.
    """
    # equal draws: a saliency that ignores the class gives equal scores for the true and the predicted one
    draws, again = ([generator(seed, "saliency_curves", "saliency") for seed in seeds] for _ in range(2))
    orders = [generator(seed, "saliency_curves", "order") for seed in seeds]
    replicas, channels = len(seeds), x.shape[1]
    curves: dict[tuple[str, str], torch.Tensor] = {}
    masks, correlations = [], []
    score = SALIENCIES.get(saliency)
    for number, (x_part, y_part) in enumerate(_parts(x, labels)):
        weight = len(y_part) / len(labels)
        inputs, y = x_part.expand(replicas, -1, -1), y_part.expand(replicas, -1)
        scores = score(head, inputs, y, positions, draws)
        masks.append(top_mask(scores, HALF))
        of_part = effects[:, number * PART : (number + 1) * PART]
        correlations.append(rank_correlations(centred_ranks(scores), of_part))
        ranks = ranks_of(scores)
        predicted = head.logits(inputs).argmax(2)
        control = ranks_of(score(head, inputs, predicted, positions, again))
        chosen = [(SALIENT, ranks), (INVERSE, channels - 1 - ranks), (PREDICTED, control)]
        chosen += [(RANDOM, ranks_of(_noise(scores.shape, orders))) for _ in range(random_orders)]
        for sweep in (DELETION, INSERTION):
            for order, of_order in chosen:
                if (sweep, order) == (DELETION, PREDICTED):
                    continue  # the control of insertion alone
                share = weight / (random_orders if order == RANDOM else 1)
                part = share * curve(head, inputs, y, of_order, shares, sweep)
                curves[sweep, order] = curves.get((sweep, order), 0) + part
    different = masks_per_class(torch.cat(masks, 1), labels)
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
            | {"masks_per_class": different[r], "images_per_class": images}
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
            common = (head, x, labels, effect_ranks(head, x, labels, positions), positions)
            frames = []
            for name in job.saliencies:
                frames.append(measure(*common, name, cell.seeds, job.shares, job.random_orders))
                if progress:
                    progress(f"{name}, {cell.head.kind} head")
    finally:
        torch.set_num_threads(threads)
    rows = pd.concat(frames, ignore_index=True)
    rows = rows.assign(dataset=cell.dataset, backbone=cell.backbone, head=cell.head.kind)
    return rows.reindex(columns=list(COLUMNS)).astype(COLUMNS)
