"""What people read on standard output: tables by Rich, plain where there is no terminal."""

import dataclasses
import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from amem_cli.artifacts.status import ArtifactState
    from amem_cli.tools.doctor import Finding


NEVER_BREAK: Any = {"break_long_words": False, "break_on_hyphens": False}


def print_table(table: "Table") -> None:
    """A Rich table on standard output, no wider than the terminal; 80 columns (or $COLUMNS) when that is none."""
    from rich.console import Console

    # names and paths with brackets or colons are no markup
    Console(width=_width(), highlight=False, markup=False, emoji=False).print(table)


def print_wrapped(text: str, indent: str = "") -> None:
    """A text at the terminal's width, its further lines indented by two; words and paths are never broken."""
    further = indent + "  "
    print(textwrap.fill(text, _width(), initial_indent=indent, subsequent_indent=further, **NEVER_BREAK))


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
    print(f"{result.stage}: {result.artifact} ({how})")
    if figures:
        print_wrapped(figures, "  ")


def print_result(result: dict[str, Any], path: Path) -> None:
    """The table of an evaluation, in per cent, with chance beside it and every convention in words."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    print_wrapped(f"{result['protocol']}, per cent: {result['queries']} queries, gallery {result['gallery']}")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mAP\nofficial"):
        table.add_column(name, justify="right", no_wrap=True)
    deviation = result.get("standard_deviation")
    table.add_row("mean of splits" if deviation else "result", *_row(result))
    if deviation:
        table.add_row("deviation", *_row(deviation))
    other = result.get("gallery_without_queries")
    if other and "rank" in other:
        table.add_row("without queries", *_row(other))
    for part, words in (("flipped", "mirrored clips too"), ("reranked", "re-ranked")):
        if part in result:
            table.add_row(words, *_row(result[part]))
    table.add_row("chance", *_row(result["chance"]))
    print_table(table)
    if interval := result.get("interval"):
        ends = (f"{name} {'-'.join(f'{100 * end:.1f}' for end in interval[name])}" for name in ("rank-1", "mAP"))
        print_wrapped(f"95 % interval over {'splits' if deviation else 'queries'}: {', '.join(ends)}")
    if found := result.get("calibration"):
        print_wrapped(
            f"the same person where the cosine similarity exceeds {found['threshold_cosine']:.4f}: "
            f"{100 * found['true_match_rate']:.1f} % of true pairs found, "
            f"{100 * found['false_match_rate']:.3g} % of false pairs taken for true"
        )
    print_wrapped("protocol: " + "; ".join(str(choice) for choice in result["choices"].values()))
    print(f"written to {path}")


def print_comparison(found: list[tuple[str, dict[str, Any]]], as_json: bool, paper: bool) -> None:
    """Results of one protocol side by side; with `paper` the rows of its Table 5 for this data set."""
    from amem_cli.tools.paper import CITED, RESULTS

    dataset = found[0][1]["dataset"]
    rows = [(name, [r["rank"]["1"], r["rank"]["5"], r["rank"]["20"], r["mAP"]]) for name, r in found]
    if paper:
        printed = [(f"paper: {cited.method}", getattr(cited, dataset.replace("-", "_"), None)) for cited in CITED]
        own = RESULTS.get(dataset, {})
        printed += [("paper: baseline", own.get("baseline")), ("paper: AMEM", own.get("amem"))]
        rows += [(name, [v if v is None else v / 100 for v in values]) for name, values in printed if values]
    if as_json:
        names = ("rank-1", "rank-5", "rank-20", "mAP")
        print(json.dumps({name: dict(zip(names, values, strict=True)) for name, values in rows}))
        return
    from rich.table import Table

    table = Table(title=f"{found[0][1]['protocol']}, per cent", title_justify="left")
    table.add_column("", overflow="fold")
    for name in ("rank-1", "rank-5", "rank-20", "mAP"):
        table.add_column(name, justify="right")
    for name, values in rows:
        table.add_row(name, *("" if value is None else f"{100 * value:.1f}" for value in values))
    print_table(table)


def print_chain(states: "list[ArtifactState]", workspace: Path, as_json: bool) -> None:
    """The chain of artifacts, each by its path within the workspace, and the next command."""
    following = next((state for state in states if state.state not in ("ready", "unused")), None)
    if as_json:
        rows = [
            {"stage": s.stage, "path": str(s.path), "state": s.state, "why": s.why, "command": s.command}
            for s in states
        ]
        print(json.dumps({"chain": rows, "next": following.command if following else None}))
        return
    from rich.table import Table

    print(f"workspace {workspace}")
    table = Table()
    for name in ("stage", "state", "artifact"):
        table.add_column(name, overflow="fold")
    for state in states:
        path = state.path.relative_to(workspace) if state.path.is_relative_to(workspace) else state.path
        table.add_row(state.stage, state.state, f"{path}" + (f"\n{state.why}" if state.why else ""))
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
        print_wrapped(f"problem: {problem}")
    if report.problem_count > len(report.problems):
        print(f"... {report.problem_count} problems in all")
    for remark in report.remarks:
        print_wrapped(f"note: {remark}")
    if report.looks_like:
        print(f"this folder looks like the layout '{report.looks_like}'")
    if report.image_list:
        print(f"image list {'written to' if report.list_written else 'compared with'} {report.image_list}")
    print("good" if report.ok else "not good")


def print_folders(found: Any, as_json: bool) -> None:
    """What `amem data check FOLDER` makes of a folder, and how to go on."""
    if as_json:
        print(json.dumps({"folders": [dataclasses.asdict(one) for one in found]}, default=str))
        return
    for one in found:
        print(f"{one.folder} looks like the layout '{one.layout}'")
        if one.manifest:
            print(f"-> write into {one.command.split()[-1]}:\n{textwrap.indent(one.manifest, '     ')}", end="")
        print(f"-> {one.command}")


def print_findings(findings: "list[Finding]", as_json: bool) -> None:
    """What `amem doctor` found, a line each, with the remedy below what is not good."""
    if as_json:
        problems = sum(finding.state in ("problem", "impossible") for finding in findings)
        rows = [
            {"topic": f.topic, "state": f.state, "found": f.found, "value": f.value, "remedy": f.remedy}
            for f in findings
        ]
        print(json.dumps({"findings": rows, "problems": problems}, allow_nan=False))
        return
    marks = {"ok": "ok", "note": "--", "problem": "??", "impossible": "NO"}
    topics = max(len(finding.topic) for finding in findings)
    for finding in findings:
        lines = [finding.found, *([f"-> {finding.remedy}"] if finding.remedy else [])]
        first, further = f"{marks[finding.state]}  {finding.topic:<{topics}}  ", " " * 6
        for number, line in enumerate(lines):
            indent = first if number == 0 else further
            print(
                textwrap.fill(line, _width(), initial_indent=indent, subsequent_indent=further + "   ", **NEVER_BREAK)
            )
    worst = {state: [f.topic for f in findings if f.state == state] for state in ("problem", "impossible")}
    if worst["impossible"]:
        print_wrapped(f"amem cannot work here: see {', '.join(worst['impossible'])}")
    elif worst["problem"]:
        print_wrapped(f"amem works here; worth a look: {', '.join(worst['problem'])}")
    else:
        print("amem works here")


def print_prediction(errors: dict[str, Any]) -> None:
    """What MEM predicts, beside copying the last frame and beside its predictions from another clip's f_M."""
    ratio = "none, nothing moves" if errors["mse_ratio"] is None else f"{errors['mse_ratio']:.2f}"
    psnr, copied = ("exact" if errors[key] is None else f"{errors[key]:.1f} dB" for key in ("psnr", "psnr_copied"))
    print_wrapped(
        f"predicted frames: MSE {errors['mse']:.4f}, copying the last frame {errors['mse_copied']:.4f}, "
        f"ratio {ratio}; PSNR {psnr} (copy {copied}), SSIM {errors['ssim']:.3f} (copy {errors['ssim_copied']:.3f})"
    )
    if (other := errors.get("mse_other_motion")) is not None:
        print_wrapped(
            f"from another clip's f_M: MSE {other:.4f}; where it is no larger, the motion feature is not used"
        )


