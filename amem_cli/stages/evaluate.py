"""Stage 6: CMC and mAP under a stated protocol; every convention that the figures depend on is in the result."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import features, results
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.artifacts.workspace import Workspace, already_made, locked
from amem_cli.data.manifest import Manifest, manifest_of_protocol
from amem_cli.errors import BadData, InputMissing, UsageError, listing
from amem_cli.metrics.chance import chance
from amem_cli.metrics.ranking import Ranking, evaluate_distances, evaluate_ranking
from amem_cli.metrics.rerank import rerank
from amem_cli.metrics.verification import bootstrap_interval
from amem_cli.options import EvaluateOptions
from amem_cli.progress import Progress
from amem_cli.stages.result import StageResult

RANKS = (1, 5, 10, 20)
CMC_LENGTH = 50

CHOICES = {
    "distance": "squared Euclidean between L2-normalised features (the order of the cosine distance)",
    "average_precision": "mAP: mean precision at the hits; mAP_official: trapezoids from precision 1 (MATLAB)",
    "denominator": "rank, mAP: queries with a match; mAP_official: all queries",
    "ignored": "gallery items of person -1 (junk), and of the query's person in the query's camera",
    "kept": "distractors (person 0) and other people of the query's camera",
    "ties": "stable by gallery position",
    "epoch": "the last one; nothing is chosen on the test people",
}


def evaluate(options: EvaluateOptions, progress: Progress) -> StageResult:
    """Score features under a protocol; returns the result's file, `metrics` being its content.

    MARS is one features file; a protocol of splits wants one for each and reports mean and standard deviation (with
    n - 1). Without `--features` they are the workspace's.
    """
    manifest = manifest_of_protocol(options.protocol)
    protocol = manifest.protocol
    files = _features_files(options, manifest)
    provenance = Provenance(
        command="evaluate",
        options=options.science() | {"protocol": protocol.name},
        parents={f"features {number}" if len(files) > 1 else "features": parent(f) for number, f in enumerate(files)},
    )
    output = Workspace(options.workspace).results(protocol.name)
    with locked(output):
        if already_made("result", output, provenance, resume="auto", force=True):
            return StageResult("evaluate", output, True, results.read(output))
        tables = [features.read(path, remedy=_extract_command(manifest, n)) for n, path in enumerate(files)]
        for path, table in zip(files, tables, strict=True):
            if table.dataset != manifest.name:
                progress.warn(f"{path} holds features of '{table.dataset}', the protocol is that of '{manifest.name}'")
        scores = [_score(table, path, options, manifest) for table, path in zip(tables, files, strict=True)]
        result: dict[str, Any] = {"protocol": protocol.name, "dataset": manifest.name}
        result["choices"] = CHOICES | _gallery_choice(protocol.kind) | {"rerank": options.rerank}
        sources = [table.provenance.get("options", {}).get("split_source", "not stated") for table in tables]
        if protocol.kind == "single-split":
            result |= scores[0] | {"features": provenance.parents["features"]["sha256"]}
        else:
            result["choices"] |= {"splits": "; ".join(sorted(set(sources))), "deviation": "over splits, n - 1"}
            result |= _over_splits(scores)
            result["features"] = [entry["sha256"] for entry in provenance.parents.values()]
        results.write(output, result, provenance)
    return StageResult("evaluate", output, False, result)


def _features_files(options: EvaluateOptions, manifest: Manifest) -> list[Path]:
    """The features files in the order of the splits; every one that is missing is named with its command."""
    single = manifest.protocol.kind == "single-split"
    wanted = 1 if single else manifest.protocol.splits
    files = list(options.features)
    if not files:
        workspace = Workspace(options.workspace)
        files = [workspace.features(manifest.name, None if single else number) for number in range(wanted)]
    numbers = [int(m[1]) if (m := re.search(r"-split(\d+)\.\w+$", path.name)) else None for path in files]
    if None not in numbers and not single:
        order = {number: path for number, path in zip(numbers, files, strict=True)}
        if len(order) < len(files):
            raise UsageError("--features", why="two files are of the same split", remedy="Give one for each split")
        beyond = listing(str(order[number]) for number in sorted(order) if number >= wanted)
        if beyond:
            why = f"{manifest.protocol.name} has the splits 0 to {wanted - 1}, but there is {beyond}"
            raise UsageError("--features", why=why, remedy="Give one for each split")
        folder = files[0].parent
        files = [order.get(number, folder / f"{manifest.name}-split{number}.h5") for number in range(wanted)]
    elif len(files) != wanted:
        why = f"{manifest.protocol.name} wants {wanted} features file(s), {len(files)} given"
        raise UsageError("--features", why=why, remedy="Give one for each split, in the order of the splits")
    missing = [number for number, path in enumerate(files) if not path.is_file()]
    if missing:
        named = listing(f"{files[number]}: run {_extract_command(manifest, number)}" for number in missing)
        if single:
            raise InputMissing("features", files[0], why="not found", remedy=f"Run: {_extract_command(manifest, 0)}")
        raise InputMissing("features", why=f"{len(missing)} of {wanted} files are missing ({named})")
    return files


def _extract_command(manifest: Manifest, number: int) -> str:
    name = manifest.name if manifest.shipped else manifest.path
    part = "" if manifest.protocol.kind == "single-split" else f" --split {number}"
    return f"amem extract-features --dataset {name}{part}"


def _gallery_choice(kind: str) -> dict[str, str]:
    if kind == "single-split":
        return {"gallery": "the queries stay in it (official); gallery_without_queries is the other convention"}
    return {"gallery": "all test tracklets that are no queries"}


def _score(table: Features, path: Path, options: EvaluateOptions, manifest: Manifest) -> dict[str, Any]:
    """The figures of one features file."""
    query = np.flatnonzero(table.is_query)
    single = manifest.protocol.kind == "single-split"
    gallery = np.arange(len(table.is_query)) if single else np.flatnonzero(~table.is_query)
    if not len(query) or not len(gallery):
        why = f"has {len(query)} queries and {len(gallery)} gallery tracklets"
        raise BadData("features", path, why=why, remedy="Mark the queries in is_query")
    labels = (table.person_id[query], table.person_id[gallery], table.camera_id[query], table.camera_id[gallery])
    also_queries = table.is_query[gallery] if single else None
    device = None if options.device in ("auto", "cpu") else options.device
    ranking = evaluate_ranking(
        table.features[query], table.features[gallery], *labels, gallery_is_query=also_queries, device=device
    )
    if not ranking.valid_queries:
        raise BadData("features", path, why="no query has a match in the gallery (same person, another camera)")
    scores = _figures(ranking, options)
    chance_cmc, chance_map = chance(*labels, ranks=CMC_LENGTH)
    scores["chance"] = {"rank": {str(k): float(chance_cmc[k - 1]) for k in RANKS}, "mAP": chance_map}
    scores["chance"]["cmc"] = chance_cmc.tolist()
    if ranking.without_queries is not None:
        scores["gallery_without_queries"] = _figures(ranking.without_queries, options)
    if options.rerank:
        distances = rerank(table.features[query], table.features[gallery])
        scores["reranked"] = _figures(evaluate_distances(distances, *labels, gallery_is_query=also_queries), options)
    return scores


def _figures(ranking: Ranking, options: EvaluateOptions) -> dict[str, Any]:
    """One ranking as JSON: rates are fractions; `interval` are 95 % bootstrap intervals over the queries."""
    if not ranking.valid_queries:
        return {"queries": ranking.queries, "valid_queries": 0, "gallery": ranking.gallery}
    figures: dict[str, Any] = {
        "rank": {str(k): float(ranking.cmc[k - 1]) for k in RANKS},
        "mAP": float(ranking.mAP),
        "mAP_official": float(ranking.mAP_official),
        "rank_official": {str(k): float(ranking.cmc_official[k - 1]) for k in RANKS},
        "queries": ranking.queries,
        "valid_queries": ranking.valid_queries,
        "gallery": ranking.gallery,
        "cmc": [float(rate) for rate in ranking.cmc[:CMC_LENGTH]],
    }
    if options.bootstrap:
        valid = ranking.first_match_rank > 0
        first = (ranking.first_match_rank[valid] == 1).astype(float)
        figures["interval"] = {
            "rank-1": list(bootstrap_interval(first, options.seed, options.bootstrap)),
            "mAP": list(bootstrap_interval(ranking.average_precision[valid], options.seed, options.bootstrap)),
        }
    return figures


def _over_splits(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the splits at the top, deviations in `deviation`, each split's figures in `splits`."""

    def mean(values: list[float]) -> float:
        return float(np.mean(values))

    def deviation(values: list[float]) -> float:
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def over(summarise: Any) -> dict[str, Any]:
        return {
            "rank": {str(k): summarise([score["rank"][str(k)] for score in scores]) for k in RANKS},
            "mAP": summarise([score["mAP"] for score in scores]),
            "mAP_official": summarise([score["mAP_official"] for score in scores]),
        }

    cmc = np.mean([np.pad(score["cmc"], (0, CMC_LENGTH - len(score["cmc"])), constant_values=1) for score in scores], 0)
    return {
        **over(mean),
        "queries": scores[0]["queries"],
        "gallery": scores[0]["gallery"],
        "standard_deviation": over(deviation),
        "cmc": cmc.tolist(),
        "chance": {
            "rank": {str(k): mean([score["chance"]["rank"][str(k)] for score in scores]) for k in RANKS},
            "mAP": mean([score["chance"]["mAP"] for score in scores]),
        },
        "splits": scores,
    }
