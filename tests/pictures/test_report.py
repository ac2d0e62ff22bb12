"""The report's page: well-formed, self-contained, escaped, small; and how it behaves in a real browser."""

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

from amem_cli.pictures.attention import HeatRow
from amem_cli.pictures.charts import Line, line_chart, linear_ticks
from amem_cli.pictures.frames import PredictedClip
from amem_cli.pictures.ranked_lists import Answer, RankedRow
from amem_cli.pictures.report.content import (
    Attention,
    CameraPair,
    Comparison,
    Curves,
    Link,
    Missing,
    Predictions,
    RankedLists,
    RankedQuery,
    Report,
)
from amem_cli.pictures.report.page import report_page
from tests.browser import Browser, needs_chromium

HOSTILE = '<script>window.hacked = 1</script>"\'><img src=x onerror="window.hacked = 1">&lt;'
VOID = {"meta", "link", "img", "br", "input", "hr"}
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


@pytest.fixture
def content(tmp_path: Path) -> Report:
    return make_report(tmp_path)


def make_report(folder: Path, name: str = "0001C1T0001", texture: bool = False) -> Report:
    """A report of everything, small; every name that comes from outside is `name` or holds it."""
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    frames = []
    for number in range(20):
        pixels = generator.integers(0, 256, (64, 32, 3)) if texture else np.full((64, 32, 3), 12 * number)
        frames.append(folder / f"{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(frames[-1])
    verdicts = ("ignored", "wrong", "right", "wrong")
    answers = tuple(
        Answer(frames[0], place + 1, 2, 0.1 * place, verdict, f"{name}-{place}")
        for place, verdict in enumerate(verdicts)
    )
    row = RankedRow(Answer(frames[0], 1, 1, 0.0, "ignored", name), answers, 0.5)
    attention = Attention(
        generator.integers(0, 256, (4, 64, 32, 3), dtype=np.uint8),
        [HeatRow("BF", "each of T' = 2", generator.random((2, 4, 2))), HeatRow(name, name, -generator.random((4, 2)))],
    )
    comparison = Comparison(
        "the answer at rank 1 (wrong)",
        NAMES,
        np.array([0.9, 0.1, 0.8, 0.2, 0.1, 0.1]),
        np.array([0.8, 0.7, 0.1, 0.6, 0, 0]),
    )
    figures = {"rank": {"1": 0.5, "5": 0.6, "10": 0.7, "20": 0.8}, "mAP": 0.4, "mAP_official": 0.35}
    result = figures | {
        "protocol": name, "queries": 8, "valid_queries": 8, "gallery": 20, "cmc": [0.5, 0.55, 0.6],
        "choices": {"ties": f"stable {name}", "rerank": False},
        "interval": {"rank-1": [0.3, 0.7], "mAP": [0.2, 0.6]},
        "gallery_without_queries": figures | {"cmc": [0.4, 0.5, 0.6], "valid_queries": 7},
        "chance": {"rank": figures["rank"], "mAP": 0.1, "cmc": [0.05, 0.1, 0.15]},
    }  # fmt: skip
    clip = PredictedClip(
        name,
        *(generator.integers(0, 256, shape, dtype=np.uint8) for shape in ((64, 32, 3), (3, 64, 32, 3), (3, 64, 32, 3))),
    )
    errors = {key: 0.5 for key in ("mse", "psnr", "ssim", "mse_copied", "psnr_copied", "ssim_copied", "mse_ratio")}
    panels = {"Loss terms": {name: ([0, 1, 2], [3.0, 2.0, 1.0]), "other": ([0, 1], [1.0, 0.001])}}
    samples = [(step, frames[step]) for step in range(1, 20)]
    link = Link("train-arm", Path(name), "ready", "", "", "ab" * 32, 1.5, 75, {"Options": {name: name}})
    return Report(
        dataset=name,
        split=None,
        workspace=Path(name),
        result=result,
        camera_pairs=[CameraPair(1, 2, 5, 0.4, 0.5), CameraPair(2, 1, 3, 0.2, 0.3)],
        ranked_lists=RankedLists(
            [
                RankedQuery("best", row, [comparison], attention),
                RankedQuery("worst", replace(row, average_precision=float("nan"))),
            ],
            {answer.tracklet: frames for answer in (row.query, *answers)},
            name,
        ),
        predictions=Predictions([clip], errors),
        curves=[Curves("train-arm", Path(name), panels, 75.0, samples), Missing(name, name)],
        chain=[link, Link("evaluate", Path(name), "missing", name, name)],
    )


def test_the_page_is_well_formed_and_every_part_can_be_named(content: Report) -> None:
    page = Page(report_page(content))
    assert page.faults == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    images = page.all("img")
    assert images
    assert all(image.get("alt") and image.get("width") for image in images)
    assert all(header.get("scope") for header in page.all("th"))
    assert all(button.get("type") == "button" for button in page.all("button"))
    referred = {
        name
        for _, attributes in page.elements
        for key in ("aria-labelledby", "aria-describedby")
        for name in attributes.get(key, "").split()
    }
    assert referred <= set(ids)
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(headings))  # no level is skipped
    for landmark in ("header", "nav", "main", "footer", "dialog"):
        assert len(page.all(landmark)) == 1, landmark


