"""Who walks: body, clothes and gait of a generated person, and the PETA attributes that are true of them.

An identity is drawn once from its key and never depends on a camera. Clothes and body can be shared by two people, who
then differ in gait alone: appearance cannot tell them apart, which is what the motion branch is for.
"""

from dataclasses import dataclass, replace

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
    """How somebody walks.

    `period` is frames per full cycle of two steps; `stride`, `arm_swing` and `knee_lift` multiply the swing of hip,
    shoulder and knee; `elbow` in [0, 1] from stretched to bent; `asymmetry` is what the left leg and the right arm
    swing more than the other side, as a fraction; `bounce` in [0, 1]; `lean` of the trunk in radians forward;
    `step_width` multiplies the distance of the feet.
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
    """`stature` in metres, `build` the breadth and `head` the head's size, both about 1; colours are RGB."""

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
    """What somebody wears and carries; `second` is the colour of stripes, checks or the shirt under a jacket."""

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
    """One generated person; `attributes` are the names out of `ATTRIBUTES` that are true, in their order."""

    body: Body
    clothes: Clothes
    gait: Gait
    attributes: tuple[str, ...]


def gait_at(units: np.ndarray) -> Gait:
    """The gait at a point of the unit cube, (9,) float in [0, 1), one axis per entry of `GAIT_RANGES`."""
    pairs = zip(GAIT_RANGES.items(), units.tolist(), strict=True)
    return Gait(**{name: low + (high - low) * unit for (name, (low, high)), unit in pairs})


def draw_people(seed: int, data_set: str, count: int) -> tuple[list[Walker], list[tuple[int, int]]]:
    """`count` people of a data set and the pairs (i, j) among them that look alike and differ in gait alone.

    About a quarter of the people, at least two of them, stand in such a pair. The two gaits of a pair lie half the
    range apart in every parameter.
    """
    people = [draw_person(seed, data_set, index) for index in range(count)]
    pairs = [(count - 2 * k - 2, count - 2 * k - 1) for k in range(max(1, round(count / 8)) if count > 1 else 0)]
    for first, second in pairs:
        units = keyed_generator(seed, "walker", "gait", data_set, first).random(len(GAIT_RANGES))
        people[second] = replace(people[first], gait=gait_at((units + 0.5) % 1.0))
    return people, pairs


def draw_person(seed: int, data_set: str, index: int) -> Walker:
    """Person `index` of a data set: who they are depends on nothing but these three."""
    gait = gait_at(keyed_generator(seed, "walker", "gait", data_set, index).random(len(GAIT_RANGES)))
    rng = keyed_generator(seed, "walker", "looks", data_set, index)
    body, names = _draw_body(rng)
    clothes, worn = _draw_clothes(rng, body)
    true = {*names, *worn}
    return Walker(body, clothes, gait, tuple(name for name in ATTRIBUTES if name in true))


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    values = np.array(list(weights.values()), dtype=float)
    return list(weights)[int(rng.choice(len(values), p=values / values.sum()))]


def _tint(rng: np.random.Generator, colour: RGB, spread: float = 9.0) -> RGB:
    shade = np.array(colour) * rng.uniform(0.9, 1.08) + rng.normal(0.0, spread / 2, 3)
    return tuple(int(value) for value in np.clip(shade, 6, 244))


def _draw_body(rng: np.random.Generator) -> tuple[Body, list[str]]:
    sex = _pick(rng, {"Female": 1, "Male": 1})
    age = _pick(rng, {"Less15": 1, "Less30": 5, "Less45": 4, "Less60": 2, "Larger60": 2})
    stature = rng.normal(1.65 if sex == "Female" else 1.78, 0.06) * (0.8 if age == "Less15" else 1.0)
    build = rng.uniform(0.85, 1.2) * (1.08 if age in ("Less60", "Larger60") else 1.0)
    if age in ("Less60", "Larger60"):
        colours = {"Grey": 3, "White": 2} if age == "Larger60" else {"Grey": 3, "Brown": 2, "Black": 2}
    else:
        colours = {"Black": 4, "Brown": 4, "Yellow": 2, "Orange": 1}
    if sex == "Female":
        hair = _pick(rng, {"Long": 7, "Short": 3})
    else:
        hair = _pick(rng, {"Short": 8, "Long": 1, "Bald": 3 if age in ("Less45", "Less60", "Larger60") else 0})
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


