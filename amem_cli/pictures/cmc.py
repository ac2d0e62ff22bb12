"""Cumulative matching characteristic (CMC) curves, the figure of every re-identification paper."""

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from amem_cli.artifacts.atomic import write_bytes
from amem_cli.errors import BadData, UsageError, listing

FIGURE_FORMATS = (".png", ".svg", ".pdf")
MOST_RANKS = 50

# Okabe & Ito's palette, and line styles beside it: curves stay apart without colour vision and on a grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)), (0, (1, 1)))


def plot_cmc(
    curves: Mapping[str, np.ndarray],
    path: Path,
    chance: np.ndarray | None = None,
    title: str = "",
    log_ranks: bool = False,
) -> Path:
    """Draw CMC curves as steps up to rank 50, or to the longest curve's end, and save them by `path`'s suffix.

    `curves` maps a name to (K,) float with cmc[k-1] = the share of queries, in [0, 1], that have a right answer among
    their first k; a curve stays flat until its next rank, so nothing is drawn between two ranks. The legend carries
    each curve's rank-1. `chance` is the (K,) curve of a random order (`metrics.chance`), drawn as a dashed grey line.
    `log_ranks` spreads the first ranks, where methods differ. The axis is in per cent.

    Raises `BadData` when there is no curve, or one that is empty, falls or leaves [0, 1], and `UsageError` for a
    suffix other than .png, .svg and .pdf.
    """
    drawn = {name: np.asarray(curve, dtype=float) for name, curve in curves.items()}
    if not drawn:
        raise BadData("CMC curves", why="there is no curve to draw")
    chances = {} if chance is None else {"chance": np.asarray(chance, dtype=float)}
    # 1e-6: rates that went through float32 may miss 1 by rounding.
    faulty = [
        name
        for name, curve in [*drawn.items(), *chances.items()]
        if curve.ndim != 1
        or not curve.size
        or not np.all((curve >= -1e-6) & (curve <= 1 + 1e-6))
        or np.any(np.diff(curve) < -1e-6)
    ]
    if faulty:
        raise BadData("CMC curves", why=f"not rates in [0, 1] that rise with the rank: {listing(faulty)}")

    last_rank = min(MOST_RANKS, max(len(curve) for curve in drawn.values()))
    figure = Figure(figsize=(5.2, 3.9), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for position, (name, curve) in enumerate(drawn.items()):
        label = f"{name} ({100 * curve[0]:.1f})"
        colour, style = COLOURS[position % len(COLOURS)], STYLES[position % len(STYLES)]
        _steps(axes, curve[:last_rank], label=label, color=colour, linestyle=style, linewidth=1.8, zorder=3)
    for curve in chances.values():
        label = f"chance ({100 * curve[0]:.1f})"
        _steps(axes, curve[:last_rank], label=label, color="0.45", linestyle="--", linewidth=1.2, zorder=2)

    # Small-gallery curves end at 100 within a few ranks: half a per cent of air keeps the line off the frame.
    axes.set(xlabel="rank", ylabel="matching rate (%)", ylim=(0, 101))
    axes.set_title(title, fontsize=11)
    if log_ranks:
        ticks = [rank for rank in (1, 2, 3, 5, 10, 20, 50) if rank <= last_rank]
        axes.set_xscale("log")
        axes.set_xticks(ticks)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlim(0.75, last_rank + 0.5)
    else:
        axes.set_xlim(0.3, last_rank + 0.5)
        axes.set_xticks([1, *(rank for rank in (5, 10, 20, 30, 40, 50) if rank <= last_rank)])
        if last_rank < 10:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="rank-1 in brackets", title_fontsize=8, fontsize=9, alignment="left", loc="best", framealpha=0.9)
    return save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> Path:
    """Save a matplotlib figure as .png (150 dpi), .svg or .pdf, whole or not at all; same figure, same bytes.

    Raises `UsageError` for another suffix, `DiskError` when the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FIGURE_FORMATS:
        raise UsageError(
            "picture", path, why=f"its suffix is none of {', '.join(FIGURE_FORMATS)}", remedy="Choose one of them"
        )
    # No date and fixed ids, so that the same picture is the same file; text stays text in PDF (type 42).
    metadata = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[suffix]
    if suffix == ".svg":  # clip paths are named after addresses in memory; nothing is drawn outside its axes
        for artist in figure.findobj():
            artist.set_clip_on(False)
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "amem", "pdf.fonttype": 42}):
        figure.savefig(content, format=suffix[1:], dpi=figure.dpi if figure.dpi > 100 else 150, metadata=metadata)
    return write_bytes(path, content.getvalue())


def _steps(axes: Axes, curve: np.ndarray, **style) -> None:
    # A step is centred on its rank, so that the tick of rank k points at the value of rank k.
    axes.stairs(100 * curve, np.arange(len(curve) + 1) + 0.5, baseline=None, **style)
