"""What can go wrong, and the exit code each kind has. Imports nothing heavy.

Every error prints as one line, `WHAT PATH: WHY. REMEDY.`; anything that is not an `AmemError` is a bug and keeps its
traceback.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class AmemError(Exception):
    """An error the user can act on.

    `what` names the thing ("labels", "checkpoint", "--split"), `path` where it is, `why` what is wrong with it and
    `remedy` what to do, each without a final full stop.
    """

    exit_code = 70

    def __init__(self, what: str, path: str | Path | None = None, *, why: str, remedy: str = ""):
        self.what, self.path, self.why, self.remedy = what, path, why, remedy
        where = what if path is None else f"{what} {path}"
        super().__init__(printable(f"{where}: {why}." + (f" {remedy}." if remedy else "")))


class UsageError(AmemError):
    """Options that do not go together or do not exist."""

    exit_code = 2


class BadData(AmemError):
    """A data set, image, checkpoint or other input that is there but not what it should be."""

    exit_code = 65


class InputMissing(AmemError):
    """An input that is not there; the remedy is the command that makes it."""

    exit_code = 66


class OutputExists(AmemError):
    """An output of another configuration stands where this run would write."""

    exit_code = 73


class DiskError(AmemError):
    """No space, no permission, or the disk failed."""

    exit_code = 74


class Locked(AmemError):
    """Another run writes to the same place."""

    exit_code = 75


class Interrupted(AmemError):
    """SIGINT (130) or SIGTERM (143) arrived; what was done is kept."""

    def __init__(self, signal_number: int, *, why: str, remedy: str = ""):
        super().__init__("interrupted", why=why, remedy=remedy)
        self.exit_code = 128 + signal_number


class Terminated(BaseException):
    """SIGTERM arrived: like KeyboardInterrupt no error of the work it stops, so no `except Exception` takes it for
    one (a decoder's, a file reader's). The command line makes `Interrupted`'s line and exit code of it."""


def printable(text: str) -> str:
    """One line without control characters and half characters, which names from outside may hold, as escapes.

    >>> printable("a\\nb")
    'a\\\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listing(rows: Iterable[str], most: int = 20) -> str:
    """The first `most` rows and how many there are in all, for errors that report every bad row at once.

    >>> listing(["a", "b", "c"], most=2)
    'a; b; ... (3 in all)'
    """
    rows = list(rows)
    shown = "; ".join(rows[:most])
    return shown if len(rows) <= most else f"{shown}; ... ({len(rows)} in all)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean X? ` for the nearest of `known`, or nothing.

    >>> did_you_mean("ilids", ["mars", "ilids-vid"])
    'Did you mean ilids-vid? '
    """
    nearest = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.5)
    return f"Did you mean {nearest[0]}? " if nearest else ""
