"""Backbones: frozen networks that convert images to feature maps. An architecture is one file here."""

from typing import TYPE_CHECKING

from sharc_core.backbones.config import BackboneConfig, PretrainConfig
from sharc_core.common.deferred import exports

if TYPE_CHECKING:
    from sharc_core.backbones.model import Backbone, check_backbone, has_batch_norm, load_backbone

__all__ = [
    "Backbone",
    "BackboneConfig",
    "PretrainConfig",
    "check_backbone",
    "has_batch_norm",
    "load_backbone",
]
__getattr__ = exports("sharc_core.backbones.model", __all__, ["Backbone"])
