"""Generated people: body, clothes and gait, and the PETA attributes that follow from them.

A person depends on a key (seed, data set, index), never on a camera. Some pairs of people have the same body and
clothes and differ in gait alone, so that only the motion branch can distinguish them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from amem_cli.attributes import ATTRIBUTES
from amem_cli.randomness import keyed_generator

RGB = tuple[int, int, int]

PALETTE: dict[str, RGB] = {
    "Black": (30, 30, 34),
    "Blue": (48, 84, 168),
    "Brown": (112, 74, 46),
    "Green": (54, 122, 66),
    "Grey": (130, 131, 134),
    "Orange": (226, 126, 42),
    "Pink": (234, 152, 178),
    "Purple": (118, 62, 144),
    "Red": (184, 40, 46),
    "White": (232, 232, 228),
    "Yellow": (230, 200, 72),
}
DENIM: RGB = (64, 90, 140)
UPPER_WEIGHTS = {
    "Black": 5, "Blue": 4, "Brown": 2, "Green": 3, "Grey": 4, "Orange": 2, "Pink": 2, "Purple": 2, "Red": 4, "White": 5,
    "Yellow": 2,
}  # fmt: skip
LOWER_WEIGHTS = {"Black": 6, "Blue": 4, "Brown": 3, "Green": 2, "Grey": 4, "Red": 1, "White": 2, "Yellow": 1}
SHOE_WEIGHTS = {"Black": 6, "Blue": 2, "Brown": 3, "Grey": 2, "Red": 2, "White": 5, "Yellow": 1}
HAIR_COLOURS: dict[str, RGB] = {
    "Black": (30, 26, 26),
    "Brown": (92, 60, 38),
    "Yellow": (206, 172, 104),
    "Orange": (158, 84, 42),
    "Grey": (146, 146, 146),
    "White": (222, 220, 214),
}
SKINS: tuple[RGB, ...] = ((224, 182, 154), (212, 168, 138), (200, 150, 116), (158, 110, 80), (112, 76, 56))

# Each gait parameter's range; a gait is a point of the unit cube over them.
GAIT_RANGES: dict[str, tuple[float, float]] = {
    "period": (20.0, 28.0),
    "stride": (0.72, 1.28),
    "arm_swing": (0.25, 1.6),
    "elbow": (0.0, 1.0),
    "asymmetry": (-0.2, 0.2),
    "bounce": (0.0, 1.0),
    "lean": (-0.03, 0.17),
    "knee_lift": (0.8, 1.2),
    "step_width": (0.6, 1.3),
}


@dataclass(frozen=True, slots=True)
class Gait:
    """The gait of a person.

    `period` is the number of frames of a full cycle of two steps; `stride`, `arm_swing` and `knee_lift` multiply the
    swing of hip, shoulder and knee; `elbow` in [0, 1] is from stretched to bent; `asymmetry` is the fraction by which
    the left leg and the right arm swing more; `bounce` is in [0, 1]; `lean` is the trunk's, in radians forward;
    `step_width` multiplies the distance between the feet.
    """

    period: float
    stride: float
    arm_swing: float
    elbow: float
    asymmetry: float
    bounce: float
    lean: float
    knee_lift: float
    step_width: float


@dataclass(frozen=True, slots=True)
class Body:
    """`stature` is in metres; `build` (breadth) and `head` (size) are factors near 1; colours are RGB."""

    sex: str  # Female | Male
    age: str  # Less15 | Less30 | Less45 | Less60 | Larger60
    stature: float
    build: float
    head: float
    skin: RGB
    hair: str  # Bald | Long | Short
    hair_colour: RGB


@dataclass(frozen=True, slots=True)
class Clothes:
    """Clothes and carried objects; `second` is the colour of stripes, checks or the shirt under a jacket."""

    upper: str  # Tshirt | VNeck | Top | Shirt | Sweater | Jacket | Suit
    pattern: str  # "" | ThinStripes | ThickStripes | Plaid | Logo
    sleeve: str  # Long | Short | No
    upper_colour: RGB
    second: RGB
    lower: str  # Trousers | Jeans | Suits | Shorts | HotPants | Capri | ShortSkirt | LongSkirt
    lower_pattern: str  # "" | Plaid | ThinStripes
    lower_colour: RGB
    footwear: str  # Boots | LeatherShoes | Sandals | Shoes | Sneaker | Stocking
    shoe_colour: RGB
    accessory: str  # Nothing | Hat | Sunglasses | Muffler | Headphone | HairBand | Kerchief
    accessory_colour: RGB
    carrying: str  # Nothing | Backpack | MessengerBag | PlasticBags | Folder | Suitcase | LuggageCase | Other
    bag_colour: RGB


@dataclass(frozen=True, slots=True)
class Walker:
    """One generated person; `attributes` are the true ones, in the order of `ATTRIBUTES`."""

    body: Body
    clothes: Clothes
    gait: Gait
    attributes: tuple[str, ...]


def gait_at(units: np.ndarray) -> Gait:
    """The gait at a point of the unit cube, (9,) float in [0, 1), one axis per entry of `GAIT_RANGES`."""
    pairs = zip(GAIT_RANGES.items(), units.tolist(), strict=True)
    return Gait(**{name: low + (high - low) * unit for (name, (low, high)), unit in pairs})


def draw_people(seed: int, data_set: str, count: int, twins: float = 0.25) -> list[Walker]:
    """`count` people of a data set; the last ones are pairs that differ in gait alone.

    About the fraction `twins` of the people, and at least two, belong to a pair. The gaits of a pair differ by half the
    range in every parameter.
    """
    people = [draw_person(seed, data_set, index) for index in range(count)]
    pairs = min(count // 2, max(1, round(count * twins / 2))) if twins else 0
    for first in range(count - 2 * pairs, count, 2):
        units = keyed_generator(seed, "walker", "gait", data_set, first).random(len(GAIT_RANGES))
        people[first + 1] = replace(people[first], gait=gait_at((units + 0.5) % 1.0))
    return people


def draw_person(seed: int, data_set: str, index: int) -> Walker:
    """Person `index` of a data set; depends on these three arguments alone."""
    gait = gait_at(keyed_generator(seed, "walker", "gait", data_set, index).random(len(GAIT_RANGES)))
    rng = keyed_generator(seed, "walker", "looks", data_set, index)
    body, names = _draw_body(rng)
    clothes, worn = _draw_clothes(rng, body)
    true = {*names, *worn}
    return Walker(body, clothes, gait, tuple(name for name in ATTRIBUTES if name in true))


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    values = np.array(list(weights.values()), dtype=float)
    return list(weights)[int(rng.choice(len(values), p=values / values.sum()))]


def _tint(rng: np.random.Generator, colour: RGB, spread: float = 9.0) -> RGB:
    r, g, b = np.clip(np.array(colour) * rng.uniform(0.9, 1.08) + rng.normal(0.0, spread / 2, 3), 6, 244)
    return int(r), int(g), int(b)


def _draw_body(rng: np.random.Generator) -> tuple[Body, list[str]]:
    sex = _pick(rng, {"Female": 1, "Male": 1})
    age = _pick(rng, {"Less15": 1, "Less30": 5, "Less45": 4, "Less60": 2, "Larger60": 2})
    stature = rng.normal(1.65 if sex == "Female" else 1.78, 0.06) * (0.8 if age == "Less15" else 1.0)
    build = rng.uniform(0.85, 1.2) * (1.08 if age in ("Less60", "Larger60") else 1.0)
    colours = {"Black": 4, "Brown": 4, "Yellow": 2, "Orange": 1}
    if age in ("Less60", "Larger60"):
        colours = {"Grey": 3, "White": 2} if age == "Larger60" else {"Grey": 3, "Brown": 2, "Black": 2}
    male = {"Short": 8, "Long": 1, "Bald": 3 if age in ("Less45", "Less60", "Larger60") else 0}
    hair = _pick(rng, {"Long": 7, "Short": 3} if sex == "Female" else male)
    colour = _pick(rng, colours)
    body = Body(
        sex=sex,
        age=age,
        stature=float(stature),
        build=float(build),
        head=float(rng.uniform(0.95, 1.06) * (1.2 if age == "Less15" else 1.0)),
        skin=_tint(rng, SKINS[int(rng.integers(len(SKINS)))], 6),
        hair=hair,
        hair_colour=_tint(rng, HAIR_COLOURS[colour], 6),
    )
    names = [f"personal{sex}", f"personal{age}", f"hair{hair}"]
    return body, names + ([] if hair == "Bald" else [f"hair{colour}"])


class _Garment(NamedTuple):
    kind: str
    pattern: str
    colour: str
    formal: bool
    second: str = ""  # colour of an upper garment

    @property
    def words(self) -> set[str]:
        return {self.kind, self.colour, "Formal" if self.formal else "Casual", *filter(None, [self.pattern])}


def _draw_clothes(rng: np.random.Generator, body: Body) -> tuple[Clothes, set[str]]:
    upper = _draw_upper(rng, body)
    lower = _draw_lower(rng, body, upper)
    footwear, shoe_colour = _draw_footwear(rng, body, lower)
    accessory, carrying, bag = _draw_carried(rng, body)
    upper_rgb = _tint(rng, PALETTE[upper.colour])
    second = _tint(rng, PALETTE["White" if upper.kind == "Suit" else upper.second])
    lower_rgb = upper_rgb
    if lower.kind != "Suits":
        denim = (lower.kind, lower.colour) == ("Jeans", "Blue")
        lower_rgb = _tint(rng, DENIM if denim else PALETTE[lower.colour])
    sleeve = {"Tshirt": "Short", "VNeck": "Short", "Top": "No"}.get(upper.kind, "Long")
    clothes = Clothes(
        upper=upper.kind,
        pattern=upper.pattern,
        sleeve=sleeve,
        upper_colour=upper_rgb,
        second=second,
        lower=lower.kind,
        lower_pattern=lower.pattern,
        lower_colour=lower_rgb,
        footwear=footwear,
        shoe_colour=_tint(rng, PALETTE[shoe_colour]),
        accessory=accessory,
        accessory_colour=_tint(rng, PALETTE[_pick(rng, UPPER_WEIGHTS)]),
        carrying=carrying,
        bag_colour=_tint(rng, PALETTE[bag]),
    )
    above = upper.words | {f"{sleeve}Sleeve"}
    if upper.kind in ("Top", "Shirt"):
        above = above - {upper.kind} | {"Other"}
    if upper.kind == "Jacket" or upper.pattern in ("ThickStripes", "ThinStripes", "Plaid"):
        above.add(upper.second)
    names = {f"upperBody{word}" for word in above} | {f"lowerBody{word}" for word in lower.words}
    names |= {f"footwear{footwear}", f"footwear{shoe_colour}", f"accessory{accessory}", f"carrying{carrying}"}
    return clothes, names


def _draw_upper(rng: np.random.Generator, body: Body) -> _Garment:
    female, child = body.sex == "Female", body.age == "Less15"
    kinds = {"Tshirt": 5, "VNeck": 2, "Top": 3 * female, "Shirt": 3, "Sweater": 4, "Jacket": 5, "Suit": 3 * (not child)}
    kind = _pick(rng, kinds)
    patterns = {
        "Tshirt": {"": 4, "Logo": 3, "ThickStripes": 2, "ThinStripes": 1},
        "Shirt": {"": 4, "Plaid": 4},
        "Sweater": {"": 5, "ThickStripes": 3, "ThinStripes": 2},
    }
    pattern = _pick(rng, patterns.get(kind, {"": 1}))
    colour = _pick(rng, {"Black": 4, "Grey": 3, "Blue": 1, "Brown": 1} if kind == "Suit" else UPPER_WEIGHTS)
    first = np.array(PALETTE[colour])  # the second colour differs clearly from it
    far = {name: w for name, w in UPPER_WEIGHTS.items() if np.abs(first - np.array(PALETTE[name])).sum() > 150}
    formal = kind == "Suit" or (kind == "Shirt" and not pattern and not child)
    return _Garment(kind, pattern, colour, formal, _pick(rng, far))


def _draw_lower(rng: np.random.Generator, body: Body, upper: _Garment) -> _Garment:
    female = body.sex == "Female"
    kinds = {"Trousers": 5, "Jeans": 5, "Shorts": 3, "Capri": 2}
    kinds |= {"ShortSkirt": 4, "LongSkirt": 3, "HotPants": 2} if female else {}
    if upper.formal and not female:
        kinds = {"Trousers": 1}
    kind = "Suits" if upper.kind == "Suit" else _pick(rng, kinds)
    patterns = {
        "ShortSkirt": {"": 3, "Plaid": 2},
        "Trousers": {"": 6, "ThinStripes": 1},
        "Shorts": {"": 3, "Plaid": 1},
    }
    pattern = _pick(rng, patterns.get(kind, {"": 1}))
    colour = upper.colour
    if kind != "Suits":
        colour = _pick(rng, {"Blue": 6, "Black": 2, "Grey": 2} if kind == "Jeans" else LOWER_WEIGHTS)
    formal = kind == "Suits" or (upper.formal and kind in ("Trousers", "LongSkirt"))
    return _Garment(kind, pattern, colour, formal)


def _draw_footwear(rng: np.random.Generator, body: Body, lower: _Garment) -> tuple[str, str]:
    """Footwear and its colour."""
    female = body.sex == "Female"
    bare = lower.kind in ("Shorts", "Capri", "HotPants", "ShortSkirt", "LongSkirt")
    stocking = 3 * ("Short" in lower.kind) * female
    kinds = {"Shoes": 4, "Sneaker": 4, "Boots": 2 + 2 * female, "Sandals": 3 * bare, "Stocking": stocking}
    leather = lower.formal and not (female and lower.kind != "Suits")
    kind = "LeatherShoes" if leather else _pick(rng, kinds)
    dark = kind in ("LeatherShoes", "Boots", "Stocking")
    return kind, _pick(rng, {"Black": 4, "Brown": 2} if dark else SHOE_WEIGHTS)


def _draw_carried(rng: np.random.Generator, body: Body) -> tuple[str, str, str]:
    """Accessory, bag and the bag's colour."""
    female = body.sex == "Female"
    accessories = {"Nothing": 9, "Hat": 3, "Sunglasses": 2, "Muffler": 2, "Headphone": 1}
    accessory = _pick(rng, accessories | ({"HairBand": 1, "Kerchief": 1} if female else {}))
    bags = {
        "Nothing": 6, "Backpack": 4, "MessengerBag": 4, "PlasticBags": 2, "Folder": 1, "Suitcase": 1, "LuggageCase": 1,
        "Other": 2 * female,
    }  # fmt: skip
    carrying = _pick(rng, bags)
    colours = {"White": 1, "Yellow": 1} if carrying in ("PlasticBags", "Folder") else UPPER_WEIGHTS
    return accessory, carrying, _pick(rng, colours)
