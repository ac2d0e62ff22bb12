"""The command line: `run` executes a command and turns every error into one line and an exit code.

Stages are imported inside the commands, so that `amem --help` does not import torch.
"""

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import typer

from amem_cli.cli import stages, tools  # noqa: F401 - they add their commands to `app`
from amem_cli.cli.flags import app
from amem_cli.cli.remedies import CONTINUING, command_line, continuing
from amem_cli.errors import SAME_COMMAND, AmemError, DiskError, Interrupted, Terminated, out_of_memory
from amem_cli.processes import world_size
from amem_cli.resolve import OTHER_COMMANDS, suggestion


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code.

    An `AmemError` becomes one line, with `--debug` a traceback; any other exception is a bug: it keeps its traceback,
    exit code 70. A signal gives 130 or 143.
    """
    debug, arguments = "--debug" in arguments, [argument for argument in arguments if argument != "--debug"]
    try:
        return _run(arguments, debug)
    except (KeyboardInterrupt, typer.Abort, Terminated) as error:
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        kept = "only saved work is kept" if CONTINUING.intersection(arguments[:1]) else "nothing is kept"
        return _fail(f"interrupted: {kept}. Run: {command_line(continuing(arguments, saved=False))}.", 128 + number)


def _run(arguments: list[str], debug: bool) -> int:
    """Run a command and print its error; under torchrun the error is also recorded for torchrun's report."""
    execute: Callable[[list[str]], int | None] = _execute
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import record

        execute = record(_execute)
    try:
        return execute(arguments) or 0
    except AmemError as error:
        if debug:
            traceback.print_exc()
        again = continuing(arguments, saved=isinstance(error, Interrupted))
        error.remedy = error.remedy.replace(SAME_COMMAND, f"Run: {command_line(again)}")
        return _fail(str(error), error.exit_code)
    except typer.Abort as error:
        if not isinstance(error.__context__, EOFError):  # Typer makes one of that, too: of a process that ended early
            raise
        traceback.print_exc()
        return _fail("this is a bug in amem. Please report the lines above.", 70)
    except SystemExit as error:  # Typer exits when the reader of a pipe has closed it, as in `amem status | head`
        return 0 if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    except OSError as error:
        if debug:
            traceback.print_exc()
        from amem_cli.artifacts.atomic import input_error

        failed = input_error(error.filename or "standard output", error)
        return _fail(str(failed), failed.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's usage errors, of a class that depends on its version
            if text := error.format_message():  # empty if Typer has printed the help, for a command without arguments
                denied = text.endswith("is not readable.")
                return _fail(usage_error(error, arguments), DiskError.exit_code if denied else 2)
            return 2
        if out_of_memory(error):
            if debug:
                traceback.print_exc()
            reason = (str(error).splitlines() or ["MemoryError"])[0]
            return _fail(f"memory: not enough ({reason}). Use smaller batches, clips or images, or fewer --workers.", 2)
        traceback.print_exc()
        return _fail("this is a bug in amem. Please report the lines above.", 70)


def _execute(arguments: list[str]) -> int:
    code = typer.main.get_command(app).main(arguments, prog_name="amem", standalone_mode=False) or 0
    if code == 128 + signal.SIGINT:  # Typer turns KeyboardInterrupt into this code without a message
        raise KeyboardInterrupt
    return code


def _fail(message: str, exit_code: int) -> int:
    process = f"process {os.environ.get('RANK')} of {world_size()}: " if world_size() > 1 else ""
    with contextlib.suppress(OSError):  # the reader of standard error has ended, or its disk is full
        print(f"error: {process}{message}", file=sys.stderr, flush=True)
    return exit_code


def usage_error(error: Any, arguments: Sequence[str] = ()) -> str:
    """One line for a usage error of Typer: the fault, a suggestion, and the command for help.

    Typer suggests commands itself. The class of the error is Typer's or Click's, depending on Typer's version.
    """
    message, meant = error.format_message(), ""
    shown = error.ctx.command.get_params(error.ctx) if error.ctx else []
    visible = [name for one in shown if not getattr(one, "hidden", False) for name in (*one.opts, *one.secondary_opts)]
    flags = [name.lstrip("-") for name in visible if name.startswith("-")]  # not the arguments
    if hasattr(error, "possibilities"):  # an unknown option
        message, typed = error.message, error.option_name
        meant = suggestion(typed.lstrip("-"), flags, "--")
        commands = getattr(error.ctx.command, "commands", ())
        if command := next((word for word in arguments if word in commands), ""):
            meant = f"Options come after the command: {error.ctx.command_path} {command} {typed}. "
    elif (typed := message.removeprefix("No such command '").partition("'")[0]) in OTHER_COMMANDS:
        message, meant = f"No such command '{typed}'", f"Did you mean 'amem {OTHER_COMMANDS[typed]}'? "
    elif match := re.search(r"unexpected extra argument\S* \((\S+?)[ )]", message):  # not an empty one
        word = match[1]
        if word[0] in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212":  # as word processors write them
            meant = f"{word[0]!r} is not the character '-'. "
        elif "=" in word and word.partition("=")[0] in flags:
            meant = f"Did you mean --{word}? "
        elif "dataset" in flags:
            meant = f"Did you mean --dataset {word}? "
    message = " ".join(message.split())
    if "Input should be" in message:  # Typer's, which does not name the value
        names = getattr(error.param, "opts", ())
        after = [value for flag, value in pairwise(arguments) if flag in names]
        after += [word.partition("=")[2] for word in arguments if word.partition("=")[0] in names and "=" in word]
        message = (
            f"{message.partition(': ')[0]}: {re.sub(r'^.*should be (a )?', '', message).partition(',')[0]} is needed"
        )
        message += "".join(f", not {value!r}" for value in after[:1])
    if message.endswith("is not readable."):
        return f"{message} Check its permissions."
    message += "" if message.endswith(("?", ".")) else "."
    return f"{message} {meant}See {error.ctx.command_path if error.ctx else 'amem'} --help."
