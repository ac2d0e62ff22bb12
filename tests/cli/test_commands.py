"""The documented commands and options exist; exit codes; standard output and standard error."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer

from amem_cli.artifacts.atomic import disk_error
from amem_cli.artifacts.output import StageResult
from amem_cli.artifacts.paths import Workspace
from amem_cli.cli.app import app, run
from amem_cli.cli.remedies import continuing
from amem_cli.data.chain import ArtifactState
from amem_cli.errors import (
    SAME_COMMAND,
    BadData,
    DiskError,
    InputMissing,
    Interrupted,
    Locked,
    OutputExists,
    Terminated,
    UsageError,
)
from amem_cli.options import COMMANDS, TrainAmemOptions
from amem_cli.runtime.progress import Progress

HEAVY = ("torch", "torchvision", "numpy", "scipy", "h5py", "matplotlib", "PIL", "safetensors")
EVERY_STAGE = (
    "--data-root --workspace --config --preset --device --precision --seed --workers --image-size --resume --json"
    " --quiet --dry-run"
)
CONTRACT = {
    **dict.fromkeys(COMMANDS, EVERY_STAGE),
    "train-amem": "--dataset --split --modules --predict-frames --backbone --branch --weights " + EVERY_STAGE,
    "extract-features": "--dataset --split " + EVERY_STAGE,
    "evaluate": "--protocol --features " + EVERY_STAGE,
    "demo": "--seed --json --quiet",
    "export": "model --format --out --dataset --split --data-root --frames --int8 --json --quiet --dry-run",
    "status": "--dataset --split --workspace --verify --json",
    "data check": "name --data-root --deep --json --quiet",
    "data walkers": "out --seed --people --cameras --quiet",
    "config show": "command --preset",
    "report": "--dataset --split --out --workspace --data-root --json --quiet",
    "show": "kind tracklets --out --dataset --split --predict-frames --workspace --data-root --json",
    "reproduce": "what --dataset --row --seeds --preset --weights --config --data-root --workspace --dry-run --json",
    "weights inspect": "file --json",
    "doctor": "--data-root --workspace --json",
    "bench": "--device --precision --engine --quick --json",
}


@pytest.mark.parametrize("name", CONTRACT)
def test_command_has_documented_options(name: str) -> None:
    command = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    assert set(CONTRACT[name].split()) <= {flag for parameter in command.params for flag in parameter.opts}


@pytest.mark.parametrize("command", COMMANDS)
def test_stage_defaults_are_those_of_the_dataclass(command: str, capsys: pytest.CaptureFixture) -> None:
    assert run([command, "--dry-run", "--json"]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    for field in dataclasses.fields(COMMANDS[command]):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert options[field.name] == (str(default) if isinstance(default, Path) else default)


COMMON = {
    "data_root": "d", "workspace": "w", "device": "cpu", "precision": "fp32", "seed": "3", "workers": "0",
    "image_size": "64x32", "resume": "never",
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_common_flags_are_accepted_by_every_stage(command: str, capsys: pytest.CaptureFixture) -> None:
    given = [word for name, value in COMMON.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert run([command, *given, "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    options = json.loads(captured.out)["options"]
    for name, value in COMMON.items():
        assert str(options.get(name, value)) == value
    missing = [f"--{name.replace('_', '-')}" for name in COMMON if name not in options]
    assert captured.err.count("\n") == bool(missing)
    assert set(missing) == {word for word in captured.err.split() if word.startswith("--")}


@pytest.mark.parametrize(
    ("given", "warning"),
    [
        (["--image-size", "x"], "evaluate reads features only, --image-size has no effect"),
        (
            ["--workers", "x", "--data-root", "y"],
            "evaluate reads features only, --data-root and --workers have no effect",
        ),
    ],
)
def test_flag_without_effect_is_hidden_and_warns(
    given: list[str], warning: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(["evaluate", *given, "--dry-run", "--quiet"]) == 0
    assert capsys.readouterr().err == f"warning: {warning}\n"
    assert run(["evaluate", "--help"]) == 0
    assert given[0] not in capsys.readouterr().out
    (tmp_path / "my.toml").write_text('[evaluate]\nimage-size = "64x32"\n')
    assert run(["evaluate", "--config", str(tmp_path / "my.toml"), "--dry-run"]) == 0
    assert capsys.readouterr().err == ""  # one file serves all stages


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("--seed", why="no"), 2, "--seed: no."),
        (BadData("image", "a.jpg", why="no"), 65, "image a.jpg: no."),
        (InputMissing("labels", why="no", remedy="Run: amem x"), 66, "labels: no. Run: amem x."),
        (OutputExists("labels", why="no"), 73, "labels: no."),
        (Locked("labels", why="no"), 75, "labels: no."),
        (DiskError("labels", why="no"), 74, "labels: no."),
        (Interrupted(15, why="no"), 143, "interrupted: no."),
        (OSError(errno.ENOSPC, "No space", "w/a.h5"), 74, "file w/a.h5: no space. Check the disk or the folder."),
        (KeyboardInterrupt(), 130, "interrupted: "),
        (Terminated(), 143, "interrupted: "),
        (ValueError("oops"), 70, "this is a bug in amem."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_run_exit_codes(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Command:
        def main(self, *arguments: object, **named: object) -> None:
            raise error

    monkeypatch.setattr(typer.main, "get_command", lambda app: Command())
    assert run([]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: {message}" in captured.err
    assert ("Traceback" in captured.err) == (code == 70)
    assert run(["--debug"]) == code
    captured = capsys.readouterr()
    stopped = isinstance(error, KeyboardInterrupt | Terminated)
    assert ("Traceback" in captured.err, f"error: {message}" in captured.err) == (not stopped, True)


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
@pytest.mark.parametrize("error", [BadData("image", "a.jpg", why="no"), OSError("no"), ValueError("oops")])
def test_run_stopped_while_an_error_is_printed(
    error: Exception,
    stop: type[BaseException],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def execute(arguments: list[str]) -> int:
        raise error

    def printing(message: str, exit_code: int) -> int:
        if "interrupted" not in message:
            raise stop
        return fail(message, exit_code)

    fail = run.__globals__["_fail"]
    monkeypatch.setattr("amem_cli.cli.app._execute", execute)
    monkeypatch.setattr("amem_cli.cli.app._fail", printing)
    assert run(["status"]) == code
    assert "error: interrupted: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["evaluate"], "Run: amem extract-features --dataset mars"),
        (["evaluate", "--protocol", "prid-10split"], "Run: amem extract-features --dataset prid2011 --split all"),
    ],
)
def test_missing_input_names_the_command_that_makes_it(
    arguments: list[str], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = f"{tmp_path}/my work"
    assert run([*arguments, "--workspace", folder]) == 66
    error = capsys.readouterr().err
    assert remedy in error
    assert f" --workspace '{folder}'." in error  # the remedy can be pasted
    monkeypatch.setenv("AMEM_WORKSPACE", folder)
    assert run(arguments) == 66
    assert "--workspace" not in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_stage_prints_one_json_document(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    artifact = tmp_path / "amem.safetensors"
    artifact.write_text("weights")

    def stage(options: TrainAmemOptions, progress: Progress) -> list[StageResult]:
        progress.log("a line of log")
        progress.warn("a warning")
        return [StageResult("train-amem", artifact, False, {"steps": options.epochs})] * count

    monkeypatch.setattr("amem_cli.stages.train_amem.train_amem", stage)
    assert run(["train-amem", "--epochs", "7", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["stage"], document["warnings"]) == ("train-amem", ["a warning"])
    results = document["results"] if count == 2 else [document]
    assert len(results) == count
    assert results[-1]["metrics"] == {"steps": 7}
    assert captured.err == "a line of log\nwarning: a warning\n"
    assert run(["train-amem"]) == 0
    assert capsys.readouterr().out.count(f"train-amem: {artifact} (0 s)\n") == count
    assert run(["train-amem", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def loaded_after(*commands: list[str]) -> set[str]:
    """The heavy modules in memory after these commands, in a process without pytest's imports."""
    code = (
        "import sys, json; from amem_cli.cli.app import run; [run(command) for command in json.loads(sys.argv[1])]\n"
        f"print('loaded', *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_and_mistakes_import_nothing_heavy() -> None:
    light = [["--help"], ["train-amem", "--help"], ["config", "show"], ["train-amem", "--modules", "meme"]]
    assert loaded_after(*light) == set()


def test_status_and_evaluate_do_not_import_torch(tmp_path: Path) -> None:
    import h5py
    import numpy as np

    with h5py.File(tmp_path / "mars.h5", "w") as file:
        file.attrs.update(kind="amem-features", schema=1, dataset="mars", created_by="", provenance="{}")
        file["tracklet"] = ["a", "b", "c"]
        file["person_id"], file["camera_id"] = np.array([1, 1, 2]), np.array([1, 2, 2])
        file["is_query"], file["features"] = np.array([True, False, False]), np.eye(3, dtype=np.float32)
    where = ["--workspace", str(tmp_path)]
    evaluate = ["evaluate", "--features", str(tmp_path / "mars.h5"), "--bootstrap", "10", *where]
    assert not loaded_after(evaluate, ["status", *where]) & {"torch", "torchvision", "matplotlib", "PIL"}
    assert json.loads((tmp_path / "results/mars.json").read_text())["rank"]["1"] == 1


@pytest.mark.parametrize(("last", "code"), [("missing", 0), ("damaged", 65)])
def test_status_names_the_next_command(
    last: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    chain = (("train-arm", "unused"), ("train-tae", "ready"), ("train-amem", "stale"), ("evaluate", last))
    states = [ArtifactState(stage, Path("w") / stage, state, "", f"amem {stage}") for stage, state in chain]
    monkeypatch.setattr("amem_cli.data.chain._states", lambda *_: states)
    assert run(["status", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["next"] == "amem train-amem"
    assert found["chain"][3] == {
        "stage": "evaluate",
        "split": None,
        "path": "w/evaluate",
        "state": last,
        "why": "",
        "command": "amem evaluate",
    }


def test_closed_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "amem_cli", "config", "show"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_only_the_first_process_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(["evaluate", "--features", "none.h5"]) == 0
    monkeypatch.setenv("RANK", "0")
    assert run(["evaluate", "--features", "none.h5"]) == 66


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "cmc", "--out", "a.gif"], r"--out a.gif: its suffix is none of .png, .svg, .pdf"),
        (["show", "cmc", "x"], "over all queries"),
        (["show", "attributes", "a", "b", "c"], "3 were named"),
        (["show", "frames", "--dataset", "people.toml"], "its tracks have no identities"),
        (["report", "--queries", "0"], "Invalid value for '--queries': greater than or equal to 1 is needed, not '0'."),
    ],
)
def test_show_and_report_refuse_before_imports(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.toml").write_text('name = "people"\nlayout = "tracks"\nroot = "people"\n')
    for module in ("show", "report"):
        monkeypatch.setitem(sys.modules, f"amem_cli.tools.{module}", None)  # importing it fails
    assert run(arguments) in (2, 65)
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["people.toml"]


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("train-amem --dataset ilids-vid --split 10", "ilids-vid has the splits 0 to 9"),
        ("extract-features --dataset mars --split 0", "mars has one official split"),
        ("extract-features --dataset market1501", "it has no tracklets"),
    ],
)
def test_dry_run_of_a_split_that_the_manifest_does_not_have(typed: str, why: str, capsys) -> None:
    assert run([*typed.split(), "--dry-run"]) == 2
    assert why in capsys.readouterr().err
    assert run(["train-amem", "--dataset", "ilids-vid", "--split", "9", "--dry-run"]) == 0


