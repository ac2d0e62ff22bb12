"""Ways to do the same work, each in a process of its own, as its users have it, and run in turns.

Processes of their own because the commands of `amem` set the C library's allocator (`amem_cli.runtime.allocator`), which the
usual ways leave as it is.
"""

import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amem_cli.runtime.allocator import keep_freed_memory


@dataclass(frozen=True, slots=True)
class Way:
    """`make(*arguments)` gives, in the process, what is run and timed; `as_in_amem` sets the allocator before."""

    make: Callable[..., Callable[[], Any]]
    arguments: tuple[Any, ...]
    as_in_amem: bool = True


@dataclass(frozen=True, slots=True)
class Timed:
    """Wall clock and CPU seconds of each run after the first, and what that one returned."""

    wall: list[float]
    cpu: list[float]
    first: Any

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.wall), statistics.median(self.cpu)


def take_turns(ways: dict[str, Way], runs: int, threads: int) -> dict[str, Timed]:
    """`runs` runs of each way in turns, after one that warms up. `threads` are torch's, in each process."""
    context = multiprocessing.get_context("spawn")
    sides: dict[str, tuple[Any, Connection]] = {}
    try:
        for name, way in ways.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, way, threads), daemon=True)
            process.start()
            theirs.close()
            sides[name] = process, ours
        timed = {name: Timed([], [], _run(connection)[2]) for name, (_, connection) in sides.items()}
        for _ in range(runs):
            for name, (_, connection) in sides.items():
                wall, processor, _ = _run(connection)
                timed[name].wall.append(wall)
                timed[name].cpu.append(processor)
        return timed
    finally:
        for process, connection in sides.values():
            connection.close()  # what the process takes for the end
            process.join()


def _run(connection: Connection) -> tuple[float, float, Any]:
    connection.send(None)
    found = connection.recv()
    if isinstance(found, BaseException):
        raise found
    return found


def _serve(connection: Connection, way: Way, threads: int) -> None:
    try:
        if way.as_in_amem:
            keep_freed_memory()
        import torch

        torch.set_num_threads(threads)
        warnings.simplefilter("ignore")
        work = way.make(*way.arguments)
        while True:
            connection.recv()
            wall, processor = time.perf_counter(), time.process_time()
            result = work()
            connection.send((time.perf_counter() - wall, time.process_time() - processor, result))
    except EOFError:
        return
    except Exception as error:
        connection.send(error)
