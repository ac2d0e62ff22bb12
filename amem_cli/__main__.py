"""`amem` and `python -m amem_cli` (which torchrun starts)."""

import io
import os
import signal
import sys
from types import FrameType

from amem_cli.errors import Terminated


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from amem_cli.cli.app import run
        from amem_cli.runtime.memory import keep_freed_memory, let_idle_threads_sleep
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    if sys.stderr is None:  # closed: messages would go to standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of names, where the output is ASCII; as standard error
    keep_freed_memory()
    let_idle_threads_sleep()
    for name in ("SIGTERM", "SIGHUP"):  # training replaces these by handlers that save its state
        number = getattr(signal, name, signal.SIGTERM)  # Windows has no SIGHUP, and nohup ignores it
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    sys.exit(run(sys.argv[1:]))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


if __name__ == "__main__":
    main()
