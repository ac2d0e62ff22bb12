"""The report's page: well-formed, self-contained, escaped, deterministic; and its behaviour in a browser."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amem_cli.data.chain import ArtifactState
from amem_cli.errors import BadData
from amem_cli.pictures.attention import Attention, HeatRow
from amem_cli.pictures.predicted_frames import PredictedClip
from amem_cli.pictures.ranked_lists import Answer, RankedRow
from amem_cli.pictures.report import (
    Artifact,
    CameraPair,
    Comparison,
    Curves,
    Missing,
    Predictions,
    RankedLists,
    RankedQuery,
    Report,
    cmc,
    lines_chart,
    report_page,
)
from tests.browser import Browser, needs_chromium

HOSTILE = '<script>window.hacked = 1</script>"\'><img src=x onerror="window.hacked = 1">&lt;{{ 7 * 7 }}$x_$'
NAME = "0001C1T0001"
VOID = {"meta", "link", "img", "br", "input"}
NAMES = ("personalMale", "hairLong", "upperBodyRed", "lowerBodyJeans", "footwearBoots", "accessoryHat")


class Page(HTMLParser):
    """Every element with its attributes, and the faults in how they are nested."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.faults: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_report(folder: Path, name: str = NAME) -> Report:
    """A small report with every section; every name that comes from outside is `name` or contains it."""
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    frames = [folder / f"{number}.png" for number in range(20)]
    for number, path in enumerate(frames):
        Image.fromarray(np.full((64, 32, 3), 12 * number, np.uint8)).save(path)
    verdicts = (("ignored", None), ("wrong", 1), ("right", 2), ("wrong", 3))
    answers = tuple(Answer(f"{name}-{i}", i, 2, 0.1 * i, verdict, rank) for i, (verdict, rank) in enumerate(verdicts))
    row = RankedRow(Answer(name, 1, 1, 0.0, "ignored", None), answers, 0.5)
    clip_frames, *clips = (generator.integers(0, 256, (n, 64, 32, 3), dtype=np.uint8) for n in (4, 1, 3, 3))
    heat = [
        HeatRow("BF", "each of T' = 2", generator.random((2, 4, 2))),
        HeatRow(name, name, -generator.random((4, 2))),
    ]
    values = np.array([[0.9, 0.1, 0.8, 0.2, 0.1, 0.1], [0.8, 0.7, 0.1, 0.6, 0, 0]])
    figures = {"rank": {"1": 0.5, "5": 0.6, "10": 0.7, "20": 0.8}, "mAP": 0.4, "mAP_official": 0.35}
    result = figures | {
        "protocol": name, "queries": 8, "valid_queries": 8, "gallery": 20, "cmc": [0.5, 0.55, 0.6],
        "choices": {"ties": f"stable {name}", "rerank": False},
        "interval": {"rank-1": [0.3, 0.7], "mAP": [0.2, 0.6]},
        "gallery_without_queries": figures | {"cmc": [0.4, 0.5, 0.6], "valid_queries": 7},
        "chance": {"rank": figures["rank"], "mAP": 0.1, "cmc": [0.05, 0.1, 0.15]},
    }  # fmt: skip
    errors = dict.fromkeys(("mse", "psnr", "ssim", "mse_copied", "psnr_copied", "ssim_copied", "mse_ratio"), 0.5)
    errors |= {"clips": 9, "mse_other_motion": 0.25, "better_than_copying": False}
    panels = {"Losses": {name: ([0, 1, 2], [3.0, 2.0, 1.0]), "other": ([0, 1], [1.0, 0.001])}}
    details = {"Options": {name: name}, "Parents": {}}
    return Report(
        dataset=name, split=None, model="AMEM", workspace=Path(name), generated=False, notes=[name], result=result,
        camera_pairs=[CameraPair(1, 2, 5, 0.4, 0.5), CameraPair(2, 1, 3, 0.2, 0.3)],
        ranked_lists=RankedLists(
            [
                RankedQuery("best", row, [Comparison("rank 1", NAMES, *values)], Attention(name, clip_frames, heat)),
                RankedQuery("worst", replace(row, average_precision=float("nan"))),
            ],
            {answer.tracklet: frames for answer in (row.query, *answers)},
            name,
        ),
        predictions=Predictions([PredictedClip(name, clips[0][0], *clips[1:])], errors),
        curves=[Curves("train-arm", Path(name), panels, 75.0, [*enumerate(frames[1:], 1)]), Missing(name, name)],
        artifacts=[
            Artifact(ArtifactState("train-arm", Path(name), "ready"), "ab" * 32, 1.5, 75, details),
            Artifact(ArtifactState("evaluate", Path(name), "missing", name, name)),
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(content: Report) -> str:
    return report_page(content)


def test_report_page_structure(text: str) -> None:
    page = Page(text)
    assert "These people are generated" not in text
    assert "It shows people: keep it where" in text
    assert page.faults == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    assert all(image.get("alt") and image.get("width") for image in page.all("img"))
    assert all(header.get("scope") for header in page.all("th"))
    assert all(svg.get("aria-label") for svg in page.all("svg"))
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(headings))  # no level is skipped
    sections = [section["id"] for section in page.all("section")]
    assert sections == ["results", "ranked-lists", "predicted-frames", "training", "artifacts", "conventions"]


def test_report_page_no_network(text: str) -> None:
    for _, attributes in Page(text).elements:
        for key in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            assert attributes.get(key, "#").startswith(("data:", "#")), (key, attributes[key][:80])
    assert not re.search(r"(https?:)?//[a-z]|@import", re.sub(r"data:[^\"')]*", "", text))
    assert "default-src 'none'" in text


def test_report_page_hostile_names(tmp_path: Path) -> None:
    hostile = make_report(tmp_path, HOSTILE)
    text = report_page(hostile, 2)
    page = Page(text)
    assert page.faults == []
    assert len(page.all("script")) == 2  # the frames' data and our own
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert f"AMEM on {HOSTILE}" in page.words  # displayed as plain text
    assert text == report_page(hostile, 2)  # deterministic


def test_report_page_marks_and_differences(text: str) -> None:
    for verdict, mark, times in (("right", "✓", 2), ("wrong", "✗", 4), ("ignored", "–", 2)):
        marked = rf'<li class="{verdict}"><p class="rank"><b class="mark {verdict}" aria-hidden="true">{mark}</b>'
        assert text.count(marked) == times
    assert re.findall(r"</b> (no rank|rank \d)", text)[:4] == ["no rank", "rank 1", "rank 2", "rank 3"]
    assert "3 of 6 differ" in text  # long hair, red, jeans
    assert 'aria-label="Attributes that differ: hairLong, upperBodyRed, lowerBodyJeans"' in text
    assert "<strong>not better than copying</strong>" in text


def test_report_page_missing_sections(content: Report) -> None:
    missing = Missing("There is nothing yet", "amem evaluate --protocol mars")
    parts = dict.fromkeys(("result", "camera_pairs", "predictions"), missing)
    lists = replace(content.ranked_lists, attributes=missing, no_attention=missing)
    text = report_page(replace(content, ranked_lists=lists, **parts), 2)
    assert Page(text).faults == []
    assert text.count("There is nothing yet. Run: <code>amem evaluate --protocol mars</code>") == 6


def test_report_page_splits(content: Report) -> None:
    split = {key: content.result[key] for key in ("rank", "mAP", "mAP_official", "cmc", "chance")}
    std = {"rank": dict.fromkeys(split["rank"], 0.03), "mAP": 0.02, "mAP_official": 0.02}
    over = {key: value for key, value in content.result.items() if key not in ("interval", "gallery_without_queries")}
    over |= {"splits": [split] * 3, "standard_deviation": std}
    rest = {"ranked_lists": Missing(""), "predictions": Missing(""), "curves": ()}
    text = report_page(replace(content, split=2, result=over, **rest))
    assert Page(text).faults == []
    assert "± 3.0 over 3 splits" in text
    assert f"<h1>AMEM on {NAME}, split 2</h1>" in text
    assert '<th scope="row">split 2</th>' in text
    over |= {"splits": [split], "standard_deviation": None}
    assert "standard deviation" not in report_page(replace(content, result=over, **rest))


def test_report_chart_has_the_separate_rows(content: Report) -> None:
    curve = [0.4, 0.5, 0.6]
    rows = {"reranked": {"cmc": curve}, "flipped": {"cmc": curve}}
    chart = cmc(replace(content, result={**content.result, **rows}))
    shown = re.findall(r"<text[^>]*>([^<]+) \([\d.]+\)</text>", chart)
    assert shown == ["AMEM", "without queries in the gallery", "re-ranked", "chance"]


def test_report_page_samples_and_frames(content: Report, text: str) -> None:
    steps = [int(step) for step in re.findall(r"<figcaption>after (\d+) steps", text)]
    assert (len(steps), steps[0], steps[-1]) == (8, 1, 19)
    assert {later - earlier for earlier, later in itertools.pairwise(steps)} <= {2, 3}  # evenly
    assert "8 of 19 validations" in text
    assert '"frames": "all frames"' in text
    assert '"frames": "2 of 20 frames, evenly spaced"' in report_page(content, 2)


def test_lines_chart_themed_text() -> None:
    lines = {"a": ([1, 2], [0.001, 1.0]), "b": ([1], [0.5])}
    svg = lines_chart("x", 'a "title" <b>', lines)
    assert svg.startswith('<svg role="img" aria-label="a &#34;title&#34; &lt;b&gt;; last values: a 1, b 0.5"')
    assert {"var(--c0)", "var(--c1)", "var(--soft)", "var(--rule)"} <= set(re.findall(r"var\(--\w+\)", svg))
    words = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert {"step", "value", "a 1", "b 0.5", "0.01"} <= set(words)  # the ticks of a log axis are no formulas
    assert "<style" not in svg
    rates = re.findall(r"<text[^>]*>([^<]+)</text>", lines_chart("y", "t", lines, rates=True))
    assert {"rate", "0.0", "1.0"} <= set(rates)


def test_report_page_generated_people(tmp_path: Path) -> None:
    page = report_page(replace(make_report(tmp_path), generated=True))
    assert "These people are generated" in page
    assert "It shows people: keep it where" not in page


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


def write_page(folder: Path, name: str = NAME) -> Path:
    page = folder / "report.html"
    page.write_text(report_page(make_report(folder / "frames", name)), "utf-8")
    return page


def test_report_leaves_out_damaged_frames(tmp_path: Path) -> None:
    report = make_report(tmp_path / "frames", NAME)
    frames = next(iter(report.ranked_lists.frames_of.values()))
    Path(frames[0]).write_bytes(b"no image")
    page = report_page(report)
    assert "without 1 that cannot be read" in page
    for frame in frames:
        Path(frame).write_bytes(b"no image")
    with pytest.raises(BadData, match="cannot be decoded"):
        report_page(report)


@needs_chromium
@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(("name", "width", "dark"), [(NAME, 1280, False), (HOSTILE, 390, True)], ids=("wide", "phone"))
def test_report_in_browser_fits_and_runs_no_injected_code(
    browser: Browser, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    browser.messages.clear()
    browser.set_view(width=width, dark=dark)
    browser.open(write_page(tmp_path, name))
    assert browser.messages == []
    assert browser.run("window.hacked") is None
    assert browser.run("document.documentElement.scrollWidth") <= width
    shown = """[...document.querySelectorAll('.rates th, .rates td')].filter(
        e => e.offsetWidth && e.getBoundingClientRect().right <= innerWidth).map(e => e.textContent)"""
    assert {"rank-1", "mAP"} <= set(browser.run(shown))
    assert browser.run("[...document.images].filter(i => i.src && !i.naturalWidth).length") == 0
    shot = Image.open(browser.picture(tmp_path / "shot.png")).convert("L")
    assert (np.asarray(shot).mean() < 100) == dark


@needs_chromium
@pytest.mark.browser
@pytest.mark.slow
def test_report_in_browser_keyboard_and_animation(browser: Browser, tmp_path: Path) -> None:
    page = write_page(tmp_path)
    browser.set_view(width=1280)
    browser.open(page)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    browser.run("document.querySelector('.answers .strip').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('dialog').contains(document.activeElement)")
    assert browser.run("document.querySelector('dialog img').naturalWidth") == 8 * 64 + 7 * 2
    assert browser.run("document.getElementById('frames-title').textContent") == f"{NAME}-0"
    assert browser.run("document.getElementById('frames-facts').textContent") == "distractor, camera 2: all frames"
    browser.press("Escape")
    assert not browser.run("document.querySelector('dialog').open")
    assert browser.run("document.activeElement.className") == "strip"
    moving = "document.querySelector('.walk div').getAnimations().length"
    assert browser.run(moving) == 1
    browser.run("document.getElementById('play').click()")
    assert browser.run(moving) == 0
    browser.set_view(width=1280, still=True)  # a user who prefers reduced motion
    browser.open(page)
    assert browser.run(moving) == 0
