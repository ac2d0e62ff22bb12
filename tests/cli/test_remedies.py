"""Remedies are the user's own command line, changed where it must be, and can be pasted into a shell."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from faults import flip_bit
from writers import some_features, some_labels

from amem_cli.artifacts import atomic, checkpoint, features, pseudo_labels
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import app, run
from amem_cli.cli.remedies import CONTINUING, for_command
from amem_cli.data.chain import Chain
from amem_cli.data.datasets import read_dataset, read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.data.tracklets import attributes_digest, images_digest, tracklets_digest
from amem_cli.errors import BadData, OutputExists, Terminated
from amem_cli.options import TrainAmemOptions, TrainArmOptions, TrainTaeOptions
from amem_cli.resolve import resolve

TENSORS = {"w": torch.ones(2)}
SMALL = ["--preset", "small", "--image-size", "64x32", "--seed", "3"]


@pytest.fixture
def where(tmp_path: Path, walkers: Path) -> list[str]:
    return ["--workspace", str(tmp_path / "my work"), "--data-root", str(walkers)]


def trained(command: str, kind: str, path: Path, cls: type, parents: dict | None = None, **flags: object) -> None:
    """Write an artifact with the provenance of a `--preset small` run with these flags."""
    options = resolve(cls, {"image_size": "64x32", "seed": 3, **flags}, preset="small").fingerprint()
    checkpoint.save(path, kind, TENSORS, Provenance(command, options, parents or {}))


def options_of(command: str, capsys: pytest.CaptureFixture) -> dict:
    """The options that the pasted command would run with."""
    capsys.readouterr()
    program, *arguments = shlex.split(command)
    assert (program, run([*arguments, "--dry-run", "--json"])) == ("amem", 0)
    return json.loads(capsys.readouterr().out)["options"]


def remedy_of(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert run(arguments) != 0
    line = capsys.readouterr().err.strip().splitlines()[-1]
    return line.rpartition(" Run: ")[2].removesuffix(".")


@pytest.mark.parametrize(
    ("typed", "stage", "carried"),
    [
        ("train-amem --modules aem", "label-videos --dataset mars", {"seed": 3}),
        ("train-amem --modules mem", "train-tae", {"seed": 3, "image_size": "64x32", "epochs": 2}),
        ("train-amem --modules mem --device cpu --epochs 7", "train-tae", {"device": "cpu", "epochs": 2}),
        ("label-videos --dataset prid2011", "train-arm", {"seed": 3, "epochs": 60}),
        ("extract-features --dataset ilids-vid --split 1 --workers 0", "train-amem --dataset ilids-vid --split 1",
         {"workers": 0, "epochs": 240}),
    ],
)  # fmt: skip
def test_missing_input_takes_the_common_options_along(
    typed: str, stage: str, carried: dict, where: list[str], capsys: pytest.CaptureFixture
) -> None:
    common = SMALL if typed.startswith("train") else ["--seed", "3"]
    extra = ["--people-per-batch", "2"] if typed.startswith("train") else []
    remedy = remedy_of([*typed.split(), *common, *where, *extra], capsys)
    assert remedy.startswith(f"amem {stage}")
    found = options_of(remedy, capsys)
    assert {name: found[name] for name in carried} == carried
    assert [found["workspace"], found["data_root"]] == where[1::2]


def test_missing_input_takes_the_config_file_along(where: list[str], tmp_path: Path, capsys) -> None:
    config = tmp_path / "my own.toml"
    config.write_text("seed = 5\n[train-tae]\nepochs = 4\n")
    remedy = remedy_of(
        ["train-amem", "--modules", "mem", "--people-per-batch", "2", "--config", str(config), *where], capsys
    )
    found = options_of(remedy, capsys)
    assert (found["seed"], found["epochs"]) == (5, 4)
    assert "--seed" not in remedy


def test_missing_input_beside_a_bad_table_of_the_config_file(where: list[str], tmp_path: Path, capsys) -> None:
    config = tmp_path / "my.toml"
    config.write_text("[train-tae]\nepochs = 0\n")
    typed = ["train-amem", "--modules", "mem", "--people-per-batch", "2", "--config", str(config), *where]
    assert remedy_of(typed, capsys).startswith("amem train-tae")


def test_chain_missing_stage_keeps_preset_size_and_seed(where: list[str], capsys: pytest.CaptureFixture) -> None:
    trained("train-arm", "amem-arm", Workspace(Path(where[1])).arm, TrainArmOptions, weights="")
    assert run(["status", "--json", *where]) == 0
    chain = {row["stage"]: row for row in json.loads(capsys.readouterr().out)["chain"]}
    found = options_of(chain["train-tae"]["command"], capsys)
    small = resolve(TrainTaeOptions, {"image_size": "64x32", "seed": 3}, preset="small")
    assert found | {"workspace": 0, "data_root": 0} == vars(small) | {"workspace": 0, "data_root": 0}
    found = options_of(chain["label-videos"]["command"], capsys)
    assert (found["seed"], found["workspace"]) == (3, where[1])
    assert "--preset" not in chain["label-videos"]["command"]  # it has the same values under all


def test_chain_other_splits_repeat_the_options_of_the_first(where: list[str], capsys: pytest.CaptureFixture) -> None:
    place = Workspace(Path(where[1]))
    trained("train-amem", "amem-model", place.amem("ilids-vid", 4), TrainAmemOptions, modules="baseline", epochs=5)
    place.amem("ilids-vid", 4).with_name("amem-main.safetensors").write_bytes(b"x")
    assert run(["status", "--dataset", "ilids-vid", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["split"] for row in document["chain"] if row["stage"] == "train-amem"] == list(range(10))
    found = options_of(document["next"], capsys)
    assert (found["modules"], found["epochs"], found["split"]) == ("baseline", 5, "all")
    remedy = remedy_of(["extract-features", "--dataset", "ilids-vid", "--split", "1", *where], capsys)
    found = options_of(remedy, capsys)
    assert (found["modules"], found["split"], found["seed"]) == ("baseline", "1", 3)


def test_chain_unfinished_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    place = Workspace(tmp_path)
    options = resolve(TrainAmemOptions, {"split": "1", "modules": "baseline"}, preset="small").fingerprint()
    folder = place.amem("prid2011", 1).parent
    for step in (98, 107):
        position = {"step": step, "total": 140}
        state = folder / f"state-{step:08d}.safetensors"
        checkpoint.save(state, "amem-state", TENSORS, Provenance("train-amem", options), position=position)
    where = ["--dataset", "prid2011", "--workspace", str(tmp_path), "--json"]
    assert run(["status", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {(row["stage"], row["split"]): row for row in document["chain"]}
    row = rows["train-amem", 1]
    assert (row["state"], row["why"]) == ("unfinished", "107 of 140 steps")
    assert "--split 1" in row["command"]
    assert "--force" not in row["command"]
    assert options_of(row["command"], capsys)["modules"] == "baseline"
    assert rows["label-videos", None]["state"] == "unused"  # a baseline needs no labels


def test_chain_unfinished_features(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    parts = place.features("mars", None).parent / ".mars.h5.parts" / "0123-1"
    for number in range(2):
        provenance = Provenance("extract-features", {"flip": True})
        checkpoint.save(parts / f"{number}.safetensors", "amem-shard", TENSORS, provenance)
    found = Chain(load_manifest("mars"), tmp_path).states()[4]
    assert (found.state, found.why) == ("unfinished", "2 parts finished")
    assert "--flip" in found.command


def test_status_colours_on_a_terminal_only(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    assert run(["status", "--workspace", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    trained("train-arm", "amem-arm", Workspace(tmp_path).arm, TrainArmOptions)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert run(["status", "--workspace", str(tmp_path)]) == 0
    assert "\x1b[32mready" in capsys.readouterr().out


@pytest.mark.parametrize("number", [None, 1])
def test_status_verify_images_replaced_in_place(number: int | None, tmp_path: Path, walkers: Path, capsys) -> None:
    name = "mars" if number is None else "prid2011"
    data, workspace = tmp_path / "data", Workspace(tmp_path / "w")
    shutil.copytree(walkers / name, data / name)
    split = read_videos(load_manifest(name), data).splits[number or 0]
    options = {"modules": "baseline", "split": number, "dataset": name}
    for path, kind in ((workspace.amem(name, number), "amem-model"), (workspace.amem_main(name, number), "amem-main")):
        checkpoint.save(path, kind, TENSORS, Provenance("train-amem", options, {}, tracklets_digest(split.train)))
    typed = ["status", "--dataset", name, "--json", "--workspace", str(workspace.root), "--data-root", str(data)]
    typed += [] if number is None else ["--split", str(number)]

    def model(*flags: str) -> dict:
        run([*typed, *flags])
        return next(row for row in json.loads(capsys.readouterr().out)["chain"] if row["stage"] == "train-amem")

    assert model("--verify")["state"] == "ready"
    image = split.train[0].frames[0]
    os.utime(image, (workspace.amem(name, number).stat().st_mtime + 1,) * 2)
    assert "is older than 1 of its images" in model("--verify")["why"]
    assert model("--verify")["state"] == "ready"
    image.write_bytes(image.read_bytes() + b"more")
    assert model()["state"] == "ready"  # images are compared with --verify only
    row = model("--verify")
    assert (row["state"], row["why"]) == ("stale", "made from other images than those now there")
    assert options_of(row["command"], capsys)["force"] is True
    shutil.rmtree(data)
    assert model("--verify")["state"] == "ready"  # nothing to compare with


@pytest.mark.parametrize("stage", ["train-arm", "train-tae", "label-videos"])
def test_status_verify_other_stages(stage: str, tmp_path: Path, walkers: Path, capsys) -> None:
    data, workspace = tmp_path / "data", Workspace(tmp_path / "w")
    name = {"train-arm": "peta", "train-tae": "market1501", "label-videos": "mars"}[stage]
    shutil.copytree(walkers / name, data / name)
    shutil.copytree(walkers / "mars", data / "mars", dirs_exist_ok=True)
    found, options = read_dataset(load_manifest(name), data), {"dataset": name}
    if stage == "label-videos":
        images, digest = found.splits[0].test[0].frames, tracklets_digest(found.splits[0].test)
        made = Provenance(stage, options | {"subset": "test"}, {}, digest)
        pseudo_labels.write(workspace.labels(name), some_labels(), made)
    elif stage == "train-arm":
        images, digest = found.paths, attributes_digest(found, range(len(found.paths)))
        checkpoint.save(workspace.arm, "amem-arm", TENSORS, Provenance(stage, options, {}, digest))
    else:
        images, digest = found.paths, images_digest(found.paths)
        checkpoint.save(workspace.tae, "amem-tae", TENSORS, Provenance(stage, options, {}, digest))

    def row() -> tuple[str, str]:
        run(["status", "--json", "--verify", "--workspace", str(workspace.root), "--data-root", str(data)])
        return next((one["state"], one["why"]) for one in json.loads(capsys.readouterr().out)["chain"]
                    if one["stage"] == stage)  # fmt: skip

    assert row() == ("ready", "")
    os.utime(images[0], (2**32, 2**32))
    assert "is older than 1 of its images" in row()[1]
    images[0].write_bytes(images[0].read_bytes() + b"more")
    assert row() == ("stale", "made from other images than those now there")


@pytest.mark.slow
def test_unreadable_images_are_listed_by_the_check(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The remedy names the data set and where it is."""
    root = tmp_path / "my own"
    (root / "0001/1").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        (root / "0001/1" / name).write_bytes(b"\xff\xd8\xff torn")
    (tmp_path / "it.toml").write_text(f'name = "it"\nlayout = "images"\nroot = "{root}"\n')
    typed = ["train-tae", "--preset", "small", "--dataset", str(tmp_path / "it.toml"), "--data-root", str(root)]
    assert (
        run([*typed, "--workspace", str(tmp_path / "w"), "--batch-size", "2", "--epochs", "1", "--workers", "0"]) == 65
    )
    line = capsys.readouterr().err.strip().splitlines()[-1]
    command = line.partition("skip; ")[2].removesuffix(" lists all such files.")
    assert shlex.split(command) == ["amem", "data", "check", str(tmp_path / "it.toml"), "--deep", *typed[-2:]]
    assert run(shlex.split(command)[1:]) == 65
    assert "1.jpg" in capsys.readouterr().out


