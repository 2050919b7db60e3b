"""Supervised pre-training of a backbone on classes that no stream uses: weights and their card."""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import sharc_core
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.config import BackboneConfig, PretrainConfig
from sharc_core.backbones.model import normalisation, preprocess, scale_and_offset
from sharc_core.datasets import PreparedData
from sharc_core.device import same_bits
from sharc_core.errors import UserError
from sharc_core.files import atomic_path, digest, sha256_file, write_json
from sharc_core.seeds import derived_seed, generator

MOMENTUM = 0.9
WARM_UP = 0.25  # share of the steps in which the learning rate rises
SECONDS_BETWEEN_LINES = 10


def pretrain(
    config: BackboneConfig,
    prepared: PreparedData,
    weights: Path,
    card: Path,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict:
    """Train `config.arch` on the train split, score it on the test split, write weights and card.

    weights: safetensors, float32, the classifier's state-dict names. Written before the card, each
    atomically. Returns the card. A pure function of config, data, device and number of threads. Raises
    UserError when training diverges.
    """
    settings = config.pretrain
    began = time.perf_counter()
    classes = len(prepared.manifest["classes"])
    with torch.random.fork_rng(devices=[]), same_bits():
        torch.manual_seed(derived_seed(settings.seed, "weights"))
        model = build_classifier(config.arch, classes).to(device, memory_format=torch.channels_last)
        to_input = _Preprocess(config, device)
        losses = _train(model, prepared, settings, to_input, progress)
        accuracy = _accuracy(model, prepared, settings.batch_size, to_input)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(weights) as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"arch": config.arch})
    counts = prepared.manifest["counts"]
    document = {
        "arch": config.arch,
        "image_size": config.image_size,
        "mean": to_input.mean,
        "std": to_input.std,
        "settings": settings.model_dump(),
        "data": {
            "sha256": digest(prepared.manifest, 64),
            "classes": classes,
            "train_images": counts["train"],
            "test_images": counts["test"],
        },
        "held_out_top1": accuracy,
        "train_loss": losses,
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_sha256": sha256_file(weights),
        "seconds": round(time.perf_counter() - began, 1),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "sharc_bench": sharc_core.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    write_json(card, document)
    if progress:
        progress(f"held-out top-1 {accuracy:.1%} of {classes} classes, {document['seconds']:.0f} s")
    return document


class _Preprocess:
    """Images as the frozen backbone will see them, on the device."""

    def __init__(self, config: BackboneConfig, device: torch.device | str):
        self.side = config.image_size
        self.mean, self.std = normalisation(config)
        self.device = device
        self.scale, self.offset = (t.to(device) for t in scale_and_offset(self.mean, self.std))

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """uint8 (B, H, W, 3) array -> float32 (B, 3, S, S)."""
        return preprocess(torch.from_numpy(images).to(self.device), self.side, self.scale, self.offset)


def _train(
    model: nn.Module,
    prepared: PreparedData,
    settings: PretrainConfig,
    to_input: _Preprocess,
    progress: Callable[[str], None] | None,
) -> list[float]:
    """Mean training loss of every epoch. The last, incomplete batch of an epoch is left out."""
    images, labels = prepared.train_images, torch.from_numpy(np.array(prepared.train_labels))
    batch_size = min(settings.batch_size, len(labels))
    steps = len(labels) // batch_size
    # one decay for convolutions and the linear layer, none for batch norms and biases
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others}]
    optimiser = torch.optim.SGD(groups, lr=settings.lr, momentum=MOMENTUM, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.lr, total_steps=settings.epochs * steps, pct_start=WARM_UP, cycle_momentum=False
    )
    began = said = time.perf_counter()
    losses = []
    model.train()
    for epoch in range(settings.epochs):
        order = torch.randperm(len(labels), generator=generator(settings.seed, "order", epoch))
        noise = generator(settings.seed, "augmentation", epoch)
        total = torch.zeros((), device=to_input.device)
        for step in range(steps):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            x = augment(to_input(images[chosen.numpy()]), settings.max_shift, settings.flip, noise)
            loss = _loss(model(x), labels[chosen].to(x.device), settings.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.detach()
            now = time.perf_counter()
            if progress and now - said > SECONDS_BETWEEN_LINES:
                said = now
                share = (epoch * steps + step + 1) / (settings.epochs * steps)
                left = (now - began) * (1 - share) / share
                progress(f"epoch {epoch + 1}/{settings.epochs}, {share:.0%}, {left:.0f} s left")
        losses.append(total.item() / steps)
        if not np.isfinite(losses[-1]):
            raise UserError(
                f"pre-training diverged in epoch {epoch + 1}: lower backbone.pretrain.lr ({settings.lr})"
            )
        if progress:
            progress(f"epoch {epoch + 1}/{settings.epochs}: training loss {losses[-1]:.3f}")
    return losses


def _loss(output, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Cross-entropy; auxiliary classifiers (GoogLeNet, Inception) are not trained."""
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def augment(images: torch.Tensor, max_shift: float, flip: bool, source: torch.Generator) -> torch.Tensor:
    """Shift every image by its own whole-pixel offset, and mirror half of them if `flip`.

    images (B, C, S, S); max_shift: share of the side. What moves in from outside repeats the edge.
    The whole batch is one gather. Draws come from the CPU generator `source`.
    """
    count, _, side, _ = images.shape
    most = round(max_shift * side)
    if most == 0 and not flip:
        return images
    offsets = torch.randint(-most, most + 1, (2, count, 1), generator=source)
    grid = torch.arange(side)
    columns = grid.expand(count, side)
    if flip:
        mirrored = torch.rand(count, 1, generator=source) < 0.5
        columns = torch.where(mirrored, side - 1 - columns, columns)
    rows = (grid + offsets[0]).clamp(0, side - 1).to(images.device)
    columns = (columns + offsets[1]).clamp(0, side - 1).to(images.device)
    picked = images.permute(0, 2, 3, 1)[
        torch.arange(count, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return picked.permute(0, 3, 1, 2)  # channels last again


@torch.inference_mode()
def _accuracy(model: nn.Module, prepared: PreparedData, batch_size: int, to_input: _Preprocess) -> float:
    """Top-1 accuracy in [0, 1] on the test split."""
    model.eval()
    labels = torch.from_numpy(np.array(prepared.test_labels))
    right = 0
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        predicted = model(to_input(np.array(prepared.test_images[part]))).argmax(1).cpu()
        right += (predicted == labels[part]).sum().item()
    return right / len(labels)
