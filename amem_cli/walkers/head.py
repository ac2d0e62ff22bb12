"""The head of a figure: hair, face, accessories."""

import math

from amem_cli.walkers.canvas import Canvas, shade
from amem_cli.walkers.gait import HEAD


def paint_long_hair(canvas: Canvas) -> None:
    """Long hair down the back, unless a kerchief covers it."""
    body, clothes = canvas.body, canvas.clothes
    if body.hair != "Long" or clothes.accessory == "Kerchief":
        return
    x, y, z = canvas.pose.head
    tall = HEAD * body.head
    top, bottom = (x - 0.018, y, z + 0.2 * tall), (x - 0.042, y, z - 2.1 * tall)
    broad = math.hypot(0.047 * canvas.sin, 0.034 * canvas.cos) * body.head
    canvas.capsule(top, bottom, broad * 1.04, broad * 0.92, body.hair_colour)


def paint_head(canvas: Canvas) -> None:
    """Neck, hair, face, ears and accessories."""
    body, n = canvas.body, canvas.size
    neck, head = canvas.pose.neck, canvas.pose.head
    canvas.flat_capsule((neck[0], 0.0, neck[2] - 0.012), head, 0.027, 0.026, shade(body.skin, 0.78))
    u, v = canvas.at(head)
    tall = HEAD * body.head
    broad = body.head * math.hypot(0.046 * canvas.sin, 0.055 * canvas.cos)
    away = canvas.sin < -0.78
    bald = body.hair == "Bald"
    cover = body.skin if bald else body.hair_colour
    canvas.oval((u, v), broad * 1.06, tall * 1.03, shade(cover, 0.84))
    canvas.oval((u + canvas.light * 0.008 * n, v - 0.004 * n), broad * 0.86, tall * 0.86, cover)
    if not away:
        _face(canvas, u, v, broad, tall)
    if not bald and not away:
        _hair(canvas, u, v, broad, tall)
    for side in (1.0, -1.0):  # ears, unless hair covers them
        azimuth = canvas.heading - side * math.pi / 2
        if body.hair != "Long" and math.sin(azimuth) > -0.25:
            ear = (u + math.cos(azimuth) * broad * 1.02 * n - canvas.cos * 0.006 * n, v + 0.012 * n)
            canvas.oval(ear, 0.009, 0.016, shade(body.skin, 0.82))
    _worn_on_head(canvas, u, v, broad, tall)
    if canvas.clothes.accessory == "Muffler":
        _muffler(canvas)


def _hair(canvas: Canvas, u: float, v: float, broad: float, tall: float) -> None:
    """The hair above the face."""
    hair = canvas.body.hair_colour
    a, b = broad * 1.07 * canvas.size, tall * 1.04 * canvas.size
    right, left = max(canvas.cos, 0.0), max(-canvas.cos, 0.0)
    behind = 22.0 * max(-canvas.sin, 0.0)
    start = 202.0 - 66.0 * right + 20.0 * left - behind
    end = 338.0 - 20.0 * right + 66.0 * left + behind
    canvas.draw.chord((u - a, v - b, u + a, v + b), start, end, fill=hair)
    shine = canvas.light * 0.4
    box = (u + (shine - 0.3) * a, v - 0.9 * b, u + (shine + 0.3) * a, v - 0.62 * b)
    canvas.draw.ellipse(box, fill=shade(hair, 1.25))


def _muffler(canvas: Canvas) -> None:
    colour, (x, _, z) = canvas.clothes.accessory_colour, canvas.pose.neck
    canvas.oval(canvas.at((x + 0.006, 0.0, z + 0.008)), 0.046 * 1.1, 0.022, shade(colour, 0.75))
    canvas.oval(canvas.at((x + 0.01, 0.0, z + 0.02)), 0.04 * 1.1, 0.022, colour)
    if canvas.sin > -0.35:
        ends = canvas.trunk_point(0.95, 0.055, 0.02), canvas.trunk_point(0.6, 0.075, 0.026)
        canvas.capsule(*ends, 0.017, 0.02, colour)


