"""Convert uint8 images to a network's input: choose size, interpolation and normalisation, and apply them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.weights import weights_entry
from sharc_core.common.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
COUNTED = 4096  # images per block when pixel values are counted


@dataclass(frozen=True)
class InputFormat:
    """The format of a network's input.

    The shorter side is resized to resize_size, and image_size x image_size pixels are cut from the centre.
    Values in [0, 1] are normalised as (value - mean) / std per RGB channel, before the resize if
    normalise_first, else after it.
    """

    image_size: int
    resize_size: int
    interpolation: str
    mean: list[float]
    std: list[float]
    normalise_first: bool = False


def resolve(config: BackboneConfig) -> InputFormat:
    """Return the input format: the config's values, or else the defaults.

    Defaults are the values of torchvision's weights; for other weights, bilinear and ImageNet's mean and std.
    If the config gives image_size and no resize_size, they are equal, so nothing is cropped from a square
    image. With `normalisation: dataset`, the caller replaces mean and std by those of `of_images`. Raises
    UserError for unknown torchvision weights, and when the crop would exceed the image.
    """
    side, resize = config.image_size, config.resize_size or config.image_size
    interpolation = "bilinear"
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    if config.is_torchvision:
        transforms = weights_entry(config.arch, config.weights).transforms()
        side, resize = side or transforms.crop_size[0], resize or transforms.resize_size[0]
        interpolation, mean, std = transforms.interpolation.value, transforms.mean, transforms.std
    assert side is not None and resize is not None
    if resize < side:
        raise UserError(
            f"resize_size {resize} is smaller than the {side} px that are cut out (image_size): "
            "make it at least as large, or leave it out"
        )
    mean, std = config.mean or mean, config.std or std
    first = config.normalisation == "dataset"
    return InputFormat(side, resize, config.interpolation or interpolation, list(mean), list(std), first)


def of_images(form: InputFormat, images: np.ndarray) -> InputFormat:
    """Return the form with the mean and standard deviation of images (N, H, W, 3) uint8 over all pixels.

    Raises UserError when a channel is constant.
    """
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), COUNTED):
        part = np.asarray(images[start : start + COUNTED]).reshape(-1, 3)
        counts += [np.bincount(part[:, channel], minlength=256) for channel in range(3)]
    levels = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt(share @ levels**2 - mean**2)
    if not std.all():
        raise UserError(
            "normalisation dataset: a colour channel of the training images never varies: use weights"
        )
    return replace(form, mean=mean.tolist(), std=std.tolist())


class Preprocess(nn.Module):
    """Convert images uint8 (B, H, W, 3) to normalised float32 (B, 3, S, S), channels last.

    It equals torchvision's ImageClassification transform of tensors, for a batch, without its rounding to
    integers after the resize. It antialiases likewise (except `nearest`).
    """

    mean: torch.Tensor
    std: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, form: InputFormat):
        super().__init__()
        self.form = form
        side = form.image_size
        self.register_buffer("mean", torch.tensor(form.mean), persistent=False)
        self.register_buffer("std", torch.tensor(form.std), persistent=False)
        # One value per (pixel, channel), because multiplying rows of memory is several times faster than
        # broadcasting three numbers over the innermost axis.
        deviation = torch.tensor(form.std).repeat(side * side)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer(
            "offset", torch.tensor(form.mean).repeat(side * side) / deviation, persistent=False
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Convert images, which may be on another device; see the class."""
        floats = images.to(self.scale.device).float()
        side = self.form.image_size
        if self.form.normalise_first:
            floats = (floats / 255 - self.mean) / self.std
        if min(floats.shape[1:3]) != self.form.resize_size:
            floats = self._resized(floats)
        top, left = (round((edge - side) / 2) for edge in floats.shape[1:3])
        floats = floats[:, top : top + side, left : left + side]
        if self.form.normalise_first:
            return floats.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        flat = floats.reshape(len(images), -1) * self.scale - self.offset
        return flat.view(-1, side, side, 3).permute(0, 3, 1, 2)

    def _resized(self, floats: torch.Tensor) -> torch.Tensor:
        """Resize (B, H, W, 3): the shorter side to resize_size, the longer in proportion (rounded down)."""
        resize, mode = self.form.resize_size, self.form.interpolation
        shorter = min(floats.shape[1:3])
        size = tuple(resize * edge // shorter for edge in floats.shape[1:3])
        smooth = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
        planes = floats.permute(0, 3, 1, 2).contiguous()
        planes = F.interpolate(planes, size=size, mode=mode, **smooth)
        if mode == "bicubic" and not self.form.normalise_first:  # it overshoots
            planes = planes.clamp(0, 255)
        return planes.permute(0, 2, 3, 1)
