"""Everything side by side with the usual ways, and the page that tells it.

    python benchmarks/side_by_side.py [decoding labelling extraction training ranking growth] [--runs 3]

Without names everything is run. The figures of each part go to `docs/performance.json` as soon as it is done, and
`docs/PERFORMANCE.md` and `docs/performance-growth.svg` are written anew from all that is in there: parts may be run one
after another. Figures of another machine or other versions are dropped, since ratios of two machines say nothing.
`--page` writes the page alone. Needs torchreid for its evaluators and OpenVINO for its engine; what is not installed is
left out, and the page says so.
"""

import argparse
import contextlib
import json
import platform
import sys
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import decoding
import extraction
import growth
import ranking
import training

from amem_cli.artifacts import atomic
from amem_cli.tools.bench import processor

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "performance.json"
PAGE = ROOT / "docs" / "PERFORMANCE.md"
PLOT = ROOT / "docs" / "performance-growth.svg"
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "openvino", "torchreid")
GROWTH = tuple(f"growth {what}" for what in growth.POINTS)
USUAL = {"usual": "the usual way", "usual+allocator": "the usual way with amem's allocator settings"}
PARTS = ("decoding", "labelling", "extraction", "training", "ranking", *GROWTH)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the page: how many times faster than the usual way, and the ratio to reach (None: no target)."""

    work: str
    usual: str
    ours: str
    ratio: float
    target: float | None
    of_ceiling: float | None = None  # of what a large convolution reaches in the same run

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "reached" if self.ratio >= self.target else "**missed**"


def machine() -> dict[str, Any]:
    """What figures depend on: processor, threads, versions."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    about = {"processor": processor(), "threads": torch.get_num_threads(), "python": platform.python_version()}
    return about | versions


def measure(part: str, runs: int) -> Any:
    """The figures of one of `PARTS`, as its benchmark's `run` returns them."""
    if part == "decoding":
        return decoding.run(max(runs, 5))
    if part == "labelling":
        return extraction.run("resnet50", runs=runs)
    if part == "extraction":
        return extraction.run("i3d", runs=runs)
    if part == "training":
        return training.run(threads=(torch.get_num_threads(),), runs=runs)
    if part == "ranking":
        return ranking.run(runs=runs)
    return growth.run(part.removeprefix("growth "))


# -- the page ----------------------------------------------------------------------------------------------------------


def comparisons(figures: dict[str, Any]) -> list[Comparison]:
    """The lines of the page, from the figures that are there."""
    rows = []
    for size, times in figures.get("decoding", {}).get("microseconds", {}).items():
        usual, ours = times["usual"], times["amem"]
        target = 2.0 if size == "256x128" else None
        rows.append(Comparison(f"decoding, JPEG of {size}", f"{usual:.0f} us", f"{ours:.0f} us", usual / ours, target))
        whole, work = times["amem + device"], f"the same, normalised on the CPU too, JPEG of {size}"
        rows.append(Comparison(work, f"{usual:.0f} us", f"{whole:.0f} us", usual / whole, None))
    for part, unit, targets in (
        ("labelling", "images/s", {("best", "fp32"): 2.2, ("best", "bf16"): 4.5}),
        ("extraction", "clips/s", {("best", "fp32"): 3.4, ("best", "bf16"): 6.0, ("torch", "fp32"): 2.5}),
    ):
        if part in figures:
            rows += _of_engines(part, unit, figures[part], targets)
    if "training" in figures:
        rows += _of_training(figures["training"])
    if "ranking" in figures:
        ways = figures["ranking"]["ways"]
        for name, target in (("brute force", None), ("torchreid Python", 100.0), ("torchreid Cython", 5.0)):
            if name in ways:
                usual, ours = ways[name]["seconds"], ways["amem"]["seconds"]
                rows.append(
                    Comparison(f"CMC and mAP, beside {name}", f"{usual:.3g} s", f"{ours:.3g} s", usual / ours, target)
                )
    return rows


def _of_engines(part: str, unit: str, found: dict[str, Any], targets: dict[tuple[str, str], float]) -> list[Comparison]:
    """Each engine against the usual way in fp32; the fastest of a precision is held against the target."""
    usual = found["ways"]["usual fp32"]["wall"]
    rows = []
    for precision in ("fp32", "bf16"):
        ways = {n.split()[0]: w["wall"] for n, w in found["ways"].items() if n.endswith(precision)}
        engines = {name: seconds for name, seconds in ways.items() if name not in USUAL}
        best = min(engines, key=engines.__getitem__)
        for name, seconds in ways.items():
            if (name, precision) == ("usual", "fp32"):
                continue
            target = targets.get((name, precision))
            if name == best:
                target = targets[("best", precision)]
            label = USUAL.get(name) or f"engine {name}" + (", the fastest" if name == best else "")
            rates = (f"{found['items'] / value:.3g} {unit}" for value in (usual, seconds))
            of_ceiling = found["ways"][f"{name} {precision}"]["of_ceiling"]
            rows.append(Comparison(f"{part}, {precision}, {label}", *rates, usual / seconds, target, of_ceiling))
    return rows


