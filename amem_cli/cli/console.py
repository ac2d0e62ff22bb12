"""What commands print on standard output: one JSON document, or tables and lines for people."""

import dataclasses
import json
import re
import shutil
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amem_cli.errors import printable
from amem_cli.runtime.progress import Progress

if TYPE_CHECKING:
    from amem_cli.artifacts.output import StageResult
    from amem_cli.data.chain import ArtifactState
    from amem_cli.data.check import CheckReport, FoundFolder
    from amem_cli.tools.doctor import Finding
    from amem_cli.tools.inspect_weights import WeightsReport
    from amem_cli.tools.reproduce.run import Block

RANKS = ("1", "5", "10", "20")
COMPARED = ("rank-1", "rank-5", "rank-20", "mAP")
RATES = (*(f"rank-{k}" for k in RANKS), "mAP")
LEAST_TEXT = 8  # characters of a column of text
COMMAND = r"(?<=[:>] )(?:amem|cd|python -m) (?:(?!, |; ).)*"  # in a text
STYLES = {"ready": "green", "unfinished": "yellow", "stale": "yellow", "damaged": "red", "NO": "red"}  # of cells


def print_json(document: Any) -> None:
    """One JSON document; dataclasses become objects, paths become strings."""

    def plain(value: Any) -> Any:
        return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)  # type: ignore[arg-type]

    print(json.dumps(document, default=plain, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table no wider than the terminal (80 columns or $COLUMNS without one), but wide enough for its numbers, which
    are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    if title:
        print_wrapped(title)  # a table would break it to its own width
    table, least = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False), 0
    for number, heading in enumerate(columns):
        numeric = number > 0 and all(re.match(r"$|-$|[+-]?\d", row[number]) for row in rows)
        longest = max(len(line) for cell in (heading, *(row[number] for row in rows)) for line in cell.split("\n"))
        width = longest if numeric else min(longest, LEAST_TEXT)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(heading, justify=justify, no_wrap=numeric, overflow="fold", min_width=width)
        least += width + 2  # with the gap to the next column
    for row in rows:
        lines = ("\n".join(map(printable, cell.split("\n"))) for cell in row)
        table.add_row(*(Text(line, STYLES.get(line, "")) for line in lines))
    # no markup: names and paths may contain brackets and colons
    Console(width=max(_width(), least), highlight=False, markup=False, emoji=False).print(table)


def print_wrapped(text: str, indent: str = "", further: str | None = None) -> None:
    """A text wrapped to the terminal; words, paths and commands are not. `further` indents all lines but the first."""
    further = indent + "  " if further is None else further
    wrapper = textwrap.TextWrapper(_width(), initial_indent=indent, subsequent_indent=further)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    whole = re.sub(COMMAND, lambda match: match[0].replace(" ", "\0"), printable(text))
    print(wrapper.fill(whole).replace("\0", " "))


def _width() -> int:
    return max(shutil.get_terminal_size().columns, 40)


def _per_cent(rate: float | None) -> str:
    return "" if rate is None else f"{100 * rate:.1f}"


def _rates(figures: Mapping[str, Any]) -> list[str]:
    return [*(_per_cent(figures["rank"][k]) for k in RANKS), _per_cent(figures["mAP"])]


def print_options(command: str, options: Any, as_json: bool) -> None:
    """The resolved options, for `--dry-run`."""
    if as_json:
        print_json({"command": command, "options": dataclasses.asdict(options)})
        return
    print(f"amem {command} would run with")
    for name, value in dataclasses.asdict(options).items():
        print(f"  {name.replace('_', '-')} = {json.dumps(value, default=str)}")


def print_stages(results: "StageResult | list[StageResult]", progress: Progress, as_json: bool) -> None:
    """The results of a stage, one or one per split: artifact and main metrics of each; nothing if quiet."""
    results = results if isinstance(results, list) else [results]
    seconds = round(time.monotonic() - progress.began, 3)
    if as_json:
        documents = [result.as_json() for result in results]
        document = documents[0] if len(documents) == 1 else {"stage": results[0].stage, "results": documents}
        print_json(document | {"seconds": seconds, "warnings": progress.warnings})
    elif not progress.quiet:
        for result in results:
            print(f"{result.stage}: {result.artifact} ({'reused' if result.reused else f'{seconds:.0f} s'})")
            figures = {name: one for name, one in _flat(result.metrics).items() if isinstance(one, int | float)}
            if text := ", ".join(f"{name} {one:.4g}" for name, one in figures.items() if "per_attribute" not in name):
                print_wrapped(text, "  ")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key} ") if isinstance(value, dict) else {prefix + key: value}
    return flat