def print_shares(shares: dict[str, dict[str, float]]) -> None:
    """How much of ||f_s||^2 comes from each part, for each tracklet."""
    for name, parts in shares.items():
        print_wrapped(f"{name}: " + ", ".join(f"{part} {100 * share:.0f} %" for part, share in parts.items()))


def print_bench(found: dict[str, Any], as_json: bool) -> None:
    """What `amem bench` measured: a line for each part, the ceilings, and MARS by these rates."""
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    machine, ceilings = found["machine"], found["ceilings"]
    told = [machine["name"], f"{machine['cores']:g} cores", f"{machine['threads']} threads"]
    told += [
        f"torch {machine['torch']}",
        machine["precision"],
        *(f"{part} by {engine}" for part, engine in machine["engine"].items()),
    ]
    print_wrapped(", ".join(told))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("", "rate", "a step", "ceiling", "of it"):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for rate in found["rates"]:
        pair = (rate["value"], rate["ceiling"])
        value, ceiling = (f"{number:.0f}" if number >= 100 else f"{number:.3g}" for number in pair)
        figures = (f"{value} {rate['unit']}", f"{rate['seconds']:.3g} s", ceiling)
        table.add_row(rate["part"], *figures, f"{100 * rate['fraction']:.0f} %")
    print_table(table)
    print_wrapped("ceilings: " + "; ".join(f"{rate['part']}: {rate['bound']}" for rate in found["rates"]))
    print_wrapped(
        f"a large convolution {ceilings['convolution'] / 1e9:.0f} GFLOP/s, a copy of memory "
        f"{ceilings['copy'] / 1e9:.1f} GB/s, libjpeg alone {ceilings['libjpeg']:.0f} images/s a core"
    )
    times = (
        f"{stage} {seconds / 3600:.1f} h" if seconds > 600 else f"{stage} {seconds:.1f} s"
        for stage, seconds in found["mars"].items()
    )
    print_wrapped(f"MARS by these rates: {', '.join(times)}")


