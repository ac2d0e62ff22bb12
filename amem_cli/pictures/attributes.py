"""Attribute probabilities of a tracklet as bars next to its frames, and of two tracklets side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amem_cli.attributes import GROUPS
from amem_cli.data.clips import evenly_spaced
from amem_cli.errors import BadData, listing, printable
from amem_cli.pictures.frames import read_frames, side_by_side
from amem_cli.pictures.style import ABSENT, HIGHLIGHT, PRESENT, SOFT, styled

THRESHOLD = 0.5  # a pseudo-label is 1 above it
STRIP_FRAMES = 6
FRAME_SIZE = (192, 96)

GROUP_TITLES = dict(
    zip(GROUPS, ("personal", "hair", "upper body", "lower body", "footwear", "accessory and carrying"), strict=True)
)


@dataclass(frozen=True, slots=True)
class AttributedTracklet:
    """A tracklet with its frames (files) and (A,) probabilities in [0, 1]."""

    name: str
    frames: Sequence[Path]
    probabilities: np.ndarray


@styled
def attributes_figure(tracklet: AttributedTracklet, names: Sequence[str], top: int = 5) -> Figure:
    """Six frames of a tracklet, and a panel for each attribute group with its `top` most probable ones; dark bars are
    above the threshold. Raises `BadData` for unknown attributes and for frames that cannot be read."""
    probabilities = tracklet.probabilities
    groups = {
        group: sorted(columns, key=lambda column: -probabilities[column])[:top]
        for group, columns in _columns_by_group(names).items()
    }
    lines = -(-len(groups) // 2)
    figure = Figure(figsize=(9.4, max(3.6, lines * (0.21 * top + 0.55) + 0.7)), layout="constrained")
    grid = figure.add_gridspec(lines, 3, width_ratios=(1.0, 1.25, 1.25))
    _show_strip(figure.add_subplot(grid[:, 0]), tracklet.frames)
    for position, (group, columns) in enumerate(groups.items()):
        axes = figure.add_subplot(grid[position // 2, 1 + position % 2])
        for slot, column in enumerate(columns):
            _bar(axes, slot, probabilities[column])
            axes.text(1.03, slot, f"{probabilities[column]:.2f}", va="center", color=SOFT)
        axes.set_yticks(range(len(columns)), [attribute_words(names[column], group) for column in columns])
        axes.set(xlim=(0, 1), ylim=(top - 0.4, -0.6), xticks=(0, 0.5, 1))
        axes.axvline(THRESHOLD, color=SOFT, linewidth=0.8, linestyle="--")
        axes.tick_params(axis="y", length=0)
        axes.set_title(GROUP_TITLES[group], fontweight="bold", loc="left")
    figure.supxlabel("probability, mean over all frames; dashed: threshold of a pseudo-label", fontsize=9, color=SOFT)
    figure.suptitle(printable(tracklet.name), fontsize=12, fontweight="bold")
    return figure


@styled
def comparison_figure(
    query: AttributedTracklet, answer: AttributedTracklet, names: Sequence[str], top: int = 24
) -> Figure:
    """Two tracklets' attributes as mirrored bars, the query on the left: `top` lines of `compared_attributes`,
    highlighted where they differ. Their frames are shown if the query has some."""
    left, right = query.probabilities, answer.probabilities
    lines, left_out = compared_attributes(names, left, right, top)
    differs = (left > THRESHOLD) != (right > THRESHOLD)
    strips = [1.1] * bool(query.frames)  # width of a strip
    width, height = 9.8 if strips else 4.6, 0.225 * len(lines) + 1.3
    figure = Figure(figsize=(width, max(4.2, height) if strips else height), layout="constrained")
    every = figure.subplots(1, 3 + 2 * len(strips), width_ratios=(*strips, 1, 1.3, 1, *strips))
    if strips:
        _show_strip(every[0], query.frames, f"query\n{printable(query.name)}")
        _show_strip(every[4], answer.frames, f"answer\n{printable(answer.name)}")
    else:
        every[0].set_title("query")
        every[2].set_title("answer")
    axes = every[len(strips) :]
    for each, limits in zip(axes[:3], ((1.28, 0), (0, 1), (0, 1.28)), strict=True):
        each.set(xlim=limits, ylim=(len(lines) - 0.4, -0.6), yticks=[], xticks=[] if each is axes[1] else (0, 0.5, 1))
        each.spines[:].set_visible(False)
        for slot, (_, column) in enumerate(lines):
            if column is not None and differs[column]:
                each.axhspan(slot - 0.5, slot + 0.5, color=HIGHLIGHT, linewidth=0, zorder=0)
    for slot, (group, column) in enumerate(lines):
        if column is None:
            axes[1].text(0.5, slot, GROUP_TITLES[group], ha="center", va="center", color=SOFT)
            continue
        name = attribute_words(names[column], group)
        name, weight = (f"≠ {name}", "bold") if differs[column] else (name, "normal")
        axes[1].text(0.5, slot, name, ha="center", va="center", fontweight=weight)
        for each, probability, align in ((axes[0], left[column], "right"), (axes[2], right[column], "left")):
            _bar(each, slot, probability)
            each.text(probability + 0.03, slot, f"{probability:.2f}", va="center", ha=align, color=SOFT)
    for each in (axes[0], axes[2]):
        each.axvline(THRESHOLD, color=SOFT, linewidth=0.8, linestyle="--", zorder=1)
    if strips:
        figure.suptitle(f"{int(differs.sum())} of {len(names)} attributes differ", fontsize=12, fontweight="bold")
    note = f"probability; dashed: threshold{f'; {left_out} more are not shown' if left_out else ''}"
    figure.supxlabel(note, fontsize=9, color=SOFT)
    return figure


def compared_attributes(
    names: Sequence[str], left: np.ndarray, right: np.ndarray, top: int
) -> tuple[list[tuple[str, int | None]], int]:
    """Which attributes a comparison of two tracklets shows, as lines, and how many it leaves out.

    `left` and `right` are (A,) probabilities. A line is (group, column), or (group, None) for a group's heading. Shown
    are the attributes that one of the two has, up to `top`: those on which they disagree first, then the most
    probable. Raises `BadData` when neither has any.
    """
    has_left, has_right = left > THRESHOLD, right > THRESHOLD
    differs = has_left != has_right
    present = np.flatnonzero(has_left | has_right)
    if not present.size:
        raise BadData("attributes", why="neither tracklet has an attribute above the threshold")
    order = sorted(present, key=lambda c: (not differs[c], -abs(left[c] - right[c]) if differs[c] else -left[c]))
    shown = set(order[:top])
    lines: list[tuple[str, int | None]] = []
    for group, columns in _columns_by_group(names).items():
        kept = [column for column in columns if column in shown]
        lines += [(group, column) for column in [None, *sorted(kept, key=lambda c: -max(left[c], right[c]))] if kept]
    return lines, len(present) - len(shown)


def _columns_by_group(names: Sequence[str]) -> dict[str, list[int]]:
    """Positions in `names`, in the groups' order; groups without a column are left out."""
    known = {name for group in GROUPS.values() for name in group}
    if unknown := [name for name in names if name not in known]:
        raise BadData("attributes", why=f"not among PETA's 105: {listing(unknown)}")
    position = {name: column for column, name in enumerate(names)}
    columns = {group: [position[name] for name in members if name in position] for group, members in GROUPS.items()}
    return {group: places for group, places in columns.items() if places}


def attribute_words(name: str, group: str) -> str:
    """`upperBodyRed` -> `red` under "upper body"; carrying and accessory share a group and keep their word.

    >>> attribute_words("upperBodyLongSleeve", "upperBody"), attribute_words("carryingNothing", "accessory")
    ('long sleeve', 'carrying nothing')
    """
    words = name if group == "accessory" else name.removeprefix(group)
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in words).strip()
    return spaced.replace("less", "under ").replace("larger", "over ") if group == "personal" else spaced


def _bar(axes: Axes, slot: int, probability: float) -> None:
    # probability 0 keeps a thin line, so that its colour is seen
    colour = PRESENT if probability > THRESHOLD else ABSENT
    axes.barh(slot, max(probability, 0.004), 0.72, color=colour, zorder=2)


def _show_strip(axes: Axes, frames: Sequence[Path], title: str = "") -> None:
    axes.imshow(side_by_side(read_frames(evenly_spaced(frames, STRIP_FRAMES), FRAME_SIZE), 2))
    axes.set_axis_off()
    axes.set_anchor("N")
    axes.set_title(title)
