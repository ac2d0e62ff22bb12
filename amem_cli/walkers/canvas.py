"""Projection of one figure onto an image, and the shapes of its parts.

A body point is (x forward, y left, z up) in units of the body's height (see `gait`). On the image it is (u right,
v down) in pixels; lengths of shapes are in units of the body's height.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw

from amem_cli.walkers.gait import Point, Pose, pose_at
from amem_cli.walkers.people import RGB, Walker

Edge = tuple[float, float, float]  # left u, right u and v of an outline

# Half a circle, from a limb's left side around its end to its right side.
_ARC = [(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in (90, 126, 162, 198, 234, 270)]


@dataclass(frozen=True, slots=True)
class View:
    """The view of a camera on a figure.

    `heading` in radians: 0 walks to the right, pi / 2 towards the viewer; `foot` is the pixel on the ground below the
    hips, `size` the body's height in pixels, `pitch` the downward angle of the camera (radians), `light` -1 or 1 for
    light from the left or the right.
    """

    heading: float
    foot: tuple[float, float]
    size: float
    pitch: float
    light: float


class Canvas:
    """An RGB image and one walker at one phase of the gait (in cycles)."""

    def __init__(self, image: Image.Image, walker: Walker, phase: float, view: View):
        self.draw = ImageDraw.Draw(image)
        self.body, self.clothes = walker.body, walker.clothes
        self.pose: Pose = pose_at(walker, phase)
        self.heading, self.foot, self.size, self.light = view.heading, view.foot, view.size, view.light
        self.cos, self.sin = math.cos(view.heading), math.sin(view.heading)  # facing right, facing the viewer
        self.up, self.tilt = math.cos(view.pitch), math.sin(view.pitch)

    # -- projection ----------------------------------------------------------------------------------------------------

    def depth(self, point: Point) -> float:
        """The nearness of a body point to the viewer."""
        return point[0] * self.sin - point[1] * self.cos

    def at(self, point: Point) -> tuple[float, float]:
        """Pixels (u, v) of a body point."""
        x, y, z = point
        u = x * self.cos + y * self.sin
        v = z * self.up - (x * self.sin - y * self.cos) * self.tilt
        return self.foot[0] + self.size * u, self.foot[1] - self.size * v

    def trunk_point(self, station: float, forward: float = 0.0, left: float = 0.0) -> Point:
        """A point of the leaning trunk: `station` 0 at the hips, 1 at the base of the neck."""
        x, _, z = self.pose.neck
        return x * station + forward, left, self.pose.pelvis + (z - self.pose.pelvis) * station

    def trunk_edge(self, station: float, broad: float, deep: float, forward: float) -> Edge:
        """The trunk's outline at one station, where it is an ellipse `broad` by `deep`."""
        u, v = self.at(self.trunk_point(station, forward))
        half = self.size * math.hypot(broad * self.sin, deep * self.cos)
        return u - half, u + half, v

    # -- shapes --------------------------------------------------------------------------------------------------------

    def line_width(self, width: float) -> int:
        """A line's width in integer pixels."""
        return max(1, round(width * self.size))

    def capsule(self, p: Point, q: Point, r: float, s: float, colour: RGB) -> None:
        """A tapered limb from p (radius r) to q (radius s)."""
        self.tube(((p, r), (q, s)), colour)

    def tube(self, joints: Sequence[tuple[Point, float]], colour: RGB) -> None:
        """A limb through joints, each with its radius, with a shaded and a lit side."""
        spine = [(*self.at(point), radius * self.size) for point, radius in joints]
        shift = self.light * 0.26
        for scale, aside, tone in ((1.0, 0.0, 0.76), (0.76, shift, 1.0), (0.34, 1.7 * shift, 1.12)):
            line = [(u + aside * r, v, scale * r) for u, v, r in spine]
            self.draw.polygon(_outline(line), fill=shade(colour, tone))

    def flat_capsule(self, p: Point, q: Point, r: float, s: float, colour: RGB) -> None:
        """A tapered limb without shading."""
        self.draw.polygon(_outline([(*self.at(p), r * self.size), (*self.at(q), s * self.size)]), fill=colour)

    def band(self, p: Point, q: Point, start: float, r: float, colour: RGB) -> None:
        """A stripe around a limb, an eighth of its length, from the fraction `start` on."""
        (au, av), (bu, bv) = self.at(between(p, q, start)), self.at(between(p, q, start + 0.12))
        length = math.hypot(bu - au, bv - av) or 1e-6
        nu, nv = -(bv - av) / length * r * self.size, (bu - au) / length * r * self.size
        self.draw.polygon(((au + nu, av + nv), (au - nu, av - nv), (bu - nu, bv - nv), (bu + nu, bv + nv)), fill=colour)

    def oval(self, centre: tuple[float, float], half_width: float, half_height: float, colour: RGB) -> None:
        """An ellipse around a pixel."""
        u, v = centre
        a, b = half_width * self.size, half_height * self.size
        self.draw.ellipse((u - a, v - b, u + a, v + b), fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: RGB) -> None:
        """A shaded box between pixels, with a darker lid."""
        self.draw.rectangle((left, top, right, bottom), fill=shade(colour, 0.74))
        inset = 0.22 * (right - left)
        lit = (left, top, right - inset, bottom) if self.light < 0 else (left + inset, top, right, bottom)
        self.draw.rectangle(lit, fill=colour)
        self.draw.rectangle((left, top, right, top + 0.1 * (bottom - top)), fill=shade(colour, 0.6))

    def wrap(self, edges: list[Edge], colour: RGB) -> None:
        """A body of revolution through `edges`, darker away from the light."""
        self.draw.polygon(ring(edges, 0.0, 1.0), fill=shade(colour, 0.74))
        lit = (0.0, 0.72) if self.light < 0 else (0.28, 1.0)
        self.draw.polygon(ring(edges, *lit), fill=colour)
        bright = (0.1, 0.36) if self.light < 0 else (0.64, 0.9)
        self.draw.polygon(ring(edges, *bright), fill=shade(colour, 1.1))

    def front_patch(self, corners: tuple[tuple[float, float], ...], colour: RGB) -> None:
        """A patch on the front of the chest, corners as (station, left)."""
        points = []
        for station, left in corners:
            depth = min(0.058, 0.032 + 0.22 * (1.02 - station))  # the neck is thinner than the chest
            bulge = depth * math.sqrt(max(0.0, 1.0 - (left / 0.1) ** 2)) * self.body.build
            points.append(self.at(self.trunk_point(station, bulge, left)))
        self.draw.polygon(points, fill=colour)


