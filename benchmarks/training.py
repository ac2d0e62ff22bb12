"""The training step of `train-amem`: its speed next to the baseline, and its memory.

    python benchmarks/training.py --peers FOLDER [--threads 2] [--runs 5]
    python benchmarks/training.py --memory

Speed: "amem" is `train_step` with `--modules baseline`. "baseline" is the same step with piergiaj's I3D (`peers.py`)
and unfused Adam. Both have the same weights and clips; the loss of the first step is printed.

Memory: whole steps on tensors without values. For one more clip in the batch: the maps that are kept for the backward
passes, and the most bytes of tensors at once. `RESERVED` is for CUDA, cuDNN and fragmentation.
"""

import argparse
import json
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from peers import CPU, ChannelsFirst, peer_i3d, with_peer_modules
from timing import Method, take_turns
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amem_cli.models.config import model_config
from amem_cli.models.recomputation import recompute_activations
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.stages.train_amem import Batch, Networks, build_networks, train_step

PEOPLE = 625  # training people of MARS
SIZE = (256, 128)
CARD, RESERVED = 11 * 2**30, 1.5 * 2**30  # a card of 11 GB, and what is not for tensors


def random_batch(clips: int, size: tuple[int, int]) -> Batch:
    """Random clips, two of each person."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (clips, 8, *size, 3), dtype=torch.uint8, generator=draw)
    return Batch(
        clip=pixels.movedim(-1, 1).float().div_(255),  # channels last in memory
        identity=torch.arange(clips) // 2,
        attributes=torch.randint(2, (clips, 105), generator=draw).float(),
        start=torch.arange(clips) % 3 + 1,
    )


def build(modules: str, size: tuple[int, int]) -> tuple[Networks, TrainAmemOptions]:
    """Networks in training mode."""
    options = TrainAmemOptions(modules=modules, image_size=f"{size[0]}x{size[1]}")  # type: ignore[arg-type]
    networks = build_networks(model_config(options, PEOPLE), options, Processes(0, 1, CPU))
    networks.amem.train()
    return networks, options


# -- speed -------------------------------------------------------------------------------------------------------------


def make(method: str, precision: str, clips: int, size: tuple[int, int], peers: str = "") -> Callable[[], float]:
    """A step of one method, which returns the loss."""
    torch.manual_seed(0)
    batch, (networks, options) = random_batch(clips, size), build("baseline", size)
    if method != "amem":
        i3d = peer_i3d(peers)
        assert i3d is not None
        with_peer_modules(networks.amem, i3d)
        adam = torch.optim.Adam(networks.amem.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        networks, batch = networks._replace(adam=adam), batch._replace(clip=batch.clip.contiguous())

    def step() -> float:
        losses = train_step(networks, [batch], options, precision).losses
        return sum(value for name, value in losses.items() if name.startswith("weighted_"))

    def baseline_step() -> float:
        with ChannelsFirst():
            return step()

    return step if method == "amem" else baseline_step


def run(threads: int, runs: int, peers: str, clips: int = 8, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """Median seconds of a step for each method and precision; `ratio` is to the first one."""
    methods = {
        f"{name} {precision}": Method(make, (name, precision, clips, size, peers), allocator=name != "baseline")
        for precision in ("fp32", "bf16")
        for name in ("baseline", "amem")
    }
    found, rows = take_turns(methods, runs, threads), []
    for name, timed in found.items():
        seconds, ratio = timed.medians[0], found["baseline fp32"].medians[0] / timed.medians[0]
        row = {"method": name, "threads": threads, "seconds": seconds, "clips_per_second": clips / seconds}
        rows.append(row | {"ratio": ratio, "runs": timed.wall, "loss": timed.result})
    return {"torch": torch.__version__, "clips": clips, "size": list(size), "steps": rows}


# -- memory ------------------------------------------------------------------------------------------------------------


def kept_for_backward(step: Callable[[], Any], networks: Networks) -> int:
    """Bytes of distinct maps, without weights, that one step keeps for its backward passes."""
    modules = [module for module in networks[:2] if module is not None]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    weights = {tensor.untyped_storage()._cdata for tensor in tensors}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # a reference, so that no other storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in kept.values())


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that were created inside and still exist, and their `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size


def bytes_of_step(clips: int, size: tuple[int, int], modules: str, precision: str, again: bool) -> dict[str, int]:
    """Bytes of a step: `kept` for the backward passes, `peak` of a second step, weights, gradients and moments."""
    counter = LiveBytes()
    # tensors without values can neither be moved nor reported as numbers
    unmoved = mock.patch.object(torch.nn.Module, "to", lambda module, _: module)
    unreported = mock.patch("amem_cli.runtime.schedule.mean_losses", return_value={})
    as_on_cuda = mock.patch("amem_cli.models.pooling.needs_order", wraps=lambda _: torch.is_grad_enabled())
    with FakeTensorMode(), counter, unmoved, unreported, as_on_cuda:
        networks, options = build(modules, size)
        batch = random_batch(clips, size)
        if again:
            recompute_activations(*networks.amem.blocks(), *filter(None, [networks.discriminator]))

        def step() -> None:
            train_step(networks, [batch], options, precision)

        kept = kept_for_backward(step, networks)
        step()  # from now on Adam has its moments
        counter.peak = counter.live
        step()
    parameters = [p for module in networks[:2] if module is not None for p in module.parameters()]
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    weights = sum(p.nbytes for p in parameters)
    return {"kept": kept, "peak": counter.peak, "weights": weights, "gradients": trained, "moments": 2 * trained}


def memory(size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """Memory of a step with the paper's options: for each clip, and independent of the batch."""
    rows = []
    for modules in ("baseline", "amem"):
        for precision in ("fp32", "bf16"):
            for again in (False, True):
                at_16, at_32 = (bytes_of_step(clips, size, modules, precision, again) for clips in (16, 32))
                per_clip = (at_32["peak"] - at_16["peak"]) / 16
                base = at_32["peak"] - 32 * per_clip
                fixed = {name: at_32[name] for name in ("weights", "gradients", "moments")}
                row = {"modules": modules, "precision": precision, "checkpoint_activations": again, **fixed}
                row |= {"kept_per_clip": (at_32["kept"] - at_16["kept"]) / 16, "most_per_clip": per_clip}
                row |= {"most_16_clips": at_16["peak"], "most_32_clips": at_32["peak"]}
                rows.append(row | {"clips_in_11_gb": int((CARD - RESERVED - base) // per_clip)})
    return {"torch": torch.__version__, "size": list(size), "card": CARD, "reserved": RESERVED, "memory": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", default="", help="folder with a checkout of pytorch-i3d")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if not options.memory and peer_i3d(options.peers) is None:
        parser.error("--peers: no checkout of pytorch-i3d there; or use --memory")
    print(json.dumps(memory() if options.memory else run(options.threads, options.runs, options.peers), indent=1))


if __name__ == "__main__":
    main()
