"""The stage: reuse, reading, scoring, the result file."""

import json
import os
import time
from pathlib import Path
from typing import Any

from amem_cli.artifacts import atomic, results
from amem_cli.artifacts.atomic import sha256_lines
from amem_cli.artifacts.output import StageResult, output_slot
from amem_cli.artifacts.paths import Workspace, metrics_path
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.data.chain import warn_about_stale
from amem_cli.data.manifest import load_manifest, manifest_of_protocol, protocol_of
from amem_cli.errors import BadData, UsageError, listing
from amem_cli.metrics.rerank import rerank_bytes
from amem_cli.options import EvaluateOptions
from amem_cli.runtime.memory import free_memory, require_memory
from amem_cli.runtime.progress import Progress
from amem_cli.stages.evaluate.inputs import features_files, read_features, refuse_other_splits
from amem_cli.stages.evaluate.score import score


def evaluate(options: EvaluateOptions, progress: Progress) -> StageResult:
    """Score features under a protocol; returns the result file, its content as `metrics`.

    MARS has one features file; a protocol with splits has one per split and reports mean and standard deviation (with
    n - 1). Without `--features` they are the workspace's. An existing result of other features or options is renamed,
    so that runs can be compared. Raises `AmemError`s.
    """
    began = time.monotonic()
    manifest = manifest_of_protocol(options.protocol)
    protocol = protocol_of(manifest)
    if options.dataset and load_manifest(options.dataset).name != manifest.name:
        why = f"protocol {protocol.name} is for data set {manifest.name}"
        raise UsageError("--dataset", options.dataset, why=why, remedy="Leave --dataset out")
    files = features_files(options, manifest)
    role = "features" if protocol.kind == "single-split" else "features {}"
    provenance = Provenance(
        command="evaluate",
        options=options.fingerprint() | {"protocol": protocol.name},
        parents={role.format(number): parent(path) for number, path in enumerate(files)},
    )
    output = Workspace(options.workspace).results(protocol.name)
    with output_slot("result", output, options):
        if output.is_file() and not options.force:
            before = results.read(output, remedy="Use --force to make it again")
            unchanged = not provenance.differences(before["provenance"]) and "incomplete" in before
            if unchanged and options.resume != "never":
                _refuse_incomplete(before, files, options)
                return StageResult("evaluate", output, True, before)
        else:
            before = None
        hashes = [entry["sha256"] for entry in provenance.parents.values()]
        if len(set(hashes)) < len(hashes):
            progress.warn("several splits have the same features file")
        if not options.features:
            for number in range(len(files)):
                warn_about_stale(manifest, options.workspace, None if len(files) == 1 else number, "evaluate", progress)
        tables = [read_features(path, number, options, manifest, progress) for number, path in enumerate(files)]
        if protocol.kind != "single-split":
            refuse_other_splits(tables, files)
        if options.rerank:  # before the work: when memory runs out later, the plain figures are lost too
            needed = max(rerank_bytes(int(table.is_query.sum()), *table.features.shape) for table in tables)
            require_memory("--rerank", None, needed, free_memory(), "Leave it out")
        result = score(tables, files, options, manifest)
        _refuse_incomplete(result, files, options)
        if result["incomplete"]:
            progress.warn(results.incomplete_of(result))
        if progress.warnings:
            result["warnings"] = progress.warnings
        result["features"] = hashes[0] if protocol.kind == "single-split" else hashes
        if before is not None:
            progress.log(f"the existing result has other features or options, it is renamed to {_keep(output, before)}")
        results.write(output, result, provenance)
        took = {"step": 1, "seconds": round(time.monotonic() - began, 3)}
        atomic.write_text(metrics_path(output), json.dumps(took) + "\n")
    return StageResult("evaluate", output, False, result)


def _refuse_incomplete(result: dict[str, Any], files: list[Path], options: EvaluateOptions) -> None:
    """With `--strict`, raise `BadData` for features of a part of the data set."""
    if options.strict and result["incomplete"]:
        remedy = "Extract features of every test tracklet, or leave --strict out"
        raise BadData("features", listing(map(str, files), 1), why=results.incomplete_of(result), remedy=remedy)


def _keep(output: Path, before: dict[str, Any]) -> Path:
    """Rename an existing result; the new name has a digest of its provenance."""
    digest = sha256_lines([json.dumps(before["provenance"], sort_keys=True)])[:8]
    kept = output.with_name(f"{output.stem}-{digest}.json")
    os.replace(output, kept)
    return kept
