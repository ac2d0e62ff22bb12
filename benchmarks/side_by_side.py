"""All benchmarks next to other projects' code, and the page about them.

    python benchmarks/side_by_side.py [decoding labelling extraction ...] [--runs 3] [--peers FOLDER]

Without names all are run. Their figures go to `docs/performance.json`, from which `docs/PERFORMANCE.md` and
`docs/performance-growth.svg` are written; `--page` only writes these. Figures of another machine or of other versions
are dropped, because ratios of two machines mean nothing. OpenVINO is measured if it is installed. FOLDER has checkouts
of other projects (`peers.py`); without it the rows that need one are left out, and the page says so.
"""

import argparse
import contextlib
import datetime
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
import peers
import ranking
import torch
import training

from amem_cli.artifacts import atomic
from amem_cli.tools.bench import processor

DOCS = Path(__file__).resolve().parents[1] / "docs"
FIGURES, PAGE, PLOT = DOCS / "performance.json", DOCS / "PERFORMANCE.md", DOCS / "performance-growth.svg"
PROFILES = Path(__file__).with_name("profiles.md")  # written by hand
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "openvino", "torchreid")
GROWTH = tuple(f"growth {what}" for what in growth.POINTS)
NETWORKS = {  # the parts that run networks: network, and what an item is
    "labelling": ("resnet50", "images/s"),
    "extraction": ("i3d", "clips/s"),
    "extraction of preset small at 8 frames": ("small", "clips/s"),
}
PARTS = ("decoding", *NETWORKS, "training", "ranking", *GROWTH)
NEED_PEER = {"extraction", "training"}  # piergiaj's I3D


class Comparison(NamedTuple):
    """One row of the page; `of_ceiling` is the rate as a fraction of that of one large convolution."""

    work: str
    of_ceiling: float | None
    baseline: str
    amem: str
    ratio: float

    def cells(self) -> tuple[str, ...]:
        ceiling = "" if self.of_ceiling is None else f"{self.of_ceiling:.0%}"
        return self.work, ceiling, self.baseline, self.amem, f"{self.ratio:.2f}"


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions."""
    about = {"processor": processor(), "threads": torch.get_num_threads(), "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            about[name] = metadata.version(name)
    return about


def measure(part: str, runs: int, folder: str) -> Any:
    """The figures of one of `PARTS`; `folder` has the peers' checkouts."""
    if part in NETWORKS:
        return extraction.run(NETWORKS[part][0], runs, folder)
    measures = {
        "decoding": lambda: decoding.run(max(runs, 5)),
        "training": lambda: training.run(torch.get_num_threads(), runs, folder),
        "ranking": lambda: ranking.run(runs, folder),
    }
    return measures[part]() if part in measures else growth.run(part.removeprefix("growth "))


# -- the page ----------------------------------------------------------------------------------------------------------


def comparisons(figures: dict[str, Any]) -> Iterator[Comparison]:
    """The rows of the page, from the figures that exist."""
    for size, times in figures.get("decoding", {}).get("microseconds", {}).items():
        works = {"amem + device": "normalised", "amem": "to uint8, which a GPU normalises; the baseline normalises"}
        for name, work in works.items():
            pair = times["baseline"], times[name]
            cells = (f"{value:.0f} us" for value in pair)
            yield Comparison(f"JPEG of {size}, {work}", None, *cells, pair[0] / pair[1])
    for part, (_, unit) in NETWORKS.items():
        if part in figures:
            yield from _engines(part, unit, figures[part])
    if "training" in figures:
        yield from _steps(figures["training"])
    methods = figures.get("ranking", {}).get("methods", {})
    for name, method in methods.items():
        if name != "amem":
            pair = method["seconds"], methods["amem"]["seconds"]
            yield Comparison(f"CMC and mAP, {name}", None, *(f"{value:.3g} s" for value in pair), pair[0] / pair[1])


def _engines(part: str, unit: str, found: dict[str, Any]) -> Iterator[Comparison]:
    """Each engine next to the baseline in fp32; the baseline in bf16, too."""
    baseline = found["methods"]["baseline fp32"]["wall"]
    for method, figures in found["methods"].items():
        name, precision = method.split()
        if method != "baseline fp32":
            work = f"{part}, {precision}, {found['baseline'] if name == 'baseline' else f'engine {name}'}"
            rates = (f"{found['items'] / wall:.3g} {unit}" for wall in (baseline, figures["wall"]))
            yield Comparison(work, figures["of_ceiling"], *rates, baseline / figures["wall"])


def _steps(found: dict[str, Any]) -> Iterator[Comparison]:
    """Each training step next to the baseline's in fp32."""
    seconds = {row["method"]: row["seconds"] for row in found["steps"]}
    for row in found["steps"]:
        name, precision = row["method"].split()
        if row["method"] != "baseline fp32":
            work = f"training step of the baseline, {found['clips']} clips, {precision}"
            pair = seconds["baseline fp32"], row["seconds"]
            title = f"{work}, piergiaj's I3D" if name == "baseline" else work
            yield Comparison(title, None, *(f"{value:.3g} s" for value in pair), pair[0] / pair[1])


