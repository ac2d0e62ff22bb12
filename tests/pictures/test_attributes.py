"""Attribute bars and comparisons: content, colours, rejected input."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from amem_cli.attributes import ATTRIBUTES, GROUPS
from amem_cli.errors import BadData
from amem_cli.pictures.attributes import (
    AttributedTracklet,
    attribute_words,
    attributes_figure,
    compared_attributes,
    comparison_figure,
)
from amem_cli.pictures.style import ABSENT, HIGHLIGHT, PRESENT


@pytest.fixture
def tracklet(tmp_path):
    """Makes a tracklet with 0.1 for all attributes but those given."""
    Image.new("RGB", (8, 16), "red").save(tmp_path / "frame.png")

    def make(**present: float) -> AttributedTracklet:
        values = np.full(len(ATTRIBUTES), 0.1)
        for name, value in present.items():
            values[ATTRIBUTES.index(name)] = value
        return AttributedTracklet("0001", [tmp_path / "frame.png"] * 9, values)

    return make


def words_of(figure) -> set[str]:
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


def colours_of(axes) -> list[str]:
    return [to_hex(bar.get_facecolor()) for bar in axes.patches]


def test_attributes_figure_bars(tracklet):
    figure = attributes_figure(tracklet(personalMale=0.9, personalFemale=0.5), ATTRIBUTES, top=3)
    _, personal, *others = figure.axes
    assert [label.get_text() for label in personal.get_yticklabels()][:2] == ["male", "female"]
    assert [bar.get_width() for bar in personal.patches] == pytest.approx([0.9, 0.5, 0.1])
    assert colours_of(personal) == [PRESENT, ABSENT, ABSENT]  # a label is 1 above 0.5, not at it
    assert len(others) == 5
    assert all(len(axes.patches) == 3 for axes in others)


def test_attributes_figure_some_columns_in_any_order(tracklet):
    some = AttributedTracklet("a", tracklet().frames, np.array([0.11, 0.22, 0.33]))
    words = words_of(attributes_figure(some, ["carryingBackpack", "hairLong", "personalMale"]))
    assert {"carrying backpack", "long", "male", "0.11", "0.22", "0.33"} <= words
    assert "footwear" not in words
    with pytest.raises(BadData, match="hat; shoe"):
        attributes_figure(some, ["hat", "hairLong", "shoe"])


def test_attribute_words_unique_within_a_group():
    for group, names in GROUPS.items():
        short = [attribute_words(name, group) for name in names]
        assert len(set(short)) == len(names)
        assert all(word and word == word.lower() for word in short)
    assert attribute_words("personalLess30", "personal") == "under 30"
    assert attribute_words("personalLarger60", "personal") == "over 60"


def test_comparison_figure_highlights_disagreement(tracklet):
    query = tracklet(personalMale=0.9, hairShort=0.8)
    figure = comparison_figure(query, tracklet(personalMale=0.7, hairLong=0.8), ATTRIBUTES)
    assert {"≠ short", "≠ long", "male", "2 of 105 attributes differ"} <= words_of(figure)
    assert colours_of(figure.axes[2]) == [HIGHLIGHT] * 2
    same = comparison_figure(query, query, ATTRIBUTES)
    assert HIGHLIGHT not in colours_of(same.axes[2])


def test_compared_attributes_disagreements_first(tracklet):
    left = tracklet(personalMale=0.99, hairShort=0.9, footwearShoes=0.95).probabilities
    right = tracklet(personalMale=0.99, hairLong=0.6, footwearShoes=0.95).probabilities
    lines, left_out = compared_attributes(ATTRIBUTES, left, right, top=2)
    columns = [None if column is None else ATTRIBUTES[column] for _, column in lines]
    assert (columns, left_out) == ([None, "hairShort", "hairLong"], 2)
    lines, left_out = compared_attributes(ATTRIBUTES, left, right, top=3)
    assert ("personal", ATTRIBUTES.index("personalMale")) in lines  # then the most probable
    with pytest.raises(BadData, match="neither tracklet"):
        compared_attributes(ATTRIBUTES, left * 0, right * 0, 3)
