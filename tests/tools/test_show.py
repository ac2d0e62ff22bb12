"""`amem show` and `amem report` on walkers and an untrained model: pictures, sections, rejected arguments."""

import copy
import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import write_labels

from amem_cli.artifacts import features, results
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.metrics_log import append_metrics
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.cli.app import run
from amem_cli.cli.tools import PICTURES
from amem_cli.data.datasets import read_videos
from amem_cli.data.loading import middle_clip
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.amem import build_amem
from amem_cli.models.checkpoints import load_amem, save_amem
from amem_cli.models.config import model_config
from amem_cli.options import EvaluateOptions, TrainAmemOptions
from amem_cli.pictures.html import require_page
from amem_cli.pictures.predicted_frames import PredictedClip
from amem_cli.runtime.progress import Progress, Silent
from amem_cli.stages.evaluate import evaluate
from amem_cli.tools import report as report_module
from amem_cli.tools.predictions import predict_clips
from amem_cli.tools.report import Collector, Missing, camera_pairs, curve_panels, report, training_curves
from amem_cli.tools.show import KINDS, Picture, show
from amem_cli.tools.source import Source

pytestmark = [pytest.mark.usefixtures("tiny_backbones", "one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def split(walkers: Path):
    return read_videos(load_manifest("mars"), walkers).splits[0]


@pytest.fixture(scope="module")
def workspace(walkers: Path, split, tmp_path_factory: pytest.TempPathFactory, tiny_backbones: None) -> Workspace:
    """An untrained model, made-up labels, random features, and their result."""
    places = Workspace(tmp_path_factory.mktemp("workspace"))
    torch.manual_seed(0)
    sizes = {"image_size": "64x32", "clip_frames": 6, "predict_frames": 2, "branch": "conv2d"}
    config = model_config(TrainAmemOptions(data_root=walkers, workspace=places.root, **sizes), 4)
    provenance = Provenance("train-amem", {"note": "<script>alert(1)</script>"})
    save_amem(places.amem("mars", None), build_amem(config), None, config, provenance, {})
    for step in range(3):
        log = places.amem("mars", None).with_name("metrics.jsonl")
        append_metrics(log, {"step": step, "seconds": step, "id": 3 - step})
    write_labels(places.labels("mars"), [tracklet.name for tracklet in split.train])
    rows = np.random.default_rng(0).standard_normal((len(split.test), 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids, cameras = (np.array([getattr(t, key) for t in split.test]) for key in ("person_id", "camera_id"))
    table = Features("mars", [t.name for t in split.test], ids, cameras, np.array(split.is_query), rows, {})
    main = {"amem-main": parent(places.amem_main("mars", None))}
    features.write(places.features("mars", None), table, Provenance("extract-features", {}, main))
    evaluate(EvaluateOptions(protocol="mars", workspace=places.root, bootstrap=20), Silent())
    return places


@pytest.fixture
def source(workspace: Workspace, walkers: Path) -> Source:
    return Source("mars", walkers, workspace)


@pytest.fixture(scope="module")
def trained(workspace: Workspace):
    return load_amem(workspace.amem("mars", None))


def test_command_offers_every_kind() -> None:
    assert set(PICTURES) == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_show_every_kind(kind: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amem_cli.tools.show.QUERIES_SHOWN", 2)
    monkeypatch.setattr("amem_cli.tools.show.CLIPS_DRAWN", 2)
    path, figures = show(kind, Picture((), tmp_path / "a.png"), source, Silent())
    assert path.read_bytes().startswith(b"\x89PNG")
    counts = {"ranking": lambda: len(figures["queries"]), "frames": lambda: figures["clips"]}
    counts |= {"cmc": lambda: figures["queries"], "attention": lambda: len(figures["shares"])}
    assert counts.get(kind, lambda: 2)() in (2, len(source.queries))
    json.dumps(figures, allow_nan=False)


def test_show_named_tracklets(source: Source, tmp_path: Path) -> None:
    query = source.queries[1].name
    _, ranked = show("ranking", Picture([query], tmp_path / "a.png"), source, Silent())
    table = source.features
    asked = np.array([name == query for name in table.tracklet])
    by_hand = evaluate_ranking(
        table.features[asked], table.features, table.person_id[asked], table.person_id, table.camera_id[asked],
        table.camera_id,
    )  # fmt: skip
    assert ranked["queries"] == {query: pytest.approx(by_hand.mAP, abs=1e-6)}  # the queries that the evaluation counted
    _, seen = show("attention", Picture([query], tmp_path / "a.png"), source, Silent())
    assert list(seen["shares"]) == [query]
    assert sum(seen["shares"][query].values()) == pytest.approx(1, abs=1e-3)
    one, two = (tracklet.name for tracklet in source.content.train[:2])
    alone, _ = show("attributes", Picture([one], tmp_path / "one.png"), source, Silent())
    both, _ = show("attributes", Picture([one, two], tmp_path / "two.png"), source, Silent())
    assert alone.read_bytes() != both.read_bytes()


@pytest.mark.parametrize(
    ("kind", "names", "out", "message"),
    [
        ("ranking", ["nobody"], "a.png", "no query has this name"),
        ("frames", ["nobody"], "a.png", "no tracklet of this name"),
        ("attributes", ["nobody"], "a.png", "no tracklet of this name"),
    ],
)
def test_show_refuses(kind: str, names: list[str], out: str, message: str, source: Source, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        show(kind, Picture(names, tmp_path / out), source, Silent())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dataset", "number"), [("mars", 2), ("prid2011", 10), ("prid2011", -1), ("peta", None)])
def test_source_refuses(dataset: str, number: int | None, walkers: Path) -> None:
    with pytest.raises(UsageError, match=dataset):
        Source(dataset, walkers, Workspace(Path("none")), number)


def test_show_refuses_test_tracklets_without_labels(source: Source, tmp_path: Path) -> None:
    picture = Picture([source.queries[0].name], tmp_path / "a.png")
    with pytest.raises(UsageError, match="no pseudo-labels; amem label-videos --dataset mars"):
        show("attributes", picture, source, Silent())


def test_show_attributes_in_the_folder_of_the_workspace(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.workspace.root)
    here = replace(source, workspace=Workspace(Path(".")))
    show("attributes", Picture([], tmp_path / "a.png"), here, Silent())
    with pytest.raises(UsageError, match=f"for show attributes --workspace {Path.cwd()}-all"):
        show("attributes", Picture([source.queries[0].name], tmp_path / "b.png"), here, Silent())


@pytest.mark.parametrize("kind", KINDS)
def test_show_missing_artifact(kind: str, walkers: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="Run: amem"):
        show(kind, Picture((), tmp_path / "a.png"), Source("mars", walkers, Workspace(tmp_path / "none")), Silent())


def test_source_model_name_by_provenance(source: Source) -> None:
    result = results.read(source.workspace.results("mars"))
    assert source.model_name(result) == "AMEM"
    assert source.model_name(result | {"provenance": {"parents": {"features": {"sha256": "another"}}}}) == "this model"
    assert replace(source, workspace=Workspace(Path("none"))).model_name(result) == "this model"


# -- predictions -------------------------------------------------------------------------------------------------------


def test_predict_clips_of_the_training_model(trained, split) -> None:
    amem, config = trained
    tracklet = split.test[0]
    (clip,) = predict_clips(amem, config, [tracklet], Silent())
    with Image.open(tracklet.frames[max(0, (len(tracklet) - 6) // 2) + 1]) as image:  # the middle clip's second frame
        np.testing.assert_array_equal(clip.current, np.asarray(image.convert("RGB")))
    seen = middle_clip(tracklet, config.clip_frames, config.height_width)
    pixels = torch.from_numpy(seen).permute(3, 0, 1, 2)[None].float() / 255
    with torch.inference_mode():
        frames = torch.cat([prediction.frame for prediction in amem(pixels, torch.tensor([1]), 2).predictions])
    expected = (frames.permute(0, 2, 3, 1) * 255).round().numpy()
    assert np.abs(clip.predicted - expected).max() <= 1
    np.testing.assert_array_equal(clip.true, seen[2:4])
    assert clip.by_other_motion is None
    with torch.inference_mode():
        frames = amem.mem.decoder(amem.mem.encoder(pixels[0, :, 2:4].movedim(0, 1))).permute(0, 2, 3, 1)
    assert np.abs(clip.reconstructed - (frames * 255).round().numpy()).max() <= 1
    assert clip.steps == ["t+1", "t+2"]


def test_predict_clips_stride(trained, split) -> None:
    amem, config = trained
    (clip,) = predict_clips(amem, replace(config, predict_stride=2), split.test[:1], Silent())
    np.testing.assert_array_equal(
        clip.true, middle_clip(split.test[0], config.clip_frames, config.height_width)[[3, 5]]
    )
    assert clip.steps == ["t+2", "t+4"]
    with pytest.raises(UsageError, match="a clip of 6 frames has room for 1 to 2"):
        predict_clips(amem, replace(config, predict_stride=2), split.test[:1], Silent(), rounds=3)


def test_predict_clips_by_the_motion_of_the_clip_before(trained, split, monkeypatch) -> None:
    amem, config = trained
    amem = copy.deepcopy(amem)
    with torch.no_grad():
        amem.mem.embedding[0].weight[:, amem.mem.encoder.channels :] *= 1e6  # f_M of an untrained model is about 1e-7

    def frames_of(clip: PredictedClip) -> np.ndarray:
        return np.stack([clip.predicted, clip.by_other_motion, clip.reconstructed]).astype(int)

    one, two, three = map(frames_of, predict_clips(amem, config, split.test[:3], Silent()))
    assert np.abs(one[0] - one[1]).max() > 100
    _, one_after_three = map(frames_of, predict_clips(amem, config, [split.test[2], split.test[0]], Silent()))
    # before the first one is the last one; float sums of other batches differ in the last bits
    assert np.abs(one - one_after_three).max() <= 3
    monkeypatch.setattr("amem_cli.tools.predictions.CLIPS_AT_ONCE", 2)
    in_parts = list(map(frames_of, predict_clips(amem, config, split.test[:3], Silent())))
    assert np.abs(np.stack([one, two, three]) - np.stack(in_parts)).max() <= 3


def test_predict_clips_refuses(trained, split) -> None:
    amem, config = trained
    for rounds in (0, 5):
        with pytest.raises(UsageError, match="has room for 1 to 4"):
            predict_clips(amem, config, split.test[:1], Silent(), rounds=rounds)
    with pytest.raises(UsageError, match="no query"):
        predict_clips(amem, config, [], Silent())


# -- report ------------------------------------------------------------------------------------------------------------


def test_report_of_a_workspace(source: Source, tmp_path: Path) -> None:
    out = report(tmp_path / "r.html", source, Silent(), queries=3, seed=0)
    require_page(out)  # does not refuse to replace it
    text = out.read_text("utf-8")
    assert out.stat().st_size < 15_000_000
    assert text.count('<article class="query"') == 3
    assert "<h1>AMEM on mars</h1>" in text
    assert "not the complete data set MARS" in text
    assert "the attribute heads (AEM) of the model" in text  # the labels cover the training people only
    assert f"Over {len(source.queries)} clips the predicted frames are" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "<code>amem train-arm" in text  # it is missing


@pytest.mark.parametrize("command", [["report", "--out", "x.html"], ["show", "cmc", "--out", "x.png"]])
def test_pictures_as_json_have_the_warnings(
    command: list[str], workspace: Workspace, walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def warned(*arguments: Any, **more: Any) -> Any:
        next(one for one in arguments if isinstance(one, Progress)).warn("look here")
        return original(*arguments, **more)

    target = f"amem_cli.tools.{command[0]}.{command[0]}"
    original = getattr(importlib.import_module(f"amem_cli.tools.{command[0]}"), command[0])
    monkeypatch.setattr(target, warned)
    monkeypatch.chdir(tmp_path)
    where = ["--workspace", str(workspace.root), "--data-root", str(walkers)]
    assert run([*command, *where, "--json"]) == 0
    assert "look here" in json.loads(capsys.readouterr().out)["warnings"]


def test_report_of_queries_with_damaged_frames(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part that needs the frame says so; the others stay."""

    def damaged(*_: Any) -> None:
        raise BadData("image", "x.jpg", why="cannot be decoded")

    for name in ("middle_clip", "attribute_probabilities", "predict_clips"):
        monkeypatch.setattr(f"amem_cli.tools.predictions.{name}", damaged)
    text = report(tmp_path / "r.html", source, progress := Silent(), queries=3, seed=0).read_text("utf-8")
    assert text.count('<article class="query"') == 3
    assert text.count("image x.jpg: cannot be decoded") == 2  # attributes, predicted frames
    assert progress.warnings == ["image x.jpg: cannot be decoded."]


def test_report_of_an_empty_workspace(walkers: Path, tmp_path: Path) -> None:
    root = tmp_path / "none"
    source = Source("prid2011", walkers, Workspace(root), 3)
    with pytest.raises(InputMissing, match=f"nothing to report on. Run: amem train-arm --workspace {root}"):
        report(tmp_path / "r.html", source, Silent(), queries=3, seed=0)
    assert not (tmp_path / "r.html").exists()


def test_report_without_the_data_set(workspace: Workspace, tmp_path: Path) -> None:
    progress = Silent()
    missing = Source("mars", tmp_path / "gone", workspace)
    text = report(tmp_path / "r.html", missing, progress, queries=3, seed=0).read_text("utf-8")
    assert "Cumulative matching characteristic" in text
    assert text.count(f"{tmp_path / 'gone' / 'mars'}: not found") == 2  # ranked lists and predicted frames
    assert len(progress.warnings) == 1


def test_report_shrinks_and_refuses(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    page = "amem_cli.tools.report.report_page"
    monkeypatch.setattr(page, lambda _, frames: asked.append(frames) or "x" * frames)
    found = SimpleNamespace(result=1, ranked_lists=1, predictions=1, curves=[], artifacts=[])
    monkeypatch.setattr(Collector, "report", lambda *_: found)
    monkeypatch.setattr(report_module, "LARGEST_PAGE", 10)
    assert report(tmp_path / "r.html", source, Silent(), queries=3, seed=0).stat().st_size == 8
    assert asked == [32, 16, 8]
    monkeypatch.setattr(report_module, "LARGEST_PAGE", 1)
    with pytest.raises(UsageError, match="Ask for fewer"):
        report(tmp_path / "s.html", source, Silent(), queries=3, seed=0)
    assert not (tmp_path / "s.html").exists()


def test_camera_pairs_are_rankings_of_one_camera(source: Source) -> None:
    table, pairs = source.features, camera_pairs(source)
    assert [(pair.query_camera, pair.answer_camera) for pair in pairs] == [(1, 2), (2, 1)]
    asked, answers = table.is_query & (table.camera_id == 1), table.camera_id == 2
    by_hand = evaluate_ranking(
        table.features[asked], table.features[answers], table.person_id[asked], table.person_id[answers],
        table.camera_id[asked], table.camera_id[answers],
    )  # fmt: skip
    assert (pairs[0].rank_1, pairs[0].mAP, pairs[0].queries) == (by_hand.cmc[0], by_hand.mAP, by_hand.valid_queries)


def test_training_curves_unreadable_file(tmp_path: Path) -> None:
    assert training_curves("train-tae", tmp_path, "amem train-tae") == Missing(
        "train-tae has no curves yet", "amem train-tae"
    )
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\x00\x1b[31m\n{'step")
    assert training_curves("train-tae", tmp_path, "amem train-tae") == Missing(f"{path} has no line that can be read")


def test_curve_panels_group_figures() -> None:
    panels = curve_panels(
        [
            {"step": 1, "seconds": 2, "id": 3.0, "weighted_id": 1.5, "accuracy": 0.5, "image": 0.2, "copy_image": 0.1},
            {"step": 2, "gradient_norms": {"id": 0.1}, "note": "text", "id": float("nan")},
            {"step": 9, "validation": {"mAP": 0.5, "queries": 12, "people": 3}},
        ]
    )
    assert {title.split()[0]: lines for title, lines in panels.items()} == {
        "Validation": {"mAP": ([9], [0.5])},
        "Weighted": {"id": ([1], [1.5])},
        "Unweighted": {"id": ([1], [3.0])},
        "Squared": {"predicted": ([1], [0.2]), "copied": ([1], [0.1])},
        "Accuracy": {"accuracy": ([1], [0.5])},
        "Gradient": {"id": ([2], [0.1])},
    }
    steps, values = curve_panels([{"step": step, "id": 1.0 + step % 2} for step in range(6000)])["Unweighted losses"][
        "id"
    ]
    assert (len(steps), steps[0], set(values)) == (300, 9.5, {1.5})
