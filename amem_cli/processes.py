"""The cores of this process, and the processes that it belongs to or starts. Imports nothing heavy."""

import os
import signal


def affinity() -> int:
    """The cores that the system may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_loader_processes() -> bool:
    """Whether the system can start loader processes: from a fork server that blocks signals, which Windows lacks."""
    return hasattr(signal, "pthread_sigmask")


def end_with_main() -> None:
    """In a child process of `multiprocessing`: end when the main process does, also when that is killed."""
    import multiprocessing  # here, because it takes part of the start of every command
    import threading

    main = multiprocessing.parent_process()

    def wait_and_end() -> None:
        if main is not None:
            main.join()
            os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def rank() -> int:
    """The number of this process among those that torchrun started, 0 without it."""
    return int(os.environ.get("RANK") or 0)


def local_rank() -> int:
    """The number of this process among those on this machine, 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def world_size() -> int:
    """The processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def local_world_size() -> int:
    """The processes that torchrun started on this machine, 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
