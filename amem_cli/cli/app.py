"""The command line: `run` calls a command and turns what can go wrong into one line and an exit code.

Stages are imported inside the commands, so that `amem --help` does not wait for torch.
"""

import signal
import sys
import traceback

import typer

from amem_cli.cli import stages, tools  # noqa: F401 - they hang their commands into `app`
from amem_cli.cli.help import usage_error
from amem_cli.cli.root import app
from amem_cli.errors import AmemError, DiskError, Terminated


def run(arguments: list[str]) -> int:
    """Run a command; returns the exit code. An `AmemError` becomes one line on standard error; a bug keeps its
    traceback and gives 70."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="amem", standalone_mode=False) or 0
        if code == 128 + signal.SIGINT:  # what Typer makes of KeyboardInterrupt, without a word
            raise KeyboardInterrupt
        return code
    except AmemError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort, Terminated) as error:
        print("error: interrupted: finished parts are kept. Run the same command again to continue.", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    except SystemExit as error:  # Typer's answer when the reader of our output has gone, as in `amem status | head`
        return 0 if isinstance(error.__context__, BrokenPipeError) else int(error.code or 0)
    except OSError as error:
        if debug:
            raise
        where = error.filename or "standard output"
        print(
            f"error: file {where}: {(error.strerror or str(error)).lower()}. Check the disk or the folder.",
            file=sys.stderr,
        )
        return DiskError.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's usage errors; where their class lives depends on its version
            print(usage_error(error), file=sys.stderr)
            return 2
        traceback.print_exc()
        print("error: this is a bug in amem. Please report the lines above.", file=sys.stderr)
        return 70