def page(about: dict[str, Any], figures: dict[str, Any], days: dict[str, str]) -> str:
    """`docs/PERFORMANCE.md`: machine, the days of the measurements, comparisons, growth."""
    versions = ", ".join(f"{name} {about[name]}" for name in ("python", *PACKAGES) if name in about)
    lines = [
        "# Speed",
        "",
        "Written by `python benchmarks/side_by_side.py`; do not edit. Medians of runs in turns, with random weights",
        "and generated people. Ratios are similar on other machines, seconds are not: `amem bench` measures yours.",
        "",
        *([about["note"], ""] if "note" in about else []),
        f"{about['processor']}, {about['threads']} threads, {versions}. No GPU was used.",
        f"Measured on {', '.join(sorted(set(days.values())))}.",
        "",
        "| work | of one large convolution's rate | baseline, fp32 | measured | times faster |",
        "|---|---|---|---|---|",
        *("| " + " | ".join(row.cells()) + " |" for row in comparisons(figures)),
        "",
        "Baselines, with the system's allocator settings (amem's: `amem_cli/runtime/memory.py`): for I3D the units",
        "and poolings of piergiaj's port in eager PyTorch, with the same strides and weights; for the other networks",
        "eager PyTorch; for decoding PIL and torchvision's transforms, as re-identification code calls them; for",
        "ranking torchreid's evaluators, and an argsort per query.",
    ]
    if "extraction of preset small at 8 frames" in figures:
        lines += ["", *_limits_of_small(figures["extraction of preset small at 8 frames"])]
    if "ranking" in figures:
        memory = {name: m["memory"] for name, m in figures["ranking"]["methods"].items() if m["memory"] is not None}
        used = ", ".join(f"{name} {value / 1e6:.0f} MB" for name, value in memory.items())
        lines += ["", f"Memory of ranking above its inputs: {used}.", *figures["ranking"]["notes"]]
    if missing := [part for part in PARTS if part not in figures]:
        lines += ["", f"Not measured, or without other projects' code: {', '.join(missing)}."]
    if curves := growth_curves(figures):
        lines += ["", "## Growth", "", "`amem extract-features`, the whole command, on frames of 32 x 32:"]
        lines += ["", f"![Seconds and peak memory of extract-features]({PLOT.name})"]
        for what, points in curves.items():
            lines += ["", f"| {growth.AXES[what]} | seconds | peak memory, MB |", "|---|---|---|"]
            lines += [f"| {row['x']} | {row['seconds']:.1f} | {row['memory'] / 1e6:.0f} |" for row in points]
    return "\n".join([*lines, "", PROFILES.read_text("utf-8").rstrip()]) + "\n"


def _limits_of_small(found: dict[str, Any]) -> list[str]:
    """What the rate of one large convolution allows the preset's network, in the two passes of the test and in one."""
    rows = [found["methods"][f"torch {precision}"] for precision in ("fp32", "bf16")]
    fp32, bf16 = (found["items"] / (row["of_ceiling"] * row["wall"]) for row in rows)
    return [
        "Preset `small` computes every clip twice, once mirrored and one frame later. The rate of one large "
        "convolution would allow",
        f"{fp32:.0f} clips/s in fp32 and {bf16:.0f} in bf16 here, and in one pass {2 * fp32:.0f} and {2 * bf16:.0f}.",
    ]


def growth_curves(figures: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    return {what: figures[f"growth {what}"] for what in growth.POINTS if f"growth {what}" in figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "growth", []], help="default: all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", default="", help="folder with checkouts of other projects")
    parser.add_argument("--page", action="store_true", help="only write the page, from the figures that exist")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    about = machine()
    saved = (
        json.loads(FIGURES.read_text("utf-8")) if FIGURES.is_file() else {"machine": about, "figures": {}, "days": {}}
    )
    if saved["machine"] != about and not options.page:
        print(f"dropping the figures of another machine: {saved['machine']}", file=sys.stderr)
        saved = {"machine": about, "figures": {}, "days": {}}
    chosen = [part for name in options.parts or PARTS for part in (GROWTH if name == "growth" else (name,))]
    for part in [] if options.page else chosen:
        if part in NEED_PEER and peers.peer_i3d(options.peers) is None:
            print(f"{part} is left out: no {peers.I3D} in --peers", file=sys.stderr)
            continue
        print(f"{part} ...", file=sys.stderr, flush=True)
        saved["figures"][part] = measure(part, options.runs, options.peers)
        saved["days"][part] = datetime.date.today().isoformat()
        atomic.write_text(FIGURES, json.dumps(saved, indent=1) + "\n")
    if curves := growth_curves(saved["figures"]):
        growth.draw(curves, PLOT)
    atomic.write_text(PAGE, page(saved["machine"], saved["figures"], saved["days"]))


if __name__ == "__main__":
    main()
