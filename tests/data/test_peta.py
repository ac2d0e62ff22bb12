"""PETA: labels by key, the order of PETA.mat, its partitions, and the real part."""

import copy
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.datasets import dataset_counts
from amem_cli.data.readers import peta
from amem_cli.data.readers.files import BadRows
from amem_cli.errors import BadData

# subset -> key -> (attributes as Label.txt spells them, images)
PEOPLE = {
    "3DPeS": {
        "3": ("personalMale footwearSneakers hairShort", ["3_7_FRAME_1_RGB.bmp", "3_7_FRAME_25_RGB.bmp"]),
        "30": ("personalFemale accessoryFaceMask", ["30_1_FRAME_2_RGB.bmp"]),
    },
    "MIT": {"00001": ("personalMale accessoryShawl", ["00001_male_back.jpg", "00001_MALE_fore.jpg"])},
    "CUHK": {
        "0016.png": ("carryingBackpack upperBodyBlue lowerBodyLogo", ["0016.png"]),
        "0023.png": ("personalFemale", ["0023.png"]),
        "4000.png": ("personalMale", []),
    },
    "i-LID": {"0001": ("hairLong personalFemale", ["0001_001.jpg", "0001_002.jpg", "0001_010.jpg"])},
}
NAMES = [
    "30_1_FRAME_2_RGB.bmp", "3_7_FRAME_1_RGB.bmp", "3_7_FRAME_25_RGB.bmp", "0016.png", "0023.png",
    "0001_001.jpg", "0001_002.jpg", "0001_010.jpg", "00001_male_back.jpg", "00001_MALE_fore.jpg",
]  # fmt: skip
SUBSET_NUMBERS = [1, 1, 1, 3, 3, 5, 5, 5, 6, 6]  # of the official table: CUHK 3, i-LID 5, MIT 6
COLUMNS = np.random.default_rng(0).permutation(len(ATTRIBUTES))  # the order of the attributes in PETA.mat


@pytest.fixture
def root(tree) -> Path:
    for subset, people in PEOPLE.items():
        below = f"PETA dataset/{subset}/archive"
        root = tree(*(image for _, images in people.values() for image in images), "Thumbs.db", below=below)
        lines = [f"{key} {attributes}".encode() for key, (attributes, _) in reversed(people.items())]
        (root / below / "Label.txt").write_bytes(b"\r\n".join(lines) + b"\r\n")
    return root


@pytest.fixture
def with_table(root, monkeypatch):
    """Reads PETA together with a PETA.mat of the same labels, after `change` of its content."""
    labels = peta.read(root, "peta").labels
    data = np.column_stack([np.arange(1, 11), np.zeros(10), SUBSET_NUMBERS, np.zeros(10), labels[:, COLUMNS]])
    partitions = []
    for k in range(5):
        rows = (np.random.default_rng(k).permutation(10) + 1).tolist()
        partitions.append({"train": rows[:5], "val": rows[5], "test": rows[6:]})
    table = {
        "data": data.astype(int).tolist(),
        "attribute": [ATTRIBUTES[column] for column in COLUMNS],
        "selected_attribute": [5, 7, 109],
        "partion_attribute": partitions,
    }

    def read(change=lambda table: None):
        changed = copy.deepcopy(table)
        change(changed)
        (root / "PETA.mat").touch()
        monkeypatch.setattr(peta, "read_matlab", lambda path, variable, what: changed)
        return peta.read(root, "peta")

    return read


def test_read_person_folders(tree):
    root = tree("ann/1.jpg", "ann/2.jpg", "bob/1.jpg", below="own/archive")
    (root / "own" / "archive" / "Label.txt").write_text("bob personalMale\nann personalFemale\n")
    dataset = peta.read(root, "own")
    assert dataset.person_ids.tolist() == [0, 0, 1]
    assert dataset.labels[:, ATTRIBUTES.index("personalFemale")].tolist() == [1, 1, 0]


