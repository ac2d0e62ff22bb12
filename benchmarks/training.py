"""The training step beside the usual way, and the memory that it takes.

    python benchmarks/training.py [--precision fp32 bf16] [--threads 1 2] [--batch 8] [--size 256x128] [--runs 5]
    python benchmarks/training.py --memory [--size 256x128]

Both print text, or JSON with `--json`.

"usual" is I3D as its common PyTorch port has it (`UsualI3D`): SAME padding by a padded copy before every convolution
and pooling, channels-first maps, torch's plain Adam; bf16 by autocast. "ours" is the step of `train-amem --modules
baseline`; "usual+allocator" is the usual way with the allocator set as `amem` sets it. All take the same clips with the
same weights, losses and strides, each in a process of its own, and the losses of the first step are printed. Runs are
interleaved; medians of wall clock are printed, with the ratio to the usual way in the first precision
with as many threads.

`--memory` runs whole steps of `train-amem` on tensors without values and counts, for one more clip in the batch: the
maps kept for the backward passes (distinct storages), and the most bytes of tensors that live at once. What CUDA, cuDNN
and fragments take besides is set aside (`RESERVED`).
"""

import argparse
import json
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amem_cli.stages.amem_step import Batch, add_gradients
from interleaved import Way, take_turns

from amem_cli.losses import identity_loss, triplet_loss
from amem_cli.models.i3d import same_padding
from amem_cli.models.recomputation import recompute_activations
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.engine import autocast
from amem_cli.stages.train_amem import build_amem, describe

CPU = torch.device("cpu")
PEOPLE = 625  # of MARS's training part
MIB, GIB = 2**20, 2**30
CARD, RESERVED = 11 * GIB, 1.5 * GIB  # an 11 GB card; what its driver, cuDNN's workspaces and fragments are given

# -- the usual way -----------------------------------------------------------------------------------------------------


class UsualUnit(nn.Module):
    """Convolution, BN, ReLU of the port: SAME padding as a padded copy of the map, whatever the kernel."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(padded(x, self.conv3d.kernel_size, self.conv3d.stride))))


class UsualPool(nn.MaxPool3d):
    """The port's max-pooling: SAME padding with zeros, which never win after a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(padded(x, self.kernel_size, self.stride))


class UsualBlock(nn.Module):
    """The port's Inception block."""

    def __init__(self, inputs: int, c0: int, c1a: int, c1b: int, c2a: int, c2b: int, c3b: int):
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        self.b0 = UsualUnit(inputs, c0, one, one)
        self.b1a, self.b1b = UsualUnit(inputs, c1a, one, one), UsualUnit(c1a, c1b, three, one)
        self.b2a, self.b2b = UsualUnit(inputs, c2a, one, one), UsualUnit(c2a, c2b, three, one)
        self.b3a, self.b3b = UsualPool(three, one), UsualUnit(inputs, c3b, one, one)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class UsualI3D(nn.Sequential):
    """The port's I3D with the strides of re-identification: (B, 3, T, H, W) in [-1, 1] -> (B, 1024, T', H/16, W/16)."""

    def __init__(self) -> None:
        one, three = (1, 1, 1), (3, 3, 3)
        super().__init__()
        self.Conv3d_1a_7x7 = UsualUnit(3, 64, (7, 7, 7), (2, 2, 2))
        self.MaxPool3d_2a_3x3 = UsualPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = UsualUnit(64, 64, one, one)
        self.Conv3d_2c_3x3 = UsualUnit(64, 192, three, one)
        self.MaxPool3d_3a_3x3 = UsualPool((1, 3, 3), (1, 2, 2))
        self.Mixed_3b = UsualBlock(192, 64, 96, 128, 16, 32, 32)
        self.Mixed_3c = UsualBlock(256, 128, 128, 192, 32, 96, 64)
        self.MaxPool3d_4a_3x3 = UsualPool(three, (1, 2, 2))
        self.Mixed_4b = UsualBlock(480, 192, 96, 208, 16, 48, 64)
        self.Mixed_4c = UsualBlock(512, 160, 112, 224, 24, 64, 64)
        self.Mixed_4d = UsualBlock(512, 128, 128, 256, 24, 64, 64)
        self.Mixed_4e = UsualBlock(512, 112, 144, 288, 32, 64, 64)
        self.Mixed_4f = UsualBlock(528, 256, 160, 320, 32, 128, 128)
        self.MaxPool3d_5a_2x2 = UsualPool((2, 2, 2), one)
        self.Mixed_5b = UsualBlock(832, 256, 160, 320, 32, 128, 128)
        self.Mixed_5c = UsualBlock(832, 384, 192, 384, 48, 128, 128)

    def forward(self, clip: Tensor) -> Tensor:
        x = clip
        for name, part in self.named_children():
            # no padding in time here, where four frames become three
            x = F.max_pool3d(F.pad(x, (0, 1, 0, 1)), 2, 1) if name == "MaxPool3d_5a_2x2" else part(x)
        return x


