"""Help is readable in a pipe and at 80 columns, its examples can be pasted, and it appears quickly."""

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import typer.rich_utils

from amem_cli.cli.app import app, run
from amem_cli.options import COMMANDS


def commands_below(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands_below((*path, name), below)


EVERY = dict(commands_below((), typer.main.get_command(app)))  # ("data", "check") -> the command; groups too


def help_of(path: tuple[str, ...], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(typer.rich_utils, "FORCE_TERMINAL", None)  # set on some build servers
    assert run([*path, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_at_80_columns(
    path: tuple[str, ...], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = help_of(path, capsys, monkeypatch)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "…" not in text
    examples = [line.strip() for line in text.partition("Examples:")[2].splitlines() if " amem " in line]
    assert examples
    for example in examples:
        program, *arguments = shlex.split(example.partition(" > ")[0])
        assert program == "amem"
        named: tuple[str, ...] = ()
        while arguments and (*named, arguments[0]) in EVERY:
            named = (*named, arguments.pop(0))
        assert named[: len(path)] == path  # an example of this command
        EVERY[named].make_context("amem", arguments)  # raises if the parser refuses it; runs nothing


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_stage_has_every_option(
    command: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(help_of((command,), capsys, monkeypatch).replace("│", " ").split())
    for field in dataclasses.fields(COMMANDS[command]):
        flag = field.name.replace("_", "-")
        shown = text.replace(f" --no-{flag}", "").partition(f"--{flag} <")[2]
        assert " ".join(field.metadata["help"].split()) in shown
        for preset, value in field.metadata["presets"].items():
            assert f"{preset}: {value}" in shown
    assert "(P): the paper's choice." in text


def test_group_without_command_prints_its_help(capsys: pytest.CaptureFixture) -> None:
    assert run(["data"]) == 2
    captured = capsys.readouterr()
    assert "walkers" in captured.out
    assert captured.err == ""


def test_version(capsys: pytest.CaptureFixture) -> None:
    from amem_cli import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"amem {__version__}\n"


def test_help_imports_typer_alone() -> None:
    def packages(code: str) -> set[str]:
        code = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return set(done.stderr.split()) - sys.stdlib_module_names

    found = packages("from amem_cli.cli.app import run; run(['--help'])")
    assert found - packages("import typer.rich_utils") == {"amem_cli"}
