"""All image networks of timm (PyTorch Image Models), which is an optional dependency.

The maps are timm's `forward_features`: a CNN's last maps, a transformer's tokens after its last norm.
timm's own converters read published layouts and interpolate position embeddings.
"""

import contextlib
import importlib
import logging
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from sharc_core.backbones.architectures import ARCHITECTURES
from sharc_core.backbones.checkpoints import COUNTER, OTHER_HEADS, finite, is_other_head, match, state_dicts
from sharc_core.backbones.config import TIMM, Tokens
from sharc_core.backbones.model import Backbone
from sharc_core.backbones.network import InputDefaults, Network, as_graph
from sharc_core.backbones.preprocess import InputFormat
from sharc_core.backbones.tokens import maps_of_tokens
from sharc_core.backbones.weights import sha256_tensors
from sharc_core.common.errors import UserError, shown
from sharc_core.common.files import sha256_file
from sharc_core.common.registry import nearest

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
FILE = "model.safetensors"  # of timm's weights on Hugging Face's hub


def timm_module() -> Any:
    """Import timm. Raises UserError if it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError(f"architectures {TIMM}... need timm ({error}): pip install timm") from None


def timm_name(arch: str) -> str:
    """Return timm's name of an architecture, with the tag of its weights if it has one.

    Raises UserError with the nearest valid name for an unknown one.
    """
    timm, name = timm_module(), arch.removeprefix(TIMM)
    network, _, tag = name.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{network}.*")]
    if timm.is_model(network) and (not tag or tag in tags):
        return name
    if timm.is_model(network):
        valid = (
            f"its weights are {', '.join(tags)}" if tags else "timm has no weights of it: leave the tag out"
        )
        raise UserError(f"unknown weights {tag!r} of {TIMM}{network}{nearest(tag, tags)}; {valid}")
    names = [*timm.list_models(), *timm.list_pretrained()]
    raise UserError(
        f"unknown architecture {arch!r}{nearest(arch, [TIMM + valid for valid in names])}: "
        "timm.list_models() lists the valid names"
    )


def create(name: str, classes: int, side: int) -> nn.Module:
    """Return timm's network with random weights for images of `side` px. Raises UserError for a bad size."""
    timm = timm_module()
    published, options = timm.get_pretrained_cfg(name), {}
    if published.fixed_input_size and published.input_size[-1] != side:
        options["img_size"] = side
    level = logging.getLogger("timm").level
    try:
        logging.getLogger("timm").setLevel(logging.ERROR)  # it warns of names without weights
        return timm.create_model(name, num_classes=classes, **options).eval()
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"architecture {TIMM}{name} does not take images of {side} px: {error}") from None
    finally:
        logging.getLogger("timm").setLevel(level)


@ARCHITECTURES.register_family("timm/")
def family(arch: str) -> Callable[[int, int], nn.Module]:
    """Return the builder of one of timm's classifiers, for pre-training."""
    name = timm_name(arch)

    def build(classes: int, side: int) -> nn.Module:
        """Return the classifier with random weights for images of `side` pixels."""
        return create(name, classes, side)

    return build


