"""Strips and animations of predicted frames, and their errors against values worked out another way."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from amem_cli.errors import BadData, UsageError
from amem_cli.pictures.frames import (
    MARGIN,
    animate,
    evenly_spaced,
    predicted_frames_strip,
    prediction_errors,
    save_picture,
    stack_strips,
    structural_similarity,
)


def walker(step: int, size: tuple[int, int] = (64, 32)) -> np.ndarray:
    """A stick figure on a gradient, one step further each time."""
    height, width = size
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    draw = ImageDraw.Draw(image)
    middle, stride = width // 2, (step % 4 - 1.5) * width / 8
    draw.ellipse((middle - 4, 4, middle + 4, 12), fill=(220, 180, 150))
    draw.line((middle, 12, middle, height // 2), fill=(170, 30, 40), width=6)
    for side in (-1, 1):
        draw.line((middle, height // 2, middle + side * stride, height - 4), fill=(30, 40, 120), width=3)
    return np.asarray(image)


CURRENT = walker(0)
TRUE = np.stack([walker(step) for step in (1, 2, 3)])
BLURRED = np.stack([np.asarray(Image.fromarray(frame).resize((8, 16)).resize((32, 64))) for frame in TRUE])


def flat(value: int, rounds: int = 3) -> np.ndarray:
    return np.full((rounds, 64, 32, 3), value, np.uint8)


def test_a_strip_shows_true_frames_above_predicted_ones():
    picture = predicted_frames_strip(flat(10)[0], flat(60), flat(120), copied=True)
    pixels = np.asarray(picture)
    heights = {}
    for value in (10, 60, 120):
        # Frames are the only flat areas of their value; text is antialiased and small.
        rows = np.flatnonzero((pixels == value).all(axis=2).sum(axis=1) >= 60)
        heights[value] = (rows.min(), rows.max() + 1)
    assert heights[60][1] - heights[60][0] == 128, "a frame 64 pixels high is enlarged twice"
    assert heights[10][0] == heights[60][0], "frame t stands beside the true ones"
    assert heights[60][1] < heights[120][0] < heights[120][1] < heights[10][1], "true, predicted, copied"
    row = pixels[(heights[120][0] + heights[120][1]) // 2]
    assert (row == 120).all(axis=1).sum() == 3 * 64
    row = pixels[(heights[60][0] + heights[60][1]) // 2]
    assert (row == 60).all(axis=1).sum() == 3 * 64
    assert (row == 10).all(axis=1).sum() == 64


def test_a_strips_size_follows_rounds_rows_and_enlargement():
    one = predicted_frames_strip(CURRENT, TRUE[:1], BLURRED[:1])
    three = predicted_frames_strip(CURRENT, TRUE, BLURRED)
    assert three.width - one.width == 2 * (64 + 6)
    two_settings = predicted_frames_strip(CURRENT, TRUE, {"predicted": BLURRED, "copied twice": BLURRED})
    copied = predicted_frames_strip(CURRENT, TRUE, BLURRED, copied=True)
    assert two_settings.height == copied.height > three.height
    assert predicted_frames_strip(CURRENT, TRUE, BLURRED, enlarge=1).height < three.height
    large = walker(0, (256, 128))
    assert predicted_frames_strip(large, large[None], large[None]).height < 2 * 256 + 120, "not enlarged"


def test_a_long_title_is_not_cut_off():
    picture = np.asarray(predicted_frames_strip(CURRENT, TRUE, BLURRED, title="a very long title " * 8))
    assert (picture[:, -MARGIN:] == 255).all()


def test_strips_are_stacked_in_reading_order():
    strips = [Image.new("RGB", size, (shade,) * 3) for size, shade in [((30, 10), 1), ((20, 15), 2), ((40, 5), 3)]]
    picture = stack_strips(strips, columns=2)
    assert picture.size == (60, 20)
    assert [picture.getpixel(at)[0] for at in [(0, 0), (40, 0), (0, 15), (59, 19)]] == [1, 2, 3, 255]
    assert stack_strips(strips[:1], columns=4).size == (30, 10)


def test_ssim_of_equal_frames_is_one():
    assert structural_similarity(CURRENT, CURRENT) == pytest.approx(1, abs=1e-12)


def test_ssim_of_flat_frames_is_their_luminance_term():
    a, b, c1 = 51 / 255, 204 / 255, 0.01**2
    expected = (2 * a * b + c1) / (a**2 + b**2 + c1)
    assert structural_similarity(flat(51)[0], flat(204)[0]) == pytest.approx(expected, abs=1e-9)


def test_ssim_window_by_window():
    """Wang et al. 2004, eq. 13-16, written out over every window."""
    generator = np.random.default_rng(1)
    x, y = generator.random((2, 14, 13))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    for top in range(14 - 10):
        for left in range(13 - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
            )
    assert structural_similarity(x, y) == pytest.approx(np.mean(values), abs=1e-12)


def test_ssim_of_colour_frames_is_scikit_images():
    """0.90685797 is skimage 0.26's `structural_similarity` with gaussian_weights, sigma 1.5, population covariance."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (40, 24, 3), dtype=np.uint8)
    noise = generator.integers(-60, 60, first.shape)
    second = np.clip(first.astype(int) + noise, 0, 255).astype(np.uint8)
    assert structural_similarity(first, second) == pytest.approx(0.9068579700060209, abs=1e-10)


def test_ssim_needs_a_whole_window_and_equal_shapes():
    with pytest.raises(ValueError, match="at least 11 x 11"):
        structural_similarity(CURRENT[:10], CURRENT[:10])
    with pytest.raises(ValueError, match="equal shapes"):
        structural_similarity(CURRENT, CURRENT[:20])


