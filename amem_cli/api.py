"""Five functions for Python and notebooks; the commands use the same code. Errors are `AmemError`s."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amem_cli.artifacts import pseudo_labels
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.data.readers.features import read_any
from amem_cli.errors import UsageError
from amem_cli.options import EvaluateOptions

if TYPE_CHECKING:
    import torch

    from amem_cli.models.amem import MainModel

__all__ = ["embed", "evaluate", "load_main_model", "read_features", "read_labels"]


def load_main_model(path: str | Path) -> "MainModel":
    """The main model of an `amem-main.safetensors` (backbone, branches, FC layer), in eval mode on the CPU: float
    pixels in [0, 1], (B, 3, T, H, W), to f_s (B, 512), not normalised; `embed` does all steps. Raises `InputMissing`
    for a missing file and `BadData` for a damaged one or another kind of file."""
    from amem_cli.models.checkpoints import load_main_model as load

    model, config = load(Path(path))
    vars(model)["image_size"] = config.height_width
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
    """f_s of clips, L2-normalised, (B, 512) float32; the dot product of two rows is their cosine similarity.

    `clips` is (B, T, H, W, 3) uint8 RGB: T >= 1 consecutive frames (with `--motion-maps middle` as many as in training)
    at the image size of the training, (H, W) in `model.image_size` of a model from `load_main_model`. `one_tracklet`:
    the clips belong to one tracklet; the result is (1, 512), f_s averaged over the clips and then normalised, as in
    `amem extract-features`. `batch_size` is the number of clips per forward pass; `device` and `precision` are as on
    the command line. The model moves to the device, in eval mode. It is not adapted to a camera; set `model.parts` for
    features of `--parts`. Raises `UsageError` for clips of another type or shape.
    """
    import torch

    from amem_cli.models.branches import MiddleBranch
    from amem_cli.runtime.distributed import process_group
    from amem_cli.runtime.engine import prepare, resolve_precision

    images = torch.as_tensor(clips)
    if images.dtype != torch.uint8 or images.ndim != 5 or images.shape[-1] != 3 or 0 in images.shape:
        why = f"are {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}, not uint8 (B, T, H, W, 3)"
        raise UsageError("clips", why=why, remedy="Give RGB frames as uint8, colours on the last axis")
    height, width = images.shape[2:4]
    trained = vars(model).get("image_size")
    if (height, width) != (trained or (height - height % 16, width - width % 16)):
        wanted = f"{trained[0]} x {trained[1]}, as in training" if trained else "multiples of 16"
        raise UsageError("clips", why=f"have frames of {height} x {width} pixels", remedy=f"Resize them to {wanted}")
    branch = getattr(model, "motion_branch", None)
    if isinstance(branch, MiddleBranch) and -(-images.shape[1] // 2) != branch.times:
        why, remedy = f"have {images.shape[1]} frames", f"Give clips of {2 * branch.times}, as in training"
        raise UsageError("clips", why=why, remedy=remedy)
    with process_group(device) as processes:
        # not OpenVINO: compiling would take longer than one call saves
        engine_name = "torch" if processes.device.type == "cpu" else "eager"
        engine = prepare(model, processes.device, resolve_precision(precision, processes.device), engine_name)
        rows = torch.cat([engine(batch.cpu()) for batch in images.split(batch_size)]).double().numpy()
    if one_tracklet:
        rows = rows.sum(axis=0, keepdims=True)  # same direction as the mean
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def read_features(path: str | Path, dataset: str = "") -> Features:
    """A features file of any model: one row per tracklet, `features` (N, D) float32, L2-normalised.

    A file of another program (.npz, .mat, .pt, ...) is read as by `amem evaluate`; what was changed is a warning.
    Raises `InputMissing`, `BadData` for a damaged file, and `UsageError` when nothing says which rows are queries.
    """
    table, notes = read_any(Path(path), dataset)
    for note in notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return table


def read_labels(path: str | Path) -> PseudoLabels:
    """A pseudo-labels file: one row per tracklet, `probabilities` (N, 105) float32 and `labels` (N, 105) uint8.

    Raises `InputMissing` for a missing file and `BadData` for a damaged one.
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
    """CMC and mAP of features under a protocol: the document of `amem evaluate --json`. Writes no file.

    `features` is a features file or a result of `read_features`; for a protocol of several splits, a sequence of one
    per split. `protocol` is "mars", "ilids-10split", "prid-10split", or the path of your own manifest.
    The result has rates in [0, 1]: `rank` {"1", "5", "10", "20"}, `mAP`, `mAP_official`, `interval` (95 %, from
    `bootstrap` resamples of the queries with `seed`; 0: none), `reranked` (with `rerank`), and `choices`, the
    conventions as text. `device` computes the distances; auto is the CPU.
    Raises `UsageError` for an unknown protocol or a wrong number of features, otherwise as `read_features`.
    """
    from amem_cli.data.manifest import manifest_of_protocol, protocol_of
    from amem_cli.stages import evaluate as stage

    manifest = manifest_of_protocol(protocol)
    given = [features] if isinstance(features, Features | str | Path) else list(features)
    if len(given) != (wanted := len(protocol_of(manifest).numbers)):
        raise UsageError("features", why=f"{len(given)} given, not {wanted}", remedy="Give one per split, in order")
    tables = [one if isinstance(one, Features) else read_features(one, manifest.name) for one in given]
    names = [Path(f"#{number}") if isinstance(one, Features) else Path(one) for number, one in enumerate(given)]
    options = EvaluateOptions(protocol=str(protocol), bootstrap=bootstrap, rerank=rerank, seed=seed, device=device)
    return stage.score(tables, names, options, manifest)