@pytest.mark.parametrize("place", ["archive/archive", "{0}/archive", "."])
def test_read_archives_at_other_levels(root, place):
    expected = peta.read(root, "peta")
    for subset in (root / "PETA dataset").iterdir():
        (subset / "archive").rename(root / "images of it")
        shutil.rmtree(subset)
        (subset / place.format(subset.name)).parent.mkdir(parents=True, exist_ok=True)
        (root / "images of it").rename(subset / place.format(subset.name))
    dataset = peta.read(root, "peta")
    assert [path.name for path in dataset.paths] == NAMES
    np.testing.assert_array_equal(dataset.labels, expected.labels)
    assert peta.extra_counts(root) == {"labels_without_images": 1, "images_without_labels": 0}


def test_read_processed_form(with_table, root, tree):
    archives = with_table()
    shutil.rmtree(root / "PETA dataset")
    tree(*(f"{number:05d}.png" for number in range(1, 11)), below="Img")
    dataset = with_table(lambda table: [row.__setitem__(1, number // 3) for number, row in enumerate(table["data"])])
    assert [path.name for path in dataset.paths[::9]] == ["00001.png", "00010.png"]
    np.testing.assert_array_equal(dataset.labels, archives.labels)
    assert dataset.person_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert (len(dataset.partitions), dataset.evaluated, dataset.notes) == (5, archives.evaluated, ())
    assert peta.extra_counts(root) == {"images_without_labels": 0}
    (root / "Img" / "00004.png").unlink()
    part = with_table()
    np.testing.assert_array_equal(part.labels, np.delete(archives.labels, 3, axis=0))
    assert part.partitions == ()
    assert part.notes == ("1 of the 10 images in PETA.mat are not here, so its partitions are not used",)
    tree("00011.png", "1.jpg", below="Img")
    with pytest.raises(BadRows, match=r"00011.png; 1.jpg"):
        with_table()


def test_read_label_txt(root):
    dataset = peta.read(root, "peta")
    assert [path.name for path in dataset.paths] == NAMES
    assert dataset.attributes == ATTRIBUTES
    found = {
        path.name: {ATTRIBUTES[column] for column in np.flatnonzero(row)}
        for path, row in zip(dataset.paths, dataset.labels, strict=True)
    }
    assert found["3_7_FRAME_25_RGB.bmp"] == {"personalMale", "footwearSneaker", "hairShort"}
    assert found["30_1_FRAME_2_RGB.bmp"] == {"personalFemale"}
    assert found["0016.png"] == {"carryingBackpack", "upperBodyBlue"}
    assert found["00001_MALE_fore.jpg"] == {"personalMale"}
    assert (dataset.labels.dtype, dataset.labels.shape) == (np.uint8, (10, 105))
    assert dataset.person_ids.tolist() == [0, 1, 1, 2, 3, 4, 4, 4, 5, 5]
    assert (dataset.partitions, dataset.notes) == ((), ())
    assert {ATTRIBUTES[column] for column in dataset.evaluated} == {*EVALUATED.split()}
    assert len(dataset.evaluated) == 35
    counts = {"images": 10, "people": 6, "attributes": 105, "evaluated_attributes": 35, "partitions": 0}
    assert dataset_counts(dataset) == counts
    assert peta.extra_counts(root) == {"labels_without_images": 1, "images_without_labels": 0}


# selected_attribute of the official PETA.mat, as published code lists it
EVALUATED = """
accessoryHat accessoryMuffler accessoryNothing accessorySunglasses hairLong upperBodyCasual upperBodyFormal
upperBodyJacket upperBodyLogo upperBodyPlaid upperBodyShortSleeve upperBodyThinStripes upperBodyTshirt upperBodyOther
upperBodyVNeck lowerBodyCasual lowerBodyFormal lowerBodyJeans lowerBodyShorts lowerBodyShortSkirt lowerBodyTrousers
footwearLeatherShoes footwearSandals footwearShoes footwearSneaker carryingBackpack carryingOther carryingMessengerBag
carryingNothing carryingPlasticBags personalLess30 personalLess45 personalLess60 personalLarger60 personalMale
"""


def test_subsets_in_the_order_of_the_official_table():
    # the third column of data in the official PETA.mat counts the subsets in this order
    order = "3DPeS CAVIAR4REID CUHK GRID i-LID MIT PRID SARC3D TownCentre VIPeR"
    assert tuple(order.split()) == peta.SUBSETS


def test_read_peta_mat_partitions_and_evaluated(with_table):
    dataset = with_table()
    assert dataset.notes == ()
    assert dataset.evaluated == (COLUMNS[0], COLUMNS[2], COLUMNS[104])
    assert len(dataset.partitions) == 5
    first = dataset.partitions[0]
    assert first["train"].tolist() == np.random.default_rng(0).permutation(10)[:5].tolist()
    assert [len(first[side]) for side in ("train", "val", "test")] == [5, 1, 4]


@pytest.mark.slow
def test_read_peta_mat_file(tmp_path):
    partition = {"train": [[2], [1]], "val": 3, "test": [[4]]}
    cells = np.empty((2, 1), dtype=object)
    cells[:, 0] = [partition, partition]
    names = np.array(ATTRIBUTES, dtype=object)[:, None]
    data = np.hstack([[[1, 1, 1, 1], [2, 1, 1, 1], [3, 1, 5, 1], [4, 1, 6, 1]], np.eye(4, 105)])
    content = {"data": data, "attribute": names, "selected_attribute": [[109], [5]], "partion_attribute": cells}
    savemat(tmp_path / "PETA.mat", {"peta": content})
    table = peta.read_peta_mat(tmp_path / "PETA.mat")
    assert table.subset.tolist() == [1, 1, 5, 6]
    assert table.labels.tolist() == np.eye(4, 105).tolist()
    assert table.evaluated == (104, 0)
    assert [{side: rows.tolist() for side, rows in sides.items()} for sides in table.partitions] == [
        {"train": [1, 0], "val": [2], "test": [3]}
    ] * 2


def test_read_peta_mat_other_labels(with_table):
    def change(table):
        for row in (3, 8):
            table["data"][row][4 + table["attribute"].index("hairBald")] ^= 1

    with pytest.raises(BadRows) as caught:
        with_table(change)
    assert caught.value.rows == ("image 4 CUHK/0016.png: hairBald", "image 9 MIT/00001_male_back.jpg: hairBald")


def test_read_peta_mat_of_other_images_is_noted(with_table, root):
    (root / "PETA dataset" / "i-LID" / "archive" / "0001_002.jpg").unlink()
    dataset = with_table()
    assert dataset.partitions == ()
    assert len(dataset.evaluated) == 3
    assert "10 images there, 9 here" in dataset.notes[0]


def respelt(table):
    table["partition_attribute"] = table.pop("partion_attribute")


@pytest.mark.parametrize(
    ("change", "partitions"),
    [
        (respelt, 5),
        (lambda table: table.pop("partion_attribute"), 0),
        (lambda table: table.update(partion_attribute=table["partion_attribute"][0]), 1),  # a cell of one struct
        (lambda table: table.update(attribute=[name.ljust(30) for name in table["attribute"]]), 5),
    ],
)
def test_read_peta_mat_variants(with_table, change, partitions):
    dataset = with_table(change)
    assert (len(dataset.partitions), len(dataset.evaluated)) == (partitions, 3)


def test_read_counts_system_folders(root):
    base = root / "PETA dataset"
    for name in ("@eaDir/archive/1.jpg", "MIT/archive/__MACOSX/1.jpg"):
        (base / name).parent.mkdir(parents=True)
        (base / name).touch()
    (note,) = peta.read(root, "peta").notes
    assert note.startswith("2 folders ignored")
    assert note.endswith(": @eaDir; MIT/__MACOSX")


@pytest.mark.parametrize(
    ("field", "change", "why"),
    [
        ("data", lambda data: [row[:-1] for row in data], "shape"),
        ("data", lambda data: [[value or 2 for value in row] for row in data], "neither 0 nor 1"),
        ("data", lambda data: [[11 if value == 6 else value for value in row] for row in data], "not 1 to 10"),
        ("attribute", lambda names: names[:-1], "not the 105"),
        ("selected_attribute", lambda columns: [4], "columns of data"),
        ("selected_attribute", lambda columns: [110], "columns of data"),
        ("selected_attribute", lambda columns: [5, 5], "columns of data"),
        ("partion_attribute", lambda cells: [*cells, cells[0] | {"val": 3}], "partition 6 does not hold every image"),
        ("partion_attribute", lambda cells: [{"train": [1]}], "lacks a field .*val"),
        ("data", None, "lacks a field .*data"),
    ],
)
def test_read_peta_mat_damaged(with_table, field, change, why):
    def damage(table):
        value = table.pop(field)
        if change is not None:
            table[field] = change(value)

    with pytest.raises(BadData, match=why):
        with_table(damage)


def test_read_odd_labels_are_all_named(root):
    (root / "PETA dataset" / "MIT" / "archive" / "Label.txt").write_bytes(
        b"00001 personalMale\n00001 personalFemale\n00002 personelMale accessory\xe9\n\n00001 personalMale\n"
    )
    with pytest.raises(BadRows) as caught:
        peta.read(root, "peta")
    assert caught.value.rows == (
        "MIT/archive/Label.txt line 2: '00001' has other attributes on an earlier line",
        "MIT/archive/Label.txt line 3: 'accessory\\udce9', 'personelMale' is no attribute",
    )


def test_read_images_without_label_and_names_that_are_not_utf8(root, tree):
    tree("0002_001.jpg", "00010_001.jpg", below="PETA dataset/i-LID/archive")  # 00010 is not 0001
    folder = root / "PETA dataset" / "MIT" / "archive"
    open(os.fsencode(folder) + b"/caf\xe9_1.jpg", "w").close()
    with open(folder / "Label.txt", "ab") as file:
        file.write(b"caf\xe9 personalMale\n")
    dataset = peta.read(root, "peta")
    assert len(dataset.paths) == 11
    assert dataset.notes == ("2 images without a label left out: i-LID/00010_001.jpg; i-LID/0002_001.jpg",)


def test_read_no_images(tmp_path):
    with pytest.raises(BadData, match="no <subset>/archive"):
        peta.read(tmp_path, "peta")
    (tmp_path / "MIT" / "archive").mkdir(parents=True)
    (tmp_path / "MIT" / "archive" / "Label.txt").write_text("00001 personalMale\n")
    with pytest.raises(BadData, match="no images"):
        peta.read(tmp_path, "peta")


REAL_PART = Path(os.environ.get("AMEM_TEST_REAL_DATA", "/nowhere")) / "peta-part.tgz"


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not REAL_PART.is_file(), reason="AMEM_TEST_REAL_DATA names no folder with peta-part.tgz")
def test_read_real_part(tmp_path):
    with tarfile.open(REAL_PART) as archive:
        archive.extractall(tmp_path, filter="data")
    dataset = peta.read(tmp_path, "peta")
    assert len(dataset.paths) == 5929
    assert dataset.notes == ()
    assert peta.extra_counts(tmp_path)["labels_without_images"] == 8
    positives = dict(zip(ATTRIBUTES, dataset.labels.sum(axis=0).tolist(), strict=True))
    assert positives["hairBlue"] == positives["hairPink"] == 0
    assert positives["footwearSneaker"] > 100
    assert positives["carryingBackpack"] > 100
    # every person has exactly one of the two; a wrong key or column would break this
    sexes = dataset.labels[:, [ATTRIBUTES.index("personalMale"), ATTRIBUTES.index("personalFemale")]].sum(axis=1)
    assert 0.98 < sexes.mean() < 1.02


def test_read_labels_and_table_in_other_letters(root):
    labels = len(peta.read(root, "peta").labels)
    for path in root.rglob("Label.txt"):
        path.rename(path.with_name("label.TXT"))
    assert len(peta.read(root, "peta").labels) == labels
    (root / "peta.MAT").touch()
    assert peta.find_table(root, root) == root / "peta.MAT"
