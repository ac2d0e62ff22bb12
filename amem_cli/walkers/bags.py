"""Bags and other carried objects of a figure."""

import math

from amem_cli.walkers.canvas import Canvas, edge_at, ring, shade
from amem_cli.walkers.gait import Arm


def paint_held(canvas: Canvas, arm: Arm, tone: float) -> None:
    """An object in the right hand, or held to the body by the left arm."""
    clothes = canvas.clothes
    left = arm is canvas.pose.arms[0]
    bag, (u, v) = shade(clothes.bag_colour, tone), canvas.at(arm.hand)
    n = canvas.size
    if clothes.carrying == "Suitcase" and not left:
        half = n * math.hypot(0.085 * canvas.cos, 0.03 * canvas.sin)
        canvas.box(u - half, v + 0.02 * n, u + half, v + 0.15 * n, bag)
        canvas.draw.rectangle((u - 0.02 * n, v, u + 0.02 * n, v + 0.018 * n), outline=shade(bag, 0.6))
    elif clothes.carrying == "PlasticBags" and not left:
        points = ((-0.012, 0.0), (0.012, 0.0), (0.052, 0.09), (0.045, 0.16), (-0.045, 0.16), (-0.052, 0.09))
        canvas.draw.polygon([(u + a * n, v + c * n) for a, c in points], fill=bag)
        canvas.draw.polygon([(u + a * 0.5 * n, v + c * n) for a, c in points[2:]], fill=shade(bag, 0.86))
    elif clothes.carrying == "Folder" and left:
        half = n * math.hypot(0.07 * canvas.cos, 0.02 * canvas.sin)
        canvas.box(u - half, v - 0.085 * n, u + half, v + 0.025 * n, bag)


def paint_luggage(canvas: Canvas) -> None:
    """A rolling case pulled by the right hand."""
    n, colour = canvas.size, canvas.clothes.bag_colour
    hand = canvas.at(canvas.pose.arms[1].hand)
    case = canvas.at((-0.3, -0.13, 0.16))
    canvas.draw.line((hand, (case[0], case[1] - 0.1 * n)), fill=(60, 60, 62), width=canvas.line_width(0.012))
    half = n * 0.065
    canvas.box(case[0] - half, case[1] - 0.12 * n, case[0] + half, case[1] + 0.13 * n, colour)
    canvas.oval((case[0], case[1] + 0.145 * n), 0.018, 0.018, (24, 24, 24))


def paint_backpack(canvas: Canvas) -> None:
    """A backpack: behind the trunk, or on it in views from behind."""
    clothes = canvas.clothes
    if clothes.carrying != "Backpack":
        return
    stations = ((0.95, 0.05, 0.03), (0.86, 0.074, 0.046), (0.5, 0.08, 0.054), (0.28, 0.072, 0.046))
    rows = [canvas.trunk_edge(*station, -0.088 * canvas.body.build) for station in stations]
    canvas.wrap(rows, clothes.bag_colour)
    pocket = [edge_at(rows, rows[0][2] + (rows[-1][2] - rows[0][2]) * t) for t in (0.58, 0.9)]
    canvas.draw.polygon(ring(pocket, 0.16, 0.84), fill=shade(clothes.bag_colour, 0.62))


def paint_straps(canvas: Canvas) -> None:
    """Straps of a backpack, or a bag on the right: across the chest (messenger) or on the shoulder (other)."""
    clothes, n = canvas.clothes, canvas.size
    width = canvas.line_width(0.017)
    strap = shade(clothes.bag_colour, 0.68)
    if clothes.carrying == "Backpack" and canvas.sin > -0.5:
        for side in (1.0, -1.0):
            if side * canvas.cos > 0.5:  # on the far side of the chest
                continue
            stations = ((0.95, -0.02), (0.84, 0.05), (0.5, 0.04), (0.42, -0.05))
            line = [canvas.at(canvas.trunk_point(s, f, side * 0.064)) for s, f in stations]
            canvas.draw.line(line, fill=strap, width=width, joint="curve")
    if clothes.carrying not in ("MessengerBag", "Other"):
        return
    messenger = clothes.carrying == "MessengerBag"
    top, station = (0.075, 0.0) if messenger else (-0.075, 0.3)
    chest = 0.062 if canvas.sin > -0.2 else -0.062
    p = canvas.at(canvas.trunk_point(0.96, 0.0, top))
    middle = canvas.at(canvas.trunk_point(0.55, chest * (0.2 + 0.8 * abs(canvas.sin)), 0.0 if messenger else -0.1))
    u, v = canvas.at(canvas.trunk_point(station, -0.015, -0.118 * canvas.body.build))
    canvas.draw.line((p, middle, (u, v)), fill=strap, width=width, joint="curve")
    half = n * math.hypot((0.08 if messenger else 0.055) * canvas.cos, 0.032 * canvas.sin)
    canvas.box(u - half, v - 0.035 * n, u + half, v + 0.075 * n, clothes.bag_colour)
