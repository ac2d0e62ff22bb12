"""The report as one HTML file: it holds its pictures, style and script, asks nothing of any network, and runs nothing
that it did not bring.

The page is put together from strings, and everything that comes from outside (names, paths, options, messages) goes
through `html.escape`. Beside that, the page's own policy allows no script but ours, by its hash, and no address at all.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from amem_cli import __version__
from amem_cli.pictures.attributes import GROUP_TITLES, THRESHOLD, attribute_words, compared_attributes
from amem_cli.pictures.charts import Line, line_chart, number
from amem_cli.pictures.frames import PredictedClip, evenly_spaced, read_frames
from amem_cli.pictures.ranked_lists import Answer, RankedRow

THUMBNAIL = (128, 64)  # (H, W) of a frame on the page, in pixels; shown at half that on a fine screen
QUERY_STRIP, ANSWER_STRIP = 6, 4  # frames
SHEET_COLUMNS = 8
QUALITY = 60  # of WebP
MOST_CAMERAS = 12
COMPARED_ATTRIBUTES = 18
RANKS = ("1", "5", "10", "20")


@dataclass(frozen=True, slots=True)
class Missing:
    """In the place of a section's content: why there is none and the command that makes it (or none is known)."""

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
    """Attributes of a query and one of its answers: (A,) probabilities in [0, 1]; `what` names the answer in words."""

    what: str
    names: Sequence[str]
    query: np.ndarray
    answer: np.ndarray


@dataclass(frozen=True, slots=True)
class RankedQuery:
    """One ranked list, why it was chosen, and the attributes of some of its answers beside the query's."""

    chosen: Literal["best", "random", "worst"]
    row: RankedRow
    comparisons: Sequence[Comparison] = ()


@dataclass(frozen=True, slots=True)
class RankedLists:
    """All lists of the page; `frames_of` maps every tracklet in them to its frames, in order.

    `attributes_from` says in words where the comparisons' probabilities come from, or why there are none.
    """

    queries: Sequence[RankedQuery]
    frames_of: Mapping[str, Sequence[Path]]
    attributes_from: str | Missing


@dataclass(frozen=True, slots=True)
class Predictions:
    """Clips with MEM's predictions, and the means of their errors as `stages.show.mean_errors` gives them."""

    clips: Sequence[PredictedClip]
    errors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Curves:
    """The training curves of one stage: panel title -> line name -> (steps, values); `seconds` is what it took."""

    stage: str
    path: Path
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Link:
    """One artifact of the chain; `details` are tables by their titles (options, parents, versions)."""

    stage: str
    path: Path
    state: str
    why: str
    command: str
    sha256: str = ""
    megabytes: float | None = None
    seconds: float | None = None
    details: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What the page shows, section by section; `result` is the content of a result file."""

    dataset: str
    split: int | None
    workspace: Path
    result: Mapping[str, Any] | Missing
    camera_pairs: Sequence[CameraPair] | Missing
    ranked_lists: RankedLists | Missing
    predictions: Predictions | Missing
    curves: Sequence[Curves | Missing]
    chain: Sequence[Link]


def report_page(report: Report, frames_per_tracklet: int = 32) -> str:
    """The page, as HTML text. `frames_per_tracklet` is how many frames of a tracklet its dialog shows at most.

    Raises `BadData` when a frame cannot be read.
    """
    style = resources.files(__package__).joinpath("report.css").read_text("utf-8")
    script = resources.files(__package__).joinpath("report.js").read_text("utf-8")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )
    sheets: dict[str, Any] = {}
    sections = {
        "results": ("Results", _results(report)),
        "ranked-lists": ("Ranked lists", _ranked_lists(report.ranked_lists, sheets, frames_per_tracklet)),
        "predicted-frames": ("Predicted frames", _predictions(report.predictions)),
        "training": ("Training", _training(report.curves)),
        "chain": ("Chain of artifacts", _chain(report.chain)),
    }
    name = report.dataset + ("" if report.split is None else f", split {report.split}")
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, (title, _) in sections.items())
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-heading"><h2 id="{key}-heading">{title}</h2>{content}</section>'
        for key, (title, content) in sections.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>AMEM on {escape(name)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
{_MARKS}
<header>
<p class="kicker">Video-based person re-identification</p>
<h1>AMEM on {escape(name)}</h1>
<p class="facts">Workspace <code>{escape(str(report.workspace))}</code> · amem {escape(__version__)}</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="main">
{body}
</main>
<footer><p>One file, no network: pictures, style and script are inside. It shows people: keep it where the data set may
be kept, and do not publish it.</p></footer>
{_DIALOG}
<script type="application/json" id="sheets">{_json(sheets)}</script>
<script>{script}</script>
</body>
</html>
"""


