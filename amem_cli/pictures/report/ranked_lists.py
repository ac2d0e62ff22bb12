"""The report's ranked lists: strips of frames, attributes beside each other, and where the model looks."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.pictures.attention import heat_over_frames, overlay
from amem_cli.pictures.attributes import GROUP_TITLES, THRESHOLD, attribute_words, compared_attributes
from amem_cli.pictures.frames import evenly_spaced, read_frames
from amem_cli.pictures.ranked_lists import VERDICT_MEANINGS, Answer
from amem_cli.pictures.report.content import Attention, Comparison, Missing, RankedLists, RankedQuery
from amem_cli.pictures.report.parts import (
    THUMBNAIL,
    counted_frames,
    html_table,
    missing_note,
    percent,
    person_words,
    picture_address,
    verdict_mark,
)

QUERY_STRIP, ANSWER_STRIP = 6, 4  # frames
SHEET_COLUMNS = 8
COMPARED_ATTRIBUTES = 18
CHOSEN = {
    "best": ("The best", "Queries with the highest average precision."),
    "random": ("Drawn at random", "The fair sample: these were drawn from all other queries."),
    "worst": ("The worst", "Queries with the lowest average precision, the worst first."),
}


def ranked_lists_section(lists: RankedLists | Missing, sheets: dict[str, Any], frames: int) -> str:
    if isinstance(lists, Missing):
        return missing_note(lists)
    legend = "".join(
        f'<li class="{verdict}">{verdict_mark(verdict)} {words}</li>' for verdict, words in VERDICT_MEANINGS.items()
    )
    parts = [
        f'<ul class="key" aria-label="Marks">{legend}</ul>'
        '<p class="note">Select a strip to see the frames of its tracklet. d is the Euclidean distance of the '
        "features, 0 for equal and 2 for opposite ones.</p>"
    ]
    if isinstance(lists.attributes_from, Missing):
        parts.append(missing_note(lists.attributes_from))
    else:
        parts.append(f'<p class="note">Attributes: {escape(lists.attributes_from)}.</p>')
    if lists.no_attention is not None:
        parts.append(missing_note(lists.no_attention))
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
    facts = [person_words(row.query), f"camera {row.query.camera_id}"]
    if math.isnan(row.average_precision):
        facts.append("no match in the gallery")
    else:
        facts.append(f"average precision {percent(row.average_precision)} %")
        facts.append(f"first right answer at rank {found[0]}" if found else "no right answer among those shown")
    answers = []
    for answer, rank in zip(row.answers, row.ranks, strict=True):
        words = f"rank {rank}" if rank is not None else "no rank"
        strip = _strip(answer, frames_of[answer.tracklet], ANSWER_STRIP, sheets, frames)
        answers.append(
            f'<li class="answer {answer.verdict}"><p class="rank">{verdict_mark(answer.verdict)} {words}'
            f'<span class="vh">, {VERDICT_MEANINGS[answer.verdict]}</span></p>{strip}'
            f"<p>{escape(person_words(answer))}<br>camera {answer.camera_id} · d = {answer.distance:.3f}</p></li>"
        )
    comparisons = "".join(_comparison(comparison, position == 1) for comparison in query.comparisons)
    return (
        f'<article class="query" aria-labelledby="query-{position}"><div class="asked">'
        f'<h4 id="query-{position}">{escape(row.query.tracklet)}</h4><p>{escape(", ".join(facts))}</p>'
        f"{_strip(row.query, frames_of[row.query.tracklet], QUERY_STRIP, sheets, frames)}</div>"
        f'<ol class="answers" aria-label="Answers, nearest first">{"".join(answers)}</ol>'
        f"{comparisons}{_attention(query.attention, position == 1)}</article>"
    )


def _strip(answer: Answer, paths: Sequence[Path], shown: int, sheets: dict[str, Any], most: int) -> str:
    """A button with some frames of a tracklet; it opens the dialog with (nearly) all of them."""
    name = f"Tracklet {answer.tracklet}, {person_words(answer)}, camera {answer.camera_id}"
    key = next((key for key, sheet in sheets.items() if sheet["tracklet"] == answer.tracklet), f"t{len(sheets)}")
    if key not in sheets:
        positions = evenly_spaced(range(len(paths)), most)
        rows = -(-len(positions) // SHEET_COLUMNS)
        sheets[key] = {
            "tracklet": answer.tracklet,
            "facts": f"{person_words(answer)}, camera {answer.camera_id}: {counted_frames(len(positions), len(paths))}",
            "columns": SHEET_COLUMNS,
            "rows": rows,
            "frames": [position + 1 for position in positions],
            "of": len(paths),
            "sheet": picture_address(
                read_frames([paths[position] for position in positions], THUMBNAIL), SHEET_COLUMNS
            ),
        }
    pictures = read_frames(evenly_spaced(paths, shown), THUMBNAIL)
    height, width = THUMBNAIL
    return (
        f'<button type="button" class="strip" data-sheet="{key}" aria-haspopup="dialog" '
        f'style="--frames:{len(pictures)}">'
        f'<img src="{picture_address(pictures, len(pictures))}" width="{width * len(pictures)}" height="{height}" '
        f'alt="{escape(name)}: {counted_frames(len(pictures), len(paths))}"></button>'
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
    table = html_table("Probability of each attribute", ["attribute", "query", "answer"], body, "bars", visible=False)
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{table}{more}</details>"


def _attention(attention: Attention | None, opened: bool) -> str:
    """The query's middle clip under the heat of BF, f_B, f_A and f_M, a row of frames each."""
    if attention is None:
        return ""
    frames = read_frames(attention.frames, THUMBNAIL)
    rows = [("frames", "the query's middle clip", frames)]
    for row in attention.rows:
        heats, largest = heat_over_frames(row.heat, len(frames)), float(np.max(row.heat))
        rows.append((row.name, row.note, [overlay(*pair, largest) for pair in zip(frames, heats, strict=True)]))
    height, width = THUMBNAIL
    body = [
        f'<tr><th scope="row">{escape(name)}<small>{escape(note)}</small></th>'
        f'<td><img src="{picture_address(shown, len(shown))}" width="{width * len(shown)}" height="{height}" '
        f'alt="{escape(name)}: {escape(note)}"></td></tr>'
        for name, note, shown in rows
    ]
    table = html_table("Class-activation maps", ["", f"frames 1 to {len(frames)}"], body, "attention", visible=False)
    return (
        f"<details{' open' if opened else ''}><summary>Where f_B, f_A and f_M look in the query</summary>{table}"
        '<p class="note">Bright places make the query\'s feature what it is; each row has a scale of its own, and the '
        "share of f_s that comes from it stands below its name.</p></details>"
    )
