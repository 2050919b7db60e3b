"""Convert the tokens of a vision transformer to feature maps."""

import math

import torch
from torch import fx

from sharc_core.backbones.architectures import tokens_to_maps
from sharc_core.backbones.config import Tokens
from sharc_core.common.errors import UserError


def maps_of_tokens(tokens: torch.Tensor, prefix: int, kind: Tokens) -> torch.Tensor:
    """Convert `prefix` tokens and g x g patch tokens, (B, prefix + g g, K), to maps.

    kind: `map` returns the patch tokens (B, K, g, g); `cls` the first token and `mean` the mean of the patch
    tokens, both (B, K, 1, 1).
    """
    if kind == "cls":
        return tokens[:, 0, :, None, None]
    patches = tokens[:, prefix:]
    if kind == "mean":
        return patches.mean(1)[:, :, None, None]
    side = math.isqrt(patches.shape[1])
    return patches.transpose(1, 2).unflatten(2, (side, side))


def with_tokens(body: fx.GraphModule, arch: str, kind: Tokens) -> fx.GraphModule:
    """Return a network that was cut at its patch tokens with another `kind` of tokens as its maps.

    Raises UserError for a network whose maps are no tokens.
    """
    if kind == "map":
        return body
    nodes = [node for node in body.graph.nodes if node.target is tokens_to_maps]
    if not nodes:
        raise UserError(f"tokens {kind}: the maps of architecture {arch} are no tokens: leave tokens out")
    for node in nodes:
        node.target = maps_of_tokens
        node.args = (*node.args, 1, kind)
    body.recompile()
    return body
