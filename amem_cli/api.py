"""The five functions for Python and notebooks; the commands call the same ones underneath.

Errors are `AmemError`s of one line (`amem_cli.errors`), as on the command line.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amem_cli.artifacts import features as features_file
from amem_cli.artifacts import pseudo_labels
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.errors import UsageError
from amem_cli.options import EvaluateOptions

if TYPE_CHECKING:
    import torch

    from amem_cli.models.amem import MainModel

__all__ = ["embed", "evaluate", "load_main_model", "read_features", "read_labels"]


def load_main_model(path: str | Path) -> "MainModel":
    """The main model of an `amem-main.safetensors`: backbone, branches and the layer of f_s, in eval mode on the CPU.

    `model(clips)` takes float pixels in [0, 1], (B, 3, T, H, W), and gives f_s (B, 512), not yet of unit length;
    `embed` does the rest. Raises `InputMissing` when there is no such file and `BadData` when it is no main model or
    damaged.
    """
    from amem_cli.models.checkpoints import load_main_model as load

    model, _ = load(Path(path))
    return model.eval().requires_grad_(False)


def embed(
    model: "MainModel",
    clips: "np.ndarray | torch.Tensor",
    *,
    one_tracklet: bool = False,
    batch_size: int = 16,
    device: str = "auto",
    precision: str = "auto",
) -> np.ndarray:
    """The features of clips: f_s, L2-normalised, (B, 512) float32; the dot product of two is their cosine.

    `clips` (B, T, H, W, 3) uint8 RGB, T >= 1 consecutive frames at the size the model was trained at (H, W multiples
    of 16). With `one_tracklet` the clips are those of one tracklet and the result is (1, 512): f_s averaged over the
    clips before it is normalised, as `amem extract-features` does. `batch_size` clips are computed at once; `device`
    and `precision` are as on the command line. The model is moved to the device and put in eval mode.
    Raises `UsageError` for clips of another type or shape.
    """
    import torch

    from amem_cli.runtime.distributed import process_group
    from amem_cli.runtime.engine import prepare, resolve_precision

    images = torch.as_tensor(clips)
    if images.dtype != torch.uint8 or images.ndim != 5 or images.shape[-1] != 3 or 0 in images.shape:
        why = f"are {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}, not uint8 (B, T, H, W, 3)"
        raise UsageError("clips", why=why, remedy="Give RGB frames as uint8, the colours in the last axis")
    if images.shape[2] % 16 or images.shape[3] % 16:
        why = f"have frames of {images.shape[2]} x {images.shape[3]} pixels"
        raise UsageError("clips", why=why, remedy="Resize them so that both are multiples of 16, as in training")
    with process_group(device) as processes:
        # compiling for OpenVINO would cost more than a call's worth of clips
        engine_name = "torch" if processes.device.type == "cpu" else "eager"
        engine = prepare(model, processes.device, resolve_precision(precision, processes.device), engine_name)
        rows = torch.cat([engine(part.cpu()) for part in images.split(batch_size)]).double().numpy()
    if one_tracklet:
        rows = rows.sum(axis=0, keepdims=True)  # the direction of the mean
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def read_features(path: str | Path) -> Features:
    """A features file, ours or of any other model: one row per tracklet, `features` (N, D) float32 of unit length.

    Raises `InputMissing` and, for what is damaged or not L2-normalised, `BadData`.
    """
    return features_file.read(Path(path))


def read_labels(path: str | Path) -> PseudoLabels:
    """A pseudo-labels file: one row per tracklet, `probabilities` (N, 105) float32 and `labels` (N, 105) uint8.

    Raises `InputMissing` and `BadData`.
    """
    return pseudo_labels.read(Path(path))


def evaluate(
    features: Features | str | Path | Sequence[Features | str | Path],
    protocol: str | Path = "mars",
    *,
    bootstrap: int = 1000,
    rerank: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """CMC and mAP of features under a protocol: what `amem evaluate --json` prints. Nothing is written.

    `features` is a features file or what `read_features` gives; a protocol of several splits takes a sequence, one
    for each split, in their order. `protocol` is "mars", "ilids-10split", "prid-10split", or the path of an own
    manifest. Rates are fractions in [0, 1]: `rank` {"1", "5", "10", "20"}, `mAP`, `mAP_official`, `interval` (95 %,
    from `bootstrap` resamples of the queries drawn by `seed`; 0: none), `choices` (every convention in words),
    `reranked` with `rerank`. `device` is where the distances are computed; auto is the CPU.
    Raises `UsageError` for an unknown protocol or another number of features, and as `read_features`.
    """
    from amem_cli.data.manifest import manifest_of_protocol
    from amem_cli.stages import evaluate as stage

    manifest = manifest_of_protocol(protocol)
    given = [features] if isinstance(features, Features | str | Path) else list(features)
    wanted = 1 if manifest.protocol.kind == "single-split" else manifest.protocol.splits
    if len(given) != wanted:
        why = f"{manifest.protocol.name} wants {wanted}, {len(given)} given"
        raise UsageError("features", why=why, remedy="Give one for each split, in the order of the splits")
    tables = [one if isinstance(one, Features) else read_features(one) for one in given]
    names = [Path(f"#{number}") if isinstance(one, Features) else Path(one) for number, one in enumerate(given)]
    options = EvaluateOptions(protocol=str(protocol), bootstrap=bootstrap, rerank=rerank, seed=seed, device=device)
    return stage.score(tables, names, options, manifest)
