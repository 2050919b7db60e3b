"""Measure seconds per run of 50,000 x 512 features for each method: all seeds together, and one by one.

    python benchmarks/runs.py [--methods er gem ...] [--samples 50000] [--buffer 200]

One thread, including evaluation and memory. Both times come from the same process, so compare their ratio.
The script prints a table and asserts nothing.
"""

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.pooling import pool
from sharc_core.grid.cell import Cell, HeadConfig, Training
from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS

SHARC = {
    "theta": 0.4,
    "saliency": "gradient",
    "associative_memory": "modern_hopfield",
    "associative_settings": settings_of(ASSOCIATIVE_MEMORIES, "modern_hopfield", {}, "associative_settings"),
    "read": "per_task",
}


def make_features(samples: int, channels: int = 512, classes: int = 10, side: int = 2) -> SimpleNamespace:
    """Return noisy class clusters in the form of a feature cache, with a fifth as many test samples."""
    source = torch.Generator().manual_seed(0)
    centres = torch.rand(classes, channels, 1, 1, generator=source)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % classes
        noise = torch.rand(count, channels, side, side, generator=source)
        return (centres[labels] + noise).half(), labels

    train_maps, train_labels = split(samples)
    test_maps, test_labels = split(samples // 5)
    test_pooled = pool(test_maps)
    return SimpleNamespace(
        train_maps=train_maps,
        train_pooled=pool(train_maps),
        train_labels=train_labels,
        test_pooled=test_pooled,
        tested=lambda index: test_pooled[index],
        test_labels=test_labels,
        classes=list(map(str, range(classes))),
        manifest={"dataset": "0" * 64, "backbone": {"sha256": "0" * 64}, "files": {}},
    )


def variants_of(methods: list[str]) -> list[tuple[str, str]]:
    """Return method and variant of every cell."""
    replaying = [method for method in methods if METHODS.get(method).uses_memory]
    return [(method, "plain") for method in methods] + [(method, "sharc") for method in replaying]


def make_cell(method: str, variant: str, buffer: int, seeds: list[int], **changes) -> Cell:
    """Return a cell on `make_features`: five tasks, published settings, with SHARC perfect recall."""
    memory: dict = {"buffer": buffer, "budget_unit": "floats"} if METHODS.get(method).uses_memory else {}
    if variant == "sharc":
        memory |= SHARC
    return Cell(
        dataset="synthetic",
        tasks=5,
        class_order_seed=None,
        backbone="none",
        method=method,
        variant=variant,
        scenarios=["task_il", "class_il"],
        seeds=seeds,
        training=Training(),
        head=HeadConfig(),
        method_settings=settings_of(METHODS, method, {}, "method_settings"),
        **(memory | changes),
    )


def main() -> None:
    """Run every method twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=METHODS.names())
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--buffer", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    features = make_features(options.samples)
    seeds = list(range(options.seeds))
    rows = []
    for method, variant in variants_of(options.methods):
        cell = make_cell(method, variant, options.buffer, seeds)
        run_cell(features, cell.model_copy(update={"seeds": [0]}))  # warm-up
        start = time.perf_counter()
        run_cell(features, cell)
        together = (time.perf_counter() - start) / len(seeds)
        start = time.perf_counter()
        for seed in seeds:
            run_cell(features, cell.model_copy(update={"seeds": [seed]}))
        apart = (time.perf_counter() - start) / len(seeds)
        rows.append([method, variant, together, apart, apart / together])
    header = ["method", "variant", f"s per seed, {len(seeds)} together", "s per seed, one by one", "ratio"]
    print(
        f"{options.samples:,} x 512 features, one pass, buffer {options.buffer}, one thread, "
        f"torch {torch.__version__}"
    )
    print(tabulate(rows, header, floatfmt=".2f"))


if __name__ == "__main__":
    main()
