"""The report as one HTML file: its content, section by section, which `tools/report.py` collects; and the page."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from amem_cli.artifacts.results import queries_of, rows_of
from amem_cli.data.chain import ArtifactState
from amem_cli.data.clips import evenly_spaced
from amem_cli.data.images import open_rgb
from amem_cli.pictures.attention import Attention, heat_over_frames
from amem_cli.pictures.attributes import THRESHOLD, AttributedTracklet, comparison_figure
from amem_cli.pictures.cmc import MOST_RANKS, draw_cmc
from amem_cli.pictures.frames import read_frames, side_by_side
from amem_cli.pictures.html import clock, render, webp
from amem_cli.pictures.predicted_frames import PredictedClip
from amem_cli.pictures.ranked_lists import VERDICTS, RankedRow
from amem_cli.pictures.style import ABSENT, COLOURS, HIGHLIGHT, INK, PRESENT, RULE, SOFT, STYLE, line_style, styled

THUMBNAIL = (128, 64)  # (H, W) of a frame on the page; a high-resolution screen displays it at half that size
SHEET_COLUMNS = 8
COMPARED_ATTRIBUTES = 18
MOST_CAMERAS = 12
SAMPLES, SAMPLE_HEIGHT = 8, 720  # sample pictures of each training, and their height in pixels
RANKS = ("1", "5", "10", "20")
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> (steps, values)
# colours of the charts, as variables of the style sheet (light and dark)
VARIABLES = {colour: f"var(--c{place})" for place, colour in enumerate(COLOURS)}
VARIABLES |= {INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)", PRESENT: "var(--has)", ABSENT: "var(--not)"}
VARIABLES |= {HIGHLIGHT: "var(--differs)"}


@dataclass(frozen=True, slots=True)
class Missing:
    """Takes the place of a section: why it cannot be made, and the command that makes its input (if one is known)."""

    why: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class CameraPair:
    """Queries of one camera against the gallery of another: rates in [0, 1] over the queries with a match there."""

    query_camera: int
    answer_camera: int
    queries: int
    rank_1: float
    mAP: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Attributes of a query and one of its answers: (A,) probabilities in [0, 1]; `answer_is` describes the answer."""

    answer_is: str
    names: Sequence[str]
    query: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """One ranked list, why it was chosen ("best", "worst", "random"), attributes, and attention maps."""

    chosen: str
    row: RankedRow
    comparisons: Sequence[Comparison] = ()
    attention: Attention | None = None


@dataclass(frozen=True, slots=True)
class RankedLists:
    """All lists of the page, with the frames of every tracklet in them; the origin of the `attributes`, or why there
    are none; why no query has attention maps."""

    queries: Sequence[RankedQuery]
    frames_of: Mapping[str, Sequence[Path]]
    attributes: str | Missing
    no_attention: Missing | None = None


@dataclass(frozen=True, slots=True)
class Predictions:
    """Clips with MEM's predictions, and the `mean_errors` of all measured ones."""

    clips: Sequence[PredictedClip]
    errors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Curves:
    """The training curves of one stage: panel title -> lines. `seconds` is the duration of the training.

    `samples` are the sample pictures of its validations, by the number of steps done.
    """

    stage: str
    path: Path
    panels: Mapping[str, Lines]
    seconds: float | None = None
    samples: Sequence[tuple[int, Path]] = ()


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact of the chain; `details` are tables by their titles (options, parents, versions)."""

    state: ArtifactState
    sha256: str = ""
    megabytes: float | None = None
    seconds: float | None = None
    details: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The content of the page; `result` is the content of a result file, `notes` are remarks about the data set.

    `generated`: its people are generated.
    """

    dataset: str
    split: int | None
    model: str
    workspace: Path
    generated: bool
    notes: Sequence[str]
    result: Mapping[str, Any] | Missing
    camera_pairs: Sequence[CameraPair] | Missing
    ranked_lists: RankedLists | Missing
    predictions: Predictions | Missing
    curves: Sequence[Curves | Missing]
    artifacts: Sequence[Artifact]