def _face(canvas: Canvas, u: float, v: float, broad: float, tall: float) -> None:
    n, body = canvas.size, canvas.body
    skin = body.skin
    frontal = max(canvas.sin, 0.0)
    half = broad * (0.7 + 0.16 * frontal - 0.2 * max(-canvas.sin, 0.0))
    cu = u + canvas.cos * (broad * 1.04 - half) * n
    cv = v + 0.1 * tall * n
    canvas.oval((cu, cv), half, tall * 0.9, shade(skin, 0.86))
    canvas.oval((cu + canvas.light * 0.1 * half * n, cv - 0.004 * n), half * 0.86, tall * 0.82, skin)
    if abs(canvas.cos) > 0.35:  # the nose in profile
        tip = u + math.copysign(broad * 1.0 + 0.014 * abs(canvas.cos), canvas.cos) * n
        edge = u + canvas.cos * broad * 0.78 * n
        canvas.draw.polygon(((edge, v - 0.008 * n), (tip, v + 0.016 * n), (edge, v + 0.022 * n)), fill=skin)
    else:
        canvas.oval((cu + canvas.cos * 0.02 * n, v + 0.014 * n), 0.005, 0.011, shade(skin, 0.82))
    for side in (0.46, -0.46):
        azimuth = canvas.heading + side
        if math.sin(azimuth) > -0.2 and abs(math.cos(azimuth)) < 0.93:
            eye = u + math.cos(azimuth) * broad * 0.94 * n
            canvas.oval((eye, v - 0.006 * n), 0.0085, 0.0075, (34, 28, 28))
            brow = (eye - 0.011 * n, v - 0.023 * n, eye + 0.011 * n, v - 0.017 * n)
            canvas.draw.rectangle(brow, fill=shade(body.hair_colour, 0.9))
    if canvas.sin > -0.3:
        mouth = u + canvas.cos * broad * 0.76 * n
        canvas.oval((mouth, v + 0.037 * n), 0.006 + 0.009 * frontal, 0.0048, (150, 76, 70))


def _worn_on_head(canvas: Canvas, u: float, v: float, broad: float, tall: float) -> None:
    n, colour, kind = canvas.size, canvas.clothes.accessory_colour, canvas.clothes.accessory
    a, b = broad * n, tall * n
    if kind == "Hat":
        canvas.draw.chord((u - 1.14 * a, v - 1.22 * b, u + 1.14 * a, v + 0.62 * b), 180, 360, fill=shade(colour, 0.8))
        lit = u + canvas.light * 0.12 * a
        canvas.draw.chord((lit - 0.95 * a, v - 1.18 * b, lit + 0.95 * a, v + 0.56 * b), 180, 360, fill=colour)
        peak = u + canvas.cos * 0.75 * a
        canvas.oval((peak, v - 0.3 * b), broad * (0.55 + 0.55 * abs(canvas.cos)), 0.012, shade(colour, 0.62))
    elif kind == "HairBand":
        corners = ((-1.08, -0.55), (1.08, -0.55), (1.02, -0.3), (-1.02, -0.3))
        canvas.draw.polygon([(u + x * a, v + y * b) for x, y in corners], fill=colour)
    elif kind == "Headphone":
        width = max(2, round(0.017 * n))
        bow = (u - 1.18 * a, v - 1.2 * b, u + 1.18 * a, v + 0.9 * b)
        canvas.draw.arc(bow, 190, 350, fill=(40, 40, 44), width=width)
        for side in (1.0, -1.0):
            azimuth = canvas.heading + side * math.pi / 2
            if math.sin(azimuth) > -0.3:
                canvas.oval((u + math.cos(azimuth) * 1.08 * a, v + 0.1 * b), 0.015, 0.022, colour)
    elif kind == "Kerchief":
        _hood(canvas, u, v, a, b)
    elif kind == "Sunglasses" and canvas.sin > -0.4:
        eye = u + canvas.cos * 0.5 * a
        canvas.oval((eye, v - 0.1 * b), broad * (0.42 + 0.36 * max(canvas.sin, 0.0)), 0.0155, (16, 16, 20))
        earpiece = (eye, v - 0.12 * b, u - canvas.cos * 0.35 * a, v - 0.12 * b)
        canvas.draw.line(earpiece, fill=(16, 16, 20), width=canvas.line_width(0.007))


def _hood(canvas: Canvas, u: float, v: float, a: float, b: float) -> None:
    colour = canvas.clothes.accessory_colour
    right, left, behind = max(canvas.cos, 0.0), max(-canvas.cos, 0.0), 60.0 * max(-canvas.sin, 0.0)
    box = (u - 1.16 * a, v - 1.14 * b, u + 1.16 * a, v + 1.2 * b)
    canvas.draw.chord(box, 195 - 95 * right - behind, 345 + 95 * left + behind, fill=colour)
    canvas.draw.ellipse((u - 0.7 * a, v + 0.85 * b, u + 0.7 * a, v + 1.3 * b), fill=shade(colour, 0.8))
