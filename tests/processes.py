"""Start and end several processes of one command like torchrun, but by fork, without its ten seconds of imports."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import torch.distributed

KILLED_AFTER = 30.0  # seconds after SIGTERM, as torchrun does
LONGEST = 300.0  # seconds of one run; then the test fails


@dataclass(frozen=True)
class Ended:
    """How the processes of one run ended: their exit codes (negative for a signal's number) by rank, what they wrote to
    standard error, and its lines with an error."""

    codes: list[int]
    text: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("error:")]


def amem(
    arguments: Sequence[str], world: int, folder: Path, begin: Callable[[int], object] = lambda rank: None
) -> Ended:
    """Run a command of amem in `world` processes; each calls `begin(rank)` first (to inject a fault).

    When one ends with an error the others get SIGTERM, as from torchrun. Their output is written to `folder`.
    """
    from amem_cli.__main__ import main

    def command(rank: int) -> None:
        begin(rank)
        sys.argv = ["amem", *arguments]
        main()

    return together(command, world, folder)


def together(action: Callable[[int], object], world: int, folder: Path) -> Ended:
    """`action(rank)` in `world` processes connected as under torchrun; the exit code is 0 if it returns."""
    folder.mkdir(parents=True, exist_ok=True)
    agent, port = _agent()
    common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    common |= {
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    children: dict[int, int] = {}
    codes: dict[int, int] = {}
    began, failed_at = time.monotonic(), None
    try:
        for rank in range(world):
            environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
            children[_forked(lambda rank=rank: action(rank), environment, folder / f"stderr {rank}")] = rank
        while len(codes) < world:
            if time.monotonic() - began > LONGEST:
                raise TimeoutError(f"processes {sorted(set(children.values()) - codes.keys())} of {world} do not end")
            for process, rank in children.items():
                if rank not in codes and (status := os.waitpid(process, os.WNOHANG))[0]:
                    codes[rank] = os.waitstatus_to_exitcode(status[1])
            if failed_at is None and any(codes.values()):
                failed_at = time.monotonic()
                _send(signal.SIGTERM, (process for process, rank in children.items() if rank not in codes))
            if failed_at is not None and time.monotonic() - failed_at > KILLED_AFTER:
                _send(signal.SIGKILL, (process for process, rank in children.items() if rank not in codes))
            time.sleep(0.005)
    finally:
        _send(signal.SIGKILL, [agent, *(process for process, rank in children.items() if rank not in codes)])
        os.waitpid(agent, 0)
    text = "".join((folder / f"stderr {rank}").read_text("utf-8", "replace") for rank in range(world))
    return Ended([codes[rank] for rank in range(world)], text)


def _agent() -> tuple[int, int]:
    """The store of the processes, as run by torchrun, in a process; and its port.

    Not in this process: a fork while the store's thread holds a lock of libc's would leave it locked in the child.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        with open(reader) as port:
            return process, int(port.readline())
    try:
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writer, f"{store.port}\n".encode())
        while True:
            signal.pause()
    finally:
        os._exit(70)


def _send(number: int, processes) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _forked(action: Callable[[], object], environment: dict[str, str], stderr: Path) -> int:
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in background
        forkserver._forkserver._forkserver_pid = None  # the parent's fork server is no child of this process
        forkserver._forkserver._forkserver_alive_fd = None
        with open(stderr, "w", buffering=1) as sys.stderr, open(os.devnull, "w") as sys.stdout:
            code = _exit_code(action)
    finally:
        os._exit(code)


def _exit_code(action: Callable[[], object]) -> int:
    try:
        action()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 70
    return 0
