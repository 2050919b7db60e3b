"""From uint8 images to a network's input: which size, interpolation and normalisation, and applying them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.weights import weights_entry
from sharc_core.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputFormat:
    """What a network takes: the shorter side resized to resize_size, image_size x image_size cut from the
    centre, values in [0, 1] less `mean`, by `std` (per RGB channel).
    """

    image_size: int
    resize_size: int
    interpolation: str
    mean: list[float]
    std: list[float]


def resolve(config: BackboneConfig) -> InputFormat:
    """The config's values, else those of torchvision's weights, else bilinear and ImageNet's mean and std.

    An image_size of one's own comes without a crop: resize_size is then the same unless it is given
    too. Raises UserError for unknown torchvision weights, and where the crop would exceed the image.
    """
    side, resize = config.image_size, config.resize_size or config.image_size
    interpolation, mean, std = "bilinear", IMAGENET_MEAN, IMAGENET_STD
    if config.is_torchvision:
        transforms = weights_entry(config.arch, config.weights).transforms()
        side, resize = side or transforms.crop_size[0], resize or transforms.resize_size[0]
        interpolation, mean, std = transforms.interpolation.value, transforms.mean, transforms.std
    if resize < side:
        raise UserError(
            f"resize_size {resize} is smaller than the {side} px that are cut out (image_size): "
            "make it as large at least, or leave it out"
        )
    mean, std = list(config.mean or mean), list(config.std or std)
    return InputFormat(side, resize, config.interpolation or interpolation, mean, std)


class Preprocess(nn.Module):
    """uint8 (B, H, W, 3) -> normalised float32 (B, 3, S, S), channels last.

    What torchvision's ImageClassification transform does to tensors, for a batch, without its rounding
    to whole grey levels after the resizing; antialiased likewise (but for `nearest`).
    """

    def __init__(self, form: InputFormat):
        super().__init__()
        self.form = form
        side = form.image_size
        # One value per (pixel, channel): multiplying rows of memory is several times faster than
        # broadcasting three numbers over the innermost axis.
        deviation = torch.tensor(form.std).repeat(side * side)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer(
            "offset", torch.tensor(form.mean).repeat(side * side) / deviation, persistent=False
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class; images may lie on another device."""
        floats = images.to(self.scale.device).float()
        side = self.form.image_size
        if min(floats.shape[1:3]) != self.form.resize_size:
            floats = self._resized(floats)
        top, left = (round((edge - side) / 2) for edge in floats.shape[1:3])
        floats = floats[:, top : top + side, left : left + side]
        flat = floats.reshape(len(images), -1) * self.scale - self.offset
        return flat.view(-1, side, side, 3).permute(0, 3, 1, 2)

    def _resized(self, floats: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) with the shorter side resize_size, the longer in proportion (rounded down)."""
        resize, mode = self.form.resize_size, self.form.interpolation
        shorter = min(floats.shape[1:3])
        size = tuple(resize * edge // shorter for edge in floats.shape[1:3])
        smooth = {} if mode == "nearest" else {"antialias": True, "align_corners": False}
        planes = floats.permute(0, 3, 1, 2).contiguous()
        planes = F.interpolate(planes, size=size, mode=mode, **smooth)
        if mode == "bicubic":  # it overshoots
            planes = planes.clamp(0, 255)
        return planes.permute(0, 2, 3, 1)
