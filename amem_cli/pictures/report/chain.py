"""The report's last section: the six artifacts with options, parents, versions, hashes and durations."""

from collections.abc import Sequence
from html import escape

from amem_cli.pictures.report.content import Link
from amem_cli.pictures.report.parts import duration_words


def chain_section(chain: Sequence[Link]) -> str:
    following = next((link for link in chain if link.state != "ready"), None)
    if following:
        parts = [f"<p>Next: <code>{escape(following.command)}</code></p>"]
    else:
        parts = ["<p>Every artifact is there, and each was made from the one before it that stands there now.</p>"]
    parts.append('<ol class="chain">')
    for link in chain:
        facts = [f"<code>{escape(str(link.path))}</code>"]
        if link.megabytes is not None:
            facts.append(f"{link.megabytes:.1f} MB" if link.megabytes >= 1 else f"{1000 * link.megabytes:.1f} kB")
        if link.seconds is not None:
            facts.append(f"took {duration_words(link.seconds)}")
        lines = [f"<p>{' · '.join(facts)}</p>"]
        if link.why:
            lines.append(f"<p>{escape(link.why)}</p>")
        if link.state != "ready":
            lines.append(f"<p>Run: <code>{escape(link.command)}</code></p>")
        if link.sha256:
            lines.append(f'<p class="hash"><span>SHA-256</span> <code>{escape(link.sha256)}</code></p>')
        tables = "".join(
            f'<div><h4>{escape(title)}</h4><dl class="facts">'
            + "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in table.items())
            + "</dl></div>"
            for title, table in link.details.items()
            if table
        )
        if tables:
            names = ", ".join(title.lower() for title, table in link.details.items() if table)
            lines.append(
                f'<details><summary>{escape(names.capitalize())}</summary><div class="tables">{tables}</div></details>'
            )
        state = f'<span class="state">{escape(link.state)}</span>'
        parts.append(f'<li class="{escape(link.state)}"><h3>{escape(link.stage)} {state}</h3>{"".join(lines)}</li>')
    return "".join([*parts, "</ol>"])
