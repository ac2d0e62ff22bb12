"""The gait: joints in three dimensions from a walker's phase.

Lengths are in units of the body's height; a body point is (x forward, y to its left, z up). Angles of joints follow
the shape of measured walking: the hip angle is a cosine, the knee bends a little in the stance and more in the
swing, the heel strikes first and the toe leaves last.
"""

import math
from typing import NamedTuple

from amem_cli.walkers.people import Gait, Walker

THIGH, SHIN, ANKLE = 0.245, 0.235, 0.045
UPPER_ARM, FOREARM, HAND = 0.165, 0.14, 0.045
TRUNK = 0.305  # from the hips to the base of the neck
HIP_SWING = 21.0  # degrees to either side at stride 1
HEAD = 0.068  # half of the head's height: 1 / 7.5 of the body
CYCLE = 2.0 * math.pi

Point = tuple[float, float, float]


class Leg(NamedTuple):
    """Joints of one leg, each (x, y, z)."""

    hip: Point
    knee: Point
    ankle: Point
    heel: Point
    toe: Point


class Arm(NamedTuple):
    """Joints of one arm, each (x, y, z)."""

    shoulder: Point
    elbow: Point
    wrist: Point
    hand: Point


class Pose(NamedTuple):
    """All joints at one moment; index 0 of `legs` and `arms` is the left side."""

    legs: tuple[Leg, ...]
    arms: tuple[Arm, ...]
    pelvis: float  # z of the hips
    neck: Point
    head: Point


def _bump(phase: float, centre: float, width: float) -> float:
    distance = (phase - centre + 0.5) % 1.0 - 0.5
    return math.exp(-0.5 * (distance / width) ** 2)


def _down(origin: Point, length: float, angle: float, aside: float = 0.0) -> Point:
    """The end of a limb that starts at `origin`, turned by `angle` forward and by `aside` to the left."""
    x, y, z = origin
    return x + length * math.sin(angle), y + length * math.sin(aside), z - length * math.cos(angle) * math.cos(aside)


def stride_length(walker: Walker) -> float:
    """The distance of one full cycle in body heights: the sum of the two stances."""
    return 2.0 * 2.0 * (THIGH + SHIN) * math.sin(math.radians(HIP_SWING)) * walker.gait.stride


def pose_at(walker: Walker, phase: float) -> Pose:
    """The joints at `phase`, in cycles: 0 is the strike of the left heel, 0.5 that of the right one.

    The lower foot touches the ground, so the body moves up and down with the steps.
    """
    gait, body = walker.gait, walker.body
    legs = _leg(gait, phase, 1.0), _leg(gait, phase + 0.5, -1.0)
    pelvis = -min(min(leg.heel[2], leg.toe[2]) for leg in legs)

    spine = TRUNK + 0.016 * gait.bounce * math.cos(2.0 * CYCLE * (phase - 0.2))
    lean = gait.lean + (0.06 if body.age == "Larger60" else 0.0)
    neck = (spine * math.sin(lean), 0.0, pelvis + spine * math.cos(lean))
    tall = HEAD * body.head
    head = (neck[0] + 0.4 * (0.03 + tall) * math.sin(lean), 0.0, neck[2] + 0.022 + tall)
    arms = _arm(walker, phase + 0.5, 1.0, neck, lean), _arm(walker, phase, -1.0, neck, lean)
    raised = tuple(Leg(*((x, y, z + pelvis) for x, y, z in leg)) for leg in legs)
    return Pose(raised, arms, pelvis, neck, head)


def _leg(gait: Gait, phase: float, side: float) -> Leg:
    """One leg below hips at z = 0, at its own phase; `side` is 1 for the left leg, -1 for the right one."""
    p = phase % 1.0
    more = 1.0 + side * gait.asymmetry
    hip_angle = math.radians(5.0 + HIP_SWING * gait.stride * more * math.cos(CYCLE * p))
    bend = 5.0 + 14.0 * _bump(p, 0.14, 0.07) + 56.0 * gait.knee_lift * (0.5 + 0.5 * more) * _bump(p, 0.72, 0.095)
    shin_angle = hip_angle - math.radians(bend)
    pitch = math.radians(20.0 * _bump(p, 0.0, 0.05) - 48.0 * _bump(p, 0.63, 0.09))
    lateral = side * 0.038 * gait.step_width
    hip = (0.0, side * 0.042, 0.0)
    knee = _down(hip, THIGH, hip_angle)
    ankle = _down(knee, SHIN, shin_angle)
    ankle = (ankle[0], lateral, ankle[2])
    sin, cos = math.sin(pitch), math.cos(pitch)
    heel = (ankle[0] - 0.03 * cos + ANKLE * sin, lateral, ankle[2] - 0.03 * sin - ANKLE * cos)
    toe = (ankle[0] + 0.105 * cos + ANKLE * sin, lateral * 1.25, ankle[2] + 0.105 * sin - ANKLE * cos)
    return Leg(hip, knee, ankle, heel, toe)


def _arm(walker: Walker, phase: float, side: float, neck: Point, lean: float) -> Arm:
    """One arm at its own phase; an arm with a carried object swings little."""
    gait, carrying = walker.gait, walker.clothes.carrying
    swing = math.cos(CYCLE * phase)
    holds = side < 0 and carrying in ("Suitcase", "LuggageCase", "PlasticBags")
    reach = 0.25 if holds else 1.0
    more = 1.0 - side * gait.asymmetry
    angle = math.radians(2.0 + 21.0 * gait.arm_swing * more * reach * swing) - 0.35 * lean
    bend = math.radians(10.0 + (0.0 if holds else 44.0 * gait.elbow) + 9.0 * gait.arm_swing * reach * max(swing, 0.0))
    aside = side * 0.09
    if carrying == "Folder" and side > 0:
        angle, bend, aside = math.radians(-4.0), math.radians(76.0), 0.02
    elif carrying == "LuggageCase" and side < 0:
        angle, bend = math.radians(-16.0), math.radians(6.0)
    twist = 0.016 * gait.arm_swing * swing
    shoulder = (neck[0] * 0.9 + twist, side * 0.098 * walker.body.build, neck[2] - 0.036)
    elbow = _down(shoulder, UPPER_ARM, angle, aside)
    wrist = _down(elbow, FOREARM, angle + bend, aside * 0.2)
    return Arm(shoulder, elbow, wrist, _down(wrist, HAND, angle + bend + 0.1))
