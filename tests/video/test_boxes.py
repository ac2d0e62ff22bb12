"""MOTChallenge files of boxes."""

from pathlib import Path

import pytest

from amem_cli.errors import BadData
from amem_cli.video.boxes import read_mot


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no boxes"),
        ("1,1,a,2,3,4\n1,1,5\n", "line 1: '1,1,a,2,3,4'; line 2: '1,1,5'"),
        ("0,1,5,5,10,20\n", "line 1"),
        ("1,1,5,5,-10,20\n", "line 1"),
        ("1,1,5,5,nan,20\n", "line 1"),
        ("1,3,5,5,10,20\n1,3,6,6,10,20\n", "line 2: a second box of id 3 in frame 1"),
        ("".join(f"1,{i},5,5,10,20\n" for i in range(100_000)), "frame 1 has 100000"),
    ],
)
def test_read_mot_bad_rows(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.txt").write_text(text)
    with pytest.raises(BadData, match=why):
        read_mot(tmp_path / "boxes.txt")


def test_read_mot_ground_truth_and_detections(tmp_path: Path) -> None:
    path = tmp_path / "gt.txt"
    path.write_text("1,1,5,6,10,20,1,1,0.8\n1,2,5,6,10,20,0,1,0.8\n1,3,5,6,10,20,1,9,0.8\n")
    assert read_mot(path)[1].tolist() == [[5, 6, 10, 20, 1, 1]]
    path.write_text("2,-1,5,6,10,20,0.7\n2,-1,50,6,10,20,33.5\n")
    assert read_mot(path)[2].tolist() == [[5, 6, 10, 20, 0.7, -1], [50, 6, 10, 20, 1, -1]]
