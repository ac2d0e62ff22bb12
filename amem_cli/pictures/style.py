"""The style of all pictures, and how they are saved."""

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from amem_cli.artifacts.atomic import write_bytes

INK, SOFT, RULE = "#191919", "#696969", "#d7d7d7"
RIGHT, WRONG, IGNORED = "#00874b", "#cd2328", "#969696"
PRESENT, ABSENT, HIGHLIGHT = "#2f6da8", "#b9cce0", "#ffe9a8"  # attributes above and below the threshold; they differ
# Okabe and Ito's palette with three line styles: lines differ without colour vision and on a grey print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", ":")

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "grid.color": RULE,
    "legend.frameon": False,
    "text.parse_math": False,  # names of tracklets may hold a dollar sign
    "svg.hashsalt": "amem",  # the same picture gives the same bytes
    "svg.fonttype": "none",  # text is stored as text, not as paths
    "pdf.fonttype": 42,
}
styled = matplotlib.rc_context(STYLE)  # decorator of functions that draw in this style


@styled
def save_picture(figure: Figure, path: Path) -> Path:
    """Save a figure by the suffix of `path`, .png (150 dpi), .svg or .pdf; the same figure gives the same bytes.

    Raises `DiskError` when the file cannot be written.
    """
    metadata = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[path.suffix.lower()]
    content = io.BytesIO()
    figure.savefig(
        content, format=path.suffix[1:].lower(), dpi=150, bbox_inches="tight", pad_inches=0.15, metadata=metadata
    )
    return write_bytes(path, content.getvalue())


def line_style(place: int) -> dict[str, Any]:
    """Colour and dashes of the line at `place` of a chart; 18 lines differ."""
    dashes = DASHES[(place + place // len(COLOURS)) % len(DASHES)]
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": dashes, "linewidth": 1.8}
