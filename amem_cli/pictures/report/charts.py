"""Line charts as inline SVG for the page: matplotlib's, in the colours of the style sheet (light and dark)."""

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from amem_cli.pictures.cmc import draw_cmc
from amem_cli.pictures.report.content import Lines
from amem_cli.pictures.style import ABSENT, COLOURS, HIGHLIGHT, INK, PRESENT, RULE, SOFT, STYLE, line_style, styled

VARIABLES = {colour: f"var(--c{place})" for place, colour in enumerate(COLOURS)}
VARIABLES |= {INK: "var(--ink)", SOFT: "var(--soft)", RULE: "var(--rule)", PRESENT: "var(--has)", ABSENT: "var(--not)"}
VARIABLES |= {HIGHLIGHT: "var(--differs)"}


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


@styled
def cmc_chart(
    curves: Mapping[str, Sequence[float]],
    chance: Sequence[float] | None,
    splits: Sequence[Sequence[float]],
    interval: Sequence[float] | None,
) -> Markup:
    """CMC curves with chance, each split as a thin line, and the 95 % interval of rank-1 of the first curve."""
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.add_subplot()
    for split in splits:
        ranks = np.arange(1, len(split) + 1)
        axes.plot(ranks[:50], 100 * np.array(split[:50]), color=SOFT, linewidth=0.6, alpha=0.5)
    draw_cmc(axes, curves, chance)
    if interval:
        axes.plot([1, 1], 100 * np.array(interval), color=COLOURS[0], marker="_", linewidth=1.2)
    figure.legend(loc="outside lower left", title="rank-1 in brackets", alignment="left")
    return inline_svg(figure, "cmc", "Cumulative matching characteristic; the table above has the rates at some ranks")


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