def test_the_page_asks_nothing_of_any_network(content: Report) -> None:
    text = report_page(content)
    page = Page(text)
    for _, attributes in page.elements:
        for key in ("src", "href", "srcset", "action", "poster", "data"):
            address = attributes.get(key, "#")
            assert address.startswith(("data:", "#")), f"{key}={address[:80]}"
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"data:[^\"')]*", "", text))
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_names_from_outside_do_nothing(tmp_path: Path) -> None:
    page = Page(report_page(make_report(tmp_path, HOSTILE)))
    assert page.faults == []
    assert len(page.all("script")) == 2  # the frames' data and our own
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert any(word == f"AMEM on {HOSTILE}" for word in page.words)  # shown as it is


def test_verdicts_are_told_without_colour(content: Report) -> None:
    text = report_page(content)
    for verdict in ("right", "wrong", "ignored"):
        assert re.search(f'class="answer {verdict}".*?#mark-{verdict}.*?, {verdict}: ', text), verdict


def test_disagreements_are_marked_and_counted(content: Report) -> None:
    text = report_page(content)
    assert "3 of 6 differ" in text  # long hair, red, jeans
    assert len([row for row in Page(text).all("tr") if row.get("class") == "differs"]) == 3


def test_what_is_missing_is_said_with_its_command(tmp_path: Path) -> None:
    missing = Missing("There is nothing yet", "amem evaluate --protocol mars")
    report = replace(
        make_report(tmp_path), result=missing, camera_pairs=missing, ranked_lists=missing, predictions=missing
    )
    text = report_page(report)
    assert Page(text).faults == []
    assert text.count("<code>amem evaluate --protocol mars</code>") == 4


def test_results_over_splits_show_every_split(tmp_path: Path) -> None:
    report = make_report(tmp_path)
    whole = dict(report.result)
    split = {key: whole[key] for key in ("rank", "mAP", "mAP_official", "cmc", "chance")}
    chance = {key: whole["chance"][key] for key in ("rank", "mAP")}
    for key in ("interval", "gallery_without_queries"):
        del whole[key]
    deviation = {"rank": {rank: 0.03 for rank in whole["rank"]}, "mAP": 0.02, "mAP_official": 0.02}
    over = whole | {"splits": [split] * 3, "standard_deviation": deviation, "chance": chance}
    text = report_page(replace(report, result=over))
    assert Page(text).faults == []
    assert "± 3.0 over 3 splits" in text
    assert "split 2" in text
    assert 'class="line quiet"' in text
    alone = report_page(replace(report, result=over | {"splits": [split], "standard_deviation": None}))
    assert Page(alone).faults == []
    assert "standard deviation" not in alone


def test_samples_are_a_filmstrip_from_the_first_to_the_last_look(content: Report) -> None:
    strip = report_page(content).partition('filmstrip"')[2].partition("</section>")[0]
    steps = [int(step) for step in re.findall(r"<figcaption>after (\d+) steps", strip)]
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (1, 19)
    assert {later - earlier for earlier, later in itertools.pairwise(steps)} <= {2, 3}  # evenly
    assert "8 of 19 looks" in report_page(content)


def test_attention_is_one_row_of_frames_for_each_part(content: Report) -> None:
    page = Page(report_page(content))
    wide = [image["alt"] for image in page.all("img") if int(image["width"]) == 4 * 64]
    rows = [alt for alt in wide if not alt.startswith("Tracklet")]
    assert rows == ["frames: the query's middle clip", "BF: each of T' = 2", "0001C1T0001: 0001C1T0001"]
    lists = replace(content.ranked_lists, no_attention=Missing("No model", "amem train-amem"))
    assert "No model. Run: <code>amem train-amem</code>" in report_page(replace(content, ranked_lists=lists))


