"""Which frames make a clip: every frame covered, reflection as NumPy pads, starts within bounds."""

import numpy as np
import pytest

from amem_cli.data.clips import inference_clips, reflect, training_clip
from amem_cli.randomness import keyed_generator


@pytest.mark.parametrize("length", range(1, 41))
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 8, 16])
def test_inference_clips_cover_every_frame(length: int, frames: int) -> None:
    clips = inference_clips(length, frames)
    assert clips.shape == (-(-length // frames), frames)
    assert clips.dtype == np.int64
    flat = clips.reshape(-1)
    assert flat[:length].tolist() == list(range(length))  # in order, each once, before the filling begins
    assert flat.min() >= 0
    assert flat.max() < length
    if length > 1:
        assert (np.abs(np.diff(flat)) == 1).all()  # the filling walks on without a jump or a halt


@pytest.mark.parametrize("length", range(1, 12))
@pytest.mark.parametrize("more", range(0, 30, 3))
def test_reflect_is_numpy_s_padding(length: int, more: int) -> None:
    # NumPy has nothing to reflect in a single frame
    expected = np.pad(np.arange(length), (0, more), mode="reflect" if length > 1 else "edge")
    assert reflect(np.arange(length + more), length).tolist() == expected.tolist()


@pytest.mark.parametrize("length", range(1, 25))
@pytest.mark.parametrize("frames", [4, 8])
def test_training_clips_are_consecutive_and_start_anywhere(length: int, frames: int) -> None:
    starts = set()
    for draw in range(400):
        clip = training_clip(length, frames, keyed_generator(0, draw))
        assert clip.shape == (frames,)
        assert clip.dtype == np.int64
        if length >= frames:
            assert clip.tolist() == list(range(clip[0], clip[0] + frames))
            assert clip[-1] < length
        else:
            assert clip.tolist() == reflect(np.arange(frames), length).tolist()
        starts.add(int(clip[0]))
    assert starts == set(range(max(1, length - frames + 1)))


def test_a_training_clip_depends_on_the_generator_alone() -> None:
    one, again, other = (training_clip(900, 8, keyed_generator(seed, "clip")) for seed in (0, 0, 1))
    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()