def test_errors_by_hand():
    """Truth 100, prediction 90, frame t 80: the prediction halves the distance, so a quarter of the error is left."""
    errors = prediction_errors(flat(100), flat(90), flat(80)[0])
    assert errors["mse"] == pytest.approx((10 / 255) ** 2)
    assert errors["psnr"] == pytest.approx(20 * np.log10(25.5))
    assert errors["mse_copied"] == pytest.approx((20 / 255) ** 2)
    assert errors["mse_ratio"] == pytest.approx(0.25)
    assert errors["ssim"] > errors["ssim_copied"]
    assert len(errors["rounds"]) == 3


def test_errors_of_rounds_make_up_the_whole():
    errors = prediction_errors(TRUE, BLURRED, CURRENT)
    for name in ("mse", "ssim", "mse_copied", "ssim_copied"):
        assert np.mean([one[name] for one in errors["rounds"]]) == pytest.approx(errors[name])
    assert errors["rounds"][1]["mse_copied"] == pytest.approx(np.mean((TRUE[1] / 255 - CURRENT / 255) ** 2))


def test_copying_is_measured_like_a_prediction():
    errors = prediction_errors(TRUE, np.broadcast_to(CURRENT, TRUE.shape), CURRENT)
    assert errors["mse_ratio"] == 1
    assert (errors["psnr"], errors["ssim"]) == (errors["psnr_copied"], errors["ssim_copied"])


def test_exact_predictions_and_people_who_stand_still_go_into_json():
    exact = prediction_errors(TRUE, TRUE, CURRENT)
    assert (exact["mse"], exact["psnr"], exact["mse_ratio"]) == (0, None, 0)
    still = prediction_errors(flat(80), flat(90), flat(80)[0])
    assert (still["psnr_copied"], still["mse_ratio"]) == (None, None)
    json.dumps([exact, still], allow_nan=False)


def test_floats_and_bytes_measure_the_same():
    as_floats = prediction_errors(TRUE / np.float32(255), BLURRED / np.float32(255), CURRENT / np.float32(255))
    assert as_floats["mse"] == pytest.approx(prediction_errors(TRUE, BLURRED, CURRENT)["mse"], rel=1e-5)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        prediction_errors(TRUE.astype(float), BLURRED.astype(float), CURRENT.astype(float))


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_has_every_frame_and_repeats(tmp_path, suffix):
    # More colours than a GIF has.
    current, *true = np.random.default_rng(0).integers(0, 256, (4, 64, 32, 3), dtype=np.uint8)
    path = animate(current, np.stack(true), BLURRED, tmp_path / f"walk.{suffix}", copied=True, frames_per_second=5)
    with Image.open(path) as animation:
        assert animation.n_frames == 4
        assert animation.info["loop"] == 0
        shown = []
        for number in range(4):
            animation.seek(number)
            animation.load()
            assert animation.info["duration"] == 200
            shown.append(np.asarray(animation.convert("RGB")))
    third = shown[0].shape[1] // 3
    assert any((shown[0][:, :third] != shown[2][:, :third]).ravel()), "the true column moves"
    copied = [frame[20:-20, -third:] for frame in shown]
    assert all((frame == copied[0]).all() for frame in copied), "what stands still does not flicker"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "svg", "pdf"])
def test_pictures_are_saved_by_suffix(tmp_path, suffix):
    picture = predicted_frames_strip(CURRENT, TRUE, BLURRED)
    content = save_picture(picture, tmp_path / f"strip.{suffix}").read_bytes()
    if suffix in ("svg", "pdf"):
        assert content.startswith({"svg": b"<?xml", "pdf": b"%PDF"}[suffix])
        assert content == save_picture(picture, tmp_path / f"again.{suffix}").read_bytes()
    else:
        with Image.open(tmp_path / f"strip.{suffix}") as image:
            assert image.size == picture.size
            if suffix != "jpg":
                assert image.convert("RGB").tobytes() == picture.tobytes()


def test_frames_are_spread_over_a_tracklet():
    assert evenly_spaced(range(90), 3) == [15, 45, 75]
    assert evenly_spaced(range(7), 1) == [3]
    assert evenly_spaced("ab", 6) == ["a", "b"]
    assert all(len(set(evenly_spaced(range(n), 6))) == 6 for n in range(6, 100))


def test_empty_and_wrong_input(tmp_path):
    with pytest.raises(BadData, match="no frame"):
        predicted_frames_strip(CURRENT, TRUE[:0], BLURRED[:0])
    with pytest.raises(BadData, match="no prediction"):
        predicted_frames_strip(CURRENT, TRUE, {})
    with pytest.raises(BadData, match="no frame"):
        prediction_errors(TRUE[:0], BLURRED[:0], CURRENT)
    with pytest.raises(BadData, match="none to draw"):
        stack_strips([])
    with pytest.raises(ValueError, match="one shape"):
        predicted_frames_strip(CURRENT, TRUE, BLURRED[:2])
    with pytest.raises(ValueError, match="uint8"):
        predicted_frames_strip(CURRENT, TRUE, BLURRED / 255)
    with pytest.raises(UsageError, match=r"none of \.gif, \.webp"):
        animate(CURRENT, TRUE, BLURRED, tmp_path / "walk.mp4")
    with pytest.raises(UsageError, match=r"strip\.tga"):
        save_picture(Image.new("RGB", (4, 4)), tmp_path / "strip.tga")
