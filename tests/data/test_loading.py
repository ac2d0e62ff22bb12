"""Batches from disk: the same whoever makes them, one augmentation a clip, each file decoded once."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from amem_cli.data import loading
from amem_cli.data.clips import inference_clips
from amem_cli.data.loading import ClipBatches, FrameBatches, ImageBatches, loader, read_frames
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData

CPU = torch.device("cpu")
SIZE = (16, 8)


@pytest.fixture(scope="module")
def tracklets(tmp_path_factory: pytest.TempPathFactory) -> list[Tracklet]:
    """Three tracklets of 5, 9 and 12 frames; frame n of tracklet k is noise of its own, kept without loss."""
    root = tmp_path_factory.mktemp("frames")
    made = []
    for number, length in enumerate((5, 9, 12)):
        folder = root / str(number)
        folder.mkdir()
        for frame in range(length):
            noise = np.random.default_rng((number, frame)).integers(0, 256, (20, 10, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{frame:03d}.png")
        made.append(Tracklet(f"t{number}", number + 1, 1, str(folder), tuple(f"{n:03d}.png" for n in range(length))))
    return made


def clips(tracklets: list[Tracklet], batches: list[np.ndarray] | None = None, **changed: object) -> ClipBatches:
    how = {"clip_frames": 8, "predict_frames": 3, "flip": 0.5, "crop": 0.5, "seed": 0, "epoch": 0} | changed
    batches = [np.array([0, 1, 2]), np.array([2, 2, 1]), np.array([0, 0, 0])] if batches is None else batches
    return ClipBatches(tracklets, batches, SIZE, **how)  # type: ignore[arg-type]


def bytes_of(batches: object) -> list[bytes]:
    return [
        b"".join(t.numpy().tobytes() for t in (batch if isinstance(batch, tuple | list) else [batch]))
        for batch in batches
    ]


def datasets(tracklets: list[Tracklet]) -> dict[str, Dataset]:
    paths = [path for tracklet in tracklets for path in tracklet.frames]
    return {
        "images": ImageBatches(paths, np.split(np.arange(24), 6), SIZE, augment=(0, 1)),
        "clips": clips(tracklets),
        "frames": FrameBatches([[(tracklets[0], np.array([n]))] for n in range(4)], SIZE, single=True),
    }


@pytest.mark.parametrize("kind", ["images", "clips", "frames"])
def test_a_start_gives_the_later_batches_of_the_same_epoch(tracklets: list[Tracklet], kind: str) -> None:
    dataset = datasets(tracklets)[kind]
    every = bytes_of(loader(dataset, 0, CPU))
    assert len(every) == len(dataset) == len(set(every))
    for start in range(len(every) + 1):
        assert bytes_of(loader(dataset, 0, CPU, start=start)) == every[start:]


@pytest.mark.slow
def test_workers_make_the_same_bytes(tracklets: list[Tracklet]) -> None:
    for dataset in datasets(tracklets).values():
        assert bytes_of(loader(dataset, 2, CPU)) == bytes_of(loader(dataset, 0, CPU))


def test_a_cpu_takes_no_workers_of_itself(tracklets: list[Tracklet]) -> None:
    assert loader(clips(tracklets), -1, CPU).num_workers == 0
    assert 1 <= loader(clips(tracklets), -1, torch.device("cuda")).num_workers <= 8


# -- images ------------------------------------------------------------------------------------------------------------


def test_images_without_augmentation_are_the_files(tracklets: list[Tracklet]) -> None:
    paths = tracklets[1].frames
    pixels, indices = ImageBatches(paths, [np.array([3, 0])], SIZE, augment=None)[0]
    assert indices.tolist() == [3, 0]
    assert indices.dtype == torch.int64
    np.testing.assert_array_equal(pixels[0].numpy(), read_image(paths[3], *SIZE))


def test_augmentation_is_keyed_by_seed_epoch_and_image(tracklets: list[Tracklet]) -> None:
    paths = tracklets[1].frames

    def made(batch: list[int], *augment: int) -> torch.Tensor:
        return ImageBatches(paths, [np.array(batch)], SIZE, augment=augment)[0][0]

    assert torch.equal(made([3, 0], 0, 0)[0], made([5, 3], 0, 0)[1])  # wherever it stands
    variants = {made([3], seed, epoch).numpy().tobytes() for seed in range(4) for epoch in range(4)}
    assert len(variants) > 4


# -- clips -------------------------------------------------------------------------------------------------------------


def test_a_clip_batch_has_its_shape_and_indices(tracklets: list[Tracklet]) -> None:
    pixels, indices, starts = clips(tracklets)[1]
    assert pixels.shape == (3, 8, 16, 8, 3)
    assert pixels.dtype == torch.uint8
    assert indices.tolist() == [2, 2, 1]
    assert indices.dtype == starts.dtype == torch.int64


def test_the_same_flip_and_crop_for_all_frames_of_a_clip(tmp_path: Path) -> None:
    # all frames are one picture, so the augmented frames must be equal too
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (20, 10, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    still = Tracklet("still", 1, 1, str(tmp_path), ("a.png",) * 20)
    seen = set()
    for epoch in range(20):
        pixels, _, _ = clips([still], [np.array([0, 0])], epoch=epoch)[0]
        for clip in pixels:
            assert all(torch.equal(clip[0], frame) for frame in clip)
            seen.add(clip[0].numpy().tobytes())
    assert len(seen) > 10


def test_flips_mirror_the_width_and_keep_time(tracklets: list[Tracklet]) -> None:
    batches = [np.array([2, 1, 0])]
    plain, _, starts = clips(tracklets, batches, flip=0.0, crop=0.0)[0]
    mirrored, _, same_starts = clips(tracklets, batches, flip=1.0, crop=0.0)[0]
    assert torch.equal(plain.flip(3), mirrored)
    assert torch.equal(starts, same_starts)


def test_clips_are_keyed_by_seed_and_epoch(tracklets: list[Tracklet]) -> None:
    first = bytes_of([clips(tracklets)[0]])
    assert first == bytes_of([clips(tracklets)[0]])
    assert first != bytes_of([clips(tracklets, epoch=1)[0]])
    assert first != bytes_of([clips(tracklets, seed=1)[0]])


def test_a_tracklet_drawn_twice_gives_different_clips(tracklets: list[Tracklet]) -> None:
    pixels, _, _ = clips(tracklets, [np.array([2] * 6)])[0]
    assert len({clip.numpy().tobytes() for clip in pixels}) > 2


def test_clips_of_a_batch_do_not_depend_on_how_it_is_shared(tracklets: list[Tracklet]) -> None:
    whole, _, starts = clips(tracklets, [np.array([0, 0, 1, 1, 2, 2])])[0]
    shared, _, its_starts = clips(tracklets, [np.array([1, 1])])[0]  # another process's people
    assert torch.equal(whole[2:4], shared)
    assert torch.equal(starts[2:4], its_starts)


@pytest.mark.parametrize("frames", range(4, 12))
def test_start_frames_lie_strictly_between_0_and_t_minus_c(tracklets: list[Tracklet], frames: int) -> None:
    for predicted in range(1, frames - 1):
        dataset = clips(tracklets, [np.array([0] * 4)] * 40, clip_frames=frames, predict_frames=predicted, crop=0.0)
        dataset.tracklets = [Tracklet("one", 1, 1, tracklets[0].folder, tracklets[0].files[:1])]
        starts = {int(start) for step in range(40) for start in dataset[step][2]}
        assert starts == set(range(1, frames - predicted))  # every allowed one occurs


# -- frames ------------------------------------------------------------------------------------------------------------


def test_each_file_is_decoded_once(tracklets: list[Tracklet], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[str] = Counter()

    def counting(path: Path, *size: int, **how: object) -> np.ndarray:
        decoded[path.name] += 1
        return read_image(path, *size, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "read_image", counting)
    indices = inference_clips(5, 8)[0]
    found = read_frames(tracklets[0], indices, SIZE)
    assert indices.tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert set(decoded.values()) == {1}
    assert len(decoded) == 5
    for position, frame in enumerate(indices.tolist()):
        np.testing.assert_array_equal(found[position], read_image(tracklets[0].frames[frame], *SIZE))


def test_frame_batches_keep_the_time_axis_for_clips_alone(tracklets: list[Tracklet]) -> None:
    pairs = [(tracklets[1], np.array([4])), (tracklets[2], np.array([0]))]
    single = FrameBatches([pairs], SIZE, single=True)[0]
    assert single.shape == (2, 16, 8, 3)
    np.testing.assert_array_equal(single[0].numpy(), read_image(tracklets[1].frames[4], *SIZE))
    pairs = [(tracklets[1], np.arange(8)), (tracklets[2], np.arange(4, 12))]
    assert FrameBatches([pairs], SIZE, single=False)[0].shape == (2, 8, 16, 8, 3)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_bad_file_is_named_whoever_reads_it(tracklets: list[Tracklet], tmp_path: Path, workers: int) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = Tracklet("bad", 1, 1, str(tmp_path), ("bad.png",) * 8)
    batches = iter(loader(clips([*tracklets, bad], [np.array([0]), np.array([3])]), workers, CPU))
    assert len(next(batches)) == 3  # the good batch before it comes through
    with pytest.raises(BadData, match=r"bad\.png.*cannot be decoded") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


KILLED = """
import os, sys, time
import numpy as np
import torch
from amem_cli.data.loading import loader

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, step):
        time.sleep(0.05)
        return os.getpid()

if __name__ == "__main__":
    for process in loader(Slow(), 1, torch.device("cpu")):
        print(process, flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_workers_of_a_killed_run_end_too(tmp_path: Path) -> None:
    """Its parent is the fork server, which torch's own watchdog looks at and which outlives a kill -9."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    main = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = int(main.stdout.readline())  # type: ignore[union-attr]
    os.kill(worker, 0)
    main.kill()
    main.wait()
    main.stdout.close()  # type: ignore[union-attr]  # not read to its end, which an orphan would hold open
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, 9)
    pytest.fail("the worker lives on")


@pytest.mark.parametrize("count", range(1, 40))
@pytest.mark.parametrize("most", [1, 3, 8])
def test_even_batches_hold_everything_once_and_leave_no_lonely_item(count: int, most: int) -> None:
    from amem_cli.data.loading import even_batches

    batches = even_batches(count, most)
    assert np.concatenate(batches).tolist() == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    if most > 2 and count > 1:
        assert min(sizes) > 1
