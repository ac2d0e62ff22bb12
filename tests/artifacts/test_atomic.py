"""Every artifact is old or new, never half, whatever fails and wherever; and one flipped bit is found."""

import errno
import os
import resource
import stat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faults import DEAD, KILL, hit, in_child, steps_of, temporaries

from amem_cli.artifacts import atomic, checkpoint, features, pseudo_labels, results
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData, DiskError, InputMissing

OLD, NEW = 1, 2  # the two contents that every writer below can write


def provenance(content=OLD):
    return Provenance("evaluate", {"content": content}, {}, "listing")


def write_plain(path, content):
    atomic.write_bytes(path, bytes([content]) * 10_000)


def write_checkpoint(path, content):
    checkpoint.save(path, "amem-arm", {"w": torch.full((64,), content)}, provenance(content))


def write_state(path, content):
    """A state is named after its step; the step is the same here so that old and new have one path."""
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(layer.weight, content)
    torch.nn.init.zeros_(layer.bias)
    optimizers = {"adam": torch.optim.Adam(layer.parameters())}
    written = checkpoint.save_state(path.parent, 7, {"net": layer}, optimizers, provenance(content), {"epoch": 0})
    assert written == path


def some_features(content=OLD, rows=2):
    values = np.zeros((rows, 3), np.float32)
    values[:, content] = 1
    return features.Features(
        dataset="walkers",
        tracklet=[f"person é {row}" for row in range(rows)],
        person_id=np.arange(rows),
        camera_id=np.arange(rows),
        is_query=np.arange(rows) == 0,
        features=values,
        provenance={},
    )


def write_features(path, content):
    features.write(path, some_features(content), provenance(content))


def write_labels(path, content):
    labels = pseudo_labels.PseudoLabels(
        dataset="walkers",
        tracklet=["a", "b"],
        person_id=np.array([1, 2]),
        camera_id=np.array([1, 1]),
        frames=np.array([content, 9]),
        probabilities=np.array([[0.1, 0.9], [0.5, 0.6]], np.float32),
        labels=np.array([[0, 1], [0, 1]], np.uint8),
        attributes=("hat", "bag"),
        threshold=0.5,
        provenance={},
    )
    pseudo_labels.write(path, labels, provenance(content))


def write_result(path, content):
    results.write(path, {"mAP": content / 4}, provenance(content))


WRITERS = {
    "plain.bin": write_plain,
    "arm.safetensors": write_checkpoint,
    "state-00000007.safetensors": write_state,
    "features.h5": write_features,
    "labels.h5": write_labels,
    "result.json": write_result,
}
FULL_WRITE = ["mkstemp", "write", "fchmod", "fsync", "close", "replace", "fsync"]


@pytest.fixture(params=sorted(WRITERS))
def target(request, tmp_path):
    """(write(content), path, its bytes with the old content, its bytes with the new one); the old one is there."""
    path, writer = tmp_path / "folder" / request.param, WRITERS[request.param]
    writer(path, NEW)
    new = path.read_bytes()
    writer(path, OLD)
    old = path.read_bytes()
    assert old != new
    return (lambda content: writer(path, content)), path, old, new


def test_a_write_goes_through_every_step_in_order(target):
    write, path, _, new = target
    assert steps_of(lambda: write(NEW)) == FULL_WRITE
    assert path.read_bytes() == new


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_an_error_at_every_step_leaves_old_or_new_and_no_temporary(target, number):
    write, path, old, new = target
    for at, name in enumerate(FULL_WRITE):
        with hit(at, number) as steps, pytest.raises(DiskError) as raised:
            write(NEW)
        assert steps.fired, (at, name)
        assert steps.seen[-1] == name
        assert path.read_bytes() == (new if at == len(FULL_WRITE) - 1 else old), (at, name)
        assert temporaries(path.parent) == []
        message = str(raised.value)
        assert "\n" not in message
        assert str(path) in message
        assert os.strerror(number).lower() in message
        assert message.endswith(".")
        assert raised.value.remedy
        write(OLD)
        assert path.read_bytes() == old


def test_a_kill_at_every_step_leaves_old_or_new_and_the_next_owner_sweeps(target):
    write, path, old, new = target
    for at, name in enumerate(FULL_WRITE):

        def die(at=at):
            with hit(at, KILL):
                write(NEW)

        assert in_child(die) == DEAD, (at, name)
        assert path.read_bytes() == (new if at == len(FULL_WRITE) - 1 else old), (at, name)
        left = temporaries(path.parent)
        assert len(left) == (0 < at < FULL_WRITE.index("replace") + 1), (at, name)
        assert atomic.sweep_temporaries(path) == len(left)
        assert temporaries(path.parent) == []
        write(OLD)


def test_a_first_write_that_fails_leaves_nothing(tmp_path):
    for at in range(len(FULL_WRITE) - 1):
        with hit(at, errno.ENOSPC) as steps, pytest.raises(DiskError, match="Free some space"):
            atomic.write_bytes(tmp_path / "new", b"content")
        assert steps.fired
        assert list(tmp_path.iterdir()) == []


def test_the_first_error_is_told_when_the_temporary_cannot_be_removed_either(tmp_path, monkeypatch):
    def refuse(self, missing_ok=False):
        raise OSError(errno.EIO, "unlink failed")

    monkeypatch.setattr(atomic.Path, "unlink", refuse)
    with hit(1, errno.ENOSPC), pytest.raises(DiskError, match="no space left"):
        atomic.write_bytes(tmp_path / "new", b"content")


