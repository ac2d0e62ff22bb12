import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.manifest import dataset_counts
from amem_cli.data.readers import peta
from amem_cli.data.readers.files import BadRows
from amem_cli.errors import BadData

# subset -> key -> (attributes as Label.txt spells them, images)
PEOPLE = {
    "3DPeS": {
        "3": ("personalMale footwearSneakers hairShort", ["3_7_FRAME_1_RGB.bmp", "3_7_FRAME_25_RGB.bmp"]),
        "30": ("personalFemale accessoryFaceMask", ["30_1_FRAME_2_RGB.bmp"]),
    },
    "CUHK": {
        "0016.png": ("carryingBackpack upperBodyBlue lowerBodyLogo", ["0016.png"]),
        "0023.png": ("personalFemale", ["0023.png"]),
        "4000.png": ("personalMale", []),
    },
    "MIT": {"00001": ("personalMale accessoryShawl", ["00001_male_back.jpg", "00001_MALE_fore.jpg"])},
    "i-LID": {"0001": ("hairLong personalFemale", ["0001_001.jpg", "0001_002.jpg", "0001_010.jpg"])},
}
IMAGES = 10


def write_peta(root: Path, archive: str = "PETA dataset") -> Path:
    for subset, people in PEOPLE.items():
        folder = root / archive / subset / "archive"
        folder.mkdir(parents=True)
        lines = [f"{key} {attributes}".encode() for key, (attributes, _) in reversed(people.items())]
        (folder / "Label.txt").write_bytes(b"\r\n".join(lines) + b"\r\n")
        for _, images in people.values():
            for image in images:
                Image.new("RGB", (4, 8)).save(folder / image)
        (folder / "Thumbs.db").write_bytes(b"Windows")
    return root


def peta_mat(dataset) -> dict:
    """The same data set as PETA.mat has it: its own order of columns, counted from 1."""
    order = np.random.default_rng(0).permutation(len(ATTRIBUTES))
    subset = [peta.SUBSETS.index(path.parent.parent.name) + 1 for path in dataset.paths]
    count = len(dataset.paths)
    data = np.column_stack([np.arange(1, count + 1), dataset.person_ids + 1, subset, np.ones(count, int)])
    partitions = np.empty((5, 1), dtype=object)
    for k in range(5):
        rows = np.random.default_rng(k).permutation(count)[:, None] + 1
        partitions[k, 0] = {"train": rows[:5], "val": rows[5:6], "test": rows[6:]}
    names = np.empty((105, 1), dtype=object)
    names[:, 0] = [ATTRIBUTES[column] for column in order]
    return {
        "data": np.hstack([data, dataset.labels[:, order]]).astype(np.uint16),
        "attribute": names,
        "selected_attribute": np.array([5, 7, 109], dtype=np.uint8),
        "partion_attribute": partitions,
    }


@pytest.mark.parametrize("archive", ["PETA dataset", "PETA/PETA dataset", "."])
def test_label_txt(tmp_path, archive):
    dataset = peta.read(write_peta(tmp_path, archive), "peta")
    assert [path.name for path in dataset.paths] == [
        "30_1_FRAME_2_RGB.bmp", "3_7_FRAME_1_RGB.bmp", "3_7_FRAME_25_RGB.bmp", "0016.png", "0023.png",
        "00001_male_back.jpg", "00001_MALE_fore.jpg", "0001_001.jpg", "0001_002.jpg", "0001_010.jpg",
    ]  # fmt: skip
    assert dataset.attributes == ATTRIBUTES
    labels = {
        path.name: {ATTRIBUTES[column] for column in np.flatnonzero(row)}
        for path, row in zip(dataset.paths, dataset.labels, strict=True)
    }
    assert labels["3_7_FRAME_25_RGB.bmp"] == {"personalMale", "footwearSneaker", "hairShort"}
    assert labels["30_1_FRAME_2_RGB.bmp"] == {"personalFemale"}
    assert labels["0016.png"] == {"carryingBackpack", "upperBodyBlue"}
    assert labels["00001_MALE_fore.jpg"] == {"personalMale"}
    assert dataset.labels.dtype == np.uint8
    assert dataset.labels.shape == (IMAGES, 105)
    people = {path.name: person for path, person in zip(dataset.paths, dataset.person_ids.tolist(), strict=True)}
    assert sorted(set(people.values())) == [0, 1, 2, 3, 4, 5]
    assert people["0001_001.jpg"] == people["0001_010.jpg"] != people["00001_male_back.jpg"]
    assert [ATTRIBUTES[column] for column in dataset.evaluated] == list(peta.EVALUATED)
    assert (dataset.partitions, dataset.notes) == ((), ())
    extra = peta.extra_counts(tmp_path)
    assert (extra["labels_without_images"], extra["images_without_labels"], extra["images_in_CUHK"]) == (1, 0, 2)


