"""Extract what the backbone computes from training images that were encoded and decoded, and their sizes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sharc_core.backbones import Backbone
from sharc_core.common.deferred import torch
from sharc_core.common.device import device_text
from sharc_core.common.files import atomic_folder, digest, write_json
from sharc_core.common.integrity import stamp
from sharc_core.common.pooling import pool
from sharc_core.common.seeds import generator
from sharc_core.datasets import PreparedData
from sharc_core.features.arrays import ArrayWriter
from sharc_core.features.cache import BATCH, Tally, augmented_view, check_space, half
from sharc_core.representations.codec import Codec


def extract_encoded(
    prepared: PreparedData,
    backbone: Backbone,
    out: Path,
    codec: Codec,
    view: int = 0,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> None:
    """Encode and decode the training images of a view, run the backbone over them and write `out` atomically.

    The folder has train_pooled.npy (N, K) float32 and train_sizes.npy (N,) int64, the bytes of each file. The
    images and their order are those that features.cache.extract_features takes for the view, and so are the
    batches and the rounding of maps to float16: a lossless codec gives the vectors of that folder, bit for
    bit. Raises UserError as extract_features does.
    """
    count, channels = len(prepared.train_labels), backbone.channels
    check_space(Path(out), encoded_bytes(count, channels), f"features {out}")
    backbone = backbone.to(device)
    tally = Tally(count, progress)
    from sharc_core.common.determinism import same_bits  # imports torch, which a plan does not need

    with atomic_folder(out) as folder, torch.inference_mode(), same_bits(device):
        pooled = ArrayWriter(folder / "train_pooled.npy", (count, channels), np.float32)
        sizes = ArrayWriter(folder / "train_sizes.npy", (count,), np.int64)
        for start in range(0, count, batch_size):
            batch = torch.from_numpy(np.array(prepared.train_images[start : start + batch_size]))
            if view > 0:
                batch = augmented_view(batch, generator(view, "view", start))
            files = [codec.encode(image) for image in batch.numpy()]
            decoded = torch.from_numpy(np.stack([codec.decode(file) for file in files]))
            maps = backbone(backbone.preprocess(decoded)).cpu()
            pooled.append(pool(half(maps, f"train image {start} as {codec.name}", backbone)))
            sizes.append(torch.tensor([len(file) for file in files]))
            tally.add(len(batch), f"train as {codec.name}")
        written = {writer.path.name: writer.finish() for writer in (pooled, sizes)}
        manifest = {
            "dataset": digest(prepared.manifest, 64),
            "backbone": backbone.describe(),
            "view": view,
            "codec": {"name": codec.name, "libraries": codec.libraries},
            "device": device_text(device),
            "shape": [channels, *backbone.map_size],
            "counts": {"train": count},
            "classes": list(prepared.manifest["classes"]),
            "files": written,
        }
        stamp(folder, list(written))
        write_json(folder / "manifest.json", manifest)
    if progress:
        progress(tally.summary())


def encoded_bytes(images: int, channels: int) -> int:
    """Estimate the bytes on disk of what `extract_encoded` writes of so many images."""
    return images * (4 * channels + 8) + 1_000_000
