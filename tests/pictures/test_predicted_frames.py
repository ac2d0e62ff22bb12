"""Predicted frames: the rows of a figure, the animation, and how any picture is saved."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from amem_cli.errors import BadData
from amem_cli.metrics.prediction import prediction_errors
from amem_cli.pictures.frames import read_frames, show_frame, side_by_side
from amem_cli.pictures.predicted_frames import PredictedClip, predicted_frames_figure
from amem_cli.pictures.style import STYLE, save_picture

FRAMES = np.random.default_rng(0).integers(0, 256, (7, 32, 16, 3), dtype=np.uint8)
CLIP = PredictedClip("<$clip$>", FRAMES[0], FRAMES[1:4], FRAMES[4:])


def test_predicted_frames_figure_rows():
    (part,) = predicted_frames_figure([CLIP]).subfigs
    pictures = [[*axes.get_images(), None][0] for axes in part.axes]
    shown = [None if picture is None else np.asarray(picture.get_array()) for picture in pictures]
    expected = [FRAMES[0], *FRAMES[1:4], None, *FRAMES[4:], None, *[FRAMES[0]] * 3]  # true, predicted, copied
    assert len(shown) == len(expected)
    for found, wanted in zip(shown, expected, strict=True):
        assert (found is None) == (wanted is None)
        assert found is None or (found == wanted).all()
    assert [axes.get_title() for axes in part.axes[:4]] == ["t (given)", "t+1", "t+2", "t+3"]
    errors = prediction_errors(CLIP.true, CLIP.predicted, CLIP.current)["rounds"][1]
    assert part.axes[6].get_xlabel() == f"{errors['psnr']:.1f} dB, {errors['ssim']:.2f}"
    assert part.axes[10].get_xlabel() == f"{errors['psnr_copied']:.1f} dB, {errors['ssim_copied']:.2f}"
    (part,) = predicted_frames_figure([replace(CLIP, reconstructed=FRAMES[:3])]).subfigs
    assert (np.asarray(part.axes[5].get_images()[0].get_array()) == FRAMES[0]).all()  # below the true frame t+1
    exact = PredictedClip("", FRAMES[0], FRAMES[1:4], FRAMES[1:4])
    assert exact.caption("predicted", 0) == "exact, 1.00"


def test_predicted_frames_figure_several_clips():
    assert len(predicted_frames_figure([CLIP] * 3).subfigs) == 4  # two columns, one place left empty
    one = replace(CLIP, true=CLIP.true[:1], predicted=CLIP.predicted[:1])
    assert len(predicted_frames_figure([one] * 5).subfigs) == 8  # four columns of clips with one predicted frame


def small_figure() -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1, 1))
        show_frame(figure.add_subplot(), FRAMES[0], "<$a$>")
    return figure


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_save_picture_deterministic(tmp_path, suffix, start):
    one, two = (save_picture(small_figure(), tmp_path / f"{name}.{suffix}") for name in "ab")
    assert one.read_bytes().startswith(start)
    assert one.read_bytes() == two.read_bytes()
    if suffix == "svg":
        assert "&lt;$a$&gt;" in one.read_text("utf-8")  # text is stored as text, and is escaped


def test_read_frames_size_and_faults(tmp_path):
    Image.fromarray(FRAMES[0]).save(tmp_path / "a.png")
    assert (read_frames([tmp_path / "a.png", FRAMES[1]], (32, 16)) == FRAMES[:2]).all()
    assert read_frames([FRAMES[0]], (8, 6)).shape == (1, 8, 6, 3)
    b, c = tmp_path / "b.png", tmp_path / "c.png"
    assert (read_frames([b, tmp_path / "a.png", c], (32, 16)) == FRAMES[:1]).all()
    with pytest.raises(BadData, match=r"b\.png.*c\.png"):
        read_frames([b, c], (8, 8))


def test_side_by_side_reading_order():
    sheet = side_by_side(FRAMES[:3], columns=2, gap=1)
    assert sheet.shape == (65, 33, 3)
    assert (sheet[:32, 17:] == FRAMES[1]).all()
    assert (sheet[33:, :16] == FRAMES[2]).all()
    assert (sheet[32] == 255).all()
