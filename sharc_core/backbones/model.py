"""The frozen backbone: preprocessing, maps, and everything that identifies it."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import fx, nn

from sharc_core.backbones.architectures import build_classifier, cut_at_maps, fuse_batch_norms
from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.weights import (
    check_fit,
    download,
    local_shapes,
    read_local,
    sha256_tensors,
    weights_entry,
)
from sharc_core.errors import UserError
from sharc_core.files import sha256_file

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(nn.Module):
    """uint8 (B, H, W, 3) -> (image / 255 - mean) / std as float32 (B, 3, S, S), channels last.

    Resized to S x S by antialiased bilinear interpolation where H or W differs. mean, std: per channel.
    """

    def __init__(self, side: int, mean: list[float], std: list[float]):
        super().__init__()
        self.side, self.mean, self.std = side, mean, std
        # One value per (pixel, channel): multiplying rows of memory is several times faster than
        # broadcasting three numbers over the innermost axis.
        deviation = torch.tensor(std).repeat(side * side)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("offset", torch.tensor(mean).repeat(side * side) / deviation, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class; images may lie on another device."""
        floats = images.to(self.scale.device).float()
        size = (self.side, self.side)
        if floats.shape[1:3] != size:
            planes = floats.permute(0, 3, 1, 2).contiguous()
            planes = F.interpolate(planes, size=size, mode="bilinear", antialias=True, align_corners=False)
            floats = planes.permute(0, 2, 3, 1)
        flat = floats.reshape(len(images), -1) * self.scale - self.offset
        return flat.view(-1, *size, 3).permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """A frozen network in evaluation mode.

    name, arch, weights: what it is called and made from. channels (K), map_size (h, w): of its maps.
    sha256: of the weights file (of the tensors for torchvision's weights). mean, std: per RGB channel.
    """

    def __init__(
        self,
        body: fx.GraphModule,
        config: BackboneConfig,
        shape: tuple[int, int, int],
        sha256: str,
        normalisation: tuple[list[float], list[float]],
    ):
        super().__init__()
        self.name = config.path_name
        self.arch = config.arch
        self.weights = config.weights
        self.image_size = config.image_size
        self.channels, *size = shape
        self.map_size = tuple(size)
        self.sha256 = sha256
        self.mean, self.std = normalisation
        self._preprocess = Preprocess(self.image_size, self.mean, self.std)
        # channels_last is what the convolutions want, on the CPU and on the GPU
        self.body = fuse_batch_norms(body.eval()).to(memory_format=torch.channels_last)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode whatever is asked: it is frozen."""
        return super().train(False)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> normalised float32 (B, 3, S, S), resized where H or W is not S."""
        return self._preprocess(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised images (B, 3, S, S) -> maps (B, K, h, w)."""
        return self.body(images)

    def describe(self) -> dict:
        """What identifies the backbone, as JSON."""
        return {
            "name": self.name,
            "arch": self.arch,
            "weights": self.weights,
            "sha256": self.sha256,
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def normalisation(config: BackboneConfig) -> tuple[list[float], list[float]]:
    """(mean, std) per RGB channel: the config's, else those of torchvision's weights, else ImageNet's."""
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if config.weights != "pretrain" and not config.is_local_file:
        transforms = weights_entry(config.arch, config.weights).transforms()
        mean, std = transforms.mean, transforms.std
    return list(config.mean or mean), list(config.std or std)


def maps_shape(body: nn.Module, config: BackboneConfig) -> tuple[int, int, int]:
    """(K, h, w) of a body on the meta device. Raises UserError when the images are too small for it."""
    side = config.image_size
    try:
        maps = body(torch.empty(1, 3, side, side, device="meta"))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"architecture {config.arch} does not take images of {side} px: {reason}") from None
    if maps.dim() != 4 or 0 in maps.shape:
        raise UserError(
            f"architecture {config.arch} has no maps left for images of {side} px: use larger ones"
        )
    return tuple(maps.shape[1:])


def check_backbone(config: BackboneConfig) -> tuple[int, int, int]:
    """Everything that can be wrong with a backbone, found without reading weights or computing.

    Returns the shape (K, h, w) of its maps. Raises UserError for an unknown architecture (with the
    nearest one), one without maps, images too small, unknown torchvision weights, a weights file
    that is missing, damaged or does not fit.
    """
    body = cut_at_maps(build_classifier(config.arch, device="meta"), config.arch)
    shape = maps_shape(body, config)
    if config.is_local_file:
        check_fit(local_shapes(Path(config.weights)), body, config.arch, f"weights file {config.weights}")
    elif config.weights != "pretrain":
        weights_entry(config.arch, config.weights)
    return shape


def load_backbone(
    config: BackboneConfig, weights_path: Path | None, device: torch.device | str, mirror: Path | None = None
) -> Backbone:
    """The backbone ready to run on `device`.

    weights_path: the weights file; None for torchvision's weights, which come from the mirror folder or
    are downloaded into torch's cache when they are not there. Raises UserError for weights that do not
    fit or cannot be had.
    """
    shape = maps_shape(cut_at_maps(build_classifier(config.arch, device="meta"), config.arch), config)
    body = cut_at_maps(build_classifier(config.arch), config.arch)
    if weights_path is None and config.is_local_file:
        weights_path = Path(config.weights)
    if weights_path is not None:
        tensors = read_local(Path(weights_path), body, config.arch)
        sha256 = sha256_file(weights_path)
    elif config.weights == "pretrain":
        raise UserError(f"backbone {config.path_name} is pre-trained here, but no weights file was given")
    else:
        entry = weights_entry(config.arch, config.weights)
        tensors = download(entry, mirror)
        found = {name: (tuple(t.shape), t.is_floating_point()) for name, t in tensors.items()}
        check_fit(found, body, config.arch, f"torchvision weights {entry}")
        needed = body.state_dict()
        tensors = {name: t for name, t in tensors.items() if name in needed}
        sha256 = sha256_tensors(tensors)
    body.load_state_dict(body.state_dict() | tensors)
    return Backbone(body, config, shape, sha256, normalisation(config)).to(device)
