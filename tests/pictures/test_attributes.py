"""Attribute bars: what is shown, in which colour, and what is refused."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from amem_cli.attributes import ATTRIBUTES, GROUPS
from amem_cli.errors import BadData, UsageError
from amem_cli.pictures.attributes import (
    ABSENT,
    HIGHLIGHT,
    PRESENT,
    RIGHT,
    RIGHTLY_ABSENT,
    WRONG,
    AttributedTracklet,
    attribute_bars,
    attribute_comparison,
    attribute_words,
)

FRAMES = [np.full((64, 32, 3), (90 + 5 * step, 100, 110), np.uint8) for step in range(10)]


def column(name: str) -> int:
    return ATTRIBUTES.index(name)


def probabilities(**present: float) -> np.ndarray:
    values = np.full(len(ATTRIBUTES), 0.1)
    for name, value in present.items():
        values[column(name)] = value
    return values


def painted(path, colour: str) -> int:
    """How many pixels have exactly this colour."""
    with Image.open(path) as image:
        wanted = tuple(round(255 * part) for part in to_rgb(colour))
        return int((np.asarray(image.convert("RGB")) == wanted).all(axis=2).sum())


def text_of(monkeypatch, draw) -> str:
    """All words of the figure that `draw` saves."""
    words = []

    def keep(figure, path):
        figure.draw_without_rendering()
        from matplotlib.text import Text

        words.extend(text.get_text() for text in figure.findobj(Text) if text.get_text())
        return path

    monkeypatch.setattr("amem_cli.pictures.attributes.save_figure", keep)
    draw()
    return " | ".join(words)


def test_bars_without_truth_tell_above_from_below_the_threshold(tmp_path):
    path = attribute_bars(FRAMES, ATTRIBUTES, probabilities(personalMale=0.9), tmp_path / "bars.png", title="0001")
    assert painted(path, PRESENT) > 1000
    assert painted(path, ABSENT) > 1000
    assert not painted(path, RIGHT)
    assert not painted(path, WRONG)
    with Image.open(path) as image:
        assert image.width >= 1000
        assert painted(path, "#ffffff") > 0.3 * image.width * image.height


def test_bars_with_truth_are_right_or_wrong(tmp_path):
    labels = np.zeros(len(ATTRIBUTES), np.uint8)
    labels[column("personalMale")] = 1
    right = attribute_bars(FRAMES, ATTRIBUTES, probabilities(personalMale=0.9), tmp_path / "right.png", labels)
    assert painted(right, RIGHT) > 1000
    assert painted(right, RIGHTLY_ABSENT) > 1000
    assert not painted(right, WRONG)
    wrong = attribute_bars(FRAMES, ATTRIBUTES, probabilities(personalFemale=0.9), tmp_path / "wrong.png", labels)
    assert painted(wrong, WRONG) > 500


def test_symbols_say_what_colours_say(tmp_path, monkeypatch):
    labels = np.zeros(len(ATTRIBUTES), np.uint8)
    labels[column("personalMale")] = 1
    right = probabilities(personalMale=0.9)
    words = text_of(monkeypatch, lambda: attribute_bars(FRAMES, ATTRIBUTES, right, tmp_path / "a.png", labels, top=2))
    assert words.split(" | ").count("✓") == 12
    assert "✗" not in words.split(" | ")
    wrong = probabilities(personalFemale=0.9)
    words = text_of(monkeypatch, lambda: attribute_bars(FRAMES, ATTRIBUTES, wrong, tmp_path / "a.png", labels, top=2))
    assert words.split(" | ").count("✗") == 2  # female was seen, male was missed


def test_every_true_attribute_is_shown_however_improbable(tmp_path, monkeypatch):
    labels = np.zeros(len(ATTRIBUTES), np.uint8)
    labels[column("upperBodyVNeck")] = 1
    values = probabilities(upperBodyRed=0.8, upperBodyTshirt=0.7, upperBodyVNeck=0.01)
    bars = lambda truth: attribute_bars(FRAMES, ATTRIBUTES, values, tmp_path / "a.png", truth, top=1)  # noqa: E731
    assert "v neck" not in text_of(monkeypatch, lambda: bars(None))
    words = text_of(monkeypatch, lambda: bars(labels))
    assert all(name in words for name in ("v neck", "tshirt", "red"))


def test_columns_may_come_in_any_order_and_be_some(tmp_path, monkeypatch):
    names = ["carryingBackpack", "hairLong", "personalMale"]
    values = np.array([0.11, 0.22, 0.33])
    words = text_of(monkeypatch, lambda: attribute_bars(FRAMES, names, values, tmp_path / "a.png")).split(" | ")
    assert {"carrying backpack", "long", "male", "0.11", "0.22", "0.33"} <= set(words)
    assert "footwear" not in words


def test_names_are_readable_and_unique_within_a_group():
    for group, names in GROUPS.items():
        short = [attribute_words(name, group) for name in names]
        assert len(set(short)) == len(names)
        assert all(word and word == word.lower() for word in short)
    assert attribute_words("personalLess30", "personal") == "under 30"
    assert attribute_words("personalLarger60", "personal") == "over 60"


def test_a_comparison_highlights_disagreement_alone(tmp_path):
    same = AttributedTracklet("0001", FRAMES, probabilities(personalMale=0.9, hairShort=0.8))
    other = AttributedTracklet("0002", FRAMES, probabilities(personalMale=0.7, hairLong=0.8))
    assert painted(attribute_comparison(same, other, ATTRIBUTES, tmp_path / "differ.png"), HIGHLIGHT) > 1000
    assert not painted(attribute_comparison(same, same, ATTRIBUTES, tmp_path / "same.png"), HIGHLIGHT)


def test_a_short_comparison_keeps_the_disagreements_and_says_what_is_left_out(tmp_path, monkeypatch):
    query = AttributedTracklet("0001", FRAMES, probabilities(personalMale=0.99, hairShort=0.9, footwearShoes=0.95))
    answer = AttributedTracklet("0002", FRAMES, probabilities(personalMale=0.99, hairLong=0.6, footwearShoes=0.95))
    words = text_of(
        monkeypatch, lambda: attribute_comparison(query, answer, ATTRIBUTES, tmp_path / "short.png", top=2)
    ).split(" | ")
    assert {"≠ short", "≠ long", "2 of 105 attributes differ"} <= set(words)
    assert "male" not in words
    assert any("2 more" in word for word in words)


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_vector_formats_are_reproducible(tmp_path, suffix):
    first, second = (
        attribute_bars(FRAMES, ATTRIBUTES, probabilities(hairLong=0.9), tmp_path / f"{name}.{suffix}").read_bytes()
        for name in "ab"
    )
    assert first == second


def test_refused_input(tmp_path):
    path = tmp_path / "bars.png"
    good = probabilities()
    with pytest.raises(BadData, match="no frame"):
        attribute_bars([], ATTRIBUTES, good, path)
    with pytest.raises(BadData, match="none to draw"):
        attribute_bars(FRAMES, [], np.array([]), path)
    with pytest.raises(BadData, match="hat; shoe"):
        attribute_bars(FRAMES, ["hat", "hairLong", "shoe"], np.zeros(3), path)
    with pytest.raises(BadData, match=r"not all in \[0, 1\]"):
        attribute_bars(FRAMES, ATTRIBUTES, good + np.nan, path)
    with pytest.raises(BadData, match="not all 0 or 1"):
        attribute_bars(FRAMES, ATTRIBUTES, good, path, labels=good)
    with pytest.raises(ValueError, match="105 attributes need as many"):
        attribute_bars(FRAMES, ATTRIBUTES, good[:5], path)
    empty = AttributedTracklet("a", FRAMES, good)
    with pytest.raises(BadData, match="neither tracklet"):
        attribute_comparison(empty, empty, ATTRIBUTES, path)
    with pytest.raises(BadData, match=r"gone\.png \(not found\)"):
        attribute_bars([tmp_path / "gone.png"], ATTRIBUTES, good, path)
    with pytest.raises(UsageError, match=r"bars\.txt"):
        attribute_bars(FRAMES, ATTRIBUTES, good, tmp_path / "bars.txt")
    assert not path.exists()
