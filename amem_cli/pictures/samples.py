"""What a model in training makes of a few held-out images: reconstructions, and attributes beside their labels."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from amem_cli.attributes import GROUPS
from amem_cli.pictures.attributes import ABSENT, PRESENT, RIGHT, THRESHOLD, WRONG, attribute_words
from amem_cli.pictures.frames import GAP, INK, MARGIN, RULE, SOFT_INK, font, prediction_errors

LINE = 18  # pixels from one attribute to the next
NAME_WIDTH, BAR_WIDTH, FIGURE_WIDTH = 170, 110, 56
MOST_ATTRIBUTES = 18
GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def reconstructions_strip(true: np.ndarray, reconstructed: np.ndarray) -> Image.Image:
    """Images, (N, H, W, 3) uint8, and under each what the TAE makes of it, with PSNR in dB and SSIM; an RGB picture."""
    count, height, width, _ = true.shape
    factor = 2 if height <= 128 else 1
    height, width = height * factor, width * factor
    bold, small = font(13, bold=True), font(11)
    names = ("true", "reconstructed")
    left = MARGIN + round(max(bold.getlength(name) for name in names)) + 14
    cell = max(width, 92) + GAP
    size = (left + count * cell - GAP + MARGIN, MARGIN + 2 * height + GAP + 20 + MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for row, (name, images) in enumerate(zip(names, (true, reconstructed), strict=True)):
        top = MARGIN + row * (height + GAP)
        draw.text((left - 10, top + height / 2), name, font=bold, fill=INK, anchor="rm")
        for column, pixels in enumerate(images):
            x = left + column * cell + (cell - GAP - width) // 2
            picture.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), (x, top))
            draw.rectangle((x - 1, top - 1, x + width, top + height), outline=RULE)
    for column in range(count):
        errors = prediction_errors(true[column, None], reconstructed[column, None], true[column])
        decibels = "exact" if errors["psnr"] is None else f"{errors['psnr']:.1f} dB"
        place = (left + column * cell + (cell - GAP) / 2, MARGIN + 2 * height + GAP + 5)
        draw.text(place, f"{decibels} · {errors['ssim']:.2f}", font=small, fill=SOFT_INK, anchor="mt")
    draw.text((left - 10, place[1]), "PSNR · SSIM", font=small, fill=SOFT_INK, anchor="rt")
    return picture


def attribute_guesses(
    images: np.ndarray, names: Sequence[str], probabilities: np.ndarray, labels: np.ndarray, titles: Sequence[str]
) -> Image.Image:
    """Images and beside each what it has by its label, then what it has by the model alone, as bars; an RGB picture.

    `images` are (N, H, W, 3) uint8, `names` the A columns' attributes, `probabilities` (N, A) in [0, 1], `labels`
    (N, A) 0 or 1. A tick says that probability > 0.5 agrees with the label, a cross that it does not. The label's
    attributes keep their lines from one look to the next; of the others the most probable follow, below a rule. At
    most 18 are shown; the line below counts the disagreements over all A.
    """
    count, height, width, _ = images.shape
    factor = 2 if height <= 128 else 1
    height, width = height * factor, width * factor
    bold, plain, small = font(13, bold=True), font(12), font(11)
    cell = width + 8 + NAME_WIDTH + BAR_WIDTH + FIGURE_WIDTH + 3 * GAP
    body = max(height, MOST_ATTRIBUTES * LINE)
    columns = min(2, count)
    rows = -(-count // columns)
    block = 22 + body + 22 + GAP
    picture = Image.new("RGB", (2 * MARGIN + columns * cell, 2 * MARGIN + rows * block), "white")
    draw = ImageDraw.Draw(picture)
    for number in range(count):
        x, y = MARGIN + number % columns * cell, MARGIN + number // columns * block
        draw.text((x, y), titles[number], font=bold, fill=INK, anchor="lt")
        y += 22
        picture.paste(Image.fromarray(images[number]).resize((width, height), Image.Resampling.BICUBIC), (x, y))
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=RULE)
        found, wanted = probabilities[number], labels[number] > THRESHOLD
        wrong = (found > THRESHOLD) != wanted
        of_label = np.flatnonzero(wanted).tolist()
        of_model = sorted(np.flatnonzero(wrong & ~wanted).tolist(), key=lambda column: -found[column])
        shown = [*of_label, *of_model][:MOST_ATTRIBUTES]
        bar = x + width + 8 + NAME_WIDTH + GAP
        for line, column in enumerate(shown):
            middle = y + (line + 0.5) * LINE
            group = GROUP_OF[names[column]]
            words = attribute_words(names[column], group)
            text = words if group in ("personal", "accessory") else f"{group_words(group)}: {words}"
            draw.text((bar - GAP, middle), text, font=plain, fill=INK, anchor="rm")
            colour = PRESENT if found[column] > THRESHOLD else ABSENT
            draw.rectangle((bar, middle - 5, bar + round(BAR_WIDTH * found[column]), middle + 5), fill=colour)
            draw.line((bar + BAR_WIDTH / 2, middle - LINE / 2, bar + BAR_WIDTH / 2, middle + LINE / 2), fill=SOFT_INK)
            right = bar + BAR_WIDTH + GAP
            draw.text((right, middle), f"{found[column]:.2f}", font=small, fill=SOFT_INK, anchor="lm")
            mark, ink = ("✗", WRONG) if wrong[column] else ("✓", RIGHT)
            draw.text((right + 32, middle), mark, font=bold, fill=ink, anchor="lm")
        if len(of_label) < len(shown):
            rule = y + len(of_label) * LINE
            draw.line((x + width + 16, rule, bar + BAR_WIDTH + FIGURE_WIDTH, rule), fill=SOFT_INK)
        left_out = len(of_label) + len(of_model) - len(shown)
        more = f", {left_out} lines more are not shown" if left_out else ""
        told = f"{int(wrong.sum())} of {len(names)} differ from the label{more}"
        draw.text((x, y + body + 5), told, font=small, fill=SOFT_INK, anchor="lt")
    return picture


def group_words(group: str) -> str:
    """`upperBody` -> `upper body`."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in group)
