"""A small MobileNetV3 for 32 px images (Howard et al. 2019, arXiv 1905.02244), of torchvision's blocks."""

from torch import nn
from torchvision.models import MobileNetV3
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from sharc_core.backbones.architectures import ARCHITECTURES

# input channels, kernel, expanded channels, output channels, squeeze and excitation, activation, stride; the
# activation is ReLU (RE) or hard swish (HS), and the maps, which follow a hard swish, are rarely zero
BLOCKS = (
    (16, 3, 32, 24, False, "RE", 2),
    (24, 3, 72, 32, True, "HS", 2),
    (32, 3, 96, 32, True, "HS", 1),
)
LAST = 256  # hidden units of the classifier


@ARCHITECTURES.register("mobilenet_small")
def build(classes: int, side: int) -> nn.Module:
    """Return the network with random weights, with maps of 192 x 4 x 4 for a 32 px image."""
    blocks = [InvertedResidualConfig(*block, dilation=1, width_mult=1.0) for block in BLOCKS]
    return MobileNetV3(blocks, LAST, num_classes=classes, norm_layer=nn.BatchNorm2d)