def test_the_usual_35():
    assert len(set(peta.EVALUATED)) == 35
    assert set(peta.EVALUATED) <= set(ATTRIBUTES)


def test_peta_mat_agrees_row_by_row_and_brings_partitions(tmp_path):
    root = write_peta(tmp_path)
    plain = peta.read(root, "peta")
    table = peta_mat(plain)
    savemat(root / "PETA.mat", {"peta": table})
    dataset = peta.read(root, "peta")
    assert np.array_equal(dataset.labels, plain.labels)
    assert len(dataset.partitions) == 5
    assert dataset.notes == ()
    columns = [table["attribute"][value - 5, 0] for value in (5, 7, 109)]
    assert [ATTRIBUTES[column] for column in dataset.evaluated] == columns
    for k in range(5):
        parts = dataset.partitions[k]
        assert [len(parts[part]) for part in ("train", "val", "test")] == [5, 1, 4]
        assert sorted(np.concatenate(list(parts.values()))) == list(range(IMAGES))
        assert np.array_equal(parts["train"], table["partion_attribute"][k, 0]["train"].ravel() - 1)


def test_every_row_that_differs_from_peta_mat_is_named(tmp_path):
    root = write_peta(tmp_path)
    table = peta_mat(peta.read(root, "peta"))
    column = 4 + [name[0] for name in table["attribute"].tolist()].index("hairBald")
    table["data"][[3, 8], column] ^= 1
    savemat(root / "PETA.mat", {"peta": table})
    with pytest.raises(BadRows) as caught:
        peta.read(root, "peta")
    assert caught.value.rows == ("image 4 CUHK/0016.png: hairBald", "image 9 i-LID/0001_002.jpg: hairBald")


def test_peta_mat_of_other_images_is_left_alone_and_noted(tmp_path):
    root = write_peta(tmp_path)
    savemat(root / "PETA.mat", {"peta": peta_mat(peta.read(root, "peta"))})
    (root / "PETA dataset" / "i-LID" / "archive" / "0001_002.jpg").unlink()
    dataset = peta.read(root, "peta")
    assert dataset.partitions == ()
    assert dataset.notes == ("the partitions of PETA.mat do not fit these images (i-LID 2 of 3) and are not used",)


@pytest.mark.parametrize(
    ("field", "change", "why"),
    [
        ("data", lambda data: data[:, :-1], "shape"),
        ("data", lambda data: np.where(data == 0, 2, data), "neither 0 nor 1"),
        ("data", lambda data: data[::-1], "not numbered"),
        ("attribute", lambda names: names[:-1], "not the 105"),
        ("selected_attribute", lambda columns: columns * 0, "columns of data"),
        ("selected_attribute", lambda columns: columns * 0 + 5, "columns of data"),
        ("partion_attribute", lambda cells: np.array([[{"train": [1], "val": [2], "test": [3]}]]), "every image once"),
        ("partion_attribute", lambda cells: 3, "no train"),
    ],
)
def test_damaged_peta_mat_is_refused(tmp_path, field, change, why):
    root = write_peta(tmp_path)
    table = peta_mat(peta.read(root, "peta"))
    table[field] = change(table[field])
    savemat(root / "PETA.mat", {"peta": table})
    with pytest.raises(BadData, match=why):
        peta.read(root, "peta")


