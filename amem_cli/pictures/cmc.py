"""Cumulative matching characteristic (CMC) curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amem_cli.pictures.style import SOFT, line_style, styled

Curve = Sequence[float] | np.ndarray

MOST_RANKS = 50


@styled
def cmc_figure(curves: Mapping[str, Curve], chance: Curve | None = None, title: str = "") -> Figure:
    """CMC curves as steps up to rank 50: name -> (K,) float, cmc[k-1] in [0, 1]; the legend gives each curve's rank-1.

    `chance` is the curve of a random order, drawn in grey.
    """
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    axes = figure.add_subplot()
    draw_cmc(axes, curves, chance)
    axes.set_title(title)
    axes.legend(title="rank-1 in brackets", alignment="left", loc="lower right")
    return figure


def draw_cmc(axes: Axes, curves: Mapping[str, Curve], chance: Curve | None = None) -> None:
    """Draw CMC curves, in per cent, into `axes`."""
    last_rank = min(MOST_RANKS, max(len(curve) for curve in curves.values()))
    lines = [(name, curve, line_style(place)) for place, (name, curve) in enumerate(curves.items())]
    if chance is not None:
        lines.append(("chance", chance, {"color": SOFT, "linestyle": ":", "linewidth": 1.2}))
    for name, curve, style in lines:
        shown = 100 * np.asarray(curve)[:last_rank]
        # a step is centred on its rank: nothing is drawn between two ranks
        edges = np.arange(len(shown) + 1) + 0.5
        axes.stairs(shown, edges, baseline=None, label=f"{name} ({shown[0]:.1f})", **style)
    # half a per cent of room keeps a line at 100 off the frame
    axes.set(xlabel="rank", ylabel="queries with a right answer, %", xlim=(0.3, last_rank + 0.5), ylim=(0, 101))
    axes.set_xticks([1, *(rank for rank in (5, 10, 20, 30, 40, 50) if rank <= last_rank)])
    if last_rank < 10:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
