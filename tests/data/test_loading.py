"""Batches from disk: independent of workers and processes, one augmentation per clip, each file decoded once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from amem_cli.data import loading
from amem_cli.data.clips import inference_clips, segment_clip, training_clip
from amem_cli.data.loading import (
    Batches,
    ClipBatches,
    FrameBatches,
    ImageBatches,
    even_batches,
    loader,
    middle_clip,
    read_frames,
    shuffled_images,
    training_loader,
)
from amem_cli.data.sampling import shuffled_batches
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData, UsageError
from amem_cli.options import DataOptions, TrainAmemOptions, TrainArmOptions

CPU = torch.device("cpu")
SIZE = (32, 32)


@pytest.fixture(scope="module")
def tracklets(tmp_path_factory):
    """Three tracklets of 5, 9 and 12 frames; every frame is other noise, stored without loss at `SIZE`."""
    root = tmp_path_factory.mktemp("frames")
    made = []
    for number, length in enumerate((5, 9, 12)):
        (root / str(number)).mkdir()
        files = tuple(f"{frame:03d}.png" for frame in range(length))
        for frame, file in enumerate(files):
            noise = np.random.default_rng((number, frame)).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / str(number) / file)
        made.append(Tracklet(f"t{number}", number + 1, 1, str(root / str(number)), files))
    return made


def clips(
    tracklets,
    batches: Sequence[list[int]] = ([0, 1, 2], [2, 2, 1], [0, 0, 0]),
    epoch: int = 0,
    **changed: Any,
) -> ClipBatches:
    options = TrainAmemOptions(image_size="32x32", **changed)
    return ClipBatches(tracklets, [np.array(batch) for batch in batches], options, epoch)


def bytes_of(batches: object) -> list[bytes]:
    return [
        b"".join(t.numpy().tobytes() for t in (batch if isinstance(batch, tuple | list) else [batch]))
        for batch in batches
    ]


def datasets(tracklets) -> list[Dataset]:
    paths = [path for tracklet in tracklets for path in tracklet.frames]
    return [
        ImageBatches(paths, np.split(np.arange(24), 6), SIZE, augment=(0, 1)),
        clips(tracklets),
        FrameBatches([[(tracklets[0], np.array([n]))] for n in range(4)], SIZE, single=True),
    ]


def test_loader_gives_every_batch(tracklets):
    for dataset in datasets(tracklets):
        every = bytes_of(loader(dataset, 0, CPU))
        assert len(every) == len(dataset) == len(set(every))
        assert every == bytes_of(dataset)


class Places(Batches):
    """Epoch e has e + 1 batches; each is (e, step, process)."""

    def __init__(self, epoch: int):
        self.epoch, self.batches = epoch, range(epoch + 1)

    def __getitem__(self, step: int) -> tuple[int, int, int]:
        return self.epoch, self.batches[step], os.getpid()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_training_loader_starts_anywhere_and_keeps_its_processes(workers):
    every = [(epoch, step) for epoch in range(4) for step in range(epoch + 1)]
    for start in ((0, 0), (1, 1), (2, 0), (2, 3), (4, 0)):
        made = list(training_loader(Places, 4, workers, CPU, start))
        assert [(epoch, step) for epoch, step, _ in made] == [place for place in every if place >= start]
        processes = {process for *_, process in made}
        assert len(processes) <= max(1, workers)
        assert (os.getpid() in processes) == (not workers and bool(made))


def test_training_loader_makes_an_epoch_once():
    asked = []
    list(training_loader(lambda epoch: asked.append(epoch) or Places(epoch), 3, 0, CPU))
    assert asked == [0, 1, 2]


def test_shuffled_images_are_the_shards_of_each_epoch(tracklets):
    paths = [path for tracklet in tracklets for path in tracklet.frames]
    options = TrainArmOptions(batch_size=4, image_size="48x32", seed=3)
    rows = np.arange(2, 16)
    for epoch in (0, 1):
        parts = [shuffled_images(paths, rows, options, lambda items, n=n: items[n::2], epoch) for n in (0, 1)]
        order = shuffled_batches(14, 4, 3, epoch)
        assert [part.augment for part in parts] == [(3, epoch)] * 2
        for part in parts:
            assert (part.paths, part.size, len(part)) == (paths, (48, 32), 3)
        for batch, *shards in zip(order, *(part.batches for part in parts), strict=True):
            assert [shard.tolist() for shard in shards] == [(batch[n::2] + 2).tolist() for n in (0, 1)]


@pytest.mark.slow
def test_loader_workers_make_the_same_bytes(tracklets):
    for dataset in datasets(tracklets):
        assert bytes_of(loader(dataset, 2, CPU)) == bytes_of(loader(dataset, 0, CPU))


def test_loader_workers_and_pinned_memory(tracklets, monkeypatch):
    made: dict[str, Any] = {}
    monkeypatch.setattr(loading, "DataLoader", lambda _, **options: made.update(options) or ())
    for workers, device, expected in ((-1, "cpu", 0), (-1, "cuda", min(8, os.cpu_count() or 1)), (0, "cuda", 0)):
        list(loader(clips(tracklets), workers, torch.device(device)))
        assert (made["num_workers"], made["pin_memory"]) == (expected, device == "cuda")


def test_no_loader_processes_on_windows(monkeypatch):
    monkeypatch.delattr(signal, "pthread_sigmask")
    assert loading.default_workers("cuda") == 0
    assert DataOptions(workers=0).workers == 0
    with pytest.raises(UsageError, match=r"--workers 2: Windows has no fork server, .*Use --workers 0"):
        DataOptions(workers=2)


def test_image_batches_without_augmentation(tracklets):
    paths = tracklets[1].frames
    pixels, indices = ImageBatches(paths, [np.array([3, 0])], SIZE, augment=None)[0]
    assert (indices.tolist(), indices.dtype) == ([3, 0], torch.int64)
    np.testing.assert_array_equal(pixels[0].numpy(), read_image(paths[3], *SIZE))


def test_image_batches_mirror_and_crop_half(tracklets):
    paths = tracklets[0].frames[:1]
    plain = read_image(paths[0], *SIZE)
    kinds: Counter[str] = Counter()
    for epoch in range(400):
        image = ImageBatches(paths, [np.array([0])], SIZE, augment=(0, epoch))[0][0][0].numpy()
        kinds["plain" if (image == plain).all() else "mirrored" if (image == plain[:, ::-1]).all() else "cropped"] += 1
    assert kinds["plain"] == pytest.approx(100, abs=30)
    assert kinds["mirrored"] == pytest.approx(100, abs=30)
    assert kinds["cropped"] == pytest.approx(200, abs=35)


def test_image_batches_are_keyed_by_seed_epoch_and_image(tracklets):
    def made(batch: list[int], *augment: int) -> torch.Tensor:
        return ImageBatches(tracklets[1].frames, [np.array(batch)], SIZE, augment=augment)[0][0]

    assert torch.equal(made([3, 0], 0, 0)[0], made([5, 3], 0, 0)[1])  # at any place
    assert len({made([3], seed, 0).numpy().tobytes() for seed in range(9)}) > 3
    assert len({made([3], 0, epoch).numpy().tobytes() for epoch in range(9)}) > 3


def test_clip_batches_mirror_all_frames_with_the_probability(tracklets):
    one = [Tracklet("t", 1, 1, tracklets[2].folder, tracklets[2].files[:4])]  # 4 frames: only one clip
    plain = torch.from_numpy(read_frames(one[0], np.arange(4), SIZE))
    mirrored = 0
    for epoch in range(50):
        for clip in clips(one, [[0] * 8], clip_frames=4, predict_frames=1, flip=0.3, crop=0.0, epoch=epoch)[0][0]:
            if not torch.equal(clip, plain):
                assert torch.equal(clip, plain.flip(2))  # the width of every frame, and not the time
                mirrored += 1
    assert mirrored / 400 == pytest.approx(0.3, abs=0.07)


def test_clip_batches_crop_all_frames_alike_with_the_probability(tracklets):
    still = [Tracklet("still", 1, 1, tracklets[0].folder, tracklets[0].files[:1] * 6)]  # one picture in all frames
    plain = torch.tensor(read_image(still[0].frames[0], *SIZE))
    cropped = set()
    kinds: Counter[bool] = Counter()
    for epoch in range(50):
        for clip in clips(still, [[0] * 8], clip_frames=4, predict_frames=1, flip=0.0, crop=0.3, epoch=epoch)[0][0]:
            assert all(torch.equal(clip[0], frame) for frame in clip)
            kinds[torch.equal(clip[0], plain)] += 1
            cropped.add(clip[0].numpy().tobytes())
    assert kinds[False] / 400 == pytest.approx(0.3, abs=0.07)
    assert len(cropped) > 50


def test_clip_batches_are_keyed(tracklets):
    first = bytes_of([clips(tracklets)[0]])
    assert first == bytes_of([clips(tracklets)[0]])
    assert first != bytes_of([clips(tracklets, epoch=1)[0]])
    assert first != bytes_of([clips(tracklets, seed=1)[0]])
    repeated = clips(tracklets, [[2] * 6] * 2)
    assert len({clip.numpy().tobytes() for clip in repeated[0][0]}) > 2  # a tracklet drawn again gives another clip
    assert bytes_of([repeated[0]]) != bytes_of([repeated[1]])


def test_clip_batches_shapes_and_known_start_frames(tracklets):
    """Published results depend on these draws."""
    pixels, indices, starts, _ = clips(tracklets)[1]
    assert (pixels.shape, pixels.dtype) == ((3, 8, *SIZE, 3), torch.uint8)
    assert indices.dtype == starts.dtype == torch.int64
    assert (indices.tolist(), starts.tolist()) == ([2, 2, 1], [1, 2, 2])


def test_clip_batches_do_not_depend_on_sharing(tracklets):
    expected, _, starts, erased = clips(tracklets, [[0, 0, 1, 1, 2, 2]], erase=0.5)[0]
    shared, _, its_starts, its_erased = clips(tracklets, [[1, 1]], erase=0.5)[0]  # another process's people
    assert torch.equal(expected[2:4], shared)
    assert torch.equal(starts[2:4], its_starts)
    assert torch.equal(erased[2:4], its_erased)


@pytest.mark.parametrize(("frames", "predicted"), [(4, 1), (4, 2), (8, 3), (8, 6)])
def test_clip_batches_start_frames(tracklets, frames: int, predicted: int):
    one = [Tracklet("one", 1, 1, tracklets[0].folder, tracklets[0].files[:1])]
    dataset = clips(one, [[0] * 100], clip_frames=frames, predict_frames=predicted, crop=0.0)
    allowed = {t for t in range(frames) if 0 < t < frames - predicted}
    assert set(dataset[0][2].tolist()) == allowed


def test_clip_batches_options_of_train_amem(tracklets):
    """A stride of MEM, clips from segments, and colours."""
    strided = clips(tracklets, [[0] * 100], predict_frames=2, predict_stride=3)
    assert set(strided[0][2].tolist()) == {1}  # 0 < t < T - 6 = 2
    free = clips(tracklets, [[0] * 100], modules="baseline")
    assert set(free[0][2].tolist()) == set(range(1, 7))
    assert free.clip_of is training_clip
    assert clips(tracklets, modules="baseline", clip_sampling="segments").clip_of is segment_clip
    with pytest.raises(UsageError, match="MEM needs consecutive frames"):
        clips(tracklets, clip_sampling="segments")
    assert bytes_of([clips(tracklets, jitter=0.5)[0]]) != bytes_of([clips(tracklets)[0]])
    assert (clips(tracklets, erase=1.0)[0][3][:, 2:] > 0).all()
    assert (clips(tracklets)[0][3] == 0).all()


def test_read_frames_decodes_each_file_once(tracklets, monkeypatch):
    decoded: Counter[str] = Counter()

    def counting(path: Path, *size: int, **how: object) -> np.ndarray:
        decoded[path.name] += 1
        return read_image(path, *size, **how)

    monkeypatch.setattr(loading, "read_image", counting)
    found = read_frames(tracklets[0], inference_clips(5, 8)[0], SIZE)
    assert decoded == {f"{frame:03d}.png": 1 for frame in range(5)}
    for position, frame in enumerate([0, 1, 2, 3, 4, 3, 2, 1]):
        np.testing.assert_array_equal(found[position], read_image(tracklets[0].frames[frame], *SIZE))


@pytest.mark.parametrize(
    ("number", "frames", "expected"),
    [(2, 8, range(2, 10)), (1, 4, range(2, 6)), (1, 9, range(9)), (0, 8, (0, 1, 2, 3, 4, 3, 2, 1))],
)
def test_middle_clip(tracklets, number: int, frames: int, expected: Sequence[int]):
    clip = middle_clip(tracklets[number], frames, SIZE)
    np.testing.assert_array_equal(clip, read_frames(tracklets[number], np.array(expected), SIZE))


def test_frame_batches(tracklets):
    pairs = [(tracklets[1], np.array([4])), (tracklets[2], np.array([0]))]
    single = FrameBatches([pairs], SIZE, single=True)[0]
    assert single.shape == (2, *SIZE, 3)
    np.testing.assert_array_equal(single[0].numpy(), read_image(tracklets[1].frames[4], *SIZE))
    pairs = [(tracklets[1], np.arange(8)), (tracklets[2], np.arange(4, 12))]
    assert FrameBatches([pairs], SIZE, single=False)[0].shape == (2, 8, *SIZE, 3)


@pytest.mark.parametrize(("count", "most"), [(1, 3), (7, 3), (8, 3), (9, 3), (39, 8), (2, 1)])
def test_even_batches(count: int, most: int):
    batches = even_batches(count, most)
    assert np.concatenate(batches).tolist() == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert len(batches) == -(-count // most)
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_loader_names_a_bad_file(tracklets, tmp_path, workers: int):
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = Tracklet("bad", 1, 1, str(tmp_path), ("bad.png",) * 8)
    batches = iter(loader(clips([*tracklets, bad], [[0], [3]]), workers, CPU))
    assert len(next(batches)) == 4  # the good batch before it
    with pytest.raises(BadData, match=r"bad\.png.*cannot be decoded.*Replace it") as caught:
        next(batches)
    assert "\n" not in str(caught.value)
    assert not loading._WORKERS.intersection(multiprocessing.active_children())  # the error does not keep them


KILLED = """
import os, time
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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells which signals a process blocks")
def test_fork_server_and_tracker_ignore_a_closed_terminal():
    script = """from multiprocessing import forkserver, resource_tracker
from amem_cli.data import loading
loading._start_fork_server()
for pid in ("self", resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid):
    print(int(open(f"/proc/{pid}/status").read().partition("SigBlk:")[2].split()[0], 16) & 1)"""  # SIGHUP is 1
    assert subprocess.check_output([sys.executable, "-c", script], text=True).split() == ["0", "1", "1"]


@pytest.mark.slow
def test_loader_workers_end_with_a_killed_run(tmp_path):
    """The parent of a worker is the fork server, which continues after a kill -9 of the run."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    main = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    worker = int(main.stdout.readline())
    main.kill()
    main.wait()
    main.stdout.close()  # not read to its end, because an orphan would keep it open
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(worker, 9)
    pytest.fail("the worker did not end")


LEFT = """
import torch
from amem_cli.data.loading import loader

def train():
    numbers = loader(range(100), 2, torch.device("cpu"))
    for number in numbers:
        raise ValueError("the loss is not finite")

if __name__ == "__main__":
    train()
"""


@pytest.mark.slow
def test_loader_workers_end_with_a_script_that_fails(tmp_path):
    """The traceback keeps the loop, and with it the workers, to the end."""
    script = tmp_path / "left.py"
    script.write_text(LEFT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: the loss is not finite\n")


def test_begin_worker_uses_one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        loading._begin_worker(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