def test_lacking_fields_of_peta_mat_are_named(tmp_path):
    savemat(tmp_path / "PETA.mat", {"peta": {"data": np.zeros((3, 109))}})
    with pytest.raises(BadData, match="lacks attribute, selected_attribute, partion_attribute"):
        peta.read_peta_mat(tmp_path / "PETA.mat")


def test_odd_labels_are_all_named(tmp_path):
    root = write_peta(tmp_path)
    label = root / "PETA dataset" / "MIT" / "archive" / "Label.txt"
    label.write_bytes(
        b"00001 personalMale\n00001 personalFemale\n00002 personelMale accessory\xe9\n\n00001 personalMale\n"
    )
    with pytest.raises(BadRows) as caught:
        peta.read(root, "peta")
    assert caught.value.rows == (
        "MIT/archive/Label.txt line 2: '00001' has other attributes on an earlier line",
        "MIT/archive/Label.txt line 3: 'accessory\\udce9', 'personelMale' is no attribute",
    )


def test_images_without_label_are_left_out_and_named(tmp_path):
    root = write_peta(tmp_path)
    for name in ("0002_001.jpg", "00010_001.jpg"):  # 00010 is not 0001
        Image.new("RGB", (4, 8)).save(root / "PETA dataset" / "i-LID" / "archive" / name)
    dataset = peta.read(root, "peta")
    assert len(dataset.paths) == IMAGES
    assert dataset.notes == ("2 images without a label left out: i-LID/00010_001.jpg; i-LID/0002_001.jpg",)


def test_names_that_are_not_utf8(tmp_path):
    root = write_peta(tmp_path)
    folder = root / "PETA dataset" / "MIT" / "archive"
    try:
        Image.new("RGB", (4, 8)).save(folder / "x.jpg")
        os.rename(os.fsencode(folder / "x.jpg"), os.fsencode(folder) + b"/caf\xe9_1.jpg")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with open(folder / "Label.txt", "ab") as file:
        file.write(b"caf\xe9 personalMale\n")
    assert len(peta.read(root, "peta").paths) == IMAGES + 1


def test_no_images_is_bad_data(tmp_path):
    with pytest.raises(BadData, match="no <subset>/archive"):
        peta.read(tmp_path, "peta")
    (tmp_path / "MIT" / "archive").mkdir(parents=True)
    (tmp_path / "MIT" / "archive" / "Label.txt").write_text("00001 personalMale\n")
    with pytest.raises(BadData, match="no images"):
        peta.read(tmp_path, "peta")


REAL_PART = Path(os.environ.get("AMEM_TEST_REAL_DATA", "/nowhere")) / "peta-part.tgz"


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_PART.is_file(), reason="AMEM_TEST_REAL_DATA names no folder with peta-part.tgz")
def test_the_real_part(tmp_path):
    with tarfile.open(REAL_PART) as archive:
        archive.extractall(tmp_path, filter="data")
    dataset = peta.read(tmp_path, "peta")
    assert dataset_counts(dataset)["images"] == 5929
    assert dataset.notes == ()
    assert peta.extra_counts(tmp_path)["labels_without_images"] == 8
    positives = dict(zip(ATTRIBUTES, dataset.labels.sum(axis=0).tolist(), strict=True))
    assert positives["hairBlue"] == positives["hairPink"] == 0
    assert positives["footwearSneaker"] > 100
    assert positives["carryingBackpack"] > 100
    # everybody is one of the two: a wrong key or column would break this at once
    sexes = dataset.labels[:, [ATTRIBUTES.index("personalMale"), ATTRIBUTES.index("personalFemale")]].sum(axis=1)
    assert 0.98 < sexes.mean() < 1.02
