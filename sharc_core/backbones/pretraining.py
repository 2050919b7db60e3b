"""Supervised pre-training of a backbone on classes that no stream uses. Writes weights and their card."""

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import sharc_core
from sharc_core.backbones.architectures import build_classifier
from sharc_core.backbones.augment import shift_and_flip
from sharc_core.backbones.config import BackboneConfig, PretrainConfig
from sharc_core.backbones.preprocess import Preprocess, resolve
from sharc_core.common.determinism import replace_pools, same_bits
from sharc_core.common.device import device_text
from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_path, digest, sha256_file, write_json
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.datasets import PreparedData

BETAS = (0.9, 0.99)
WARM_UP = 0.25  # share of the steps during which the learning rate rises
LOWEST_START = 1 / 25  # of the peak
LOWEST_END = 1e-4  # of the start
SECONDS_BETWEEN_LINES = 10


def pretrain(
    config: BackboneConfig,
    prepared: PreparedData,
    weights: Path,
    card: Path,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict:
    """Train `config.arch` on the train split, test it on the test split, and write weights and card.

    weights: path of a safetensors file with the classifier's state dict. It is written before the card, each
    atomically. Returns the card. The weights are a pure function of config, data, device and number of
    threads. Raises UserError when training diverges.
    """
    settings = config.pretrain
    began = time.perf_counter()
    classes = len(prepared.manifest["classes"])
    on_gpu = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []), same_bits(device):
        torch.manual_seed(derived_seed(settings.seed, "weights"))
        form = resolve(config)
        model = build_classifier(config.arch, classes, side=form.image_size)
        if on_gpu:
            replace_pools(model)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        to_input = Preprocess(form).to(device)
        losses = _train(model, prepared, settings, to_input, progress)
        accuracy = _accuracy(model, prepared, settings.batch_size, to_input)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(weights) as temporary:
        safetensors.torch.save_file(state, temporary, metadata={"arch": config.arch})
    counts = prepared.manifest["counts"]
    document = {
        "arch": config.arch,
        **asdict(form),
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
        "device": device_text(device),
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


def _train(
    model: nn.Module,
    prepared: PreparedData,
    settings: PretrainConfig,
    to_input: Preprocess,
    progress: Callable[[str], None] | None,
) -> list[float]:
    """Train the model and return the mean loss of every epoch. The last, incomplete batch is dropped.

    Raises UserError when the loss is not finite.
    """
    images, labels = prepared.train_images, torch.from_numpy(np.array(prepared.train_labels))
    batch_size = min(settings.batch_size, len(labels))
    steps = len(labels) // batch_size
    # convolutions and the linear layer decay, batch norms and biases do not
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS)
    total_steps = settings.epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: one_cycle(step, total_steps))
    most = round(settings.max_shift * images.shape[1])
    began = reported = time.perf_counter()
    losses = []
    model.train()
    for epoch in range(settings.epochs):
        order = torch.randperm(len(labels), generator=generator(settings.seed, "order", epoch))
        noise = generator(settings.seed, "augmentation", epoch)
        total = torch.zeros((), device=to_input.scale.device)
        for step in range(steps):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            batch = torch.from_numpy(images[chosen.numpy()])
            x = to_input(shift_and_flip(batch, most, settings.flip, noise, edge=True))
            loss = _loss(model(x), labels[chosen].to(x.device), settings.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.detach()
            now = time.perf_counter()
            if progress and now - reported > SECONDS_BETWEEN_LINES:
                reported = now
                share = (epoch * steps + step + 1) / total_steps
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


def one_cycle(step: int, total: int) -> float:
    """Return the learning rate of step 0 .. total - 1 as a share of its peak.

    It rises and falls along cosines. This is the one-cycle policy (Smith & Topin 2019, arXiv 1708.07120) with
    torch's numbers. Unlike torch.optim.lr_scheduler.OneCycleLR, it also works for a few steps.
    """
    step = min(step, total - 1)  # LambdaLR calls once more after the last step
    peak = max(WARM_UP * total - 1, 0.0)
    if step <= peak:
        low, progress = LOWEST_START, 1 - step / peak if peak else 0.0
    else:
        low, progress = LOWEST_START * LOWEST_END, (step - peak) / (total - 1 - peak)
    return low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2


def _loss(output, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the cross-entropy. Auxiliary classifiers (GoogLeNet, Inception) are not trained."""
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


@torch.inference_mode()
def _accuracy(model: nn.Module, prepared: PreparedData, batch_size: int, to_input: Preprocess) -> float:
    """Return the top-1 accuracy in [0, 1] on the test split."""
    model.eval()
    labels = torch.from_numpy(np.array(prepared.test_labels))
    correct = 0
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        predicted = model(to_input(torch.from_numpy(np.array(prepared.test_images[part])))).argmax(1).cpu()
        correct += (predicted == labels[part]).sum().item()
    return correct / len(labels)
