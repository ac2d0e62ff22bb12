"""The layout "tracks": tracks without identities in reader, check, stages and files."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import toys
from PIL import Image

from amem_cli.artifacts import features, pseudo_labels
from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import run
from amem_cli.data.check import find_datasets
from amem_cli.data.readers import tracks
from amem_cli.errors import BadData

TABLE = """tracklet,camera,video,first_frame,last_frame,first_seconds,last_seconds,frames,mean_confidence
door/0001,door,a.mp4,1,9,0.000,0.320,9,0.9
door/0002,door,a.mp4,5,13,0.160,0.480,9,0.9
hall/0001,hall,b.mp4,1,9,0.000,0.320,9,0.9
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tracks in two cameras, in `people`, with a manifest; the current folder is its parent."""
    root = tmp_path / "people"
    for number, name in enumerate(("door/0001", "door/0002", "hall/0001")):
        (root / name).mkdir(parents=True)
        for frame in range(1, 10):
            Image.new("RGB", (20, 40), (30 * number, 5 * frame, 0)).save(root / name / f"{frame:06d}.jpg")
    (root / "tracks.csv").write_text(TABLE)
    (root / "people.toml").write_text('name = "people"\nlayout = "tracks"\nroot = "."\n')
    monkeypatch.chdir(tmp_path)
    return root


def test_read_tracks_cameras_and_order(folder: Path) -> None:
    dataset = tracks.read(folder, "people")
    (split,) = dataset.splits
    assert [(t.name, t.camera_id) for t in split.test] == [("door/0001", 1), ("door/0002", 1), ("hall/0001", 2)]
    assert split.train == split.test
    assert not any(split.is_query)
    assert tracks.read_times(folder)["door/0002"] == tracks.Seen("door", 0.16, 0.48)
    assert find_datasets(folder)[0].layout == "tracks"


def test_read_times_bad_rows(folder: Path) -> None:
    (folder / "tracks.csv").write_text(TABLE + "door/0003,door,a.mp4,1,9,x,1,9,1\nshort\n")
    with pytest.raises(BadData, match="line 5; line 6"):
        tracks.read_times(folder)
    head, box = "tracklet,frame,seconds,left,top,width,height\n", "door/0001,{},0,1,2,3{}\n"
    for row in (box.format("1", ""), box.format("nan", ",4"), box.format("1.5", ",4"), box.format("1", ",inf")):
        (folder / "boxes.csv").write_text(head + row)
        with pytest.raises(BadData, match="line 2"):
            tracks.read_boxes(folder, ["door/0001"])
    for first, last in (("nan", "1"), ("0", "inf"), ("0.5", "0.4")):
        (folder / "tracks.csv").write_text(TABLE + f"door/0003,door,a.mp4,1,9,{first},{last},9,1\n")
        with pytest.raises(BadData, match="line 5"):
            tracks.read_times(folder)


def test_read_tells_what_is_left_out(folder: Path) -> None:
    assert tracks.read(folder, "people").notes == ()
    for name in ("loose.jpg", "door/loose.jpg", "hall/0001/deep/1.jpg", "hall/none/readme.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "tracks.csv").write_text(TABLE.replace("hall/0001", "hall/0002"))
    ignored, left_out, unseen = tracks.read(folder, "people").notes
    assert ignored.endswith(": hall/none")
    assert left_out == "2 folders with images left out, not in <camera>/<track>: door; hall/0001/deep"
    assert unseen == "1 track not in tracks.csv, so that no track has times: hall/0001"


def test_read_tracks_one_level_deeper(folder: Path) -> None:
    inner = folder / "videos"
    inner.mkdir()
    for camera in ("door", "hall"):
        (folder / camera).rename(inner / camera)
    with pytest.raises(BadData, match=r"no images at the expected place in it, but for example videos/door/0001/0"):
        tracks.read(folder, "people")


def test_data_check_tracks(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["data", "check", "people/people.toml"]) == 0
    assert run(["data", "check", "people"]) == 0
    assert "tracks" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_backbone", "one_thread")
def test_extract_features_tracks_have_no_person(folder: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["extract-features", "--dataset", "people/people.toml", "--device", "cpu", "--quiet", "--model"]
    command.append(str(toys.write_main(Path("model.safetensors"))))
    assert run(command) == 0
    assert run(command) == 0  # reused
    path = Path("workspace/features/people.h5")
    with h5py.File(path) as file:
        assert "person_id" not in file
        assert not file["is_query"][()].any()
    table = features.read(path, people=False)
    assert table.camera == ["door", "door", "hall"]
    assert table.first_seconds.tolist() == [0, 0.16, 0]
    assert table.folder == str(folder)
    with pytest.raises(BadData, match="it has no person_id"):
        features.read(path)
    (folder / "tracks.csv").write_text(TABLE.replace("0.160", "0.200"))
    assert run(command) == 73
    assert "other data" in capsys.readouterr().err
    assert run([*command, "--force"]) == 0
    assert features.read(path, people=False).first_seconds.tolist() == [0, 0.2, 0]
    assert run(["evaluate", "--protocol", "people/people.toml"]) == 65
    assert "it has no person_id, so its tracks have no identities" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_backbone", "one_thread")
def test_stages_that_need_people_say_so(folder: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["train-amem", "--dataset", "people/people.toml", "--modules", "baseline", "--device", "cpu"]
    for typed in (command, [*command, "--dry-run"]):
        assert run(typed) == 65
        assert "error: data set people: its tracks have no identities" in capsys.readouterr().err


def test_status_of_tracks_needs_features_alone(folder: Path, capsys: pytest.CaptureFixture) -> None:
    def status() -> dict[str, Any]:
        assert run(["status", "--dataset", "people/people.toml", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    found = status()
    assert {link["stage"]: link["state"] for link in found["chain"]} == {
        "train-arm": "unused", "label-videos": "unused", "train-tae": "unused", "extract-features": "missing",
    }  # fmt: skip
    assert found["next"] == f"amem extract-features --dataset {folder / 'people.toml'} --model MODEL"
    toys.write_arm(Path("workspace/arm/arm.safetensors"), ["upperBodyRed"])
    assert status()["next"].endswith(" --model workspace/arm/arm.safetensors")


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_backbone", "one_thread")
def test_tracks_through_the_stages_and_tools(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """Labels, TAE, features, a search by description, a picture of attributes, a report; what needs people says so."""
    toys.write_arm(Path("arm.safetensors"), ["upperBodyRed"])
    on = ["--dataset", "people/people.toml"]
    small = ["--image-size", "32x32", "--batch-size", "4", "--epochs", "1"]
    run_stage = [
        ["label-videos", *on, "--arm", "arm.safetensors"],
        ["train-tae", *on, *small],
        ["extract-features", *on, "--model", str(toys.write_main(Path("model.safetensors"))), "--adapt-cameras"],
    ]
    for command in run_stage:
        assert run([*command, "--device", "cpu", "--quiet"]) == 0
    assert "say little about a camera (camera door: 2; camera hall: 1)" in capsys.readouterr().err
    labels = pseudo_labels.read(Path("workspace/labels/people.h5"))
    assert labels.tracklet == ["door/0001", "door/0002", "hall/0001"]
    assert not len(labels.person_id)
    capsys.readouterr()
    gallery = ["--gallery", "workspace/features/people.h5"]
    assert run(["search", "--with", "upperBodyRed", *gallery, "--json"]) == 0
    (query,) = json.loads(capsys.readouterr().out)["queries"]
    assert [round(hit["fits"], 3) for hit in query["results"]] == [1.0] * 3
    assert run(["show", "attributes", *on]) == 0
    assert Image.open("attributes.png").width > 100
    for command in (["show", "ranking"], ["show", "cmc"], ["show", "frames"], ["show", "attention"]):
        capsys.readouterr()
        assert run([*command, *on]) == 65
        error = capsys.readouterr().err
        assert error.startswith("error: data set people: its tracks have no identities")
        assert "amem search, link or find" in error
        assert len(error.splitlines()) == 1
    assert run(["report", *on]) == 0
    page = Path("report.html").read_text()
    assert page.count("These tracks have no identities") == 5
    assert ("train-amem" in page, "amem evaluate" in page, "<h3>train-tae</h3>" in page) == (False, False, True)
    assert run(["report", *on, "--workspace", "none"]) == 66


def test_labels_of_tracks_have_no_person(folder: Path) -> None:
    toys.write_labels(folder.parent / "labels.h5", ["door/0001", "door/0002"])
    table = pseudo_labels.read(folder.parent / "labels.h5")
    from dataclasses import replace

    pseudo_labels.write(folder.parent / "own.h5", replace(table, person_id=np.zeros(0, np.int64)), Provenance("x", {}))
    assert not len(pseudo_labels.read(folder.parent / "own.h5").person_id)
    with h5py.File(folder.parent / "own.h5") as file:
        assert "person_id" not in file
