"""A walking figure, painted part by part, from far to near."""

from PIL import Image

from amem_cli.walkers.bags import paint_backpack, paint_held, paint_luggage, paint_straps
from amem_cli.walkers.canvas import Canvas, Edge, View, between, edge_at, ring, shade
from amem_cli.walkers.gait import Arm, Leg
from amem_cli.walkers.head import paint_head, paint_long_hair
from amem_cli.walkers.people import RGB, Walker


def paint_figure(image: Image.Image, walker: Walker, phase: float, view: View) -> None:
    """Paint a walker at `phase` of the gait (in cycles) into an RGB image, in place."""
    canvas = Canvas(image, walker, phase, view)
    pose, luggage = canvas.pose, walker.clothes.carrying == "LuggageCase"
    legs = sorted(pose.legs, key=lambda leg: canvas.depth(leg.knee) + canvas.depth(leg.hip) + canvas.depth(leg.ankle))
    arms = sorted(pose.arms, key=lambda arm: canvas.depth(arm.shoulder) + 0.6 * canvas.depth(arm.wrist))
    from_behind = canvas.sin < 0.0
    far_arm_hidden = abs(canvas.cos) > 0.45 or from_behind
    if luggage and not from_behind:
        paint_luggage(canvas)
    if not from_behind:
        paint_long_hair(canvas)
        paint_backpack(canvas)
    if far_arm_hidden:
        _arm(canvas, arms[0], 0.76)
    _leg(canvas, legs[0], 0.8)
    _leg(canvas, legs[1], 1.0)
    _pelvis(canvas)
    _torso(canvas)
    if not far_arm_hidden:
        _arm(canvas, arms[0], 0.94)
    paint_head(canvas)
    if from_behind:
        paint_long_hair(canvas)
        paint_backpack(canvas)
    paint_straps(canvas)
    _arm(canvas, arms[1], 1.0)
    if luggage and from_behind:
        paint_luggage(canvas)


def _torso(canvas: Canvas) -> None:
    clothes = canvas.clothes
    edges = _torso_edges(canvas)
    canvas.wrap(edges, clothes.upper_colour)
    if clothes.pattern in ("ThickStripes", "ThinStripes", "Plaid"):
        _stripes(canvas, edges, clothes.pattern, clothes.second)
    front = canvas.sin > -0.35  # the middle of the chest is visible
    if front and clothes.upper in ("Jacket", "Suit"):
        _opening(canvas)
    if front and clothes.upper in ("VNeck", "Top"):
        canvas.front_patch(((1.0, 0.035), (0.99, -0.035), (0.8, 0.0)), canvas.body.skin)
    if canvas.sin > -0.1 and clothes.pattern == "Logo":
        canvas.front_patch(((0.76, 0.038), (0.76, -0.038), (0.56, -0.038), (0.56, 0.038)), clothes.second)
    if clothes.upper == "Shirt" and front and not clothes.pattern:
        buttons = ((1.0, 0.007), (1.0, -0.007), (0.0, -0.007), (0.0, 0.007))
        canvas.front_patch(buttons, shade(clothes.upper_colour, 0.82))
    if clothes.upper in ("Sweater", "Tshirt"):  # ribbed hem, collar
        canvas.draw.polygon(ring(edges[-2:], 0.0, 1.0), fill=shade(clothes.upper_colour, 0.88))


def _torso_edges(canvas: Canvas) -> list[Edge]:
    body, clothes = canvas.body, canvas.clothes
    b = body.build * (1.07 if clothes.upper in ("Jacket", "Suit", "Sweater") else 1.0)
    belly = 0.012 * max(body.build - 1.0, 0.0) / 0.2
    female = body.sex == "Female"
    waist = 0.074 if female else 0.084
    chest = 0.008 if female else 0.0
    hem = -0.2 if clothes.upper in ("Jacket", "Suit") else -0.02 if clothes.upper == "Top" else -0.1
    stations = (
        (1.02, 0.034, 0.036, 0.0),
        (0.98, 0.054 * b, 0.040 * b, -0.004),
        (0.94, 0.082 * b, 0.046 * b, -0.006),
        (0.88, 0.100 * b, 0.053 * b, -0.004),
        (0.80, 0.104 * b, 0.058 * b, 0.0),
        (0.66, 0.098 * b, (0.061 + chest) * b, 0.006 + chest / 2),
        (0.44, (waist + 0.008) * b, 0.056 * b, 0.004 + belly),
        (0.26, waist * b, 0.055 * b, belly),
        (0.08, 0.089 * b, 0.063 * b, -0.004),
        (hem, 0.093 * b, 0.065 * b, -0.006),
    )
    return [canvas.trunk_edge(*station) for station in stations]


