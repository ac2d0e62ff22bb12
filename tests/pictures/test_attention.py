"""Heat over frames."""

import numpy as np

from amem_cli.pictures.attention import Attention, HeatRow, attention_figure, heat_over_frames

GREY = np.full((8, 64, 32, 3), 100, np.uint8)


def test_heat_over_frames_hot_and_negative_places():
    heat = np.array([[1.0, -1.0], [-1.0, -1.0]], dtype=np.float32)
    pixels = heat_over_frames(GREY, heat)[5].astype(int)
    assert pixels[4, 4, 0] > 180  # the bright end of the colour map
    np.testing.assert_allclose(pixels[60, 28], 100, atol=1)  # no heat, the grey frame
    np.testing.assert_array_equal(heat_over_frames(GREY, -np.abs(heat)), GREY)


def test_heat_over_frames_map_of_each_time():
    heat = np.zeros((2, 2, 2), dtype=np.float32)
    heat[1] = 1
    brightness = heat_over_frames(GREY, heat).mean(axis=(1, 2, 3))
    assert (brightness[:4] == 100).all()
    assert (brightness[4:] > 110).all()


def test_attention_figure_rows_and_scales():
    rows = [
        HeatRow("BF", "each of T' = 2", np.ones((2, 2, 2))),
        HeatRow("f_B", "50 % of |f_s|²", np.full((2, 2), 0.25)),
    ]
    figure = attention_figure([Attention("a", GREY, rows), Attention("b", GREY[:4], rows[1:])])
    one, two = figure.subfigs
    assert [axes.get_ylabel() for axes in one.axes if axes.get_ylabel()] == [
        "frames", "BF\neach of T' = 2", "f_B\n50 % of |f_s|²",
    ]  # fmt: skip
    assert len(one.axes) == 3 * 9
    assert len(two.axes) == 2 * 5
    assert one.axes[-1].get_ylim() == (0, 0.25)  # the colour bar of f_B