_MARKS = (
    '<svg hidden width="0" height="0"><defs>'
    '<symbol id="mark-right" viewBox="0 0 16 16"><path d="M2 9l4 4 8-10"/></symbol>'
    '<symbol id="mark-wrong" viewBox="0 0 16 16"><path d="M3 3l10 10M13 3L3 13"/></symbol>'
    '<symbol id="mark-ignored" viewBox="0 0 16 16"><path d="M2 8h12"/></symbol>'
    "</defs></svg>"
)
_DIALOG = (
    '<dialog id="frames" aria-labelledby="frames-title"><div class="bar"><h2 id="frames-title">Frames</h2>'
    '<button type="button" id="frames-close">Close</button></div><p id="frames-facts"></p>'
    '<ol id="frames-list" class="frames"></ol></dialog>'
)


# -- results -----------------------------------------------------------------------------------------------------------


def _results(report: Report) -> str:
    result = report.result
    if isinstance(result, Missing):
        return _missing(result) + _camera_pairs(report.camera_pairs)
    interval, deviation = result.get("interval") or {}, result.get("standard_deviation")
    chance = result.get("chance") or {}
    tiles = []
    for name, value, spread, by_chance in (
        ("rank-1", result["rank"]["1"], interval.get("rank-1"), (chance.get("rank") or {}).get("1")),
        ("mAP", result["mAP"], interval.get("mAP"), chance.get("mAP")),
    ):
        notes = []
        if spread:
            notes.append(f"95 % interval {100 * spread[0]:.1f} to {100 * spread[1]:.1f}")
        elif deviation:
            over = deviation["rank"]["1"] if name == "rank-1" else deviation["mAP"]
            notes.append(f"± {100 * over:.1f} over {len(result['splits'])} splits")
        if by_chance is not None:
            notes.append(f"chance {100 * by_chance:.1f}")
        tiles.append(
            f'<div class="tile"><dt>{name}</dt><dd><strong>{_percent(value)}</strong><span class="unit"> %</span>'
            f"<span>{', '.join(notes)}</span></dd></div>"
        )
    choices = "".join(
        f"<div><dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(_words(value))}</dd></div>"
        for key, value in result["choices"].items()
    )
    return (
        f'<dl class="tiles">{"".join(tiles)}</dl>'
        f"<p>Protocol <strong>{escape(str(result['protocol']))}</strong>: {result['queries']} queries, "
        f"{result['gallery']} tracklets in the gallery.</p>"
        f"{_result_table(result)}"
        f'<div class="columns">{_cmc(result)}<div>{_camera_pairs(report.camera_pairs)}</div></div>'
        f"<h3>What these figures depend on</h3><dl class='choices'>{choices}</dl>"
    )


