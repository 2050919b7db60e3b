"""The kind of a backbone's network, from its config."""

from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.network import Network
from sharc_core.backbones.registered import Registered


def network_of(config: BackboneConfig) -> Network:
    """Return the network that a config describes. Nothing is built, read or checked yet."""
    return Registered(config)