def print_result(result: dict[str, Any], path: Path) -> None:
    """The table of an evaluation in per cent, with chance level, intervals and conventions."""
    from amem_cli.artifacts.results import incomplete_of, queries_of, rows_of

    print_wrapped(f"{result['protocol']}, per cent: {queries_of(result)}, gallery {result['gallery']}")
    if incomplete := incomplete_of(result):
        print_wrapped(incomplete)
    cells = [[name, *_rates(rates), _per_cent(rates.get("mAP_official"))] for name, rates in rows_of(result)]
    print_table(["", *RATES, "mAP\nofficial"], cells)
    if without_queries := result.get("gallery_without_queries"):
        print_wrapped(f"without queries: {queries_of(without_queries)}, none of them in the gallery")
    if interval := result.get("interval"):
        ends = (f"{name} {'-'.join(map(_per_cent, interval[name]))}" for name in ("rank-1", "mAP"))
        over = "splits" if result.get("standard_deviation") else "queries"
        print_wrapped(f"95 % interval over {over}: {', '.join(ends)}")
    if calibration := result.get("calibration"):
        true, false = (100 * calibration[f"{kind}_match_rate"] for kind in ("true", "false"))
        counts = (calibration.get(f"{kind}_pairs") for kind in ("genuine", "impostor"))
        pairs = ["" if count is None else f"{count:.0f} " for count in counts]
        accepts = f"accepts {true:.1f} % of {pairs[0]}true pairs and {false:.3g} % of {pairs[1]}false pairs"
        cosine = calibration["threshold_cosine"]
        squared = f"(squared distance below {2 - 2 * cosine:.4g})"
        print_wrapped(f"same person if the cosine similarity exceeds {cosine:.4f} {squared}: {accepts}")
        if (error := calibration.get("calibration_error")) is not None:
            off = f"off by {100 * error:.1f} % on people it was not fitted on"
            print_wrapped(f"the probability for amem search is {off}")
    print_wrapped("protocol: " + "; ".join(map(str, result["choices"].values())))
    if "conventions" in result:
        _print_conventions(result["conventions"])
    print(f"written to {path}")


def _print_conventions(rows: list[dict[str, Any]]) -> None:
    """The figures as other code bases count them, then the reasons."""
    cells = []
    for row in rows:
        rates = _rates(row) if row["rank"] else [""] * len(RATES)
        cells.append([row["code_base"], *rates, str(row["queries"]), str(row["gallery"])])
    print_table(["counted as by", *RATES, "queries", "gallery"], cells, title="the same distances, per cent")
    for row in rows:
        print_wrapped(f"{row['code_base']}: {row['why']}")


def print_comparison(results: list[tuple[str, dict[str, Any]]], as_json: bool, paper: bool) -> None:
    """Results of one protocol next to each other; with `paper` also Table 5 for this data set."""
    from amem_cli.artifacts.results import incomplete_of, queries_of
    from amem_cli.data.manifest import SHIPPED, load_manifest

    dataset = results[0][1]["dataset"]
    rows = [(name, [*(result["rank"][k] for k in ("1", "5", "20")), result["mAP"]]) for name, result in results]
    printed = paper_rows(dataset) if paper else {}
    if as_json:
        bases = {name: {"over": queries_of(result), "gallery": result["gallery"]} for name, result in results}
        print_json({name: dict(zip(COMPARED, values, strict=True)) | bases[name] for name, values in rows} | printed)
        return
    rows += [(name, [*values.values()]) for name, values in printed.items()]
    cells = ([name, *map(_per_cent, values)] for name, values in rows)
    print_table(["", *COMPARED], cells, title=f"{results[0][1]['protocol']}, per cent")
    base = f"{', '.join(name for name, _ in results)}: {queries_of(results[0][1])}, gallery {results[0][1]['gallery']}"
    official = load_manifest(dataset).counts if paper and dataset in SHIPPED else {}
    print_wrapped(base + (f"; the paper: {official['query_tracklets']} queries of {dataset}" if official else ""))
    for incomplete in sorted({incomplete_of(result) for _, result in results} - {""}):
        print_wrapped(incomplete)
    for name, result in results:
        if "--" in (how := result["choices"].get("extraction", "")) or "mirror" in how:
            print_wrapped(f"{name}: {how}")


