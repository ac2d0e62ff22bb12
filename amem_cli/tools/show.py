"""`amem show`: one picture from artifacts. Ranked lists, CMC curve, predicted frames, attributes, attention."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from amem_cli.artifacts import atomic
from amem_cli.errors import UsageError
from amem_cli.runtime.progress import Progress

if TYPE_CHECKING:
    from amem_cli.tools.source import Picture, Source

KINDS = ("ranking", "frames", "attributes", "cmc", "attention")
FORMATS = (".png", ".svg", ".pdf")


def show(kind: str, picture: "Picture", source: "Source", progress: Progress) -> tuple[Path, dict[str, Any]]:
    """Draw one picture of `kind`, one of `KINDS`; returns its path and figures about it.

    Without names: ranked lists of the best, the worst and some random queries; predicted frames of queries, evenly
    spaced; the first labelled tracklet's attributes; the attention of two queries. Raises `UsageError` for an unknown
    suffix or tracklet.
    """
    if picture.out.suffix.lower() not in FORMATS:
        raise UsageError("--out", picture.out, why=f"its suffix is none of {', '.join(FORMATS)}")
    if kind == "cmc" and picture.names:
        raise UsageError("tracklet", picture.names[0], why="a CMC curve is over all queries", remedy="Leave it out")
    if kind == "attributes" and len(picture.names) > 2:
        why = f"{len(picture.names)} were named"
        raise UsageError("tracklets", why=why, remedy="Name one, or two to compare them")
    if kind != "attributes":
        from amem_cli.data.manifest import require_people

        require_people(source.manifest)
    atomic.require_writable(picture.out)
    from amem_cli.tools import draw  # after the checks: it imports torch and matplotlib

    return draw.KINDS[kind](picture, source, progress)


def show_all(folder: Path, source: "Source", progress: Progress) -> tuple[list[Path], dict[str, Any]]:
    """Every picture but the attention of a finished chain, into `folder`; also the errors of predicted frames."""
    from amem_cli.tools.source import Picture

    names = {"ranking": "ranked-lists", "cmc": "cmc", "attributes": "attributes", "frames": "predicted-frames"}
    drawn = {kind: show(kind, Picture((), folder / f"{name}.png"), source, progress) for kind, name in names.items()}
    return [path for path, _ in drawn.values()], drawn["frames"][1]
