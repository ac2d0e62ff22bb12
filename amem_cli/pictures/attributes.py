"""Attribute probabilities of a tracklet as bars beside its frames, and of two tracklets side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from amem_cli.attributes import GROUPS
from amem_cli.errors import BadData, listing
from amem_cli.pictures.cmc import save_figure
from amem_cli.pictures.frames import evenly_spaced, read_frames

THRESHOLD = 0.5  # a pseudo-label is 1 above it
STRIP_FRAMES = 6
STRIP_FRAME_SIZE = (192, 96)
EDGE = (0.012, 0.012, 0.976, 0.976)  # of the figure: left, bottom, width, height inside the margins

RIGHT, RIGHTLY_ABSENT, WRONG = "#00874B", "#8FCBB0", "#CD2328"
PRESENT, ABSENT = "#2F6DA8", "#B9CCE0"  # without a known truth: above and below the threshold
HIGHLIGHT = "#FFE9A8"

GROUP_TITLES = {
    "personal": "personal",
    "hair": "hair",
    "upperBody": "upper body",
    "lowerBody": "lower body",
    "footwear": "footwear",
    "accessory": "accessory and carrying",
}


@dataclass(frozen=True, slots=True)
class AttributedTracklet:
    """A tracklet for `attribute_comparison`: its title, frames (files, or (H, W, 3) uint8) and (A,) probabilities."""

    title: str
    frames: Sequence[Path | np.ndarray]
    probabilities: np.ndarray


def attribute_bars(
    frames: Sequence[Path | np.ndarray],
    names: Sequence[str],
    probabilities: np.ndarray,
    path: Path,
    labels: np.ndarray | None = None,
    top: int = 5,
    title: str = "",
) -> Path:
    """Six frames of a tracklet, and beside them a panel of bars for each attribute group; saved as .png, .svg or .pdf.

    `frames` are all the tracklet's frames in order, image files or (H, W, 3) uint8. `names` are the A columns'
    attributes (PETA's spelling, any order), `probabilities` (A,) float in [0, 1], as in a pseudo-label file. A panel
    shows its group's `top` most probable attributes.

    `labels`, (A,) 0 or 1, is the truth where it is known (walkers, PETA). A bar is then green with a tick where
    probability > 0.5 agrees with it (light green: rightly absent), red and hatched with a cross where not, and every
    attribute that is true or taken for true is shown, whatever its probability. Without it, dark bars are above the
    threshold, light ones below.

    Raises `BadData` for no frames, frames that cannot be read, unknown attributes, probabilities outside [0, 1] or
    labels other than 0 and 1, `ValueError` when lengths differ.
    """
    probabilities = _checked(names, probabilities, labels)
    strip = _strip(frames)
    groups = {}
    for group, columns in _columns_by_group(names).items():
        ranked = sorted(columns, key=lambda column: -probabilities[column])
        telling = set(ranked[:top])
        if labels is not None:
            telling |= {column for column in columns if labels[column] or probabilities[column] > THRESHOLD}
        groups[group] = [column for column in ranked if column in telling]

    slots = max(len(columns) for columns in groups.values())
    panel_rows = -(-len(groups) // 2)
    height = max(3.6, panel_rows * (0.21 * slots + 0.55) + 0.7)
    figure = Figure(figsize=(9.4, height), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.04, rect=EDGE)
    grid = figure.add_gridspec(panel_rows, 3, width_ratios=(1.0, 1.25, 1.25))
    _show_strip(figure.add_subplot(grid[:, 0]), strip)
    for position, (group, columns) in enumerate(groups.items()):
        axes = figure.add_subplot(grid[position // 2, 1 + position % 2])
        for slot, column in enumerate(columns):
            probability = float(probabilities[column])
            if labels is None:
                colour, hatch, mark = (PRESENT if probability > THRESHOLD else ABSENT), "", ""
            elif (probability > THRESHOLD) == bool(labels[column]):
                colour, hatch, mark = (RIGHT if labels[column] else RIGHTLY_ABSENT), "", "✓"
            else:
                colour, hatch, mark = WRONG, "////", "✗"
            # Probability 0 keeps a hair of a bar, so that its colour is seen.
            axes.barh(slot, max(probability, 0.004), 0.72, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            text = axes.text(1.03, slot, f"{probability:.2f}", va="center", fontsize=8, color="0.3")
            if mark:
                axes.annotate(mark, (1, 0.5), xycoords=text, xytext=(4, 0), textcoords="offset points",
                              va="center", color=WRONG if hatch else RIGHT, fontsize=10, fontweight="bold")  # fmt: skip
        axes.axvline(THRESHOLD, color="0.35", linewidth=0.8, linestyle=(0, (3, 2)))
        axes.set_yticks(
            range(len(columns)), [attribute_words(names[column], group) for column in columns], fontsize=8.5
        )
        axes.set(xlim=(0, 1), ylim=(slots - 0.4, -0.6))
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(GROUP_TITLES[group], fontsize=10, fontweight="bold", loc="left")
    explanation = "bars: probability of the attribute, mean over all frames; dashed: threshold of a pseudo-label"
    if labels is not None:
        explanation += ";  ✓ agrees with the truth   ✗ does not"
    figure.supxlabel(explanation, fontsize=8.5, color="0.35")
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    return save_figure(figure, path)


def attribute_comparison(
    query: AttributedTracklet,
    answer: AttributedTracklet,
    names: Sequence[str],
    path: Path,
    top: int = 24,
) -> Path:
    """Two tracklets' attributes as mirrored bars, query to the left, answer to the right; saved as .png, .svg or .pdf.

    `names` are the A columns' attributes. Shown are those one of the two has (probability > 0.5), group by group, at
    most `top`: those on which the two disagree first, then the most probable. Where one has an attribute and the other
    not, the line is highlighted, its name bold and marked with an unequal sign; the title counts them over all A.

    Raises as `attribute_bars` does, and `BadData` when neither tracklet has any attribute.
    """
    left, right = _checked(names, query.probabilities), _checked(names, answer.probabilities)
    lines, left_out = compared_attributes(names, left, right, top)
    differs = (left > THRESHOLD) != (right > THRESHOLD)

    height = max(4.2, 0.225 * len(lines) + 1.3)
    figure = Figure(figsize=(9.4, height), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, wspace=0.02, rect=EDGE)
    grid = figure.add_gridspec(1, 5, width_ratios=(1.15, 1.1, 0.95, 1.1, 1.15))
    _show_strip(figure.add_subplot(grid[0]), _strip(query.frames), f"query\n{query.title}")
    _show_strip(figure.add_subplot(grid[4]), _strip(answer.frames), f"answer\n{answer.title}")
    left_axes, middle, right_axes = (figure.add_subplot(grid[place]) for place in (1, 2, 3))
    for axes in (left_axes, middle, right_axes):
        axes.set(ylim=(len(lines) - 0.4, -0.6), yticks=[])
        axes.spines[:].set_visible(False)
    middle.set(xlim=(0, 1), xticks=[])
    for axes, limits in ((left_axes, (1.22, 0)), (right_axes, (0, 1.22))):
        axes.set_xlim(*limits)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)
    for slot, (group, column) in enumerate(lines):
        if column is None:
            middle.text(0.5, slot + 0.1, GROUP_TITLES[group], ha="center", va="center", fontsize=8.5, color="0.4")
            continue
        paper = HIGHLIGHT if differs[column] else "white"
        if differs[column]:
            for axes in (left_axes, middle, right_axes):
                axes.axhspan(slot - 0.5, slot + 0.5, color=HIGHLIGHT, linewidth=0, zorder=0)
        name = attribute_words(names[column], group)
        middle.text(0.5, slot, f"≠ {name}" if differs[column] else name, ha="center", va="center", fontsize=9,
                    fontweight="bold" if differs[column] else "normal")  # fmt: skip
        for axes, probability in ((left_axes, left[column]), (right_axes, right[column])):
            colour = PRESENT if probability > THRESHOLD else ABSENT
            axes.barh(slot, max(probability, 0.004), 0.7, color=colour, zorder=2)
            axes.text(probability + 0.03, slot, f"{probability:.2f}", va="center", fontsize=8, color="0.3", zorder=4,
                      bbox={"facecolor": paper, "linewidth": 0, "pad": 0.8},
                      ha="right" if axes is left_axes else "left")  # fmt: skip
    for axes in (left_axes, right_axes):
        axes.plot([THRESHOLD] * 2, [-0.5, len(lines) - 0.5], color="0.35", linewidth=0.8, linestyle=(0, (3, 2)),
                  zorder=3)  # fmt: skip
    more = f"; {left_out} more on which they agree or differ less are not shown" if left_out else ""
    figure.suptitle(f"{int(differs.sum())} of {len(names)} attributes differ", fontsize=12, fontweight="bold")
    figure.supxlabel(f"probability, mean over all frames; dashed: threshold of a pseudo-label; ≠ differs{more}",
                     fontsize=8.5, color="0.35")  # fmt: skip
    return save_figure(figure, path)


def compared_attributes(
    names: Sequence[str], left: np.ndarray, right: np.ndarray, top: int
) -> tuple[list[tuple[str, int | None]], int]:
    """Which attributes a comparison of two tracklets shows, as lines, and how many it leaves out.

    `left` and `right` are (A,) probabilities. A line is (group, column), or (group, None) for a group's heading. Shown
    are the attributes one of the two has, at most `top`: those on which they disagree first, then the most probable.
    Raises `BadData` when neither has any.
    """
    has_left, has_right = left > THRESHOLD, right > THRESHOLD
    differs = has_left != has_right
    present = np.flatnonzero(has_left | has_right)
    if not present.size:
        raise BadData("attributes", why="neither tracklet has an attribute above the threshold")
    # The plainest disagreements first, so that a short list keeps what one looks for.
    order = sorted(present, key=lambda c: (not differs[c], -abs(left[c] - right[c]) if differs[c] else -left[c]))
    shown = set(order[:top])
    lines: list[tuple[str, int | None]] = []
    for group, columns in _columns_by_group(names).items():
        kept = [column for column in columns if column in shown]
        lines += [(group, column) for column in [None, *sorted(kept, key=lambda c: -max(left[c], right[c]))] if kept]
    return lines, len(present) - len(shown)


def _checked(names: Sequence[str], probabilities: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    probabilities = np.asarray(probabilities, dtype=float)
    lengths = [probabilities.shape] + ([] if labels is None else [np.shape(labels)])
    if any(shape != (len(names),) for shape in lengths):
        raise ValueError(f"{len(names)} attributes need as many probabilities and labels, not {lengths}")
    if not len(names):
        raise BadData("attributes", why="there is none to draw")
    known = {name for group in GROUPS.values() for name in group}
    if unknown := [name for name in names if name not in known]:
        raise BadData("attributes", why=f"not among PETA's 105: {listing(unknown)}")
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise BadData("attributes", why="probabilities are not all in [0, 1]")
    if labels is not None and not np.isin(labels, (0, 1)).all():
        raise BadData("attributes", why="labels are not all 0 or 1")
    return probabilities


def _columns_by_group(names: Sequence[str]) -> dict[str, list[int]]:
    """Positions in `names`, in the groups' order; groups without a column are left out."""
    position = {name: column for column, name in enumerate(names)}
    columns = {group: [position[name] for name in members if name in position] for group, members in GROUPS.items()}
    return {group: found for group, found in columns.items() if found}


def attribute_words(name: str, group: str) -> str:
    """`upperBodyRed` -> `red` under "upper body"; carrying and accessory share a group and keep their word.

    >>> attribute_words("upperBodyLongSleeve", "upperBody"), attribute_words("carryingNothing", "accessory")
    ('long sleeve', 'carrying nothing')
    """
    words = name if group == "accessory" else name.removeprefix(group)
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in words).strip()
    return spaced.replace("less", "under ").replace("larger", "over ") if group == "personal" else spaced


def _strip(frames: Sequence[Path | np.ndarray]) -> Image.Image:
    """Six frames spread over the tracklet, in reading order, two to a line."""
    if not len(frames):
        raise BadData("attributes", why="the tracklet has no frame")
    height, width = STRIP_FRAME_SIZE
    pictures = read_frames(evenly_spaced(frames, STRIP_FRAMES), STRIP_FRAME_SIZE)
    gap = 4
    lines = -(-len(pictures) // 2)
    strip = Image.new("RGB", (2 * width + gap, lines * height + (lines - 1) * gap), "white")
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place % 2 * (width + gap), place // 2 * (height + gap)))
    return strip


def _show_strip(axes: Axes, strip: Image.Image, title: str = "") -> None:
    axes.imshow(strip, interpolation="lanczos")
    axes.set_axis_off()
    axes.set_anchor("N")
    if title:
        axes.set_title(title, fontsize=9)
