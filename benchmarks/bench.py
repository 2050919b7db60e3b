"""Measure the project's targets for time and memory, and print by how much each is met or missed.

    python benchmarks/bench.py [--parts start steps features memories scale runs]      (make bench)

Takes less than ten minutes on two idle cores; everything that is compared runs in one process or in turns.
start: reading and planning the paper's grid. steps: an ER step of five seeds against its matrix products.
features: extraction against the bare forward pass, and the share of time in the kernel. memories: BayesPCN
against the published procedure in plain torch. scale: SHARC with perfect recall against plain replay on maps
of 1,280 x 7 x 7. runs: the cells of the paper's tables on 512 channels. docs/performance.md has a run.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import associative
import recall
import runs
from gpu import random_images

from sharc_core.backbones import BackboneConfig, load_backbone
from sharc_core.backbones.architectures import build_classifier
from sharc_core.common.determinism import same_bits
from sharc_core.common.device import keep_memory
from sharc_core.features.cache import extract_features
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
TABLES = ("gem", "agem", "er", "mer", "derpp", "clser")  # the replay methods of the paper's tables
READING = "from sharc_core import load_config; load_config('config/paper.yaml')"
IMAGES = 384
TRAIN = 10_000  # maps of 1,280 x 7 x 7, 1.3 GB on disk


def row(what: str, measured: float, most: float, unit: str, why: str = "") -> list[str]:
    """Return a row of the table: what was measured, and whether it is at most its target."""
    factor = f" by a factor of {measured / most:.2f}" if most else ""
    verdict = "met" if measured <= most else f"missed{factor}"
    found = [what, f"{measured:.3g} {unit}", f"{most:g} {unit}", verdict, why if measured > most else ""]
    print("  ".join(found), file=sys.stderr, flush=True)
    return found


def seconds(run: Callable[[], object], times: int = 3) -> float:
    """Return the median time of a call."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def command(*words: str) -> Callable[[], object]:
    """Return a call that runs Python with these words in the project's root."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # with it a plan keeps nothing for the next one
    return lambda: subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, check=True, capture_output=True
    )


def start() -> list[list[str]]:
    """Return rows for reading the paper's grid file and for a second dry run of it."""
    plan = command("-m", "snakemake", "-n", "--cores", "2", "--configfile", "config/paper.yaml")
    python = seconds(command("-c", "pass"))
    reading = command("-c", READING)
    reading()
    rows = [row("reading config/paper.yaml, beyond Python's start", seconds(reading) - python, 0.4, "s")]
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys; {READING}; sys.exit('torch' in sys.modules)"],
        cwd=ROOT,
        check=False,
    )
    rows.append(row("of that, imports of torch", loaded.returncode, 0, "imports"))
    plan()
    rows.append(row("snakemake -n of the paper's grid, second call", seconds(plan), 3, "s"))
    return rows


def steps() -> list[list[str]]:
    """Return a row for an ER step of five seeds on 512 features and 10 classes, batches of 10 and 10."""
    few, many = runs.make_features(2_000), runs.make_features(12_000)
    cell = runs.make_cell("er", "plain", 200, [0, 1, 2, 3, 4])
    run_cell(few, cell)
    step = (seconds(lambda: run_cell(many, cell)) - seconds(lambda: run_cell(few, cell))) / 1_000
    x, weights = torch.rand(5, 20, 512), torch.rand(5, 512, 10)
    slope = torch.rand(5, 20, 10)

    def products() -> None:
        for _ in range(1_000):
            torch.bmm(x, weights)
            torch.bmm(x.mT, slope)

    products()
    ratio = step / (seconds(products) / 1_000)
    why = "ten small operations besides the products, and the tests after each task"
    return [row("an ER step of five seeds, in times of its matrix products", ratio, 3, "times", why)]


