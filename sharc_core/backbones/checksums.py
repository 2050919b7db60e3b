"""Verify checksums of weights before anything is computed.

Separate from the code that reads weights, because a check changes no map.
"""

import re
from pathlib import Path

import torch

from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.packages import packaged_file
from sharc_core.backbones.weights import weights_entry
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, sha256_file


def check_weights(
    config: BackboneConfig, weights: Path | None, card: Path | None, mirror: Path | None = None
) -> None:
    """Verify a weights file's SHA-256 if it is known. Raises UserError naming the file and the remedy.

    The card states the checksum of weights that were pre-trained here, the grid may state the checksum of a
    local file, and the names of torchvision's files contain the first digits of theirs. That of a package's
    file is part of this project. weights, card: paths of the Layout. Files in a mirror are verified when they
    are read.
    """
    if card is not None:
        assert weights is not None
        _check_pretrained(weights, card)
    elif config.is_local_file:
        check_stated(config)
    elif config.is_packaged:
        packaged_file(config)
    elif config.is_torchvision:
        _check_downloaded(config, mirror)


def check_stated(config: BackboneConfig) -> None:
    """Verify a local file if the grid states its SHA-256. Raises UserError if they differ."""
    if config.sha256 is not None and (checksum := sha256_file(config.weights)) != config.sha256:
        raise UserError(
            f"weights file {config.weights} was altered: its SHA-256 is {checksum}, backbone.sha256 is "
            f"{config.sha256}: get the file again, or correct backbone.sha256"
        )


def _check_pretrained(weights: Path, card: Path) -> None:
    remedy = f"delete it and {card.name} next to it and run again"
    if not weights.exists():
        raise UserError(f"weights file {weights} is missing: delete {card} too and run again")
    if sha256_file(weights) != read_json(card).get("weights_sha256"):
        raise UserError(f"weights file {weights} was altered (its SHA-256 differs from its card's): {remedy}")


def _check_downloaded(config: BackboneConfig, mirror: Path | None) -> None:
    """Verify the file in torch's cache, because torch verifies only what it downloads."""
    name = weights_entry(config.arch, config.weights).url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if (mirror is not None and (mirror / name).exists()) or not path.exists():
        return
    digits = re.search(r"-([0-9a-f]+)\.", name)
    if digits and not sha256_file(path).startswith(digits.group(1)):
        raise UserError(
            f"weights file {path} is damaged (its SHA-256 does not begin with {digits.group(1)}): delete it "
            "and run again"
        )
