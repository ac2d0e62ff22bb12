"""What a model makes of a few tracklets or images; in training always the same held-out ones, so that one can watch it.

A model in training is copied and the copy judged in eval mode; nothing is drawn at random. So the training goes on as
if nothing had been.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from amem_cli.data.clips import inference_clips, reflect
from amem_cli.data.loading import read_frames
from amem_cli.data.tracklets import AttributeDataset, Tracklet
from amem_cli.data.transforms import read_image
from amem_cli.errors import UsageError
from amem_cli.models.amem import AMEM, MainModel
from amem_cli.models.arm import ARM
from amem_cli.models.attention import activation_maps
from amem_cli.models.tae import TextureDecoder, TextureEncoder
from amem_cli.pictures.attention import HeatRow, heat_rows
from amem_cli.pictures.frames import PredictedClip, evenly_spaced, predicted_frames_strip, stack_strips
from amem_cli.pictures.samples import attribute_guesses, reconstructions_strip
from amem_cli.runtime.device import as_pixels

START = 1  # zero-based: the frame of a clip from which MEM predicts; training draws it from 0 < t < T - c
IMAGES, TRACKLETS = 8, 2  # shown at every look
CLIPS_FOR_ATTRIBUTES = 2


# -- at every look of a training at its held-out people ----------------------------------------------------------------


def sample_attributes(arm: ARM, data: AttributeDataset, rows: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The ARM's probabilities for a few of the images `rows`, beside their labels."""
    shown = evenly_spaced(rows, IMAGES // 2)
    images = np.stack([read_image(data.paths[row], *size) for row in shown])
    judged = copy.deepcopy(arm).eval()
    with torch.inference_mode():
        probabilities = judged(as_pixels(torch.from_numpy(images), device_of(arm))).float().sigmoid().cpu().numpy()
    titles = [data.paths[row].name for row in shown]
    return attribute_guesses(images, data.attributes, probabilities, data.labels[shown], titles)


def sample_reconstructions(
    encoder: TextureEncoder, decoder: TextureDecoder, paths: Sequence[Path], size: tuple[int, int]
) -> Image.Image:
    """A few images and what the TAE makes of them."""
    images = np.stack([read_image(path, *size) for path in evenly_spaced(paths, IMAGES)])
    judged = copy.deepcopy(encoder).eval(), copy.deepcopy(decoder).eval()
    with torch.inference_mode():
        made = judged[1](judged[0](as_pixels(torch.from_numpy(images), device_of(encoder))))
    return reconstructions_strip(images, as_bytes(made))


def sample_clips(
    model: AMEM, described: dict[str, Any], tracklets: Sequence[Tracklet], labels: torch.Tensor | None
) -> Image.Image:
    """MEM's predicted frames beside the true ones (Figure 4), and the attributes by AEM beside the pseudo-labels
    (N, A), for the modules that the model has."""
    judged = copy.deepcopy(model).eval()
    parts = []
    if judged.motion_enhancement is not None:
        for clip in predict_clips(judged, described, tracklets):
            parts.append(predicted_frames_strip(clip.current, clip.true, clip.predicted, copied=True, title=clip.title))
        parts = [stack_strips(parts, columns=len(parts))]
    if judged.attribute_heads is not None and labels is not None:
        probabilities = np.stack([attribute_probabilities(judged, described, tracklet) for tracklet in tracklets])
        images = np.stack([middle_clip(tracklet, described)[START] for tracklet in tracklets])
        titles = [f"{tracklet.name}: AEM beside the pseudo-label" for tracklet in tracklets]
        parts.append(attribute_guesses(images, described["attributes"], probabilities, labels.numpy(), titles))
    return stack_strips(parts)


# -- of a trained model too --------------------------------------------------------------------------------------------


def middle_clip(tracklet: Tracklet, described: dict[str, Any]) -> np.ndarray:
    """The tracklet's middle clip as the model wants it: (T, H, W, 3) uint8; a short tracklet is reflected."""
    frames, size = described["clip_frames"], tuple(map(int, described["image_size"].split("x")))
    first = max(0, (len(tracklet) - frames) // 2)
    return read_frames(tracklet, reflect(np.arange(first, first + frames), len(tracklet)), size)


@torch.inference_mode()
def predict_clips(
    model: AMEM, described: dict[str, Any], tracklets: Sequence[Tracklet], rounds: int | None = None
) -> list[PredictedClip]:
    """MEM's predictions for the middle clip of each tracklet, from its second frame on; `model` is in eval mode.

    With several tracklets each clip is also predicted from the f_M of the one before it, which tells whether f_M is
    used at all. `rounds` is by default as many as it was trained with. Raises `UsageError` when the clip has no room
    for them.
    """
    rounds = described["predict_frames"] if rounds is None else rounds
    most = described["clip_frames"] - START - 1
    if not 1 <= rounds <= most:
        why = f"a clip of {described['clip_frames']} frames has room for 1 to {most}"
        raise UsageError("--predict-frames", str(rounds), why=why)
    clips: list[PredictedClip] = []
    shown = [middle_clip(tracklet, described) for tracklet in tracklets]
    pixels = [as_pixels(torch.from_numpy(frames)[None], device_of(model)) for frames in shown]
    motion = [model.main.feature_maps(clip).motion_feature for clip in pixels]

    def predict(clip: torch.Tensor, motion_feature: torch.Tensor) -> np.ndarray:
        predictions = model.motion_enhancement(clip[:, :, START], motion_feature, rounds)
        return as_bytes(torch.cat([prediction.frame for prediction in predictions]))

    for number, (tracklet, frames) in enumerate(zip(tracklets, shown, strict=True)):
        other = predict(pixels[number], motion[number - 1]) if len(shown) > 1 else None
        true = frames[START + 1 : START + 1 + rounds]
        predicted = predict(pixels[number], motion[number])
        clips.append(PredictedClip(tracklet.name, frames[START], true, predicted, other))
    return clips


@torch.inference_mode()
def attribute_probabilities(model: AMEM, described: dict[str, Any], tracklet: Tracklet) -> np.ndarray:
    """What the heads of AEM say of a tracklet: (A,) probabilities, the mean over some of its clips."""
    size = tuple(map(int, described["image_size"].split("x")))
    indices = evenly_spaced(inference_clips(len(tracklet), described["clip_frames"]), CLIPS_FOR_ATTRIBUTES)
    clips = torch.from_numpy(np.stack([read_frames(tracklet, frames, size) for frames in indices]))
    maps = model.main.feature_maps(as_pixels(clips, device_of(model)))
    return model.attribute_heads(maps.appearance_feature).sigmoid().mean(dim=0).cpu().numpy()


def attention_maps(
    model: MainModel, described: dict[str, Any], tracklet: Tracklet
) -> tuple[np.ndarray, list[HeatRow], dict[str, float]]:
    """The tracklet's middle clip, (T, H, W, 3) uint8, the heat of BF, f_B, f_A and f_M in it, and each one's share of
    ||f_s||^2; `model` is in eval mode. The formula stands in `models.attention`."""
    frames = middle_clip(tracklet, described)
    maps = activation_maps(model, as_pixels(torch.from_numpy(frames)[None], device_of(model)))
    shares = {name: round(float(share), 4) for name, share in (maps.shares | {"bias": maps.bias_share}).items()}
    features = {name: heat[0].cpu().numpy() for name, heat in maps.features.items()}
    return frames, heat_rows(features, shares, maps.backbone_over_time[0].cpu().numpy()), shares


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """Images (N, 3, H, W), float in [0, 1], as (N, H, W, 3) uint8 on the host."""
    return images.float().movedim(1, -1).mul(255).round().byte().cpu().numpy()


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(module.parameters()).device