def padded(x: Tensor, kernel: Any, stride: Any) -> Tensor:
    before, extra = same_padding(x.shape[2:], kernel, stride)  # type: ignore[arg-type]
    (t, h, w), (more_t, more_h, more_w) = before, extra
    return F.pad(x, (w, w + more_w, h, h + more_h, t, t + more_t))


class Usual(nn.Module):
    """The baseline of Table 3 on the usual I3D: f_s and identity logits of clips in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = UsualI3D()
        self.similarity = nn.Linear(1024, 512)
        self.identity_classifier = nn.Linear(512, PEOPLE)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        f_s = self.similarity(self.backbone(clip * 2 - 1).mean(dim=2).mean(dim=(2, 3)))
        return f_s, self.identity_classifier(f_s)


# -- one step ----------------------------------------------------------------------------------------------------------

Step = Callable[[], float]


def toy_batch(clips: int, size: tuple[int, int]) -> Batch:
    """Random clips of pairs of people, with MEM's start frames."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (clips, 8, *size, 3), dtype=torch.uint8, generator=draw)
    return Batch(
        clip=pixels.movedim(-1, 1).float().div_(255),
        identity=torch.arange(clips) // 2,
        attributes=torch.randint(2, (clips, 105), generator=draw).float(),
        start=torch.arange(clips) % 3 + 1,
    )


def our_step(batch: Batch, precision: str, modules: str = "baseline", checkpoint_activations: bool = False) -> Step:
    """A step of `train-amem` as its loop has it, without loading and logging; returns the loss."""
    options = TrainAmemOptions(modules=modules, image_size=f"{batch.clip.shape[-2]}x{batch.clip.shape[-1]}")  # type: ignore[arg-type]
    model, discriminator = build_amem(describe(options, PEOPLE), None, options)
    if checkpoint_activations:
        recompute_activations(*model.blocks(), *([discriminator] if discriminator else []))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, lr=1e-4, weight_decay=options.weight_decay, fused=True)
    critic = torch.optim.Adam(discriminator.parameters(), lr=2e-4, fused=True) if discriminator else None
    model.train()

    def step() -> float:
        adam.zero_grad(set_to_none=True)
        if critic is not None:
            critic.zero_grad(set_to_none=True)
        loss = sum(add_gradients(model, discriminator, batch, options, precision).weighted.values())
        if critic is not None:
            critic.step()
        adam.step()
        return loss.item() if type(loss) is Tensor else 0.0  # values there are none in `memory`

    step.model, step.discriminator = model, discriminator  # type: ignore[attr-defined]
    return step


def usual_step(batch: Batch, precision: str) -> Step:
    clip = batch.clip.contiguous()  # channels first
    model = Usual()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=5e-4)

    def step() -> float:
        with autocast(precision, CPU):
            f_s, logits = model(clip)
        loss = identity_loss(logits.float(), batch.identity) + triplet_loss(f_s.float(), batch.identity, 0.2)
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    step.model = model  # type: ignore[attr-defined]
    return step


# -- speed -------------------------------------------------------------------------------------------------------------


def prepared(way: str, precision: str, clips: int, size: tuple[int, int]) -> Step:
    """One step of a way from the weights that every way starts from."""
    torch.manual_seed(0)
    batch = toy_batch(clips, size)
    step = our_step(batch, precision)
    if way == "ours":
        return step
    start = step.model.state_dict()  # type: ignore[attr-defined]
    step = usual_step(batch, precision)
    step.model.load_state_dict({name.removeprefix("main."): tensor for name, tensor in start.items()})  # type: ignore[attr-defined]
    return step


def run(
    precisions: tuple[str, ...] = ("fp32", "bf16"),
    threads: tuple[int, ...] = (1, 2),
    clips: int = 8,
    size: tuple[int, int] = (256, 128),
    runs: int = 5,
) -> dict[str, Any]:
    """Median seconds of a step, each way in each of `precisions` and with each number of `threads`, interleaved."""
    rows = []
    for count in threads:
        ways = {
            f"{way} {precision}": Way(prepared, (way, precision, clips, size), as_in_amem=way != "usual")
            for precision in precisions
            for way in ("usual", "usual+allocator", "ours")
        }
        found = take_turns(ways, runs, count)
        medians = {name: timed.medians[0] for name, timed in found.items()}
        rows += [
            {
                "way": name,
                "threads": count,
                "seconds": median,
                "clips_per_second": clips / median,
                "ratio": medians[f"usual {precisions[0]}"] / median,
                "runs": found[name].wall,
                "loss": found[name].first,
            }
            for name, median in medians.items()
        ]
    return {"torch": torch.__version__, "clips": clips, "size": list(size), "steps": rows}


