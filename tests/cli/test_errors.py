"""A mistyped name gets one line with what was probably meant, whatever kind of name it is."""

from pathlib import Path

import pytest

from amem_cli.cli.app import run
from amem_cli.cli.help import usage_error


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian-amem", "train-amem"),
        ("evalute", "evaluate"),
        ("data chek", "check"),
        ("config shwo", "show"),
        ("config show train-ame", "train-amem"),
        ("config show --preset papr", "paper"),
        ("--verison", "--version"),
        ("train-amem --modulse mem", "--modules"),
        ("train-amem --learning_rate 1", "--learning-rate"),
        ("data check mars --dep", "--deep"),
        ("train-amem --modules ame", "amem"),
        ("train-amem --texture-loss literl", "literal"),
        ("train-amem --backbone i3", "i3d"),
        ("train-amem --preset smal", "small"),
        ("train-arm --partition randm-2", "random-2"),
        ("train-amem --dataset marss", "mars"),
        ("label-videos --dataset ilids", "ilids-vid"),
        ("status --dataset prid", "prid2011"),
        ("data check market", "market1501"),
        ("show rankin", "ranking"),
        ("report --dataset prid-2011", "prid2011"),
        ("reproduce tabel3", "table3"),
        ("evaluate --protocol ilids-split", "ilids-10split"),
    ],
)
def test_mistyped_names(
    typed: str, meant: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(typed.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert f"Did you mean {meant}?" in line


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[train-amem]\nlearning-rat = 1.0\n", "learning-rate"),
        ("[train-amem]\nlearning_rat = 1.0\n", "learning-rate"),
        ("[train-ame]\nepochs = 1\n", "train-amem"),
        ("moduls = 'mem'\n", "modules"),
        ("modules = 'aemm'\n", "aem"),
    ],
)
def test_mistyped_names_in_a_file(text: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "my.toml").write_text(text)
    assert run(["train-amem", "--dry-run", "--config", str(tmp_path / "my.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Did you mean {meant}?" in line


def test_what_resembles_nothing_gets_no_guess(capsys: pytest.CaptureFixture) -> None:
    assert run(["xyzzy"]) == 2
    assert capsys.readouterr().err == "error: No such command 'xyzzy'. See amem --help.\n"


def test_other_usage_errors_name_the_option_and_the_help(capsys: pytest.CaptureFixture) -> None:
    for typed in (["train-amem", "--epochs", "x"], ["train-amem", "--epochs"], ["data", "check"]):
        assert run(typed) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("--help.")


class OlderError(Exception):
    """An error as Click itself makes it, which older versions of Typer raise."""

    def __init__(self, text: str, **fields: object):
        self.text = text
        self.__dict__ |= fields

    def format_message(self) -> str:
        return self.text


def test_errors_of_a_typer_on_click() -> None:
    told = usage_error(OlderError("Invalid value for '--modules': 'meme' is not one of 'aem', 'mem'."))
    assert told == (
        "error: Invalid value for '--modules': 'meme' is not one of 'aem', 'mem'. Did you mean mem? See amem --help."
    )
    option = OlderError(
        "No such option: --sed (Possible options: --seed)",
        message="No such option: --sed",
        option_name="--sed",
        possibilities=["--seed"],
    )
    assert usage_error(option) == "error: No such option: --sed. Did you mean --seed? See amem --help."


@pytest.mark.parametrize("text", ["a\nerror: fake", "\x1b[2Jx", "5\udce9.jpg"])
def test_an_error_and_a_warning_stay_one_plain_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from amem_cli.errors import BadData
    from amem_cli.runtime.progress import Progress

    message = str(BadData("image", text, why=f"is {text}"))
    assert message.isprintable()
    message.encode("utf-8")
    Progress(quiet=True).warn(text)
    assert capsys.readouterr().err.removesuffix("\n").isprintable()
