"""The figures of features, with the conventions that they depend on."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts.features import Features
from amem_cli.data.datasets import missing_tracklets, protocol_counts
from amem_cli.data.manifest import Manifest, protocol_of
from amem_cli.errors import BadData, InputMissing
from amem_cli.metrics.calibration import calibrate, fit_probability
from amem_cli.metrics.chance import chance
from amem_cli.metrics.conventions import count_by_conventions
from amem_cli.metrics.intervals import bootstrap_interval
from amem_cli.metrics.ranking import Ranking, evaluate_distances, evaluate_ranking
from amem_cli.metrics.rerank import rerank
from amem_cli.options import EvaluateOptions
from amem_cli.stages.evaluate.inputs import features_remedy

RANKS = (1, 5, 10, 20)
CMC_LENGTH = 50

CHOICES = {
    "distance": "features are compared by squared Euclidean distance (L2-normalised: the order of the cosine)",
    "ties": "equal distances keep the gallery's order",
    "average_precision": "mAP is the mean precision at the hits, mAP official the MATLAB code's trapezoids",
    "denominator": "ranks and mAP are over queries that have a match, mAP official is over all queries",
    "ignored": "junk and the query's person in the query's own camera are ignored",
    "kept": "distractors and other people of that camera stay",
    "separate": "re-ranking and mirrored clips are separate rows",
}
GALLERY = {
    "single-split": "the queries stay in the gallery (official); without them: a separate row",
    "cross-camera-splits": "the gallery is all test tracklets except the queries",
}
RATES = ("rank", "mAP", "mAP_official")
PAIR_RATES = ("threshold_cosine", "false_match_rate", "true_match_rate")
CALIBRATED = ("threshold_squared_distance", *PAIR_RATES, "intercept", "slope")


def score(tables: list[Features], names: list[Path], options: EvaluateOptions, manifest: Manifest) -> dict[str, Any]:
    """The fields of the result for the features of each split; `names` identify them in errors."""
    protocol = protocol_of(manifest)
    scores = [_score(table, name, options, manifest) for table, name in zip(tables, names, strict=True)]
    result: dict[str, Any] = {"protocol": protocol.name, "dataset": manifest.name}
    result["choices"] = CHOICES | {"gallery": GALLERY[protocol.kind]} | _extraction_choices(tables)
    single = protocol.kind == "single-split"
    result["incomplete"] = [
        row | ({} if single else {"split": number})
        for number, table in enumerate(tables)
        for row in missing_tracklets(manifest, protocol_counts(table.person_id, table.camera_id, table.is_query))
    ]
    if single:
        return result | scores[0]
    sources = [str(table.provenance.get("options", {}).get("split_source", "not stated")) for table in tables]
    result["choices"] |= {
        "splits": f"splits: {'; '.join(sorted(set(sources)))}",
        "standard_deviation": "standard deviations are over splits, with n - 1",
    }
    return result | _over_splits(scores, options)


def _extraction_choices(tables: list[Features]) -> dict[str, str]:
    """How the features were extracted, from their provenance; files of other programs do not record it."""
    models = [_name_of_model(table.provenance) for table in tables]
    if None in models:
        about = {"frames": "frames and pooling", "epoch": "epoch", "extra_data": "training data"}
        return {name: f"{text} not stated by the features file" for name, text in about.items()}
    best = any(str(model).endswith("-best.safetensors") for model in models)
    return {
        "frames": "all frames in consecutive clips, f_s averaged over clips, then L2-normalised",
        "epoch": f"{'the epoch with the best validation' if best else 'the last epoch'}, no choice on test people",
        "extra_data": "trained on this data set's training people, starting from the weights in its provenance",
    }


def _name_of_model(provenance: dict[str, Any]) -> str | None:
    """The model file that `amem extract-features` used; None if the provenance does not state it."""
    try:
        name = provenance["parents"]["amem-main"]["name"]
    except (KeyError, TypeError):
        return None
    return name if provenance.get("command") == "extract-features" and isinstance(name, str) else None


def _score(table: Features, path: Path, options: EvaluateOptions, manifest: Manifest) -> dict[str, Any]:
    query = np.flatnonzero(table.is_query)
    single = protocol_of(manifest).kind == "single-split"
    gallery = np.arange(len(table.is_query)) if single else np.flatnonzero(~table.is_query)
    if not len(query) or not len(gallery):
        why = f"has {len(query)} queries and {len(gallery)} gallery tracklets"
        raise BadData("features", path, why=why, remedy="Mark the queries in is_query")
    labels = (table.person_id[query], table.person_id[gallery], table.camera_id[query], table.camera_id[gallery])
    also_queries = table.is_query[gallery] if single else None
    device = None
    if options.device.startswith("cuda"):  # only then: starting CUDA takes longer than ranking
        from amem_cli.runtime.distributed import process_group

        with process_group(options.device) as processes:
            device = str(processes.device)

    def rank(rows: np.ndarray) -> Ranking:
        return evaluate_ranking(rows[query], rows[gallery], *labels, gallery_is_query=also_queries, device=device)

    ranking = rank(table.features)
    if not ranking.valid_queries:
        raise BadData("features", path, why="no query has a match in the gallery (same person, other camera)")
    scores = _figures(ranking, options)
    chance_cmc, chance_map = chance(*labels, ranks=CMC_LENGTH)
    scores["chance"] = {"rank": {str(k): float(chance_cmc[k - 1]) for k in RANKS}, "mAP": chance_map}
    scores["chance"]["cmc"] = chance_cmc.tolist()
    if ranking.without_queries is not None:
        scores["gallery_without_queries"] = _figures(ranking.without_queries, options)
    if options.flip:
        if table.features_flip is None:
            remedy = features_remedy(options, manifest, int(table.provenance.get("options", {}).get("split") or 0))
            remedy = "amem extract-features --flip writes them" if options.features else f"{remedy} --flip --force"
            raise InputMissing("features", path, why="mirrored clips are missing", remedy=remedy)
        scores["flipped"] = _figures(rank(table.features_flip), options)
    if options.rerank:
        distances = rerank(table.features[query], table.features[gallery])
        scores["reranked"] = _figures(evaluate_distances(distances, *labels, gallery_is_query=also_queries), options)
    if options.conventions:
        columns = (table.features, table.person_id, table.camera_id, table.is_query)
        scores["conventions"] = count_by_conventions(*columns, mars=single, device=device)
    if options.calibrate:
        rows = table.features[query], table.features[gallery]
        found = asdict(calibrate(*rows, *labels, false_match_rate=options.calibrate))
        threshold = found.pop("threshold")
        scores["calibration"] = {
            "wanted_false_match_rate": options.calibrate,
            "threshold_squared_distance": threshold,
            "threshold_cosine": 1 - threshold / 2,
        }
        scores["calibration"] |= found | asdict(fit_probability(*rows, *labels))
    return scores


def _figures(ranking: Ranking, options: EvaluateOptions) -> dict[str, Any]:
    """A ranking as JSON: rates as fractions, 95 % bootstrap intervals over the queries."""
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
        first = ranking.first_match_rank[valid] == 1
        figures["interval"] = _interval(first, ranking.average_precision[valid], options)
    return figures


def _over_splits(scores: list[dict[str, Any]], options: EvaluateOptions) -> dict[str, Any]:
    """Means over the splits, their `standard_deviation`, a 95 % `interval`, and each split's figures in `splits`.

    The interval resamples the splits. The splits have people in common, so it shows how much the choice of a split
    matters. With one split there is neither.
    """
    first = scores[0]
    rates = [{name: score[name] for name in RATES} for score in scores]
    result = {name: first[name] for name in ("queries", "valid_queries", "gallery")} | _over(rates, np.mean)
    result["standard_deviation"] = _over(rates, partial(np.std, ddof=1)) if len(scores) > 1 else None
    result["chance"] = _over([score["chance"] for score in scores], np.mean)
    cmc = [np.pad(score["cmc"], (0, CMC_LENGTH - len(score["cmc"])), constant_values=1) for score in scores]
    result["cmc"] = np.mean(cmc, axis=0).tolist()
    for name, figures in {"flipped": RATES, "reranked": RATES, "calibration": CALIBRATED}.items():
        if name in first:
            result[name] = _over([{figure: score[name][figure] for figure in figures} for score in scores], np.mean)
    if "conventions" in first:
        rows = zip(*(score["conventions"] for score in scores), strict=True)
        result["conventions"] = [
            row[0] | _over([{"rank": one["rank"], "mAP": one["mAP"]} for one in row], np.mean) for row in rows
        ]
    if "calibration" in first:
        result["calibration"]["wanted_false_match_rate"] = options.calibrate
        errors = [score["calibration"]["calibration_error"] for score in scores]
        result["calibration"]["calibration_error"] = None if None in errors else float(np.mean(errors))
    if options.bootstrap and len(scores) > 1:
        rank_1, means = ([score["rank"]["1"] for score in scores], [score["mAP"] for score in scores])
        result["interval"] = _interval(np.array(rank_1), np.array(means), options)
    elif "interval" in first:
        result["interval"] = first["interval"]
    return result | {"splits": scores}


def _over(rows: list[Any], summarise: Callable[..., Any]) -> Any:
    """Each number in the objects and lists of several splits, summarised over the splits."""
    if isinstance(rows[0], dict):
        return {name: _over([row[name] for row in rows], summarise) for name in rows[0]}
    return summarise(rows, axis=0).tolist()


def _interval(rank_1: np.ndarray, average_precision: np.ndarray, options: EvaluateOptions) -> dict[str, list[float]]:
    """The 95 % bootstrap intervals of the means of both."""
    figures = {"rank-1": rank_1, "mAP": average_precision}
    return {name: list(bootstrap_interval(v, options.seed, options.bootstrap)) for name, v in figures.items()}
