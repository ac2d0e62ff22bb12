"""A trained network rewritten for inference: batch normalisation (BN) folded into the convolutions before it.

The input normalisation is not folded: the first convolution pads the normalised image with zeros, the mean colour.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from amem_cli.errors import UsageError
from amem_cli.models.backbones import normalise
from amem_cli.models.i3d import MaxPoolSame, Unit3D, pointwise_convolution
from amem_cli.models.pooling import MaxPool3d


class Pointwise(nn.Module):
    """A 1x1x1 convolution at stride 1 as a 2-D convolution, which keeps the map in channels-last format."""

    def __init__(self, conv: nn.Conv3d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return pointwise_convolution(x, self.weight, self.bias)


class CubicMaxPool(nn.Module):
    """3x3x3 max-pooling at stride 1, first over time and then over space: a third fewer comparisons."""

    def forward(self, x: Tensor) -> Tensor:
        maxima = x.clone()  # (B, C, T, H, W)
        torch.maximum(maxima[:, :, 1:], x[:, :, :-1], out=maxima[:, :, 1:])
        torch.maximum(maxima[:, :, :-1], x[:, :, 1:], out=maxima[:, :, :-1])
        frames = F.max_pool2d(maxima.transpose(1, 2).flatten(0, 1), 3, stride=1, padding=1)
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, Unit3D, Pointwise)


class _Tracer(fx.Tracer):
    """Keeps the modules that `fold` replaces as one node, and those whose flow depends on the size of the map or on the
    device."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(normalise,))

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        leaves = Unit3D | MaxPoolSame | MaxPool3d | nn.Conv2d | nn.Conv3d
        return isinstance(module, leaves) or super().is_leaf_module(module, name)


def fold(network: nn.Module, dtype: torch.dtype) -> fx.GraphModule:
    """`network`, in eval mode, with BN folded and its convolutions in `dtype`; `network` itself must not be used again.

    In bfloat16 the maps stay bfloat16 from convolution to convolution; averages and linear layers are float32.
    Raises `UsageError` when the operations of the network depend on the values of tensors.
    """
    try:
        folded = fx.GraphModule(network, _Tracer().trace(network))
    except Exception as error:  # tracing can fail with any exception
        why = f"cannot follow the operations of {type(network).__name__} ({error})"
        raise UsageError("--engine", why=why, remedy="Use --engine eager") from error
    for node in list(folded.graph.nodes):
        if node.op == "call_module":
            _fold_norm(folded, node)
    _set_formats(folded, dtype)
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def _fold_norm(folded: fx.GraphModule, node: fx.Node) -> None:
    """Fold the BN that alone reads a convolution's output; replace 1x1x1 convolutions and 3x3x3 poolings."""
    module = folded.get_submodule(str(node.target))
    if isinstance(module, Unit3D) and isinstance(module.bn, nn.BatchNorm3d):
        module.set_submodule("conv3d", fuse_conv_bn_eval(module.conv3d, module.bn))
        module.set_submodule("bn", nn.Identity())
    elif isinstance(module, MaxPoolSame) and not any(module.valid):
        if (module.kernel, module.stride) == ((3, 3, 3), (1, 1, 1)):
            _replace(folded, node, CubicMaxPool())
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        user = next(iter(node.users))
        norm = folded.get_submodule(str(user.target)) if user.op == "call_module" else None
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d) and len(node.users) == 1:
            module = fuse_conv_bn_eval(module, norm)
            user.replace_all_uses_with(node)
            folded.graph.erase_node(user)
        if isinstance(module, nn.Conv3d) and {*module.kernel_size, *module.stride, module.groups} == {1}:
            _replace(folded, node, Pointwise(module))
        else:
            _replace(folded, node, module)


def _replace(folded: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let `node` call `module`. Each node gets its own: one convolution may be called before two different BNs."""
    node.target = f"folded_{node.name}"
    folded.add_submodule(node.target, module)


def _set_formats(folded: fx.GraphModule, dtype: torch.dtype) -> None:
    """Convolutions in `dtype` with channels-last weights; linear layers and averages in float32."""
    for node in list(folded.graph.nodes):
        module = folded.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            wanted = torch.float32 if isinstance(module, nn.Linear) else dtype
            last = torch.channels_last if isinstance(module, nn.Conv2d) else torch.channels_last_3d
            module.to(dtype=wanted, memory_format=last)  # type: ignore[call-overload]
            with folded.graph.inserting_before(node):
                node.args = (folded.graph.call_method("to", (node.args[0], wanted)), *node.args[1:])
        elif node.op == "call_method" and node.target == "mean":
            node.kwargs = {**node.kwargs, "dtype": torch.float32}