def test_the_kernel_s_own_refusal_in_the_middle_of_a_write(tmp_path):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")

    def write_too_much():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(DiskError, match="too large"):
            atomic.write_bytes(path, b"x" * 100_000)

    assert in_child(write_too_much) == 0
    assert path.read_bytes() == b"old"
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o027])
def test_the_mode_follows_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = atomic.write_text(tmp_path / f"{mask}", "text")
        assert os.umask(mask) == mask, "the umask was changed"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_folders_are_made_and_one_that_is_a_file_is_a_disk_error(tmp_path):
    assert atomic.write_text(tmp_path / "a" / "b" / "c.txt", "é").read_bytes() == "é".encode()
    with pytest.raises(DiskError):
        atomic.write_text(tmp_path / "a" / "b" / "c.txt" / "d.txt", "")


def test_sweeping_leaves_neighbours_with_a_lock_of_their_own_alone(tmp_path):
    mine, his = tmp_path / "mars.h5", tmp_path / "ilids-vid-split0.h5"
    atomic.lock_path(his).touch()
    for name in (".mars.h5.abcd1234", ".ilids-vid-split0.h5.abcd1234", ".state-00000001.safetensors.abcd1234"):
        (tmp_path / (name + atomic.TEMPORARY_SUFFIX)).touch()
    kept = tmp_path / "notes.amem-tmp"
    kept.touch()
    assert atomic.sweep_temporaries(mine) == 2
    assert [path.name for path in temporaries(tmp_path)] == [".ilids-vid-split0.h5.abcd1234.amem-tmp", "notes.amem-tmp"]
    assert atomic.sweep_temporaries(his) == 1
    assert atomic.sweep_temporaries(tmp_path / "nowhere" / "x") == 0


def test_free_space_is_asked_for_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 10**8))
    atomic.require_free_space(tmp_path / "not" / "yet" / "there", 5 * 10**8)
    with pytest.raises(DiskError, match=r"0\.50 GB free, this run needs about 0\.60 GB"):
        atomic.require_free_space(tmp_path / "not" / "yet", 6 * 10**8)


def test_reading_what_is_not_there_or_no_file(tmp_path):
    with pytest.raises(InputMissing, match=r"labels .*nowhere: not found\. Run: amem label-videos\."):
        atomic.read_bytes(tmp_path / "nowhere", "labels", remedy="Run: amem label-videos")
    (tmp_path / "file").touch()
    with pytest.raises(InputMissing):
        atomic.read_bytes(tmp_path / "file" / "below", "labels")
    with pytest.raises(BadData, match="a folder, not a file"):
        atomic.read_bytes(tmp_path, "labels")


def test_digests_are_those_of_sha256sum(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert atomic.sha256_file(tmp_path / "abc") == known
    (tmp_path / "lines").write_bytes(b"a\n\xc3\xa9\n")
    assert atomic.sha256_lines(["a", "é"]) == atomic.sha256_file(tmp_path / "lines")
    assert atomic.sha256_lines(["ab"]) != atomic.sha256_lines(["a", "b"])


# -- the seal ----------------------------------------------------------------------------------------------------------


def test_a_seal_is_filled_once_and_holds(tmp_path):
    content = b"before " + atomic.CHECKSUM_BLANK + b" after"
    sealed = atomic.fill_checksum(content)
    assert len(sealed) == len(content)
    path = atomic.write_bytes(tmp_path / "x", sealed)
    assert atomic.read_checked(path, "thing") == sealed
    for bad in (b"none", content * 2, sealed):
        with pytest.raises(ValueError, match="exactly once"):
            atomic.fill_checksum(bad)


@pytest.mark.parametrize("name", ["arm.safetensors", "result.json", "features.h5", "labels.h5"])
def test_every_flipped_bit_is_found(tmp_path, monkeypatch, name):
    path = tmp_path / name
    WRITERS[name](path, OLD)
    good = path.read_bytes()
    flipped = bytearray(good)
    monkeypatch.setattr(atomic, "read_bytes", lambda *_, **__: bytes(flipped))
    required = not name.endswith(".h5")
    assert atomic.read_checked(path, "artifact", required=required) == good
    for at in range(len(good)):
        for bit in range(8):
            flipped[at] ^= 1 << bit
            try:
                atomic.read_checked(path, "artifact", required=required)
            except BadData:
                pass
            else:
                pytest.fail(f"bit {bit} of byte {at} was flipped and not found")
            flipped[at] ^= 1 << bit
    assert bytes(flipped) == good


@pytest.mark.parametrize("name", ["arm.safetensors", "result.json", "features.h5", "labels.h5"])
def test_every_truncation_is_found(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path, OLD)
    good = path.read_bytes()
    read = {
        "arm.safetensors": lambda path: checkpoint.load(path, "amem-arm"),
        "result.json": results.read,
        "features.h5": features.read,
        "labels.h5": pseudo_labels.read,
    }[name]
    for length in sorted({*range(0, len(good), 37), 1, 7, 8, 9, len(good) - 1}):
        path.write_bytes(good[:length])
        with pytest.raises(BadData):
            read(path)