def _result_table(result: Mapping[str, Any]) -> str:
    rows = [("mean of splits" if "splits" in result else "as the protocol says", result)]
    if "standard_deviation" in result:
        rows.append(("standard deviation over splits", result["standard_deviation"]))
    if "rank" in (other := result.get("gallery_without_queries") or {}):
        rows.append((f"without the queries in the gallery ({other['valid_queries']} queries have a match)", other))
    if "reranked" in result:
        rows.append(("re-ranked (k-reciprocal)", result["reranked"]))
    rows.append(("chance", result["chance"]))
    body = []
    for label, figures in rows:
        rates = [*((figures.get("rank") or {}).get(rank) for rank in RANKS), *map(figures.get, ("mAP", "mAP_official"))]
        interval = figures.get("interval") or {}
        ranges = [interval.get("rank-1"), None, None, None, interval.get("mAP"), None]
        cells = "".join(
            f"<td>{_percent(rate)}{_range(spread)}</td>" for rate, spread in zip(rates, ranges, strict=True)
        )
        body.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    heads = ["per cent", *(f"rank-{rank}" for rank in RANKS), "mAP", "mAP official"]
    table = _table("Results, per cent; 95 % bootstrap intervals over the queries below", heads, body)
    if not result.get("splits"):
        return table
    body = [
        f'<tr><th scope="row">split {position}</th>'
        + "".join(f"<td>{_percent(split['rank'][rank])}</td>" for rank in RANKS)
        + f"<td>{_percent(split['mAP'])}</td><td>{_percent(split['mAP_official'])}</td></tr>"
        for position, split in enumerate(result["splits"])
    ]
    each = _table("Every split, per cent", heads, body)
    return f"{table}<details><summary>Every split</summary>{each}</details>"


def _cmc(result: Mapping[str, Any]) -> str:
    def line(name: str, curve: Sequence[float], role: Literal["line", "chance", "quiet"] = "line") -> Line:
        figures = [_percent(curve[min(int(rank), len(curve)) - 1]) for rank in RANKS]
        return Line(name, range(1, len(curve) + 1), [100 * rate for rate in curve], figures, role)

    lines = [line("this model", result["cmc"])]
    for key, name in (("gallery_without_queries", "without queries in the gallery"), ("reranked", "re-ranked")):
        if "cmc" in (result.get(key) or {}):
            lines.append(line(name, result[key]["cmc"]))
    lines += [line(f"split {i}", split["cmc"], "quiet") for i, split in enumerate(result.get("splits") or ())]
    by_chance = result["chance"].get("cmc")
    if by_chance is None and result.get("splits"):
        by_chance = np.mean([split["chance"]["cmc"] for split in result["splits"]], axis=0).tolist()
    if by_chance:
        lines.append(line("chance", by_chance, "chance"))
    interval = (result.get("interval") or {}).get("rank-1")
    title = "Cumulative matching characteristic (CMC)"
    return line_chart(
        "cmc", title, lines, x_label="rank", y_label="queries with a right answer, %", y_limits=(0, 100), steps=True,
        columns=[f"rank-{rank}" for rank in RANKS],
        error_bar=(1, 100 * interval[0], 100 * interval[1]) if interval else None,
    )  # fmt: skip


def _camera_pairs(pairs: Sequence[CameraPair] | Missing) -> str:
    heading = "<h3>By pair of cameras</h3>"
    if isinstance(pairs, Missing):
        return heading + _missing(pairs)
    asked = {pair.query_camera: 0 for pair in pairs}
    for pair in pairs:
        asked[pair.query_camera] = max(asked[pair.query_camera], pair.queries)
    query_cameras = sorted(sorted(asked, key=lambda camera: -asked[camera])[:MOST_CAMERAS])
    answer_cameras = sorted({pair.answer_camera for pair in pairs if pair.query_camera in query_cameras})[:MOST_CAMERAS]
    found = {(pair.query_camera, pair.answer_camera): pair for pair in pairs}
    body = []
    for query_camera in query_cameras:
        cells = []
        for answer_camera in answer_cameras:
            pair = found.get((query_camera, answer_camera))
            if pair is None or not pair.queries:
                why = "the same camera is ignored" if query_camera == answer_camera else "no query has a match there"
                cells.append(f'<td class="none"><span aria-hidden="true">–</span><span class="vh">{why}</span></td>')
                continue
            cells.append(
                f'<td class="heat" style="--p:{pair.rank_1:.3f}">{_percent(pair.rank_1)}'
                f"<small>mAP {_percent(pair.mAP)}<br>{pair.queries} queries</small></td>"
            )
        body.append(f'<tr><th scope="row">camera {query_camera}</th>{"".join(cells)}</tr>')
    heads = ["queries of", *(f"in camera {camera}" for camera in answer_cameras)]
    note = ""
    if len(asked) > MOST_CAMERAS:
        note = f'<p class="note">The {MOST_CAMERAS} cameras with the most queries, of {len(asked)}.</p>'
    return (
        f"{heading}{_table('Rank-1 and mAP by pair of cameras, per cent', heads, body, visible=False)}"
        '<p class="note">Rank-1 in per cent, when answers come from one camera only; over the queries that have a '
        f"match there.</p>{note}"
    )