def test_evaluate_dry_run_names_the_files(capsys: pytest.CaptureFixture) -> None:
    assert run(["evaluate", "--dry-run", "--features", "a.h5", "b.h5"]) == 0
    assert 'features = ["a.h5", "b.h5"]' in capsys.readouterr().out


def test_evaluate_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["evaluate", str(tmp_path / "x.h5"), "--workspace", str(tmp_path)]) == 66
    assert f"features {tmp_path / 'x.h5'}: not found. Check the path." in capsys.readouterr().err


def test_interrupted_command_continues_without_resume_never(monkeypatch, tmp_path, capsys) -> None:
    """The same command would discard the state that was just saved."""
    saved = Interrupted(15, why="the state is saved", remedy=SAME_COMMAND)
    monkeypatch.setattr("amem_cli.stages.train_arm.train_arm", Mock(side_effect=saved))
    assert run(["train-arm", "--resume", "never", "--seed", "1"]) == 143
    assert capsys.readouterr().err.endswith("Run: amem train-arm --seed 1.\n")
    saved.remedy, earlier = SAME_COMMAND, tmp_path / "earlier.safetensors"
    earlier.touch()
    assert run(["train-arm", "--resume", str(earlier)]) == 143
    assert capsys.readouterr().err.endswith("Run: amem train-arm.\n")
    full = disk_error(Path("w"), OSError(errno.ENOSPC, "no space left"))
    monkeypatch.setattr("amem_cli.stages.train_arm.train_arm", Mock(side_effect=full))
    assert run(["train-arm", "--resume", "never", "--seed", "1"]) == 74
    assert capsys.readouterr().err.endswith("Free some space. Run: amem train-arm --seed 1.\n")
    monkeypatch.setattr("amem_cli.stages.label_videos.label_videos", Mock(side_effect=KeyboardInterrupt))
    assert run(["label-videos", "--subset", "all", "--resume", "never"]) == 130
    assert capsys.readouterr().err.endswith("only saved work is kept. Run: amem label-videos --subset all.\n")
    assert continuing(["train-amem", "--split", "all", "--resume=never"], saved=False) == [
        "train-amem",
        "--split",
        "all",
    ]
    for given in (["--resume=x"], ["--resume", "x"]):
        assert continuing(["train-amem", *given, "--quiet"], saved=True) == ["train-amem", "--quiet"]
        assert continuing(["train-amem", *given, "--quiet"], saved=False) == ["train-amem", *given, "--quiet"]


def test_evaluate_features_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["evaluate", "--features", str(tmp_path), "--workspace", str(tmp_path / "w")]) == 65
    assert f"features {tmp_path}: this is a folder, not a file. Give features files;" in capsys.readouterr().err
    Workspace(tmp_path).features("mars", None).mkdir(parents=True)
    assert run(["evaluate", "--workspace", str(tmp_path)]) == 65
    assert "mars.h5: this is a folder, not a file. " in capsys.readouterr().err
