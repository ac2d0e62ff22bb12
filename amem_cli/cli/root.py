"""The `amem` command and its groups; `stages`, `tools` and `video` add the commands."""

from typing import Annotated

import typer

from amem_cli import __version__

HELP = """Video-based person re-identification by Appearance and Motion Enhancement (AMEM, AAAI 2020).

Six stages, each writes an artifact that later stages read: train-arm,
label-videos, train-tae, train-amem, extract-features, evaluate.

Every command takes --help, and --debug for the traceback of an error.
"""


def new_app(help: str, *examples: str) -> typer.Typer:
    """A Typer app; `amem_cli.cli.app.run` handles all its errors."""
    names = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(help=help, epilog=epilog(*examples), no_args_is_help=True, context_settings=names)


def epilog(*examples: str, note: str = "") -> str:
    """The end of a help text: one example per line, each short enough not to be wrapped at 80 columns."""
    return "\n\n".join(["Examples:", *examples, *([note] if note else [])])


app = new_app(HELP, "amem demo", "amem doctor")
data_app = new_app(
    "Check or generate data sets.", "amem data walkers walkers", "amem data check mars --data-root walkers"
)
config_app = new_app(
    "Write the options of all commands to a file.",
    "amem config show > amem.toml",
    "amem config show train-amem --preset small",
)
weights_app = new_app("Inspect weight files.", "amem weights inspect rgb_imagenet.pt")
features_app = new_app("Convert features.", "amem features convert pytorch_result.mat features.h5 --dataset mars")
app.add_typer(data_app, name="data")
app.add_typer(features_app, name="features")
app.add_typer(config_app, name="config")
app.add_typer(weights_app, name="weights")


def _version(value: bool) -> None:
    if value:
        print(f"amem {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    pass
