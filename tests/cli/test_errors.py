"""Usage errors are one line with exit code 2, and suggest the nearest name."""

import errno
import io
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from amem_cli.cli.app import run, usage_error
from amem_cli.cli.console import print_table, print_wrapped
from amem_cli.errors import BadData
from amem_cli.runtime.progress import Progress


def usage_line(typed: list[str], capsys: pytest.CaptureFixture) -> str:
    assert run(typed) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err.strip()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("evalute", "'evaluate'"),
        ("config show train-ame", "train-amem"),
        ("config show --preset papr", "paper"),
        ("--verison", "--version"),
        ("train-amem --modulse mem", "--modules"),
        ("train-amem --lr 1", "--learning-rate"),
        ("train-amem --learn 1", "--learning-rate"),
        ("train-amem --batch-size 4", "--people-per-batch"),
        ("train-amem --amp", "--precision"),
        ("train-amem --output x", "--workspace"),
        ("report --output x", "--out"),
        ("train-arm --bs 4", "--batch-size"),
        ("train-amem --bs 4", "--people-per-batch"),
        ("train-amem --num-workers 4", "--workers"),
        ("check mars", "'amem data check'"),
        ("test", "'amem evaluate'"),
        ("train-amem --modules ame", "amem"),
        ("train-arm --partition randm-2", "random-2"),
        ("train-amem --dataset marss --dry-run", "mars"),
        ("show rankin", "ranking"),
        ("reproduce tabel3", "table3"),
        ("evaluate --protocol ilids-split --dry-run", "ilids-10split"),
        ("evaluate --protocol prid2011 --dry-run", "prid-10split"),
        ("evaluate --ckpt x", "--features"),
        ("evaluate --model x", "--features"),
        ("extract-features --ckpt x", "--model"),
        ("train-amem --ckpt x", "--weights"),
        ("train-amem --model_path x", "--weights"),
        ("train-amem --LR 1", "--learning-rate"),
        ("train-amem --batchSize 4", "--people-per-batch"),
        ("train-amem --gpu-ids 0", "--device"),
        ("train-amem --height 256", "--image-size"),
        ("train-amem --source mars", "--dataset"),
        ("train-amem --max-epoch 4", "--epochs"),
        ("train-amem --tracker wandb", "--log-to"),
        ("train-amem --epochs=3 --sead 4", "--seed"),
        ("extract-features --no-adapt-camera", "--no-adapt-cameras"),
        ("train-amem mars", "--dataset mars"),
        ("train-amem epochs=3", "--epochs=3"),
        ("find a.mp4 -o x", "--out"),
        ("version", "'amem --version'"),
        ("finetune", "'amem train-amem'"),
        ("plot", "'amem show'"),
    ],
)
def test_mistyped_name_is_suggested(
    typed: str, meant: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"Did you mean {meant}?" in usage_line(typed.split(), capsys)


def test_train_suggests_all_three_trainings(capsys: pytest.CaptureFixture) -> None:
    line = usage_line(["train"], capsys)
    for name in ("train-arm", "train-tae", "train-amem"):
        assert f"'{name}'" in line.partition("Did you mean")[2]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("xyzzy", "No such command 'xyzzy'. See amem --help."),
        ("train-amem --xyzzy", "No such option: --xyzzy. See amem train-amem --help."),
        ("train-amem --name x", "No such option: --name. See amem train-amem --help."),
        ("demo --out x", "No such option: --out. See amem demo --help."),
        ("demo --folder x", "No such option: --folder. See amem demo --help."),
        ("demo a folder=b", "Got unexpected extra argument(s) (folder=b). See amem demo --help."),
        ("status ''", "Got unexpected extra argument(s) (). See amem status --help."),
        ("demo a b", "Got unexpected extra argument(s) (b). See amem demo --help."),
        (
            "train-amem \u2013-epochs 3",
            "Got unexpected extra argument(s) (\u2013-epochs 3). '\u2013' is not the character '-'.",
        ),
        ("--quiet train-arm", "No such option: --quiet. Options come after the command: amem train-arm --quiet. See"),
        ("train-amem --verbose", "No such option: --verbose. See amem train-amem --help."),
        ("train-amem --dropout 1", "No such option: --dropout. See amem train-amem --help."),
        ("evaluate --metric x", "No such option: --metric. See amem evaluate --help."),
        ("train-amem -z 1", "No such option: -z. See amem train-amem --help."),
        ("train-amem --device mps", "--device mps: GPUs of Apple are not supported. Use auto, cpu, cuda or cuda:N."),
        ("train-amem --predict-frames 7", "--predict-frames 7: "),
        ("train-arm --epochs 0", "--epochs 0: "),
        ("train-arm --epochs x", "Invalid value for '--epochs': valid integer is needed, not 'x'. See amem "),
        ("train-arm --hold-out=y", "Invalid value for '--hold-out': valid number is needed, not 'y'. See amem "),
        ("train-arm --epochs", "Option '--epochs' requires an argument. See amem "),
    ],
)
def test_other_usage_errors(typed: str, line: str, capsys: pytest.CaptureFixture) -> None:
    assert usage_line(shlex.split(typed), capsys).startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning-rat", "learning-rate"), ("lr", "learning-rate"), ("batch_size", "people-per-batch"),
        ("epoch", "epochs"), ("num-workers", "workers"), ("gamma", "lr-factor"),
    ],
)  # fmt: skip
def test_mistyped_name_in_a_file(name: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "my.toml").write_text(f"[train-amem]\n{name} = 1.0\n")
    line = usage_line(["train-amem", "--dry-run", "--config", str(tmp_path / "my.toml")], capsys)
    assert f"Did you mean {meant}?" in line


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "status --workspace .",
            "Invalid value for '--workspace' (env var: 'AMEM_WORKSPACE'): path '.' is not readable.",
        ),
        ("data check {}/own.toml", "folder {}/own: permission denied."),
        ("train-arm --config {}/own.toml", "Invalid value for '--config': path '{}/own.toml' is not readable."),
    ],
)
def test_without_permission(typed: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own.toml").write_text('name = "own"\nlayout = "folder"\nroot = "own"\n')
    scandir = os.scandir

    def refuse(path: str | Path) -> Any:
        if str(path) == str(tmp_path / "own"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    if "folder" not in line:
        monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert run([word.format(tmp_path) for word in typed.split()]) == 74
    assert capsys.readouterr().err == f"error: {line.format(tmp_path)} Check its permissions.\n"


def test_mistyped_names_in_a_file_come_at_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "my.toml").write_text("lr = 1.0\nwd = 1\nfoo = 2\n")
    line = usage_line(["train-amem", "--dry-run", "--config", str(tmp_path / "my.toml")], capsys)
    assert "unknown options 'lr', 'wd', 'foo'. Did you mean learning-rate? Did you mean weight-decay? See:" in line


def test_usage_error_without_context() -> None:
    class Error(Exception):
        ctx = None

        def format_message(self) -> str:
            return "Two\nlines"

    assert usage_error(Error()) == "Two lines. See amem --help."


@pytest.mark.parametrize("text", ["a\nerror: fake", "\x1b[2Jx", "5\udce9.jpg"])
def test_errors_and_warnings_escape_control_characters(text: str, capsys: pytest.CaptureFixture) -> None:
    assert str(BadData("image", text, why=f"is {text}")).isprintable()
    Progress(quiet=True).warn(text)
    assert capsys.readouterr().err.removesuffix("\n").isprintable()
    Progress().log(text)
    assert capsys.readouterr().err.removesuffix("\n").isprintable()
    print_table(["names"], [[text]])
    assert text not in (printed := capsys.readouterr().out)
    assert all(line.isprintable() for line in printed.split("\n"))
    print_table(["names"], [["path\nwhy"]])  # as `amem status` gives them
    assert [line.strip() for line in capsys.readouterr().out.split("\n")][-4:-2] == ["path", "why"]
    print_wrapped(text)
    assert capsys.readouterr().out.removesuffix("\n").isprintable()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nC++ frames"), 2),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), 2),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 2),
        (RuntimeError("another"), 70),
    ],
)
def test_run_out_of_memory(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("amem_cli.tools.doctor.examine", fail)
    assert run(["doctor"]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: memory: not enough (") is (code == 2)
    assert (err.count("\n") == 1) is (code == 2)


def test_run_end_of_a_process_is_no_interrupt(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Typer takes an `EOFError` for the end of a prompt."""

    def fail(*arguments: object) -> None:
        raise EOFError("the other process has ended")

    monkeypatch.setattr("amem_cli.tools.doctor.examine", fail)
    assert run(["doctor"]) == 70
    assert "the other process has ended" in capsys.readouterr().err


def test_run_keeps_the_exit_code_if_standard_error_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    assert run(["config", "show", "nothing"]) == 2


def test_load_manifest_named_as_a_folder(capsys: pytest.CaptureFixture) -> None:
    assert run(["train-amem", "--dataset", "mars/", "--dry-run", "--json"]) == 0
