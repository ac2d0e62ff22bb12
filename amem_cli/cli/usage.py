"""Usage errors on one line, with the option or command of ours that was probably meant."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from amem_cli.errors import did_you_mean

# Words of other tools -> ours; of several flags the first that the command has is suggested.
OTHER_NAMES = {
    "lr": "--learning-rate", "wd": "--weight-decay", "batch-size": "--people-per-batch",
    "bs": "--batch-size --people-per-batch", "batch": "--batch-size", "gpu": "--device", "gpus": "--device",
    "out": "--workspace", "output": "--out --workspace", "output-dir": "--workspace", "save-dir": "--workspace",
    "data": "--data-root", "size": "--image-size", "arch": "--backbone", "model": "--backbone",
    "pretrained": "--weights", "checkpoint": "--weights --model", "fp16": "--precision", "amp": "--precision",
    "seq-len": "--clip-frames", "num-instances": "--clips-per-person", "test": "evaluate", "label": "label-videos",
    "predict": "extract-features", "infer": "extract-features", "check": "data check", "walkers": "data walkers",
    "visualize": "show", "version": "--version", "help": "--help",
}  # fmt: skip


def usage_error(error: Any, arguments: Sequence[str] = ()) -> str:
    """One line for a usage error of Typer: the fault, a suggestion, and the command for help.

    Reads attributes of the error, because its class is Typer's or Click's, depending on Typer's version. Typer
    suggests commands itself.
    """
    message, suggestion = error.format_message(), ""
    if hasattr(error, "possibilities"):  # an unknown option
        message, typed = error.message, error.option_name
        shown = [one for one in error.ctx.command.get_params(error.ctx) if not getattr(one, "hidden", False)]
        flags = [flag for parameter in shown for flag in parameter.opts]
        ours = [flag for flag in OTHER_NAMES.get(typed.lstrip("-"), "").split() if flag in flags]
        near = {flag.lstrip("-"): flag for flag in flags}
        suggestion = f"Did you mean {ours[0]}? " if ours else did_you_mean(typed.lstrip("-"), near, "--")
    elif (typed := message.removeprefix("No such command '").partition("'")[0]) in OTHER_NAMES:
        suggestion = f"Did you mean 'amem {OTHER_NAMES[typed]}'? "
    message = " ".join(message.split())
    if "Input should be" in message:  # Typer's, which does not name the value
        names = getattr(error.param, "opts", ())
        after = [value for flag, value in pairwise(arguments) if flag in names]
        after += [word.partition("=")[2] for word in arguments if word.partition("=")[0] in names and "=" in word]
        message = f"{message.partition(': ')[0]}: {message.partition('should be a ')[2].partition(',')[0]} is needed"
        message += "".join(f", not {value!r}" for value in after[:1])
    message += "" if message.endswith(("?", ".")) else "."
    return f"{message} {suggestion}See {error.ctx.command_path if error.ctx else 'amem'} --help."
