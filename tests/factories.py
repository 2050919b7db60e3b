"""Small synthetic inputs that several test files share."""

from types import SimpleNamespace

import torch

from sharc_core.common.pooling import pool
from sharc_core.grid.cell import Cell, HeadConfig, Training
from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.heads import Head
from sharc_core.methods import METHODS


class Encodings(dict):
    """Encoded training images of any codec: vectors near the cache's (N, K), and files of 20 to 59 bytes."""

    def __init__(self, pooled: torch.Tensor):
        self.pooled = pooled

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: tuple) -> SimpleNamespace:
        source = torch.Generator().manual_seed(key[0].quality)
        noise = torch.rand(self.pooled.shape, generator=source) * 0.05
        sizes = torch.randint(20, 60, (len(self.pooled),), generator=source)
        self[key] = SimpleNamespace(pooled=self.pooled + noise, sizes=sizes)
        return self[key]


def make_features(
    classes: int = 6,
    channels: int = 12,
    side: int = 2,
    train_per_class: int = 40,
    test_per_class: int = 15,
    seed: int = 0,
    separation: float = 1.0,
) -> SimpleNamespace:
    """Return clusters of non-negative maps, one per class, with the attributes of the feature cache."""
    source = torch.Generator().manual_seed(seed)
    centres = torch.rand(classes, channels, 1, 1, generator=source) * separation

    def split(per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(classes).repeat_interleave(per_class)
        noise = torch.rand(len(labels), channels, side, side, generator=source) * 0.8
        return (centres[labels] + noise).half(), labels

    train_maps, train_labels = split(train_per_class)
    test_maps, test_labels = split(test_per_class)
    found = SimpleNamespace(
        train_maps=train_maps,
        train_pooled=pool(train_maps),
        train_labels=train_labels,
        test_maps=test_maps,
        test_pooled=pool(test_maps),
        test_labels=test_labels,
        classes=[str(c) for c in range(classes)],
        manifest={
            "dataset": "d" * 64,
            "backbone": {"sha256": "b" * 64},
            "files": {},
            "image_shape": [5, 4, 3],
        },
    )
    found.encoded = Encodings(found.train_pooled)  # as features.opening adds them
    found.tested = lambda index: found.test_pooled[index]  # as features.Features has it
    return found


def state(method) -> dict[str, torch.Tensor]:
    """Return a method's learned tensors (R, ...) by attribute, including the parameters of heads."""
    kept = {k: v.vector if isinstance(v, Head) else v for k, v in vars(method).items()}
    return {
        name: tensor.clone()
        for name, tensor in kept.items()
        if isinstance(tensor, torch.Tensor) and tensor.shape[:1] == (method.replicas,)
    }


def is_replica(together: dict[str, torch.Tensor], r: int, alone: dict[str, torch.Tensor]) -> bool:
    """Return whether the state of a single replica equals replica r of another state bit for bit."""
    return all(torch.equal(tensor[r], alone[name][0]) for name, tensor in together.items())


def predictor(head) -> SimpleNamespace:
    """Wrap a head so that `evaluate` can take it for a method."""
    return SimpleNamespace(predict=head.logits, replicas=head.replicas, head=head)


# Few steps for the memories that learn by optimisation, for tests that do not depend on recall quality.
QUICK = {
    "bayespcn": {"hidden": 8, "steps": 5},
    "bayespcn_exact": {"hidden": 8, "steps": 5},
    "pcn": {"hidden": 8, "rounds": 2, "read_steps": 5},
    "autoencoder": {"hidden": 8, "steps": 5},
}
# Settings of methods that are too large for tests by default.
SMALL = {"ranpac": {"projections": 16}}


def make_cell(method: str = "er", variant: str = "plain", **changes) -> Cell:
    """Return a cell on `make_features`: 3 tasks of 2 classes, a buffer of 12."""
    fields = {
        "dataset": "toy",
        "tasks": 3,
        "class_order_seed": None,
        "backbone": "toy",
        "method": method,
        "variant": variant,
        "scenarios": ["task_il", "class_il"],
        "seeds": [0, 1, 2],
        "training": Training(replay_batch_size=3),
        "head": HeadConfig(),
        "method_settings": settings_of(METHODS, method, SMALL.get(method, {}), "method_settings"),
    }
    if METHODS.get(method).uses_memory:
        fields |= {"buffer": 12, "budget_unit": "floats"}
        if variant == "sharc":
            fields |= {
                "theta": 0.5,
                "saliency": "gradient",
                "associative_memory": "modern_hopfield",
                "associative_settings": {"beta": None, "similarity": "euclidean", "iterations": 1},
                "read": "per_task",
            }
    return Cell(**(fields | changes))
