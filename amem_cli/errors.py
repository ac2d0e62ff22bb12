"""Errors and their exit codes. Imports nothing heavy.

Every error prints as one line, `WHAT PATH: WHY. REMEDY.`; any other exception is a bug.
"""

import difflib
import importlib.util
import re
from collections.abc import Collection, Iterable
from pathlib import Path

SAME_COMMAND = "Run the same command again to continue"  # the command line puts the command in its place


class AmemError(Exception):
    """An error that the user can fix.

    `what` names the object ("labels", "checkpoint", "--split"), `path` its place, `why` the fault and `remedy` what to
    do, each without a final full stop.
    """

    exit_code = 70

    def __init__(self, what: str, path: str | Path | None = None, *, why: str, remedy: str = ""):
        self.what, self.path, self.why, self.remedy = what, path, why, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = self.what if self.path is None else f"{self.what} {self.path}"
        return printable(f"{where}: {self.why}." + (f" {self.remedy}." if self.remedy else ""))


class UsageError(AmemError):
    """An option or value that does not exist, or options that exclude each other."""

    exit_code = 2


class BadData(AmemError):
    """An input that is damaged or of the wrong kind.

    The stages replace damaged artifacts with `--force` only, which is added to the remedy; a damaged `amem-main`
    is written again from the `amem-model` without it.
    """

    exit_code = 65

    def __init__(self, what: str, path: str | Path | None = None, *, why: str, remedy: str = ""):
        stages = "train-arm|train-tae|label-|extract-|evaluate" + "|train-amem" * what.startswith("amem-model")
        makes_it = re.search(rf"[Rr]un: amem ({stages})", remedy)
        if makes_it and "--force" not in remedy:
            remedy += " --force"
        super().__init__(what, path, why=why, remedy=remedy)


class InputMissing(AmemError):
    """An input that does not exist; the remedy is the command that makes it."""

    exit_code = 66


class OutputExists(AmemError):
    """The output exists already, from another configuration."""

    exit_code = 73


class DiskError(AmemError):
    """No space, no permission, or a failure of the disk."""

    exit_code = 74


class Locked(AmemError):
    """Another run writes to the same place."""

    exit_code = 75


class Interrupted(AmemError):
    """SIGINT (exit code 130) or SIGTERM (143)."""

    def __init__(self, signal_number: int, *, why: str, remedy: str = ""):
        super().__init__("interrupted", why=why, remedy=remedy)
        self.exit_code = 128 + signal_number


class Terminated(BaseException):
    """Raised by the SIGTERM handler. A BaseException like KeyboardInterrupt, so that no `except Exception` of a
    decoder or file reader catches it."""


def out_of_memory(error: Exception) -> bool:
    """Whether too little memory of a machine or device caused an error of Python, NumPy, torch or a worker of torch.

    >>> out_of_memory(MemoryError()), out_of_memory(ValueError("x"))
    (True, False)
    """
    text = str(error)
    worker_died = "DataLoader worker" in text and "Killed" in text
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or worker_died or "can't allocate memory" in text or "not enough memory" in text


def is_installed(name: str) -> bool:
    """Whether a package is installed; a folder of that name, such as wandb's own, has a spec without origin."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def require_package(name: str, option: str) -> None:
    """Raise `InputMissing` if a package that an option needs is not installed."""
    if not is_installed(name):
        raise InputMissing(option, name, why="not installed", remedy=f"Run: python -m pip install {name}")


def printable(text: str) -> str:
    """The text on one line, with control characters and lone surrogates escaped.

    >>> printable("a\\nb")
    'a\\\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listing(rows: Iterable[str], most: int = 20) -> str:
    """The first `most` rows and the total number, for errors that report all bad rows at once.

    >>> listing(["a", "b", "c"], most=2)
    'a; b; ... (3 in all)'
    """
    rows = list(rows)
    shown = "; ".join(rows[:most])
    return shown if len(rows) <= most else f"{shown}; ... ({len(rows)} in all)"


def counted(number: int, things: str) -> str:
    """The number with the noun in singular or plural.

    >>> counted(1, "folders"), counted(1, "people"), counted(2, "people")
    ('1 folder', '1 person', '2 people')
    """
    one = {"people": "person", "queries": "query", "processes": "process", "batches": "batch"}.get(things, things[:-1])
    return f"{number} {one if number == 1 else things}"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """`Did you mean X? ` with the most similar of `known`, one that starts with `word` if possible; else empty. The
    `prefix` is put before X.

    >>> did_you_mean("ilids", ["mars", "ilids-vid"])
    'Did you mean ilids-vid? '
    """
    word, known = word.lower(), list(known)
    longer = [one for one in known if word and one.startswith(word)]
    nearest = difflib.get_close_matches(word, longer or known, n=1, cutoff=0.0 if longer else cutoff)
    return f"Did you mean {prefix}{nearest[0]}? " if nearest else ""


def require_known(what: str, names: Iterable[str], known: Collection[str], why: str = "not found") -> None:
    """Raise `UsageError` that lists those of `names` that are not in `known`."""
    if unknown := [name for name in names if name not in known]:
        available = ", ".join(known) if len(known) <= 20 else listing(known, 3)
        remedy = f"{did_you_mean(unknown[0], known)}Available: {available}"
        raise UsageError(what, listing(unknown), why=why, remedy=remedy)
