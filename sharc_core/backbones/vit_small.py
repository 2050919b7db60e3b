"""A small vision transformer for 32 px images, of torchvision's (Dosovitskiy et al. 2021, arXiv 2010.11929).

Convolutions embed the patches, with which transformers learn from fewer images (Xiao et al. 2021, arXiv
2106.14881).
"""

from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vgg import make_layers

from sharc_core.backbones.architectures import ARCHITECTURES

PATCH = 8  # pixels per side
WIDTH = 128


@ARCHITECTURES.register("vit_small")
def build(classes: int, side: int) -> nn.Module:
    """Return the network with random weights. A 32 px image has maps of 128 x 4 x 4."""
    network = VisionTransformer(
        image_size=side,
        patch_size=PATCH,
        num_layers=2,
        num_heads=4,
        hidden_dim=WIDTH,
        mlp_dim=2 * WIDTH,
        num_classes=classes,
    )
    stem = make_layers([16, "M", 32, "M", 64, "M"], batch_norm=True)
    network.conv_proj = nn.Sequential(*stem, nn.Conv2d(64, WIDTH, 1))
    return network
