"""MOTChallenge files of boxes."""

from pathlib import Path

import pytest

from amem_cli.errors import BadData, InputMissing
from amem_cli.video.boxes import boxes_from, read_mot


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no boxes"),
        ("1,1,a,2,3,4\n1,1,5\n", "line 1: '1,1,a,2,3,4'; line 2: '1,1,5'"),
        ("1,1,5,5,-10,20\n", "line 1"),
        ("1,1,5,5,nan,20\n", "line 1"),
        ("1,1,,5,10,20,7\n", "line 1"),
        ("1,1.5,5,5,10,20\n", "line 1"),
        ("1,1,5,5,10,20,1,1,1,1,1\n", "line 1"),
        ("1 1 Pedestrian 0 0 -1.6 5 5 10 20 1 1 1 1 1 1 1\n", "line 1"),  # KITTI
        ("0,1,5,5,10,20\nframe,id,left,top,width,height\n", "with frames from 1: line 1: .*; line 2"),
        ("1,1,5,5,10,20,1,2,1\n", "it has no boxes of people"),
        ("1,3,5,5,10,20\n1,3,6,6,10,20\n", "line 2: a second box of id 3 in frame 1"),
        ("".join(f"1,{i},5,5,10,20\n" for i in range(100_000)), "frame 1 has 100000"),
    ],
)
def test_read_mot_bad_rows(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_text(text)
    with pytest.raises(BadData, match=why):
        read_mot(tmp_path / "boxes.txt")


def read(tmp_path: Path, text: str) -> tuple[dict[int, list], int]:
    path = tmp_path / "boxes.txt"
    path.write_bytes(text.encode())
    table, left_out = read_mot(path)
    return {frame: boxes.tolist() for frame, boxes in table.items()}, left_out


def test_read_mot_ground_truth_keeps_visible_pedestrians(tmp_path: Path) -> None:
    """Columns 7 to 9 are a flag, the class (1: pedestrian), and the visible part."""
    rows = "1,1,5,6,10,20,1,1,0.8\n1,2,5,6,10,20,0,1,0.8\n1,3,5,6,10,20,1,9,0.8\n1,4,5,6,10,20,1,1,0.24\n"
    assert read(tmp_path, rows) == ({1: [[5, 6, 10, 20, 1, 1]]}, 3)
    assert read(tmp_path, "1,1,5,6,10,20,1,1,0.25\n") == ({1: [[5, 6, 10, 20, 1, 1]]}, 0)
    assert read(tmp_path, "1,1,5,6,10,20,1,-1,-1\n") == ({1: [[5, 6, 10, 20, 1, 1]]}, 0)
    old = "1,1,5,6,10,20,1,-1,-1,-1\n1,2,5,6,10,20,0,4.5,0.1,0\n"  # ten columns: the last three are of the world
    assert read(tmp_path, old) == ({1: [[5, 6, 10, 20, 1, 1]]}, 1)
    assert read(tmp_path, "1,2,5,6,10,20,0,4.5,0.1,0\n") == ({1: [[5, 6, 10, 20, 1, 2]]}, 0)  # no flags, no scores


def test_detector_weights_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"detector weights .*: this is a folder, not a file"):
        boxes_from("torchvision", tmp_path, "cpu")
    with pytest.raises(InputMissing, match=r"detector weights .*: not found"):
        boxes_from("torchvision", tmp_path / "none", "cpu")


def test_read_mot_detections_and_scores(tmp_path: Path) -> None:
    assert read(tmp_path, "2,-1,5,6,10,20,0.7\n1,-1,50,6,10,20,0.2\n") == (
        {1: [[50, 6, 10, 20, 0.2, -1]], 2: [[5, 6, 10, 20, 0.7, -1]]}, 0,
    )  # fmt: skip
    for score in ("33.5", "-0.4", "-1"):  # not from 0 to 1: all boxes count fully
        assert read(tmp_path, f"2,-1,5,6,10,20,0.7\n2,-1,5,6,10,20,{score}\n")[0][2][0][4] == 1
    assert read(tmp_path, "1,-1,5,6,10,20\n1,3,5,6,10,20\n") == ({1: [[5, 6, 10, 20, 1, 3]]}, 1)


@pytest.mark.parametrize(
    "text", ["1,1,-5.5,6,10,20,1,-1,-1,-1,\r\n", "1 1 -5.5\t6 10 20\n", "\ufeff1, 1, -5.5, 6, 10, 20 ,1\n"]
)
def test_read_mot_dialects(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text) == ({1: [[-5.5, 6, 10, 20, 1, 1]]}, 0)


def test_boxes_from_a_detector_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = r"https://\S+/fasterrcnn_mobilenet_v3_large_320_fpn\S+\.pth"
    with pytest.raises(InputMissing, match=f"not on this machine. Download {file} and give it as --detector-weights"):
        boxes_from("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", None, "cpu")
