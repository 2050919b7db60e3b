"""Read weights from local .safetensors files or torchvision, and check them against an architecture."""

import hashlib
import math
import re
from pathlib import Path
from pickle import UnpicklingError  # raised with weights_only=True

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file
from sharc_core.common.registry import nearest

Shapes = dict[str, tuple[tuple[int, ...], bool]]  # name -> (shape, is floating point)


# Names of the classifiers after the maps in torchvision's architectures and in this package.
HEADS = {"fc", "classifier", "head", "heads", "aux1", "aux2", "AuxLogits"}
POSITIONS = "encoder.pos_embedding"  # of a vision transformer: (1, 1 + patches, K)
# Names in published checkpoints that torchvision has since changed: DenseNet's layers ("norm.1" is now
# "norm1") and the two linear layers of a vision transformer's blocks.
RENAMED = [
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
]


def check_fit(shapes: Shapes, body: nn.Module, arch: str, where: str) -> None:
    """Raise UserError for weights with a missing, unexpected or wrongly shaped or typed tensor.

    The message names tensor and architecture. where: the weights' name in the message. Tensors of the
    classifier after the maps (`fc.*`, `classifier.*`, ...), whose top-level name the body lacks, are ignored.
    """
    needed = {name: (tuple(t.shape), t.is_floating_point()) for name, t in body.state_dict().items()}
    tops = {name.split(".")[0] for name in needed}
    for name, (shape, is_float) in needed.items():
        if name not in shapes:
            if name.endswith("num_batches_tracked"):
                continue  # a training counter; old files lack it and evaluation does not read it
            raise UserError(f"{where} does not fit architecture {arch}: tensor {name} is missing")
        other_shape, other_is_float = shapes[name]
        if other_shape != shape and not (name == POSITIONS and _can_be_resized(other_shape, shape)):
            raise UserError(
                f"{where} does not fit architecture {arch}: tensor {name} has shape {list(other_shape)}, "
                f"expected {list(shape)}"
            )
        if other_is_float != is_float:
            kind = "floating-point" if is_float else "integer"
            raise UserError(f"{where} does not fit architecture {arch}: tensor {name} is not {kind}")
    for name in shapes:
        top = name.split(".")[0]
        if name not in needed and (top in tops or top not in HEADS):
            raise UserError(f"{where} does not fit architecture {arch}: unexpected tensor {name}")


def todays_name(name: str) -> str:
    """Return a tensor's name in today's torchvision."""
    for old, new in RENAMED:
        name = old.sub(new, name)
    return name


def _can_be_resized(shape: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Return whether position embeddings belong to a square grid of patches and have the needed width."""
    if len(shape) != 3 or (shape[0], shape[2]) != (needed[0], needed[2]) or shape[1] < 2:
        return False
    return math.isqrt(shape[1] - 1) ** 2 == shape[1] - 1


def with_positions_for(body: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors, with position embeddings (of a vision transformer) interpolated to the body's."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    needed = body.state_dict().get(POSITIONS)
    if needed is None or tensors[POSITIONS].shape == needed.shape:
        return tensors
    patches = math.isqrt(needed.shape[1] - 1)
    return tensors | interpolate_embeddings(patches, 1, {POSITIONS: tensors[POSITIONS].float()})


def local_shapes(path: Path) -> Shapes:
    """Read today's names, shapes and kinds from the header of a safetensors file.

    Raises UserError for a file that is missing or unreadable.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            parts = {todays_name(name): stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118
            return {
                name: (tuple(part.get_shape()), part.get_dtype()[:1] in "FB" and part.get_dtype() != "BOOL")
                for name, part in parts.items()
            }
    except FileNotFoundError:
        raise UserError(f"weights file {path} is missing") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights file {path} cannot be read as safetensors: {error}") from None


def read_local(path: Path, body: nn.Module, arch: str) -> dict[str, torch.Tensor]:
    """Read the body's tensors from a safetensors file, with floats as float32.

    Raises UserError for a file that is missing or unreadable, does not fit, or holds NaN or infinity.
    """
    check_fit(local_shapes(path), body, arch, f"weights file {path}")
    needed = body.state_dict()
    try:
        with safe_open(path, framework="pt") as stream:
            names = [name for name in stream.keys() if todays_name(name) in needed]  # noqa: SIM118
            tensors = {todays_name(name): stream.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights file {path} cannot be read as safetensors: {error}") from None
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"weights file {path} is damaged: tensor {name} holds NaN or infinity")
    return with_positions_for(body, tensors)


def weights_entry(arch: str, name: str):
    """Return the entry `name` (any case; also `default`) of the architecture's torchvision weights enum.

    Raises UserError with the valid names for an unknown one.
    """
    from torchvision.models import get_model_weights, list_models

    if arch not in list_models():
        raise UserError(
            f"weights {name!r}: architecture {arch} has no torchvision weights; "
            "valid: pretrain or a path ending in .safetensors"
        )
    entries = {key.lower(): entry for key, entry in get_model_weights(arch).__members__.items()}
    if name.lower() not in entries:
        valid = ["pretrain", *entries]
        raise UserError(
            f"unknown weights {name!r} for architecture {arch}{nearest(name, valid)}; "
            f"valid: {', '.join(valid)} or a path ending in .safetensors"
        )
    return entries[name.lower()]


def download(entry, mirror: Path | None = None) -> dict[str, torch.Tensor]:
    """Return the state dict of a torchvision weights entry.

    It comes from the mirror folder if the file is there, else from torch's cache or its server. The hash of a
    mirrored or downloaded file is verified. Raises UserError when it is wrong or the download fails.
    """
    name = entry.url.rsplit("/", 1)[1]
    if mirror is not None and (mirror / name).exists():
        return _from_mirror(mirror / name)
    try:
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot get torchvision weights {entry} from {entry.url} ({error}): put that file into "
            f"{torch.hub.get_dir()}/checkpoints or into the mirror folder, or give a .safetensors file as "
            "weights"
        ) from error


def _from_mirror(path: Path) -> dict[str, torch.Tensor]:
    """Load a checkpoint whose file name ends in the first digits of its SHA-256, as in torch's hub."""
    digits = path.stem.rsplit("-", 1)[-1]
    if not sha256_file(path).startswith(digits):
        raise UserError(f"{path} is damaged (its SHA-256 does not begin with {digits}): get it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(f"{path} holds more than tensors and is refused: get it from its publisher") from None


def sha256_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Return the hex SHA-256 of names, types, shapes and bytes of a state dict."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
