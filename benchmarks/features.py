"""Measure images per second through a frozen resnet18 at 224 px, for several ways of running it.

    python benchmarks/features.py [device]

Random weights; 32 px images, resized as for the paper's data sets; one thread on the CPU. The ways:
torchvision's layers; batch norms folded into convolutions; channels last; both, as the backbone runs; both in
bfloat16.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sharc_core.backbones.architectures import build_classifier, cut_at_maps, fuse_batch_norms
from sharc_core.backbones.preprocess import InputFormat, Preprocess

BATCH = 32
ROUNDS = 4
PAPER = 3 * 60_000  # images of the paper's three data sets


def ways(device: str) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the networks by name; each takes images (B, 3, 224, 224) in channels-last order."""
    torch.manual_seed(0)
    plain = cut_at_maps(build_classifier("resnet18"), "resnet18").to(device)
    fused = fuse_batch_norms(plain)
    last = fuse_batch_norms(plain).to(memory_format=torch.channels_last)
    unfused = cut_at_maps(build_classifier("resnet18"), "resnet18").to(
        device, memory_format=torch.channels_last
    )

    def half(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return last(x)

    return {
        "as torchvision has it": lambda x: plain(x.contiguous()),
        "fused": lambda x: fused(x.contiguous()),
        "channels last": unfused,
        "fused, channels last": last,
        "fused, channels last, bfloat16": half,
    }


def seconds(step: Callable[[torch.Tensor], object], x: torch.Tensor, device: str) -> float:
    """Return the time of one call."""
    began = time.perf_counter()
    step(x)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(device: str = "cpu") -> None:
    """Print the table: the best of a few rounds that alternate between the ways."""
    torch.set_num_threads(1)
    form = InputFormat(224, 224, "bilinear", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    to_input = Preprocess(form).to(device)
    images = torch.randint(0, 256, (BATCH, 32, 32, 3), dtype=torch.uint8)
    networks = ways(device)
    best = dict.fromkeys(["preprocessing", *networks], float("inf"))
    with torch.inference_mode():
        for number in range(ROUNDS + 1):  # the first round is a warm-up
            times = {"preprocessing": seconds(to_input, images, device)}
            x = to_input(images)
            times |= {name: seconds(network, x, device) for name, network in networks.items()}
            if number:
                best = {name: min(best[name], times[name]) for name in best}
    first = best["as torchvision has it"]
    rows = [
        [name, f"{BATCH / time_:.1f}", "" if name == "preprocessing" else f"{first / time_:.2f}"]
        for name, time_ in best.items()
    ]
    print(tabulate(rows, ["resnet18, 224 px", "images/s", "ratio"], tablefmt="github"))
    total = PAPER * (best["preprocessing"] + best["fused, channels last"]) / BATCH
    print(f"\nthe paper's {PAPER:,} images, as the backbone runs: {total / 3600:.2f} h on {device}")


if __name__ == "__main__":
    main(*sys.argv[1:])
