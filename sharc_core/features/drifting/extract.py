"""Extract drifting features: pass training images in stream order through a network in train mode."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from sharc_core.backbones import Backbone
from sharc_core.backbones.augment import moved
from sharc_core.backbones.batch_norm import BatchNorms, Drift, evaluated
from sharc_core.backbones.config import PASSES_LIMIT
from sharc_core.common.deferred import torch
from sharc_core.common.determinism import same_bits
from sharc_core.common.device import device_text
from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_folder, digest, read_json, write_json
from sharc_core.common.integrity import check_files, stamp
from sharc_core.common.pooling import pool
from sharc_core.datasets import PreparedData
from sharc_core.features.arrays import ArrayWriter
from sharc_core.features.cache import Tally, check_space, half, moves_of_view
from sharc_core.features.drifting.part import Kept, Part
from sharc_core.streams.stream import Stream

TESTED = 16  # test images per batch; a batch that fits the caches of a core is fastest
PASSES = range(1, PASSES_LIMIT + 1)
STATISTICS = "statistics.safetensors"


@dataclass
class Extraction:
    """Extracts the parts of one data set and backbone.

    backbone: not fused. maps, pooled: stored types; other types than the defaults serve comparisons.
    """

    prepared: PreparedData
    stream: Stream
    backbone: Backbone
    device: torch.device | str = "cpu"
    progress: Callable[[str], None] | None = None
    maps: torch.dtype = torch.float16
    pooled: torch.dtype = torch.float32
    tally: Tally = field(init=False)
    loaded: torch.Tensor = field(init=False)
    written: dict[str, dict] = field(default_factory=dict, init=False)

    def __post_init__(self):
        self.loaded = BatchNorms(self.backbone.body).statistics()  # a pass changes those in the network

    def run(self, part: Part, out: Path, train: Path | None = None) -> None:
        """Write the folder of a part, its manifest last. train: for `tests`, the seed's `train` folder.

        Tasks that an interrupted call finished are not repeated. Raises UserError when the disk is too small,
        for a batch without variance, and for maps beyond float16.
        """
        if (out / "manifest.json").exists():
            # a complete folder is made again from scratch; readers keep the old one until the end
            with atomic_folder(out) as temporary:
                self._run(part, temporary, train)
        else:
            out.mkdir(parents=True, exist_ok=True)
            self._run(part, out, train)

    def _run(self, part: Part, out: Path, train: Path | None) -> None:
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)  # sums over several threads round differently
            self._write(part, out, train)
        finally:
            torch.set_num_threads(threads)

    def _write(self, part: Part, out: Path, train: Path | None) -> None:
        self.tally = Tally(self._images(part), self.progress)
        with torch.inference_mode(), same_bits(self.device):
            if part.kind == "start":
                steps = iter([("start", self._start)])
            elif part.kind == "joint":
                steps = iter([("joint", lambda folder: self._joint(part, folder))])
            elif part.kind == "train":
                steps = self._training(part, out)
            else:
                assert train is not None
                steps = self._tests(part, out, train)
            names = [self._finish(out, name, make) for name, make in steps]
        files = {
            f"{name}/{file}": entry
            for name in names
            for file, entry in read_json(out / name / "manifest.json")["files"].items()
        }
        stamp(out, list(files))
        write_json(out / "manifest.json", self._manifest(part, files))
        if self.progress:
            self.progress(self.tally.summary())

    def _manifest(self, part: Part, files: dict[str, Any]) -> dict[str, Any]:
        return {
            "dataset": digest(self.prepared.manifest, 64),
            "backbone": self.backbone.describe(),
            "part": part.name,
            "device": device_text(self.device),
            "shape": [self.backbone.channels, *self.backbone.map_size],
            "counts": {
                "train": len(self.prepared.train_labels),
                "test": len(self.prepared.test_labels),
                "tasks": self.stream.tasks,
            },
            "classes": list(self.prepared.manifest["classes"]),
            "files": files,
        }

    def _images(self, part: Part) -> int:
        train, test = len(self.prepared.train_labels), len(self.prepared.test_labels)
        after = sum(len(self._test_images_after(task)) for task in range(self.stream.tasks))
        return {"start": test, "train": train, "joint": train + test, "tests": after}[part.kind]

    def _finish(self, out: Path, name: str, make: Callable[[Path], None]) -> str:
        """Make a folder below `out` atomically, unless it is complete. Return its name."""
        folder, device = out / name, device_text(self.device)
        if _is_complete(folder, device):
            self.tally.skip(read_json(folder / "manifest.json")["images"])
            return name
        before = self.tally.done
        with atomic_folder(folder) as temporary:
            self.written = {}
            make(temporary)
            files = dict(sorted(self.written.items()))
            images = self.tally.done - before
            write_json(temporary / "manifest.json", {"files": files, "images": images, "device": device})
        return name

    def _save(self, path: Path, values: torch.Tensor) -> None:
        """Write an array. Its checksum is of the values in memory, so a truncated file is detected."""
        writer = ArrayWriter(path, tuple(values.shape), values.numpy().dtype)
        writer.append(values)
        self.written[path.name] = writer.finish()

    # --- test images -----------------------------------------------------------------------------

    def _start(self, folder: Path) -> None:
        """Save the labels and the features of all test images with the loaded statistics."""
        order = torch.cat(self.stream.test)
        self._save(
            folder / "train_labels.npy",
            torch.from_numpy(np.array(self.prepared.train_labels, dtype=np.int64)),
        )
        self._save(
            folder / "test_labels.npy", torch.from_numpy(np.array(self.prepared.test_labels, dtype=np.int64))
        )
        self._save(folder / "test_order.npy", order)
        self._save(folder / "tested.npy", self._pooled_tests(self._evaluated(None), order))

    def _test_images_after(self, task: int) -> torch.Tensor:
        """Return the test images of the tasks up to `task` and of the next one."""
        return torch.cat(self.stream.test[: task + 2])

    def _tests(self, part: Part, out: Path, train: Path) -> Iterator[tuple[str, Callable]]:
        passes = part.passes
        assert passes is not None
        for task in range(self.stream.tasks):

            def make(folder: Path, task: int = task) -> None:
                statistics = _statistics(train / f"task{task}")[passes]
                tested = self._pooled_tests(self._evaluated(statistics), self._test_images_after(task))
                self._save(folder / "tested.npy", tested)

            yield f"task{task}", make

    def _evaluated(self, statistics: torch.Tensor | None) -> Backbone:
        return evaluated(self.backbone, (self.loaded if statistics is None else statistics).to(self.device))

    def _pooled_tests(self, backbone: Backbone, index: torch.Tensor) -> torch.Tensor:
        rows = []
        for part in index.split(TESTED):
            images = torch.from_numpy(np.array(self.prepared.test_images[part.numpy()]))
            maps = self._stored(backbone(backbone.preprocess(images)), "a test image")
            rows.append(pool(maps).to(self.pooled))
            self.tally.add(len(part), "test")
        return torch.cat(rows)

    def _stored(self, maps: torch.Tensor, where: str) -> torch.Tensor:
        maps = maps.cpu()
        return (
            half(maps, where, self.backbone)
            if self.maps == torch.float16
            else maps.to(self.maps).contiguous()
        )

    # --- training images -------------------------------------------------------------------------

    def _training(self, part: Part, out: Path) -> Iterator[tuple[str, Callable]]:
        drift = Drift(self.backbone, dict.fromkeys(PASSES, self.loaded))
        seed, kept = part.seed, part.kept
        assert seed is not None and kept is not None
        for task in range(self.stream.tasks):

            def make(folder: Path, task: int = task) -> None:
                order = self.stream.order(task, 0, [seed])[0]
                self._pass(drift, order, part, kept, folder)

            yield f"task{task}", make
            finished = _statistics(out / f"task{task}")
            drift.running = {passes: values.to(self.device) for passes, values in finished.items()}

    def _joint(self, part: Part, folder: Path) -> None:
        assert part.seed is not None and part.passes is not None
        drift = Drift(self.backbone, {part.passes: self.loaded})
        order = self.stream.joint().order(0, 0, [part.seed])[0]
        self._pass(drift, order, part, Kept(0), folder)
        tested = self._pooled_tests(self._evaluated(drift.running[part.passes]), torch.cat(self.stream.test))
        self._save(folder / "tested.npy", tested)

    def _pass(self, drift: Drift, order: torch.Tensor, part: Part, kept: Kept, folder: Path) -> None:
        """Pass training images `order` (N,) in batches. Save pooled vectors, counts and last maps."""
        moves = moves_of_view(self.prepared.train_images.shape, part.view) if part.view else None
        pooled, counts, tail = [], [], _Tail(kept, len(order), folder, drift.backbone, self.maps)
        for index in order.split(part.batch):
            images = torch.from_numpy(np.array(self.prepared.train_images[index.numpy()]))
            if moves is not None:
                images = moved(images, moves[index], edge=False)
            maps = drift.maps(drift.backbone.preprocess(images))
            maps = self._stored(maps, f"training image {int(index[0])}")
            pooled.append(pool(maps).to(self.pooled))
            counts.append((maps != 0).sum((2, 3)).to(_count_type(drift.backbone.map_size)))
            tail.add(maps, counts[-1])
            self.tally.add(len(index), "train")
        self._save(folder / "maps.npy", tail.maps())
        self._save(folder / "order.npy", order)
        self._save(folder / "pooled.npy", torch.cat(pooled))
        self._save(folder / "nonzero.npy", torch.cat(counts))
        running = {f"passes{passes}": values.cpu().contiguous() for passes, values in drift.running.items()}
        content = save(running)
        (folder / STATISTICS).write_bytes(content)
        self.written[STATISTICS] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


class _Tail:
    """Keeps the last maps of a task, with at least the samples and non-zero values that `kept` names."""

    def __init__(self, kept: Kept, samples: int, folder: Path, backbone: Backbone, dtype: torch.dtype):
        self.kept = kept
        shape = (backbone.channels, *backbone.map_size)
        self.most = kept.full * math.prod(shape)
        size = torch.empty(0, dtype=dtype).element_size() * math.prod(shape)
        least = samples if kept.samples is None else kept.samples
        check_space(folder, least * size, f"drifting features {folder.parent}")
        self.batches: list[torch.Tensor] = []
        self.values: list[int] = []
        self.empty = torch.empty(0, *shape, dtype=dtype)

    def add(self, maps: torch.Tensor, counts: torch.Tensor) -> None:
        """Add a batch and drop the oldest batches that are no longer needed."""
        self.batches.append(maps)
        self.values.append(int(counts.sum(dtype=torch.int64)))
        if self.kept.samples is None:
            return
        held = sum(map(len, self.batches))
        while self.batches and (
            held - len(self.batches[0]) >= self.kept.samples
            and sum(self.values) - self.values[0] >= self.most
        ):
            held -= len(self.batches.pop(0))
            self.values.pop(0)

    def maps(self) -> torch.Tensor:
        """Return the kept maps (m, K, h, w)."""
        return torch.cat([self.empty, *self.batches])


def _count_type(map_size: tuple[int, ...]) -> torch.dtype:
    return torch.uint8 if map_size[0] * map_size[1] < 256 else torch.int32


def _statistics(folder: Path) -> dict[int, torch.Tensor]:
    """Return the running statistics after a task, by the number of passes."""
    try:
        tensors = load_file(folder / STATISTICS)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder / STATISTICS} cannot be read ({error}): delete the folder and run again"
        ) from None
    return {int(name.removeprefix("passes")): values for name, values in tensors.items()}


def _is_complete(folder: Path, device: str) -> bool:
    """Return whether a folder has all files, made on this device. All bits of a part come from one device."""
    try:
        manifest = read_json(folder / "manifest.json")
        check_files(folder, manifest["files"], verify=True)
        return manifest["device"] == device and manifest["images"] >= 0
    except (UserError, KeyError, TypeError, AttributeError):
        return False
