"""All image classifiers of torchvision, with torchvision's names and state-dict names."""

import warnings
from collections.abc import Callable

import torchvision
from torch import nn

from sharc_core.backbones.architectures import ARCHITECTURES


def _options(arch: str, side: int) -> dict[str, object]:
    """Return the arguments of an architecture's builder besides the number of classes."""
    if arch.startswith("vit"):
        return {"image_size": side}  # one position embedding per patch
    if arch in ("googlenet", "inception_v3"):
        # Their published weights expect images in [-1, 1] but are given ImageNet's normalisation. So the
        # network converts, as torchvision configures it whenever it loads the weights.
        return {"transform_input": True}
    return {}


def _builder(arch: str) -> Callable[[int, int], nn.Module]:
    def build(classes: int, side: int) -> nn.Module:
        """Return the architecture with random weights for images of `side` pixels."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Inception announces a future change of its initialisation
            options = _options(arch, side)
            return torchvision.models.get_model(arch, weights=None, num_classes=classes, **options)

    return build


for _name in torchvision.models.list_models(module=torchvision.models):
    ARCHITECTURES.register(_name)(_builder(_name))
