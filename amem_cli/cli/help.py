"""Help in plain columns, examples on lines of their own, and what was probably meant by a mistyped name.

Plain text is right in a pipe, without colour and in a narrow terminal, and a long help is short in it. Only methods
that Typer shares with Click are used: which of the two a version of Typer builds on makes no difference.
"""

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from amem_cli.errors import did_you_mean

EXAMPLES = "Examples:"
MOST_LEFT = 28  # columns for names


class Command(TyperCommand):
    """A command whose help has its options in sections and ends with the examples of its docstring."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(self, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                title = getattr(parameter, "rich_help_panel", None) or ("Arguments" if argument else "Options")
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    _write_columns(records, formatter)
        texts = [text for records in sections.values() for _, text in records]
        if any("(P)" in text or "(D)" in text for text in texts):
            legend = "(P) is the paper's choice, (D) ours where it leaves one; 'small' is that of --preset small."
            formatter.write("\n" + "\n".join(_wrap(legend, formatter.width)) + "\n")

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self, formatter)


class Group(TyperGroup):
    """A group whose help tells of each command in full."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(self, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            _write_columns([(name, _first_paragraph(command.help or "")) for name, command in commands], formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(self, formatter)


class App(typer.Typer):
    """A Typer app of these commands and groups."""

    def __init__(self, **settings: Any):
        context_settings = {"help_option_names": ["-h", "--help"]}
        super().__init__(
            cls=Group,
            no_args_is_help=True,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings=context_settings,
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return super().command(name, **{"cls": Command, **settings})


def usage_error(error: Any) -> str:
    """One line for an error of Typer's parser: what is wrong, what was probably meant, and where the help is."""
    message = error.format_message()
    if "\n" in message:  # the help of a command that was called without arguments
        return message
    context = getattr(error, "ctx", None)
    meant = ""
    if command := re.match(r"(No such command '(.*?)')", message):
        message = command[1]
        meant = did_you_mean(command[2], context.command.list_commands(context)) if context else ""
    elif possibilities := getattr(error, "possibilities", None):
        message = error.message
        meant = did_you_mean(error.option_name, possibilities)
    elif choice := re.search(r"'([^']*)' is not one of ('.*')", message):
        message = message.replace("Value error, ", "")
        meant = did_you_mean(choice[1], re.findall(r"'([^']*)'", choice[2]))
    path = context.command_path if context else "amem"
    return f"error: {message.rstrip('.')}. {meant}See {path} --help."


def _write_text(command: Any, formatter: Any) -> None:
    text = inspect.cleandoc(command.help or "").partition(EXAMPLES)[0].strip()
    for paragraph in text.split("\n\n"):
        formatter.write("\n")
        for line in _wrap(" ".join(paragraph.split()), formatter.width - 2):
            formatter.write(f"  {line}\n")


def _write_columns(records: list[tuple[str, str]], formatter: Any) -> None:
    """Names and their texts in two columns; a name that is too long for its column has a line of its own."""
    left = min(max(len(name) for name, _ in records), MOST_LEFT)
    for name, text in records:
        lines = _wrap(" ".join(text.split()), formatter.width - left - 4)
        if len(name) > left:
            lines.insert(0, "")
        for number, line in enumerate(lines or [""]):
            formatter.write(f"  {name if number == 0 else '':<{left}}  {line}".rstrip() + "\n")


def _wrap(text: str, width: int) -> list[str]:
    # at spaces only: half of `--lr-factor` is no option
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)


def _write_examples(command: Any, formatter: Any) -> None:
    """The lines below "Examples:", never wrapped: a wrapped command cannot be pasted."""
    examples = inspect.cleandoc(command.help or "").partition(EXAMPLES)[2].split("\n")
    if any(examples):
        with formatter.section(EXAMPLES.rstrip(":")):
            for line in filter(None, map(str.strip, examples)):
                formatter.write(f"  {line}\n")


def _first_paragraph(text: str) -> str:
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