def _stripes(canvas: Canvas, edges: list[Edge], pattern: str, colour: RGB) -> None:
    count, filled = {"ThickStripes": (4, 0.5), "ThinStripes": (8, 0.4), "Plaid": (5, 0.34)}[pattern]
    v0, v1 = edges[0][2], edges[-1][2]
    for k in range(count):
        band = 0.9 * (k / count)
        ends = (1.0 - band, 1.0 - band - filled * 0.9 / count)
        rows = [edge_at(edges, v0 + (v1 - v0) * max(end, 0.0)) for end in ends]
        canvas.draw.polygon(ring(rows, 0.0, 1.0), fill=shade(colour, 0.82))
        lit = (0.0, 0.7) if canvas.light < 0 else (0.3, 1.0)
        canvas.draw.polygon(ring(rows, *lit), fill=colour)
    if pattern == "Plaid":
        for k in range(4):
            left = 0.12 + 0.22 * k
            canvas.draw.polygon(ring(edges[2:], left, left + 0.06), fill=shade(colour, 0.9))


def _opening(canvas: Canvas) -> None:
    clothes = canvas.clothes
    if clothes.upper == "Suit":
        canvas.front_patch(((1.02, 0.036), (1.02, -0.036), (0.55, 0.0)), clothes.second)
        canvas.front_patch(((1.0, 0.009), (1.0, -0.009), (0.6, 0.0)), (120, 30, 40))
    else:
        shirt = ((1.01, 0.03), (1.01, -0.03), (0.6, -0.018), (-0.2, -0.032), (-0.2, 0.032), (0.6, 0.018))
        canvas.front_patch(shirt, clothes.second)


def _pelvis(canvas: Canvas) -> None:
    clothes, body = canvas.clothes, canvas.body
    b = body.build * (1.05 if body.sex == "Female" else 1.0)
    colour = clothes.lower_colour
    edges = [
        canvas.trunk_edge(0.22, 0.08 * b, 0.056 * b, 0.0),
        canvas.trunk_edge(0.08, 0.088 * b, 0.064 * b, -0.004),
        canvas.trunk_edge(-0.08, 0.09 * b, 0.066 * b, -0.006),
    ]
    if "Skirt" not in clothes.lower:
        edges.append(canvas.trunk_edge(-0.2, 0.07 * b, 0.05 * b, 0.0))
        canvas.wrap(edges, colour)
        return
    rows = _skirt(canvas, edges)
    canvas.wrap(rows, colour)
    if clothes.lower_pattern == "Plaid":
        for k in range(4):
            left = 0.1 + 0.23 * k
            canvas.draw.polygon(ring(rows, left, left + 0.07), fill=shade(colour, 0.62))
        for k in range(3):
            v = rows[1][2] + (rows[-1][2] - rows[1][2]) * (0.2 + 0.3 * k)
            band = [edge_at(rows, v), edge_at(rows, v + 0.014 * canvas.size)]
            canvas.draw.polygon(ring(band, 0.0, 1.0), fill=shade(colour, 0.62))


def _skirt(canvas: Canvas, edges: list[Edge]) -> list[Edge]:
    """The outline of the hips, continued to a hem that moves with the legs."""
    long = canvas.clothes.lower == "LongSkirt"
    rows = list(edges)
    for down in (0.35, 0.7, 1.0):
        points = []
        for leg in canvas.pose.legs:
            if not long:
                point = between(leg.hip, leg.knee, down * 0.85)
            elif down <= 0.5:
                point = between(leg.hip, leg.knee, down * 2.0)
            else:
                point = between(leg.knee, leg.ankle, (down - 0.5) * 1.5)
            points.append(canvas.at(point))
        us, vs = zip(*points, strict=True)
        room = canvas.size * (0.05 + (0.012 if long else 0.022) * down)
        rows.append((min(us) - room, max(us) + room, max(sum(vs) / 2, rows[-1][2] + 1.0)))
    return rows


def _leg(canvas: Canvas, leg: Leg, tone: float) -> None:
    body, clothes = canvas.body, canvas.clothes
    b = 0.5 + 0.5 * body.build
    skin = shade(body.skin, tone)
    cloth = shade(clothes.lower_colour, tone)
    bare = shade(clothes.shoe_colour, tone * 1.1) if clothes.footwear == "Stocking" else skin
    thigh = (0.054 * b, 0.037 * b)
    calf = (0.035 * b, 0.021 * b)
    _foot(canvas, leg, tone)
    kind = clothes.lower
    calf_point = between(leg.knee, leg.ankle, 0.28)
    cuff = between(leg.ankle, leg.heel, 0.25)
    if kind in ("Trousers", "Jeans", "Suits"):
        snug = 1.0 if kind == "Jeans" else 1.1
        joints = (
            (leg.hip, thigh[0] * 1.04), (leg.knee, thigh[1] * snug), (calf_point, calf[0] * snug * 1.05),
            (cuff, calf[1] * snug * 1.3),
        )  # fmt: skip
        canvas.tube(joints, cloth)
        if clothes.lower_pattern == "ThinStripes":
            _seam(canvas, leg, shade(clothes.lower_colour, tone * 1.5))
        elif kind == "Jeans":  # worn at the thigh
            worn = between(leg.hip, leg.knee, 0.4), between(leg.hip, leg.knee, 0.85)
            canvas.flat_capsule(*worn, 0.014, 0.01, shade(cloth, 1.22))
        return
    joints = ((leg.hip, thigh[0]), (leg.knee, thigh[1] * 0.98), (calf_point, calf[0] * 1.08), (leg.ankle, calf[1]))
    canvas.tube(joints, bare)
    if clothes.footwear == "Boots":
        boot = between(leg.knee, leg.ankle, 0.35)
        canvas.capsule(boot, leg.ankle, calf[0] * 1.15, calf[1] * 1.5, shade(clothes.shoe_colour, tone))
    if kind == "Capri":
        end = between(leg.knee, leg.ankle, 0.5)
        canvas.tube(((leg.hip, thigh[0] * 1.04), (leg.knee, thigh[1] * 1.08), (end, calf[0] * 1.06)), cloth)
    elif kind in ("Shorts", "HotPants"):
        length, flare = (0.92, 1.3) if kind == "Shorts" else (0.38, 1.35)
        canvas.capsule(leg.hip, between(leg.hip, leg.knee, length), thigh[0] * 1.05, thigh[1] * flare, cloth)


