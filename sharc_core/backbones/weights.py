"""Weights: local .safetensors checked against an architecture, or torchvision's own downloads."""

import hashlib
import math
import re
from pathlib import Path
from pickle import UnpicklingError  # what weights_only=True raises

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file
from sharc_core.common.registry import nearest

Shapes = dict[str, tuple[tuple[int, ...], bool]]  # name -> (shape, is floating point)


# What the classifiers behind the maps are called in torchvision's architectures and here.
HEADS = {"fc", "classifier", "head", "heads", "aux1", "aux2", "AuxLogits"}
POSITIONS = "encoder.pos_embedding"  # of a vision transformer: (1, 1 + patches, K)
# Names in published checkpoints that torchvision's networks have since changed: DenseNet's layers
# ("norm.1" is now "norm1") and the two linear layers of a vision transformer's blocks.
RENAMED = [
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
]


def check_fit(found: Shapes, body: nn.Module, arch: str, where: str) -> None:
    """Refuse weights that lack a tensor of the body, have one too many, or one of another shape or kind.

    Tensors of the classifier behind the maps (`fc.*`, `classifier.*`, ...) are ignored: they lie
    under a top-level name that the body does not have. Raises UserError naming tensor and architecture.
    """
    needed = {name: (tuple(t.shape), t.is_floating_point()) for name, t in body.state_dict().items()}
    tops = {name.split(".")[0] for name in needed}
    for name, (shape, is_float) in needed.items():
        if name not in found:
            if name.endswith("num_batches_tracked"):
                continue  # a training counter; old files lack it and evaluation does not read it
            raise UserError(f"{where} does not fit architecture {arch}: tensor {name} is missing")
        other_shape, other_is_float = found[name]
        if other_shape != shape and not (name == POSITIONS and _can_be_resized(other_shape, shape)):
            raise UserError(
                f"{where} does not fit architecture {arch}: tensor {name} has shape {list(other_shape)}, "
                f"needed is {list(shape)}"
            )
        if other_is_float != is_float:
            kind = "floating-point" if is_float else "integer"
            raise UserError(f"{where} does not fit architecture {arch}: tensor {name} is not {kind}")
    for name in found:
        top = name.split(".")[0]
        if name not in needed and (top in tops or top not in HEADS):
            raise UserError(f"{where} does not fit architecture {arch}: unexpected tensor {name}")


def todays_name(name: str) -> str:
    """A tensor's name in today's torchvision."""
    for old, new in RENAMED:
        name = old.sub(new, name)
    return name


def _can_be_resized(found: tuple[int, ...], needed: tuple[int, ...]) -> bool:
    """Whether position embeddings are those of a square grid of patches, of the needed width."""
    if len(found) != 3 or (found[0], found[2]) != (needed[0], needed[2]) or found[1] < 2:
        return False
    return math.isqrt(found[1] - 1) ** 2 == found[1] - 1


def with_positions_for(body: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that fit, a vision transformer's position embeddings interpolated to the body's patches."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    needed = body.state_dict().get(POSITIONS)
    if needed is None or tensors[POSITIONS].shape == needed.shape:
        return tensors
    patches = math.isqrt(needed.shape[1] - 1)
    return tensors | interpolate_embeddings(patches, 1, {POSITIONS: tensors[POSITIONS].float()})


def local_shapes(path: Path) -> Shapes:
    """Today's names, shapes and kinds from the header of a safetensors file. Raises UserError."""
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
    """The body's tensors from a safetensors file, floats as float32. Raises UserError for a misfit."""
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
    """The entry called `name` (any case; also `default`) of the architecture's torchvision weights enum.

    Raises UserError listing the valid names.
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
    """The state dict of a torchvision weights entry, its hash checked.

    From the mirror folder when the file lies there, else from torch's cache or its server. Raises
    UserError for a mirrored file that is not what its name says, or when the weights cannot be had.
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
    """A checkpoint whose file name ends in the first digits of its SHA-256, as torch's hub names them."""
    wanted = path.stem.rsplit("-", 1)[-1]
    if not sha256_file(path).startswith(wanted):
        raise UserError(f"{path} is damaged: its SHA-256 does not begin with {wanted}: get it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise UserError(f"{path} holds more than tensors and is refused: get it from its publisher") from None


def sha256_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Hex SHA-256 over names, types, shapes and bytes of a state dict."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