def paper_rows(dataset: str) -> dict[str, dict[str, float | None]]:
    """The rates of Table 5 for a data set by method, as fractions: the methods that the paper cites, and its own."""
    from amem_cli.tools.paper import CITED, RESULTS

    own = RESULTS.get(dataset, {})
    printed = {f"paper: {method}": rates.get(dataset) for method, rates in CITED.items()}
    printed |= {"paper: baseline": own.get("baseline"), "paper: AMEM": own.get("amem")}
    return {name: rates.fractions() for name, rates in printed.items() if rates}


def print_chain(states: "list[ArtifactState]", workspace: Path, following: str | None) -> None:
    """The chain of artifacts, each by its path within the workspace, and the next command."""
    print(f"workspace {workspace}")
    rows = []
    for state in states:
        path = state.path.relative_to(workspace) if state.path.is_relative_to(workspace) else state.path
        stage = state.stage if state.split is None else f"{state.stage} {state.split}"
        rows.append([stage, state.state, f"{path}\n{state.why}".strip()])
    print_table(("stage", "state", "artifact"), rows)
    print(f"next: {following}" if following else "complete")


def print_check(report: "CheckReport") -> None:
    """The table of `amem data check`, its problems and notes."""
    rows = []
    for row in report.rows:
        mark = "" if row.expected is None else "ok"
        if row.found is None or not row.ok:
            mark = "?" if row.found is None else "NO"
        figures = ["" if value is None else str(value) for value in (row.expected, row.found)]
        rows.append([mark, row.what, *figures, row.note])
    print_table(("", "what", "expected", "found", "note"), rows, title=f"{report.title} in {report.folder}")
    for problem in report.problems:
        print_wrapped(f"problem: {problem}")
    if report.problem_count > len(report.problems):
        print(f"... {report.problem_count} problems in total")
    for remark in report.remarks:
        print_wrapped(f"note: {remark}")
    if report.looks_like:
        print(f"this folder looks like the layout '{report.looks_like}'")
    print("ok" if report.ok else "not ok")


def print_folders(folders: "list[FoundFolder]") -> None:
    """Layouts that `amem data check FOLDER` recognises, and the next command for each."""
    for one in folders:
        print(f"{one.folder} looks like the layout '{one.layout}'")
        if one.manifest:
            print(f"-> write into {one.command.split()[-1]}:\n{textwrap.indent(one.manifest, '     ')}", end="")
        print(f"-> {one.command}")


def print_findings(findings: "list[Finding]") -> None:
    """The lines of `amem doctor`; below a problem its remedy."""
    marks = {"ok": "ok", "note": "--", "problem": "??", "impossible": "NO"}
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        print_wrapped(finding.found, f"{marks[finding.state]}  {finding.topic:<{width}}  ", " " * 9)
        if finding.remedy:
            print_wrapped(f"-> {finding.remedy}", " " * 6, " " * 9)
    for state, text in (("impossible", "amem cannot work here: see"), ("problem", "amem works here, with problems:")):
        if topics := [finding.topic for finding in findings if finding.state == state]:
            print_wrapped(f"{text} {', '.join(topics)}")
            return
    print("amem works here")


def print_prediction(errors: dict[str, Any]) -> None:
    """Errors of the frames that MEM predicts, compared with copies of the last frame and with another clip's f_M."""
    ratio = "undefined, nothing moves" if errors["mse_ratio"] is None else f"{errors['mse_ratio']:.2f}"
    psnr, copied = ("exact" if errors[key] is None else f"{errors[key]:.1f} dB" for key in ("psnr", "psnr_copied"))
    better = "better" if errors.get("better_than_copying") else "not better"
    verdict = f" ({better} than copying, over {errors['clips']} clips)" if "clips" in errors else ""
    print_wrapped(
        f"predicted frames{verdict}: MSE {errors['mse']:.4f}, copies of the last frame {errors['mse_copied']:.4f}, "
        f"ratio {ratio}; PSNR {psnr} (copy {copied}), SSIM {errors['ssim']:.3f} (copy {errors['ssim_copied']:.3f})"
    )
    if (other := errors.get("mse_other_motion")) is not None:
        print_wrapped(f"with another clip's f_M: MSE {other:.4f}; MEM uses f_M only if this is larger")


