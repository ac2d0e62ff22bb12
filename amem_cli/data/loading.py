"""Batches from disk. An item of a data set here is a complete batch, so any worker can make it, in any order."""

import atexit
import multiprocessing
import signal
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from amem_cli.data.clips import reflect, segment_clip, training_clip
from amem_cli.data.sampling import shuffled_batches
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.transforms import FULL_IMAGE, Box, jitter_pixels, random_box, random_rectangle, read_image
from amem_cli.errors import AmemError
from amem_cli.options import TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.processes import affinity, end_with_main, has_loader_processes
from amem_cli.randomness import keyed_generator


class Batches(Dataset):
    """The batches of a data set: item `step` is one of them."""

    batches: Sequence[Any]

    def __len__(self) -> int:
        return len(self.batches)


class ImageBatches(Batches):
    """Training batches of single images: item `step` is (uint8 (B, H, W, 3), image indices (B,) int64). With `augment`,
    (seed, epoch), half of the images are mirrored and half cropped, keyed by both and the index."""

    def __init__(
        self, paths: Sequence[Path], batches: list[np.ndarray], size: tuple[int, int], augment: tuple[int, int] | None
    ):
        self.paths, self.batches, self.size, self.augment = paths, batches, size, augment

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self.batches[step]
        images = np.stack([self._image(int(index)) for index in batch])
        return torch.from_numpy(images), torch.from_numpy(np.asarray(batch, dtype=np.int64))

    def _image(self, index: int) -> np.ndarray:
        if self.augment is None:
            return read_image(self.paths[index], *self.size)
        generator = keyed_generator(*self.augment, "image", index)
        image = read_image(self.paths[index], *self.size, box=random_box(0.5, generator))
        return image[:, ::-1] if generator.random() < 0.5 else image


def shuffled_images(
    paths: Sequence[Path],
    rows: np.ndarray,
    options: TrainArmOptions | TrainTaeOptions,
    shard: Callable[[Sequence[int]], Sequence[int]],
    epoch: int,
) -> ImageBatches:
    """The batches of an epoch: of the images `rows`, in the epoch's order, those that `shard` gives this process."""
    order = shuffled_batches(len(rows), options.batch_size, options.seed, epoch)
    shards = [np.asarray(shard(rows[batch])) for batch in order]
    return ImageBatches(paths, shards, options.height_width, augment=(options.seed, epoch))


class ClipBatches(Batches):
    """Training batches of clips in an epoch of train-amem: item `step` is (uint8 (B, T, H, W, 3), tracklet indices
    (B,), MEM's start t (B,), rectangles (B, 4) for `AMEM` to erase).

    All frames of a clip are changed alike. The start frame satisfies 0 < t < T - c, or T - sc with `predict_stride` s.
    The draws are keyed by (seed, epoch, step, tracklet, number of its earlier clips in the batch), so they do not
    depend on how a batch is divided among processes.
    """

    def __init__(
        self, tracklets: Sequence[Tracklet], batches: Sequence[np.ndarray], options: TrainAmemOptions, epoch: int
    ):
        self.tracklets, self.batches, self.options, self.epoch = tracklets, batches, options, epoch
        self.size = options.height_width
        self.clip_of = segment_clip if options.clip_sampling == "segments" else training_clip
        self.frames_after_start = options.predict_frames * options.predict_stride if options.uses_mem else 1

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, options = self.batches[step], self.options
        clips, starts, erased = [], [], []
        before: Counter[int] = Counter()
        for index in batch.tolist():
            tracklet = self.tracklets[index]
            generator = keyed_generator(options.seed, self.epoch, "clip", step, index, before[index])
            before[index] += 1
            frames = self.clip_of(len(tracklet), options.clip_frames, generator)
            box = random_box(options.crop, generator)
            clip = read_frames(tracklet, frames, self.size, box)
            clip = clip[:, :, ::-1] if generator.random() < options.flip else clip
            if options.jitter:
                clip = jitter_pixels(clip, options.jitter, generator)
            clips.append(clip)
            starts.append(generator.integers(1, max(2, options.clip_frames - self.frames_after_start)))
            erased.append(random_rectangle(*self.size, options.erase, generator))
        return torch.from_numpy(np.stack(clips)), torch.from_numpy(batch), torch.tensor(starts), torch.tensor(erased)


class FrameBatches(Batches):
    """Inference batches: item `step` is uint8 (B, H, W, 3) frames, or (B, T, H, W, 3) clips. `batches` hold (tracklet,
    frame indices) pairs; `single` frames have one index each and no T axis."""

    def __init__(self, batches: Sequence[Sequence[tuple[Tracklet, np.ndarray]]], size: tuple[int, int], single: bool):
        self.batches, self.size, self.single = batches, size, single

    def __getitem__(self, step: int) -> torch.Tensor:
        frames = [read_frames(tracklet, indices, self.size) for tracklet, indices in self.batches[step]]
        return torch.from_numpy(np.concatenate(frames) if self.single else np.stack(frames))


