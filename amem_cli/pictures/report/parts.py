"""Small parts of the report's page: tables, pictures, figures in words."""

import base64
import io
import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

from amem_cli.person_ids import DISTRACTOR, JUNK
from amem_cli.pictures.ranked_lists import Answer
from amem_cli.pictures.report.content import Missing

THUMBNAIL = (128, 64)  # (H, W) of a frame on the page, in pixels; shown at half that on a fine screen
QUALITY = 60  # of WebP


def missing_note(missing: Missing) -> str:
    command = f" Run: <code>{escape(missing.command)}</code>" if missing.command else ""
    return f'<p class="missing">{escape(missing.why.rstrip("."))}.{command}</p>'


def html_table(caption: str, heads: Sequence[str], rows: Sequence[str], kind: str = "", visible: bool = True) -> str:
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


def picture_address(pictures: Sequence[Image.Image], columns: int) -> str:
    """Frames in rows of `columns` as one picture, as a data address (WebP)."""
    height, width = THUMBNAIL
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * width, place // columns * height))
    return webp_address(sheet)


def webp_address(picture: Image.Image) -> str:
    """A picture as a data address (WebP)."""
    content = io.BytesIO()
    picture.save(content, format="WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def json_text(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return (
        json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )


def verdict_mark(verdict: str) -> str:
    return f'<svg class="mark {verdict}" aria-hidden="true"><use href="#mark-{verdict}"/></svg>'


def person_words(answer: Answer) -> str:
    return {JUNK: "junk", DISTRACTOR: "distractor"}.get(answer.person_id, f"person {answer.person_id}")


def counted_frames(shown: int, of: int) -> str:
    if shown == of:
        return f"all {of} frames" if of > 1 else "its one frame"
    return f"{shown} of {of} frames, evenly spaced"


def percent(rate: float | None) -> str:
    return "–" if rate is None or math.isnan(rate) else f"{100 * rate:.1f}"


def interval_note(spread: Sequence[float] | None) -> str:
    return f"<small>{100 * spread[0]:.1f} to {100 * spread[1]:.1f}</small>" if spread else ""


def figure_text(value: float | None, digits: int) -> str:
    return "exact" if value is None else f"{value:.{digits}f}"


def words_of(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def duration_words(seconds: float) -> str:
    """Seconds in words.

    >>> duration_words(75), duration_words(7400), duration_words(4.2)
    ('1 min 15 s', '2 h 3 min', '4 s')
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
