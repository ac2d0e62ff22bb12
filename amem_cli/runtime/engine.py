"""The inference engine: one function turns a trained network into a fast callable on uint8 batches.

Engines differ in speed alone; their outputs agree with eager float32 to 1e-5 in cosine distance (bf16: 1e-4):

    eager     the network as it is trained, in channels-last format, with autocast for bf16
    torch     BN folded into the convolutions, 1x1 convolutions that read the same map merged into one, ReLU inside
              the convolution, bf16 activations from layer to layer; on a CPU also weights packed for oneDNN
    openvino  the folded network compiled by OpenVINO, on a CPU (`python -m pip install "amem[cpu]"`)

The input normalisation is not folded into the first convolution, because zero padding after normalisation means the
mean colour; before normalisation it would mean black.
"""

import copy
import importlib.util
import operator
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import metadata

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from amem_cli.errors import InputMissing, UsageError
from amem_cli.models.backbones import normalise
from amem_cli.models.i3d import MaxPoolSame, Unit3D, same_padding
from amem_cli.runtime.device import as_pixels

CPU = torch.device("cpu")
PACKED_FOR = 8  # batch size that oneDNN packs weights for; constant, so that results do not depend on the first batch


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "fp32" or "bf16"; auto is bf16 on CUDA and fp32 on a CPU."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision


def resolve_engine(engine: str, device: torch.device, precision: str, *, clips: bool) -> str:
    """ "eager", "torch" or "openvino". On CUDA auto is eager; on a CPU it is OpenVINO if installed, else torch.

    One exception: for clips in bf16 auto is torch, whose 3-D convolutions on packed weights were faster than
    OpenVINO's on a processor with AMX. For images OpenVINO was faster; for clips in fp32 it was faster on one processor
    (AMD Zen 5) and slower on another (`docs/PERFORMANCE.md`). `clips` is true if the network's input is clips, not
    images; `precision` is "fp32" or "bf16". The choice depends on no measurement, so a second run uses the same engine.

    Raises `InputMissing` for OpenVINO where it is not installed, `UsageError` for OpenVINO on CUDA.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if engine == "auto":
        if device.type == "cuda":
            return "eager"
        return "openvino" if installed and not (clips and precision == "bf16") else "torch"
    if engine == "openvino":
        if device.type != "cpu":
            why = f"it computes on the CPU, not on {device}"
            raise UsageError("--engine", engine, why=why, remedy="Use --engine auto, or --device cpu")
        if not installed:
            remedy = 'Run: python -m pip install "amem[cpu]"'
            raise InputMissing("--engine", engine, why="the package openvino is not installed", remedy=remedy)
    return engine


def engine_version(engine: str) -> str:
    """What provenance records of a resolved engine: "torch", "eager" or "openvino 2026.1.0"."""
    return f"openvino {metadata.version('openvino')}" if engine == "openvino" else engine


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which networks run at "fp32" or "bf16"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class Engine:
    """A network ready to run: uint8 on the host, (B, H, W, 3) or (B, T, H, W, 3) -> float32 on the host, (B, ...).

    If a batch does not fit into memory, it and later batches are halved, with a warning; `most` is then the largest
    number of items computed at once. `name` is the resolved engine.
    Raises `UsageError` when a single item does not fit.
    """

    def __init__(self, name: str, run: Callable[[Tensor], Tensor], warn: Callable[[str], None]):
        self.name, self.most = name, 0
        self._run, self._warn = run, warn

    def __call__(self, images: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        done = 0
        while done < len(images) or not outputs:
            part = images[done : done + self.most] if self.most else images
            try:
                outputs.append(self._run(part))
            except torch.OutOfMemoryError as error:
                if len(part) <= 1:
                    why = f"one item of shape {tuple(images.shape[1:])} does not fit into memory ({error})"
                    remedy = "Use a smaller --image-size, --precision bf16 or --device cpu"
                    raise UsageError("--batch-size", why=why, remedy=remedy) from error
                self.most = len(part) // 2
            else:
                done += len(part)
                continue
            # outside the handler, where the traceback still keeps the tensors that did not fit
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._warn(f"out of memory at {len(part)} items a step: continuing with {self.most}; see --batch-size")
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def prepare(
    network: nn.Module,
    device: torch.device,
    precision: str,
    engine: str,
    warn: Callable[[str], None] = warnings.warn,
) -> Engine:
    """The network in eval mode as an `Engine` on `device`; works on a copy and does not change `network`.

    `network` takes pixels in [0, 1], (B, 3, H, W) or (B, 3, T, H, W), `precision` is "fp32" or "bf16", `engine` is
    a result of `resolve_engine`. `warn` is called with warnings for the user. Raises `UsageError` for a network whose
    operations the engine cannot trace; there is no silent fallback to another engine.
    """
    network = copy.deepcopy(network).to(device).eval().requires_grad_(False)
    if engine == "openvino":
        return Engine(engine, _openvino(fold(network), precision), warn)
    if engine == "torch":
        packed = device.type == "cpu" and torch.backends.mkldnn.is_available()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network, precision = fold(network, dtype, packed=packed), "fp32"  # the network contains the casts

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with autocast(precision, device):
            return network(as_pixels(images, device)).float().cpu()

    return Engine(engine, run, warn)


# -- the folded network ------------------------------------------------------------------------------------------------


class Convolution(nn.Module):
    """A convolution with BN folded in, and ReLU if `relu`: (B, C_in, [T,] H, W) -> (B, C_out, [T',] H', W').

    Padding is the convolution's own or, with `same`, TensorFlow's. Weights and result are in `dtype`.
    `packed`: weights in oneDNN's own format, created at the first call.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, norm: nn.Module | None = None, *, same: bool, relu: bool):
        super().__init__()
        self.kernel, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.dilation, self.groups, self.same, self.relu = conv.dilation, conv.groups, same, relu
        self.convolve = F.conv2d if conv.weight.dim() == 4 else F.conv3d
        weight = conv.weight.detach().clone()
        bias = torch.zeros_like(weight[:, 0, 0, 0].flatten()[: len(weight)]) if conv.bias is None else conv.bias.clone()
        if norm is not None:
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # (C_out,)
            weight *= scale.view(-1, *[1] * (weight.dim() - 1))
            bias = norm.bias + (bias - norm.running_mean) * scale
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias.detach(), False)
        self.packed: Tensor | None = None
        self.packs = False

    @property
    def pointwise(self) -> bool:
        return set(self.kernel) == {1} and set(self.stride) == {1} and self.groups == 1 and not any(self.padding)

    def finish(self, dtype: torch.dtype, packs: bool) -> None:
        """The last step: convert the weights to `dtype` and channels last, and set `packed`."""
        memory_format = torch.channels_last if self.weight.dim() == 4 else torch.channels_last_3d
        self.weight.data = self.weight.data.to(dtype).contiguous(memory_format=memory_format)
        self.bias.data = self.bias.data.to(dtype)
        self.packs = packs

    def forward(self, x: Tensor) -> Tensor:
        x, padding = x.to(self.weight.dtype), self.padding
        if self.same:
            padding, extra = same_padding(x.shape[2:], self.kernel, self.stride)
            if any(extra):
                x = F.pad(x, (0, extra[2], 0, extra[1], 0, extra[0]))
        if not self.packs:
            x = self.convolve(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
            return F.relu(x) if self.relu else x
        where = (list(padding), list(self.stride), list(self.dilation), self.groups)
        if self.packed is None:
            shape = [PACKED_FOR, *x.shape[1:]]
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *where, shape)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, self.bias, *where, "relu" if self.relu else "none", [], ""
        )