def features() -> list[list[str]]:
    """Return rows for extraction with a MobileNetV2 at 224 px, on all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    keep_memory()  # as a job does
    data = random_images(IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save_file(build_classifier("mobilenet_v2").state_dict(), weights := Path(folder, "w.safetensors"))
        config = BackboneConfig(arch="mobilenet_v2", weights=str(weights), image_size=224)
        backbone = load_backbone(config, weights, "cpu")
        batches = torch.from_numpy(data.train_images).split(128)
        inputs = [backbone.preprocess(batch) for batch in batches]

        def forward() -> None:
            with torch.inference_mode(), same_bits("cpu"):
                for batch in inputs:
                    backbone(batch)

        def extract() -> None:
            out = Path(folder, f"out{time.monotonic_ns()}")
            extract_features(data, backbone, out)

        forward()
        bare, extracted, shares = [], [], []
        for _ in range(3):
            bare.append(seconds(forward, 1))
            before = os.times()
            extracted.append(seconds(extract, 1))
            after = os.times()
            user, kernel = after.user - before.user, after.system - before.system
            shares.append(100 * kernel / (user + kernel))
    torch.set_num_threads(1)
    ratio = statistics.median(extracted) / statistics.median(bare)
    why = "preprocessing, float16, the checksum and the disk do not overlap with the forward pass"
    return [
        row("extraction, in times of the bare forward pass at batch 128", ratio, 1.15, "times", why),
        row("its time in the kernel", statistics.median(shares), 5, "%", "the file of maps is written"),
    ]


def memories() -> list[list[str]]:
    """Return rows for BayesPCN, in parts of the published procedure's time in plain torch."""
    maps, labels = associative.make_maps(10, 2)
    mask = associative.top_mask(torch.rand(2, associative.SHAPE[0]), 0.8)[labels]
    options = SimpleNamespace(steps=500, tolerance=None, repeats=1)
    found = associative.compare(
        "predictive", options, maps, labels, {0.8: associative.Recall(maps, labels, mask)}
    )
    rows = []
    for _, what, name, direct, own, *_ in found:
        rows.append(row(f"{name}, {what}, in parts of the published procedure", own / direct, 1, "parts"))
    return rows


def scale() -> list[list[str]]:
    """Return rows for a cell of DER++ with perfect recall, buffer 500, theta 0.8, 5 tasks, 100 classes."""
    with tempfile.TemporaryDirectory() as folder:
        maps = Path(folder) / recall.FOLDER
        recall.write_features(maps, TRAIN, TRAIN // 10, classes=100)
        cells = {
            variant: recall.measured(
                ROOT,
                maps,
                {
                    "method": "derpp",
                    "variant": variant,
                    "tasks": 5,
                    "buffer": 500,
                    "theta": 0.8,
                    "storage": "float16",
                },
            )
            for variant in ("plain", "sharc")
        }
    ratio = cells["sharc"]["cpu"] / cells["plain"]["cpu"]
    why = f"of {TRAIN:,} images {5 * 500:,} are stored, whose maps are compared and pooled for every seed"
    return [
        row("perfect recall on 1,280 x 7 x 7 maps, in times of the plain cell", ratio, 3, "times", why),
        row("its peak memory", cells["sharc"]["peak"] / 1e9, 1.5, "GB"),
    ]


def tables() -> list[list[str]]:
    """Return a row for the 114 cells (570 runs, of which 780 results are read) of tables 1 and 2."""
    data, seeds = runs.make_features(50_000), [0, 1, 2, 3, 4]
    cells = [runs.make_cell(method, "plain", 200, seeds) for method in ("sgd", "joint")]
    for method in TABLES:
        assert METHODS.get(method).uses_memory
        for buffer in (200, 500):
            cells.append(runs.make_cell(method, "plain", buffer, seeds))
            cells += [runs.make_cell(method, "sharc", buffer, seeds, theta=theta) for theta in (0.4, 0.8)]
    run_cell(data, cells[0])
    total = sum(seconds(lambda cell=cell: run_cell(data, cell), 1) for cell in cells)
    what = "tables 1 and 2, perfect recall, two cores (three times one data set's cells, halved)"
    return [row(what, 3 * total / 2, 360, "s")]


PARTS = {
    "start": start,
    "steps": steps,
    "features": features,
    "memories": memories,
    "scale": scale,
    "runs": tables,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    rows = [found for part in options.parts for found in PARTS[part]()]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {time.perf_counter() - begun:.0f} s in total\n"
    )
    print(
        tabulate(rows, ["", "measured", "at most", "target", "why"], tablefmt="github", disable_numparse=True)
    )


if __name__ == "__main__":
    main()
