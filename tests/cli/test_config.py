"""`amem config show` prints a file that `--config` reads back."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amem_cli.cli.app import run
from amem_cli.cli.flags import config_text
from amem_cli.cli.remedies import for_stage
from amem_cli.options import COMMANDS, PRESETS, TrainAmemOptions
from amem_cli.resolve import resolve
from amem_cli.text import toml_value


@pytest.mark.parametrize("preset", PRESETS)
def test_config_text_reads_back_as_the_preset(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMEM_DATA", "elsewhere")  # the file has no folders, so the variable applies
    file = tmp_path / "amem.toml"
    file.write_text(config_text(list(COMMANDS), preset), "utf-8")
    assert list(tomllib.loads(file.read_text("utf-8"))) == ["preset", *COMMANDS]
    for cls in COMMANDS.values():
        wanted = resolve(cls, {}, preset=preset)
        assert all(resolve(cls, {}, preset=other, config=file) == wanted for other in PRESETS)
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("epochs")]
    file.write_text("\n".join(lines), "utf-8")  # a line left out keeps the preset's value
    assert resolve(TrainAmemOptions, {}, config=file).epochs == resolve(TrainAmemOptions, {}, preset=preset).epochs
    assert resolve(TrainAmemOptions, {}, preset="paper", config=file).epochs == 240  # the flag wins


@pytest.mark.parametrize(
    ("typed", "adapts"),
    [([], False), (["--adapt-cameras"], True), (["--preset", "small"], True),
     (["--preset", "small", "--no-adapt-cameras"], False)],
)  # fmt: skip
def test_a_preset_turns_a_flag_on(typed: list[str], adapts: bool, capsys: pytest.CaptureFixture) -> None:
    assert run(["extract-features", "--dry-run", "--json", *typed]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["adapt_cameras"] == adapts


def test_a_flag_turns_off_what_a_file_turns_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "options.toml"
    file.write_text("force = true\n[evaluate]\nrerank = true\n")
    for typed, expected in (([], (True, True)), (["--no-rerank", "--no-force"], (False, False))):
        assert run(["evaluate", "--config", str(file), "--dry-run", "--json", *typed]) == 0
        found = json.loads(capsys.readouterr().out)["options"]
        assert (found["rerank"], found["force"]) == expected


def test_a_number_in_a_file_is_a_split(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text("split = 3\n")
    assert resolve(TrainAmemOptions, {"dataset": "prid2011"}, config=file).split == "3"


@pytest.mark.parametrize(
    ("preset", "command", "kept"),
    [("small", "extract-features", True), ("paper", "extract-features", False), ("small", "label-videos", True)],
)
def test_remedy_keeps_the_preset(preset: str, command: str, kept: bool) -> None:
    """Also for a stage without values of its own: the command that it may name has some."""
    remedy = for_stage(f"Run: amem {command}", resolve(TrainAmemOptions, {}, preset=preset), preset, None)
    assert (f"--preset {preset}" in remedy) == kept


def test_remedy_keeps_a_preset_that_differs_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text('preset = "small"\n')
    options = resolve(TrainAmemOptions, {}, preset="paper", config=file)
    for typed, words in (("paper", f" --preset paper --config {file}"), ("", f" --config {file}")):
        assert for_stage("Run: amem train-tae", options, typed, file).startswith(f"Run: amem train-tae{words}")


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "latin-1"])
def test_config_of_windows(coding: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """PowerShell writes `amem config show > amem.toml` in UTF-16."""
    (tmp_path / "amem.toml").write_bytes("seed = 3  # é\r\n".encode(coding))
    code = run(["evaluate", "--config", str(tmp_path / "amem.toml"), "--dry-run"])
    said = capsys.readouterr()
    assert "Save it in UTF-8" in said.err if coding == "latin-1" else "seed = 3" in said.out
    assert code == 2 * (coding == "latin-1")


def test_config_show_prints_one_table_with_help(capsys: pytest.CaptureFixture) -> None:
    assert run(["config", "show", "train-amem", "--preset", "small"]) == 0
    text = capsys.readouterr().out
    assert list(tomllib.loads(text)) == ["preset", "train-amem"]
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.replace("\n# ", " ").split())
    for field in dataclasses.fields(COMMANDS["train-amem"]):
        assert field.metadata["help"] in words.partition(f" {field.name.replace('_', '-')} = ")[0]
    assert "\n# workspace = " in text
    assert "\nepochs = 30\n" in text


def test_preset_beside_a_file_that_sets_its_values(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "small.toml"
    file.write_text(config_text(["train-arm"], "small"), "utf-8")
    typed = ["train-arm", "--dry-run", "--config", str(file)]
    assert run(typed) == 0
    assert "warning" not in capsys.readouterr().err
    assert run([*typed, "--preset", "small"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert run([*typed, "--preset", "paper", "--epochs", "60"]) == 0
    line = capsys.readouterr().err
    assert line.startswith(f"warning: --preset paper has no effect on what {file} sets: ")
    assert "learning-rate" in line
    assert "epochs" not in line.replace("validate-epochs", "")  # a flag wins
    file.write_text("seed = 3\n")
    assert run([*typed, "--preset", "paper"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_environment_beside_a_file_that_sets_its_values(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("AMEM_WORKSPACE", "mine")
    monkeypatch.setenv("AMEM_DATA", "images")
    file = tmp_path / "own.toml"
    typed = ["train-arm", "--dry-run", "--config", str(file)]
    file.write_text('workspace = "theirs"\ndata-root = "images"\n')
    assert run(typed) == 0
    assert capsys.readouterr().err == f"warning: AMEM_WORKSPACE=mine has no effect: {file} sets workspace\n"
    assert run([*typed, "--workspace", "third"]) == 0
    file.write_text("seed = 3\n")
    assert run(typed) == 0
    assert capsys.readouterr().err == ""


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    )
)
def test_toml_round_trip(value: object) -> None:
    found = tomllib.loads(f"value = {toml_value(value)}\n")["value"]
    assert found == value
    assert type(found) is type(value)
