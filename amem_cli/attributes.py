"""The 105 binary attributes of PETA and their six groups (paper, Table 1; the exact partition is ours).

Names are in the spelling of PETA's ReadMe. Column order everywhere in this package: group after group, as in
`ATTRIBUTES`. Files store the names of their columns, so readers do not depend on this order.
"""

COLOURS = ("Black", "Blue", "Brown", "Green", "Grey", "Orange", "Pink", "Purple", "Red", "White", "Yellow")


def _names(prefix: str, values: str, colours: bool = False) -> tuple[str, ...]:
    return tuple(prefix + value for value in (*values.split(), *(COLOURS if colours else ())))


GROUPS: dict[str, tuple[str, ...]] = {
    "personal": _names("personal", "Female Male Less15 Less30 Less45 Less60 Larger60"),
    "hair": _names("hair", "Bald Long Short", colours=True),
    "upperBody": _names(
        "upperBody",
        "Casual Formal Jacket Logo LongSleeve NoSleeve Other Plaid ShortSleeve Suit Sweater ThickStripes ThinStripes "
        "Tshirt VNeck",
        colours=True,
    ),
    "lowerBody": _names(
        "lowerBody",
        "Capri Casual Formal HotPants Jeans LongSkirt Plaid ShortSkirt Shorts Suits ThinStripes Trousers",
        colours=True,
    ),
    "footwear": _names("footwear", "Boots LeatherShoes Sandals Shoes Sneaker Stocking", colours=True),
    "accessory": _names("accessory", "HairBand Hat Headphone Kerchief Muffler Nothing Sunglasses")
    + _names(
        "carrying",
        "BabyBuggy Backpack Folder LuggageCase MessengerBag Nothing Other PlasticBags ShoppingTro Suitcase Umbrella",
    ),
}

ATTRIBUTES: tuple[str, ...] = tuple(name for group in GROUPS.values() for name in group)
GROUP_SIZES: tuple[int, ...] = tuple(len(group) for group in GROUPS.values())

# Those that papers evaluate (Deng et al. 2014): `selected_attribute` of PETA.mat, for copies of PETA without that file.
USUAL_35: tuple[str, ...] = (
    *_names("personal", "Less30 Less45 Less60 Larger60 Male"),
    "hairLong",
    *_names("upperBody", "Casual Formal Jacket Logo Other Plaid ShortSleeve ThinStripes Tshirt VNeck"),
    *_names("lowerBody", "Casual Formal Jeans ShortSkirt Shorts Trousers"),
    *_names("footwear", "LeatherShoes Sandals Shoes Sneaker"),
    *_names("accessory", "Hat Muffler Nothing Sunglasses"),
    *_names("carrying", "Backpack MessengerBag Nothing Other PlasticBags"),
)
