"""Registered architectures, with weights of torchvision, of a file or of a Python package."""

from pathlib import Path
from typing import Any

import torch
from torch import fx

from sharc_core.backbones.architectures import ARCHITECTURES, build_classifier, cut_at_maps
from sharc_core.backbones.checkpoints import fitting, read
from sharc_core.backbones.model import Backbone, has_batch_norm, load_backbone, maps_shape
from sharc_core.backbones.network import InputDefaults, Network
from sharc_core.backbones.packages import packaged, packaged_file
from sharc_core.backbones.preprocess import InputFormat
from sharc_core.backbones.tokens import with_tokens
from sharc_core.backbones.weights import download, weights_entry
from sharc_core.common.files import sha256_file


class Registered(Network):
    """A registered architecture, cut at its maps."""

    @property
    def defaults(self) -> InputDefaults | None:
        """The input format of packaged weights."""
        if not self.config.is_packaged:
            return None
        weights = packaged(self.config)
        return InputDefaults(
            weights.image_size, weights.resize_size, weights.interpolation, weights.mean, weights.std
        )

    @property
    def code(self) -> tuple[str | Path, ...]:
        """The architecture's file; and this one, unless model.py alone loads the network."""
        file = Path(ARCHITECTURES.module_file(self.config.arch))
        is_special = self.config.is_checkpoint or self.config.is_packaged or self.further
        return (file, "backbones.registered") if is_special else (file,)

    @property
    def weights_identity(self) -> Any:
        """The name of torchvision's weights, or the checksum of a package's."""
        if self.config.is_packaged:
            return packaged(self.config).sha256
        return weights_entry(self.config.arch, self.config.weights).name

    def check(self) -> tuple[int, int, int]:
        """Check architecture, image size and weights; see Network.check."""
        ARCHITECTURES.get(self.config.arch)  # before its weights
        shape = maps_shape(self.config, self.side)
        body = self.skeleton()
        if self.config.is_local_file:
            fitting(Path(self.config.weights), body, self.config.arch)
        if self.config.is_packaged:
            packaged_file(self.config)
        return shape if self.config.tokens == "map" else (shape[0], 1, 1)

    def body(self) -> fx.GraphModule:
        """Return the network up to its maps; see Network.body."""
        return self._cut("cpu")

    def skeleton(self) -> fx.GraphModule:
        """Return the network up to its maps, without values."""
        return self._cut("meta")

    def _cut(self, device: str) -> fx.GraphModule:
        arch = self.config.arch
        body = cut_at_maps(build_classifier(arch, device=device, side=self.side), arch)
        return with_tokens(body, arch, self.config.tokens)

    def has_batch_norm(self) -> bool:
        """Return whether the network up to its maps has batch norm."""
        return has_batch_norm(self.completed)

    def load(
        self,
        weights: Path | None,
        device: torch.device | str,
        mirror: Path | None = None,
        form: InputFormat | None = None,
        fuse: bool = True,
    ) -> Backbone:
        """Load the backbone; see Network.load."""
        config, form = self.config, form or self.form
        if config.is_packaged:
            weights = packaged_file(config)
        elif weights is None and config.is_local_file:
            weights = Path(config.weights)
        is_other = config.is_packaged or config.is_checkpoint
        is_plain = weights is None or config.weights == "pretrain"
        if weights is not None and config.is_local_file and not is_other:
            is_plain = fitting(weights, self.skeleton(), config.arch).is_plain
        if is_plain and config.tokens == "map":
            return load_backbone(config, weights, device, mirror, form, fuse)
        if weights is None:
            backbone = load_backbone(config, None, "cpu", mirror, form, fuse=False)
            body, sha256 = with_tokens(backbone.body, config.arch, config.tokens), backbone.sha256
        else:
            body, sha256 = self.body(), sha256_file(weights)
            body.load_state_dict(body.state_dict() | read(weights, body, config.arch))
        shape = maps_shape(config, form.image_size)
        shape = shape if config.tokens == "map" else (shape[0], 1, 1)
        return self.backbone(body, shape, sha256, form, fuse).to(device)

    def fetch(self, mirror: Path | None = None) -> None:
        """Download torchvision's weights into torch's cache; a file of the mirror stays there."""
        if self.config.is_torchvision:
            download(weights_entry(self.config.arch, self.config.weights), mirror)