class CubicMaxPool(nn.Module):
    """3x3x3 max-pooling at stride 1, first over time, then over space: a third fewer operations."""

    def forward(self, x: Tensor) -> Tensor:
        maxima = x.clone()  # (B, C, T, H, W)
        torch.maximum(maxima[:, :, 1:], x[:, :, :-1], out=maxima[:, :, 1:])
        torch.maximum(maxima[:, :, :-1], x[:, :, 1:], out=maxima[:, :, :-1])
        frames = F.max_pool2d(maxima.transpose(1, 2).flatten(0, 1), 3, stride=1, padding=1)
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class _Tracer(fx.Tracer):
    """Traces a network down to the modules that `fold` replaces."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(normalise,))

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, Unit3D | MaxPoolSame | nn.Conv2d | nn.Conv3d) or super().is_leaf_module(module, name)


def fold(network: nn.Module, dtype: torch.dtype = torch.float32, *, packed: bool = False) -> fx.GraphModule:
    """`network` for inference, a graph with `Convolution`s; works on a copy of `network`.

    In bf16 maps are bf16 from convolution to convolution, and averages and fully-connected layers float32.
    Raises `UsageError` when the network's flow depends on the values of tensors.
    """
    try:
        folded = fx.GraphModule(network, _Tracer().trace(network))
    except Exception as error:  # tracing can raise any exception
        why = f"cannot follow the operations of {type(network).__name__} ({error})"
        raise UsageError("--engine", why=why, remedy="Use --engine eager") from error
    _fold_norms(folded)
    _merge_pointwise(folded)
    for module in folded.modules():
        if isinstance(module, Convolution):
            module.finish(dtype, packed)
    for node in folded.graph.nodes:
        if node.op == "call_method" and node.target == "mean":
            node.kwargs = {**node.kwargs, "dtype": torch.float32}
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def _fold_norms(folded: fx.GraphModule) -> None:
    """Replace convolution, BN, ReLU by one `Convolution`, and cubic poolings by `CubicMaxPool`."""
    modules = dict(folded.named_modules())

    def only_user(node: fx.Node, kinds: tuple[type, ...]) -> fx.Node | None:
        user = next(iter(node.users)) if len(node.users) == 1 else None
        return user if user and user.op == "call_module" and isinstance(modules[user.target], kinds) else None

    def absorb(node: fx.Node, follower: fx.Node) -> None:
        follower.replace_all_uses_with(node)
        folded.graph.erase_node(follower)

    for node in list(folded.graph.nodes):
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, Unit3D):
            _replace(folded, node, Convolution(module.conv3d, module.bn, same=True, relu=True))
        elif isinstance(module, MaxPoolSame) and (module.kernel, module.stride) == ((3, 3, 3), (1, 1, 1)):
            if not any(module.valid):
                _replace(folded, node, CubicMaxPool())
        elif isinstance(module, nn.Conv2d | nn.Conv3d) and _plain(module):
            norm, relu = only_user(node, (nn.BatchNorm2d, nn.BatchNorm3d)), False
            if norm is not None:
                absorb(node, norm)
            follower = next(iter(node.users)) if len(node.users) == 1 else None
            if follower is not None and _is_relu(follower, modules):
                absorb(node, follower)
                relu = True
            _replace(folded, node, Convolution(module, norm and modules[norm.target], same=False, relu=relu))


def _plain(conv: nn.Conv2d | nn.Conv3d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[node.target], nn.ReLU)
    return node.target in (F.relu, torch.relu, "relu", "relu_")


def _replace(folded: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let `node` call `module`, under a new name, because a module that is called twice may be replaced in two ways."""
    name = f"folded_{node.name}"
    folded.add_submodule(name, module)
    node.target = name


