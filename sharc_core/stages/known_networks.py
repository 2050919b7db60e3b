"""What a plan needs to know of the grid's networks and memories, which takes torch to find out.

Shapes, input formats and checked budgets are kept by everything that they depend on (common.kept), so that
only the first plan of a grid imports torch.
"""

import functools
import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.backbones.config import BackboneConfig
from sharc_core.common.files import digest
from sharc_core.common.kept import kept_file, read_kept, write_kept

if TYPE_CHECKING:
    from sharc_core.backbones.network import Network

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "torchvision")
MOST = 1000  # values to keep, the latest


class KnownNetwork:
    """The network of a backbone, as far as names of files and checks need it; see backbones.network.Network.

    The properties of timm's networks, import paths and packages of weights depend on code outside of this
    project and are never kept.
    """

    def __init__(self, config: BackboneConfig):
        self._config = config

    @functools.cached_property
    def _network(self) -> "Network":
        from sharc_core.backbones.networks import network_of

        return network_of(self._config)

    @property
    def input_format(self) -> dict[str, Any]:
        """The fields of the input's format. Raises UserError as preprocess.resolve does."""
        return self._known("form", lambda network: asdict(network.form))

    @property
    def further(self) -> dict[str, Any]:
        """Settings of the network that the identity of registered architectures does not contain."""
        return self._known("further", lambda network: network.further)

    @property
    def weights_identity(self) -> Any:
        """What determines weights that are neither a local file nor pre-trained here; JSON-able."""
        return self._known("weights", lambda network: network.weights_identity)

    @property
    def code(self) -> tuple[str | Path, ...]:
        """The roots (see stage_hash) of the code of the network."""
        names = self._known("code", lambda network: [_name_of(root) for root in network.code])
        return tuple(PACKAGE / name if name.endswith(".py") else name for name in names)

    @property
    def architecture_file(self) -> Path:
        """The file that registers the architecture."""

        def find(network: "Network") -> str:
            from sharc_core.backbones.architectures import ARCHITECTURES

            return _name_of(Path(ARCHITECTURES.module_file(self._config.arch)))

        return PACKAGE / self._known("architecture", find)

    def check(self) -> tuple[int, int, int]:
        """Check settings and weights; return the maps' shape (K, h, w). Raises UserError as Network.check."""
        channels, height, width = self._known("shape", lambda network: list(network.check()))
        return channels, height, width

    def has_batch_norm(self) -> bool:
        """Return whether the network has batch norm before its maps."""
        return self._known("batch norm", lambda network: network.has_batch_norm())

    def _known(self, name: str, find: Callable[["Network"], Any]) -> Any:
        config = self._config
        if config.is_timm or config.is_module or config.is_packaged:
            return find(self._network)
        settings = config.model_dump(mode="json")
        return known([name, settings, _state(config)], lambda: find(self._network))


def known(key: Any, find: Callable[[], Any]) -> Any:
    """Return find(), a JSON-able value, or what an earlier process found for this key. Errors are not kept.

    key: JSON-able; everything that the value depends on besides the code of backbones and the libraries.
    """
    path, rules, name = kept_file(__file__, "networks"), _rules(), digest(key, 32)
    values = _values(path, rules)
    if name not in values:
        values[name] = find()
        kept = read_kept(path, rules) | {name: values[name]}  # another process may have written
        write_kept(path, rules, dict(list(kept.items())[-MOST:]))
    return values[name]


@functools.cache
def _values(path: Path, rules: str) -> dict[str, Any]:
    return read_kept(path, rules)


@functools.cache
def _rules() -> str:
    """Return a hash of what every value depends on: the code of all backbones, Python and libraries."""
    state = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted((PACKAGE / "backbones").glob("*.py")):
        state.update(f"{path.name}\n".encode() + path.read_bytes())
    versions = [sys.version, *map(metadata.version, LIBRARIES)]
    return digest([state.hexdigest(), *versions], 32)


def _state(config: BackboneConfig) -> list[int] | None:
    """Return size and mtime of a local weights file; None for other weights and for a missing file."""
    if not config.is_local_file:
        return None
    try:
        state = os.stat(config.weights)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _name_of(root: str | Path) -> str:
    """Return a root of code as text. Files of this project are named relative to it, as it may be moved."""
    if isinstance(root, Path) and root.is_relative_to(PACKAGE):
        return root.relative_to(PACKAGE).as_posix()
    return str(root)
