"""Are weights still what they should be? Compared with what is known of them, before anything is computed.

Apart from what reads them: a check changes no map.
"""

import re
from pathlib import Path

import torch

from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.weights import weights_entry
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, sha256_file


def check_weights(
    config: BackboneConfig, weights: Path | None, card: Path | None, mirror: Path | None = None
) -> None:
    """Check a weights file's SHA-256, wherever one is known. Raises UserError naming the file and the remedy.

    Known are that of weights that were pre-trained here (from their card), of a local file if the grid
    states it, and the beginning of torchvision's, which stands in the names of its files. weights, card:
    paths as the Layout has them. Files in a mirror are checked when they are read.
    """
    if card is not None:
        assert weights is not None
        _check_pretrained(weights, card)
    elif config.is_local_file:
        check_stated(config)
    else:
        _check_downloaded(config, mirror)


def check_stated(config: BackboneConfig) -> None:
    """Check a local file whose SHA-256 the grid states."""
    if config.sha256 is not None and (found := sha256_file(config.weights)) != config.sha256:
        raise UserError(
            f"weights file {config.weights} was altered: its SHA-256 is {found}, backbone.sha256 says "
            f"{config.sha256}: get it again, or state its own"
        )


def _check_pretrained(weights: Path, card: Path) -> None:
    remedy = f"delete it and {card.name} beside it and run again"
    if not weights.exists():
        raise UserError(f"weights file {weights} is missing: delete {card} too and run again")
    if sha256_file(weights) != read_json(card).get("weights_sha256"):
        raise UserError(f"weights file {weights} was altered (its SHA-256 differs from its card's): {remedy}")


def _check_downloaded(config: BackboneConfig, mirror: Path | None) -> None:
    """The file in torch's cache: torch checks what it downloads, and never what it finds there."""
    name = weights_entry(config.arch, config.weights).url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if (mirror is not None and (mirror / name).exists()) or not path.exists():
        return
    wanted = re.search(r"-([0-9a-f]+)\.", name)
    if wanted and not sha256_file(path).startswith(wanted.group(1)):
        raise UserError(
            f"weights file {path} is damaged (its SHA-256 does not begin with {wanted.group(1)}): delete it "
            "and run again"
        )
