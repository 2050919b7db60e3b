"""Pictures of recall: handwritten digits as maps with one pixel per channel, their cues, what is recalled."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.studies.recall.measure import random_mask, relative_error

SEED = 0
CLASSES = 10


@dataclass
class Recalls:
    """One kind of cue and what every AM recalls from it.

    images (n, side, side) in [0, 1]; seen (n, side, side) bool, the cue's pixels; recalled: per associative
    memory its images, or the reason for a refusal; errors: relative error over the unseen pixels.
    """

    cue: str
    images: torch.Tensor
    seen: torch.Tensor
    recalled: dict[str, torch.Tensor | str]
    errors: dict[str, float]


def digit_maps(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first `count` of scikit-learn's digits in a seeded shuffle, enlarged smoothly.

    Maps (count, side * side, 1, 1) float16 in [0, 1], as the feature cache has maps; labels (count,) int64.
    """
    grey, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=generator(SEED, "recall", "pictures"))[:count].numpy()
    images = [
        Image.fromarray(g.reshape(8, 8).astype(np.float32) / 16).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for g in grey[order]
    ]
    maps = torch.from_numpy(np.stack([np.asarray(image) for image in images])).clamp(0, 1)
    return maps.reshape(len(order), side * side, 1, 1).half(), torch.from_numpy(labels[order]).long()


@torch.no_grad()
def recall_pictures(memories: dict[str, dict], count: int, side: int) -> list[Recalls]:
    """Write `count` digits to each AM and read them from the upper half and from random pixels.

    memories: settings by name, with the `kind` where it differs from the name. An AM that refuses the digits
    has its reason in place of images.
    """
    maps, labels = digit_maps(count, side)
    upper = (torch.arange(side * side) < side * (side // 2)).expand(len(maps), -1)
    cues = {
        "lower half masked": upper,
        "half of the pixels masked at random": random_mask(len(maps), side * side, 0.5, SEED),
    }
    shape = (len(maps), side, side)
    results = [Recalls(name, maps.float().view(shape), m.reshape(shape), {}, {}) for name, m in cues.items()]
    for name, values in memories.items():
        values = dict(values)
        kind = ASSOCIATIVE_MEMORIES.get(values.pop("kind", name))
        settings = kind.Settings.model_validate(values)
        try:
            kind.planned_bytes(settings, tuple(maps.shape[1:]), CLASSES, len(maps))
            seed = derived_seed(SEED, "associative")
            memory = kind(settings, tuple(maps.shape[1:]), CLASSES, seed=seed)
            memory.write(maps, labels)
            for recalls, mask in zip(results, cues.values(), strict=True):
                cue = torch.where(mask[:, :, None, None], maps.float(), 0.0)
                recalled = memory.read(cue, mask, labels)
                unseen = ~mask[:, :, None, None]
                recalls.errors[name] = relative_error(recalled.double(), maps.double(), unseen)
                recalls.recalled[name] = recalled.view(shape)
        except UserError as error:
            for recalls in results:
                recalls.recalled.setdefault(name, str(error))
    return results
