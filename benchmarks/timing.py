"""Times several methods for the same work, each in its own process, in turns.

In their own processes, because the commands of amem set the allocator of the C library
(`amem_cli/runtime/memory.py`) and the baselines do not. In turns, so that other load on the machine slows all alike.
"""

import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple


class Method(NamedTuple):
    """`make(*arguments)` returns, in the process, the function that is timed; `allocator`: as amem sets it."""

    make: Callable[..., Callable[[], Any]]
    arguments: tuple[Any, ...]
    allocator: bool = True


class Timed(NamedTuple):
    """Wall clock and CPU seconds of each run, and the result of the warm-up run.

    `memory` is the peak of the process above what it held before the warm-up run, in bytes (Linux only, else None).
    """

    wall: list[float]
    cpu: list[float]
    result: Any
    memory: int | None

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.wall), statistics.median(self.cpu)


def take_turns(methods: dict[str, Method], runs: int, threads: int | None = None) -> dict[str, Timed]:
    """`runs` runs of each method in turns, after a warm-up run; `threads` are torch's in each process."""
    context = multiprocessing.get_context("spawn")
    sides: dict[str, tuple[Any, Connection]] = {}
    try:
        for name, method in methods.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, method, threads), daemon=True)
            process.start()
            theirs.close()
            sides[name] = process, ours
        timed = {name: Timed([], [], *_run(connection)[2:]) for name, (_, connection) in sides.items()}
        for _ in range(runs):
            for name, (_, connection) in sides.items():
                wall, cpu, *_ = _run(connection)
                timed[name].wall.append(wall)
                timed[name].cpu.append(cpu)
        return timed
    finally:
        for process, connection in sides.values():
            connection.close()  # ends the process
            process.join()


def _run(connection: Connection) -> tuple[float, float, Any, int | None]:
    connection.send(None)
    found = connection.recv()
    if isinstance(found, BaseException):
        raise found
    return found


def _serve(connection: Connection, method: Method, threads: int | None) -> None:
    try:
        if method.allocator:
            from amem_cli.runtime.memory import keep_freed_memory

            keep_freed_memory()
        if threads:
            import torch

            torch.set_num_threads(threads)
        warnings.simplefilter("ignore")
        work = method.make(*method.arguments)
        while True:
            connection.recv()
            held, wall, cpu = _resident("VmRSS"), time.perf_counter(), time.process_time()
            result = work()
            seconds = time.perf_counter() - wall, time.process_time() - cpu
            connection.send((*seconds, result, _resident("VmHWM") - held if held else None))
    except EOFError:
        return
    except Exception as error:
        connection.send(error)


def _resident(field: str) -> int:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def check_agreement(results: dict[str, Any], tolerance: float) -> None:
    """Raise `ValueError` if a result differs from the first one."""
    import numpy as np

    first, reference = next(iter(results.items()))
    for name, result in results.items():
        if not np.allclose(result, reference, atol=tolerance):
            raise ValueError(f"{name} and {first} differ: {result} and {reference}")
