"""`--on-bad-image`: unreadable frames stop a stage by default; skip leaves them out and lists them, within bounds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amem_cli.data import unreadable as quarantine
from amem_cli.data.tracklets import Tracklet
from amem_cli.data.unreadable import without_unreadable
from amem_cli.errors import BadData
from amem_cli.runtime.distributed import Processes
from amem_cli.runtime.progress import Silent

ALONE = Processes(0, 1, torch.device("cpu"))
BROKEN = {
    "empty": b"",
    "no image": b"<html>not found</html>",
    "cut": None,  # the first half of a good one
}


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


def break_frame(tracklet: Tracklet, at: int, how: str) -> Path:
    path = tracklet.frames[at]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if BROKEN[how] is None else BROKEN[how])
    return path


def look(tracklets: list[Tracklet], list_file: Path, processes: Processes = ALONE) -> tuple[list[Tracklet], list[str]]:
    progress = Silent()
    return without_unreadable(tracklets, list_file, processes, progress), progress.warnings


def test_without_bad_frames_nothing_changes_and_an_old_list_goes(tracklets: list[Tracklet], tmp_path: Path) -> None:
    list_file = tmp_path / "mars.unreadable.txt"
    list_file.write_text("of a run before\n")
    kept, warnings = look(tracklets, list_file)
    assert kept == tracklets
    assert warnings == []
    assert not list_file.exists()


@pytest.mark.parametrize("how", sorted(BROKEN))
def test_a_bad_frame_is_left_out_and_listed_with_its_reason(
    tracklets: list[Tracklet], tmp_path: Path, how: str
) -> None:
    bad = [break_frame(tracklets[0], 7, how), break_frame(tracklets[2], 29, how)]
    list_file = tmp_path / "mars.unreadable.txt"
    kept, warnings = look(tracklets, list_file)
    first, last = tracklets[0].files, tracklets[2].files
    assert [tracklet.files for tracklet in kept] == [first[:7] + first[8:], tracklets[1].files, last[:-1]]
    assert [replace(k, files=()) for k in kept] == [replace(t, files=()) for t in tracklets]
    lines = list_file.read_text().splitlines()
    assert len(lines) == 2
    assert all(str(path) in line for path, line in zip(bad, lines, strict=True))
    assert warnings == [f"2 unreadable images are left out; they are listed in {list_file}"]


def test_a_frame_that_is_gone_counts_as_unreadable(tracklets: list[Tracklet], tmp_path: Path) -> None:
    tracklets[1].frames[3].unlink()
    kept, _ = look(tracklets, tmp_path / "list.txt")
    assert len(kept[1]) == 59


def test_one_in_a_hundred_is_the_bound(tracklets: list[Tracklet], tmp_path: Path) -> None:
    frames = sum(map(len, tracklets))
    most = int(quarantine.MOST_SKIPPED * frames)
    assert most == 2
    for at in range(most):
        break_frame(tracklets[0], at, "empty")
    assert sum(map(len, look(tracklets, tmp_path / "list.txt")[0])) == frames - most
    break_frame(tracklets[0], most, "empty")
    with pytest.raises(BadData, match=rf"3 of {frames} images cannot be decoded \(see .*list.txt\)") as raised:
        look(tracklets, tmp_path / "list.txt")
    assert raised.value.exit_code == 65
    assert len((tmp_path / "list.txt").read_text().splitlines()) == 3


def test_a_tracklet_without_a_readable_frame_is_named(tracklets: list[Tracklet], tmp_path: Path) -> None:
    alone = replace(tracklets[2], name="alone", files=tracklets[2].files[:1])
    break_frame(alone, 0, "no image")
    with pytest.raises(BadData, match="no readable frame in alone"):
        look([*tracklets[:2], alone], tmp_path / "list.txt")


def test_several_processes_share_the_looking_and_agree(
    tracklets: list[Tracklet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_frame(tracklets[1], 5, "empty")
    alone, _ = look(tracklets, tmp_path / "alone.txt")
    parts: list[dict] = []
    monkeypatch.setattr(Processes, "gather", lambda self, part: parts.append(part) or [part])
    for rank in (0, 1):  # the other's part is missing from this pretended gathering
        look(tracklets, tmp_path / "x.txt", Processes(rank, 2, torch.device("cpu")))
    assert sorted(map(len, parts)) == [0, 1]
    monkeypatch.setattr(Processes, "gather", lambda self, part: parts)
    for rank in (0, 1):
        list_file = tmp_path / f"{rank}.txt"
        assert look(tracklets, list_file, Processes(rank, 2, torch.device("cpu")))[0] == alone
        assert list_file.exists() == (rank == 0)