def between(p: Point, q: Point, fraction: float) -> Point:
    """The point at a fraction of the distance from p to q."""
    return p[0] + (q[0] - p[0]) * fraction, p[1] + (q[1] - p[1]) * fraction, p[2] + (q[2] - p[2]) * fraction


def shade(colour: RGB, factor: float) -> RGB:
    """A colour made darker or lighter."""
    r, g, b = colour
    return min(255, int(r * factor)), min(255, int(g * factor)), min(255, int(b * factor))


def ring(edges: list[Edge], left: float, right: float) -> list[tuple[float, float]]:
    """The polygon between two fractions of the width of `edges`."""
    down = [(a + (b - a) * left, v) for a, b, v in edges]
    return down + [(a + (b - a) * right, v) for a, b, v in reversed(edges)]


def edge_at(edges: list[Edge], v: float) -> Edge:
    """The outline at height v, between its stations."""
    for (a, b, top), (c, d, bottom) in pairwise(edges):
        if v <= bottom:
            fraction = min(max((v - top) / ((bottom - top) or 1e-6), 0.0), 1.0)
            return a + (c - a) * fraction, b + (d - b) * fraction, v
    return edges[-1][0], edges[-1][1], v


def _outline(line: list[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """The polygon around a line of (u, v, radius), with half circles at its ends."""
    directions = []
    for (pu, pv, _), (qu, qv, _) in pairwise(line):
        length = math.hypot(qu - pu, qv - pv) or 1e-6
        directions.append(((qu - pu) / length, (qv - pv) / length))
    u, v, r = line[0]
    du, dv = directions[0]
    points = [(u + r * (c * du - n * dv), v + r * (c * dv + n * du)) for c, n in _ARC]
    back = []
    for (u, v, r), (au, av), (bu, bv) in zip(line[1:-1], directions, directions[1:], strict=False):
        nu, nv = -(av + bv), au + bu
        stretch = r * 2.0 / max(nu * nu + nv * nv, 1.0)  # a mitre joint, bounded
        points.append((u - stretch * nu, v - stretch * nv))
        back.append((u + stretch * nu, v + stretch * nv))
    u, v, r = line[-1]
    du, dv = directions[-1]
    points += [(u - r * (c * du - n * dv), v - r * (c * dv + n * du)) for c, n in _ARC]
    return points + back[::-1]
