"""Help as a newcomer reads it: whole words, narrow terminals, examples that can be pasted; quick to appear."""

import dataclasses
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
import typer

from amem_cli.artifacts.status import ArtifactState
from amem_cli.cli import console
from amem_cli.cli.app import app, run
from amem_cli.data.check import CheckReport, CheckRow
from amem_cli.errors import BadData
from amem_cli.options import COMMANDS
from amem_cli.stages.output import StageResult
from amem_cli.tools.doctor import Finding
from amem_cli.tools.reproduce.plan import plan
from amem_cli.tools.reproduce.table import PREDICTIONS, SCORES, Measured, document


def commands_below(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from commands_below((*path, name), below)


EVERY = dict(commands_below((), typer.main.get_command(app)))  # ("data", "check") -> the command; groups too
HEAVY = ("torch", "torchvision", "numpy", "scipy", "h5py", "matplotlib", "PIL", "safetensors")


def help_of(path: tuple[str, ...], capsys: pytest.CaptureFixture) -> str:
    assert run([*path, "--help"]) == 0
    return capsys.readouterr().out


def examples_in(text: str) -> list[str]:
    return [line.strip() for line in text.partition("\nExamples:\n")[2].splitlines() if line.strip()]


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_example_stands_on_its_own_line_and_parses(
    path: tuple[str, ...], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    examples = examples_in(help_of(path, capsys))
    assert len(examples) >= (1 if hasattr(EVERY[path], "commands") else 2)
    for example in examples:
        program, *arguments = shlex.split(example.partition(" > ")[0])
        assert program == "amem", example
        named: tuple[str, ...] = ()
        while (*named, *arguments[:1]) in EVERY and arguments:
            named, arguments = (*named, arguments[0]), arguments[1:]
        assert named[: len(path)] == path, example  # the example is of this command
        EVERY[named].make_context("amem", arguments)  # raises what the parser would say; runs nothing


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_fits_the_terminal_without_broken_names(
    path: tuple[str, ...], columns: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = help_of(path, capsys)
    examples = examples_in(text)
    assert max(map(len, examples)) <= 78
    for line in text.splitlines():
        names_alone = re.fullmatch(r"  -[^ ]*( <[^ ]*>)?", line)  # choices of an option in one piece
        assert len(line) <= columns or line.strip() in examples or names_alone, line
    assert "\x1b" not in text
    assert not re.search(r"[^\x00-\x7f]", text)  # right in every encoding
    known = {name for command in EVERY.values() for parameter in command.params for name in parameter.opts}
    for name in re.findall(r"(?<![\w-])--[a-z-]+", text.partition("\nExamples:\n")[0]):
        assert name in known | {"--help", "--debug", "--install-completion", "--show-completion"}, name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_stage_is_told_with_its_default_and_small_value(
    command: str, capsys: pytest.CaptureFixture
) -> None:
    text = " ".join(help_of((command,), capsys).split())
    for field in dataclasses.fields(COMMANDS[command]):
        shown = text.partition(f"--{field.name.replace('_', '-')} ")[2]
        assert " ".join(field.metadata["help"].split()) in shown, field.name
        if field.metadata["small"] != field.default:
            assert f"small {field.metadata['small']}" in shown


def test_a_command_without_arguments_shows_its_help(capsys: pytest.CaptureFixture) -> None:
    assert run(["data"]) in (0, 2)
    captured = capsys.readouterr()
    assert "amem data check" in captured.out + captured.err


# -- what commands print -----------------------------------------------------------------------------------------------


def long_result() -> dict[str, Any]:
    row = {"rank": {"1": 1.0, "5": 1.0, "10": 1.0, "20": 1.0}, "mAP": 1.0, "mAP_official": 1.0}
    other = row | {"queries": 1980, "valid_queries": 1840, "gallery": 9330}
    ends = {"rank-1": [0.801, 0.852], "mAP": [0.701, 0.752]}
    calibration = {"threshold_cosine": 0.51234, "true_match_rate": 0.9, "false_match_rate": 0.001}
    choices = {"distance": "squared Euclidean between features", "ties": "stable by gallery position"}
    whole = row | {"protocol": "a-protocol-of-my-own", "queries": 1980, "gallery": 11310, "chance": row}
    more = {"interval": ends, "gallery_without_queries": other, "reranked": row, "flipped": row}
    return whole | more | {"calibration": calibration, "choices": choices, "standard_deviation": row}


FOLDER = Path("/a/rather/long/way/[to]/the/place/where/experiments/live")
STATES = [
    ArtifactState("extract-features", FOLDER / "features" / "ilids-vid-split3.h5", state, why, "amem extract-features")
    for state, why in (("stale", "another amem-main; image_size: 256x128 there, 128x64 now"), ("missing", ""))
]
REPORT = CheckReport(
    name="mars",
    title="MARS",
    folder=FOLDER,
    rows=(
        CheckRow("queries unmatched without queries", 140, 140, "queries whose only match is a query itself", True),
        CheckRow("train images", 509914, None, "", False),
    ),
    problems=("bbox_train/0001/0001C1T0001F001.jpg: cannot be decoded (image file is truncated)",) * 2,
    problem_count=30,
    remarks=("splits: drawn here, by seed 0",),
    looks_like="folder",
    image_list=None,
    list_written=False,
)


def long_reproduction(what: str) -> dict[str, Any]:
    """A table of the paper with every figure of every row, as wide as they come."""
    made = plan(what, seeds=3, data_root=FOLDER, workspace=FOLDER)
    figures = (*SCORES, *PREDICTIONS, "precision", "recall")
    found = Measured({name: [1.0, 0.5, 0.25] for name in figures}, {name: 0.123 for name in SCORES})
    runs = {(row.name, dataset): found for dataset in made.datasets for row in made.table.configurations}
    note = "mars: 24 train people instead of 625, 96 train tracklets instead of 8298, and so on for some more words"
    return document(made, runs, [note])


SIZES = {
    "title": "Model size",
    "rows": [
        {
            "group": "model", "name": "baseline in training: I3D, FC to f_s, identity classifier of 625 people",
            "parameters": 113_132_689, "MB": 1052.59, "MiB": 1050.15, "paper_MB": 50.2, "gflop": 124.5,
            "reading": "The paper's size of the backbone network, read as MiB and with the classifier: it fits.",
        }
    ],
    "notes": ["MB is 10^6 bytes, MiB 2^20 bytes, of all float32 values, means and variances of BN included."],
}  # fmt: skip
COMPARED = [
    ("a-result-with-a-rather-long-name-of-its-own", long_result() | {"dataset": "mars"}),
    ("amem", long_result() | {"dataset": "mars"}),
]
ERRORS = {key: 0.12345 for key in ("mse", "mse_copied", "psnr", "psnr_copied", "ssim", "ssim_copied", "mse_ratio")}
FINDINGS = [Finding("free disk", "1.0 GB", "problem", "Free some space, or choose another --workspace elsewhere")]


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize(
    "show",
    [
        lambda: console.print_result(long_result(), Path("out.json")),
        lambda: console.print_chain(STATES, FOLDER, False),
        lambda: console.print_check(REPORT, False),
        lambda: console.print_findings(FINDINGS, False),
        lambda: console.print_comparison(COMPARED, False, paper=True),
        lambda: console.print_sizes(SIZES, Path("sizes.md"), False),
        lambda: console.print_prediction(ERRORS),
        lambda: console.print_shares({"0001C1T0001": {"f_B": 0.4, "f_A": 0.3, "f_M": 0.2, "bias": 0.1}}),
        *(
            lambda what=what: console.print_reproduction(long_reproduction(what), Path("out.md"), False)
            for what in ("table3", "table4", "table5", "losses", "figure4")
        ),
    ],
    ids=[
        "result",
        "chain",
        "check",
        "findings",
        "comparison",
        "sizes",
        "prediction",
        "shares",
        "table3",
        "table4",
        "table5",
        "losses",
        "figure4",
    ],
)
def test_tables_are_no_wider_than_the_terminal(
    show: Any, columns: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    show()
    text = capsys.readouterr().out
    for line in text.splitlines():
        path_alone = " " not in line.removeprefix("workspace ").strip()  # it may be longer, so that it can be pasted
        assert len(line) <= columns or path_alone, line
    assert "\x1b" not in text


def test_a_cell_is_never_cut_off(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for what in ("table3", "table5", "figure4"):
        console.print_reproduction(long_reproduction(what), Path("out.md"), False)
    console.print_comparison(COMPARED, False, paper=True)
    told = capsys.readouterr().out
    assert "…" not in told
    assert "rank-20" in told


def test_paths_of_windows_stay_whole(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backslashes are no escapes, brackets no markup, and a path with spaces is not broken into lines."""
    monkeypatch.setenv("COLUMNS", "60")
    folder = PureWindowsPath(r"C:\Users\new user\[red]data\table of numbers\experiments")
    states = [ArtifactState("evaluate", folder / "results" / "mars.json", "missing", "", "amem evaluate")]
    console.print_chain(states, folder, False)  # type: ignore[arg-type]
    console.print_stage(StageResult("train-arm", folder / "arm.safetensors", False), 3.0)  # type: ignore[arg-type]
    console.print_pictures([folder / "cmc.png"])  # type: ignore[list-item]
    console.print_sizes(SIZES, folder / "sizes.md", False)  # type: ignore[arg-type]
    told = capsys.readouterr().out
    for name in ("", "\\arm.safetensors", "\\cmc.png", "\\sizes.md"):
        assert f"{folder}{name}" in told
    assert "results\\mars.json" in told
    assert str(BadData("image", folder / "new.jpg", why="it is empty")) == f"image {folder}\\new.jpg: it is empty."


def test_names_with_brackets_are_no_markup(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    console.print_check(REPORT, False)
    assert "/[to]/" in capsys.readouterr().out


# -- start-up ----------------------------------------------------------------------------------------------------------


def loaded_by(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of a command, and the heavy modules that were loaded when it ended."""
    code = (
        "import sys; from amem_cli.cli.app import run; code = run(sys.argv[1:])\n"
        f"print('loaded', code, *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    _, exit_code, *names = done.stdout.splitlines()[-1].split()
    return int(exit_code), set(names)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train-amem", "--help"], ["config", "show"], ["train-amem", "--modules", "meme"]]
)
def test_help_configuration_and_mistakes_load_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(*arguments)[1] == set()


def test_status_and_evaluate_do_without_torch(tmp_path: Path) -> None:
    import h5py
    import numpy as np

    with h5py.File(tmp_path / "mars.h5", "w") as file:
        file.attrs.update(
            {"kind": "amem-features", "schema": 1, "dataset": "mars", "created_by": "", "provenance": "{}"}
        )
        file["tracklet"] = ["a", "b", "c"]
        file["person_id"], file["camera_id"] = np.array([1, 1, 2]), np.array([1, 2, 2])
        file["is_query"], file["features"] = np.array([True, False, False]), np.eye(3, dtype=np.float32)
    place = ("--workspace", str(tmp_path))
    code, loaded = loaded_by("evaluate", "--features", str(tmp_path / "mars.h5"), "--bootstrap", "10", *place)
    assert code == 0
    assert not loaded & {"torch", "torchvision", "matplotlib", "PIL"}
    code, loaded = loaded_by("status", *place)
    assert code == 0
    assert not loaded & {"torch", "torchvision", "matplotlib", "PIL"}


def test_help_appears_in_a_quarter_of_a_second() -> None:
    def processor_seconds() -> float:  # not those on the wall: other programs may be running
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "amem_cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(processor_seconds() for _ in range(3)) < 0.25


def test_a_pipe_that_cannot_write_unicode_gets_plain_tables(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "amem_cli", "status", "--workspace", str(tmp_path)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"next: amem train-arm" in done.stdout
    assert max(done.stdout) < 128