def test_rates_on_held_out_people_lie_between_0_and_1_and_the_highest_is_told(content: Report) -> None:
    panel = {"Held-out training people": {"mAP": ([9, 19, 29], [0.2, 0.6, 0.4])}}
    text = report_page(replace(content, curves=[Curves("train-amem", Path("m"), panel, None)]))
    table = text.partition("Held-out training people")[2]
    assert "highest" in table
    assert re.search(r">0\.2<.*>0\.4<.*>0\.6<", table)


def test_frames_of_a_tracklet_are_capped(content: Report) -> None:
    few, many = (len(report_page(content, frames)) for frames in (2, 32))
    assert few < many
    assert "2 of 20 frames, evenly spaced" in report_page(content, 2)
    assert "all 20 frames" in report_page(content, 32)


# -- charts ------------------------------------------------------------------------------------------------------------


def test_ticks_are_round() -> None:
    assert linear_ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert linear_ticks(3, 119) == [50, 100]


def test_a_chart_draws_one_path_for_each_line_and_leaves_out_what_is_not_finite() -> None:
    lines = [Line("a", [0, 1, 2], [1.0, float("nan"), 3.0]), Line("b", [0, 1], [5.0, 6.0], role="chance")]
    chart = line_chart("x", "<title>", lines, x_label="step", y_label="value")
    paths = re.findall(r'<path class="line (\w+)"[^>]*d="M([^"]*)"', chart.partition("</svg>")[0])
    assert [(role, points.count("L")) for role, points in paths] == [("chance", 1), ("c0", 1)]
    assert "&lt;title&gt;" in chart
    assert "nan" not in chart


def test_a_chart_without_figures_says_so() -> None:
    assert "nothing was recorded" in line_chart("x", "Loss", [], x_label="step", y_label="value")


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


def write_page(folder: Path, name: str = "0001C1T0001") -> Path:
    page = folder / "report.html"
    page.write_text(report_page(make_report(folder / "frames", name)), "utf-8")
    return page


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("name", ["0001C1T0001", HOSTILE], ids=["plain", "hostile"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_opens_without_a_complaint_and_fits_the_window(
    browser: Browser, tmp_path: Path, width: int, dark: bool, name: str
) -> None:
    browser.messages.clear()
    browser.look(width=width, dark=dark)
    browser.open(write_page(tmp_path, name))
    assert browser.messages == []
    assert browser.run("window.hacked") is None
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("[...document.images].filter(i => i.src && !i.naturalWidth).length") == 0
    ink, paper = browser.run("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert (brightness(ink) > brightness(paper)) == dark
    shot = Image.open(browser.picture(tmp_path / "shot.png")).convert("L")
    assert (np.asarray(shot).mean() < 100) == dark


@needs_chromium
@pytest.mark.browser
def test_the_keyboard_opens_a_tracklet_and_gets_its_place_back(browser: Browser, tmp_path: Path) -> None:
    browser.look(width=1280)
    browser.open(write_page(tmp_path))
    browser.messages.clear()
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    browser.run("document.querySelector('.answer .strip').focus()")
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter")
    assert browser.run("document.querySelector('dialog').open")
    assert browser.run("document.querySelector('dialog').contains(document.activeElement)")
    assert browser.run("document.querySelectorAll('#frames-list li').length") == 20
    assert browser.run("document.querySelector('#frames-list span').getAttribute('aria-label')") == "frame 1 of 20"
    assert browser.run("document.getElementById('frames-title').textContent") == "0001C1T0001-0"
    browser.press("Escape")
    assert not browser.run("document.querySelector('dialog').open")
    assert browser.run("document.activeElement === document.querySelector('.answer .strip')")
    browser.run("document.activeElement.click(); document.getElementById('frames-close').click()")
    assert not browser.run("document.querySelector('dialog').open")
    assert browser.messages == []


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("still", [False, True])
def test_the_animation_stops_on_request_and_waits_for_those_who_want_no_motion(
    browser: Browser, tmp_path: Path, still: bool
) -> None:
    browser.look(width=1280, still=still)
    browser.open(write_page(tmp_path))
    changes = """new Promise(done => {
        const image = document.querySelectorAll('.player img')[1], first = image.src;
        setTimeout(() => done(image.src !== first), 700);
    })"""
    assert browser.run(changes) is not still
    browser.run("document.getElementById('play').click()")
    assert browser.run("document.getElementById('play').textContent").startswith("Pause" if still else "Play")
    assert browser.run(changes) is still
    browser.look(width=1280, still=True)


@needs_chromium
@pytest.mark.browser
def test_paper_shows_what_was_folded(browser: Browser, tmp_path: Path) -> None:
    browser.look(width=1280, still=True)
    browser.open(write_page(tmp_path))
    assert browser.run("document.querySelectorAll('details:not([open])').length") > 0
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") > 0


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3]))
