"""Architectures by name, and cutting them at their feature maps.

An architecture is a function `build(classes, side) -> nn.Module` that returns an image classifier with random
weights for images of `side` pixels. Its feature maps are the input of the classifier's last global average
pool, or a vision transformer's patch tokens. The cut finds this node in the graph traced by torch.fx, so an
architecture needs no code for it.

torchvision's create_feature_extractor also traces, but it needs the node's name, which differs between
families, and it cannot convert tokens to maps.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from sharc_core.common.errors import UserError
from sharc_core.common.registry import Registry

ARCHITECTURES = Registry("architecture", "sharc_core.backbones")

MAPS_NEEDED = (
    "has neither an average pool nor a class token, so there are no feature maps to take: "
    "use another architecture"
)
# Functions that change a tensor's values and not its shape
ELEMENTWISE = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.add, F.batch_norm, F.relu)
CLASS_TOKEN = (slice(None), 0)  # tokens[:, 0], the input of a vision transformer's classifier


def build_classifier(arch: str, classes: int = 1000, device: str = "cpu", side: int = 224) -> nn.Module:
    """Build a randomly initialised classifier for images of `side` pixels, in evaluation mode.

    device: "meta" costs neither memory nor initialisation, because only names and shapes exist. Raises
    UserError for an unknown architecture, or one that cannot be built for such images.
    """
    build: Callable[[int, int], nn.Module] = ARCHITECTURES.get(arch)
    try:
        if device == "meta":
            with OnlyShapes():
                return build(classes, side).to("meta").eval()
        return build(classes, side).to(device).eval()
    except AssertionError as error:  # a vision transformer's patches do not divide the image
        raise UserError(f"architecture {arch} does not take images of {side} px: {error}") from None


class OnlyShapes(TorchFunctionMode):
    """Create tensors of torch.empty, which layers use for their weights, without memory or values.

    (Under `torch.device("meta")` no tensor would have values, but RegNet computes its widths with tensors.)
    On tensors without values, functions that change only values are skipped. torch would load its compiler
    for them, which takes seconds.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = kwargs | {"device": "meta"}
        if func in ELEMENTWISE and args and args[0].is_meta and _keeps_shape(func, args):
            return args[0]
        return func(*args, **kwargs)


def _keeps_shape(func: Callable, args: tuple) -> bool:
    """Return whether the result certainly has the first argument's shape. If not, torch handles the call."""
    other = args[1] if len(args) > 1 else None
    if func is torch.Tensor.add:
        return isinstance(other, torch.Tensor) and other.shape == args[0].shape
    if func is F.batch_norm:
        return isinstance(other, torch.Tensor) and other.shape == args[0].shape[1:2]
    return True


def cut_at_maps(classifier: nn.Module, arch: str) -> fx.GraphModule:
    """Return the classifier up to its feature maps, from images (B, 3, S, S) to maps (B, K, h, w).

    Parameters are shared with the classifier and keep their names. Raises UserError when there is
    no node to cut at or when the forward pass cannot be traced.
    """
    try:
        graph = fx.symbolic_trace(classifier).graph
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"architecture {arch} cannot be cut ({reason}): use another architecture") from error
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (_maps_node(graph, classifier, arch),)
    graph.eliminate_dead_code()
    return fx.GraphModule(classifier, graph)


def _maps_node(graph: fx.Graph, classifier: nn.Module, arch: str) -> fx.Node:
    """Return the node whose value is the feature maps. For tokens, it is added to the graph."""
    nodes = list(graph.nodes)
    pools = [node for node in nodes if _is_pool(node, classifier)]
    if pools:
        after = nodes[nodes.index(pools[-1]) :]
        if any(_has_parameters(node, classifier) for node in after):
            return pools[-1].args[0]
        # SqueezeNet pools class scores; its classifier is the convolution before the pool
        scoring = [node for node in nodes if _has_parameters(node, classifier)][-1]
        return scoring.args[0]
    class_tokens = [n for n in nodes if n.op == "call_function" and n.args[1:] == (CLASS_TOKEN,)]
    if not class_tokens:
        raise UserError(f"architecture {arch} {MAPS_NEEDED}")
    with graph.inserting_before(class_tokens[-1]):
        return graph.call_function(tokens_to_maps, (class_tokens[-1].args[0],))


def tokens_to_maps(tokens: torch.Tensor) -> torch.Tensor:
    """Convert a class token and g x g patch tokens, (B, 1 + g g, K), to the patches' maps (B, K, g, g)."""
    patches = tokens[:, 1:].transpose(1, 2)
    side = math.isqrt(patches.shape[2])
    return patches.unflatten(2, (side, side))


def _is_pool(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(root.get_submodule(str(node.target)), nn.AdaptiveAvgPool2d)
    if node.op == "call_function":
        return node.target is F.adaptive_avg_pool2d
    return node.op == "call_method" and node.target == "mean" and list(node.args[1:]) in ([[2, 3]], [(2, 3)])


def _has_parameters(node: fx.Node, root: nn.Module) -> bool:
    return node.op == "call_module" and any(True for _ in root.get_submodule(str(node.target)).parameters())


def fuse_batch_norms(body: fx.GraphModule) -> fx.GraphModule:
    """Fold every batch norm that follows a convolution into that convolution (evaluation mode only)."""
    modules = dict(body.named_modules())
    graph = fx.Graph()
    graph.output(graph.graph_copy(body.graph, {}))
    fused = fx.GraphModule(body, graph)
    for node in list(graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op != "call_module" or not isinstance(modules[before.target], nn.Conv2d):
            continue
        called = [n.target for n in graph.nodes if n.op == "call_module"]
        if len(before.users) > 1 or called.count(before.target) > 1 or called.count(node.target) > 1:
            continue  # another node uses the convolution
        folded = fuse_conv_bn_eval(modules[before.target], modules[node.target])
        fused.set_submodule(before.target, folded)
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    fused.recompile()
    fused.delete_all_unused_submodules()
    return fused