def _of_training(found: dict[str, Any]) -> list[Comparison]:
    """Every step against the usual one in fp32 on as many threads."""
    usual = {row["threads"]: row["seconds"] for row in found["steps"] if row["way"] == "usual fp32"}
    rows = []
    for row in found["steps"]:
        way, _, precision = row["way"].partition(" ")
        if (way, precision) != ("usual", "fp32"):
            seconds, threads = row["seconds"], row["threads"]
            work = f"training step of {found['clips']} clips, {precision}, {threads} threads"
            told, target = (f"{usual[threads]:.3g} s", f"{seconds:.3g} s"), {"fp32": 1.9, "bf16": 2.8}[precision]
            if way in USUAL:
                work, target = f"{work}, {USUAL[way]}", None
            rows.append(Comparison(work, *told, usual[threads] / seconds, target))
    return rows


def page(about: dict[str, Any], figures: dict[str, Any]) -> str:
    """`docs/PERFORMANCE.md`: the machine, each line beside its target, a sentence for each missed one, growth."""
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", *PACKAGES) if name in about)
    lines = [
        "# Speed",
        "",
        "Written by `python benchmarks/side_by_side.py`; not to be edited by hand. Medians of interleaved runs on",
        "random weights and generated people. Ratios travel from machine to machine, seconds do not: `amem bench`",
        "measures yours.",
        "",
        f"{about['processor']}, {about['threads']} threads, {versions}. No GPU was used.",
        "",
        "| work | the usual way | amem | times faster | to reach | |",
        "|---|---|---|---|---|---|",
    ]
    rows = comparisons(figures)
    for row in rows:
        target = "" if row.target is None else f"{row.target:g}"
        lines.append(f"| {row.work} | {row.usual} | {row.ours} | {row.ratio:.2f} | {target} | {row.verdict} |")
    lines += [
        "",
        "The usual way is, for networks, the eager network with channels-first maps and padded copies in fp32, in a",
        "process whose allocator is as the system has it (`amem_cli/allocator.py` says what amem sets); for",
        "decoding PIL and torchvision's transforms to a normalised tensor, where `amem` leaves that to the device; for",
        "ranking, torchreid's evaluators and an argsort for each query.",
    ]
    for row in rows:
        if row.target is not None and row.ratio < row.target:
            text = f"Missed: {row.work} is {row.ratio:.2f} times as fast as the usual way and should be {row.target:g}."
            if row.of_ceiling is not None:
                text += f" It is at {row.of_ceiling:.0%} of what one large convolution reaches in the same run."
            lines += ["", text]
    if "ranking" in figures:
        memory = {name: way["memory"] for name, way in figures["ranking"]["ways"].items() if way["memory"] is not None}
        told = ", ".join(f"{name} {value / 1e6:.0f} MB" for name, value in memory.items())
        lines += ["", f"Memory of ranking beyond its inputs: {told}.", *figures["ranking"]["notes"]]
    if left_out := [part for part in PARTS if part not in figures]:
        lines += ["", f"Not measured here: {', '.join(left_out)}."]
    if curves := growth_curves(figures):
        lines += [
            "",
            "## How it grows",
            "",
            "`amem extract-features` from its start to the file, on frames of 32 x 32:",
        ]
        lines += ["", f"![Seconds and peak memory of extract-features]({PLOT.name})"]
        for what, points in curves.items():
            lines += ["", f"| {what} | seconds | peak memory, MB |", "|---|---|---|"]
            lines += [f"| {row['x']} | {row['seconds']:.1f} | {row['memory'] / 1e6:.0f} |" for row in points]
    return "\n".join(lines) + "\n"


def growth_curves(figures: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """The curves of `growth.POINTS` that are there."""
    return {what: figures[f"growth {what}"] for what in growth.POINTS if f"growth {what}" in figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "growth", []], help="all when left out")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="write the page alone, from the figures that are there")
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
        atomic.write_bytes(FIGURES, (json.dumps(saved, indent=1) + "\n").encode())
    curves = {
        what: saved["figures"][f"growth {what}"] for what in growth.POINTS if f"growth {what}" in saved["figures"]
    }
    if curves:
        growth.draw(curves, PLOT)
    text = page(saved["machine"], saved["figures"])
    atomic.write_bytes(PAGE, text.encode())
    print(text)


if __name__ == "__main__":
    main()
