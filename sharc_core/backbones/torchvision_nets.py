"""Every image classifier of torchvision, under torchvision's own name and state-dict names."""

import warnings
from collections.abc import Callable

import torchvision
from torch import nn

from sharc_core.backbones.architectures import ARCHITECTURES


def _builder(arch: str) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        """The architecture with random weights."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Inception announces a future change of its initialisation
            return torchvision.models.get_model(arch, weights=None, num_classes=classes)

    return build


for _name in torchvision.models.list_models(module=torchvision.models):
    ARCHITECTURES.register(_name)(_builder(_name))
