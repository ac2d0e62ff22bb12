"""The report's training section: curves, and samples of held-out people over the steps."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from amem_cli.data.images import open_rgb
from amem_cli.pictures.charts import Line, line_chart, number
from amem_cli.pictures.report.content import Curves, Missing
from amem_cli.pictures.report.parts import duration_words, missing_note, webp_address

SAMPLES = 8  # shown of each training, the first and the last among them
SAMPLE_HEIGHT = 720  # pixels on the page at most


def training_section(curves: Iterable[Curves | Missing]) -> str:
    parts = []
    for stage in curves:
        if isinstance(stage, Missing):
            parts.append(f'<div class="stage whole">{missing_note(stage)}</div>')
            continue
        took = f" · {duration_words(stage.seconds)}" if stage.seconds is not None else ""
        charts = "".join(
            _curve_panel(f"curve-{stage.stage}-{position}", title, panel)
            for position, (title, panel) in enumerate(stage.panels.items())
        )
        parts.append(
            f'<div class="stage{" whole" if len(stage.panels) > 1 else ""}"><h3>{escape(stage.stage)}</h3>'
            f'<p class="note"><code>{escape(str(stage.path))}</code>{took}</p><div class="charts">{charts}</div>'
            f"{_filmstrip(stage)}</div>"
        )
    return f'<div class="stages">{"".join(parts)}</div>'


def _filmstrip(curves: Curves) -> str:
    """What the model made of held-out people, at looks evenly spread from the first to the last."""
    if not curves.samples:
        return ""
    last = len(curves.samples) - 1
    places = sorted({round(part * last / (SAMPLES - 1)) for part in range(SAMPLES)})
    figures = []
    for step, path in (curves.samples[place] for place in places):
        picture = open_rgb(path)
        picture.thumbnail((4 * SAMPLE_HEIGHT, SAMPLE_HEIGHT))
        figures.append(
            f'<figure><img src="{webp_address(picture)}" width="{picture.width}" height="{picture.height}" '
            f'alt="Samples after {step} steps"><figcaption>after {step} steps</figcaption></figure>'
        )
    folder = curves.samples[0][1].parent
    return (
        f"<h4>Held-out people over the training</h4>"
        f'<p class="note">{len(places)} of {last + 1} looks; all of them are in <code>{escape(str(folder))}</code></p>'
        f'<div class="scroll filmstrip" tabindex="0" role="group" '
        f'aria-label="Samples of {escape(curves.stage)} over its steps">{"".join(figures)}</div>'
    )


def _curve_panel(identifier: str, title: str, panel: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    share = title.startswith("Share") or "mAP" in panel or "mA" in panel
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