def report_page(report: Report, frames_per_tracklet: int = 32) -> str:
    """The page, as HTML text. `frames_per_tracklet` is the number of frames in the dialog of a tracklet.

    Raises `BadData` for a tracklet of which no frame can be read.
    """
    helpers: list[Any] = [percent, decimals, clock, address, missing, result_rows, queries_of, cmc, camera_table]
    helpers += [comparison_chart, charts, samples, side_by_side, read_frames, heat_over_frames]
    lists = report.ranked_lists
    tracklets = _Tracklets({} if isinstance(lists, Missing) else lists.frames_of, frames_per_tracklet)
    name = report.dataset if report.split is None else f"{report.dataset}, split {report.split}"
    return render(
        __package__, "report", helpers, report=report, name=name, tracklets=tracklets, thumbnail=THUMBNAIL,
        verdicts=VERDICTS,
    )  # fmt: skip


class _Tracklets:
    """Frames of tracklets as pictures: a `strip` of a few frames, and `sheets` of nearly all for the dialog."""

    def __init__(self, frames_of: Mapping[str, Sequence[Path]], most: int):
        self._frames_of = frames_of
        self._key_of = {name: f"t{place}" for place, name in enumerate(frames_of)}
        self.sheets = {key: self._sheet(name, most) for name, key in self._key_of.items()}

    def strip(self, name: str, shown: int) -> dict[str, Any]:
        """Some frames side by side, how many they are, and the key of the tracklet's sheet."""
        pixels = read_frames(evenly_spaced(self._frames_of[name], shown), THUMBNAIL)
        return {"key": self._key_of[name], "pixels": side_by_side(pixels, len(pixels), 0), "frames": len(pixels)}

    def _sheet(self, name: str, most: int) -> dict[str, str]:
        paths = self._frames_of[name]
        chosen = evenly_spaced(paths, most)
        frames = read_frames(chosen, THUMBNAIL)
        count = f"{len(chosen)} of {len(paths)} frames, evenly spaced" if len(chosen) < len(paths) else "all frames"
        count += f", without {len(chosen) - len(frames)} that cannot be read" * (len(frames) < len(chosen))
        return {"tracklet": name, "frames": count, "source": address(side_by_side(frames, SHEET_COLUMNS, 2, paper=128))}


