"""Errors of predicted frames against values computed another way."""

import json

import numpy as np
import pytest

from amem_cli.metrics.prediction import (
    mean_errors,
    mean_squared_error,
    prediction_errors,
    structural_similarity,
)

RNG = np.random.default_rng(0)
CURRENT, *TRUE = RNG.integers(0, 256, (4, 16, 12, 3), dtype=np.uint8)
TRUE = np.stack(TRUE)
NEAR = np.clip(TRUE.astype(int) + RNG.integers(-20, 21, TRUE.shape), 0, 255).astype(np.uint8)


def flat(value: int, rounds: int = 3) -> np.ndarray:
    return np.full((rounds, 16, 12, 3), value, np.uint8)


def test_structural_similarity_window_by_window():
    """Wang et al. 2004, eq. 13-16, written out over every window."""
    x, y = np.random.default_rng(1).random((2, 14, 13))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top, left in np.ndindex(14 - 10, 13 - 10):
        a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        covariance = (window * (a - mean_a) * (b - mean_b)).sum()
        numerator = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
        values.append(numerator / ((mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4)))
    assert structural_similarity(x, y) == pytest.approx(np.mean(values), abs=1e-12)


def test_structural_similarity_agrees_with_scikit_image():
    """0.90685797 is skimage 0.26's value with gaussian_weights, sigma 1.5 and population covariance."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (40, 24, 3), dtype=np.uint8)
    noise = generator.integers(-60, 60, first.shape)
    second = np.clip(first.astype(int) + noise, 0, 255).astype(np.uint8)
    assert structural_similarity(first, second) == pytest.approx(0.9068579700060209, abs=1e-10)
    with pytest.raises(ValueError, match="at least 11 x 11"):
        structural_similarity(first[:10], first[:10])


def test_prediction_errors_by_hand():
    """Truth 100, prediction 90, frame t 80: half of the distance is left, so a quarter of the squared error."""
    errors = prediction_errors(flat(100), flat(90), flat(80)[0], flat(70))
    assert errors["mse"] == pytest.approx((10 / 255) ** 2)
    assert errors["psnr"] == pytest.approx(20 * np.log10(25.5))
    assert errors["mse_copied"] == pytest.approx((20 / 255) ** 2)
    assert errors["mse_other_motion"] == pytest.approx((30 / 255) ** 2)
    means = mean_errors([errors])
    assert (means["mse_ratio"], means["other_motion_ratio"]) == pytest.approx((0.25, 2.25))
    assert means["better_than_copying"]


def test_prediction_errors_rounds_and_copies():
    errors = prediction_errors(TRUE, NEAR, CURRENT)
    assert errors["mse"] == pytest.approx(mean_squared_error(TRUE, NEAR))
    for name in ("mse", "ssim", "mse_copied", "ssim_copied"):
        assert np.mean([one[name] for one in errors["rounds"]]) == pytest.approx(errors[name])
    assert errors["rounds"][1]["mse_copied"] == pytest.approx(np.mean((TRUE[1] / 255 - CURRENT / 255) ** 2))
    assert errors["psnr"] == pytest.approx(-10 * np.log10(errors["mse"]))
    copies = prediction_errors(TRUE, np.broadcast_to(CURRENT, TRUE.shape), CURRENT)
    assert [copies[name] for name in ("mse", "psnr", "ssim")] == [
        copies[f"{name}_copied"] for name in ("mse", "psnr", "ssim")
    ]


def test_prediction_errors_exact_and_still():
    exact = prediction_errors(TRUE, TRUE, CURRENT)
    assert (exact["mse"], exact["psnr"], exact["ssim"]) == (0, None, pytest.approx(1))
    still = prediction_errors(flat(80), flat(90), flat(80)[0])
    assert (still["mse_copied"], still["psnr_copied"]) == (0, None)
    means = [mean_errors([exact]), mean_errors([still])]
    assert [found["mse_ratio"] for found in means] == [0, None]
    assert [found["better_than_copying"] for found in means] == [True, False]
    json.dumps([exact, still, *means], allow_nan=False)


def test_prediction_errors_of_floats():
    floats = [array / np.float32(255) for array in (TRUE, NEAR, CURRENT)]
    assert prediction_errors(*floats)["mse"] == pytest.approx(prediction_errors(TRUE, NEAR, CURRENT)["mse"], rel=1e-5)
    true, near = (array[0].astype(np.float16) for array in floats[:2])
    assert structural_similarity(true, near) == structural_similarity(true.astype(np.float64), near.astype(np.float64))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        mean_squared_error(TRUE.astype(float), NEAR.astype(float))


def test_mean_errors_ratio_of_means():
    """The ratio of the means, not the mean of the ratios; a clip with an exact frame has no PSNR to average."""
    base = {"ssim": 0.5, "ssim_copied": 0.4, "psnr_copied": 20.0, "mse_other_motion": None}
    clips = [base | {"mse": 0.1, "mse_copied": 0.1, "psnr": 10.0}, base | {"mse": 0.0, "mse_copied": 0.3, "psnr": None}]
    means = mean_errors(clips)
    assert (means["mse_ratio"], means["psnr"], means["clips"]) == (pytest.approx(0.25), 10.0, 2)
    assert means["other_motion_ratio"] is None


@pytest.mark.parametrize("worse", ["mse", "psnr", "ssim"])
def test_mean_errors_better_only_if_all_measures_agree(worse):
    clip = {"mse": 0.1, "psnr": 12.0, "ssim": 0.6, "mse_copied": 0.2, "psnr_copied": 10.0, "ssim_copied": 0.5}
    clip |= {"mse_other_motion": 0.1}
    assert mean_errors([clip])["better_than_copying"]
    assert not mean_errors([clip | {worse: clip[f"{worse}_copied"]}])["better_than_copying"]
