"""Shell completion, requested as by a shell: with environment variables and the incomplete line."""

import os
import subprocess
import sys

import pytest

from amem_cli.cli.app import run
from amem_cli.data.manifest import SHIPPED


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("amem train-", ["train-arm", "train-tae", "train-amem"]),
        ("amem train-amem --dataset ", list(SHIPPED)),
        ("amem evaluate --protocol ", ["mars", "ilids-10split", "prid-10split"]),
        ("amem train-amem --split ", [*"0123456789", "all"]),
        ("amem status --split ", list("0123456789")),
        ("amem config show ev", ["evaluate"]),
        ("amem show at", ["attributes", "attention"]),
        ("amem reproduce table", ["table3", "table4", "table5"]),
        ("amem train-amem --modules a", ["aem", "amem", "after-enhancement"]),
        ("amem train-amem --warm", ["--warmup-steps"]),
    ],
)
def test_bash(line: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    words = line.split()
    monkeypatch.setenv("_AMEM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) if line.endswith(" ") else len(words) - 1))
    assert run([]) == 0
    assert capsys.readouterr().out.split() == offered


def test_zsh() -> None:
    request = {"_AMEM_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "amem evaluate --protocol "}
    command = [sys.executable, "-X", "importtime", "-m", "amem_cli"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | request, check=True)
    assert "ilids-10split" in done.stdout
    assert "| torch\n" not in done.stderr
