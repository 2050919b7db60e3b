"""Check on a real GPU what machines without one cannot, and print its times beside the CPU's.

    python benchmarks/gpu.py [--parts tests features memories cells] [--device cuda]

tests: the tests that need a GPU, which compare every method and associative memory with the CPU. features:
images through frozen networks at 224 px, and written to the cache. memories: seconds to write and to read
maps, by associative memory. cells: seconds per cell of five seeds, by method. Everything runs twice on the
GPU: `bits` says whether both runs gave the same, and times are those of the second. The CPU takes one
thread, as a job does. The script prints one table and exits with 1 if a test fails or bits differ. On an
H100 it takes more than three minutes. Without a GPU it says so and stops; --device cpu tries the script
itself.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runs import make_cell, make_features, variants_of

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.common.determinism import same_bits
from sharc_core.common.device import device_text
from sharc_core.features.cache import extract_features
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/test_cuda.py", "tests/test_associative_cuda.py")
PARTS = ("tests", "features", "memories", "cells")
NETWORKS = ("resnet18", "mobilenet_v2")
IMAGES = {"cpu": 16, "cuda": 4096}
MAPS = (512, 7, 7)  # of the paper's network
STORED = {"cpu": 10, "cuda": 100}  # maps written and read; a state of `hopfield` grows with the map's square
SMALL = {"hopfield": (128, 4, 4)}
SAMPLES = 1_000  # of a cell
HEADER = ["", "what", "GPU", "CPU", "GPU against CPU", "bits"]


def timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Return the seconds of a call, up to its last operation on the device, and its result."""
    begun = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun, result


def digest(values: Any) -> str:
    """Return a hash of a tensor's bits, or of anything else as text."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(values if isinstance(values, bytes) else str(values).encode()).hexdigest()


def row(part: str, what: str, device: str, run: Callable[[str], tuple[float, Any]], unit: str) -> list:
    """Return a row of the table. run: takes a device; returns units per second or seconds, and a result."""
    runs = [run(device) for _ in range(2)]
    rates = runs[1][0], run("cpu")[0]
    ratio = rates[0] / rates[1] if unit.endswith("/s") else rates[1] / rates[0]
    same = len({digest(result) for _, result in runs}) == 1
    found = [
        part,
        what,
        *(f"{rate:,.4g} {unit}" for rate in rates),
        f"{ratio:.2f}",
        "same" if same else "DIFFER",
    ]
    print("  ".join(found), file=sys.stderr, flush=True)
    return found


def tests(device: str) -> list[list]:
    """Run the tests that need a GPU in another process, on several cores if pytest-xdist is installed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    try:
        import xdist  # noqa: F401

        command += ["-n", "8"]
    except ImportError:
        pass
    seconds, done = timed(lambda: subprocess.run(command, cwd=ROOT, capture_output=True, text=True), device)
    lines = [line for line in done.stdout.splitlines() if line[:1].isdigit()]
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
    said = lines[-1].strip("= ") if lines else f"exit code {done.returncode}"
    return [
        [
            "tests",
            f"{' '.join(TESTS)}: {said}",
            f"{seconds:.4g} s",
            "",
            "",
            "" if not done.returncode else "FAILED",
        ]
    ]


def random_images(count: int) -> SimpleNamespace:
    """Return random images of 32 px in the form of a prepared data set."""
    source = np.random.default_rng(0)
    images = source.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 10
    return SimpleNamespace(
        train_images=images,
        train_labels=labels,
        test_images=images[:1],
        test_labels=labels[:1],
        manifest={"classes": list(map(str, range(10)))},
    )


