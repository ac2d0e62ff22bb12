"""Predicted frames, attributes and attention of a trained model for a few tracklets, on the CPU.

Pictures and reports run models through this module only.
"""

from collections.abc import Sequence

import numpy as np
import torch

from amem_cli.data.clips import evenly_spaced, inference_clips
from amem_cli.data.loading import middle_clip, read_frames
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import UsageError
from amem_cli.models.amem import AMEM, MainModel
from amem_cli.models.attention import activation_maps
from amem_cli.models.config import ModelConfig
from amem_cli.pictures.attention import Attention, HeatRow
from amem_cli.pictures.predicted_frames import PredictedClip
from amem_cli.runtime.engine import CPU, as_pixels
from amem_cli.runtime.progress import Progress

START = 1  # zero-based: the frame of a clip from which MEM predicts; training draws it from 0 < t < T - c
CLIPS_AT_ONCE = 8
CLIPS_FOR_ATTRIBUTES = 2
CLIPS_MEASURED = 100  # queries whose predicted frames are measured, in every command


@torch.inference_mode()
def predict_clips(
    amem: AMEM, config: ModelConfig, tracklets: Sequence[Tracklet], progress: Progress, *, rounds: int | None = None
) -> list[PredictedClip]:
    """MEM's predictions for the middle clip of each tracklet, from its second frame on.

    Each clip is also predicted from the f_M of the clip before it (the first from that of the last), which shows
    whether f_M is used. `rounds` is as in training unless given. Raises `UsageError` for a model without MEM, no
    tracklet, and too many rounds for a clip.
    """
    mem = amem.mem
    if mem is None:
        why = f"the model was trained with --modules {config.modules}, so it has no MEM"
        raise UsageError("predicted frames", why=why, remedy="Train with --modules amem or mem")
    if not tracklets:
        raise UsageError("predicted frames", why="the split has no query", remedy="Name a tracklet")
    rounds = config.predict_frames if rounds is None else rounds
    stride, clip_shape = config.predict_stride, (config.clip_frames, config.height_width)
    most = (config.clip_frames - START - 1) // stride
    if not 1 <= rounds <= most:
        why = f"a clip of {config.clip_frames} frames has room for 1 to {most}"
        raise UsageError("--predict-frames", str(rounds), why=why)

    def read(part: Sequence[Tracklet]) -> np.ndarray:
        return np.stack([middle_clip(tracklet, *clip_shape) for tracklet in part])

    def motion_features(frames: np.ndarray) -> torch.Tensor:
        found = amem.main.feature_maps(as_pixels(torch.from_numpy(frames), CPU)).motion_feature
        assert found is not None
        return found

    def predict(current: np.ndarray, motion: torch.Tensor) -> np.ndarray:
        predictions = mem(as_pixels(torch.from_numpy(current), CPU), motion, rounds)
        return as_images(torch.stack([prediction.frame for prediction in predictions], dim=1))

    def reconstruct(true: np.ndarray) -> np.ndarray:
        pixels = as_pixels(torch.from_numpy(true.reshape(-1, *true.shape[2:])), CPU)
        return as_images(mem.decoder(mem.encoder(pixels))).reshape(true.shape)

    clips: list[PredictedClip] = []
    before = motion_features(read(tracklets[-1:]))
    with progress.loop("predicted frames", len(tracklets), unit="clips") as loop:
        for first in range(0, len(tracklets), CLIPS_AT_ONCE):
            part = tracklets[first : first + CLIPS_AT_ONCE]
            frames = read(part)
            motion = motion_features(frames)
            current, true = frames[:, START], frames[:, START + stride :: stride][:, :rounds]
            by_other = predict(current, torch.cat((before, motion))[:-1]) if len(tracklets) > 1 else [None]
            rows = zip(current, true, predict(current, motion), by_other, reconstruct(true), strict=True)
            clips += [PredictedClip(tracklet.name, *row, stride) for tracklet, row in zip(part, rows, strict=True)]
            before = motion[-1:]
            loop.advance(len(part))
    return clips


def as_images(pixels: torch.Tensor) -> np.ndarray:
    """Pixels (..., 3, H, W) in [0, 1] -> uint8 (..., H, W, 3)."""
    return pixels.movedim(-3, -1).mul(255).round().byte().numpy()


@torch.inference_mode()
def attribute_probabilities(amem: AMEM, config: ModelConfig, tracklet: Tracklet) -> np.ndarray:
    """The probabilities (A,) by the heads of AEM, the mean over two clips of a tracklet."""
    indices = evenly_spaced(inference_clips(len(tracklet), config.clip_frames), CLIPS_FOR_ATTRIBUTES)
    clips = torch.from_numpy(np.stack([read_frames(tracklet, frames, config.height_width) for frames in indices]))
    maps = amem.main.feature_maps(as_pixels(clips, CPU))
    assert amem.aem is not None
    assert maps.appearance_feature is not None
    return amem.aem(maps.appearance_feature).sigmoid().mean(dim=0).numpy()


def attention_of(main: MainModel, config: ModelConfig, tracklet: Tracklet) -> tuple[Attention, dict[str, float]]:
    """The heat of BF, f_B, f_A and f_M in the tracklet's middle clip, and each one's share of ||f_s||^2.

    See `models.attention` for the formula.
    """
    frames = middle_clip(tracklet, config.clip_frames, config.height_width)
    maps = activation_maps(main, as_pixels(torch.from_numpy(frames)[None], CPU))
    shares = {name: round(float(share), 4) for name, share in (maps.shares | {"bias": maps.bias_share}).items()}
    over_time = maps.backbone_over_time[0].numpy()  # (T', H', W')
    rows = [HeatRow("BF", f"each of T' = {len(over_time)}", over_time)]
    rows += [
        HeatRow(name, f"{100 * shares[name]:.0f} % of |f_s|²", heat[0].numpy()) for name, heat in maps.features.items()
    ]
    return Attention(tracklet.name, frames, rows), shares