def _merge_pointwise(folded: fx.GraphModule) -> None:
    """Compute 1x1 convolutions that read the same map as one, and split its result."""
    modules = dict(folded.named_modules())
    readers: dict[tuple[fx.Node, bool], list[fx.Node]] = defaultdict(list)
    for node in folded.graph.nodes:
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, Convolution) and module.pointwise:
            readers[node.args[0], module.relu].append(node)
    for nodes in readers.values():
        if len(nodes) < 2:
            continue
        parts: Sequence[Convolution] = [modules[node.target] for node in nodes]  # type: ignore[misc]
        merged = copy.deepcopy(parts[0])
        merged.weight = nn.Parameter(torch.cat([part.weight for part in parts]), False)
        merged.bias = nn.Parameter(torch.cat([part.bias for part in parts]), False)
        name = f"{nodes[0].target}_merged"
        folded.add_submodule(name, merged)
        with folded.graph.inserting_before(nodes[0]):
            together = folded.graph.call_module(name, nodes[0].args)
            split = folded.graph.call_function(torch.split, (together, [len(part.bias) for part in parts], 1))
            for position, node in enumerate(nodes):
                node.replace_all_uses_with(folded.graph.call_function(operator.getitem, (split, position)))
        for node in nodes:
            folded.graph.erase_node(node)


# -- OpenVINO ----------------------------------------------------------------------------------------------------------


def _openvino(network: nn.Module, precision: str) -> Callable[[Tensor], Tensor]:
    """`network` compiled once for each image or clip size, for any batch size."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled: dict[torch.Size, openvino.CompiledModel] = {}

    def run(images: Tensor) -> Tensor:
        size = images.shape[1:]
        if size not in compiled:
            example = as_pixels(torch.zeros((2, *size), dtype=torch.uint8), CPU)
            batch = ({0: torch.export.Dim("batch")},)
            exported = torch.export.export(network, (example,), dynamic_shapes=batch)
            compiled[size] = core.compile_model(openvino.convert_model(exported), "CPU", settings)
        pixels = as_pixels(images, CPU).contiguous()
        return torch.from_numpy(compiled[size](pixels.numpy())[0].copy())

    return run
