"""Measure seconds and peak memory of cells on large maps: plain, SHARC with perfect recall, streaming LDA.

    python benchmarks/recall.py DATA [--against CHECKOUT] [--buffers 200 500] [--tasks 5 10] [--methods derpp]

Sparse random maps of 1,280 x 7 x 7, as a MobileNetV2 has at 224 px, are written once to the folder DATA, as
float16 in the format of the feature cache (about 0.7 GB by default). --features FOLDER takes a feature folder
of your own instead. Every cell runs in a process of its own on one thread, with five seeds; the process also
imports torch and opens the features. --against runs the cells with another checkout's package as well.
Processor time depends less than wall time on what else the machine does. The script prints a table and
asserts nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from tabulate import tabulate

if "SHARC_BENCH_PACKAGE" not in os.environ:
    os.environ["SHARC_BENCH_PACKAGE"] = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, os.environ["SHARC_BENCH_PACKAGE"])

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.files import atomic_folder, write_json
from sharc_core.common.integrity import stamp
from sharc_core.common.pooling import pool
from sharc_core.features.arrays import ArrayWriter
from sharc_core.features.opening import open_folders
from sharc_core.grid.cell import Cell, HeadConfig, Training
from sharc_core.grid.plug_in_settings import settings_of
from sharc_core.learning.learner import run_cell
from sharc_core.methods import METHODS
from sharc_core.studies.time.resources import spent

SHAPE = (1280, 7, 7)
BATCH = 100  # samples written at a time
FOLDER = Path("features", "random", "random", "view0")  # of the maps, where a grid's data_dir has them


def write_features(out: Path, train: int, test: int, classes: int) -> None:
    """Write class clusters of non-negative maps, half of whose values are zero, as a feature folder."""
    source = torch.Generator().manual_seed(0)
    centres = 0.5 * torch.randn(classes, *SHAPE, generator=source)
    counts, files = {"train": train, "test": test}, {}
    with atomic_folder(out) as folder:
        for split, count in counts.items():
            kinds = {
                "maps": ((count, *SHAPE), "float16"),
                "pooled": ((count, SHAPE[0]), "float32"),
                "labels": ((count,), "int64"),
            }
            names = {kind: f"{split}_{kind}.npy" for kind in kinds}
            writers = {kind: ArrayWriter(folder / names[kind], *form) for kind, form in kinds.items()}
            for labels in (torch.arange(count) % classes).split(BATCH):
                maps = centres[labels] + torch.randn(len(labels), *SHAPE, generator=source)
                maps = maps.relu_().half()
                for kind, values in (("maps", maps), ("pooled", pool(maps)), ("labels", labels)):
                    writers[kind].append(values)
            files |= {names[kind]: writer.finish() for kind, writer in writers.items()}
        stamp(folder, list(files))
        write_json(
            folder / "manifest.json",
            {
                "dataset": "0" * 64,
                "backbone": {"name": "random", "sha256": "0" * 64},
                "view": 0,
                "device": "cpu",
                "shape": list(SHAPE),
                "counts": counts,
                "classes": [str(number) for number in range(classes)],
                "files": files,
            },
        )


def make_cell(method: str, variant: str, tasks: int, buffer: int, theta: float, storage: str) -> Cell:
    """Return a cell of five seeds."""
    fields: dict = {}
    if METHODS.get(method).uses_memory:
        fields |= {"buffer": buffer, "budget_unit": "floats", "storage": storage}
    if variant == "sharc":
        kind = "modern_hopfield"
        fields |= {"theta": theta, "saliency": "gradient", "associative_memory": kind, "read": "per_task"}
        fields["associative_settings"] = settings_of(ASSOCIATIVE_MEMORIES, kind, {}, "associative_settings")
    return Cell(
        dataset="synthetic",
        tasks=tasks,
        class_order_seed=None,
        backbone="none",
        method=method,
        variant=variant,
        scenarios=["task_il", "class_il"],
        seeds=[0, 1, 2, 3, 4],
        training=Training(),
        head=HeadConfig(),
        method_settings=settings_of(METHODS, method, {}, "method_settings"),
        **fields,
    )


def run_one(folder: Path, cell: str) -> None:
    """Run one cell and print its seconds, accuracy, recall error and the process's peak memory in bytes."""
    torch.set_num_threads(1)
    features, start = open_folders([folder]), time.perf_counter()
    # not ru_maxrss, which a new process inherits from the one that started it
    with spent() as used:
        document = run_cell(features, make_cell(**json.loads(cell)))
    wall, processor = time.perf_counter() - start, used.user_seconds + used.system_seconds
    rows = torch.tensor([matrix[-1] for matrix in document["matrix"]["class_il"]])
    recall = document["costs"].get("recall_mse")
    result = {"cpu": processor, "wall": wall, "peak": used.peak_memory, "acc": rows.mean().item()}
    result["recall"] = recall
    print(json.dumps(result))


def measured(package: Path, folder: Path, cell: dict) -> dict:
    """Return what `run_one` prints in a new process that imports `package`'s sharc_core."""
    call = [sys.executable, __file__, str(folder), "--cell", json.dumps(cell)]
    environment = os.environ | {"SHARC_BENCH_PACKAGE": str(package), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Write the features if they are missing, run the cells and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--features", type=Path, help="a feature folder of the cache, instead of random maps")
    parser.add_argument("--against", type=Path, help="another checkout, run as well")
    parser.add_argument("--buffers", type=int, nargs="+", default=[200, 500])
    parser.add_argument("--tasks", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--methods", nargs="+", default=["derpp"])
    parser.add_argument("--variants", nargs="+", default=["plain", "sharc"])
    parser.add_argument("--theta", type=float, default=0.8)
    parser.add_argument("--storage", default="float16")
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        run_one(options.data, options.cell)
        return
    folder = options.features or options.data / f"maps-{options.train}" / FOLDER
    if not folder.exists():
        write_features(folder, options.train, options.train // 10, classes=100)
    packages = {"": Path(os.environ["SHARC_BENCH_PACKAGE"])}
    if options.against:
        packages = {"before": options.against.resolve(), "after": packages[""]}
    rows = []
    for method in options.methods:
        uses_memory = METHODS.get(method).uses_memory
        for tasks in options.tasks:
            for buffer in options.buffers if uses_memory else [0]:
                for variant in options.variants if uses_memory else ["plain"]:
                    cell = {"method": method, "variant": variant, "tasks": tasks, "buffer": buffer}
                    cell |= {"theta": options.theta, "storage": options.storage}
                    for name, package in packages.items():
                        row = measured(package, folder, cell)
                        recall = None if None in (row["recall"] or [None]) else max(row["recall"])
                        figures = [row["cpu"], row["wall"], row["peak"] / 1e9, row["acc"], recall]
                        rows.append([method, tasks, buffer or None, variant, name, *figures])
                        print(*rows[-1], file=sys.stderr, flush=True)
    header = ["method", "tasks", "buffer", "variant", "code"]
    header += ["CPU s", "wall s", "peak, GB", "ACC, %", "recall MSE"]
    print(f"{folder}, theta {options.theta:g}, five seeds, one thread, torch {torch.__version__}")
    formats = ("", "", "", "", "", ".1f", ".1f", ".2f", ".3f", ".3g")
    print(tabulate(rows, header, tablefmt="github", floatfmt=formats))


if __name__ == "__main__":
    main()