def print_pictures(paths: list[Path]) -> None:
    """Where the pictures are."""
    print("pictures to look at:" if len(paths) > 1 else "picture to look at:")
    for path in paths:
        print(f"  {path}")


def _width() -> int:
    return max(shutil.get_terminal_size().columns, 40)


def print_reproduction(table: dict[str, Any], path: Path | None, as_json: bool) -> None:
    """A table of the paper with ours beside it, and where it was written."""
    if as_json:
        print(json.dumps(table, default=str))
        return
    from amem_cli.tools.reproduce.table import blocks_for_terminal, chances, starting_weights

    for title, columns, rows in blocks_for_terminal(table):
        _print_cells(title, columns, rows)
    if not table["complete"]:
        print(f"not complete: {table['runs_done']} of {table['runs']} rows with their seeds are done")
    for line in [*chances(table), f"Weights to start from: {starting_weights(table)}."]:
        print_wrapped(line)
    for note in table["notes"]:
        print_wrapped(f"note: {note}")
    print(f"written to {path}" if path else "not written: the same command without --seed makes the table")


def print_sizes(table: dict[str, Any], path: Path, as_json: bool) -> None:
    """The sizes of the models, each with its reading."""
    if as_json:
        print(json.dumps(table))
        return
    from amem_cli.tools.reproduce.table import size_columns_and_rows

    columns, rows = size_columns_and_rows(table)
    _print_cells(table["title"], columns, rows)
    for cells, row in zip(rows, table["rows"], strict=True):
        print_wrapped(f"{cells[0]}: {row['reading']}")
    for note in table["notes"]:
        print_wrapped(f"note: {note}")
    print(f"written to {path}")


def print_weights(report: Any, as_json: bool) -> None:
    """What a weight file is and whether it fits."""
    if as_json:
        print(json.dumps(dataclasses.asdict(report), default=str))
        return
    print(f"{report.path}: {report.container}, {report.keys} keys, {report.parameters:,} parameters")
    print(f"  {report.bytes:,} bytes, sha256 {report.sha256}")
    if report.architecture is not None:
        head = f"with a head of {report.head_classes} classes" if report.head_classes else "without a head"
        mean, deviation = (
            ", ".join(f"{value:.4g}" for value in values)
            for values in (report.normalisation.mean, report.normalisation.std)
        )
        print_wrapped(f"{report.architecture}: {report.dialect}, {head}", "  ")
        print_wrapped(f"wants pixels in [0, 1] less ({mean}), divided by ({deviation})", "  ")
    for problem in report.problems:
        print_wrapped(f"problem: {problem}", "  ")
    print(f"fits {report.architecture}" if report.fits else "does not fit")


def _print_cells(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in columns:
        words = name in ("model", "data", "what", "beside")
        table.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for cells in rows:
        table.add_row(*cells)
    print_table(table)


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