# -- ranked lists ------------------------------------------------------------------------------------------------------

CHOSEN = {
    "best": ("The best", "Queries with the highest average precision."),
    "random": ("Drawn at random", "The fair sample: these were drawn from all other queries."),
    "worst": ("The worst", "Queries with the lowest average precision, the worst first."),
}
VERDICTS = {
    "right": "right: same person, another camera",
    "wrong": "wrong: another person",
    "ignored": "ignored: junk, or same person and same camera",
}


def _ranked_lists(lists: RankedLists | Missing, sheets: dict[str, Any], frames: int) -> str:
    if isinstance(lists, Missing):
        return _missing(lists)
    legend = "".join(f'<li class="{verdict}">{_mark(verdict)} {words}</li>' for verdict, words in VERDICTS.items())
    parts = [
        f'<ul class="key" aria-label="Marks">{legend}</ul>'
        '<p class="note">Select a strip to see the frames of its tracklet. d is the Euclidean distance of the '
        "features, 0 for equal and 2 for opposite ones.</p>"
    ]
    if isinstance(lists.attributes_from, Missing):
        parts.append(_missing(lists.attributes_from))
    else:
        parts.append(f'<p class="note">Attributes: {escape(lists.attributes_from)}.</p>')
    position = 0
    for chosen, (title, words) in CHOSEN.items():
        queries = [query for query in lists.queries if query.chosen == chosen]
        if not queries:
            continue
        parts.append(f'<h3>{title}</h3><p class="note">{words}</p>')
        for query in queries:
            position += 1
            parts.append(_ranked_query(query, position, lists.frames_of, sheets, frames))
    return "".join(parts)


def _ranked_query(
    query: RankedQuery, position: int, frames_of: Mapping[str, Sequence[Path]], sheets: dict[str, Any], frames: int
) -> str:
    row = query.row
    found = [rank for rank, answer in zip(row.ranks, row.answers, strict=True) if answer.verdict == "right"]
    facts = [_person(row.query), f"camera {row.query.camera_id}"]
    if math.isnan(row.average_precision):
        facts.append("no match in the gallery")
    else:
        facts.append(f"average precision {_percent(row.average_precision)} %")
        facts.append(f"first right answer at rank {found[0]}" if found else "no right answer among those shown")
    answers = []
    for answer, rank in zip(row.answers, row.ranks, strict=True):
        words = f"rank {rank}" if rank is not None else "no rank"
        strip = _strip(answer, frames_of[answer.tracklet], ANSWER_STRIP, sheets, frames)
        answers.append(
            f'<li class="answer {answer.verdict}"><p class="rank">{_mark(answer.verdict)} {words}'
            f'<span class="vh">, {VERDICTS[answer.verdict]}</span></p>{strip}'
            f"<p>{escape(_person(answer))}<br>camera {answer.camera_id} · d = {answer.distance:.3f}</p></li>"
        )
    comparisons = "".join(_comparison(comparison, position == 1) for comparison in query.comparisons)
    return (
        f'<article class="query" aria-labelledby="query-{position}"><div class="asked">'
        f'<h4 id="query-{position}">{escape(row.query.tracklet)}</h4><p>{escape(", ".join(facts))}</p>'
        f"{_strip(row.query, frames_of[row.query.tracklet], QUERY_STRIP, sheets, frames)}</div>"
        f'<ol class="answers" aria-label="Answers, nearest first">{"".join(answers)}</ol>'
        f"{comparisons}</article>"
    )