def test_unreadable_frames_of_a_picture(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The remedy names the data set and folder of the command, and no option that it lacks."""
    why, check = "no", "amem data check NAME --deep lists all such files"

    def draw(*_: object) -> None:
        raise BadData("image", "1.jpg", why=why, remedy=f"Replace it, or use --on-bad-image skip; {check}")

    monkeypatch.setattr("amem_cli.tools.show.show", draw)
    assert run(["show", "frames", "--dataset", "ilids-vid", "--data-root", "my data"]) == 65
    command = "amem data check ilids-vid --deep --data-root 'my data'"
    assert capsys.readouterr().err.endswith(f"no. Replace it; {command} lists all such files.\n")
    assert for_command(f"Replace it; {check}", {}) == "Replace it"  # images of no data set


@pytest.mark.parametrize("option", ["--arm", "--labels", "--tae", "--model"])
def test_file_that_was_given_is_to_be_checked(option: str, where: list[str], capsys: pytest.CaptureFixture) -> None:
    """No stage would write the file of a mistyped flag."""
    command = {
        "--arm": "label-videos", "--labels": "train-amem --modules aem --people-per-batch 2",
        "--tae": "train-amem --modules mem --people-per-batch 2", "--model": "extract-features",
    }[option]  # fmt: skip
    assert run([*command.split(), option, "none.safetensors", *where]) == 66
    assert capsys.readouterr().err.endswith(f"not found. Check {option}.\n")


def test_evaluate_foreign_features(tmp_path: Path, where: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run(["evaluate", "--protocol", "mars", "--dataset", "mars", *where]) == 66  # it has no --data-root
    assert "Run: amem extract-features --dataset mars" in capsys.readouterr().err
    assert run(["evaluate", "--features", str(tmp_path / "none.npz"), *where]) == 66
    assert "extract-features" not in capsys.readouterr().err
    np.savez(tmp_path / "f.npz", feats=np.eye(2), pids=[1, 1], camids=[1, 2])
    assert run(["evaluate", "--features", str(tmp_path / "f.npz"), *where]) == 2
    assert capsys.readouterr().err.endswith(
        "OUT.h5 --queries N (the first N), or with --queries NAMES.txt or --gallery FILE.\n"
    )
    table = some_features(person_id=np.array([1, 1]), camera_id=np.array([1, 2]))
    features.write(tmp_path / "f.h5", table, Provenance("other", {}))
    assert run(["evaluate", "--features", str(tmp_path / "f.h5"), "--flip", *where]) == 66
    assert "Run: " not in capsys.readouterr().err


def test_damaged_artifact_is_replaced_with_force() -> None:
    remedy = "Run: amem label-videos --dataset mars"
    assert BadData("labels", why="no", remedy=remedy).remedy == f"{remedy} --force"
    assert BadData("labels", why="no", remedy="Give --labels, or run: amem label-videos").remedy.endswith(" --force")
    assert BadData("labels", why="no", remedy=f"{remedy} --force").remedy == f"{remedy} --force"
    assert BadData("amem-model checkpoint", why="no", remedy="Run: amem train-amem").remedy.endswith("--force")
    # without it, an amem-main is written again from the amem-model next to it: no training
    remedy = "Run: amem train-amem"
    assert BadData("amem-main checkpoint", why="no", remedy=remedy).remedy == remedy


def test_damaged_tae(where: list[str], capsys: pytest.CaptureFixture) -> None:
    tae = Workspace(Path(where[1])).tae
    trained("train-tae", "amem-tae", tae, TrainTaeOptions, epochs=2)
    flip_bit(tae)
    typed = ["train-amem", "--modules", "mem", "--people-per-batch", "2", *SMALL, *where]
    remedy = remedy_of(typed, capsys)
    assert options_of(remedy, capsys)["force"] is True


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
@pytest.mark.parametrize("typed", [["doctor"], ["demo", "my demo", "--seed", "2"], ["train-arm", "--epochs", "3"]])
def test_interrupted_names_the_command_and_what_is_kept(
    typed: list[str], error: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stop(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("amem_cli.cli.app._execute", stop)
    assert run(typed) in (130, 143)
    kept = "nothing is kept" if typed == ["doctor"] else "only saved work is kept"
    assert capsys.readouterr().err == f"error: interrupted: {kept}. Run: {shlex.join(['amem', *typed])}.\n"


def test_interrupted_training_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from amem_cli.options import TrainArmOptions
    from amem_cli.runtime.distributed import Processes
    from amem_cli.runtime.stop import StopRequest

    def demo(*arguments: object) -> None:
        raise StopRequest(TrainArmOptions(), Processes(0, 1, torch.device("cpu"))).interrupted(7)

    monkeypatch.setattr("amem_cli.tools.demo.demo", demo)
    assert run(["demo", "a b"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("after step 7; the state is saved. Run: amem demo 'a b'.\n")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert run(["demo"]) == 128 + signal.SIGTERM
    assert "Run: torchrun --nproc-per-node 2 -m amem_cli demo.\n" in capsys.readouterr().err


def test_full_disk_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(*arguments: object) -> None:
        raise atomic.disk_error(Path("x"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr("amem_cli.tools.demo.demo", fail)
    assert run(["demo", "a b"]) == 74
    assert capsys.readouterr().err.endswith("Free some space. Run: amem demo 'a b'.\n")


def test_continuing_commands_exist() -> None:
    assert set(CONTINUING) <= set(typer.main.get_command(app).commands)


SAME = "Use another --workspace, the same options, or --force to overwrite it"
PLACE = "Check the folder's permissions or choose another place (--workspace, --out)"


@pytest.mark.parametrize(
    ("remedy", "places", "force", "said"),
    [
        (SAME, ["FOLDER"], False, "Use another FOLDER, the same options, or delete it"),
        (SAME, ["--out", "--workspace"], True, "Use another --out, the same options, or --force to overwrite it"),
        (SAME, ["--workspace"], True, SAME),
        (PLACE, ["OUT"], False, "Check the folder's permissions or choose another place (OUT)"),
        ("Free some space or choose another --workspace", [], False, "Free some space or choose another folder"),
        ("Use --force to make it again", ["FOLDER"], False, "Delete it"),
    ],
)
def test_for_command(remedy: str, places: list[str], force: bool, said: str) -> None:
    parameters = ({"out": places[0]} if places else {}) | ({"force": "--force"} if force else {})
    assert for_command(remedy, parameters) == said


@pytest.mark.parametrize(
    ("typed", "function", "place"),
    [
        ("demo", "amem_cli.tools.demo.demo", "FOLDER"),
        ("report", "amem_cli.tools.report.report", "--out"),
        ("doctor", "amem_cli.tools.doctor.examine", "--workspace"),
        ("data walkers w", "amem_cli.walkers.layouts.write_walkers", "OUT"),
        ("link a.h5 --out x --threshold 1", "amem_cli.video.link.link", "--out"),
    ],
)
def test_remedy_names_no_flag_that_the_command_lacks(
    typed: str, function: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OutputExists("file", "x", why="no", remedy=SAME)

    monkeypatch.setattr(function, fail)
    assert run(typed.split()) == 73
    flags = set(re.findall(r"--[\w-]+", line := capsys.readouterr().err))
    assert f"Use another {place}, " in line
    command = typer.main.get_command(app)
    for word in typed.split()[: 2 if typed.startswith("data") else 1]:
        command = command.commands[word]
    assert flags <= {flag for parameter in command.params for flag in parameter.opts}
