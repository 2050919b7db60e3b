"""The frozen backbone: preprocessing, maps, and its identity."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharc_core.backbones.architectures import (
    ARCHITECTURES,
    OnlyShapes,
    build_classifier,
    cut_at_maps,
    fuse_batch_norms,
)
from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.preprocess import InputFormat, Preprocess, resolve
from sharc_core.backbones.weights import (
    check_fit,
    download,
    local_shapes,
    read_local,
    sha256_tensors,
    todays_name,
    weights_entry,
    with_positions_for,
)
from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file
from sharc_core.common.pooling import widened


class Backbone(nn.Module):
    """A frozen network in evaluation mode.

    name: its name in results. arch, weights: as in the config. channels (K), map_size (h, w): shape of its
    maps. sha256: hash of the weights file (of the tensors for torchvision's weights). form: format of its
    input.
    """

    def __init__(
        self,
        body: fx.GraphModule,
        config: BackboneConfig,
        shape: tuple[int, int, int],
        sha256: str,
        form: InputFormat,
        fuse: bool = True,
    ):
        super().__init__()
        self.name = config.path_name
        self.batch_norm = config.batch_norm
        self.arch = config.arch
        self.weights = config.weights
        self.precision = config.precision
        self.channels, *size = shape
        self.map_size = tuple(size)
        self.sha256 = sha256
        self.form = form
        self._preprocess = Preprocess(form)
        # convolutions are fastest in channels_last, on the CPU and on the GPU
        body = fuse_batch_norms(body.eval()) if fuse else body.eval()
        self.body = body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode whatever `mode` is."""
        return super().train(False)

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Resize, crop and normalise images uint8 (B, H, W, 3) to float32 (B, 3, S, S)."""
        return self._preprocess(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute float32 maps (B, K, h, w) of normalised images (B, 3, S, S) in `precision`."""
        is_half = self.precision == "bfloat16"
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=is_half):
            return widened(self.body(images))

    def describe(self) -> dict:
        """Return everything that identifies the backbone; JSON-able."""
        return {
            "name": self.name,
            "arch": self.arch,
            "weights": self.weights,
            "sha256": self.sha256,
            **asdict(self.form),
            "batch_norm": self.batch_norm,
            "precision": self.precision,
        }


def maps_shape(config: BackboneConfig, side: int) -> tuple[int, int, int]:
    """Return the shape (K, h, w) of the maps of `side` px images. Raises UserError for too small images."""
    body = _body(config.arch, side, "meta")
    try:
        with OnlyShapes():
            maps = body(torch.empty(1, 3, side, side))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"architecture {config.arch} does not take images of {side} px: {reason}") from None
    if maps.dim() != 4 or 0 in maps.shape:
        raise UserError(
            f"architecture {config.arch} has no maps left for images of {side} px: use larger ones"
        )
    return tuple(maps.shape[1:])


def _body(arch: str, side: int, device: str = "cpu") -> fx.GraphModule:
    """Return an architecture's network for `side` px images up to its maps, with random weights."""
    return cut_at_maps(build_classifier(arch, device=device, side=side), arch)


def check_backbone(config: BackboneConfig) -> tuple[int, int, int]:
    """Check a backbone's settings without reading weights or computing; return its maps' shape (K, h, w).

    Raises UserError for an unknown architecture (with the nearest one), one without maps, images too small,
    unknown torchvision weights, and a weights file that is missing, damaged (in its header) or does not fit.
    """
    ARCHITECTURES.get(config.arch)  # before its weights
    side = resolve(config).image_size
    shape = maps_shape(config, side)
    if config.is_local_file:
        body = _body(config.arch, side, "meta")
        check_fit(local_shapes(Path(config.weights)), body, config.arch, f"weights file {config.weights}")
    return shape


def has_batch_norm(config: BackboneConfig) -> bool:
    """Return whether the network up to its maps has batch norm."""
    body = _body(config.arch, resolve(config).image_size, "meta")
    called = {node.target for node in body.graph.nodes if node.op == "call_module"}
    return any(isinstance(body.get_submodule(name), _BatchNorm) for name in called)


def load_backbone(
    config: BackboneConfig,
    weights_path: Path | None,
    device: torch.device | str,
    mirror: Path | None = None,
    form: InputFormat | None = None,
    fuse: bool = True,
) -> Backbone:
    """Load the backbone, ready to run on `device`.

    weights_path: the weights file; None for a local file of the config and for torchvision's weights. The
    latter come from the mirror folder, or from torch's cache, into which they are downloaded if missing.
    form: format of the input, the config's by default. fuse: fold batch norms into convolutions; without it
    their statistics can be read and changed. Raises UserError for weights that do not fit or cannot be
    downloaded.
    """
    form = form or resolve(config)
    shape = maps_shape(config, form.image_size)
    body = _body(config.arch, form.image_size)
    if weights_path is None and config.is_local_file:
        weights_path = Path(config.weights)
    if weights_path is not None:
        tensors = read_local(Path(weights_path), body, config.arch)
        sha256 = sha256_file(weights_path)
    elif config.weights == "pretrain":
        raise UserError(f"backbone {config.path_name} is pre-trained here, but no weights file was given")
    else:
        tensors = _torchvision_tensors(config, body, mirror)
        sha256 = sha256_tensors(tensors)
    body.load_state_dict(body.state_dict() | tensors)
    return Backbone(body, config, shape, sha256, form, fuse).to(device)


def _torchvision_tensors(
    config: BackboneConfig, body: fx.GraphModule, mirror: Path | None
) -> dict[str, torch.Tensor]:
    """Return the body's tensors from torchvision's weights. Raises UserError as load_backbone does."""
    entry = weights_entry(config.arch, config.weights)
    tensors = {todays_name(name): tensor for name, tensor in download(entry, mirror).items()}
    shapes = {name: (tuple(t.shape), t.is_floating_point()) for name, t in tensors.items()}
    check_fit(shapes, body, config.arch, f"torchvision weights {entry}")
    needed = body.state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if name in needed}
    return with_positions_for(body, tensors)
