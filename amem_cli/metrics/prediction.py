"""Errors of predicted frames, compared with a copy of the last frame."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

SSIM_RADIUS, SSIM_STD = 5, 1.5  # the Gaussian window of Wang et al. 2004: 11 x 11 pixels
MEASURES = ("mse", "psnr", "ssim")


def prediction_errors(
    true: np.ndarray, predicted: np.ndarray, current: np.ndarray, by_other_motion: np.ndarray | None = None
) -> dict[str, Any]:
    """The errors of the predictions for one clip, as JSON values.

    `true`, `predicted` and `by_other_motion` (predicted from the f_M of another clip) are the frames t+1 ... t+c,
    (c, H, W, 3); `current` is frame t, (H, W, 3). All are uint8, or float in [0, 1].

    Returns `mse` (pixels in [0, 1]), `psnr` (dB, of that mean; None where it is 0) and `ssim` (mean over the frames),
    the same with `_copied` for frame t repeated, `mse_other_motion`, and `rounds`: the first six for each frame.
    """
    rounds = []
    for wanted, guess in zip(true, predicted, strict=True):
        copies = {f"{name}_copied": value for name, value in frame_errors(wanted, current).items()}
        rounds.append(frame_errors(wanted, guess) | copies)
    errors: dict[str, Any] = {"rounds": rounds}
    for copied in ("", "_copied"):
        mse, ssim = (float(np.mean([each[name + copied] for each in rounds])) for name in ("mse", "ssim"))
        errors |= {f"mse{copied}": mse, f"psnr{copied}": peak_signal_to_noise_ratio(mse), f"ssim{copied}": ssim}
    other = None if by_other_motion is None else mean_squared_error(true, by_other_motion)
    return errors | {"mse_other_motion": other}


def mean_errors(errors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The means of several clips' `prediction_errors`, with ratios to copying.

    `mse_ratio` and `other_motion_ratio` are the mean MSE (of the predictions, of those from another clip's f_M) over
    the mean MSE of copying; None where copying is exact. Where the second is no larger than the first, f_M is not used.
    `better_than_copying` is true only if MSE, PSNR and SSIM agree. `clips` counts them.
    """
    means: dict[str, Any] = {"clips": len(errors)}
    for name in (*MEASURES, *(f"{name}_copied" for name in MEASURES), "mse_other_motion"):
        known = [clip[name] for clip in errors if clip[name] is not None]  # an exact frame has no finite PSNR
        means[name] = float(np.mean(known)) if known else None
    for ratio, name in (("mse_ratio", "mse"), ("other_motion_ratio", "mse_other_motion")):
        defined = means["mse_copied"] and means[name] is not None
        means[ratio] = means[name] / means["mse_copied"] if defined else None
    psnr, copied = (math.inf if means[name] is None else means[name] for name in ("psnr", "psnr_copied"))
    better = means["mse"] < means["mse_copied"] and psnr > copied and means["ssim"] > means["ssim_copied"]
    return means | {"better_than_copying": better}


def mean_squared_error(first: np.ndarray, second: np.ndarray) -> float:
    """The mean over all elements of two arrays of pixels, uint8 or float in [0, 1], converted to [0, 1]."""
    return float(np.mean((_unit(first) - _unit(second)) ** 2))


def peak_signal_to_noise_ratio(mse: float) -> float | None:
    """PSNR in dB of pixels in [0, 1]: -10 log10(MSE); None where the MSE is 0.

    >>> peak_signal_to_noise_ratio(0.01)
    20.0
    """
    return -10 * math.log10(mse) if mse else None


def structural_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM of two frames (H, W, 3) or (H, W), uint8 or float in [0, 1]: 1 for equal frames, about 0 for unrelated ones.

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
    TIP 2004, eq. 13: K1 = 0.01, K2 = 0.03, L = 1, only windows that lie inside the frame. The paper is about grey
    frames; of colour frames this is the mean over the channels. Raises `ValueError` for frames smaller than a window.
    """
    x, y = _unit(first), _unit(second)
    window = 2 * SSIM_RADIUS + 1
    if x.shape != y.shape or min(x.shape[:2]) < window:
        raise ValueError(f"SSIM needs two equal shapes of at least {window} x {window}, not {x.shape} and {y.shape}")

    def local_mean(values: np.ndarray) -> np.ndarray:
        blurred = gaussian_filter(values, SSIM_STD, radius=SSIM_RADIUS, axes=(0, 1))
        return blurred[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]

    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x, variance_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean())


def frame_errors(true: np.ndarray, guess: np.ndarray) -> dict[str, float | None]:
    """`mse`, `psnr` (None where the MSE is 0) and `ssim` of one frame (H, W, 3)."""
    mse = mean_squared_error(true, guess)
    return {"mse": mse, "psnr": peak_signal_to_noise_ratio(mse), "ssim": structural_similarity(true, guess)}


def _unit(pixels: np.ndarray) -> np.ndarray:
    """Pixels as float64 in [0, 1]."""
    if pixels.dtype == np.uint8:
        return pixels / 255.0
    if not np.issubdtype(pixels.dtype, np.floating) or not np.all((pixels >= 0) & (pixels <= 1)):
        raise ValueError(f"pixels are uint8, or float in [0, 1], not {pixels.dtype} outside it")
    return pixels.astype(np.float64)
