"""The 105 attributes: their number, their groups, their spelling."""

from amem_cli.attributes import ATTRIBUTES, COLOURS, GROUP_SIZES, GROUPS


def test_groups_sizes() -> None:
    assert list(GROUPS) == ["personal", "hair", "upperBody", "lowerBody", "footwear", "accessory"]
    assert GROUP_SIZES == (7, 3 + 11, 15 + 11, 12 + 11, 6 + 11, 7 + 11)
    assert sum(GROUP_SIZES) == len(ATTRIBUTES) == len(set(ATTRIBUTES)) == 105


def test_attributes_spelling_of_peta() -> None:
    assert {"footwearSneaker", "carryingBackpack", "personalLarger60", "upperBodyVNeck"} <= set(ATTRIBUTES)
    assert not {"footwearSneakers", "accessoryBackpack", "accessoryFaceMask", "lowerBodyLogo"} & set(ATTRIBUTES)
    coloured = [name for name in ATTRIBUTES if name.endswith(COLOURS)]
    assert len(COLOURS) == 11
    assert len(coloured) == 44
    assert {name[: -len(next(c for c in COLOURS if name.endswith(c)))] for name in coloured} == {
        "hair",
        "upperBody",
        "lowerBody",
        "footwear",
    }


def test_attributes_order_of_groups() -> None:
    start = 0
    for group, size in zip(GROUPS.values(), GROUP_SIZES, strict=True):
        assert ATTRIBUTES[start : start + size] == group
        start += size
    prefixes = {name: [n.removesuffix("") for n in group] for name, group in GROUPS.items()}
    for name, group in prefixes.items():
        allowed = ("accessory", "carrying") if name == "accessory" else (name,)
        assert all(member.startswith(allowed) for member in group)
