"""Synthetic cell documents, as in results/matrices, for tests of results, figures and report."""

from collections.abc import Sequence
from itertools import product

import numpy as np

GAIN = {"er": 22.0, "mer": 21.0, "gem": 8.0, "agem": 3.0, "derpp": 24.0, "clser": 20.0}
MAP_BYTES = 512 * 16 * 2


def make_document(
    method: str = "er",
    variant: str = "plain",
    *,
    dataset: str = "s_digits",
    backbone: str = "tiny",
    buffer: int | None = 100,
    matrices: dict | None = None,
    scenarios: Sequence[str] = ("task_il", "class_il"),
    seeds: Sequence[int] = (0, 1, 2),
    tasks: int = 3,
    **settings,
) -> dict:
    """Return a cell's document.

    matrices: R x T x T by scenario; None for plausible random ones. scenarios: those in the document.
    """
    memory = method not in ("sgd", "joint")
    sharc = memory and variant == "sharc"
    cell = {
        "dataset": dataset,
        "backbone": backbone,
        "method": method,
        "variant": variant,
        "buffer": buffer if memory else None,
        "budget_unit": "floats" if memory else None,
        "budget_split": "equal",
        "storage": "float16",
        "count_associative_memory": False,
        "theta": 0.8 if sharc else None,
        "mass": None,
        "associative_memory": "mean" if sharc else None,
        "saliency": "gradient" if sharc else None,
        "read": "per_task" if sharc else None,
        "views": 1,
    } | settings
    if matrices is None:
        matrices = _matrices(cell, len(seeds), tasks)
    count, tasks = np.shape(matrices["task_il"])[:2]
    stored = (cell["buffer"] or 0) * (5 if sharc else 1)
    episodic = stored * (MAP_BYTES // (5 if sharc else 1) + 8)
    associative = 10 * MAP_BYTES * 2 if sharc else 0
    learner = 4 * 513 * 2 * tasks
    return {
        "format": 2,
        "cell": cell,
        "config_hash": f"{abs(hash_text(repr(sorted(cell.items())))) % 16**8:08x}",
        "seeds": list(seeds),
        "classes_per_task": [[2 * t, 2 * t + 1] for t in range(tasks)],
        "matrix": {name: _nested(matrices[name]) for name in scenarios},
        "untrained": {
            "task_il": [[50.0] * tasks] * count,
            "class_il": [[50.0 / tasks] * tasks] * count,
        },
        "costs": {
            "episodic_bytes": [episodic] * count,
            "associative_bytes": [associative] * count,
            "learner_bytes": [learner] * count,
            "peak_bytes": [episodic + associative + learner] * count,
            "samples_stored": [stored] * count,
            "recall_mse": [0.1 + r / 7 for r in range(count)] if sharc else None,
            "train_flops": [10**9 + r for r in range(count)],
            "backbone_passes": [5000 * tasks] * count,
            "train_seconds": [1 / 3] * count,
        },
        "trainings": [{"seeds": list(seeds)} | made_by()],
    }


def made_by() -> dict:
    """Return the `origin` and `versions` of a training."""
    origin = {
        "commit": "c0" * 20,
        "dirty": False,
        "data": "da" * 32,
        "weights": "3e" * 32,
        "features": "fe" * 32,
        "host": "Linux x86_64, a processor",
    }
    versions = {"sharc_bench": "0.1.0", "python": "3.11", "torch": "2", "torchvision": "0"}
    return {"origin": origin, "versions": versions}


def make_grid(
    datasets: Sequence[str] = ("s_digits", "s_glyphs"),
    methods: Sequence[str] = ("sgd", "joint", "er", "mer", "gem", "agem", "derpp", "clser"),
    buffers: Sequence[int] = (100, 300),
    **common,
) -> list[dict]:
    """Return documents of every method: plain, and with SHARC if it has a memory."""
    documents = []
    for dataset, method in product(datasets, methods):
        if method in ("sgd", "joint"):
            documents.append(make_document(method, dataset=dataset, **common))
            continue
        for buffer, variant in product(buffers, ("plain", "sharc")):
            documents.append(make_document(method, variant, dataset=dataset, buffer=buffer, **common))
    return documents


def constant_matrix(accs: Sequence[float], diagonal: float = 90.0, tasks: int = 2) -> list:
    """Return R x T x T with ACC accs[r] in the last row and `diagonal` right after each earlier task."""
    matrix = np.zeros((len(accs), tasks, tasks))
    for r, value in enumerate(accs):
        matrix[r][np.diag_indices(tasks)] = diagonal
        matrix[r, -1] = value
    return matrix.tolist()


def hash_text(text: str) -> int:
    """Return a text's hash, which is equal in every process."""
    return int.from_bytes(text.encode()[-64:], "big") * 2654435761 + sum(text.encode())


def _matrices(cell: dict, count: int, tasks: int) -> dict:
    identity = repr([cell[k] for k in ("dataset", "backbone", "method", "variant", "buffer", "theta")])
    random = np.random.default_rng(hash_text(identity) % 2**32)
    shape = (count, tasks, tasks)
    kept = GAIN.get(cell["method"], 15.0) * (1.3 if cell["variant"] == "sharc" else 1.0)
    kept += (cell["buffer"] or 0) / 60
    after = np.tril(np.arange(tasks)[:, None] - np.arange(tasks)[None, :]).astype(float)
    class_il = np.where(after == 0, 92.0, 8.0 + (kept if cell["method"] != "sgd" else 0))
    class_il = np.where(np.triu(np.ones((tasks, tasks)), 1) > 0, 2.0, class_il)
    task_il = np.where(np.triu(np.ones((tasks, tasks)), 1) > 0, 52.0, 88.0 - 0.4 * after)
    if cell["method"] == "joint":
        class_il, task_il = np.full_like(class_il, 75.0), np.full_like(task_il, 95.0)
    noise = random.normal(0, 1.5, shape)
    class_il, task_il = class_il + noise, task_il + random.normal(0, 1.5, shape)
    if cell["method"] == "joint":
        class_il[:, :-1] = task_il[:, :-1] = np.nan
    task_il = np.maximum(task_il, class_il)
    return {"task_il": task_il.clip(0, 100), "class_il": class_il.clip(0, 100)}


def _nested(values) -> list:
    array = np.array(values, dtype=float)
    return np.where(np.isnan(array), None, array.astype(object)).tolist()