def features(device: str) -> list[list]:
    """Return rows for the forward pass alone and for extraction into the cache, with random weights."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for arch in NETWORKS:
            torch.manual_seed(0)
            save_file(build_classifier(arch).state_dict(), weights := Path(folder, f"{arch}.safetensors"))
            config = BackboneConfig(arch=arch, weights=str(weights), image_size=224)

            def forward(on: str, config=config, weights=weights) -> tuple[float, Any]:
                backbone, data = load_backbone(config, weights, on), random_images(IMAGES[on])
                parts = torch.from_numpy(data.train_images).split(128)
                with torch.inference_mode(), same_bits(on):
                    backbone(backbone.preprocess(parts[0]))
                    seconds, last = timed(lambda: [backbone(backbone.preprocess(x)) for x in parts][-1], on)
                return len(data.train_images) / seconds, last

            def extract(on: str, config=config, weights=weights) -> tuple[float, Any]:
                backbone, data, out = (
                    load_backbone(config, weights, on),
                    random_images(IMAGES[on]),
                    Path(folder, on),
                )
                seconds, _ = timed(lambda: extract_features(data, backbone, out, device=on), on)
                manifest = (out / "manifest.json").read_text()
                shutil.rmtree(out)
                return (len(data.train_images) + 1) / seconds, manifest

            rows.append(row("features", f"{arch}, forward", device, forward, "images/s"))
            rows.append(row("features", f"{arch}, into the cache", device, extract, "images/s"))
    return rows


def memories(device: str) -> list[list]:
    """Return rows for writing and for reading at theta 0.8, by associative memory with published settings."""
    rows = []
    for name in ASSOCIATIVE_MEMORIES.names():
        kind, shape = ASSOCIATIVE_MEMORIES.get(name), SMALL.get(name, MAPS)
        source = torch.Generator().manual_seed(0)
        maps = torch.rand(max(STORED.values()), *shape, generator=source).sub_(0.5).relu_().half()
        labels = torch.arange(len(maps)) % 10
        masks = torch.rand(10, shape[0], generator=source).argsort(1).argsort(1) < shape[0] // 5
        mask = masks[labels]
        written: dict[str, Any] = {}

        def write(on: str, kind=kind, shape=shape, maps=maps, labels=labels, written=written):
            count = STORED[on]
            written[on] = kind(kind.Settings(), shape, 10, device=on)
            given = maps[:count].to(on), labels[:count].to(on)
            with same_bits(on):
                seconds, _ = timed(lambda: written[on].write(*given), on)
            state = [digest(tensor) for tensor in written[on].tensors().values()]
            return 1000 * seconds / count, state

        def read(on: str, maps=maps, mask=mask, labels=labels, written=written):
            count = STORED[on]
            given = maps[:count].to(on), mask[:count].to(on), labels[:count].to(on)
            with same_bits(on):
                seconds, recalled = timed(lambda: written[on].read(*given), on)
            return 1000 * seconds / count, recalled

        size = " x ".join(map(str, shape))
        if kind.needs_writing:
            rows.append(row("memories", f"{name}, write ({size})", device, write, "ms a map"))
        else:
            for on in {device, "cpu"}:
                write(on)
        rows.append(row("memories", f"{name}, read", device, read, "ms a map"))
    return rows


def cells(device: str) -> list[list]:
    """Return a row for every method, and for every replay method with SHARC."""
    data = make_features(SAMPLES)
    rows = []
    for method, variant in variants_of(METHODS.names()):

        def train(on: str, method=method, variant=variant) -> tuple[float, Any]:
            cell = make_cell(method, variant, 200, [0, 1, 2, 3, 4], device=on)
            seconds, document = timed(lambda: run_cell(data, cell), on)
            return seconds, document["matrix"]

        name = method if variant == "plain" else f"{method} with SHARC"
        rows.append(row("cells", name, device, train, "s"))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "benchmarks/gpu.py: torch sees no usable GPU (--device cpu tries the script itself)\n")
    torch.set_num_threads(1)
    begun = time.perf_counter()
    by_name = {"tests": tests, "features": features, "memories": memories, "cells": cells}
    rows = [found for part in options.parts for found in by_name[part](options.device)]
    print(
        f"{device_text(options.device)}, torch {torch.__version__}, one CPU thread, "
        f"{time.perf_counter() - begun:.0f} s in total\n"
    )
    print(tabulate(rows, HEADER, tablefmt="github", disable_numparse=True))
    sys.exit(any(found[-1] in ("DIFFER", "FAILED") for found in rows))


if __name__ == "__main__":
    main()
