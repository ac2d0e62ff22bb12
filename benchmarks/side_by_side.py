"""All benchmarks next to their baselines, and the page about them.

    python benchmarks/side_by_side.py [decoding labelling extraction training ranking growth] [--runs 3]

Without names all are run. Their figures go to `docs/performance.json`, from which `docs/PERFORMANCE.md` and
`docs/performance-growth.svg` are written; `--page` only writes these. Figures of another machine or of other versions
are dropped, because ratios of two machines mean nothing. OpenVINO and torchreid are measured if they are installed.
"""

import argparse
import contextlib
import json
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import decoding
import extraction
import growth
import ranking
import torch
import training

from amem_cli.artifacts import atomic
from amem_cli.tools.bench import processor

DOCS = Path(__file__).resolve().parents[1] / "docs"
FIGURES, PAGE, PLOT = DOCS / "performance.json", DOCS / "PERFORMANCE.md", DOCS / "performance-growth.svg"
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "openvino", "torchreid")
GROWTH = tuple(f"growth {what}" for what in growth.POINTS)
PARTS = ("decoding", "labelling", "extraction", "training", "ranking", *GROWTH)
TITLES = {"baseline": "the baseline", "baseline+allocator": "the baseline with amem's allocator settings"}


class Comparison(NamedTuple):
    """One row of the page."""

    work: str
    baseline: str
    amem: str
    ratio: float

    def cells(self) -> tuple[str, ...]:
        return self.work, self.baseline, self.amem, f"{self.ratio:.2f}"


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions."""
    about = {"processor": processor(), "threads": torch.get_num_threads(), "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            about[name] = metadata.version(name)
    return about


def measure(part: str, runs: int) -> Any:
    """The figures of one of `PARTS`."""
    measures = {
        "decoding": lambda: decoding.run(max(runs, 5)),
        "labelling": lambda: extraction.run("resnet50", runs),
        "extraction": lambda: extraction.run("i3d", runs),
        "training": lambda: training.run(torch.get_num_threads(), runs),
        "ranking": lambda: ranking.run(runs),
    }
    return measures[part]() if part in measures else growth.run(part.removeprefix("growth "))


# -- the page ----------------------------------------------------------------------------------------------------------


def comparisons(figures: dict[str, Any]) -> Iterator[Comparison]:
    """The rows of the page, from the figures that exist."""
    for size, times in figures.get("decoding", {}).get("microseconds", {}).items():
        for name, note in (("amem", ""), ("amem + device", ", with normalisation on the CPU")):
            work, pair = f"decoding, JPEG of {size}{note}", (times["baseline"], times[name])
            yield Comparison(work, *(f"{value:.0f} us" for value in pair), pair[0] / pair[1])
    for part, unit in (("labelling", "images/s"), ("extraction", "clips/s")):
        if part in figures:
            yield from _engines(part, unit, figures[part])
    if "training" in figures:
        yield from _steps(figures["training"])
    methods = figures.get("ranking", {}).get("methods", {})
    for name, method in methods.items():
        if name != "amem":
            work, pair = f"CMC and mAP, {name}", (method["seconds"], methods["amem"]["seconds"])
            yield Comparison(work, *(f"{value:.3g} s" for value in pair), pair[0] / pair[1])


def _engines(part: str, unit: str, found: dict[str, Any]) -> Iterator[Comparison]:
    """Each engine and the baseline in fp32; the fastest engine of a precision is marked."""
    baseline = found["methods"]["baseline fp32"]["wall"]
    for precision in ("fp32", "bf16"):
        methods = {n.split()[0]: m for n, m in found["methods"].items() if n.endswith(precision)}
        fastest = min(methods.keys() - TITLES.keys(), key=lambda name: methods[name]["wall"])
        for name, method in methods.items():
            if (name, precision) != ("baseline", "fp32"):
                work = f"{part}, {precision}, {TITLES.get(name) or f'engine {name}'}"
                rates = (f"{found['items'] / wall:.3g} {unit}" for wall in (baseline, method["wall"]))
                title = f"{work}, the fastest" if name == fastest else work
                yield Comparison(title, *rates, baseline / method["wall"])


def _steps(found: dict[str, Any]) -> Iterator[Comparison]:
    """Each training step and the baseline in fp32 with as many threads."""
    baseline = {row["threads"]: row["seconds"] for row in found["steps"] if row["method"] == "baseline fp32"}
    for row in found["steps"]:
        name, _, precision = row["method"].partition(" ")
        if (name, precision) != ("baseline", "fp32"):
            work = f"training step of {found['clips']} clips, {precision}, {row['threads']} threads"
            pair = baseline[row["threads"]], row["seconds"]
            title = f"{work}, {TITLES[name]}" if name in TITLES else work
            yield Comparison(title, *(f"{value:.3g} s" for value in pair), pair[0] / pair[1])


def page(about: dict[str, Any], figures: dict[str, Any]) -> str:
    """`docs/PERFORMANCE.md`: machine, comparisons, growth."""
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", *PACKAGES) if name in about)
    lines = [
        "# Speed",
        "",
        "Written by `python benchmarks/side_by_side.py`; do not edit. Medians of runs in turns, with random weights",
        "and generated people. Ratios are similar on other machines, seconds are not: `amem bench` measures yours.",
        "",
        *([about["note"], ""] if "note" in about else []),
        f"{about['processor']}, {about['threads']} threads, {versions}. No GPU was used.",
        "",
        "| work | baseline | amem | times faster |",
        "|---|---|---|---|",
        *("| " + " | ".join(row.cells()) + " |" for row in comparisons(figures)),
        "",
        "Baselines: for networks, PyTorch eager in fp32 with channels-first maps, padded copies and the system's",
        "allocator settings (amem's: `amem_cli/runtime/allocator.py`); for decoding, PIL and torchvision's transforms",
        "to a normalised tensor, which amem computes on the device; for ranking, torchreid's evaluators and an argsort",
        "per query.",
    ]
    if "ranking" in figures:
        memory = {name: m["memory"] for name, m in figures["ranking"]["methods"].items() if m["memory"] is not None}
        used = ", ".join(f"{name} {value / 1e6:.0f} MB" for name, value in memory.items())
        lines += ["", f"Memory of ranking above its inputs: {used}.", *figures["ranking"]["notes"]]
    if missing := [part for part in PARTS if part not in figures]:
        lines += ["", f"Not measured: {', '.join(missing)}."]
    if curves := growth_curves(figures):
        lines += ["", "## Growth", "", "`amem extract-features`, the whole command, on frames of 32 x 32:"]
        lines += ["", f"![Seconds and peak memory of extract-features]({PLOT.name})"]
        for what, points in curves.items():
            lines += ["", f"| {growth.AXES[what]} | seconds | peak memory, MB |", "|---|---|---|"]
            lines += [f"| {row['x']} | {row['seconds']:.1f} | {row['memory'] / 1e6:.0f} |" for row in points]
    return "\n".join(lines) + "\n"


def growth_curves(figures: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    return {what: figures[f"growth {what}"] for what in growth.POINTS if f"growth {what}" in figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "growth", []], help="default: all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="only write the page, from the figures that exist")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    about = machine()
    saved = json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else {"machine": about, "figures": {}}
    if saved["machine"] != about and not options.page:
        print(f"dropping the figures of another machine: {saved['machine']}", file=sys.stderr)
        saved = {"machine": about, "figures": {}}
    chosen = [part for name in options.parts or PARTS for part in (GROWTH if name == "growth" else (name,))]
    for part in [] if options.page else chosen:
        print(f"{part} ...", file=sys.stderr, flush=True)
        saved["figures"][part] = measure(part, options.runs)
        atomic.write_text(FIGURES, json.dumps(saved, indent=1) + "\n")
    if curves := growth_curves(saved["figures"]):
        growth.draw(curves, PLOT)
    atomic.write_text(PAGE, page(saved["machine"], saved["figures"]))


if __name__ == "__main__":
    main()
