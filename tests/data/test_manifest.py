"""Manifests: the shipped ones are complete, own ones are validated, every fault is one line."""

import json
import subprocess
import sys

import pytest

from amem_cli.data.datasets import READERS
from amem_cli.data.manifest import KINDS, SHIPPED, load_manifest, manifest_of_protocol
from amem_cli.errors import BadData, InputMissing, UsageError

FOLDER = 'name = "a"\nlayout = "folder"\n'


@pytest.fixture
def own(tmp_path):
    """Loads a manifest with the given text."""

    def load(text):
        (tmp_path / "own.toml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_manifest(tmp_path / "own.toml")

    return load


def test_shipped_manifests_complete():
    assert READERS.keys() == KINDS.keys()
    for name in SHIPPED:
        manifest = load_manifest(name)
        assert (manifest.name, manifest.root, manifest.shipped, manifest.path.stem) == (name, name, True, name)
        assert manifest.citation
        assert manifest.licence
        assert "http" in manifest.request
        assert manifest.counts
        assert (manifest.protocol is not None) == (manifest.kind == "video")
        assert all(len(digest) == 64 for digest in manifest.sha256.values())


def test_manifest_of_protocol():
    for protocol, name, kind in (
        ("mars", "mars", "single-split"),
        ("ilids-10split", "ilids-vid", "cross-camera-splits"),
        ("prid-10split", "prid2011", "cross-camera-splits"),
    ):
        manifest = manifest_of_protocol(protocol)
        assert (manifest.name, manifest.protocol.kind, manifest.protocol.splits) == (name, kind, 10)
    with pytest.raises(UsageError, match="Did you mean ilids-10split"):
        manifest_of_protocol("ilids-10splits")


@pytest.mark.parametrize(("typed", "meant"), [("marss", "mars"), ("ilids", "ilids-vid"), ("Market-1501", "market1501")])
def test_load_manifest_mistyped_name(typed, meant):
    with pytest.raises(UsageError, match=f"Did you mean {meant}"):
        load_manifest(typed)


def test_load_manifest_own(own, tmp_path):
    manifest = own(FOLDER + 'root = "b"\n[protocol]\nsplits = 3\ntrain_fraction = 0.34\nseed = 5\n')
    assert (manifest.kind, manifest.shipped, manifest.title) == ("video", False, "a")
    assert manifest.folder("elsewhere") == tmp_path / "b"
    protocol = manifest.protocol
    assert (protocol.name, protocol.kind) == ("a", "cross-camera-splits")
    assert (protocol.splits, protocol.train_fraction, protocol.seed) == (3, 0.34, 5)


def test_load_manifest_own_defaults(own, tmp_path):
    manifest = own(b"\xef\xbb\xbf" + FOLDER.replace("\n", "\r\n").encode())  # as Windows writes it
    assert manifest.folder(tmp_path / "data") == tmp_path / "data" / "a"
    assert (manifest.protocol.splits, manifest.protocol.train_fraction, manifest.protocol.seed) == (10, 0.5, 0)
    assert own('name = "a"\nlayout = "mars"\n[protocol]\nname = "b"').protocol.kind == "single-split"
    assert own('name = "a"\nlayout = "peta"').protocol is None


def test_load_manifest_split_file_counts_splits(own, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps([{"train": ["x"], "test": ["y"]}] * 7))
    protocol = own(FOLDER + '[protocol]\nfile = "s.json"\n').protocol
    assert (protocol.splits, protocol.file) == (7, str(tmp_path / "s.json"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (FOLDER + "rooot = '.'", "rooot.*Did you mean root"),
        (FOLDER + "[protocol]\nsplit = 3", r"split. in protocol.*Did you mean splits"),
        (FOLDER + '[protocol]\nkind = "cross-camera"', "Did you mean cross-camera-splits"),
        ('name = "a"\nlayout = "foldr"', "Did you mean folder"),
        ('layout = "folder"', "missing required field `name`"),
        ('name = "../a"\nlayout = "folder"', "in name"),
        ('name = 1\nlayout = "folder"', "Expected `str`"),
        (FOLDER + "[protocol]\nsplits = true", "Expected `int`"),
        (FOLDER + "[protocol]\nsplits = 0", ">= 1"),
        (FOLDER + "[protocol]\nsplits = 1001", "<= 1000"),
        (FOLDER + "[protocol]\ntrain_fraction = 1", "< 1.0"),
        (FOLDER + "[protocol]\ntrain_fraction = nan", "> 0.0"),
        (FOLDER + "[protocol]\nseed = -1", ">= 0"),
        (FOLDER + '[protocol]\nkind = "single-split"', "must be 'cross-camera-splits'"),
        (FOLDER + '[protocol]\nfile = "s.json"\nseed = 1', "the split is fixed"),
        (FOLDER + '[counts]\npeople = "many"', "in counts"),
        (FOLDER + 'root = "a\\u0000b"', "is not a path"),
        (
            'name = "my cameras"\nlayout = "mars"',
            "Expected letters, digits, '.', '-' and '_', a letter or digit first, in n",
        ),
        ('name = "a"\nlayout = "mars"\n[protocol]\nsplits = 3', "the split is fixed"),
        ('name = "a"\nlayout = "prid2011"\n[protocol]\nfile = "s.json"', "for layout folder"),
        ('name = "a"\nlayout = "peta"\n[protocol]\nsplits = 3', r"so no \[protocol\]"),
    ],
)
def test_load_manifest_bad_values(own, text, why):
    with pytest.raises(UsageError, match=why) as caught:
        own(text)
    assert "\n" not in str(caught.value)


def test_load_manifest_bad_files(own, tmp_path):
    with pytest.raises(InputMissing, match="not found"):
        load_manifest(tmp_path / "none.toml")
    for content in (b"name = ", b"\xff\xfe\0", b"a = " + b"[" * 100_000):
        with pytest.raises(BadData, match="not TOML"):
            own(content)
    with pytest.raises(BadData, match="larger than 1 MiB"):
        own(b"#" * (2**20 + 1))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(BadData, match="folder, not a file"):
        load_manifest(tmp_path / "folder.toml")


def test_load_manifest_imports_nothing_heavy():
    code = (
        "import sys; from amem_cli.data.manifest import load_manifest; load_manifest('mars');"
        "print([name for name in ('torch', 'scipy', 'PIL', 'h5py', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_load_manifest_escapes_what_reaches_the_terminal(own):
    manifest = own(FOLDER + 'title = "\\u001b[31mred\\n"\n[notes]\npeople = "\\u0007"')
    assert (manifest.title, manifest.notes) == (r"\x1b[31mred\n", {"people": r"\x07"})


@pytest.mark.parametrize(
    "levels", ["person", "camera/tracklet", "person/person", "person/kamera", "split/person", "/person/camera"]
)
def test_load_manifest_other_levels(own, levels):
    with pytest.raises(UsageError, match='folders = "person/camera/tracklet"'):
        own(FOLDER + f'folders = "{levels}"')


def test_load_manifest_levels(own):
    assert own(FOLDER + 'folders = "split/person/camera"').protocol.splits == 1
    assert own(FOLDER + 'folders = "camera/person"').protocol.splits == 10
    with pytest.raises(UsageError, match="the split is fixed"):
        own(FOLDER + 'folders = "split/person/camera"\n[protocol]\nseed = 3')
    with pytest.raises(UsageError, match="folders"):
        own('name = "a"\nlayout = "mars"\nfolders = "person/camera"')
