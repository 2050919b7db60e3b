"""Architectures by name, and cutting any of them where its feature maps are.

An architecture is a function `build(classes) -> nn.Module`: an image classifier with random weights.
What the benchmark calls its feature maps is what the classifier's last global average pool takes; the
cut finds that place in the traced graph, so an architecture needs no code of its own for it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from sharc_core.errors import UserError
from sharc_core.registry import Registry

ARCHITECTURES = Registry("architecture", "sharc_core.backbones")

MAPS_NEEDED = "has no global average pool, so there are no feature maps to take: use a convolutional network"


def build_classifier(arch: str, classes: int = 1000, device: str = "cpu") -> nn.Module:
    """A randomly initialised classifier in evaluation mode.

    device "meta" costs neither memory nor initialisation: only names and shapes exist. Raises
    UserError for an unknown architecture.
    """
    build: Callable[[int], nn.Module] = ARCHITECTURES.get(arch)
    if device == "meta":
        with _EmptyOnMeta():
            return build(classes).to("meta").eval()
    return build(classes).to(device).eval()


class _EmptyOnMeta(TorchFunctionMode):
    """Tensors made by torch.empty, as layers make their weights, get no memory.

    (Under `torch.device("meta")` nothing would have values, but RegNet computes its widths with tensors.)
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = kwargs | {"device": "meta"}
        return func(*args, **kwargs)


def cut_at_maps(classifier: nn.Module, arch: str) -> fx.GraphModule:
    """The classifier up to its last global average pool: images (B, 3, S, S) -> maps (B, K, h, w).

    Parameters are shared with the classifier and keep their names. Raises UserError when there is no
    such pool (a ViT) or when the forward pass cannot be traced.
    """
    try:
        graph = fx.symbolic_trace(classifier).graph
    except Exception as error:
        raise UserError(
            f"architecture {arch} cannot be cut ({error}): use a convolutional network"
        ) from error
    pools = [node for node in graph.nodes if _is_global_pool(node, classifier)]
    if not pools:
        raise UserError(f"architecture {arch} {MAPS_NEEDED}")
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (pools[-1].args[0],)
    graph.eliminate_dead_code()
    return fx.GraphModule(classifier, graph)


def _is_global_pool(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(root.get_submodule(node.target), nn.AdaptiveAvgPool2d)
    if node.op == "call_function":
        return node.target is F.adaptive_avg_pool2d
    return node.op == "call_method" and node.target == "mean" and list(node.args[1:]) in ([[2, 3]], [(2, 3)])


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
            continue  # somebody else wants the convolution as it is
        folded = fuse_conv_bn_eval(modules[before.target], modules[node.target])
        fused.set_submodule(before.target, folded)
        node.replace_all_uses_with(before)
        graph.erase_node(node)
    fused.recompile()
    fused.delete_all_unused_submodules()
    return fused