def print_pictures(paths: list[Path]) -> None:
    """Paths of pictures."""
    print("pictures:" if len(paths) > 1 else "picture:")
    for path in paths:
        print(f"  {path}")


def print_bench(figures: dict[str, Any]) -> None:
    """The rates of `amem bench`, their ceilings, and the time that MARS would take."""
    machine, ceilings = figures["machine"], figures["ceilings"]
    cores = f"{machine['cores']:g} cores, {machine['threads']} threads, torch {machine['torch']}"
    engines = (f"{task} by {engine}" for task, engine in machine["engine"].items())
    print_wrapped(", ".join([machine["name"], cores, machine["precision"], *engines]))
    rows = []
    for rate in figures["rates"]:
        pair = (rate["value"], rate["ceiling"])
        value, ceiling = (f"{number:.0f}" if number >= 100 else f"{number:.3g}" for number in pair)
        cells = [f"{value} {rate['unit']}", f"{rate['seconds']:.3g} s", ceiling, f"{100 * rate['fraction']:.0f} %"]
        rows.append([rate["part"], *cells])
    print_table(("", "rate", "a step", "ceiling", "of ceiling"), rows)
    print_wrapped(
        f"ceilings: decoding {ceilings['libjpeg']:.0f} images/s a core by libjpeg alone; the others a large "
        f"convolution, {ceilings['convolution'] / 1e9:.0f} GFLOP/s"
    )
    times = (
        f"{stage} {seconds / 3600:.1f} h" if seconds > 600 else f"{stage} {seconds:.1f} s"
        for stage, seconds in figures["mars"].items()
    )
    print_wrapped(f"MARS at these rates: {', '.join(times)}")


def print_tables(tables: "Iterable[Block]", remarks: Iterable[str], path: Path) -> None:
    """Tables of `amem reproduce` with remarks; `path` is the file they were written to."""
    for title, columns, rows in tables:
        print_table(columns, rows, title)
    for remark in remarks:
        print_wrapped(remark)
    print(f"written to {path}")


def print_weights(report: "WeightsReport") -> None:
    """The content of a weight file, and the network it fits."""
    print(f"{report.path}: {report.container}, {report.keys} keys, {report.parameters:,} parameters")
    print(f"  {report.bytes:,} bytes, sha256 {report.sha256}")
    if report.architecture is not None and report.normalisation is not None:
        head = f"with a head of {report.head_classes} classes" if report.head_classes else "without a head"
        numbers = (report.normalisation.mean, report.normalisation.std)
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in numbers)
        print_wrapped(f"{report.architecture}: {report.key_mapping}, {head}", "  ")
        print_wrapped(f"expects pixels in [0, 1], minus ({mean}), divided by ({std})", "  ")
    for line in (*report.notes, *(f"problem: {problem}" for problem in report.problems)):
        print_wrapped(line, "  ")
    print(f"fits {report.architecture}" if report.fits else "does not fit")


def print_export(description: dict[str, Any]) -> None:
    """Input, outputs and figures of an export."""
    given, (height, width) = description["input"], description["image_size"]
    shape = ", ".join(map(str, given["shape"]))
    print_wrapped(f"{given['name']}: uint8 RGB ({shape}), resized to {height} x {width} inside", "  ")
    for name, (_, size) in description["outputs"].items():
        print(f"  {name}: float32 (batch, {size})")
    for name, found in list(description.get("cosine_distance", {}).items())[1:]:
        print(f"  cosine distance to the original on {name} clips: {found:.1e}")
    if int8 := description.get("int8"):
        print(f"  8 bits: cosine distance to the original {int8['cosine_distance']:.1e}")
        if "mAP_before" in int8:
            print(f"  mAP {100 * int8['mAP_before']:.1f} before 8 bits, {100 * int8['mAP_after']:.1f} with 8 bits")
