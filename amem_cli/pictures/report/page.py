"""The report as one HTML file: it holds its pictures, style and script, asks nothing of any network, and runs nothing
that it did not bring.

The page is put together from strings, and everything that comes from outside (names, paths, options, messages) goes
through `html.escape`. Beside that, the page's own policy allows no script but ours, by its hash, and no address at all.
"""

import base64
import hashlib
from html import escape
from importlib import resources
from typing import Any

from amem_cli import __version__
from amem_cli.pictures.report.chain import chain_section
from amem_cli.pictures.report.content import Report
from amem_cli.pictures.report.parts import json_text
from amem_cli.pictures.report.predictions import predictions_section
from amem_cli.pictures.report.ranked_lists import ranked_lists_section
from amem_cli.pictures.report.results import results_section
from amem_cli.pictures.report.training import training_section

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
        "results": ("Results", results_section(report)),
        "ranked-lists": ("Ranked lists", ranked_lists_section(report.ranked_lists, sheets, frames_per_tracklet)),
        "predicted-frames": ("Predicted frames", predictions_section(report.predictions)),
        "training": ("Training", training_section(report.curves)),
        "chain": ("Chain of artifacts", chain_section(report.chain)),
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
<script type="application/json" id="sheets">{json_text(sheets)}</script>
<script>{script}</script>
</body>
</html>
"""
