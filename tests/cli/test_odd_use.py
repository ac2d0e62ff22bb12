"""Uses that no one plans for: other folders, closed streams, infinite numbers, options that cannot have an effect."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amem_cli.cli.app import run
from amem_cli.runtime.distributed import choose_device


def printed(typed: str, capsys: pytest.CaptureFixture, code: int = 0) -> str:
    """What a command prints to standard error."""
    assert run(shlex.split(typed)) == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("train-amem --lambda-a inf --dry-run", "--lambda-a inf: must be a finite number"),
        ("train-amem --lr-factor inf --dry-run", "--lr-factor inf: must be a finite number"),
        ("data walkers s --videos --cameras 5", "--videos: uses --seed and --people alone"),
        ("data walkers s --videos --alike --seed 3", "--videos: uses --seed and --people alone"),
        ("data check . --deep", "--deep: . is a folder"),
        ("show ranking --predict-frames 2 --out x.png", "--predict-frames 2: is for show frames"),
        ("train-amem --backbone r3d --motion-maps middle --dry-run", "only i3d, mobilenet_v2, resnet50 have middle"),
    ],
)
def test_refused(typed: str, message: str, capsys: pytest.CaptureFixture) -> None:
    error = printed(typed, capsys, 2)
    assert error.startswith("error: ")
    assert message in error


def test_compare_warns_about_options_without_effect(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    error = printed(f"evaluate --compare {tmp_path / 'no.json'} --protocol mars --rerank", capsys, 66)
    assert "warning: with --compare, --protocol and --rerank have no effect" in error


def test_middle_maps_warn_about_the_design_of_the_other_branch(capsys: pytest.CaptureFixture) -> None:
    typed = "train-amem --preset small --branch conv3d --branch-kernel 3x3x3 --dry-run"
    why = "with --motion-maps middle, --branch and --branch-kernel have no effect on the motion branch"
    assert why in printed(f"{typed} --motion-maps middle", capsys)
    assert not printed(f"{typed} --motion-maps middle --modules aem", capsys)
    assert not printed(typed, capsys)
    assert not printed("train-amem --preset small --motion-maps middle --dry-run", capsys)  # the preset's kernel


@pytest.mark.parametrize("flag", ["--features ", ""])
def test_evaluate_file_wins_over_the_config(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "k.toml").write_text('[evaluate]\nfeatures = ["b.h5"]\n')
    run(["evaluate", *f"--config {tmp_path / 'k.toml'} {flag}a.h5 --dry-run --json".split()])
    assert json.loads(capsys.readouterr().out)["options"]["features"] == ["a.h5"]


def test_remedy_names_the_folder_that_was_given(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "k.toml").write_text('workspace = "other"\n')
    error = printed(f"evaluate --config {tmp_path / 'k.toml'} --workspace workspace", capsys, 66)
    assert "Run: amem extract-features --dataset mars" in error
    assert "--workspace workspace" in error


def test_dry_run_prints_once_under_torchrun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    lengths = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert run(["train-amem", "--dry-run", "--json"]) == 0
        lengths.append(len(capsys.readouterr().out))
    assert lengths[0] > 0
    assert lengths[1] == 0


def test_empty_variables_of_torchrun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    assert choose_device("cpu").type == "cpu"
    assert run(["evaluate", "--dry-run"]) == 0
    assert capsys.readouterr().out
    assert printed(f"evaluate --workspace {tmp_path}", capsys, 66).startswith("error: ")


@pytest.mark.parametrize("before", [[], ["--debug"]])
def test_interrupt_of_a_command_that_keeps_work(
    before: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("amem_cli.cli.app._execute", interrupted)
    assert run([*before, "train-tae"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "error: interrupted: only saved work is kept. Run: amem train-tae.\n"


def test_closed_standard_error_does_not_reach_standard_output(tmp_path: Path) -> None:
    script = f"{shlex.quote(sys.executable)} -m amem_cli status --verify --json --data-root nope 2>&-"  # it warns
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120)
    assert json.loads(done.stdout)["next"]


def test_status_says_that_images_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    typed = f"status --workspace {tmp_path} --data-root {tmp_path / 'nope'}"
    assert printed(typed, capsys) == ""
    assert printed(f"{typed} --verify", capsys).startswith("warning: the images are not compared: ")