class TimmMaps(nn.Module):
    """A network of timm from images (B, 3, S, S) to maps (B, K, h, w).

    Raises UserError for tokens of a network that has none of that kind, and for output without maps.
    """

    def __init__(self, network: nn.Module, arch: str, tokens: Tokens):
        super().__init__()
        self.network = network
        self.arch = arch
        self.tokens = tokens

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the maps."""
        features = self.network.forward_features(images)  # type: ignore[operator]
        if not isinstance(features, torch.Tensor) or features.dim() not in (2, 3, 4):
            raise UserError(f"architecture {self.arch}: its features are no maps: use another architecture")
        if features.dim() == 3:
            return self._of_tokens(features)
        if self.tokens != "map":
            raise UserError(
                f"tokens {self.tokens}: the features of architecture {self.arch} are no tokens: drop tokens"
            )
        if features.dim() == 2:
            return features[:, :, None, None]
        is_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if is_last else features

    def _of_tokens(self, features: torch.Tensor) -> torch.Tensor:
        prefix = getattr(self.network, "num_prefix_tokens", 0)
        if self.tokens == "cls" and (not prefix or getattr(self.network, "cls_token", None) is None):
            raise UserError(f"tokens cls: architecture {self.arch} has no class token: use map or mean")
        patches = features.shape[1] - prefix
        if math.isqrt(patches) ** 2 != patches:
            raise UserError(f"architecture {self.arch}: its {patches} tokens are no square: use another one")
        return maps_of_tokens(features, prefix, self.tokens)


class Timm(Network):
    """A network of timm."""

    @property
    def name(self) -> str:
        """Timm's name, with the tag of the weights if the config has one. Raises UserError as timm_name."""
        return timm_name(self.config.arch)

    @property
    def defaults(self) -> InputDefaults:
        """The input format of timm's weights, as its own transforms have it."""
        published = timm_module().get_pretrained_cfg(self.name)  # first: it says what to install
        from timm.data import resolve_data_config

        data = resolve_data_config({}, pretrained_cfg=published.to_dict())
        side, how = data["input_size"][-1], data["interpolation"]
        return InputDefaults(
            side,
            math.floor(side / data["crop_pct"]),  # as timm rounds it
            how if how in INTERPOLATIONS else "bicubic",
            list(data["mean"]),
            list(data["std"]),
        )

    @property
    def code(self) -> tuple[str | Path, ...]:
        """The code here."""
        return ("backbones.timm_networks",)

    @property
    def weights_identity(self) -> Any:
        """The name with the tag of the weights. timm's version is recorded with the code."""
        return f"{TIMM}{self.name.partition('.')[0]}.{timm_module().get_pretrained_cfg(self.name).tag}"

    def skeleton(self) -> nn.Module:
        """Return the network without values."""
        with torch.device("meta"):
            return self._network(self.side)

    def body(self) -> fx.GraphModule:
        """Return the network with random weights; see Network.body."""
        return self._graph(self._network(self.side))

    def check(self) -> tuple[int, int, int]:
        """Check name, image size, tokens and weights; see Network.check."""
        skeleton = self.skeleton()
        shape = self._shape(skeleton, self.side)
        if self.config.weights == "timm":
            self._hub()
        if self.config.is_local_file:
            self._tensors(Path(self.config.weights), skeleton)
        return shape

    def load(
        self,
        weights: Path | None,
        device: torch.device | str,
        mirror: Path | None = None,
        form: InputFormat | None = None,
        fuse: bool = True,
    ) -> Backbone:
        """Load the backbone; see Network.load. Batch norms are not fused."""
        form = form or self.form
        if weights is None and self.config.is_local_file:
            weights = Path(self.config.weights)
        if weights is None and self.config.weights != "timm":
            raise UserError(f"backbone {self.config.path_name} is pre-trained here, but has no weights file")
        network = self._network(form.image_size)
        path = weights or self._file(mirror)
        tensors = {name: finite(path, name, t) for name, t in self._tensors(path, network).items()}
        network.load_state_dict(network.state_dict() | tensors)
        sha256 = sha256_file(weights) if weights else sha256_tensors(network.state_dict())
        with torch.device("meta"):
            shape = self._shape(self._network(form.image_size), form.image_size)
        return self.backbone(self._graph(network), shape, sha256, form, fuse=False).to(device)

    def fetch(self, mirror: Path | None = None) -> None:
        """Download timm's weights into the cache of Hugging Face's hub, unless the mirror has them."""
        if self.config.weights == "timm":
            self._file(mirror)

    def _graph(self, network: nn.Module) -> fx.GraphModule:
        return as_graph(TimmMaps(network, self.config.arch, self.config.tokens))

    def _shape(self, skeleton: nn.Module, side: int) -> tuple[int, int, int]:
        """Return the shape (K, h, w) of a network's maps. Raises UserError for too small images."""
        arch = self.config.arch
        try:
            images = torch.empty(1, 3, side, side, device="meta")
            with torch.inference_mode():
                maps = TimmMaps(skeleton, arch, self.config.tokens)(images)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"architecture {arch} does not take images of {side} px: {reason}") from None
        if 0 in maps.shape:
            raise UserError(f"architecture {arch} has no maps left for images of {side} px: use larger ones")
        return maps.shape[1], maps.shape[2], maps.shape[3]

    def _network(self, side: int) -> nn.Module:
        """Return the network without its classifier, whose layers the maps do not need."""
        network = create(self.name, 0, side)
        for head in OTHER_HEADS:
            if isinstance(getattr(network, head, None), nn.Module):
                setattr(network, head, nn.Identity())
        return network

    def _tensors(self, path: Path, network: nn.Module) -> dict[str, torch.Tensor]:
        """Return a network's tensors from a file. Raises UserError for a file that does not fit.

        timm's converter of the network is used for tensors with the names of the first publication, and for
        position embeddings of another image size.
        """
        needed = {n: t for n, t in network.state_dict().items() if not n.endswith(COUNTER)}
        found, states = match(path, needed), state_dicts(path)
        if not states:
            raise UserError(f"weights file {path} holds no state dict")
        state = found.state if found else states[0]
        names = found.names if found else {name: name for name in state.shapes}
        stored = state.read(names.values())
        tensors = {name: stored[old] for name, old in names.items() if not found or name in needed}
        where = f"weights file {path} does not fit architecture {self.config.arch}"
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        fits = found is not None and all(tensors[name].shape == t.shape for name, t in needed.items())
        if convert is not None and not fits:
            try:
                tensors = convert(tensors, network)
            except Exception as error:  # it raises what its arithmetic raises on other layouts
                raise UserError(f"{where}: timm cannot convert its tensors ({error})") from None
        for name, tensor in needed.items():
            if name not in tensors:
                there = ", ".join(map(shown, list(tensors)[:2])) or "no tensor"
                raise UserError(f"{where}: tensor {name} is missing; the file has {there} ...")
            if tensors[name].shape != tensor.shape:
                raise UserError(
                    f"{where}: tensor {name} has shape {list(tensors[name].shape)}, expected "
                    f"{list(tensor.shape)}"
                )
        if self.config.weights != "timm":  # a published file is of the network whose name it has
            self._check_all_used(
                {name: stored[old] for name, old in names.items()} if found else tensors, network, where
            )
        return {name: tensors[name] for name in needed}

    def _check_all_used(self, tensors: dict[str, torch.Tensor], network: nn.Module, where: str) -> None:
        """Raise UserError for tensors that neither the network nor a head needs, as of a larger network."""
        unexpected = self._unexpected(tensors, network)
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if unexpected and convert is not None:
            with contextlib.suppress(Exception):  # a layout that it does not know
                unexpected = self._unexpected(convert(dict(tensors), network), network)
        if unexpected:
            raise UserError(f"{where}: unexpected tensor {unexpected[0]}")

    def _unexpected(self, names: Iterable[str], network: nn.Module) -> list[str]:
        known = network.state_dict().keys() | dict(network.named_buffers()).keys()
        tops = {name.split(".")[0] for name in network.state_dict()}
        left = [n for n in names if n not in known and not n.endswith(COUNTER) and not is_other_head(n, tops)]
        if left:
            with torch.device("meta"):
                own_head = create(self.name, 1, self.side).state_dict().keys()
            left = [name for name in left if name not in own_head]
        return left

    def _hub(self) -> tuple[str, str]:
        """Return repository and file of timm's weights on the hub. Raises UserError if there are none."""
        timm = timm_module()
        published = timm.get_pretrained_cfg(self.name)
        if published.hf_hub_id:
            return published.hf_hub_id, published.hf_hub_filename or FILE
        if published.url:
            raise UserError(
                f"timm's weights of {self.name} are not on Hugging Face's hub: download {published.url} and "
                "give its path as weights"
            )
        network = self.name.partition(".")[0]
        tags = timm.list_pretrained(f"{network}.*")
        raise UserError(
            f"timm has no weights of {self.name}: use "
            + (f"{', '.join(tags)}, or " if tags else "")
            + "the path of a file or pretrain as weights"
        )

    def _file(self, mirror: Path | None) -> Path:
        """Return the file of timm's weights, from the mirror, the hub's cache or the hub.

        Raises UserError if it cannot be had.
        """
        repository, file = self._hub()
        own = f"{self.weights_identity.removeprefix(TIMM)}{Path(file).suffix}"
        if mirror is not None and (mirror / own).exists():
            return mirror / own
        try:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import LocalEntryNotFoundError

            with contextlib.suppress(LocalEntryNotFoundError):  # without a network, five retries take 20 s
                return Path(hf_hub_download(repository, file, local_files_only=True))
            return Path(hf_hub_download(repository, file))
        except Exception as error:  # the hub's client raises many kinds, also those of its libraries
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"cannot get timm's weights {own} ({reason}): download {file} of huggingface.co/{repository} "
                f"and put it into the mirror folder as {own}, or give its path as weights"
            ) from None