def address(pixels: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as a data address."""
    return webp(Image.fromarray(pixels), quality=60)


def missing(section: object) -> bool:
    return isinstance(section, Missing)


def result_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the result table: a label, and rates with their 95 % intervals (or None) for each column."""
    cells = []
    splits = [(f"split {place}", split) for place, split in enumerate(result.get("splits") or ())]
    for label, figures in rows_of(result) + splits:
        rates = [*(figures["rank"].get(rank) for rank in RANKS), *map(figures.get, ("mAP", "mAP_official"))]
        interval = figures.get("interval") or {}
        intervals = [interval.get("rank-1"), None, None, None, interval.get("mAP"), None]
        cells.append({"label": label, "rates": [*zip(rates, intervals, strict=True)]})
    return cells


@styled
def cmc(report: Report) -> Markup:
    """The chart of the result's CMC curves with chance, each split as a thin line, and the 95 % interval of rank-1."""
    result: Any = report.result
    curves = {report.model: result["cmc"]}
    for key, name in (("gallery_without_queries", "without queries in the gallery"), ("reranked", "re-ranked")):
        if "cmc" in (result.get(key) or {}):
            curves[name] = result[key]["cmc"]
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.add_subplot()
    for split in result.get("splits") or ():
        shown = 100 * np.array(split["cmc"][:MOST_RANKS])
        axes.plot(np.arange(1, len(shown) + 1), shown, color=SOFT, linewidth=0.6, alpha=0.5)
    draw_cmc(axes, curves, result["chance"].get("cmc"))
    if interval := (result.get("interval") or {}).get("rank-1"):
        axes.plot([1, 1], 100 * np.array(interval), color=COLOURS[0], marker="_", linewidth=1.2)
    figure.legend(loc="outside lower left", title="rank-1 in brackets", alignment="left")
    return inline_svg(figure, "cmc", "Cumulative matching characteristic; the table above has the rates at some ranks")


def camera_table(pairs: Sequence[CameraPair]) -> dict[str, Any]:
    """The cameras with the most queries as rows, the cameras of their answers as columns, and the pairs by both."""
    queries: dict[int, int] = {}
    for pair in pairs:
        queries[pair.query_camera] = max(queries.get(pair.query_camera, 0), pair.queries)
    rows = sorted(sorted(queries, key=lambda camera: -queries[camera])[:MOST_CAMERAS])
    columns = sorted({pair.answer_camera for pair in pairs if pair.query_camera in rows})[:MOST_CAMERAS]
    cells = {(pair.query_camera, pair.answer_camera): pair for pair in pairs if pair.queries}
    heads = [f"in camera {camera}" for camera in columns]
    return {"rows": rows, "columns": columns, "heads": heads, "cells": cells, "of": len(queries)}


def comparison_chart(comparison: Comparison, identifier: str) -> dict[str, Any]:
    """A comparison of attributes: how many differ, of how many, and the chart, if there is an attribute to show."""
    pair = comparison.query, comparison.answer
    query, answer = (AttributedTracklet("", (), np.asarray(values, dtype=float)) for values in pair)
    has_query, has_answer = (each.probabilities > THRESHOLD for each in (query, answer))
    differ = [name for name, one, other in zip(comparison.names, has_query, has_answer, strict=True) if one != other]
    chart = None
    if (has_query | has_answer).any():
        figure = comparison_figure(query, answer, comparison.names, COMPARED_ATTRIBUTES)
        chart = inline_svg(figure, identifier, f"Attributes that differ: {', '.join(differ) or 'none'}")
    return {"differ": len(differ), "of": len(comparison.names), "chart": chart}


def charts(curves: Curves) -> list[tuple[str, Markup]]:
    """The charts of one training with their titles."""
    return [
        (title, lines_chart(f"{curves.stage}-{place}", title, lines, bool({"accuracy", "mAP", "mA"} & lines.keys())))
        for place, (title, lines) in enumerate(curves.panels.items())
    ]


def samples(curves: Curves) -> list[tuple[int, np.ndarray]]:
    """Sample pictures of a training with their steps, evenly spaced from the first to the last."""
    last = len(curves.samples) - 1
    pictures = []
    for place in sorted({round(part * last / (SAMPLES - 1)) for part in range(SAMPLES)}) if last >= 0 else ():
        step, path = curves.samples[place]
        picture = open_rgb(path)
        picture.thumbnail((4 * SAMPLE_HEIGHT, SAMPLE_HEIGHT))
        pictures.append((step, np.asarray(picture)))
    return pictures


def percent(rate: float | None) -> str:
    return "–" if rate is None or math.isnan(rate) else f"{100 * rate:.1f}"


def decimals(value: float | None, digits: int) -> str:
    return "exact" if value is None else f"{value:.{digits}f}"


@styled
def lines_chart(identifier: str, title: str, lines: Lines, rates: bool = False) -> Markup:
    """Lines over the steps of a training; the legend gives each line's last value.

    Rates go from 0 to 1. Other values that differ much have a logarithmic axis.
    """
    figure = Figure(figsize=(4.2, 2.7 + 0.2 * (-(-len(lines) // 2))), layout="constrained")
    axes = figure.add_subplot()
    for place, (name, (steps, values)) in enumerate(lines.items()):
        marker = "o" if len(steps) == 1 else ""
        axes.plot(steps, values, label=f"{name} {number(values[-1])}", marker=marker, **line_style(place))
    every = np.concatenate([values for _, values in lines.values()])
    if rates:
        axes.set_ylim(0, 1)
    elif every.min() > 0 and every.max() > 5 * every.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="step", ylabel="rate" if rates else "value")
    axes.grid()
    figure.legend(loc="outside lower left", ncols=2)
    last = ", ".join(f"{name} {number(values[-1])}" for name, (_, values) in lines.items())
    return inline_svg(figure, identifier, f"{title}; last values: {last}")


def inline_svg(figure: Figure, identifier: str, description: str) -> Markup:
    """A figure as an `<svg>` element, its colours as variables of the style sheet; the same figure, the same text.

    `identifier` keeps the ids within the element unique on the page.
    """
    content = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": f"amem-{identifier}"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    text = content.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| xmlns(:\w+)?=\"[^\"]*\"", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # of parts that nothing refers to
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(f'<svg role="img" aria-label="{escape(description)}"') + Markup(text[text.index("<svg") + 4 :])


def number(value: float) -> str:
    """Three significant digits.

    >>> number(0.5), number(1234.0), number(0.00012), number(31.25)
    ('0.5', '1234', '0.00012', '31.2')
    """
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