def _strip(answer: Answer, paths: Sequence[Path], shown: int, sheets: dict[str, Any], most: int) -> str:
    """A button with some frames of a tracklet; it opens the dialog with (nearly) all of them."""
    name = f"Tracklet {answer.tracklet}, {_person(answer)}, camera {answer.camera_id}"
    key = next((key for key, sheet in sheets.items() if sheet["tracklet"] == answer.tracklet), f"t{len(sheets)}")
    if key not in sheets:
        positions = evenly_spaced(range(len(paths)), most)
        rows = -(-len(positions) // SHEET_COLUMNS)
        sheets[key] = {
            "tracklet": answer.tracklet,
            "facts": f"{_person(answer)}, camera {answer.camera_id}: {_counted(len(positions), len(paths))}",
            "columns": SHEET_COLUMNS,
            "rows": rows,
            "frames": [position + 1 for position in positions],
            "of": len(paths),
            "sheet": _picture(read_frames([paths[position] for position in positions], THUMBNAIL), SHEET_COLUMNS),
        }
    pictures = read_frames(evenly_spaced(paths, shown), THUMBNAIL)
    height, width = THUMBNAIL
    return (
        f'<button type="button" class="strip" data-sheet="{key}" aria-haspopup="dialog" '
        f'style="--frames:{len(pictures)}">'
        f'<img src="{_picture(pictures, len(pictures))}" width="{width * len(pictures)}" height="{height}" '
        f'alt="{escape(name)}: {_counted(len(pictures), len(paths))}"></button>'
    )


def _comparison(comparison: Comparison, opened: bool) -> str:
    left, right = (np.asarray(values, dtype=float) for values in (comparison.query, comparison.answer))
    differs = (left > THRESHOLD) != (right > THRESHOLD)
    title = f"Attributes of the query and {comparison.what}: {int(differs.sum())} of {len(left)} differ"
    if not ((left > THRESHOLD) | (right > THRESHOLD)).any():
        return f'<p class="note">{escape(title)}; neither has any.</p>'
    lines, left_out = compared_attributes(comparison.names, left, right, COMPARED_ATTRIBUTES)
    body = []
    for group, column in lines:
        if column is None:
            body.append(f'<tr class="group"><th scope="rowgroup" colspan="3">{GROUP_TITLES[group]}</th></tr>')
            continue
        name = escape(attribute_words(comparison.names[column], group))
        mark = '<span aria-hidden="true">≠ </span><span class="vh">differs: </span>' if differs[column] else ""
        cells = "".join(
            f'<td><span class="meter{" has" if value > THRESHOLD else ""}" style="--p:{value:.3f}"></span>'
            f"<span>{value:.2f}</span></td>"
            for value in (left[column], right[column])
        )
        body.append(f'<tr{" class=differs" if differs[column] else ""}><th scope="row">{mark}{name}</th>{cells}</tr>')
    more = f'<p class="note">{left_out} more are not shown.</p>' if left_out else ""
    table = _table("Probability of each attribute", ["attribute", "query", "answer"], body, "bars", visible=False)
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{table}{more}</details>"


# -- predicted frames --------------------------------------------------------------------------------------------------


def _predictions(predictions: Predictions | Missing) -> str:
    if isinstance(predictions, Missing):
        return _missing(predictions)
    errors = predictions.errors
    ratio = errors.get("mse_ratio")
    verdict = ""
    if ratio is not None:
        beats = "better than" if ratio < 1 else "worse than"
        verdict = (
            f"Over these clips the predicted frames are <strong>{beats} copying</strong> the last frame: their mean "
            f"squared error is {ratio:.2f} times as large. Only below 1 has anything been learned about motion."
        )
    rows = [
        f'<tr><th scope="row">{title}</th><td>{_figure(errors["psnr" + key], 1)}</td>'
        f"<td>{_figure(errors['ssim' + key], 3)}</td><td>{_figure(errors['mse' + key], 4)}</td></tr>"
        for title, key in (("predicted frames", ""), ("copying the last frame", "_copied"))
    ]
    table = _table("Errors against the true frames, means over the clips", ["", "PSNR, dB", "SSIM", "MSE"], rows)
    clips = "".join(_predicted_clip(clip, position) for position, clip in enumerate(predictions.clips))
    return (
        f"<p>MEM sees frame t and predicts the frames after it, one from another (paper, Figure 4). {verdict}</p>"
        f'{table}<p class="controls"><button type="button" id="play" hidden>Play</button></p>'
        f'<div class="clips">{clips}</div>'
    )


def _predicted_clip(clip: PredictedClip, position: int) -> str:
    rounds = len(clip.true)
    errors = clip.errors["rounds"]
    heads = ["", "t (given)", *(f"t+{step + 1}" for step in range(rounds))]
    given = _frame_image(clip.current, "frame t")
    rows = [("true", clip.true, None), ("predicted", clip.predicted, ""),
            ("copied", np.broadcast_to(clip.current, clip.true.shape), "_copied")]  # fmt: skip
    body = []
    for name, frames, key in rows:
        cells = []
        for step, frame in enumerate(frames):
            note = ""
            if key is not None:
                found = errors[step]
                psnr = _figure(found["psnr" + key], 1)
                note = (
                    f"<small>{psnr}{'' if psnr == 'exact' else ' dB'}</small>"
                    f"<small>SSIM {_figure(found['ssim' + key], 2)}</small>"
                )
            cells.append(f"<td>{_frame_image(frame, f'{name} frame t+{step + 1}')}{note}</td>")
        first = given if name == "true" else ""
        body.append(f'<tr data-row="{name}"><th scope="row">{name}</th><td>{first}</td>{"".join(cells)}</tr>')
    caption = "True, predicted and copied frames, with PSNR and SSIM"
    return (
        f'<article class="clip" aria-labelledby="clip-{position}"><h3 id="clip-{position}">{escape(clip.title)}</h3>'
        f'{_table(caption, heads, body, "film", visible=False)}<div class="player" hidden></div></article>'
    )


def _frame_image(frame: np.ndarray, alt: str) -> str:
    height, width = THUMBNAIL
    source = _picture(read_frames([frame], THUMBNAIL), 1)
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'


# -- training ----------------------------------------------------------------------------------------------------------


def _training(curves: Iterable[Curves | Missing]) -> str:
    parts = []
    for stage in curves:
        if isinstance(stage, Missing):
            parts.append(f'<div class="stage whole">{_missing(stage)}</div>')
            continue
        took = f" · {_duration(stage.seconds)}" if stage.seconds is not None else ""
        charts = "".join(
            _curve_panel(f"curve-{stage.stage}-{position}", title, panel)
            for position, (title, panel) in enumerate(stage.panels.items())
        )
        parts.append(
            f'<div class="stage{" whole" if len(stage.panels) > 1 else ""}"><h3>{escape(stage.stage)}</h3>'
            f'<p class="note"><code>{escape(str(stage.path))}</code>{took}</p><div class="charts">{charts}</div></div>'
        )
    return f'<div class="stages">{"".join(parts)}</div>'


def _curve_panel(identifier: str, title: str, panel: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    share = title.startswith("Share")
    best = max if share else min
    lines = [
        Line(name, steps, values, [number(values[0]), number(values[-1]), number(best(values))])
        for name, (steps, values) in panel.items()
        if len(values)
    ]
    columns = ["first", "last", "highest" if share else "lowest"]
    limits = (0, 1) if share else None
    label = "share" if share else "value"
    return line_chart(
        identifier, title, lines, x_label="step", y_label=label, columns=columns, y_limits=limits, log=not share
    )


# -- chain -------------------------------------------------------------------------------------------------------------


def _chain(chain: Sequence[Link]) -> str:
    following = next((link for link in chain if link.state != "ready"), None)
    if following:
        parts = [f"<p>Next: <code>{escape(following.command)}</code></p>"]
    else:
        parts = ["<p>Every artifact is there, and each was made from the one before it that stands there now.</p>"]
    parts.append('<ol class="chain">')
    for link in chain:
        facts = [f"<code>{escape(str(link.path))}</code>"]
        if link.megabytes is not None:
            facts.append(f"{link.megabytes:.1f} MB" if link.megabytes >= 1 else f"{1000 * link.megabytes:.1f} kB")
        if link.seconds is not None:
            facts.append(f"trained in {_duration(link.seconds)}")
        lines = [f"<p>{' · '.join(facts)}</p>"]
        if link.why:
            lines.append(f"<p>{escape(link.why)}</p>")
        if link.state != "ready":
            lines.append(f"<p>Run: <code>{escape(link.command)}</code></p>")
        if link.sha256:
            lines.append(f'<p class="hash"><span>SHA-256</span> <code>{escape(link.sha256)}</code></p>')
        tables = "".join(
            f'<div><h4>{escape(title)}</h4><dl class="facts">'
            + "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in table.items())
            + "</dl></div>"
            for title, table in link.details.items()
            if table
        )
        if tables:
            names = ", ".join(title.lower() for title, table in link.details.items() if table)
            lines.append(
                f'<details><summary>{escape(names.capitalize())}</summary><div class="tables">{tables}</div></details>'
            )
        state = f'<span class="state">{escape(link.state)}</span>'
        parts.append(f'<li class="{escape(link.state)}"><h3>{escape(link.stage)} {state}</h3>{"".join(lines)}</li>')
    return "".join([*parts, "</ol>"])


# -- small parts -------------------------------------------------------------------------------------------------------


def _missing(missing: Missing) -> str:
    command = f" Run: <code>{escape(missing.command)}</code>" if missing.command else ""
    return f'<p class="missing">{escape(missing.why.rstrip("."))}.{command}</p>'


def _table(caption: str, heads: Sequence[str], rows: Sequence[str], kind: str = "", visible: bool = True) -> str:
    """A table that scrolls by itself where it is wider than the page; `rows` are finished `<tr>`."""
    first, *others = heads
    head = f'<th scope="col">{escape(first)}</th>' if first else "<td></td>"
    head += "".join(f'<th scope="col">{escape(name)}</th>' for name in others)
    told = escape(caption)
    above = f'<p class="note" aria-hidden="true">{told}</p>' if visible else ""  # a caption would scroll away
    return (
        f'{above}<div class="scroll" tabindex="0" role="group" aria-label="{told}"><table class="{kind or "plain"}">'
        f'<caption class="vh">{told}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _picture(pictures: Sequence[Image.Image], columns: int) -> str:
    """Frames in rows of `columns` as one picture, as a data address (WebP)."""
    height, width = THUMBNAIL
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * width, place // columns * height))
    content = io.BytesIO()
    sheet.save(content, format="WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return (
        json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )


def _mark(verdict: str) -> str:
    return f'<svg class="mark {verdict}" aria-hidden="true"><use href="#mark-{verdict}"/></svg>'


def _person(answer: Answer) -> str:
    return {-1: "junk", 0: "distractor"}.get(answer.person_id, f"person {answer.person_id}")


def _counted(shown: int, of: int) -> str:
    if shown == of:
        return f"all {of} frames" if of > 1 else "its one frame"
    return f"{shown} of {of} frames, evenly spaced"


def _percent(rate: float | None) -> str:
    return "–" if rate is None or math.isnan(rate) else f"{100 * rate:.1f}"


def _range(spread: Sequence[float] | None) -> str:
    return f"<small>{100 * spread[0]:.1f} to {100 * spread[1]:.1f}</small>" if spread else ""


def _figure(value: float | None, digits: int) -> str:
    return "exact" if value is None else f"{value:.{digits}f}"


def _words(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _duration(seconds: float) -> str:
    """Seconds in words.

    >>> _duration(75), _duration(7400), _duration(4.2)
    ('1 min 15 s', '2 h 3 min', '4 s')
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
