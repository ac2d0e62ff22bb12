"""An articulated figure, painted part by part, far to near.

Body points (see `gait`) become (u right, v down) on the picture, with the depth towards the viewer for the order.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

from amem_cli.walkers.gait import ARM, HEAD, Leg, Point, Pose, pose_at
from amem_cli.walkers.people import RGB, Walker

# Half a circle, from a limb's left side around its end to its right side.
_ARC = [(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in (90, 126, 162, 198, 234, 270)]


def paint_figure(
    image: Image.Image,
    walker: Walker,
    phase: float,
    *,
    heading: float,
    foot: tuple[float, float],
    size: float,
    pitch: float = 0.12,
    light: float = -1.0,
) -> None:
    """Paint a walker into an RGB image, in place.

    `phase` in cycles; `heading` in radians: 0 walks to the right, pi / 2 towards the viewer; `foot` is the pixel on the
    ground below the hips, `size` the body's height in pixels, `pitch` how far the camera looks down (radians), `light`
    -1 or 1 for light from the left or the right.
    """
    _Painter(image, walker, pose_at(walker, phase), heading, foot, size, pitch, light).paint()


class _Painter:
    """One figure at one moment, projected; each method paints one part."""

    def __init__(
        self,
        image: Image.Image,
        walker: Walker,
        pose: Pose,
        heading: float,
        foot: tuple[float, float],
        size: float,
        pitch: float,
        light: float,
    ):
        self.draw = ImageDraw.Draw(image)
        self.walker, self.pose = walker, pose
        self.heading = heading
        self.cos, self.sin = math.cos(heading), math.sin(heading)  # facing right, facing the viewer
        self.foot, self.size, self.light = foot, size, light
        self.up, self.tilt = math.cos(pitch), math.sin(pitch)

    def paint(self) -> None:
        pose, clothes = self.pose, self.walker.clothes
        legs = sorted(pose.legs, key=lambda leg: self.depth(leg.knee) + self.depth(leg.hip) + self.depth(leg.ankle))
        arms = sorted(pose.arms, key=lambda arm: self.depth(arm.shoulder) + 0.6 * self.depth(arm.wrist))
        seen_from_behind = self.sin < 0.0
        if clothes.carrying == "LuggageCase" and not seen_from_behind:
            self.luggage()
        if not seen_from_behind:
            self.long_hair()
            self.back_bag()
        far_arm_hidden = abs(self.cos) > 0.45 or seen_from_behind
        if far_arm_hidden:
            self.arm(arms[0], 0.76)
        self.leg(legs[0], 0.8)
        self.leg(legs[1], 1.0)
        self.pelvis()
        self.torso()
        if not far_arm_hidden:
            self.arm(arms[0], 0.94)
        self.neck_and_head()
        if seen_from_behind:
            self.long_hair()
            self.back_bag()
        self.strap_bag()
        self.arm(arms[1], 1.0)
        if clothes.carrying == "LuggageCase" and seen_from_behind:
            self.luggage()

    # projection

    def depth(self, point: Point) -> float:
        return point[0] * self.sin - point[1] * self.cos

    def at(self, point: Point) -> tuple[float, float]:
        """Pixels (u, v) of a body point."""
        x, y, z = point
        u = x * self.cos + y * self.sin
        v = z * self.up - (x * self.sin - y * self.cos) * self.tilt
        return self.foot[0] + self.size * u, self.foot[1] - self.size * v

    # primitives

    def capsule(self, p: Point, q: Point, r: float, s: float, colour: RGB) -> None:
        """A tapered limb from p (radius r) to q (radius s)."""
        self.tube(((p, r), (q, s)), colour)

    def tube(self, joints: Sequence[tuple[Point, float]], colour: RGB) -> None:
        """A limb through joints, each with its radius, rounded by a shaded and a lit side and at both ends."""
        spine = []
        for point, radius in joints:
            u, v = self.at(point)
            spine.append((u, v, radius * self.size))
        shift = self.light * 0.26
        for share, aside, tone in ((1.0, 0.0, 0.76), (0.76, shift, 1.0), (0.34, 1.7 * shift, 1.12)):
            line = [(u + aside * r, v, share * r) for u, v, r in spine]
            self.draw.polygon(_outline(line), fill=_shade(colour, tone))

    def _capsule(
        self, pu: float, pv: float, qu: float, qv: float, du: float, dv: float, r: float, s: float, colour: RGB
    ) -> None:
        points = [(pu + r * (c * du - n * dv), pv + r * (c * dv + n * du)) for c, n in _ARC]
        points += [(qu - s * (c * du - n * dv), qv - s * (c * dv + n * du)) for c, n in _ARC]
        self.draw.polygon(points, fill=colour)

    def oval(self, centre: tuple[float, float], half_width: float, half_height: float, colour: RGB) -> None:
        u, v = centre
        a, b = half_width * self.size, half_height * self.size
        self.draw.ellipse((u - a, v - b, u + a, v + b), fill=colour)

    def trunk_point(self, station: float, forward: float = 0.0, left: float = 0.0) -> Point:
        """A point of the leaning trunk: `station` 0 at the hips, 1 at the base of the neck."""
        x, _, z = self.pose.neck
        return x * station + forward, left, self.pose.pelvis + (z - self.pose.pelvis) * station

    def trunk_edge(self, station: float, broad: float, deep: float, forward: float) -> tuple[float, float, float]:
        """Left u, right u and v of the trunk's outline at one station, an ellipse `broad` by `deep`."""
        u, v = self.at(self.trunk_point(station, forward))
        half = self.size * math.hypot(broad * self.sin, deep * self.cos)
        return u - half, u + half, v

    def wrap(self, edges: list[tuple[float, float, float]], colour: RGB) -> None:
        """A body of revolution through `edges` (left, right, v), darker away from the light."""
        self.draw.polygon(_ring(edges, 0.0, 1.0), fill=_shade(colour, 0.74))
        lit = (0.0, 0.72) if self.light < 0 else (0.28, 1.0)
        self.draw.polygon(_ring(edges, *lit), fill=colour)
        bright = (0.1, 0.36) if self.light < 0 else (0.64, 0.9)
        self.draw.polygon(_ring(edges, *bright), fill=_shade(colour, 1.1))

    # parts

    def torso_edges(self) -> list[tuple[float, float, float]]:
        body, clothes = self.walker.body, self.walker.clothes
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
        return [self.trunk_edge(*station) for station in stations]

    def torso(self) -> None:
        clothes = self.walker.clothes
        edges = self.torso_edges()
        self.wrap(edges, clothes.upper_colour)
        if clothes.pattern in ("ThickStripes", "ThinStripes", "Plaid"):
            self.stripes(edges, clothes.pattern, clothes.second)
        front = self.sin > -0.35  # the middle of the chest can be seen
        if front and clothes.upper in ("Jacket", "Suit"):
            self.opening()
        if front and clothes.upper in ("VNeck", "Top"):
            self.front_patch(((1.0, 0.035), (0.99, -0.035), (0.8, 0.0)), self.walker.body.skin)
        if self.sin > -0.1 and clothes.pattern == "Logo":
            self.front_patch(((0.76, 0.038), (0.76, -0.038), (0.56, -0.038), (0.56, 0.038)), clothes.second)
        if clothes.upper == "Shirt" and front and not clothes.pattern:
            self.front_patch(
                ((1.0, 0.007), (1.0, -0.007), (0.0, -0.007), (0.0, 0.007)), _shade(clothes.upper_colour, 0.82)
            )
        if clothes.upper in ("Sweater", "Tshirt"):  # ribbed hem, collar
            self.draw.polygon(_ring(edges[-2:], 0.0, 1.0), fill=_shade(clothes.upper_colour, 0.88))

    def stripes(self, edges: list[tuple[float, float, float]], pattern: str, colour: RGB) -> None:
        top, bottom = 0.9, 0.0
        count = {"ThickStripes": 4, "ThinStripes": 8, "Plaid": 5}[pattern]
        share = {"ThickStripes": 0.5, "ThinStripes": 0.4, "Plaid": 0.34}[pattern]
        v0, v1 = edges[0][2], edges[-1][2]
        bands = [bottom + (top - bottom) * (k / count) for k in range(count)]
        for band in bands:
            ends = (1.0 - band, 1.0 - band - share * (top - bottom) / count)
            rows = [_edge_at(edges, v0 + (v1 - v0) * max(end, 0.0)) for end in ends]
            self.draw.polygon(_ring(rows, 0.0, 1.0), fill=_shade(colour, 0.82))
            lit = (0.0, 0.7) if self.light < 0 else (0.3, 1.0)
            self.draw.polygon(_ring(rows, *lit), fill=colour)
        if pattern == "Plaid":
            for k in range(4):
                left = 0.12 + 0.22 * k
                self.draw.polygon(_ring(edges[2:], left, left + 0.06), fill=_shade(colour, 0.9))

    def front_patch(self, corners: tuple[tuple[float, float], ...], colour: RGB) -> None:
        """A patch on the chest's front, corners as (station, left)."""
        build = self.walker.body.build
        points = []
        for station, left in corners:
            depth = min(0.058, 0.032 + 0.22 * (1.02 - station))  # the neck is thinner than the chest
            bulge = depth * math.sqrt(max(0.0, 1.0 - (left / 0.1) ** 2)) * build
            points.append(self.at(self.trunk_point(station, bulge, left)))
        self.draw.polygon(points, fill=colour)

    def opening(self) -> None:
        clothes = self.walker.clothes
        if clothes.upper == "Suit":
            self.front_patch(((1.02, 0.036), (1.02, -0.036), (0.55, 0.0)), clothes.second)
            self.front_patch(((1.0, 0.009), (1.0, -0.009), (0.6, 0.0)), (120, 30, 40))
        else:
            self.front_patch(
                ((1.01, 0.03), (1.01, -0.03), (0.6, -0.018), (-0.2, -0.032), (-0.2, 0.032), (0.6, 0.018)),
                clothes.second,
            )

    def pelvis(self) -> None:
        clothes, body = self.walker.clothes, self.walker.body
        b = body.build * (1.05 if body.sex == "Female" else 1.0)
        colour = clothes.lower_colour
        edges = [
            self.trunk_edge(0.22, 0.08 * b, 0.056 * b, 0.0),
            self.trunk_edge(0.08, 0.088 * b, 0.064 * b, -0.004),
            self.trunk_edge(-0.08, 0.09 * b, 0.066 * b, -0.006),
        ]
        if "Skirt" not in clothes.lower:
            edges.append(self.trunk_edge(-0.2, 0.07 * b, 0.05 * b, 0.0))
            self.wrap(edges, colour)
            return
        self.wrap(self.skirt(edges), colour)
        if clothes.lower_pattern == "Plaid":
            rows = self.skirt(edges)
            for k in range(4):
                left = 0.1 + 0.23 * k
                self.draw.polygon(_ring(rows, left, left + 0.07), fill=_shade(colour, 0.62))
            for k in range(3):
                v = rows[1][2] + (rows[-1][2] - rows[1][2]) * (0.2 + 0.3 * k)
                band = [_edge_at(rows, v), _edge_at(rows, v + 0.014 * self.size)]
                self.draw.polygon(_ring(band, 0.0, 1.0), fill=_shade(colour, 0.62))

    def skirt(self, edges: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
        """The hips' outline continued to a hem that the legs push out."""
        long = self.walker.clothes.lower == "LongSkirt"
        rows = list(edges)
        for share in (0.35, 0.7, 1.0):
            us, vs = [], []
            for leg in self.pose.legs:
                if long:
                    point = (
                        _between(leg.hip, leg.knee, share * 2.0)
                        if share <= 0.5
                        else _between(leg.knee, leg.ankle, (share - 0.5) * 1.5)
                    )
                else:
                    point = _between(leg.hip, leg.knee, share * 0.85)
                u, v = self.at(point)
                us.append(u)
                vs.append(v)
            room = self.size * (0.05 + (0.012 if long else 0.022) * share)
            rows.append((min(us) - room, max(us) + room, max(sum(vs) / 2, rows[-1][2] + 1.0)))
        return rows

    def leg(self, leg: Leg, tone: float) -> None:
        body, clothes = self.walker.body, self.walker.clothes
        b = 0.5 + 0.5 * body.build
        skin = _shade(body.skin, tone)
        cloth = _shade(clothes.lower_colour, tone)
        bare = _shade(clothes.shoe_colour, tone * 1.1) if clothes.footwear == "Stocking" else skin
        thigh = (0.054 * b, 0.037 * b)
        calf = (0.035 * b, 0.021 * b)
        self.foot_part(leg, tone)
        kind = clothes.lower
        calf_point = _between(leg.knee, leg.ankle, 0.28)
        cuff = _between(leg.ankle, leg.heel, 0.25)
        if kind in ("Trousers", "Jeans", "Suits"):
            snug = 1.0 if kind == "Jeans" else 1.1
            joints = (
                (leg.hip, thigh[0] * 1.04), (leg.knee, thigh[1] * snug), (calf_point, calf[0] * snug * 1.05),
                (cuff, calf[1] * snug * 1.3),
            )  # fmt: skip
            self.tube(joints, cloth)
            if clothes.lower_pattern == "ThinStripes":
                self.seam(leg, _shade(clothes.lower_colour, tone * 1.5))
            elif kind == "Jeans":  # worn at the thigh
                worn = _between(leg.hip, leg.knee, 0.4), _between(leg.hip, leg.knee, 0.85)
                self.thin(*worn, 0.014, 0.01, _shade(cloth, 1.22))
            return
        joints = ((leg.hip, thigh[0]), (leg.knee, thigh[1] * 0.98), (calf_point, calf[0] * 1.08), (leg.ankle, calf[1]))
        self.tube(joints, bare)
        if clothes.footwear == "Boots":
            boot = _between(leg.knee, leg.ankle, 0.35)
            self.capsule(boot, leg.ankle, calf[0] * 1.15, calf[1] * 1.5, _shade(clothes.shoe_colour, tone))
        if kind == "Capri":
            end = _between(leg.knee, leg.ankle, 0.5)
            self.tube(((leg.hip, thigh[0] * 1.04), (leg.knee, thigh[1] * 1.08), (end, calf[0] * 1.06)), cloth)
        elif kind in ("Shorts", "HotPants"):
            share, flare = (0.92, 1.3) if kind == "Shorts" else (0.38, 1.35)
            self.capsule(leg.hip, _between(leg.hip, leg.knee, share), thigh[0] * 1.05, thigh[1] * flare, cloth)

    def seam(self, leg: Leg, colour: RGB) -> None:
        width = max(1, round(0.006 * self.size))
        for shift in (-0.018, 0.0, 0.018):
            line = []
            for joint, spread in ((leg.hip, 1.3), (leg.knee, 1.0), (leg.ankle, 0.7)):
                u, v = self.at(joint)
                line.append((u + shift * spread * self.size, v))
            self.draw.line(line, fill=colour, width=width)

    def foot_part(self, leg: Leg, tone: float) -> None:
        clothes = self.walker.clothes
        shoe = _shade(clothes.shoe_colour, tone)
        heel = (leg.heel[0] + 0.008, leg.heel[1], leg.heel[2] + 0.02)
        toe = (leg.toe[0] - 0.012, leg.toe[1], leg.toe[2] + 0.015)
        sole = _shade((240, 240, 236) if clothes.footwear == "Sneaker" else (34, 30, 28), tone)
        drop = -0.007
        self.thin((heel[0], heel[1], heel[2] + drop), (toe[0], toe[1], toe[2] + drop), 0.021, 0.016, sole)
        if clothes.footwear == "Sandals":
            self.capsule(heel, toe, 0.019, 0.014, _shade(self.walker.body.skin, tone))
            self.capsule(_between(heel, toe, 0.45), _between(heel, toe, 0.75), 0.019, 0.017, shoe)
            return
        self.capsule(heel, toe, 0.022, 0.0165, shoe)
        high = {"Boots": 0.05, "Sneaker": 0.012}.get(clothes.footwear, 0.0)
        ankle = (leg.ankle[0], leg.ankle[1], leg.ankle[2] + high)
        if clothes.footwear != "Stocking":
            self.capsule(ankle, _between(heel, toe, 0.25), 0.022, 0.022, shoe)
        if clothes.footwear in ("Sneaker", "LeatherShoes"):  # laces, shine
            mark = (236, 236, 232) if clothes.footwear == "Sneaker" else _shade(clothes.shoe_colour, 1.9)
            self.thin(_between(heel, toe, 0.55), _between(heel, toe, 0.72), 0.008, 0.006, _shade(mark, tone))

    def thin(self, p: Point, q: Point, r: float, s: float, colour: RGB) -> None:
        """A flat, unshaded capsule."""
        (pu, pv), (qu, qv) = self.at(p), self.at(q)
        length = math.hypot(qu - pu, qv - pv) or 1e-6
        du, dv = (qu - pu) / length, (qv - pv) / length
        self._capsule(pu, pv, qu, qv, du, dv, r * self.size, s * self.size, colour)

    def arm(self, arm: ARM, tone: float) -> None:
        body, clothes = self.walker.body, self.walker.clothes
        b = 0.45 + 0.55 * body.build
        skin, cloth = _shade(body.skin, tone), _shade(clothes.upper_colour, tone)
        bulky = 1.16 if clothes.upper in ("Jacket", "Suit", "Sweater") else 1.05
        self.held(arm, tone)
        self.thin(arm.wrist, arm.hand, 0.016, 0.017, _shade(skin, 0.97))
        if clothes.sleeve == "Long":
            widths = (0.031 * b * bulky, 0.025 * b * bulky, 0.019 * b * bulky)
            self.tube(tuple(zip((arm.shoulder, arm.elbow, arm.wrist), widths, strict=True)), cloth)
            if clothes.pattern in ("ThickStripes", "ThinStripes", "Plaid"):
                for p, q, r in ((arm.shoulder, arm.elbow, widths[0] * 0.9), (arm.elbow, arm.wrist, widths[1] * 0.85)):
                    for share in (0.3, 0.7):
                        self.band(p, q, share, r, _shade(clothes.second, tone * 0.94))
            return
        self.tube(((arm.shoulder, 0.027 * b), (arm.elbow, 0.022 * b), (arm.wrist, 0.016 * b)), skin)
        if clothes.sleeve == "Short":
            end = _between(arm.shoulder, arm.elbow, 0.62)
            self.capsule(arm.shoulder, end, 0.033 * b, 0.031 * b, cloth)
            if clothes.pattern in ("ThickStripes", "ThinStripes"):
                self.band(arm.shoulder, arm.elbow, 0.4, 0.03 * b, _shade(clothes.second, tone * 0.94))

    def band(self, p: Point, q: Point, share: float, r: float, colour: RGB) -> None:
        """A stripe around a limb, an eighth of its length."""
        (au, av), (bu, bv) = self.at(_between(p, q, share)), self.at(_between(p, q, share + 0.12))
        length = math.hypot(bu - au, bv - av) or 1e-6
        nu, nv = -(bv - av) / length * r * self.size, (bu - au) / length * r * self.size
        self.draw.polygon(((au + nu, av + nv), (au - nu, av - nv), (bu - nu, bv - nv), (bu + nu, bv + nv)), fill=colour)

    def held(self, arm: ARM, tone: float) -> None:
        """What the right hand carries, or the left arm presses to the body."""
        clothes = self.walker.clothes
        left = arm is self.pose.arms[0]
        bag, (u, v) = _shade(clothes.bag_colour, tone), self.at(arm.hand)
        n = self.size
        if clothes.carrying == "Suitcase" and not left:
            half = n * math.hypot(0.085 * self.cos, 0.03 * self.sin)
            self.box(u - half, v + 0.02 * n, u + half, v + 0.15 * n, bag)
            self.draw.rectangle((u - 0.02 * n, v, u + 0.02 * n, v + 0.018 * n), outline=_shade(bag, 0.6))
        elif clothes.carrying == "PlasticBags" and not left:
            points = ((-0.012, 0.0), (0.012, 0.0), (0.052, 0.09), (0.045, 0.16), (-0.045, 0.16), (-0.052, 0.09))
            self.draw.polygon([(u + a * n, v + c * n) for a, c in points], fill=bag)
            self.draw.polygon([(u + a * 0.5 * n, v + c * n) for a, c in points[2:]], fill=_shade(bag, 0.86))
        elif clothes.carrying == "Folder" and left:
            half = n * math.hypot(0.07 * self.cos, 0.02 * self.sin)
            self.box(u - half, v - 0.085 * n, u + half, v + 0.025 * n, bag)

    def box(self, left: float, top: float, right: float, bottom: float, colour: RGB) -> None:
        self.draw.rectangle((left, top, right, bottom), fill=_shade(colour, 0.74))
        inset = 0.22 * (right - left)
        lit = (left, top, right - inset, bottom) if self.light < 0 else (left + inset, top, right, bottom)
        self.draw.rectangle(lit, fill=colour)
        self.draw.rectangle((left, top, right, top + 0.1 * (bottom - top)), fill=_shade(colour, 0.6))

    def luggage(self) -> None:
        """A rolling case drawn behind the right hand."""
        n, colour = self.size, self.walker.clothes.bag_colour
        hand = self.at(self.pose.arms[1].hand)
        case = self.at((-0.3, -0.13, 0.16))
        self.draw.line((hand, (case[0], case[1] - 0.1 * n)), fill=(60, 60, 62), width=max(1, round(0.012 * n)))
        half = n * 0.065
        self.box(case[0] - half, case[1] - 0.12 * n, case[0] + half, case[1] + 0.13 * n, colour)
        self.oval((case[0], case[1] + 0.145 * n), 0.018, 0.018, (24, 24, 24))

    def back_bag(self) -> None:
        """A rucksack: behind the trunk, or on it when seen from behind."""
        clothes = self.walker.clothes
        if clothes.carrying != "Backpack":
            return
        rows = []
        for station, broad, deep in (
            (0.95, 0.05, 0.03),
            (0.86, 0.074, 0.046),
            (0.5, 0.08, 0.054),
            (0.28, 0.072, 0.046),
        ):
            u, v = self.at(self.trunk_point(station, -0.088 * self.walker.body.build))
            half = self.size * math.hypot(broad * self.sin, deep * self.cos)
            rows.append((u - half, u + half, v))
        self.wrap(rows, clothes.bag_colour)
        pocket = [_edge_at(rows, rows[0][2] + (rows[-1][2] - rows[0][2]) * t) for t in (0.58, 0.9)]
        self.draw.polygon(_ring(pocket, 0.16, 0.84), fill=_shade(clothes.bag_colour, 0.62))

    def strap_bag(self) -> None:
        """Straps of a rucksack, or a bag on the right: across the chest (messenger) or on the shoulder (other)."""
        clothes, n = self.walker.clothes, self.size
        width = max(1, round(0.017 * n))
        strap = _shade(clothes.bag_colour, 0.68)
        if clothes.carrying == "Backpack" and self.sin > -0.5:
            for side in (1.0, -1.0):
                if side * self.cos > 0.5:  # on the far side of the chest
                    continue
                line = [
                    self.at(self.trunk_point(s, f, side * 0.064))
                    for s, f in ((0.95, -0.02), (0.84, 0.05), (0.5, 0.04), (0.42, -0.05))
                ]
                self.draw.line(line, fill=strap, width=width, joint="curve")
        if clothes.carrying not in ("MessengerBag", "Other"):
            return
        hangs, station = (-1.0, 0.0) if clothes.carrying == "MessengerBag" else (-1.0, 0.3)
        top = 0.075 if clothes.carrying == "MessengerBag" else -0.075
        chest = 0.062 if self.sin > -0.2 else -0.062
        p = self.at(self.trunk_point(0.96, 0.0, top))
        middle = self.at(self.trunk_point(0.55, chest * (0.2 + 0.8 * abs(self.sin)), 0.0 if top > 0 else -0.1))
        u, v = self.at(self.trunk_point(station, -0.015, hangs * 0.118 * self.walker.body.build))
        self.draw.line((p, middle, (u, v)), fill=strap, width=width, joint="curve")
        half = n * math.hypot((0.08 if clothes.carrying == "MessengerBag" else 0.055) * self.cos, 0.032 * self.sin)
        self.box(u - half, v - 0.035 * n, u + half, v + 0.075 * n, clothes.bag_colour)

    def long_hair(self) -> None:
        body, clothes = self.walker.body, self.walker.clothes
        if body.hair != "Long" or clothes.accessory == "Kerchief":
            return
        x, y, z = self.pose.head
        tall = HEAD * body.head
        top, bottom = (x - 0.018, y, z + 0.2 * tall), (x - 0.042, y, z - 2.1 * tall)
        broad = math.hypot(0.047 * self.sin, 0.034 * self.cos) * body.head
        self.capsule(top, bottom, broad * 1.04, broad * 0.92, body.hair_colour)

    def neck_and_head(self) -> None:
        body, clothes, n = self.walker.body, self.walker.clothes, self.size
        neck, head = self.pose.neck, self.pose.head
        skin, hair = body.skin, body.hair_colour
        self.thin((neck[0], 0.0, neck[2] - 0.012), head, 0.027, 0.026, _shade(skin, 0.78))
        u, v = self.at(head)
        k = body.head
        tall = HEAD * k
        broad = k * math.hypot(0.046 * self.sin, 0.055 * self.cos)
        away = self.sin < -0.78
        bald = body.hair == "Bald"
        self.oval((u, v), broad * 1.06, tall * 1.03, _shade(skin if bald else hair, 0.84))
        self.oval((u + self.light * 0.008 * n, v - 0.004 * n), broad * 0.86, tall * 0.86, skin if bald else hair)
        if not away:
            self.face(u, v, broad, tall)
        if not bald and not away:
            a, b = broad * 1.07 * n, tall * 1.04 * n
            right, left = max(self.cos, 0.0), max(-self.cos, 0.0)
            behind = 22.0 * max(-self.sin, 0.0)
            start = 202.0 - 66.0 * right + 20.0 * left - behind
            end = 338.0 - 20.0 * right + 66.0 * left + behind
            self.draw.chord((u - a, v - b, u + a, v + b), start, end, fill=hair)
            shine = self.light * 0.4
            self.draw.ellipse(
                (u + (shine - 0.3) * a, v - 0.9 * b, u + (shine + 0.3) * a, v - 0.62 * b), fill=_shade(hair, 1.25)
            )
        for side in (1.0, -1.0):  # ears, where hair leaves them free
            azimuth = self.heading - side * math.pi / 2
            if body.hair != "Long" and math.sin(azimuth) > -0.25 and abs(math.cos(azimuth)) < 2.0:
                ear = (u + math.cos(azimuth) * broad * 1.02 * n - self.cos * 0.006 * n, v + 0.012 * n)
                self.oval(ear, 0.009, 0.016, _shade(skin, 0.82))
        self.worn_on_head(u, v, broad, tall)
        if clothes.accessory == "Muffler":
            for point, r in (
                ((neck[0] + 0.006, 0.0, neck[2] + 0.008), 0.046),
                ((neck[0] + 0.01, 0.0, neck[2] + 0.02), 0.04),
            ):
                self.oval(self.at(point), r * 1.1, 0.022, _shade(clothes.accessory_colour, 0.75 if r > 0.045 else 1.0))
            if self.sin > -0.35:
                self.capsule(
                    self.trunk_point(0.95, 0.055, 0.02),
                    self.trunk_point(0.6, 0.075, 0.026),
                    0.017,
                    0.02,
                    clothes.accessory_colour,
                )

    def face(self, u: float, v: float, broad: float, tall: float) -> None:
        n, body = self.size, self.walker.body
        skin = body.skin
        frontal = max(self.sin, 0.0)
        half = broad * (0.7 + 0.16 * frontal - 0.2 * max(-self.sin, 0.0))
        cu = u + self.cos * (broad * 1.04 - half) * n
        cv = v + 0.1 * tall * n
        self.oval((cu, cv), half, tall * 0.9, _shade(skin, 0.86))
        self.oval((cu + self.light * 0.1 * half * n, cv - 0.004 * n), half * 0.86, tall * 0.82, skin)
        if abs(self.cos) > 0.35:  # the nose breaks the profile
            tip = u + math.copysign(broad * 1.0 + 0.014 * abs(self.cos), self.cos) * n
            edge = u + self.cos * broad * 0.78 * n
            self.draw.polygon(((edge, v - 0.008 * n), (tip, v + 0.016 * n), (edge, v + 0.022 * n)), fill=skin)
        else:
            self.oval((cu + self.cos * 0.02 * n, v + 0.014 * n), 0.005, 0.011, _shade(skin, 0.82))
        for side in (0.46, -0.46):
            azimuth = self.heading + side
            if math.sin(azimuth) > -0.2 and abs(math.cos(azimuth)) < 0.93:
                eye = u + math.cos(azimuth) * broad * 0.94 * n
                self.oval((eye, v - 0.006 * n), 0.0085, 0.0075, (34, 28, 28))
                brow = 0.011 * n
                self.draw.rectangle(
                    (eye - brow, v - 0.023 * n, eye + brow, v - 0.017 * n), fill=_shade(body.hair_colour, 0.9)
                )
        if self.sin > -0.3:
            mouth = u + self.cos * broad * 0.76 * n
            self.oval((mouth, v + 0.037 * n), 0.006 + 0.009 * frontal, 0.0048, (150, 76, 70))

    def worn_on_head(self, u: float, v: float, broad: float, tall: float) -> None:
        clothes, n = self.walker.clothes, self.size
        colour = clothes.accessory_colour
        a, b = broad * n, tall * n
        kind = clothes.accessory
        if kind == "Hat":
            self.draw.chord(
                (u - 1.14 * a, v - 1.22 * b, u + 1.14 * a, v + 0.62 * b), 180, 360, fill=_shade(colour, 0.8)
            )
            lit = u + self.light * 0.12 * a
            self.draw.chord((lit - 0.95 * a, v - 1.18 * b, lit + 0.95 * a, v + 0.56 * b), 180, 360, fill=colour)
            peak = u + self.cos * 0.75 * a
            self.oval((peak, v - 0.3 * b), broad * (0.55 + 0.55 * abs(self.cos)), 0.012, _shade(colour, 0.62))
        elif kind == "HairBand":
            self.draw.polygon(
                [
                    (u - 1.08 * a, v - 0.55 * b),
                    (u + 1.08 * a, v - 0.55 * b),
                    (u + 1.02 * a, v - 0.3 * b),
                    (u - 1.02 * a, v - 0.3 * b),
                ],
                fill=colour,
            )
        elif kind == "Headphone":
            width = max(2, round(0.017 * n))
            self.draw.arc(
                (u - 1.18 * a, v - 1.2 * b, u + 1.18 * a, v + 0.9 * b), 190, 350, fill=(40, 40, 44), width=width
            )
            for side in (1.0, -1.0):
                azimuth = self.heading + side * math.pi / 2
                if math.sin(azimuth) > -0.3:
                    self.oval((u + math.cos(azimuth) * 1.08 * a, v + 0.1 * b), 0.015, 0.022, colour)
        elif kind == "Kerchief":
            self.hood(u, v, a, b)
        elif kind == "Sunglasses" and self.sin > -0.4:
            eye = u + self.cos * 0.5 * a
            self.oval((eye, v - 0.1 * b), broad * (0.42 + 0.36 * max(self.sin, 0.0)), 0.0155, (16, 16, 20))
            self.draw.line(
                (eye, v - 0.12 * b, u - self.cos * 0.35 * a, v - 0.12 * b),
                fill=(16, 16, 20),
                width=max(1, round(0.007 * n)),
            )

    def hood(self, u: float, v: float, a: float, b: float) -> None:
        colour = self.walker.clothes.accessory_colour
        right, left, behind = max(self.cos, 0.0), max(-self.cos, 0.0), 60.0 * max(-self.sin, 0.0)
        box = (u - 1.16 * a, v - 1.14 * b, u + 1.16 * a, v + 1.2 * b)
        self.draw.chord(box, 195 - 95 * right - behind, 345 + 95 * left + behind, fill=colour)
        self.draw.ellipse((u - 0.7 * a, v + 0.85 * b, u + 0.7 * a, v + 1.3 * b), fill=_shade(colour, 0.8))


def _outline(line: list[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """The polygon around a line of (u, v, radius), with half circles at its ends."""
    way = []
    for (pu, pv, _), (qu, qv, _) in pairwise(line):
        length = math.hypot(qu - pu, qv - pv) or 1e-6
        way.append(((qu - pu) / length, (qv - pv) / length))
    u, v, r = line[0]
    du, dv = way[0]
    points = [(u + r * (c * du - n * dv), v + r * (c * dv + n * du)) for c, n in _ARC]
    back = []
    for (u, v, r), (au, av), (bu, bv) in zip(line[1:-1], way, way[1:], strict=False):
        nu, nv = -(av + bv), au + bu
        stretch = r * 2.0 / max(nu * nu + nv * nv, 1.0)  # the mitre, bounded
        points.append((u - stretch * nu, v - stretch * nv))
        back.append((u + stretch * nu, v + stretch * nv))
    u, v, r = line[-1]
    du, dv = way[-1]
    points += [(u - r * (c * du - n * dv), v - r * (c * dv + n * du)) for c, n in _ARC]
    return points + back[::-1]


def _between(p: Point, q: Point, share: float) -> Point:
    return p[0] + (q[0] - p[0]) * share, p[1] + (q[1] - p[1]) * share, p[2] + (q[2] - p[2]) * share


def _shade(colour: RGB, factor: float) -> RGB:
    r, g, b = colour
    return min(255, int(r * factor)), min(255, int(g * factor)), min(255, int(b * factor))


def _ring(edges: list[tuple[float, float, float]], left: float, right: float) -> list[tuple[float, float]]:
    """The polygon between two fractions of the width of `edges`."""
    down = [(a + (b - a) * left, v) for a, b, v in edges]
    return down + [(a + (b - a) * right, v) for a, b, v in reversed(edges)]


def _edge_at(edges: list[tuple[float, float, float]], v: float) -> tuple[float, float, float]:
    """The outline at height v, between its stations."""
    for (a, b, top), (c, d, bottom) in pairwise(edges):
        if v <= bottom:
            share = min(max((v - top) / ((bottom - top) or 1e-6), 0.0), 1.0)
            return a + (c - a) * share, b + (d - b) * share, v
    return edges[-1][0], edges[-1][1], v
