"""The result of an evaluation as JSON: every rate, with every convention that it depends on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from amem_cli.artifacts import atomic
from amem_cli.artifacts.provenance import Provenance, check_provenance, head_of, kind_error, parse_json_object
from amem_cli.errors import BadData, UsageError, listing

KIND = "amem-results"
Rate = Annotated[float, msgspec.Meta(ge=0, le=1 + 1e-9)] | None  # rounded sums can exceed 1
_Ranks = TypedDict("_Ranks", {"1": Rate, "5": Rate, "10": Rate, "20": Rate})
_Interval = TypedDict("_Interval", {"rank-1": tuple[Rate, Rate], "mAP": tuple[Rate, Rate]})
_Row = TypedDict("_Row", {"count": str, "expected": int, "found": int})  # noqa: UP013 - on one line
_Extraction = TypedDict("_Extraction", {"adapt_cameras": bool, "parts": int})  # noqa: UP013
_Pairs = TypedDict("_Pairs", {  # noqa: UP013
    "true_match_rate": Rate, "false_match_rate": Rate, "threshold_cosine": float, "models": NotRequired[list[str]],
    "extraction": NotRequired[_Extraction], "image_size": NotRequired[str],
    "genuine_pairs": NotRequired[float],
})  # fmt: skip
_Rates = TypedDict("_Rates", {  # noqa: UP013
    "rank": _Ranks, "mAP": Rate, "mAP_official": NotRequired[Rate], "cmc": NotRequired[list[Rate]],
    "interval": NotRequired[_Interval | None], "queries": NotRequired[int], "valid_queries": NotRequired[int],
})  # fmt: skip
# as another code base counts; `cmc` is the name of its rule, and without a match there is None
_Counted = TypedDict("_Counted", {"rank": _Ranks | None, "mAP": Rate})  # noqa: UP013
_Result = TypedDict("_Result", {  # noqa: UP013 - next to rates, the entries of a result that readers depend on
    "protocol": str, "dataset": str, "choices": dict[str, Any], "gallery": int, "queries": int, "chance": _Rates,
    "gallery_without_queries": NotRequired[dict[str, Any] | None], "incomplete": NotRequired[list[_Row]],
    "standard_deviation": NotRequired[_Rates | None], "splits": NotRequired[list[_Rates]], "cmc": list[Rate],
    "flipped": NotRequired[_Rates], "reranked": NotRequired[_Rates], "calibration": NotRequired[_Pairs],
    "conventions": NotRequired[list[_Counted]],
})  # fmt: skip


def write(path: Path, result: dict[str, Any], provenance: Provenance) -> Path:
    """Write a result with a checksum; `stages/evaluate` defines its fields."""
    tail = {"provenance": provenance.as_json(), "checksum": atomic.CHECKSUM_BLANK.decode()}
    text = json.dumps(head_of(KIND) | result | tail, indent=1, allow_nan=False)
    return atomic.write_bytes(path, atomic.fill_checksum(text.encode()))


def read(path: Path, *, remedy: str = "amem evaluate writes such a file") -> dict[str, Any]:
    """Read a result; raises `InputMissing`, or `BadData` for a damaged file and for another kind of file."""
    content = atomic.read_checked(path, "result", remedy=remedy)
    document = parse_json_object(content.decode("utf-8", "replace"), "result", path)
    why = kind_error(document, KIND)
    try:
        if not why:
            msgspec.convert(document, _Result)
            without = document.get("gallery_without_queries")
            for row in (document, *([without] if without and "rank" in without else [])):  # without a match it has none
                msgspec.convert(row, _Rates)
    except msgspec.ValidationError as error:
        why = f"its content is malformed ({error})"
    if why:
        raise BadData("result", path, why=why, remedy=remedy)
    check_provenance(document.get("provenance", {}), "result", path)
    return document


def rows_of(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The rates of a result by their labels: by the protocol, in other ways, by chance."""
    std, other = result.get("standard_deviation"), result.get("gallery_without_queries") or {}
    matched = other.get("valid_queries", other.get("queries"))
    some = f", {matched} with a match" if matched != other.get("queries") else ""
    rows = [
        ("mean of the splits" if std else "result", result),
        ("standard deviation", std),
        (f"without queries{some}", other if "rank" in other else None),
        ("with mirrored clips", result.get("flipped")),
        ("re-ranked", result.get("reranked")),
        ("chance", result["chance"]),
    ]
    return [(label, figures) for label, figures in rows if figures]


def queries_of(result: Mapping[str, Any]) -> str:
    """The number of queries that the rates are over: those with a match, and all if they are more.

    >>> queries_of({"queries": 80, "valid_queries": 11}), queries_of({"splits": [{"queries": 8}, {"queries": 9}]})
    ('11 queries with a match, of 80', '8 to 9 queries')
    >>> queries_of({"queries": 1}), queries_of({"queries": 4, "valid_queries": 1})
    ('1 query', '1 query with a match, of 4')
    """
    rows = result.get("splits") or [result]

    def number(name: str) -> str:
        counts = [row.get(name, row.get("queries", 0)) for row in rows]
        return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))

    every, valid = number("queries"), number("valid_queries")
    queries = f"{valid} {'query' if valid == '1' else 'queries'}"
    return queries if every == valid else f"{queries} with a match, of {every}"


def incomplete_of(result: Mapping[str, Any]) -> str:
    """What a result says about a part of a data set, empty for the whole.

    >>> row = {"count": "query_tracklets", "expected": 1980, "found": 80}
    >>> incomplete_of({"dataset": "mars", "incomplete": [row]})
    'not the whole of mars (query_tracklets: 80 instead of 1980): not comparable with figures on mars'
    """
    if not (rows := result.get("incomplete")):
        return ""
    split = [f" in split {row['split']}" if "split" in row else "" for row in rows]
    texts = (f"{r['count']}: {r['found']} instead of {r['expected']}{s}" for r, s in zip(rows, split, strict=True))
    name = result["dataset"]
    return f"not the whole of {name} ({listing(texts, 2)}): not comparable with figures on {name}"


def compare(files: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Results by file name, for a comparison. Raises `UsageError` without files, and if protocols or conventions
    differ, with each difference. What the models were trained on and how features were extracted may differ."""
    if not files:
        raise UsageError("--compare", why="no result files", remedy="Run: amem evaluate --compare a.json b.json")
    named = [(path.stem if len({f.stem for f in files}) == len(files) else str(path), read(path)) for path in files]
    _, first = named[0]
    for path, (_, other) in zip(files[1:], named[1:], strict=True):
        differences = [
            f"{name}: {first['choices'].get(name)!r} there, {other['choices'].get(name)!r} here"
            for name in sorted({*first["choices"], *other["choices"]} - {"splits", "extra_data", "extraction"})
            if first["choices"].get(name) != other["choices"].get(name)
        ]
        if other["protocol"] != first["protocol"]:
            differences.insert(0, f"protocol {first['protocol']} there, {other['protocol']} here")
        for count in ("queries", "valid_queries", "gallery"):
            if count in first and other.get(count, first[count]) != first[count]:
                differences.append(f"{count} {first.get(count)} there, {other.get(count)} here")
        if differences:
            raise UsageError("result", path, why=f"cannot be compared with {files[0]} ({listing(differences)})")
    return named
