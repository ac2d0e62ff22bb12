"""CMC curves: the files against their formats."""

import numpy as np
import pytest
from PIL import Image

from amem_cli.errors import BadData, UsageError
from amem_cli.pictures.cmc import plot_cmc

CURVES = {"AMEM": np.linspace(0.6, 1, 60), "baseline": np.linspace(0.4, 0.9, 30)}


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
@pytest.mark.parametrize("log_ranks", [False, True])
def test_the_suffix_chooses_the_format_and_the_same_plot_gives_the_same_bytes(tmp_path, suffix, start, log_ranks):
    first = plot_cmc(CURVES, tmp_path / f"a.{suffix}", title="walkers", log_ranks=log_ranks)
    second = plot_cmc(CURVES, tmp_path / f"b.{suffix}", title="walkers", log_ranks=log_ranks)
    assert first.read_bytes().startswith(start)
    assert first.read_bytes() == second.read_bytes()


def test_a_plot_is_large_enough_and_shows_every_curve_and_chance(tmp_path):
    def colours(path):
        with Image.open(path) as image:
            assert min(image.size) >= 500
            return {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}

    blue, vermilion, grey = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (115, 115, 115)
    both = colours(plot_cmc(CURVES, tmp_path / "both.png", chance=np.linspace(0.1, 1, 60)))
    assert {blue, vermilion, grey} <= both
    assert vermilion not in colours(plot_cmc({"AMEM": CURVES["AMEM"]}, tmp_path / "one.png"))


def test_a_gallery_smaller_than_fifty(tmp_path):
    assert plot_cmc({"walkers": np.array([1.0])}, tmp_path / "one.png").exists()
    assert plot_cmc({"walkers": np.array([0.5, 1.0, 1.0])}, tmp_path / "three.png", chance=np.arange(1, 4) / 3).exists()


@pytest.mark.parametrize(
    "curve",
    [np.array([]), np.array([0.9, 0.8]), np.array([0.5, 1.2]), np.array([-0.1, 1]), np.array([np.nan]), np.eye(2)],
)
def test_what_is_no_cmc_curve_is_named(tmp_path, curve):
    with pytest.raises(BadData, match="rise with the rank: bad"):
        plot_cmc({"good": np.array([0.5, 1.0]), "bad": curve}, tmp_path / "cmc.png")
    assert not (tmp_path / "cmc.png").exists()


def test_no_curve_and_an_unknown_suffix(tmp_path):
    with pytest.raises(BadData, match="no curve"):
        plot_cmc({}, tmp_path / "cmc.png")
    with pytest.raises(UsageError, match=r"cmc\.bmp.*none of \.png, \.svg, \.pdf"):
        plot_cmc(CURVES, tmp_path / "cmc.bmp")