def _draw_clothes(rng: np.random.Generator, body: Body) -> tuple[Clothes, list[str]]:
    female, child = body.sex == "Female", body.age == "Less15"
    uppers = {
        "Tshirt": 5,
        "VNeck": 2,
        "Top": 3 * female,
        "Shirt": 3,
        "Sweater": 4,
        "Jacket": 5,
        "Suit": 3 * (not child),
    }
    upper = _pick(rng, uppers)
    patterns: dict[str, dict[str, float]] = {
        "Tshirt": {"": 4, "Logo": 3, "ThickStripes": 2, "ThinStripes": 1},
        "Shirt": {"": 4, "Plaid": 4},
        "Sweater": {"": 5, "ThickStripes": 3, "ThinStripes": 2},
    }
    pattern = _pick(rng, patterns.get(upper, {"": 1}))
    sleeve = {"Tshirt": "Short", "VNeck": "Short", "Top": "No"}.get(upper, "Long")
    colour = _pick(rng, {"Black": 4, "Grey": 3, "Blue": 1, "Brown": 1} if upper == "Suit" else UPPER_WEIGHTS)
    second = _contrast(rng, colour)
    formal = upper == "Suit" or (upper == "Shirt" and not pattern and not child)
    names = [f"upperBody{colour}", "upperBodyFormal" if formal else "upperBodyCasual", f"upperBody{sleeve}Sleeve"]
    names += [f"upperBody{upper}"] if upper in ("Tshirt", "VNeck", "Sweater", "Jacket", "Suit") else ["upperBodyOther"]
    if pattern:
        names.append(f"upperBody{pattern}")
    if upper == "Jacket" or pattern in ("ThickStripes", "ThinStripes", "Plaid"):
        names.append(f"upperBody{second}")

    lowers = {"Trousers": 5, "Jeans": 5, "Shorts": 3, "Capri": 2}
    if female:
        lowers |= {"ShortSkirt": 4, "LongSkirt": 3, "HotPants": 2}
    lower = "Suits" if upper == "Suit" else _pick(rng, {"Trousers": 1} if formal and not female else lowers)
    lower_patterns: dict[str, dict[str, float]] = {
        "ShortSkirt": {"": 3, "Plaid": 2},
        "Trousers": {"": 6, "ThinStripes": 1},
        "Shorts": {"": 3, "Plaid": 1},
    }
    lower_pattern = _pick(rng, lower_patterns.get(lower, {"": 1}))
    if lower == "Suits":
        lower_colour = colour
    else:
        lower_colour = _pick(rng, {"Blue": 6, "Black": 2, "Grey": 2} if lower == "Jeans" else LOWER_WEIGHTS)
    smart = lower == "Suits" or (formal and lower in ("Trousers", "LongSkirt"))
    names += [f"lowerBody{lower}", f"lowerBody{lower_colour}", "lowerBodyFormal" if smart else "lowerBodyCasual"]
    if lower_pattern:
        names.append(f"lowerBody{lower_pattern}")

    bare = lower in ("Shorts", "Capri", "HotPants", "ShortSkirt", "LongSkirt")
    shoes = {
        "Shoes": 4,
        "Sneaker": 4,
        "Boots": 2 + 2 * female,
        "Sandals": 3 * bare,
        "Stocking": 3 * ("Short" in lower) * female,
    }
    footwear = "LeatherShoes" if smart and not (female and lower != "Suits") else _pick(rng, shoes)
    darks = {"Black": 4, "Brown": 2}
    shoe_colour = _pick(rng, darks if footwear in ("LeatherShoes", "Boots", "Stocking") else SHOE_WEIGHTS)
    names += [f"footwear{footwear}", f"footwear{shoe_colour}"]

    accessories = {"Nothing": 9, "Hat": 3, "Sunglasses": 2, "Muffler": 2, "Headphone": 1}
    if female:
        accessories |= {"HairBand": 1, "Kerchief": 1}
    accessory = _pick(rng, accessories)
    bags = {
        "Nothing": 6,
        "Backpack": 4,
        "MessengerBag": 4,
        "PlasticBags": 2,
        "Folder": 1,
        "Suitcase": 1,
        "LuggageCase": 1,
    }
    carrying = _pick(rng, bags | {"Other": 2 * female})
    names += [f"accessory{accessory}", f"carrying{carrying}"]
    bag = _pick(rng, {"White": 1, "Yellow": 1} if carrying in ("PlasticBags", "Folder") else UPPER_WEIGHTS)

    cloth = DENIM if (lower, lower_colour) == ("Jeans", "Blue") else PALETTE[lower_colour]
    upper_rgb = _tint(rng, PALETTE[colour])
    clothes = Clothes(
        upper=upper,
        pattern=pattern,
        sleeve=sleeve,
        upper_colour=upper_rgb,
        second=_tint(rng, PALETTE["White"] if upper == "Suit" else PALETTE[second]),
        lower=lower,
        lower_pattern=lower_pattern,
        lower_colour=upper_rgb if lower == "Suits" else _tint(rng, cloth),
        footwear=footwear,
        shoe_colour=_tint(rng, PALETTE[shoe_colour]),
        accessory=accessory,
        accessory_colour=_tint(rng, PALETTE[_pick(rng, UPPER_WEIGHTS)]),
        carrying=carrying,
        bag_colour=_tint(rng, PALETTE[bag]),
    )
    return clothes, names


def _contrast(rng: np.random.Generator, colour: str) -> str:
    """A second colour that can be told from the first."""
    first = np.array(PALETTE[colour])
    far = {name: w for name, w in UPPER_WEIGHTS.items() if np.abs(first - np.array(PALETTE[name])).sum() > 150}
    return _pick(rng, far)