def even_batches(count: int, most: int) -> list[np.ndarray]:
    """0 ... count-1 in consecutive batches of up to `most`, as even as possible.

    A 3-D convolution on one clip takes a CPU about twice as long per clip as on several, so batches of one are avoided.

    >>> [batch.tolist() for batch in even_batches(7, 3)]
    [[0, 1, 2], [3, 4], [5, 6]]
    """
    return np.array_split(np.arange(count), max(1, -(-count // most)))


def read_frames(tracklet: Tracklet, indices: np.ndarray, size: tuple[int, int], box: Box = FULL_IMAGE) -> np.ndarray:
    """The frames at `indices` (T,) as uint8 (T, H, W, 3); each file is decoded once even if it occurs several times."""
    unique, where = np.unique(indices, return_inverse=True)
    images = [read_image(Path(tracklet.folder, tracklet.files[index]), *size, box=box) for index in unique.tolist()]
    return np.stack(images)[where]


def middle_clip(tracklet: Tracklet, frames: int, size: tuple[int, int]) -> np.ndarray:
    """The `frames` frames in the middle of a tracklet, (T, H, W, 3) uint8; a short tracklet is reflected."""
    first = max(0, (len(tracklet) - frames) // 2)
    return read_frames(tracklet, reflect(np.arange(first, first + frames), len(tracklet)), size)


# ---- workers --------------------------------------------------------------------------------------------------------


class _Epochs:
    """Makes the batch at a place (epoch, step)."""

    def __init__(self, epoch_of: Callable[[int], Batches]):
        self.epoch_of, self.epoch, self.batches = epoch_of, -1, Batches()

    def __call__(self, place: tuple[int, int]) -> Any:
        epoch, step = place
        return self.batches_of(epoch)[step]

    def batches_of(self, epoch: int) -> Batches:
        """The batches of an epoch; they are kept until another epoch is asked for."""
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self.epoch_of(epoch)
        return self.batches


_WORKERS: weakref.WeakSet[Any] = weakref.WeakSet()  # processes


class _Places(Dataset):
    """An item is its own place, so that the loader's processes get the places where batches are to be made."""

    def __getitem__(self, place: Any) -> Any:
        return place


def loader(dataset: Batches, workers: int, device: torch.device) -> Iterator[Any]:
    """The batches of `dataset`, in order, made by `workers` processes.

    -1 workers means none on a CPU, where the network uses every core and decoding takes about 2 % of the time, and up
    to 8 on CUDA. An `AmemError` in a worker is raised here, in place of its batch.
    """
    return _load(dataset.__getitem__, range(len(dataset)), workers, device)


def training_loader(
    epoch_of: Callable[[int], Batches], epochs: int, workers: int, device: torch.device, start: tuple[int, int] = (0, 0)
) -> Iterator[Any]:
    """The batches of all epochs up to `epochs`, from `start` (epoch, step) on, made as by `loader`.

    The same processes make them to the end, because starting 8 takes as long as ten steps on a GPU, and more where the
    user's script imports much. `epoch_of` gives the batches of an epoch; each process calls it, so it is picklable.
    """
    making, (first, step) = _Epochs(epoch_of), start
    places = (
        (epoch, number)
        for epoch in range(first, epochs)
        for number in range(step if epoch == first else 0, len(making.batches_of(epoch)))
    )
    return _load(making, places, workers, device)


def _load(make: Callable[[Any], Any], places: Iterable[Any], workers: int, device: torch.device) -> Iterator[Any]:
    """What `make` gives for each of the places."""
    if workers < 0:
        workers = default_workers(device.type)
    if workers:
        _start_fork_server()
    batches: DataLoader[Any] = DataLoader(
        _Places(),
        batch_size=None,
        sampler=places,
        collate_fn=partial(_batch_or_error, make),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_begin_worker if workers else None,
        multiprocessing_context="forkserver" if workers else None,
    )
    for batch in _started(batches):  # not a variable, which the traceback of an error would keep
        if isinstance(batch, partial):
            raise batch()
        yield batch


def _started(batches: DataLoader[Any]) -> Iterator[Any]:
    """The iterator of a loader, whose processes are remembered."""
    before, iterator = set(multiprocessing.active_children()), iter(batches)
    _WORKERS.update(set(multiprocessing.active_children()) - before)
    return iterator


def default_workers(device: str) -> int:
    """The processes of `--workers -1` for a kind of device, "cpu" or "cuda"."""
    return min(8, affinity()) if device == "cuda" and has_loader_processes() else 0


def _batch_or_error(make: Callable[[Any], Any], place: Any) -> Any:
    """The batch, or what makes the `AmemError` instead of it: torch would turn that into a `RuntimeError`."""
    try:
        return make(place)
    except AmemError as error:
        return partial(type(error), error.what, error.path, why=error.why, remedy=error.remedy)


def _start_fork_server() -> None:
    """Start the process that loader workers are forked from, unless it runs; it imports torch once for all of them.

    It, the workers and the tracker of shared memory ignore SIGINT, SIGTERM and SIGHUP, which a terminal, a batch queue
    and torchrun send to every process: the main process needs their next batch to finish its step, and then ends the
    workers.
    """
    atexit.unregister(_kill_workers)
    atexit.register(_kill_workers)
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))  # the tracker ignores the others by itself
    try:
        resource_tracker.ensure_running()  # otherwise the fork server starts it and unblocks the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        forkserver.ensure_running()  # inherits the mask, as do its children
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_workers() -> None:
    """End the workers of a loop that an error has left: its traceback keeps them, and SIGTERM, which multiprocessing
    sends at exit, does not reach them."""
    for process in _WORKERS.intersection(multiprocessing.active_children()):
        process.kill()


def _begin_worker(_: int) -> None:
    """Use one thread, and end when the main process is killed: torch watches the fork server only, which continues."""
    torch.set_num_threads(1)
    end_with_main()
