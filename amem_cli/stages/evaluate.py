"""Stage 6: CMC and mAP under a protocol. The result lists every convention that the figures depend on."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from amem_cli.artifacts import atomic, results
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.output import StageResult, output_slot
from amem_cli.artifacts.paths import Workspace, features_role, metrics_path
from amem_cli.artifacts.provenance import Provenance, identities, parent, require_same
from amem_cli.data.chain import Chain
from amem_cli.data.datasets import missing_tracklets, protocol_counts
from amem_cli.data.manifest import Manifest, load_manifest, manifest_of_protocol, protocol_of
from amem_cli.data.readers.features import read_any
from amem_cli.errors import BadData, InputMissing, UsageError, counted, listing
from amem_cli.metrics.calibration import calibrate, fit_probability
from amem_cli.metrics.chance import chance
from amem_cli.metrics.conventions import count_by_conventions
from amem_cli.metrics.intervals import bootstrap_interval, query_interval
from amem_cli.metrics.ranking import Ranking, evaluate_distances, evaluate_ranking
from amem_cli.metrics.rerank import rerank, rerank_bytes
from amem_cli.options import EvaluateOptions
from amem_cli.person_ids import JUNK
from amem_cli.runtime.memory import free_memory, require_memory
from amem_cli.runtime.progress import Progress

RANKS = (1, 5, 10, 20)
CMC_LENGTH = 50

CHOICES = {
    "distance": "features are compared by squared Euclidean distance (L2-normalised: the order of the cosine)",
    "ties": "equal distances keep the gallery's order",
    "average_precision": "mAP is the mean precision at the hits, mAP official the MATLAB code's trapezoids",
    "denominator": "ranks and mAP are over queries that have a match, mAP official is over all queries",
    "ignored": "junk and the query's person in the query's own camera are ignored",
    "kept": "distractors and other people of that camera stay",
    "separate": "re-ranking and the mirrored clips of --flip are separate rows",
}
GALLERY = {
    "single-split": "the queries stay in the gallery (official); without them: a separate row",
    "cross-camera-splits": "the gallery is all test tracklets except the queries",
}
RATES = ("rank", "mAP", "mAP_official")
CALIBRATED = (
    "threshold_squared_distance", "threshold_cosine", "false_match_rate", "true_match_rate", "impostor_pairs",
    "genuine_pairs", "intercept", "slope",
)  # fmt: skip


def evaluate(options: EvaluateOptions, progress: Progress) -> StageResult:
    """Score features under a protocol; returns the result file, its content as `metrics`.

    MARS has one features file; a protocol with splits has one per split and reports mean and standard deviation (with
    n - 1). Without `--features` they are the workspace's. An existing result of other features or options is renamed,
    so that runs can be compared. Raises `AmemError`s.
    """
    began, earlier = time.monotonic(), len(progress.all_warnings)
    manifest = manifest_of_protocol(options.protocol)
    protocol = protocol_of(manifest)
    if options.dataset and load_manifest(options.dataset).name != manifest.name:
        raise UsageError("--dataset", options.dataset, why=f"the protocol is for {manifest.name}")
    files = features_files(options, manifest)
    as_read = identities(*files)
    provenance = Provenance(
        command="evaluate",
        options=options.fingerprint() | {"protocol": protocol.name},
        parents={features_role(number): parent(path) for number, path in zip(protocol.numbers, files, strict=True)},
    )
    output = Workspace(options.workspace).results(protocol.name)
    with output_slot("result", output, options):
        if not options.features:
            for number in protocol.numbers:
                Chain(manifest, options.workspace, number).warn_about_stale("evaluate", progress)
        exists = output.is_file() and not options.force
        before = results.read(output, remedy="Use --force to make it again") if exists else None
        differs = before is not None and bool(provenance.differences(before["provenance"]))
        if before and not differs and options.resume != "never" and _is_complete(before, options):
            _refuse_incomplete(before, files, options)
            return StageResult("evaluate", output, True, before)
        hashes = [entry["sha256"] for entry in provenance.parents.values()]
        if len(set(hashes)) < len(hashes):
            progress.warn("several splits have the same features file")
        tables = [read_features(path, number, options, manifest, progress) for number, path in enumerate(files)]
        require_same(as_read)
        if options.rerank:  # before the work: when memory runs out later, the plain figures are lost too
            needed = max(rerank_bytes(int(table.is_query.sum()), *table.features.shape) for table in tables)
            require_memory("--rerank", None, needed, free_memory(), "Leave it out")
        result = score(tables, files, options, manifest)
        _refuse_incomplete(result, files, options)
        warn_about_trainings(tables, progress)
        if result["incomplete"]:
            progress.warn(results.incomplete_of(result))
        if (known := result.get("calibration")) and options.calibrate * known["impostor_pairs"] < 1:
            why = f"{known['impostor_pairs']:.0f} pairs of different people are too few to measure this rate"
            progress.warn(f"--calibrate {options.calibrate:g}: {why}: 1 of them is {1 / known['impostor_pairs']:.2g}")
        if own := list(dict.fromkeys(progress.all_warnings[earlier:])):
            result["warnings"] = own
        if "calibration" in result:
            result["calibration"]["models"] = sorted({table.model("sha256") for table in tables} - {""})
            result["calibration"]["extraction"] = asdict(tables[0].extraction)
            result["calibration"]["image_size"] = known_image_size(tables)
        result["features"] = hashes[0] if protocol.kind == "single-split" else hashes
        if before is not None and differs:
            digest = atomic.sha256_lines([json.dumps(before["provenance"], sort_keys=True)])[:8]
            atomic.rename(output, kept := output.with_name(f"{output.stem}-{digest}.json"))
            progress.log(f"the existing result has other features or options, it is renamed to {kept}")
        results.write(output, result, provenance)
        atomic.write_text(metrics_path(output), f'{{"step": 1, "seconds": {time.monotonic() - began:.3f}}}\n')
        return StageResult("evaluate", output, False, results.read(output))  # as a second run returns it


def warn_about_trainings(tables: list[Features], progress: Progress) -> None:
    """Warn if the models of the splits were trained with different options or from different files."""
    known = [table.training for table in tables if table.training]
    names = sorted({name for one in known for name in one if any(one[name] != other.get(name) for other in known)})
    if names:
        different = f"trained differently ({listing(names)})"
        progress.warn(f"the models of the splits were {different}: the mean mixes them")


def features_files(options: EvaluateOptions, manifest: Manifest) -> list[Path]:
    """The features files in split order. Raises `InputMissing` that lists the missing ones with commands."""
    splits, workspace = protocol_of(manifest).numbers, Workspace(options.workspace)
    single, wanted = splits == [None], len(splits)
    files = list(options.features) or [workspace.features(manifest.name, number) for number in splits]
    numbers = [int(match[1]) for path in files if (match := re.search(r"-split(\d+)\.\w+$", path.name))]
    if len(numbers) == len(files) and not single:
        if sorted(numbers) != list(range(wanted)):
            why = f"by their names for the splits {listing(map(str, sorted(numbers)))}"
            raise UsageError("--features", why=why, remedy=f"Give one for each of 0 to {wanted - 1}")
        files = [path for _, path in sorted(zip(numbers, files, strict=True))]
    if len(files) != wanted:
        raise UsageError("--features", why=f"{len(files)} given, not {wanted}", remedy="Give one per split, in order")
    if folder := next((path for path in files if path.is_dir()), None):
        remedy = "Give features files; amem features convert makes one of a folder of .npy files"
        raise BadData("features", folder, why="this is a folder, not a file", remedy=remedy)
    missing = [number for number, path in enumerate(files) if not path.is_file()]
    if missing:
        if options.features:
            named = listing((str(files[number]) for number in missing), 3)
            raise InputMissing("features", named, why="not found", remedy="Check the path")
        remedy = features_remedy(options, manifest, missing[0])
        if single:
            raise InputMissing("features", files[0], why="not found", remedy=remedy)
        if len(missing) > 1:
            remedy = re.sub(r"--split \d+", "--split all", remedy)
        place = f"{files[missing[0]].parent}, splits {', '.join(map(str, missing))}"
        raise InputMissing("features", why=f"{len(missing)} of {wanted} files are missing ({place})", remedy=remedy)
    return files


def read_features(
    path: Path, number: int, options: EvaluateOptions, manifest: Manifest, progress: Progress
) -> Features:
    """The features of split `number`, written by amem or another program, with warnings about their conversion. Raises
    `BadData` if their provenance names another split."""
    table, notes = read_any(path, manifest.name, features_remedy(options, manifest, number))
    for note in notes:
        progress.warn(f"{path}: {note}")
    if table.dataset != manifest.name:
        progress.warn(f"{path} has features of '{table.dataset}', but the protocol is for '{manifest.name}'")
    recorded = table.provenance.get("options", {}).get("split")
    if isinstance(recorded, int) and recorded != number and protocol_of(manifest).kind != "single-split":
        why = f"it has features of split {recorded}, but is given for split {number}"
        raise BadData("features", path, why=why, remedy="Give one per split, in their order")
    return table


def _is_complete(result: dict[str, Any], options: EvaluateOptions) -> bool:
    """Whether a result of the same options has all that this version writes."""
    calibrated = not options.calibrate or "image_size" in result.get("calibration", {})
    return "incomplete" in result and calibrated


def _refuse_incomplete(result: dict[str, Any], files: list[Path], options: EvaluateOptions) -> None:
    """With `--strict`, raise `BadData` for features of a part of the data set."""
    if options.strict and result["incomplete"]:
        remedy = "Extract features of every test tracklet, or leave --strict out"
        raise BadData("features", listing(map(str, files), 1), why=results.incomplete_of(result), remedy=remedy)


def score(tables: list[Features], names: list[Path], options: EvaluateOptions, manifest: Manifest) -> dict[str, Any]:
    """The fields of the result for the features of each split; `names` identify them in errors."""
    protocol = protocol_of(manifest)
    for table, name in zip(tables, names, strict=True):
        if table.extraction != tables[0].extraction:
            why = f"was extracted with {table.extraction}, {names[0]} with {tables[0].extraction}"
            raise BadData("features", name, why=why, remedy="Extract all splits alike")
        if table.image_size not in ("", size := known_image_size(tables)):
            why = f"is of images of {table.image_size} pixels, a file before it of {size}"
            raise BadData("features", name, why=why, remedy="Extract all splits with one --image-size")
    device = None
    if options.device.startswith("cuda"):  # only then: starting CUDA takes longer than ranking
        from amem_cli.runtime.distributed import choose_device

        device = str(choose_device(options.device))  # without a process group: other processes of torchrun have ended
    numbered = enumerate(zip(tables, names, strict=True))
    scores = [_score(table, name, number, options, manifest, device) for number, (table, name) in numbered]
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
    result["choices"] |= {"splits": f"splits: {'; '.join(sorted(set(sources)))}"}
    if len(tables) > 1:
        result["choices"] |= {"standard_deviation": "standard deviations are over splits, with n - 1"}
    return result | _over_splits(scores, options)


def known_image_size(tables: list[Features]) -> str:
    """The size of the images of several features files, as in "256x128"; empty if none says it."""
    return next((table.image_size for table in tables if table.image_size), "")


def _extraction_choices(tables: list[Features]) -> dict[str, str]:
    """How the features were extracted, from their provenance; files of other programs do not record it."""
    if not all(table.provenance.get("command") == "extract-features" and table.model("name") for table in tables):
        about = {"frames": "frames and pooling", "epoch": "epoch", "extra_data": "training data"}
        about["extraction"] = "extraction"
        return {name: f"{text} not stated by the features file" for name, text in about.items()}
    best = any(table.model("epoch") or table.model("name").endswith("-best.safetensors") for table in tables)
    mirrored = ", each clip averaged with its mirror image" if any(table.model("mirror") for table in tables) else ""
    most = max(table.provenance.get("options", {}).get("clips", 0) for table in tables)
    frames = f"up to {most} clips of a tracklet" if most else "all frames in consecutive clips"
    return {
        "frames": f"{frames}, f_s averaged over clips, then L2-normalised",
        "epoch": f"{'the epoch with the best validation' if best else 'the last epoch'}, no choice on test people",
        "extra_data": "training people and initial weights are those in the provenance of the model",
        "extraction": f"extracted with {tables[0].extraction}{mirrored}",
    }


def _score(
    table: Features, path: Path, number: int, options: EvaluateOptions, manifest: Manifest, device: str | None
) -> dict[str, Any]:
    query = np.flatnonzero(table.is_query)
    single = protocol_of(manifest).kind == "single-split"
    gallery = np.full(len(table.is_query), True) if single else ~table.is_query
    if not len(query) or not gallery.any():
        why = f"has {counted(len(query), 'queries')} and {counted(int(gallery.sum()), 'gallery tracklets')}"
        raise BadData("features", path, why=why, remedy="Mark the queries in is_query")
    people = np.where(gallery, table.person_id, JUNK)  # the matrix on the disk stays whole: other rows are junk
    labels = (table.person_id[query], people, table.camera_id[query], table.camera_id)
    also_queries = table.is_query if single else None

    def rank(rows: np.ndarray) -> Ranking:
        return evaluate_ranking(rows[query], rows, *labels, gallery_is_query=also_queries, device=device)

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
            remedy = features_remedy(options, manifest, number)
            remedy = "amem extract-features --flip writes them" if options.features else f"{remedy} --flip --force"
            raise InputMissing("features", path, why="mirrored clips are missing", remedy=remedy)
        scores["flipped"] = _figures(rank(table.features_flip), options)
    if options.rerank:
        distances = rerank(table.features[query], table.features[gallery])
        own = labels[0], people[gallery], labels[2], table.camera_id[gallery]
        scores["reranked"] = _figures(evaluate_distances(distances, *own, gallery_is_query=also_queries), options)
    if options.conventions:
        columns = (table.features, table.person_id, table.camera_id, table.is_query)
        scores["conventions"] = count_by_conventions(*columns, mars=single, device=device)
    if options.calibrate:
        try:
            scores["calibration"] = _calibration((table.features[query], table.features, *labels), options.calibrate)
        except BadData as error:
            why = f"{'' if single else f'split {number} '}cannot be calibrated: {error.why}"
            raise BadData("features", path, why=why, remedy="Leave --calibrate out") from error
    return scores


def _calibration(rows: tuple[Any, ...], rate: float) -> dict[str, Any]:
    """The threshold for a false-match `rate`, and the curve of the probability; `rows` as `calibrate` takes them."""
    found = asdict(calibrate(*rows, false_match_rate=rate))
    threshold = found.pop("threshold")
    squared = {"threshold_squared_distance": threshold, "threshold_cosine": 1 - threshold / 2}
    return {"wanted_false_match_rate": rate} | squared | found | asdict(fit_probability(*rows))


def _figures(ranking: Ranking, options: EvaluateOptions) -> dict[str, Any]:
    """A ranking as JSON: rates as fractions, 95 % intervals over the queries."""
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
        values = ranking.first_match_rank[valid] == 1, ranking.average_precision[valid]
        figures["interval"] = _interval(query_interval, *values, options)
    return figures


def _over_splits(scores: list[dict[str, Any]], options: EvaluateOptions) -> dict[str, Any]:
    """Means over the splits, their `standard_deviation`, a 95 % `interval`, and each split's figures in `splits`.

    The interval resamples the splits, which have people in common. With one split there is neither.
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
        result["interval"] = _interval(bootstrap_interval, np.array(rank_1), np.array(means), options)
    elif "interval" in first:
        result["interval"] = first["interval"]
    return result | {"splits": scores}


def _over(rows: list[Any], summarise: Callable[..., Any]) -> Any:
    """Each number in the objects and lists of several splits, summarised over the splits."""
    if isinstance(rows[0], dict):
        return {name: _over([row[name] for row in rows], summarise) for name in rows[0]}
    return summarise(rows, axis=0).tolist()


def _interval(
    of: Callable[..., tuple[float, float]], rank_1: np.ndarray, precisions: np.ndarray, options: EvaluateOptions
) -> dict[str, list[float]]:
    """The 95 % intervals `of` the means of both."""
    figures = {"rank-1": rank_1, "mAP": precisions}
    return {name: list(of(values, options.seed, options.bootstrap)) for name, values in figures.items()}


def features_remedy(options: EvaluateOptions, manifest: Manifest, number: int) -> str:
    """The remedy for features of a split that are missing or damaged."""
    if options.features:  # perhaps of another program
        return "Convert it with amem features convert, or write it as the documentation's page on files says"
    split = number if number in protocol_of(manifest).numbers else None
    return Chain(manifest, options.workspace, split).remedy("extract-features")
