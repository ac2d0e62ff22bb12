"""Does MEM learn gait? People with one body and one set of clothes, who differ in gait alone.

    python benchmarks/gait.py FOLDER [--rows baseline mem-c1 mem-c3 ...] [--seeds 3] [--people 40] [--epochs 50]
        [--backbone i3d --weights kinetics --image-size 128x64]

Generates the people (`amem data walkers --alike`) and trains each row with each seed by `--preset small` on clips of 8
frames, but with a layer of f_s that starts at random and learns at the full rate (`--fc-lr-factor 1 --fusion-start
random`), so that f_M can enter f_s. Scores the test people's tracklets: f_s, and the parts of f_s that come from f_B,
f_A and f_M alone. Each is scored twice: with the frames in order, and with the frames of each tracklet in random
order. What the second keeps is not motion. Finished trainings are kept, so the command continues; the figures are in
FOLDER/gait.json; other options need another folder.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from amem_cli.artifacts.paths import Workspace
from amem_cli.data.clips import inference_clips
from amem_cli.data.datasets import read_videos
from amem_cli.data.loading import read_frames
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import Tracklet
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.amem import FeatureMaps, MainModel
from amem_cli.models.attention import neck_of
from amem_cli.models.checkpoints import load_main_model
from amem_cli.options import LabelVideosOptions, TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.resolve import resolve
from amem_cli.runtime.distributed import choose_device
from amem_cli.runtime.engine import as_pixels, device_of
from amem_cli.runtime.progress import Progress
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import train_amem
from amem_cli.stages.train_arm import train_arm
from amem_cli.stages.train_tae import train_tae
from amem_cli.walkers.layouts import write_walkers
from amem_cli.walkers.options import WalkerOptions

# prediction as the main task, of one frame six later, so that t is always the second frame: MEM learns to use f_M
USED = {
    "predict_frames": 1, "predict_stride": 6, "lambda_m": 1000.0, "mem_lr_factor": 2.0, "decoder_lr_factor": 0.05,
    "texture_loss": "none", "flip": 0.0, "crop": 0.0,
}  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "baseline": {"modules": "baseline"},
    **{f"mem-c{c}": {"modules": "mem", "predict_frames": c} for c in (1, 2, 3, 4)},
    "branch": {"modules": "mem", "predict_frames": 1, "lambda_m": 0.0},  # f_M without the loss of MEM
    "middle": {"modules": "mem", "predict_frames": 1, "motion_maps": "middle"},
    "middle-branch": {"modules": "mem", "predict_frames": 1, "motion_maps": "middle", "lambda_m": 0.0},
    "used": {"modules": "mem", **USED},
    "used-light": {"modules": "mem", **USED, "lambda_m": 100.0},
    "used-branch": {"modules": "mem", **USED, "lambda_m": 0.0},
    "mem-stride-strong": {
        "modules": "mem", "predict_frames": 2, "predict_stride": 3, "mem_lr_factor": 1.0, "lambda_m": 100.0,
    },
    "aem": {"modules": "aem"},
    "amem": {"modules": "amem", "predict_frames": 3},
}  # fmt: skip


class Score(NamedTuple):
    """Rank-1 and mAP between the cameras, and the queries with a match."""

    rank1: float
    mean_ap: float
    queries: int


def parts_of(model: MainModel, clips: Tensor) -> dict[str, Tensor]:
    """f_s (B, 512) of uint8 clips (B, T, H, W, 3), and what each pooled feature contributes to it.

    f_s is linear in the pooled f_B, f_A and f_M, so it is the sum of these parts and the bias; the neck scales each
    channel. All are means over the views of the test.
    """
    views = [model.feature_maps(view) for view in model.views(as_pixels(clips, device_of(model)))]
    maps = FeatureMaps(
        *(None if each[0] is None else torch.stack(each).mean(dim=0) for each in zip(*views, strict=True))
    )
    named = zip(("f_B", "f_A", "f_M"), maps[1:], strict=True)
    pooled = {name: feature.mean(dim=(2, 3)) for name, feature in named if feature is not None}
    widths = [feature.shape[1] for feature in pooled.values()]
    scale, _ = neck_of(model)
    matrices = model.similarity.weight.split(widths, dim=1)
    parts = {name: pooled[name] @ matrix.T * scale for name, matrix in zip(pooled, matrices, strict=True)}
    return {"f_s": model.neck(model.similarity_feature(maps))} | parts


def score(features: np.ndarray, tracklets: list[Tracklet], is_query: np.ndarray) -> Score:
    """The ranking of the queries in all tracklets; parts of f_s are centred first, because they have no bias."""
    features = features - features.mean(axis=0)
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    ids, cameras = (np.array([getattr(one, name) for one in tracklets]) for name in ("person_id", "camera_id"))
    ranking = evaluate_ranking(features[is_query], features, ids[is_query], ids, cameras[is_query], cameras)
    return Score(float(ranking.cmc[0]), float(ranking.mAP), ranking.valid_queries)


def in_random_order(tracklet: Tracklet, seed: int) -> Tracklet:
    order = np.random.default_rng([seed, len(tracklet)]).permutation(len(tracklet))
    return replace(tracklet, files=tuple(tracklet.files[place] for place in order))


@torch.inference_mode()
def evaluate_model(path: Path, data: Path, progress: Progress) -> dict[str, Score]:
    """The scores of a model on the test people without a passer-by: "f_s", "f_s shuffled", "f_B", ..."""
    model, config = load_main_model(path)
    model.to(choose_device("auto")).eval()
    (split,) = read_videos(load_manifest("mars"), data).splits
    known = [row for row, tracklet in enumerate(split.test) if tracklet.person_id > 0]
    tracklets = [split.test[row] for row in known]
    shuffled = [in_random_order(tracklet, seed) for seed, tracklet in enumerate(tracklets)]
    scores = {}
    with progress.loop("test", 2 * len(tracklets), unit="tracklets") as bar:
        for suffix, tested in (("", tracklets), (" shuffled", shuffled)):
            rows: dict[str, list[np.ndarray]] = {}
            for tracklet in tested:
                clips = inference_clips(len(tracklet), config.clip_frames)
                frames = read_frames(tracklet, clips.ravel(), config.height_width)
                for name, part in parts_of(model, torch.from_numpy(frames).unflatten(0, clips.shape)).items():
                    rows.setdefault(name, []).append(part.mean(dim=0).cpu().numpy())
                bar.advance()
            is_query = np.array(split.is_query)[known]
            scores |= {name + suffix: score(np.stack(part), tracklets, is_query) for name, part in rows.items()}
    return scores


def main(arguments: argparse.Namespace) -> None:
    folder, progress = arguments.folder, Progress()
    data, results = folder / "data", folder / "gait.json"
    if not data.is_dir():
        people = WalkerOptions(seed=arguments.data_seed, people=arguments.people, frames=(24, 40), alike=True)
        with progress.loop("walkers", 1, unit="images") as loop:
            write_walkers(data, people, loop.show)
    common = {"data_root": data, "image_size": arguments.image_size}
    tae = {"tae_encoder": arguments.tae_encoder, "epochs": arguments.tae_epochs}
    settings = {name: value for name, value in vars(arguments).items() if name not in ("folder", "rows", "seeds")}
    saved = json.loads(results.read_text()) if results.is_file() else {"settings": settings, "figures": {}}
    if saved.get("settings") != settings:
        raise SystemExit(f"{results} has figures of {saved.get('settings', 'an older version')}: give another folder")
    figures = saved["figures"]
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            name = f"{row}/seed{seed}"
            if name in figures:
                continue
            changed = common | {"workspace": folder / name, "seed": seed, "epochs": arguments.epochs}
            changed |= {"clip_frames": 8, "fc_lr_factor": 1.0, "fusion_start": "random", "average_initial": 0.0}
            changed |= {"branch_kernel": "3x3x3", "texture_loss": "standardised"} | ROWS[row]
            changed |= {name: getattr(arguments, name) for name in ("backbone", "weights", "precision")}
            changed |= pretrained_parts(ROWS[row]["modules"], common | {"workspace": folder}, tae, progress)
            train_amem(resolve(TrainAmemOptions, changed, preset="small"), progress)
            model = Workspace(folder / name).amem_main("mars", None)
            figures[name] = {part: found._asdict() for part, found in evaluate_model(model, data, progress).items()}
            results.write_text(json.dumps(saved, indent=1))
            print(name, {part: round(100 * found["rank1"], 1) for part, found in figures[name].items()}, flush=True)
    print_table(figures)


def pretrained_parts(
    modules: str, common: dict[str, Any], options: dict[str, Any], progress: Progress
) -> dict[str, str]:
    """The TAE and the pseudo-labels that a row needs; the first row makes them for all."""
    parts = {}
    if modules in ("mem", "amem"):
        tae = resolve(TrainTaeOptions, common | options | {"dataset": "mars"}, preset="small")
        parts["tae"] = str(train_tae(tae, progress).artifact)
    if modules in ("aem", "amem"):
        arm = train_arm(resolve(TrainArmOptions, common | {"partition": "none"}, preset="small"), progress).artifact
        labels = resolve(LabelVideosOptions, {k: common[k] for k in ("data_root", "workspace")} | {"arm": str(arm)})
        parts["labels"] = str(label_videos(labels, progress).artifact)
    return parts


def print_table(figures: dict[str, Any]) -> None:
    """Mean and standard deviation of rank-1 over the seeds, per cent."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, scores in figures.items():
        rows.setdefault(name.split("/")[0], []).append(scores)
    for row, seeds in rows.items():
        cells = []
        for part in seeds[0]:
            values = [100 * scores[part]["rank1"] for scores in seeds]
            std = np.std(values, ddof=1) if len(values) > 1 else float("nan")
            cells.append(f"{part} {np.mean(values):.1f} ± {std:.1f}")
        print(f"{row}: {', '.join(cells)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Rank-1 of people who differ in gait alone.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet", help="of the backbone: imagenet, kinetics, or a file")
    parser.add_argument("--image-size", default="96x48")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tae-encoder", default="mobilenet_v2")
    parser.add_argument("--tae-epochs", type=int, default=3)
    parser.add_argument("--data-seed", type=int, default=11)
    main(parser.parse_args())
