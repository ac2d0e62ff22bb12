"""The command line as scripts see it: exit codes, one-line errors, standard output against standard error."""

import dataclasses
import json
import subprocess
import sys

import pytest

from amem_cli.cli.app import run
from amem_cli.options import COMMANDS


def amem(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    command = [sys.executable, "-m", "amem_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def failing(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return code, lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_stage_is_a_flag_with_the_default_of_its_dataclass(command, capsys):
    code = run([command, "--dry-run", "--json"])
    captured = capsys.readouterr()
    assert code == 0
    told = json.loads(captured.out)["options"]
    for field in dataclasses.fields(COMMANDS[command]):
        expected = list(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        if field.name not in ("workspace", "data_root"):
            assert told[field.name] == expected, field.name
        flag = f"--{field.name.replace('_', '-')}"
        assert run([command, flag] + (["--dry-run"] if field.type == "bool" else [])) in (0, 2, 65, 66)
        capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["train-amem", "--modules", "nothing"], 2, "--modules"),
        (["train-amem", "--predict-frames", "7"], 2, "--predict-frames"),
        (["train-amem", "--image-size", "100x50"], 2, "--image-size"),
        (["train-amem", "--dataset", "mras"], 2, "mars"),
        (["train-amem", "--device", "gpu"], 2, "--device"),
        (["train-arm", "--epochs", "0"], 2, "--epochs"),
        (["evaluate", "--protocol", "ilids"], 2, "ilids-10split"),
        (["nothing"], 2, "nothing"),
        (["train-amem", "--no-such-option"], 2, "--no-such-option"),
    ],
)
def test_usage_errors_exit_2_and_name_the_option(arguments, code, told, capsys):
    found, line = failing(capsys, *arguments)
    assert found == code
    assert told in line


@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (["label-videos"], "amem train-arm"),
        (["extract-features"], "amem train-amem"),
        (["evaluate", "--protocol", "mars"], "amem extract-features --dataset mars"),
        (["train-amem"], "amem label-videos"),
        (["train-amem", "--modules", "mem"], "amem train-tae"),
    ],
)
def test_a_missing_input_exits_66_with_the_command_that_makes_it(command, remedy, tmp_path, walkers, capsys):
    places = ["--workspace", str(tmp_path / "workspace")]
    places += [] if command[0] == "evaluate" else ["--data-root", str(walkers)]
    code = run([*command, *places])
    error = capsys.readouterr().err
    assert code == 66
    assert remedy in error


def test_a_missing_data_set_exits_66_and_offers_walkers(tmp_path, capsys):
    code, line = failing(capsys, "train-arm", "--data-root", str(tmp_path))
    assert code == 66
    assert "amem data walkers" in line


def test_an_empty_data_set_exits_65(tmp_path, capsys):
    (tmp_path / "mars").mkdir()
    assert failing(capsys, "train-amem", "--data-root", str(tmp_path))[0] == 65


def test_all_ten_missing_splits_are_named(tmp_path, capsys):
    code, line = failing(capsys, "evaluate", "--protocol", "ilids-10split", "--workspace", str(tmp_path))
    assert code == 66
    for number in range(10):
        assert f"amem extract-features --dataset ilids-vid --split {number}" in line


def test_a_stage_in_a_pipe_prints_only_json_on_standard_output(tmp_path, walkers):
    places = ("--data-root", str(walkers), "--workspace", str(tmp_path))
    size = ("--preset", "small", "--image-size", "32x32", "--epochs", "1", "--batch-size", "16")
    first = amem("train-arm", *places, *size, "--json")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["stage"] == "train-arm"
    assert not document["reused"]
    assert "train-arm" in first.stderr
    again = amem("train-arm", *places, *size, "--json")
    assert json.loads(again.stdout)["reused"]
    assert json.loads(again.stdout)["sha256"] == document["sha256"]
    other = amem("train-arm", *places, *size, "--seed", "1")
    assert other.returncode == 73
    assert "seed: 0 there, 1 now" in other.stderr


def test_help_and_status_do_not_import_torch():
    code = "import sys; from amem_cli.cli.app import run; run(['{}']); print('torch' in sys.modules, file=sys.stderr)"
    for command in ("--help", "status"):
        done = subprocess.run([sys.executable, "-c", code.format(command)], capture_output=True, text=True, check=True)
        assert done.stderr.endswith("False\n"), command
