"""The frames of clips: every frame once, reflection like NumPy's padding, starts within bounds."""

import numpy as np
import pytest

from amem_cli.data.clips import evenly_spaced, inference_clips, reflect, segment_clip, shortened, training_clip
from amem_cli.data.tracklets import Tracklet
from amem_cli.randomness import keyed_generator


def test_reflect_is_numpy_padding():
    for length in range(1, 8):
        expected = np.pad(np.arange(length), (0, 25), mode="reflect" if length > 1 else "edge")
        assert reflect(np.arange(length + 25), length).tolist() == expected.tolist()


def test_evenly_spaced_middles_of_equal_parts():
    assert evenly_spaced(range(90), 3) == [15, 45, 75]
    assert evenly_spaced(range(7), 1) == [3]
    assert evenly_spaced("ab", 6) == ["a", "b"]


@pytest.mark.parametrize("frames", [1, 2, 8, 16])
def test_inference_clips_cover_every_frame_once(frames):
    for length in range(1, 41):
        clips = inference_clips(length, frames)
        assert clips.shape == (-(-length // frames), frames)
        assert clips.dtype == np.int64
        flat = clips.reshape(-1)
        assert flat[:length].tolist() == list(range(length))
        assert flat.tolist() == reflect(np.arange(len(flat)), length).tolist()


@pytest.mark.parametrize(("length", "frames"), [(1, 4), (3, 8), (8, 8), (9, 8), (12, 8)])
def test_training_clip_consecutive_from_any_start(length, frames):
    starts = set()
    for draw in range(120):
        clip = training_clip(length, frames, keyed_generator(0, draw))
        assert clip.dtype == np.int64
        assert clip.tolist() == reflect(np.arange(clip[0], clip[0] + frames), length).tolist()
        starts.add(int(clip[0]))
    assert starts == set(range(max(1, length - frames + 1)))


def test_training_clip_known_draw():
    assert training_clip(900, 4, keyed_generator(0, "clip")).tolist() == [18, 19, 20, 21]


@pytest.mark.parametrize(("length", "frames"), [(1, 4), (3, 4), (4, 4), (10, 4), (920, 8)])
def test_segment_clip_one_frame_of_each_segment(length, frames):
    clips = np.stack([segment_clip(length, frames, keyed_generator(0, draw)) for draw in range(200)])
    assert clips.dtype == np.int64
    first = np.arange(frames) * length / frames
    assert (clips >= np.floor(first)).all()
    assert (clips < np.ceil(first + length / frames)).all()
    assert (np.diff(clips, axis=1) >= 0).all()
    if length == 10:
        assert set(clips[:, 0].tolist()) == {0, 1, 2}
        assert set(clips[:, 3].tolist()) == {7, 8, 9}


def test_segment_clip_rounding_at_the_end():
    class Largest:
        def random(self, count):
            return np.full(count, np.nextafter(1, 0))  # 7 + this is 8 in float64

    assert segment_clip(10, 8, Largest())[-1] == 9


@pytest.mark.parametrize(
    ("frames", "most", "files"),
    # the pieces in the middle of `most` equal sections: of the two full pieces both
    [(4, 2, "abcdefgh"), (2, 2, "cdgh"), (1, 3, "bfi"), (4, 1, "efgh"), (4, 3, "abcdefghij"), (2, 0, "abcdefghij")],
)
def test_shortened_pieces(frames, most, files):
    tracklet = Tracklet("t", 3, 2, "/nowhere", tuple("abcdefghij"))
    assert shortened(tracklet, frames, most) == Tracklet("t", 3, 2, "/nowhere", tuple(files))
