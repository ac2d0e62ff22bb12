"""Completion as a shell asks for it: by environment variables, with the line so far."""

import os
import subprocess
import sys

import pytest

from amem_cli.cli.app import run
from amem_cli.data.manifest import SHIPPED


def completed(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> list[str]:
    """What bash would be offered at the end of `line`."""
    words = line.split()
    monkeypatch.setenv("_AMEM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) if line.endswith(" ") else len(words) - 1))
    assert run([]) == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("amem train-", ["train-arm", "train-tae", "train-amem"]),
        ("amem data ch", ["check"]),
        ("amem train-amem --dataset ", list(SHIPPED)),
        ("amem status --dataset i", ["ilids-vid"]),
        ("amem data check p", ["prid2011", "peta"]),
        ("amem evaluate --protocol ", ["mars", "ilids-10split", "prid-10split"]),
        ("amem evaluate --protocol p", ["prid-10split"]),
        ("amem train-amem --split ", [*"0123456789", "all"]),
        ("amem extract-features --split a", ["all"]),
        ("amem status --split ", list("0123456789")),
        ("amem train-tae --preset ", ["paper", "small"]),
        ("amem config show --preset p", ["paper"]),
        ("amem config show ev", ["evaluate"]),
        ("amem show at", ["attributes", "attention"]),
        ("amem reproduce table", ["table3", "table4", "table5"]),
        ("amem report --dataset m", ["mars", "market1501"]),
        ("amem train-amem --modules a", ["aem", "amem", "after-enhancement"]),
        ("amem train-arm --precision ", ["auto", "fp32", "bf16"]),
        ("amem train-arm --partition random-1", ["random-1"]),
        ("amem label-videos --resume ", ["auto", "never"]),
        ("amem train-amem --warm", ["--warmup-steps"]),
    ],
)
def test_bash(line: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert completed(line, monkeypatch, capsys) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell: str) -> None:
    asked = {"_AMEM_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "amem evaluate --protocol "}
    asked["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    command = [sys.executable, "-m", "amem_cli"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | asked, check=True)
    for protocol in ("mars", "ilids-10split", "prid-10split"):
        assert protocol in done.stdout


def test_completion_needs_no_torch() -> None:
    code = (
        "import sys; from amem_cli.cli import completion as c; found = [f('') for f in c.OF_OPTION.values()];"
        "assert all(found); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
