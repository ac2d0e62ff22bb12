"""Splits over people: drawn ones are keyed and disjoint, split files are checked, queries are the first camera."""

import pytest

from amem_cli.data.readers.splits import PeopleSplit, cross_camera_split, draw_splits, read_split_file
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import BadData

PEOPLE = [f"p{k:02d}" for k in range(11)]


def test_draw_splits_known_value():
    """Published results depend on these numbers."""
    assert draw_splits(PEOPLE, 2, 0.5, 0)[1].train == ("p00", "p02", "p03", "p04", "p06", "p08")


def test_draw_splits_do_not_depend_on_their_number():
    assert draw_splits(PEOPLE, 10, 0.5, 0)[:3] == draw_splits(reversed(PEOPLE), 3, 0.5, 0)
    assert len({split.train for split in draw_splits(PEOPLE, 10, 0.5, 0)}) == 10


@pytest.mark.parametrize(("fraction", "expected"), [(0.001, 1), (0.25, 3), (0.5, 6), (0.99, 10)])
def test_draw_splits_fraction(fraction, expected):
    (split,) = draw_splits(PEOPLE, 1, fraction, 0)
    assert len(split.train) == expected
    assert sorted((*split.train, *split.test)) == PEOPLE
    assert (sorted(split.train), sorted(split.test)) == (list(split.train), list(split.test))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[", "not a list"),
        ("[" * 100_000, "not a list"),
        ("{}", "not a list"),
        ("[]", "length >= 1"),
        ('[{"train": ["a"]}]', "missing required field `test`"),
        ('[{"train": ["a"], "test": ["b"], "val": ["c"]}]', "unknown field `val`"),
        ('[{"train": ["a"], "test": []}]', "length >= 1"),
        ('[{"train": ["a"], "test": [1]}]', "Expected `str`"),
        ('[{"train": ["a"], "test": ["b", "b"]}]', "split 0: 'b' is listed 2 times"),
        ('[{"train": ["a"], "test": ["b"]}, {"train": ["a", "b"], "test": ["b"]}]', "split 1: 'b' is listed 2"),
        ('[{"train": ["../../etc"], "test": ["b"]}]', "not a plain name"),
        ('[{"train": ["a\\u0000"], "test": ["b"]}]', "not a plain name"),
        ('[{"train": ["C:\\\\x"], "test": ["b"]}]', "not a plain name"),
        ("[" + '{"train": ["a"], "test": ["b"]},' * 1000 + '{"train": ["a"], "test": ["b"]}]', "1001 splits"),
    ],
)
def test_read_split_file_refuses(tmp_path, content, why):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(BadData, match=why):
        read_split_file(path)


def test_read_split_file_sorts(tmp_path):
    (tmp_path / "s.json").write_bytes(b'\xef\xbb\xbf[{"train": ["b", "a"], "test": ["d", "c"]}]')
    assert read_split_file(tmp_path / "s.json") == (PeopleSplit(("a", "b"), ("c", "d")),)


def test_cross_camera_split_roles():
    """Queries are all tracklets of the first camera, unless there is no other camera; distractors join the gallery."""

    def tracklets(person, *cameras):
        return [Tracklet(f"{person}{k}/{camera}", 1, camera, "", ()) for k, camera in enumerate(cameras)]

    of = {"a": tracklets("a", 1, 2), "b": tracklets("b", 2, 2, 3), "c": tracklets("c", 1), "d": tracklets("d", 1, 2)}
    split = cross_camera_split(of, PeopleSplit(("a",), ("b", "c")), ["d"], "here")
    assert [t.name for t in split.train] == ["a0/1", "a1/2"]
    assert [t.name for t in split.test] == ["b0/2", "b1/2", "b2/3", "c0/1", "d0/1", "d1/2"]
    assert split.is_query == (True, True, False, False, False, False)
    assert split.source == "here"
