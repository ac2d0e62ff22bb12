"""One line per error, one exit code per kind."""

import signal
from pathlib import Path

import pytest

from amem_cli import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.AmemError, 70),
        (errors.UsageError, 2),
        (errors.BadData, 65),
        (errors.InputMissing, 66),
        (errors.OutputExists, 73),
        (errors.DiskError, 74),
        (errors.Locked, 75),
    ],
)
def test_exit_codes(kind, code):
    error = kind("labels", why="gone")
    assert error.exit_code == code
    assert isinstance(error, errors.AmemError)


def test_every_kind_is_tested_above():
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    tested = {"AmemError", "UsageError", "BadData", "InputMissing", "OutputExists", "DiskError", "Locked"}
    assert kinds == tested | {"Interrupted"}


def test_the_line():
    whole = errors.BadData("labels", Path("w/mars.h5"), why="the file is damaged", remedy="Run: amem label-videos")
    assert str(whole) == "labels w/mars.h5: the file is damaged. Run: amem label-videos."
    assert (whole.what, whole.path, whole.why) == ("labels", Path("w/mars.h5"), "the file is damaged")
    assert str(errors.UsageError("--seed", why="must be a number")) == "--seed: must be a number."


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_has_the_shell_s_code(number, code):
    error = errors.Interrupted(number, why="stopped after step 3")
    assert error.exit_code == code
    assert str(error) == "interrupted: stopped after step 3."
    assert isinstance(error, errors.AmemError)


def test_listing():
    assert errors.listing([]) == ""
    assert errors.listing(str(row) for row in range(3)) == "0; 1; 2"
    assert errors.listing(["a", "b", "c"], most=3) == "a; b; c"
    assert errors.listing(["a", "b", "c"], most=2) == "a; b; ... (3 in all)"
    assert errors.listing(map(str, range(500))).endswith("; 19; ... (500 in all)")
