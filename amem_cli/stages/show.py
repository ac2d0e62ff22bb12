"""Pictures from artifacts: ranked lists, CMC curve, predicted frames, attributes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amem_cli.artifacts import checkpoint, features, pseudo_labels
from amem_cli.artifacts.workspace import Workspace
from amem_cli.data.loading import read_frames
from amem_cli.data.manifest import load_manifest, read_videos
from amem_cli.data.tracklets import Split, Tracklet
from amem_cli.data.transforms import as_pixels
from amem_cli.errors import UsageError, listing
from amem_cli.pictures.attributes import attribute_bars
from amem_cli.pictures.cmc import plot_cmc
from amem_cli.pictures.frames import (
    evenly_spaced,
    predicted_frames_strip,
    prediction_errors,
    save_picture,
    stack_strips,
)
from amem_cli.pictures.ranked_lists import choose_queries, rank_answers, ranked_lists
from amem_cli.stages.result import split_numbers
from amem_cli.stages.train_amem import build_amem


def read_split(dataset: str, data_root: Path, split: str = "") -> tuple[str, int | None, Split]:
    """The data set's name, the number and the content of one split."""
    manifest = load_manifest(dataset)
    videos = read_videos(manifest, data_root)
    number = split_numbers(videos, split)[0]
    return manifest.name, number, videos.splits[number or 0]


def draw_ranked_lists(
    out: Path, dataset: str, data_root: Path, features_file: Path, *, split: str = "", queries: int = 6, seed: int = 0
) -> Path:
    """The ranked lists of some queries: the best, the worst and some drawn at random."""
    _, number, content = read_split(dataset, data_root, split)
    table = features.read(features_file)
    middle = {tracklet.name: tracklet.frames[len(tracklet) // 2] for tracklet in content.test}
    strips = {tracklet.name: tuple(evenly_spaced(tracklet.frames, 3)) for tracklet in content.test}
    columns = (table.tracklet, table.person_id, table.camera_id, table.is_query, table.features)
    rows = [
        rank_answers(*columns, middle, int(row), queries_in_gallery=number is None, show_ignored=False)
        for row in np.flatnonzero(table.is_query)
    ]
    chosen = choose_queries(np.array([row.average_precision for row in rows]), queries, seed)
    shown = [rows[position] for position in sum(chosen, ())]
    return save_picture(ranked_lists([replace(row, query_frames=strips[row.query.tracklet]) for row in shown]), out)


def draw_cmc(out: Path, results: dict[str, dict[str, Any]]) -> Path:
    """The CMC curves of some results (as `artifacts.results.read` gives them), with the first one's chance."""
    first = next(iter(results.values()))
    curves = {name: np.array(result["cmc"]) for name, result in results.items()}
    chance = np.array(first["chance"]["cmc"]) if "cmc" in first["chance"] else None
    return plot_cmc(curves, out, chance, title=f"{first['protocol']}: {first['queries']} queries")


def draw_attributes(out: Path, labels_file: Path, dataset: str, data_root: Path, tracklet: str = "") -> Path:
    """What the attribute model saw in one labelled tracklet (the first one, unless named)."""
    labels = pseudo_labels.read(labels_file)
    content = read_split(dataset, data_root)[2]
    known = {t.name: t for t in (*content.train, *content.test)}
    name = tracklet or next(name for name in labels.tracklet if name in known)
    if name not in known or name not in labels.tracklet:
        why = "no labelled tracklet has this name"
        raise UsageError("tracklet", name, why=why, remedy=f"Known are {listing(labels.tracklet, 3)}")
    shown = evenly_spaced(known[name].frames, 6)
    row = labels.tracklet.index(name)
    return attribute_bars(shown, labels.attributes, labels.probabilities[row], out, title=name)


def draw_predicted_frames(
    out: Path, model_file: Path, tracklets: list[Tracklet], *, rounds: int = 0
) -> tuple[Path, dict[str, Any]]:
    """The paper's Figure 4: MEM's predictions for one clip of each tracklet; also the errors beside copying.

    The clip is the tracklet's middle one; frame 1 (zero-based) is the current one.
    """
    saved = checkpoint.load(model_file, "amem-model")
    described = saved.description["model"]
    if not described["motion"]:
        raise UsageError("model", model_file, why=f"was trained as '{described['modules']}', without MEM")
    model, _ = build_amem(described, None)
    checkpoint.load_into(model, saved, "amem.")
    model.eval()
    rounds = rounds or described["predict_frames"]
    size = tuple(map(int, described["image_size"].split("x")))
    strips, all_true, all_predicted, all_current = [], [], [], []
    for tracklet in tracklets:
        first = max(0, (len(tracklet) - described["clip_frames"]) // 2)
        indices = np.minimum(np.arange(first, first + described["clip_frames"]), len(tracklet) - 1)
        frames = read_frames(tracklet, indices, size)
        clip = as_pixels(torch.from_numpy(frames)[None], torch.device("cpu"))
        with torch.inference_mode():
            predictions = model(clip, torch.tensor([1]), rounds).predictions
        predicted = [p.frame[0].movedim(0, -1).mul(255).round().byte().numpy() for p in predictions]
        current, true = frames[1], frames[2 : 2 + rounds]
        strips.append(predicted_frames_strip(current, true, np.stack(predicted), copied=True, title=tracklet.name))
        all_current.append(current)
        all_true.append(true)
        all_predicted.append(np.stack(predicted))
    errors = [prediction_errors(*sample) for sample in zip(all_true, all_predicted, all_current, strict=True)]
    names = ("mse", "mse_copied", "psnr", "psnr_copied", "ssim", "ssim_copied")
    means = {name: float(np.mean([e[name] for e in errors if e[name] is not None])) for name in names}
    means["mse_ratio"] = means["mse"] / means["mse_copied"] if means["mse_copied"] else None
    return save_picture(stack_strips(strips, columns=2), out), means


def draw_all(
    folder: Path, workspace: Workspace, dataset: str, data_root: Path, result: dict[str, Any]
) -> tuple[list[Path], dict[str, Any]]:
    """Every picture that a finished chain allows, into `folder`; also the errors of predicted frames."""
    name, number, content = read_split(dataset, data_root)
    pictures = [
        draw_ranked_lists(folder / "ranked-lists.png", dataset, data_root, workspace.features(name, number)),
        draw_cmc(folder / "cmc.png", {"AMEM": result}),
        draw_attributes(folder / "attributes.png", workspace.labels(name), dataset, data_root),
    ]
    tracklets = evenly_spaced([t for t, query in zip(content.test, content.is_query, strict=True) if query], 6)
    path, errors = draw_predicted_frames(folder / "predicted-frames.png", workspace.amem(name, number), tracklets)
    return [*pictures, path], errors
