"""The page of `amem search`."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from amem_cli.artifacts.atomic import sha256_file
from amem_cli.artifacts.paths import GENERATED
from amem_cli.cli.app import run
from amem_cli.runtime.progress import Silent
from amem_cli.video.page import search_page
from amem_cli.video.search import SearchOptions, search
from tests.toys import write_main
from tests.video.galleries import unit_rows, write_gallery


def test_search_page_shows_the_query_and_its_hits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("0001", "0002"):  # the images of the third track are not there
        (tmp_path / "people/hall" / name).mkdir(parents=True)
        Image.new("RGB", (10, 20)).save(tmp_path / "people/hall" / name / "000001.jpg")
    gallery = write_gallery(tmp_path / "a.h5", unit_rows(3), folder=str(tmp_path / "people"))
    command = ["search", "hall/0001", "--gallery", str(gallery), "--out", str(tmp_path / "page.html")]
    assert run(command) == 0
    page = (tmp_path / "page.html").read_text()
    clips = re.findall(r'data-name="([^"]*)" data-about="([^"]*)"[^>]*?( disabled)?>', page)
    assert clips[0][0] == "hall/0001"
    assert sorted(name for name, _, _ in clips[1:]) == ["hall/0002", "hall/0003"]
    assert clips[0][1] == "hall, looked for"
    assert ["1. squared distance" in clips[1][1], "2. squared distance" in clips[2][1]] == [True, True]
    assert {name for name, _, disabled in clips if disabled} == {"hall/0003"}
    assert "no pictures of the tracks of" in capsys.readouterr().err
    assert "This page shows people" in page
    (tmp_path / "people" / GENERATED).touch()
    assert run(command) == 0
    assert "These people are generated" in (tmp_path / "page.html").read_text()
    found = search(SearchOptions(query="hall/0001", gallery=(gallery,)), Silent())
    from_outside = replace(found, found=[replace(found.found[0], row=None)])  # a video may show a real person
    assert "This page shows people" in search_page(from_outside, {}, [])


def test_search_with_damaged_frames(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The features of the gallery are without them, too (`--on-bad-image skip`)."""
    for track in ("0001", "0002"):
        (tmp_path / "people/hall" / track).mkdir(parents=True)
        for frame in range(3):
            Image.new("RGB", (8, 16), (80 * frame, 0, 0)).save(tmp_path / f"people/hall/{track}/{frame}.jpg")
    (tmp_path / "people/hall/0002/1.jpg").write_bytes(b"no image")
    main = write_main(tmp_path / "main.safetensors")
    rows = unit_rows(2, 512)
    gallery = write_gallery(tmp_path / "g.h5", rows, model=sha256_file(main), folder=str(tmp_path / "people"))
    query = tmp_path / "people/hall/0002"
    options = ["--gallery", str(gallery), "--model", str(main), "--out", str(tmp_path / "q.html")]
    assert run(["search", str(query), *options, "--device", "cpu"]) == 0
    assert "hall/0002/1.jpg is left out: cannot be decoded" in capsys.readouterr().err
    assert "without 1 damaged frame" in (tmp_path / "q.html").read_text()
    for frame in query.iterdir():
        frame.write_bytes(b"no image")
    assert run(["search", str(query), *options, "--device", "cpu"]) == 65


def test_search_page_checks_its_place_first(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("amem_cli.video.search.search", lambda *_: pytest.fail("searched"))
    (tmp_path / "page.html").mkdir()
    command = ["search", "a.mp4", "--gallery", "g.h5", "--out", str(tmp_path / "page.html")]
    assert run(command) == 74
    assert "page.html" in capsys.readouterr().err
    command[-1] = str(tmp_path / "hall.mp4")
    assert run(command) == 2
    assert "hall.mp4: its suffix is neither .html nor .htm. Name an HTML file." in capsys.readouterr().err
    command[-1] = str(tmp_path / "thesis.html")
    (tmp_path / "thesis.html").write_text("<html>my own")
    assert run(command) == 73
    assert "thesis.html: it exists and is not known to be a page of amem." in capsys.readouterr().err
    assert (tmp_path / "thesis.html").read_text() == "<html>my own"


def test_search_page_pictures_of_galleries_with_equal_names(tmp_path: Path) -> None:
    galleries = [write_gallery(tmp_path / f"{one}.h5", unit_rows(2), folder=str(tmp_path / one)) for one in "ab"]
    (tmp_path / "b/hall/0001").mkdir(parents=True)
    Image.new("RGB", (10, 20)).save(tmp_path / "b/hall/0001/000001.jpg")
    options = ["--gallery", str(galleries[0]), "--gallery", str(galleries[1]), "--out", str(tmp_path / "page.html")]
    assert run(["search", "people-1:hall/0002", *options]) == 0
    clips = re.findall(r'data-name="hall/0001" [^>]*?( disabled)?>', (tmp_path / "page.html").read_text())
    assert sorted(clips) == ["", " disabled"]
