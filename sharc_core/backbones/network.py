"""What the stages need to know of a backbone's network, whatever its kind.

`Registered` is a registered architecture, which is cut at its maps by tracing. A `WholeNetwork` gives maps
itself, and is run as it is. networks.py chooses the class for a config.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.model import Backbone
from sharc_core.backbones.preprocess import InputFormat, resolve


@dataclass(frozen=True)
class InputDefaults:
    """Values of the input format that weights state, for keys that the config leaves out.

    Without image_size in the config, both sizes count. With it, resize_size is image_size by default.
    """

    image_size: int
    resize_size: int
    interpolation: str
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


class IdentifiedBackbone(Backbone):
    """A backbone with further settings in its identity."""

    def __init__(self, *args: Any, further: dict[str, Any], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.further = further

    def describe(self) -> dict:
        """Return everything that identifies the backbone; JSON-able."""
        return super().describe() | self.further


class Network(ABC):
    """The network of a backbone."""

    def __init__(self, config: BackboneConfig):
        self.config = config

    @property
    def defaults(self) -> InputDefaults | None:
        """The input format that the weights state, unless preprocess.resolve knows it."""
        return None

    @property
    def completed(self) -> BackboneConfig:
        """The config with the defaults of its input format."""
        config, defaults = self.config, self.defaults
        if defaults is None:
            return config
        update = {
            "image_size": config.image_size or defaults.image_size,
            "resize_size": config.resize_size or config.image_size or defaults.resize_size,
            "interpolation": config.interpolation or defaults.interpolation,
            "mean": config.mean or defaults.mean,
            "std": config.std or defaults.std,
        }
        return config.model_copy(update=update)

    @property
    def form(self) -> InputFormat:
        """The format of the input. Raises UserError as preprocess.resolve does."""
        return resolve(self.completed)

    @property
    def side(self) -> int:
        """Pixels per side of the input."""
        return self.form.image_size

    @property
    def further(self) -> dict[str, Any]:
        """Settings of the network that the identity of registered architectures does not contain."""
        return {} if self.config.tokens == "map" else {"tokens": self.config.tokens}

    @property
    @abstractmethod
    def code(self) -> tuple[str | Path, ...]:
        """The roots (see stage_hash) of the code of the network."""

    @property
    @abstractmethod
    def weights_identity(self) -> Any:
        """What determines weights that are neither a local file nor pre-trained here; JSON-able."""

    @abstractmethod
    def check(self) -> tuple[int, int, int]:
        """Check the settings and the weights' names before any job; return the maps' shape (K, h, w).

        Raises UserError for whatever keeps the backbone from being loaded.
        """

    @abstractmethod
    def body(self) -> fx.GraphModule:
        """Return the network from images (B, 3, side, side) to maps, with random weights, on the CPU."""

    @abstractmethod
    def skeleton(self) -> nn.Module:
        """Return a module with the names and shapes of the tensors that a weights file needs."""

    @abstractmethod
    def load(
        self,
        weights: Path | None,
        device: torch.device | str,
        mirror: Path | None = None,
        form: InputFormat | None = None,
        fuse: bool = True,
    ) -> Backbone:
        """Load the backbone, ready to run on `device`. Arguments and errors are those of load_backbone."""

    @abstractmethod
    def fetch(self, mirror: Path | None = None) -> None:
        """Download weights that a library gets from a server, so that jobs find them. Raises UserError."""

    def has_batch_norm(self) -> bool:
        """Return whether the network has batch norm before its maps."""
        return any(isinstance(module, _BatchNorm) for module in self.skeleton().modules())

    def backbone(
        self, body: fx.GraphModule, shape: tuple[int, ...], sha256: str, form: InputFormat, fuse: bool
    ) -> Backbone:
        """Return the backbone of a network with its weights."""
        arguments: Any = (body, self.config, shape, sha256, form, fuse)
        return IdentifiedBackbone(*arguments, further=self.further) if self.further else Backbone(*arguments)


class Whole(nn.Module):
    """A network as the only layer of a graph."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network


def as_graph(network: nn.Module) -> fx.GraphModule:
    """Return a network, from images to maps, as a graph that calls it, without tracing its inside."""
    graph = fx.Graph()
    graph.output(graph.call_module("network", (graph.placeholder("images"),)))
    return fx.GraphModule(Whole(network), graph)
