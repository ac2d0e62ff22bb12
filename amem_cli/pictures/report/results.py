"""The report's first section: the result with its conventions, CMC curves, pairs of cameras."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal

import numpy as np

from amem_cli.pictures.charts import Line, line_chart
from amem_cli.pictures.report.content import CameraPair, Missing, Report
from amem_cli.pictures.report.parts import html_table, interval_note, missing_note, percent, words_of

MOST_CAMERAS = 12
RANKS = ("1", "5", "10", "20")


def results_section(report: Report) -> str:
    result = report.result
    if isinstance(result, Missing):
        return missing_note(result) + _camera_pairs(report.camera_pairs)
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
            f'<div class="tile"><dt>{name}</dt><dd><strong>{percent(value)}</strong><span class="unit"> %</span>'
            f"<span>{', '.join(notes)}</span></dd></div>"
        )
    choices = "".join(
        f"<div><dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(words_of(value))}</dd></div>"
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
    several = result.get("standard_deviation") is not None  # one split has none
    rows = [("mean of splits" if several else "as the protocol says", result)]
    if several:
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
            f"<td>{percent(rate)}{interval_note(spread)}</td>" for rate, spread in zip(rates, ranges, strict=True)
        )
        body.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    heads = ["per cent", *(f"rank-{rank}" for rank in RANKS), "mAP", "mAP official"]
    table = html_table("Results, per cent; 95 % bootstrap intervals over the queries below", heads, body)
    if not result.get("splits"):
        return table
    body = [
        f'<tr><th scope="row">split {position}</th>'
        + "".join(f"<td>{percent(split['rank'][rank])}</td>" for rank in RANKS)
        + f"<td>{percent(split['mAP'])}</td><td>{percent(split['mAP_official'])}</td></tr>"
        for position, split in enumerate(result["splits"])
    ]
    each = html_table("Every split, per cent", heads, body)
    return f"{table}<details><summary>Every split</summary>{each}</details>"


def _cmc(result: Mapping[str, Any]) -> str:
    def line(name: str, curve: Sequence[float], role: Literal["line", "chance", "quiet"] = "line") -> Line:
        figures = [percent(curve[min(int(rank), len(curve)) - 1]) for rank in RANKS]
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
        return heading + missing_note(pairs)
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
                f'<td class="heat" style="--p:{pair.rank_1:.3f}">{percent(pair.rank_1)}'
                f"<small>mAP {percent(pair.mAP)}<br>{pair.queries} queries</small></td>"
            )
        body.append(f'<tr><th scope="row">camera {query_camera}</th>{"".join(cells)}</tr>')
    heads = ["queries of", *(f"in camera {camera}" for camera in answer_cameras)]
    note = ""
    if len(asked) > MOST_CAMERAS:
        note = f'<p class="note">The {MOST_CAMERAS} cameras with the most queries, of {len(asked)}.</p>'
    return (
        f"{heading}{html_table('Rank-1 and mAP by pair of cameras, per cent', heads, body, visible=False)}"
        '<p class="note">Rank-1 in per cent, when answers come from one camera only; over the queries that have a '
        f"match there.</p>{note}"
    )
