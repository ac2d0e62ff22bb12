"""The tree of commands, still without any: `stages` and `tools` hang theirs into it."""

from typing import Annotated

import typer

from amem_cli import __version__
from amem_cli.cli.help import App

app = App(
    name="amem",
    help="""Video-based person re-identification by Appearance and Motion Enhancement (AMEM, AAAI 2020).

    Six stages, each leaving an artifact for the next: train-arm, label-videos, train-tae, train-amem,
    extract-features, evaluate. Every command takes --help, and --debug for the traceback of an error.

    Examples:

    amem demo

    amem doctor
    """,
)
data_app = App(
    help="""Check data sets, or generate one.

    Examples:

    amem data walkers walkers

    amem data check mars --data-root walkers
    """
)
config_app = App(
    help="""The options of every command as a file.

    Examples:

    amem config show > amem.toml

    amem config show train-amem --preset small
    """
)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
weights_app = App(
    help="""Look into weight files.

    Examples:

    amem weights inspect rgb_imagenet.pt
    """,
)
app.add_typer(weights_app, name="weights")


def _version(value: bool) -> None:
    if value:
        print(f"amem {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    pass
