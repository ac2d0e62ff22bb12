"""What people read on standard output: tables by Rich, plain where there is no terminal."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from amem_cli.artifacts.workspace import ArtifactState


def print_table(table: "Table") -> None:
    """A Rich table on standard output, 80 columns wide when that is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 100
    Console(width=width, highlight=False).print(table)


def print_options(command: str, options: Any, as_json: bool) -> None:
    """The resolved options of `--dry-run`."""
    values = {key: _plain(value) for key, value in dataclasses.asdict(options).items()}
    if as_json:
        print(json.dumps({"command": command, "options": values}))
        return
    print(f"amem {command} would run with")
    for key, value in values.items():
        print(f"  {key.replace('_', '-')} = {json.dumps(value)}")


def print_stage(result: Any, seconds: float) -> None:
    """One line: stage, artifact, the figures worth a look."""
    told = {key: value for key, value in _flat(result.metrics).items() if isinstance(value, int | float)}
    figures = ", ".join(f"{key} {value:.4g}" for key, value in told.items() if "per_attribute" not in key)
    how = "already there" if result.reused else f"{seconds:.0f} s"
    print(f"{result.stage}: {result.artifact} ({how})" + (f"\n  {figures}" if figures else ""))


def print_result(result: dict[str, Any], path: Path) -> None:
    """The table of an evaluation, in per cent, with chance beside it and every convention in words."""
    from rich.table import Table

    table = Table(title=f"{result['protocol']}, per cent", title_justify="left")
    table.add_column("")
    for name in ("rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mAP official"):
        table.add_column(name, justify="right")
    deviation = result.get("standard_deviation")
    label = "mean of splits" if deviation else f"{result['queries']} queries, {result['gallery']} gallery"
    table.add_row(label, *_row(result))
    if deviation:
        table.add_row("deviation of splits", *_row(deviation))
    if interval := result.get("interval"):
        one, mean = ("-".join(f"{100 * end:.1f}" for end in interval[name]) for name in ("rank-1", "mAP"))
        table.add_row("95 % interval", one, "", "", "", mean, "")
    other = result.get("gallery_without_queries")
    if other and "rank" in other:
        table.add_row(f"without queries: {other['valid_queries']}, {other['gallery']}", *_row(other))
    if "reranked" in result:
        table.add_row("re-ranked (k-reciprocal)", *_row(result["reranked"]))
    table.add_row("chance", *_row(result["chance"]))
    print_table(table)
    for name, choice in result["choices"].items():
        print(f"  {name.replace('_', ' ')}: {choice}")
    print(f"written to {path}")


def print_chain(states: "list[ArtifactState]", as_json: bool) -> None:
    """The chain of artifacts and the next command."""
    following = next((state for state in states if state.state != "ready"), None)
    if as_json:
        rows = [
            {"stage": s.stage, "path": str(s.path), "state": s.state, "why": s.why, "command": s.command}
            for s in states
        ]
        print(json.dumps({"chain": rows, "next": following.command if following else None}))
        return
    from rich.table import Table

    table = Table()
    for name in ("stage", "state", "artifact"):
        table.add_column(name, overflow="fold")
    for state in states:
        table.add_row(state.stage, state.state, f"{state.path}" + (f"\n{state.why}" if state.why else ""))
    print_table(table)
    print(f"next: {following.command}" if following else "everything is there")


def print_check(report: Any, as_json: bool) -> None:
    """The table of `amem data check`."""
    if as_json:
        print(json.dumps(dataclasses.asdict(report) | {"ok": report.ok}, default=str))
        return
    from rich.table import Table

    table = Table(title=f"{report.title} in {report.folder}", title_justify="left")
    for name in ("", "what", "expected", "found", "note"):
        table.add_column(name, overflow="fold", justify="right" if name in ("expected", "found") else "left")
    for row in report.rows:
        mark = "?" if row.found is None else "ok" if row.ok else "NO"
        numbers = ("" if number is None else str(number) for number in (row.expected, row.found))
        table.add_row(mark, row.what, *numbers, row.note)
    print_table(table)
    for problem in report.problems:
        print(f"problem: {problem}")
    if report.problem_count > len(report.problems):
        print(f"... {report.problem_count} problems in all")
    for remark in report.remarks:
        print(f"note: {remark}")
    if report.looks_like:
        print(f"this folder looks like the layout '{report.looks_like}'")
    if report.image_list:
        print(f"image list {'written to' if report.list_written else 'compared with'} {report.image_list}")
    print("good" if report.ok else "not good")


def print_prediction(errors: dict[str, Any]) -> None:
    """What MEM predicts, beside copying the last frame: only a ratio below 1 has learned about motion."""
    print(
        f"predicted frames: MSE {errors['mse']:.4f}, copying the last frame {errors['mse_copied']:.4f}, "
        f"ratio {errors['mse_ratio']:.2f}; PSNR {errors['psnr']:.1f} dB (copy {errors['psnr_copied']:.1f})"
    )


def print_pictures(paths: list[Path]) -> None:
    """Where the pictures are."""
    print("pictures to look at:")
    for path in paths:
        print(f"  {path}")


def _row(figures: dict[str, Any]) -> list[str]:
    rates = [*(figures["rank"][k] for k in ("1", "5", "10", "20")), figures["mAP"], figures.get("mAP_official")]
    return ["" if rate is None else f"{100 * rate:.1f}" for rate in rates]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [str(item) for item in value] if isinstance(value, tuple) else value
