"""Line charts as inline SVG for a page: no script, no fonts, colours from the page's style sheet (light and dark)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 380, 230  # in units of the view box; small, so that text stays readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
# Six colours of the style sheet times these dashes: lines stay apart without colour vision and on a grey print.
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4")
COLOURS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: `x` and `y` are equally long; `figures` stand in the legend's further columns.

    `role` "line" takes the next colour, "chance" is dashed grey, "quiet" thin grey without an entry in the legend.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    figures: Sequence[str] = ()
    role: Literal["line", "chance", "quiet"] = "line"


def line_chart(
    identifier: str,
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    columns: Sequence[str] = (),
    y_limits: tuple[float, float] | None = None,
    log: bool = False,
    steps: bool = False,
    error_bar: tuple[float, float, float] | None = None,
    description: str = "",
) -> str:
    """A `<figure>` with the chart and its legend as a table (`columns` head the lines' `figures`).

    `log` asks for a logarithmic y axis, given up when a value is not positive or all are within a factor of five.
    `steps` draws each value as a step centred on its x. `error_bar` is (x, low, high). Values that are not finite are
    left out. `identifier` is unique on the page.
    """
    lines = [_finite(line) for line in lines]
    values = [value for line in lines for value in line.y] + list(error_bar[1:] if error_bar else ())
    places = [place for line in lines for place in line.x]
    if not values:
        return f'<p class="note">{escape(title)}: nothing was recorded.</p>'
    log = log and min(values) > 0 and max(values) > 5 * min(values)
    low, high = y_limits or _limits(values, log)
    y_ticks = _log_ticks(low, high) if log else linear_ticks(low, high)
    first, last = min(places), max(places)
    if steps:
        first, last = first - 0.5, last + 0.5
    if first == last:
        first, last = first - 0.5, last + 0.5

    def x_at(value: float) -> float:
        return LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y_at(value: float) -> float:
        value = min(max(value, low), high)
        share = (
            (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
            if log
            else (value - low) / (high - low)
        )
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        y = y_at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in _x_ticks(min(places), max(places), with_first=steps):
        parts.append(
            f'<text x="{x_at(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(tick)}</text>'
        )
        parts.append(f'<line class="axis" x1="{x_at(tick):.1f}" x2="{x_at(tick):.1f}" '
                     f'y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 3}"/>')  # fmt: skip
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="label" transform="translate(10 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
                 f'text-anchor="middle">{escape(y_label)}</text>')  # fmt: skip

    rows = []
    coloured = 0
    for line in sorted(lines, key=lambda line: line.role == "line"):  # what matters is drawn last, on top
        if line.role == "line":
            style = f'class="line c{coloured % COLOURS}"'
            if dash := DASHES[coloured % len(DASHES)]:
                style += f' stroke-dasharray="{dash}"'
            coloured += 1
        else:
            style = f'class="line {line.role}"'
        parts.append(_path(line, style, x_at, y_at, steps))
        if line.role != "quiet":
            rows.append((line, style))
    if error_bar:
        x, bottom, top = x_at(error_bar[0]), y_at(error_bar[1]), y_at(error_bar[2])
        parts.append(f'<path class="error" d="M{x:.1f} {bottom:.1f}V{top:.1f}M{x - 4:.1f} {bottom:.1f}h8'
                     f'M{x - 4:.1f} {top:.1f}h8"/>')  # fmt: skip

    told = description or f"{y_label} over {x_label}; the figures stand in the table below"
    picture = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{identifier}-title {identifier}-text">'
        f'<title id="{identifier}-title">{escape(title)}</title><desc id="{identifier}-text">{escape(told)}</desc>'
        f"{''.join(parts)}</svg>"
    )
    legend = _legend(sorted(rows, key=lambda row: row[0].role != "line"), columns)
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{picture}{legend}</figure>'


def number(value: float) -> str:
    """A figure for an axis or a legend: three digits that count.

    >>> number(0.5), number(1234.0), number(0.00012), number(31.25)
    ('0.5', '1234', '0.00012', '31.2')
    """
    if value and abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values between `low` and `high`, about as many as asked for.

    >>> linear_ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = math.log10(high / low)
    every = max(1, math.ceil(decades / 5))
    factors = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    ticks = [factor * 10.0**power for power in powers if power % every == 0 for factor in factors]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def _x_ticks(first: float, last: float, with_first: bool) -> list[float]:
    ticks = [tick for tick in linear_ticks(first, last) if tick == int(tick)] if last > first else [first]
    if not with_first:
        return ticks
    # a curve over ranks begins at 1, which a round step would leave out
    return [first, *(tick for tick in ticks if tick - first > (last - first) / 12)]


def _limits(values: list[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low / 1.2, high * 1.2
    low = min(0.0, low)
    return low, high + 0.05 * (high - low) if high > low else low + 1


def _finite(line: Line) -> Line:
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    return Line(line.name, [x for x, _ in kept], [y for _, y in kept], line.figures, line.role)


def _path(line: Line, style: str, x_at, y_at, steps: bool) -> str:
    if not line.x:
        return ""
    if len(line.x) == 1 and not steps:
        return f'<circle {style} cx="{x_at(line.x[0]):.1f}" cy="{y_at(line.y[0]):.1f}" r="2.5"/>'
    if steps:
        points = [f"{x_at(x - 0.5):.1f} {y_at(y):.1f}H{x_at(x + 0.5):.1f}" for x, y in zip(line.x, line.y, strict=True)]
    else:
        points = [f"{x_at(x):.1f} {y_at(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
    return f'<path {style} d="M{"L".join(points)}"/>'


def _legend(rows: Sequence[tuple[Line, str]], columns: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = []
    for line, style in rows:
        swatch = f'<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true"><path {style} d="M0 4H30"/></svg>'
        cells = "".join(f"<td>{escape(figure)}</td>" for figure in line.figures)
        body.append(f'<tr><th scope="row">{swatch}{escape(line.name)}</th>{cells}</tr>')
    return (
        f'<table class="legend"><thead><tr><th scope="col">line</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )
