"""The kind of a backbone's network, from its config."""

from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.network import Network
from sharc_core.backbones.own_module import OwnModule
from sharc_core.backbones.registered import Registered
from sharc_core.backbones.timm_networks import Timm


def network_of(config: BackboneConfig) -> Network:
    """Return the network that a config describes. Nothing is built, read or checked yet."""
    if config.is_timm:
        return Timm(config)
    return OwnModule(config) if config.is_module else Registered(config)