def _seam(canvas: Canvas, leg: Leg, colour: RGB) -> None:
    width = canvas.line_width(0.006)
    for shift in (-0.018, 0.0, 0.018):
        line = []
        for joint, spread in ((leg.hip, 1.3), (leg.knee, 1.0), (leg.ankle, 0.7)):
            u, v = canvas.at(joint)
            line.append((u + shift * spread * canvas.size, v))
        canvas.draw.line(line, fill=colour, width=width)


def _foot(canvas: Canvas, leg: Leg, tone: float) -> None:
    clothes = canvas.clothes
    shoe = shade(clothes.shoe_colour, tone)
    heel = (leg.heel[0] + 0.008, leg.heel[1], leg.heel[2] + 0.02)
    toe = (leg.toe[0] - 0.012, leg.toe[1], leg.toe[2] + 0.015)
    sole = shade((240, 240, 236) if clothes.footwear == "Sneaker" else (34, 30, 28), tone)
    lower_heel, lower_toe = (heel[0], heel[1], heel[2] - 0.007), (toe[0], toe[1], toe[2] - 0.007)
    canvas.flat_capsule(lower_heel, lower_toe, 0.021, 0.016, sole)
    if clothes.footwear == "Sandals":
        canvas.capsule(heel, toe, 0.019, 0.014, shade(canvas.body.skin, tone))
        canvas.capsule(between(heel, toe, 0.45), between(heel, toe, 0.75), 0.019, 0.017, shoe)
        return
    canvas.capsule(heel, toe, 0.022, 0.0165, shoe)
    high = {"Boots": 0.05, "Sneaker": 0.012}.get(clothes.footwear, 0.0)
    ankle = (leg.ankle[0], leg.ankle[1], leg.ankle[2] + high)
    if clothes.footwear != "Stocking":
        canvas.capsule(ankle, between(heel, toe, 0.25), 0.022, 0.022, shoe)
    if clothes.footwear in ("Sneaker", "LeatherShoes"):  # laces, shine
        mark = (236, 236, 232) if clothes.footwear == "Sneaker" else shade(clothes.shoe_colour, 1.9)
        canvas.flat_capsule(between(heel, toe, 0.55), between(heel, toe, 0.72), 0.008, 0.006, shade(mark, tone))


def _arm(canvas: Canvas, arm: Arm, tone: float) -> None:
    body, clothes = canvas.body, canvas.clothes
    b = 0.45 + 0.55 * body.build
    skin, cloth = shade(body.skin, tone), shade(clothes.upper_colour, tone)
    bulky = 1.16 if clothes.upper in ("Jacket", "Suit", "Sweater") else 1.05
    paint_held(canvas, arm, tone)
    canvas.flat_capsule(arm.wrist, arm.hand, 0.016, 0.017, shade(skin, 0.97))
    if clothes.sleeve == "Long":
        widths = (0.031 * b * bulky, 0.025 * b * bulky, 0.019 * b * bulky)
        canvas.tube(tuple(zip((arm.shoulder, arm.elbow, arm.wrist), widths, strict=True)), cloth)
        if clothes.pattern in ("ThickStripes", "ThinStripes", "Plaid"):
            for p, q, r in ((arm.shoulder, arm.elbow, widths[0] * 0.9), (arm.elbow, arm.wrist, widths[1] * 0.85)):
                for start in (0.3, 0.7):
                    canvas.band(p, q, start, r, shade(clothes.second, tone * 0.94))
        return
    canvas.tube(((arm.shoulder, 0.027 * b), (arm.elbow, 0.022 * b), (arm.wrist, 0.016 * b)), skin)
    if clothes.sleeve == "Short":
        end = between(arm.shoulder, arm.elbow, 0.62)
        canvas.capsule(arm.shoulder, end, 0.033 * b, 0.031 * b, cloth)
        if clothes.pattern in ("ThickStripes", "ThinStripes"):
            canvas.band(arm.shoulder, arm.elbow, 0.4, 0.03 * b, shade(clothes.second, tone * 0.94))
