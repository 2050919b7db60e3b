"""Every image classifier of torchvision, under torchvision's own name and state-dict names."""

import warnings
from collections.abc import Callable

import torchvision
from torch import nn

from sharc_core.backbones.architectures import ARCHITECTURES


def _options(arch: str, side: int) -> dict[str, object]:
    """What an architecture must be told besides its classes."""
    if arch.startswith("vit"):
        return {"image_size": side}  # one position embedding per patch
    if arch in ("googlenet", "inception_v3"):
        # Their published weights want images in [-1, 1] and are given ImageNet's normalisation: the
        # network converts, as torchvision has it do whenever it loads them.
        return {"transform_input": True}
    return {}


def _builder(arch: str) -> Callable[[int, int], nn.Module]:
    def build(classes: int, side: int) -> nn.Module:
        """The architecture with random weights for images of `side` pixels."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Inception announces a future change of its initialisation
            options = _options(arch, side)
            return torchvision.models.get_model(arch, weights=None, num_classes=classes, **options)

    return build


for _name in torchvision.models.list_models(module=torchvision.models):
    ARCHITECTURES.register(_name)(_builder(_name))