def print_speed(found: dict[str, Any]) -> None:
    height, width = found["size"]
    print(f"training step, {found['clips']} clips of 8 x {height} x {width}, torch {found['torch']}")
    print(f"{'way':22}{'threads':>8}{'s/step':>9}{'clips/s':>9}{'ratio':>7}{'loss':>9}")
    for row in found["steps"]:
        figures = f"{row['seconds']:9.2f}{row['clips_per_second']:9.2f}{row['ratio']:7.2f}{row['loss']:9.4f}"
        print(f"{row['way']:22}{row['threads']:8}{figures}")


# -- memory ------------------------------------------------------------------------------------------------------------


def kept_for_backward(step: Step) -> int:
    """Bytes of maps that one step keeps for its backward passes: distinct storages, weights left out."""
    weights = {
        tensor.untyped_storage()._cdata
        for network in (step.model, step.discriminator)  # type: ignore[attr-defined]
        if network is not None
        for tensor in (*network.parameters(), *network.buffers())
    }
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no other storage gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in kept.values())


class LiveBytes(TorchDispatchMode):
    """The bytes of all tensors that were made inside and still live, and the `most` of them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size


def memory(size: tuple[int, int] = (256, 128)) -> dict[str, Any]:
    """Bytes of a training step of the paper's preset: what every clip takes, and what does not grow with the batch."""
    rows = []
    for modules in ("baseline", "amem"):
        for precision in ("fp32", "bf16"):
            for again in (False, True):
                (kept_16, most_16, fixed), (kept_32, most_32, _) = (
                    bytes_of_step(clips, size, modules, precision, again) for clips in (16, 32)
                )
                a_clip = (most_32 - most_16) / 16
                base = most_32 - 32 * a_clip  # what lives at that moment and does not grow with the batch
                rows.append(
                    {
                        "modules": modules,
                        "precision": precision,
                        "checkpoint_activations": again,
                        "kept_per_clip": (kept_32 - kept_16) / 16,
                        "most_per_clip": a_clip,
                        "most_16_clips": most_16,
                        "most_32_clips": most_32,
                        **fixed,
                        "clips_in_11_gb": int((CARD - RESERVED - base) // a_clip),
                    }
                )
    return {"torch": torch.__version__, "size": list(size), "card": CARD, "reserved": RESERVED, "memory": rows}


def bytes_of_step(
    clips: int, size: tuple[int, int], modules: str, precision: str, again: bool
) -> tuple[int, int, dict[str, int]]:
    """(kept for the backward passes, most at once in a second step, the fixed parts) in bytes."""
    counter = LiveBytes()
    with FakeTensorMode(), counter:
        step = our_step(toy_batch(clips, size), precision, modules, again)
        kept = kept_for_backward(step)
        step()  # from here on Adam has its moments
        counter.most = counter.live
        step()
    networks = [network for network in (step.model, step.discriminator) if network is not None]  # type: ignore[attr-defined]
    weights = sum(p.nbytes for network in networks for p in network.parameters())
    trained = sum(p.nbytes for network in networks for p in network.parameters() if p.requires_grad)
    return kept, counter.most, {"weights": weights, "gradients": trained, "moments": 2 * trained}


def print_memory(found: dict[str, Any]) -> None:
    """A Markdown table, and the parts that do not grow with the batch."""
    print("| modules | precision | checkpointing | kept a clip | most a clip | 32 clips | 16 clips | clips that fit |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found["memory"]:
        print(
            f"| {row['modules']} | {row['precision']} | {'yes' if row['checkpoint_activations'] else 'no'} "
            f"| {row['kept_per_clip'] / MIB:.0f} MiB | {row['most_per_clip'] / MIB:.0f} MiB "
            f"| {row['most_32_clips'] / GIB:.1f} GiB | {row['most_16_clips'] / GIB:.1f} GiB | {row['clips_in_11_gb']} |"
        )
    print()
    for row in found["memory"][::4]:
        fixed = ", ".join(f"{name} {row[name] / MIB:.0f} MiB" for name in ("weights", "gradients", "moments"))
        print(f"{row['modules']}: {fixed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", type=int, default=8, help="clips")
    parser.add_argument("--size", default="256x128")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    if options.memory:
        found = memory((height, width))
    else:
        found = run(tuple(options.precision), tuple(options.threads), options.batch, (height, width), options.runs)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        (print_memory if options.memory else print_speed)(found)


if __name__ == "__main__":
    main()
