"""`evaluate` says and compares how features were extracted."""

import json
from pathlib import Path

import h5py
import pytest
from evaluations import options, split_file, three_splits

from amem_cli.artifacts import results
from amem_cli.artifacts.provenance import Provenance
from amem_cli.errors import BadData
from amem_cli.runtime.progress import Silent
from amem_cli.stages.evaluate import evaluate


def extracted_with(path: Path, options_: dict[str, object], **model: str) -> Path:
    made = {"command": "extract-features", "options": options_}
    parents = {"amem-main": {"name": "m", "sha256": "a" * 64} | model}
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = json.dumps(made | {"parents": parents})
    return path


def test_evaluate_says_what_the_model_does(tmp_path: Path) -> None:
    """Mirrored clips in the plain row, and the epoch of a renamed checkpoint."""
    of = tmp_path / "of-0.h5"
    for model, epoch, mirrored in (
        ({}, "the last epoch", False), ({"epoch": "best"}, "the epoch with the best validation", False),
        ({"name": "x-best.safetensors"}, "the epoch with the best validation", False),
        ({"mirror": "on"}, "the last epoch", True),
    ):  # fmt: skip
        files = [extracted_with(split_file(of, 4, "own"), {}, **model)] * 3
        given = options(tmp_path, *files, protocol=three_splits(tmp_path), force=True)
        choices = evaluate(given, Silent()).metrics["choices"]
        assert choices["epoch"] == f"{epoch}, no choice on test people"
        assert choices["extraction"].endswith(", each clip averaged with its mirror image") == mirrored


def test_evaluate_warns_of_splits_that_were_trained_differently(tmp_path: Path) -> None:
    same, other = json.dumps({"seed": 1, "weights": "a"}), json.dumps({"seed": 2, "weights": "a", "neck": "bn"})
    for last, names in ((same, ""), (other, "neck; seed"), ("[]", ""), ("no JSON", "")):
        files = [
            extracted_with(split_file(tmp_path / f"of-{number}.h5", 4, "own"), {}, training=text)
            for number, text in enumerate((same, same, last))
        ]
        evaluate(options(tmp_path, *files, protocol=three_splits(tmp_path), force=True), progress := Silent())
        found = [line for line in progress.warnings if "trained differently" in line]
        line = f"the models of the splits were trained differently ({names}): the mean mixes them"
        assert found == ([line] if names else [])


def test_evaluate_returns_the_same_document_again(tmp_path: Path) -> None:
    files = [split_file(tmp_path / f"of-{number}.h5", 4, "own") for number in range(3)]
    first, again = (evaluate(options(tmp_path, *files, protocol=three_splits(tmp_path)), Silent()) for _ in range(2))
    assert (first.reused, again.reused) == (False, True)
    assert first.metrics == again.metrics


@pytest.mark.parametrize(
    ("recorded", "text", "extraction"),
    [
        ({}, "the defaults", (False, 1)),
        ({"adapt_cameras": True, "parts": 4}, "--adapt-cameras --parts 4", (True, 4)),
        *(({"adapt_cameras": 1, "parts": odd}, "the defaults", (False, 1)) for odd in (0, -3, True, 10**40, "4", 2.0)),
    ],
)
def test_evaluate_says_how_features_were_extracted(
    recorded: dict, text: str, extraction: tuple, tmp_path: Path
) -> None:
    files = [extracted_with(split_file(tmp_path / "of-0.h5", 4, "own"), recorded)] * 3
    found = evaluate(options(tmp_path, *files, protocol=three_splits(tmp_path), calibrate=0.1), Silent()).metrics
    assert found["calibration"]["extraction"] == dict(zip(("adapt_cameras", "parts"), extraction, strict=True))
    assert type(found["calibration"]["extraction"]["parts"]) is int  # true is no number
    assert found["choices"]["extraction"] == f"extracted with {text}"
    assert found["calibration"]["image_size"] == ""


def test_evaluate_refuses_splits_of_different_extractions(tmp_path: Path) -> None:
    files = [split_file(tmp_path / f"of-{number}.h5", 4, "own") for number in range(3)]
    parts, size = r"with --parts 2, \S*of-0.h5 with the defaults", "of images of 8x4 pixels, a file before it of 16x8"
    for first, last, why in (({}, {"parts": 2}, parts), ({"image_size": "16x8"}, {"image_size": "8x4"}, size)):
        extracted_with(files[1], first)  # the first file says nothing
        extracted_with(files[2], last)
        with pytest.raises(BadData, match=rf"of-2.h5: .*{why}. Extract all splits"):
            evaluate(options(tmp_path, *files, protocol=three_splits(tmp_path)), Silent())


def test_evaluate_calibrates_again_if_the_image_size_was_not_recorded(tmp_path: Path) -> None:
    files = [extracted_with(split_file(tmp_path / "of-0.h5", 4, "own"), {"image_size": "16x8"})] * 3
    given = options(tmp_path, *files, protocol=three_splits(tmp_path), calibrate=0.1)
    made = evaluate(given, Silent())
    assert evaluate(given, Silent()).reused
    earlier = results.read(made.artifact)
    del earlier["calibration"]["image_size"]
    recorded = earlier.pop("provenance")
    results.write(made.artifact, earlier, Provenance("evaluate", recorded["options"], recorded["parents"]))
    again = evaluate(given, Silent())
    assert (again.reused, again.metrics["calibration"]["image_size"]) == (False, "16x8")
