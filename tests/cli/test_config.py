"""`amem config show`: a file that `--config` takes back, exactly."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amem_cli.cli.app import run
from amem_cli.cli.config_file import _toml, config_text
from amem_cli.errors import UsageError
from amem_cli.options import COMMANDS, PRESETS, resolve


def shown(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert run(["config", "show", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_gives_the_preset_back_without_naming_it(
    command: str, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "amem.toml"
    file.write_text(shown(capsys, command, "--preset", preset), "utf-8")
    for other in PRESETS:  # the file holds every option, so that it does not matter what it stands on
        assert resolve(COMMANDS[command], {}, preset=other, config=file) == resolve(
            COMMANDS[command], {}, preset=preset
        )
    assert list(tomllib.loads(file.read_text())) == [command]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_whole_file_serves_every_command(preset: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "amem.toml"
    file.write_text(shown(capsys, "--preset", preset), "utf-8")
    assert list(tomllib.loads(file.read_text())) == list(COMMANDS)
    for cls in COMMANDS.values():
        assert resolve(cls, {}, config=file) == resolve(cls, {}, preset=preset)


def test_environment_variables_are_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = 'C:\\data "of ours"\\\u00e9\U0001f600\x7f\t'
    monkeypatch.setenv("AMEM_DATA", odd)
    (tmp_path / "amem.toml").write_text(shown(capsys), "utf-8")
    monkeypatch.delenv("AMEM_DATA")
    found = resolve(COMMANDS["train-tae"], {}, config=tmp_path / "amem.toml")
    assert found.data_root == Path(odd)


def test_every_option_has_its_help_above_it(capsys: pytest.CaptureFixture) -> None:
    import dataclasses

    text = shown(capsys, "train-amem", "--preset", "small")
    blocks = text.split("\n")
    for field in dataclasses.fields(COMMANDS["train-amem"]):
        at = next(n for n, line in enumerate(blocks) if line.startswith(f"{field.name.replace('_', '-')} = "))
        above = []
        while blocks[at - 1].startswith("# "):
            at -= 1
            above.insert(0, blocks[at].removeprefix("# "))
        assert field.metadata["help"] in " ".join(above)
    assert "(P)" in text
    assert "(D)" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_path_that_is_no_unicode_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMEM_WORKSPACE", "broken\udcff")
    with pytest.raises(UsageError, match="--workspace"):
        config_text(["evaluate"], "paper")


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
    )
)
def test_values_read_back_as_they_were(value: object) -> None:
    found = tomllib.loads(f"value = {_toml(value)}\n")["value"]
    assert (tuple(found) if isinstance(found, list) else found) == value
    assert type(found) is type(value) or isinstance(value, tuple)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "amem_cli"]
    file = tmp_path / "amem.toml"
    done = subprocess.run([*command, "config", "show", "train-amem"], capture_output=True, check=True)
    file.write_bytes(done.stdout)
    flags = ["train-amem", "--config", str(file), "--epochs", "7", "--dry-run"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    assert "  epochs = 7\n" in done.stdout
    assert "  learning-rate = 0.001\n" in done.stdout
