"""From videos to the page; the page in a browser."""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from writers import some_result

from amem_cli.artifacts import features, results
from amem_cli.artifacts.atomic import sha256_file
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.cli.app import run
from amem_cli.errors import UsageError
from amem_cli.metrics.calibration import Probability
from amem_cli.runtime.progress import Progress
from amem_cli.video import find as find_module
from amem_cli.video.gallery import Calibration, Gallery
from amem_cli.video.link import Linked
from amem_cli.video.page import clock, find_page, in_words, marks, period, readable
from amem_cli.video.tracklets import Tracklets
from tests.browser import Browser, needs_chromium
from tests.toys import write_arm, write_main, write_tae
from tests.video.galleries import load_no_models, unit_rows, write_calibration, write_gallery
from tests.videos import crossing, mot_lines, write_video
from tests.walkers_videos import write_small_videos

VOID = {"meta", "img", "br"}


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory, tiny_backbones: None) -> Path:
    """The folder that `amem find` makes of two videos with two people each."""
    folder = tmp_path_factory.mktemp("answer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        find_in_two_videos()
    return folder / "answer"


def find_in_two_videos() -> None:
    places = [crossing(), crossing(first=10, top=60, speed=1.5)]
    for name in ("hall", "door<b>"):
        write_video(Path(f"{name}.mp4"), places)
        Path(f"{name}.txt").write_text(mot_lines(places))
    write_arm(Path("arm.safetensors"), ["upperBodyRed", "carryingNothing"])
    write_main(Path("model.safetensors"))
    command = ["find", "hall.mp4", "door<b>.mp4", "--boxes", "hall.txt", "--boxes", "door<b>.txt", "--device", "cpu"]
    command += ["--model", "model.safetensors", "--arm", "arm.safetensors", "--out", "answer", "--quiet"]
    assert run(command) == 0
    assert run(command) == 0  # everything is reused


@pytest.mark.slow
def test_find_writes_everything(answer: Path) -> None:
    names = {path.name for path in answer.iterdir() if not path.name.startswith(".")}
    assert names == {"index.html", "identities.csv", "hall.txt", "door-b.txt", "tracks", "workspace"}
    page = (answer / "index.html").read_text()
    assert len(page) < 15_000_000
    opened: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            opened.extend([] if tag in VOID else [tag])

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Parser().feed(page)
    assert not opened
    assert "http" not in page.replace("http-equiv", "")
    assert "never decide about a person by it alone" in page
    assert "attributes: arm.safetensors" in page
    assert page.count('<p class="tags"><span>') == page.count('<article class="person"') > 0


@pytest.mark.slow
def test_find_and_search_with_features_of_the_arm(tmp_path: Path, one_thread: None, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("hall.mp4"), [crossing()])
    Path("hall.txt").write_text(mot_lines([crossing()]))
    for name in ("arm", "other"):
        write_arm(Path(f"{name}.safetensors"), ["upperBodyRed"])
    how = ["--boxes", "hall.txt", "--device", "cpu", "--model"]
    assert run(["find", "hall.mp4", *how, "arm.safetensors", "--out", "answer"]) == 0
    said = capsys.readouterr()
    assert "was trained on" not in said.err
    search_again = said.out.partition("to search in them: ")[2]
    page = Path("answer/index.html").read_text()
    assert re.search(r"model: arm.safetensors \(\w{8}\), trained on peta", page)
    assert "Seen once." in page
    assert "0 doubtful" in page
    gallery = Path("answer/workspace/features/tracks.h5")
    table = features.read(gallery, people=False)
    assert table.features.shape == (1, 1280)
    assert table.provenance["parents"].keys() == {"amem-arm"}
    assert table.provenance["parents"]["amem-arm"]["dataset"] == "peta"
    write_arm(Path("generated.safetensors"), ["upperBodyRed"], generated=True)
    assert run(["find", "hall.mp4", *how, "generated.safetensors", "--out", "generated"]) == 0
    assert "was trained on generated people: it does not know real ones" in capsys.readouterr().err
    assert "trained on peta (generated people)" in Path("generated/index.html").read_text()
    search = ["search", "hall.mp4", "--gallery", str(gallery), *how]
    capsys.readouterr()
    assert run([*search, "arm.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trained_on"] == "peta"
    assert run(shlex.split(search_again)[1:]) == 0
    capsys.readouterr()
    assert run([*search, "other.safetensors"]) == 2
    assert "the gallery's features are of another model" in capsys.readouterr().err

    adapted = Path("adapted/workspace/features/tracks.h5")
    kind = ["--adapt-cameras", "--parts", "2"]
    assert run(["find", "hall.mp4", *how, "arm.safetensors", *kind, "--out", "adapted"]) == 0
    search[3] = str(adapted)
    assert run([*search, "arm.safetensors", "--out", "page.html"]) == 0
    error = capsys.readouterr().err
    assert "the query's camera has too few tracks for that (1)" in error
    assert "features: --adapt-cameras --parts 2" in Path("page.html").read_text()
    assert "features: --adapt-cameras --parts 2" in Path("adapted/index.html").read_text()
    few = "fewer than 8 tracklets say little about a camera (camera hall: 1)"
    assert few in Path("adapted/index.html").read_text()
    capsys.readouterr()
    assert run(["find", "hall.mp4", *how, "arm.safetensors", *kind, "--out", "adapted", "--json"]) == 0  # reused
    assert sum(few in line for line in json.loads(capsys.readouterr().out)["warnings"]) == 1
    assert "features: -" not in page
    assert features.read(adapted, people=False).features.shape == (1, 2 * 1280)
    capsys.readouterr()
    assert run([*search, "arm.safetensors", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["queries"]
    assert found["results"][0]["distance"] == pytest.approx(0, abs=1e-4)


@needs_chromium
@pytest.mark.browser
def test_find_page_in_a_browser(answer: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        for width, dark in ((1280, False), (390, True)):
            browser.set_view(width=width, dark=dark)
            browser.open(answer / "index.html")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
            assert browser.run("document.querySelectorAll('.timeline').length") == 2
            tags = "[...document.querySelectorAll('.tag')].map((tag) => tag.textContent).sort().join()"
            assert browser.run(tags) == "carrying nothing,upper body red"
            browser.run("document.querySelector('.person').dataset.tags = 'carrying nothing'")
            browser.run("document.querySelector('.tag[data-tag=\"upper body red\"]').click()")
            assert browser.run("document.querySelector('.person').hidden")
            shown = browser.run("document.querySelectorAll('.person:not([hidden])').length")
            assert browser.run("document.getElementById('shown').textContent") == f"{shown} shown"
            browser.run("document.querySelector('.tag[data-tag=\"upper body red\"]').click()")
            assert not browser.run("document.querySelector('.person').hidden")
            browser.run("document.querySelector('.bar').click()")
            assert browser.run("document.querySelectorAll('.person.chosen').length") == 1
            browser.run("document.querySelector('.clip').focus()")
            browser.press("Enter")
            assert browser.run("document.getElementById('player').open")
            assert browser.run("getComputedStyle(document.getElementById('screen')).backgroundImage").startswith("url")
            browser.press("Escape")
            assert not browser.run("document.getElementById('player').open")
        assert browser.messages == []


def test_words() -> None:
    assert [in_words(p) for p in (0.999, 0.97, 0.5, 0.3, 0.02)] == [
        "almost certainly one person (more than 99 %)", "almost certainly one person (97 %)",
        "perhaps one person (50 %)", "probably another person (70 %)", "almost certainly another person (98 %)",
    ]  # fmt: skip
    words = {"personalLess30": "under 30", "personalLarger60": "over 60", "carryingNothing": "carrying nothing"}
    words |= {"accessoryNothing": "no accessory", "upperBodyLongSleeve": "upper body long sleeve"}
    assert {name: readable(name) for name in words} == words
    assert (clock(75.4), clock(3725)) == ("1:15", "1:02:05")
    assert (period(12.1, 12.9), period(12.1, 13.0)) == ("0:12", "0:12 to 0:13")


def test_find_page_says_how_sure(tmp_path: Path) -> None:
    gallery = Gallery([write_gallery(tmp_path / "a.h5", np.array([[1.0, 0], [0.8, 0.6], [-1, 0]]))])
    for name in gallery.tracklets:
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (10, 20)).save(tmp_path / name / "000001.jpg")
    tracks = Tracklets(tmp_path, tmp_path / "x.toml", {}, 0, 0, "motion", faults=["<gap>"])
    known = Calibration(Probability(6.0, -10.0, None), 0.5, 0.001, "x")
    linked = Linked(gallery, np.array([1, 1, 2]), np.array([0.1, 0.55, np.nan]), 0.5, 0, known)
    page = find_page(linked, tracks, None, ["boxes: motion"])
    assert "The per cents were measured on labelled people of other cameras." in page
    assert ("<b>same person: more than 99 %</b>" in page, "<b>same person: 62 %</b>" in page) == (True, True)
    assert "The 2 tracks are probably one person (62 %)." in page
    assert (page.count('class="doubt"'), "1 doubtful" in page, "&lt;gap&gt;" in page) == (1, True, True)
    unknown = find_page(replace(linked, calibration=None), tracks, None, ["boxes: motion"])
    assert "Nobody has measured how often this model is right" in unknown
    assert "The 2 tracks look only just alike enough (difference 110 % of the usual limit)." in unknown


def test_marks_are_round_times() -> None:
    assert marks(25.0) == [{"left": 20.0 * place, "text": f"0:{5 * place:02d}"} for place in range(5)]
    assert [mark["text"] for mark in marks(3.0)] == ["0:00", "0:01", "0:02"]
    assert [mark["text"] for mark in marks(43200.0)] == ["0:00", "2:00:00", "4:00:00", "6:00:00", "8:00:00", "10:00:00"]


def test_find_needs_a_model_first(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", [crossing()], frames=3)
    assert run(["find", "a.mp4", "--out", "answer"]) == 66
    train = "its training on PETA takes minutes: amem train-arm --preset small --partition none, then "
    assert f"{train}--model workspace/arm/arm.safetensors." in capsys.readouterr().err
    write_arm(Path("workspace/arm/arm.safetensors"), ["upperBodyRed"])
    assert run(["find", "a.mp4", "--out", "answer"]) == 66
    assert "an attribute recogniser will do: --model workspace/arm/arm.safetensors." in capsys.readouterr().err
    write_tae(Path("tae.safetensors"))
    assert run(["find", "a.mp4", "--out", "answer", "--model", "tae.safetensors"]) == 65
    assert "tae.safetensors: is of kind amem-tae, not amem-main" in capsys.readouterr().err
    assert not (tmp_path / "answer/tracks").exists()
    write_arm(Path("arm.safetensors"), ["upperBodyRed"])
    Path("index.html").write_text("<html>my own")
    assert run(["find", "a.mp4", "--out", ".", "--model", "arm.safetensors", "--device", "cpu"]) == 73
    assert "index.html: it exists and is not known to be a page of amem. Choose an" in capsys.readouterr().err
    assert not Path("tracks").exists()
    own = 'name = "mine"\nlayout = "folder"\nroot = "."\n[protocol]\nkind = "cross-camera-splits"\n'
    (tmp_path / "mine.toml").write_text(f"{own}splits = 1\ntrain_fraction = 0.5\nseed = 0\n")
    assert run(["find", "a.mp4", "--out", "answer", "--dataset", "mine.toml"]) == 66
    assert "workspace/amem/mine-split0/amem-main.safetensors" in capsys.readouterr().err


def test_detector_options_reach_the_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def boxes_from(*values: object) -> None:
        given.append(values)
        raise UsageError("--boxes", why="far enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("amem_cli.video.tracklets.boxes_from", boxes_from)
    load_no_models(monkeypatch)
    write_gallery(Path("g.h5"), unit_rows(2))
    write_video(Path("a.mp4"), [crossing()], frames=3)
    Path("m").touch()
    how = ["--boxes", "torchvision", "--detector-weights", "w.pth", "--device", "cpu"]
    for command in ("tracklets --out o", "search --gallery g.h5 --model m", "find --out o --model m"):
        assert run([*command.split(), "a.mp4", *how]) == 2
        assert given.pop() == ("torchvision", Path("w.pth"), "cpu")


def test_calibration_of_the_model_that_made_the_features(tmp_path: Path) -> None:
    model, other = tmp_path / "m", tmp_path / "o"
    model.write_bytes(b"m")
    other.write_bytes(b"o")
    table = write_gallery(tmp_path / "a.h5", unit_rows(2), model=sha256_file(model))
    result = write_calibration(tmp_path / "a.json", {"features": parent(table)})
    of_others = write_calibration(tmp_path / "b.json", {"features": parent(other)})
    made = Provenance("evaluate", {}, {"features": parent(table)})
    without = results.write(tmp_path / "c.json", some_result(), made)
    assert find_module.calibration_of(model, table, result) == result
    assert find_module.calibration_of(other, table, result) is None
    assert [find_module.calibration_of(model, table, one) for one in (of_others, without)] == [None, None]
    assert find_module.calibration_of(model, tmp_path / "none.h5", result) is None


@pytest.mark.parametrize("step", ["extract_features", "label_videos"])
def test_find_options_reach_its_steps(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def first(options: Any, progress: Progress) -> None:
        given.append(options)
        raise UsageError("find", why="far enough")

    monkeypatch.setattr(f"amem_cli.stages.{step}.{step}", first)  # imports the stage, with the true loaders
    load_no_models(monkeypatch)
    monkeypatch.setattr(find_module, "cameras_of", lambda options: [])
    monkeypatch.setattr(find_module, "cut_tracklets", lambda *given: SimpleNamespace(manifest=Path("t.toml")))
    monkeypatch.chdir(tmp_path)
    arm = ["--arm", "arm"] if step == "label_videos" else []
    more = ["--force", "--adapt-cameras", "--parts", "2", *arm]
    assert run(["find", "a.mp4", "--out", "o", "--model", "main", "--device", "cpu", *more]) == 2
    (asked,) = given
    assert (asked.dataset, asked.workspace, asked.device, asked.force) == ("t.toml", Path("o/workspace"), "cpu", True)
    assert asked.arm == "arm" if arm else (asked.model, asked.adapt_cameras, asked.parts) == ("main", True, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "given", "asked"),
    [
        ([], True, (True, 4)),
        ([], False, (True, 4)),
        (["--adapt-cameras", "--parts", "4"], True, (True, 4)),
        (["--parts", "2"], False, (False, 2)),  # and no calibration
        (["--parts", "2"], True, None),
        ([], False, (False, 1)),
        ([], True, None),
    ],
    ids=("given", "found", "alike", "others", "given-others", "found-size", "given-size"),
)
def test_find_extracts_as_its_calibration_says(
    flags: list[str], given: bool, asked: tuple[bool, int] | None, tmp_path: Path, monkeypatch, capsys, request
) -> None:
    extracted: list[Any] = []

    def first(options: Any, progress: Progress) -> None:
        extracted.append((options.adapt_cameras, options.parts))
        raise UsageError("find", why="far enough")

    extraction = {"adapt_cameras": True, "parts": 4, "later": 1}  # a later version may have more
    size = "64x32" if (other_size := "size" in request.node.name) else "256x128"
    result = write_calibration(tmp_path / "r.json", extraction=extraction, image_size=size)
    monkeypatch.setattr(find_module, "calibration_of", lambda *_: None if given else result)
    monkeypatch.setattr("amem_cli.stages.extract_features.extract_features", first)
    load_no_models(monkeypatch)
    monkeypatch.setattr(find_module, "cameras_of", lambda options: [])
    monkeypatch.setattr(find_module, "cut_tracklets", lambda *given: SimpleNamespace(manifest=Path("t.toml")))
    monkeypatch.chdir(tmp_path)
    Path("main").write_bytes(b"")
    more = ["--calibration", str(result)] if given else []
    assert run(["find", "a.mp4", "--out", "o", "--model", "main", "--device", "cpu", *more, *flags]) == 2
    error = capsys.readouterr().err
    assert extracted == ([asked] if asked else [])
    assert ("is not used: its features " in error) == (asked in ((False, 2), (False, 1)))
    assert ("are of images of 64x32 pixels, those of the model of 256x128" in error) == other_size
    assert ("Leave --adapt-cameras and --parts out" in error) == (asked is None and not other_size)


def test_write_videos_same_seed_same_frames_and_true_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (
        write_small_videos(tmp_path / name, seed, monkeypatch) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for name in ("camera1.mp4", "camera2.mp4", "camera1.txt", "camera2.txt"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
        assert (first / name).read_bytes() != (other / name).read_bytes()
    from amem_cli.video.boxes import read_mot
    from amem_cli.video.decode import Camera

    table, _ = read_mot(first / "camera1.txt")
    pictures = {p.number: p.rgb() for p in Camera("a", [first / "camera1.mp4"]).pictures()}
    empty = np.median(np.stack(list(pictures.values())[::9]), axis=0)
    ids = {int(box[5]) for boxes in table.values() for box in boxes}
    assert ids == {1, 2} == {int(box[5]) for boxes in read_mot(first / "camera2.txt")[0].values() for box in boxes}
    frame, boxes = next((f, b) for f, b in table.items() if len(b) and b[0][0] > 40 and b[0][0] + b[0][2] < 160)
    left, top, width, height = (round(side) for side in boxes[0][:4])
    changed = np.abs(pictures[frame].astype(float) - empty).max(2) > 60
    inside = changed[max(top, 0) : top + height, left : left + width]
    assert inside.mean() > 0.2
    assert inside.sum() > 0.6 * changed.sum() or len(boxes) > 1
