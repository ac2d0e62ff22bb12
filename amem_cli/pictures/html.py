"""One HTML file for each page: pictures, style and script are inside, and no network is used."""

import base64
import hashlib
import io
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from amem_cli import __version__
from amem_cli.artifacts import atomic
from amem_cli.errors import OutputExists, UsageError

MARK = b'<meta name="generator" content="amem">'  # in the first lines of every page


def render(package: str, page: str, helpers: Iterable[Callable[..., Any]], **content: Any) -> str:
    """The page PAGE.html.j2 of a package, with PAGE.css and PAGE.js, as HTML text; it can use the `helpers`.

    Jinja2 escapes all that comes from outside (names, paths, options, messages). The page's content security policy
    allows its own script only, by its hash, and no address.
    """
    files = [resources.files(package) / f"{page}.{kind}" for kind in ("html.j2", "css", "js")]
    template, style, script = (file.read_text("utf-8") for file in files)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for names in (environment.globals, environment.filters, environment.tests):
        names.update({helper.__name__: helper for helper in helpers})
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    inside = {"style": Markup(style), "script": Markup(script), "script_hash": digest, "version": __version__}
    text = environment.from_string(template).render(**inside, **content)
    return text.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8


def require_page(out: Path) -> None:
    """Raise `UsageError` unless `out` is the name of an HTML file, `OutputExists` if another program or person wrote
    the file in its place, and as `atomic.require_writable`."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError("--out", out, why="its suffix is neither .html nor .htm", remedy="Name an HTML file")
    atomic.require_writable(out)
    if not out.exists():
        return
    with atomic.open_input(out, "--out") as file:
        if MARK not in file.read(1000):
            why = "it exists and is not known to be a page of amem"
            raise OutputExists("--out", out, why=why, remedy="Choose another place, or move it away")


def webp(picture: Image.Image, quality: int) -> str:
    """A picture as a data address."""
    content = io.BytesIO()
    picture.save(content, format="WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def clock(seconds: float) -> str:
    """A time in a video, or a duration: 1:15 or 1:02:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
