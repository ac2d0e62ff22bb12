"""One line per error, one exit code per kind."""

import signal
from pathlib import Path

import pytest

from amem_cli import errors


def test_error_line() -> None:
    error = errors.BadData("labels", Path("w/mars.h5"), why="the file is damaged", remedy="Run: amem label-videos")
    assert str(error) == "labels w/mars.h5: the file is damaged. Run: amem label-videos --force."
    assert (error.what, error.path, error.why) == ("labels", Path("w/mars.h5"), "the file is damaged")
    assert str(errors.UsageError("--seed", why="must be a number")) == "--seed: must be a number."


def test_interrupted() -> None:
    assert str(errors.Interrupted(signal.SIGINT, why="stopped after step 3")) == "interrupted: stopped after step 3."


def test_terminated_is_not_an_exception() -> None:
    assert not issubclass(errors.Terminated, Exception)


def test_listing() -> None:
    assert errors.listing([]) == ""
    assert errors.listing(["a", "b", "c"], most=3) == "a; b; c"
    assert errors.listing(["a", "b", "c"], most=2) == "a; b; ... (3 in all)"
    assert errors.listing(map(str, range(500))).endswith("; 19; ... (500 in all)")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("mras", "mars"), ("PETA", "peta"), ("market", "market1501"), ("p", "peta"), ("xyzzy", None), ("", None)],
)
def test_did_you_mean(word: str, meant: str | None) -> None:
    found = errors.did_you_mean(word, ["mars", "market1501", "peta"])
    assert found == (f"Did you mean {meant}? " if meant else "")
