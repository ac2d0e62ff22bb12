"""`--on-bad-image skip`: unreadable frames are left out and listed, up to one in a hundred."""

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from writers import write_features

from amem_cli.artifacts.output import OutputSlot
from amem_cli.artifacts.provenance import Provenance
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.unreadable import without_unreadable
from amem_cli.errors import BadData, OutputExists
from amem_cli.options import DataOptions
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Silent

MADE = Provenance("extract-features", {"on_bad_image": "skip"})
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def tracklets(tmp_path: Path) -> list[Tracklet]:
    """Three tracklets of 120, 60 and 30 small frames."""
    made = []
    for number, length in enumerate((120, 60, 30)):
        folder = tmp_path / f"t{number}"
        folder.mkdir()
        files = tuple(f"{frame:03d} é.jpg" for frame in range(length))
        pixels = np.random.default_rng(number).integers(0, 255, (16, 8, 3), dtype=np.uint8)
        for file in files:
            Image.fromarray(pixels).save(folder / file)
        made.append(Tracklet(f"t{number}", number, 1, str(folder), files))
    return made


def find(tracklets: list[Tracklet], output: Path, processes: Processes = ALONE) -> tuple[list[Tracklet], list[str]]:
    progress, options = Silent(), DataOptions(on_bad_image="skip")
    slot = OutputSlot("features", output, options, processes.is_main)
    kept = without_unreadable(tracklets, options, slot, processes, progress)
    assert not slot.is_current(MADE, [], progress.warn)
    return kept, progress.warnings


def test_without_unreadable_keeps_all_with_stop(tracklets: list[Tracklet], tmp_path: Path) -> None:
    tracklets[0].frames[0].write_bytes(b"")
    slot = OutputSlot("x", tmp_path, DataOptions())
    assert without_unreadable(tracklets, DataOptions(), slot, ALONE, Silent()) == tracklets


def test_without_unreadable_good_frames_remove_an_old_list(tracklets: list[Tracklet], tmp_path: Path) -> None:
    list_file = tmp_path / "mars.unreadable.txt"
    list_file.write_text("of a run before\n")
    kept, warnings = find(tracklets, tmp_path / "mars.h5")
    assert kept == tracklets
    assert warnings == []
    assert not list_file.exists()


def test_without_unreadable_leaves_out_and_lists(tracklets: list[Tracklet], tmp_path: Path) -> None:
    broken = [tracklets[0].frames[7], tracklets[2].frames[29]]
    broken[0].write_bytes(b"<html>not found</html>")
    broken[1].unlink()
    list_file = tmp_path / "mars.unreadable.txt"
    kept, warnings = find(tracklets, tmp_path / "mars.h5")
    first, last = tracklets[0].files, tracklets[2].files
    assert [tracklet.files for tracklet in kept] == [first[:7] + first[8:], tracklets[1].files, last[:-1]]
    assert [replace(k, files=()) for k in kept] == [replace(t, files=()) for t in tracklets]
    lines = list_file.read_text().splitlines()
    assert len(lines) == 2
    assert all(str(path) in line for path, line in zip(broken, lines, strict=True))
    listed = f"unreadable images are listed in {list_file}"
    assert warnings == ["2 unreadable images are left out", listed]


def test_without_unreadable_lists_for_the_run_that_writes(tracklets: list[Tracklet], tmp_path: Path) -> None:
    """A refused run leaves the list of the artifact that is there; a run that stops at bad images removes it."""
    tracklets[0].frames[0].write_bytes(b"")
    output, list_file = tmp_path / "mars.h5", tmp_path / "mars.unreadable.txt"
    write_features(output, 1, Provenance("extract-features", {"on_bad_image": "stop"}))
    with pytest.raises(OutputExists):
        find(tracklets, output)
    assert not list_file.exists()
    output.unlink()
    listed = f"unreadable images are listed in {list_file}"
    assert find(tracklets, output)[1] == ["1 unreadable image is left out", listed]
    write_features(output, 1, MADE)
    stopping = Provenance("extract-features", {"on_bad_image": "stop"})
    for options, exists in ((DataOptions(), True), (DataOptions(force=True), False)):
        with contextlib.suppress(OutputExists):
            OutputSlot("features", output, options).is_current(stopping, [], print)
        assert list_file.exists() == exists


def test_without_unreadable_one_in_a_hundred(tracklets: list[Tracklet], tmp_path: Path) -> None:
    for at in range(2):
        tracklets[0].frames[at].write_bytes(b"")
    assert sum(map(len, find(tracklets, tmp_path / "mars.h5")[0])) == 208
    tracklets[0].frames[2].write_bytes(b"")
    with pytest.raises(BadData, match=r"images: 3 of 210 cannot be decoded\. See .*mars\.unreadable\.txt"):
        find(tracklets, tmp_path / "mars.h5")
    assert len((tmp_path / "mars.unreadable.txt").read_text().splitlines()) == 3


def test_without_unreadable_tracklet_without_frame(tracklets: list[Tracklet], tmp_path: Path) -> None:
    alone = replace(tracklets[2], name="alone", files=tracklets[2].files[:1])
    alone.frames[0].write_bytes(b"no image")
    with pytest.raises(BadData, match="no readable frame in alone"):
        find([*tracklets[:2], alone], tmp_path / "mars.h5")


def test_without_unreadable_shared_among_processes(
    tracklets: list[Tracklet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracklets[1].frames[5].write_bytes(b"")
    alone, _ = find(tracklets, tmp_path / "alone.h5")
    parts: list[dict] = []
    monkeypatch.setattr(Processes, "gather", lambda self, part: parts.append(part) or [part])
    for rank in (0, 1):  # the result of the other process is missing from this simulated gather
        find(tracklets, tmp_path / "x.h5", Processes(rank, 2, torch.device("cpu")))
    assert sorted(map(len, parts)) == [0, 1]
    monkeypatch.setattr(Processes, "gather", lambda self, part: parts)
    for rank in (0, 1):
        assert find(tracklets, tmp_path / f"{rank}.h5", Processes(rank, 2, torch.device("cpu")))[0] == alone
        assert (tmp_path / f"{rank}.unreadable.txt").exists() == (rank == 0)
