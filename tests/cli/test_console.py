"""Tables and lines: no wider than the terminal, nothing truncated, nothing read as markup."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amem_cli.artifacts.output import StageResult
from amem_cli.cli import console
from amem_cli.data.chain import ArtifactState
from amem_cli.data.check import CheckReport, CheckRow
from amem_cli.runtime.progress import Progress
from amem_cli.tools.doctor import Finding

ROW = {"rank": {"1": 0.876, "5": 1.0, "10": 1.0, "20": 1.0}, "mAP": 0.5, "mAP_official": 0.25}
RESULT: dict[str, Any] = ROW | {
    "protocol": "a-protocol-of-my-own", "dataset": "mars", "queries": 1980, "gallery": 11310, "chance": ROW,
    "interval": {"rank-1": [0.801, 0.852], "mAP": [0.701, 0.752]},
    "gallery_without_queries": ROW | {"queries": 1980, "valid_queries": 1840},
    "reranked": ROW, "flipped": ROW, "standard_deviation": ROW,
    "calibration": {"threshold_cosine": 0.5, "true_match_rate": 0.9, "false_match_rate": 0.001, "genuine_pairs": 57},
    "incomplete": [{"count": "query_tracklets", "expected": 1980, "found": 12}],
    "choices": {"distance": "squared Euclidean between features", "ties": "stable by gallery position"},
}  # fmt: skip
FOLDER = Path("/a/rather/long/way/[red]/the/place/where/experiments/live")
STATES = [
    ArtifactState(
        "extract-features", FOLDER / "features/ilids-vid-split3.h5", "stale", "image_size: 256x128 there", "c"
    ),
    ArtifactState("evaluate", FOLDER / "results/mars.json", "missing", "", "amem evaluate"),
]
REPORT = CheckReport(
    name="mars", title="MARS", folder=FOLDER, problem_count=30, remarks=("splits: drawn here, by seed 0",),
    rows=(
        CheckRow("queries unmatched without queries", 140, 140, "queries whose only match is a query itself", True),
        CheckRow("train images", 509914, 7, "", False),
    ),
    problems=("bbox_train/0001/0001C1T0001F001.jpg: cannot be decoded (image file is truncated)",) * 2,
    looks_like="folder",
)  # fmt: skip
ERRORS = {key: 0.12345 for key in ("mse", "mse_copied", "psnr", "psnr_copied", "ssim", "ssim_copied", "mse_ratio")}
FINDINGS = [
    Finding("free disk", "1.0 GB", "problem", "Free some space, or choose another --workspace elsewhere"),
    Finding("python", "3.11"),
]
PRINTERS = {
    "result": lambda: console.print_result(RESULT, Path("out.json")),
    "comparison": lambda: console.print_comparison([("a-result-with-a-long-name", RESULT)], False, paper=True),
    "chain": lambda: console.print_chain(STATES, FOLDER, "amem extract-features"),
    "check": lambda: console.print_check(REPORT),
    "findings": lambda: console.print_findings(FINDINGS),
    "prediction": lambda: console.print_prediction(ERRORS | {"mse_other_motion": 0.2}),
}
EXPECTED = {
    "result": [
        "1980 queries, gallery",
        "queries: 1840 queries with a match, of 1980",
        "90.0 % of 57 true",
        "0.5000 (squared distance",
        "deviation",
        "re-ranked",
        "87.6",
        "50.0",
        "80.1-85.2",
        "written to out.json",
    ],
    "comparison": ["paper: AMEM", "86.7", "79.3", "a-result-with-a-long-name", "1980 queries of mars", "not the whole"],
    "chain": ["features/ilids-vid-split3.h5", "image_size: 256x128 there", "next: amem extract-features"],
    "check": ["/[red]/", "509914", "NO", "... 30 problems in total", "not ok"],
    "findings": ["??  free disk", "-> Free some space", "amem works here, with problems: free disk"],
    "prediction": ["MSE 0.1235", "PSNR 0.1 dB", "with another clip's f_M: MSE 0.2000"],
}


@pytest.mark.parametrize("name", PRINTERS)
def test_output(name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 160):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        PRINTERS[name]()
        text = capsys.readouterr().out
        for line in text.splitlines():
            only_a_path = " " not in line.removeprefix("workspace ").strip()  # not wrapped, so that it can be pasted
            assert len(line) <= columns or only_a_path, line
        assert "…" not in text
        assert "\x1b" not in text
    for part in EXPECTED[name]:
        assert part in text


def test_print_check_marks_what_is_compared(capsys: pytest.CaptureFixture) -> None:
    rows = (
        CheckRow("people", None, 3, "", True),
        CheckRow("images", 4, 4, "", True),
        CheckRow("x", None, None, "", True),
    )
    console.print_check(replace(REPORT, rows=rows, problems=(), problem_count=0))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [["people", "3"] in lines, ["ok", "images", "4", "4"] in lines, ["?", "x"] in lines] == [True] * 3


def test_print_wrapped_keeps_commands_whole(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    commands = [
        "cd '/a/long place/with data' && sha256sum --quiet -c mars-images.sha256",
        "python -m pip install wandb",
    ]
    console.print_wrapped(f"note: compare with the earlier list of images: {commands[0]}")
    console.print_wrapped(f"-> {commands[1]}", " " * 50)
    console.print_wrapped("or generate people: amem data walkers walkers, then use them with --data-root walkers")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:4] == [commands[0], "->", commands[1]]
    assert lines[-2:] == ["or generate people: amem data walkers walkers, then use them", "with --data-root walkers"]


def test_print_table_is_wide_enough_for_its_numbers(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    numbers = [f"{100 + column}.5" for column in range(8)]
    console.print_table(["", *"abcdefgh"], [["open-reid cuhk03", *numbers]])
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "100.5" in line)
    assert row.split()[1:] == numbers
    assert row.split()[0] in "open-reid"


def test_comparison_as_json(capsys: pytest.CaptureFixture) -> None:
    console.print_comparison([("ours", RESULT)], True, paper=True)
    found = json.loads(capsys.readouterr().out)
    rates = {"rank-1": 0.876, "rank-5": 1.0, "rank-20": 1.0, "mAP": 0.5}
    assert found["ours"] == rates | {"over": "1980 queries", "gallery": 11310}
    assert found["paper: AMEM"]["rank-1"] == pytest.approx(0.867)


def test_print_json_converts_dataclasses_and_paths(capsys: pytest.CaptureFixture) -> None:
    console.print_json({"findings": FINDINGS, "path": FOLDER})
    found = json.loads(capsys.readouterr().out)
    assert found["findings"][1]["topic"] == "python"
    assert found["path"] == str(FOLDER)
    with pytest.raises(ValueError, match="JSON compliant"):
        console.print_json({"loss": float("nan")})


def test_print_stages(capsys: pytest.CaptureFixture) -> None:
    metrics = {"rank": {"1": 0.5}, "per_attribute": {"hat": 0.25}, "note": "text"}
    trained, reused = (StageResult("train-arm", Path("a.safetensors"), again, metrics) for again in (False, True))
    console.print_stages([trained, reused], Progress(began=time.monotonic() - 3), False)
    console.print_stages(trained, Progress(quiet=True), False)
    lines = capsys.readouterr().out.splitlines()
    figure = "  rank 1 0.5"
    assert lines == ["train-arm: a.safetensors (3 s)", figure, "train-arm: a.safetensors (reused)", figure]


def test_tables_are_plain_in_an_ascii_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "amem_cli", "status", "--workspace", str(tmp_path / "für")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"next: amem train-arm" in done.stdout
    assert rb"/f\xfcr" in done.stdout
    assert max(done.stdout) < 128


def test_comparison_names_other_extractions(capsys: pytest.CaptureFixture) -> None:
    adapted = RESULT | {"choices": {"extraction": "extracted with --adapt-cameras"}}
    console.print_comparison([("a", RESULT), ("b", adapted)], False, paper=False)
    assert "b: extracted with --adapt-cameras" in capsys.readouterr().out
    plain = RESULT | {"choices": {"extraction": "extracted with the defaults"}}
    console.print_comparison([("a", RESULT), ("b", plain)], False, paper=False)
    assert "extracted" not in capsys.readouterr().out
