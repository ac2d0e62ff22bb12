"""`amem show` and `amem report` on walkers and an untrained model: every picture, every section, every refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amem_cli.artifacts import features, pseudo_labels, results
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.metrics_log import append_metrics
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance, parent
from amem_cli.artifacts.pseudo_labels import PseudoLabels
from amem_cli.attributes import ATTRIBUTES
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.metrics.ranking import evaluate_ranking
from amem_cli.models.amem import build_main_model
from amem_cli.models.attention import activation_maps
from amem_cli.options import EvaluateOptions, TrainAmemOptions
from amem_cli.pictures.attention import attention_strip, heat_rows, overlay
from amem_cli.runtime.progress import Progress
from amem_cli.stages.evaluate import evaluate
from amem_cli.stages.train_amem import build_amem, describe, save_models
from amem_cli.tools.report import camera_pairs, report
from amem_cli.tools.samples import middle_clip, predict_clips
from amem_cli.tools.show import KINDS, draw_predicted_frames, load_trained, mean_errors, show
from amem_cli.tools.training_curves import curve_panels, read_metrics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split(walkers: Path):
    return read_videos(load_manifest("mars"), walkers).splits[0]


@pytest.fixture(scope="module")
def workspace(walkers: Path, split, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An untrained model, labels and features drawn at random, and their result."""
    places = Workspace(tmp_path_factory.mktemp("workspace"))
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    options = TrainAmemOptions(
        image_size="64x32", clip_frames=6, predict_frames=2, branch="conv2d", data_root=walkers, workspace=places.root
    )
    described = describe(options, 4)
    model, discriminator = build_amem(described, None)
    provenance = Provenance("train-amem", {"note": "<script>alert(1)</script>"})
    save_models(places.amem("mars", None), model, discriminator, described, provenance, {})
    for step in range(3):
        append_metrics(
            places.amem("mars", None).parent / "metrics.jsonl", {"step": step, "seconds": step, "id": 3 - step}
        )

    ids = np.array([tracklet.person_id for tracklet in split.train])
    probabilities = generator.random((len(ids), len(ATTRIBUTES))).astype(np.float32)
    names = [tracklet.name for tracklet in split.train]
    table = PseudoLabels(
        "mars", names, ids, ids * 0 + 1, ids * 0 + 8, probabilities, (probabilities > 0.5).astype(np.uint8), ATTRIBUTES,
        0.5, {},
    )  # fmt: skip
    pseudo_labels.write(places.labels("mars"), table, Provenance("label-videos", {}))

    rows = generator.standard_normal((len(split.test), 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    columns = (
        [tracklet.name for tracklet in split.test],
        np.array([tracklet.person_id for tracklet in split.test]),
        np.array([tracklet.camera_id for tracklet in split.test]),
        np.array(split.is_query),
        rows,
    )
    main = {"amem-main": parent(places.amem_main("mars", None))}
    features.write(
        places.features("mars", None),
        Features("mars", *columns, provenance={}),
        Provenance("extract-features", {}, main),
    )
    evaluate(EvaluateOptions(protocol="mars", workspace=places.root, bootstrap=20), Progress(quiet=True))
    return places


@pytest.fixture(scope="module")
def query(split) -> str:
    return next(t.name for t, is_query in zip(split.test, split.is_query, strict=True) if is_query)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [*((kind, ".png") for kind in KINDS), ("frames", ".pdf"), ("cmc", ".svg"), ("attention", ".svg")],
)
def test_every_kind_of_picture(
    kind: str, suffix: str, workspace: Workspace, walkers: Path, split, query: str, tmp_path: Path
) -> None:
    names = {"cmc": [], "attributes": [split.train[0].name]}.get(kind, [query])
    path, _ = show(kind, names, tmp_path / f"{kind}{suffix}", "mars", walkers, workspace)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


def test_pictures_without_names_choose_for_themselves(workspace: Workspace, walkers: Path, tmp_path: Path) -> None:
    _, ranked = show("ranking", [], tmp_path / "r.png", "mars", walkers, workspace)
    assert 1 <= len(ranked["queries"]) <= 6
    _, seen = show("attention", [], tmp_path / "a.png", "mars", walkers, workspace)
    assert len(seen["shares"]) == 2


def test_two_tracklets_are_compared(workspace: Workspace, walkers: Path, split, tmp_path: Path) -> None:
    one, two, three = (tracklet.name for tracklet in split.train[:3])
    alone, _ = show("attributes", [one], tmp_path / "one.png", "mars", walkers, workspace)
    both, _ = show("attributes", [one, two], tmp_path / "two.png", "mars", walkers, workspace)
    assert Image.open(alone).size != Image.open(both).size
    with pytest.raises(UsageError, match="3 were named"):
        show("attributes", [one, two, three], tmp_path / "three.png", "mars", walkers, workspace)


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("rankin", [], "Did you mean ranking"),
        ("cmc", ["x"], "over all queries"),
        ("ranking", ["nobody"], "no query has this name"),
        ("frames", ["nobody"], "none of this name"),
        ("attention", ["nobody"], "none of this name"),
        ("attributes", ["nobody"], "no labelled tracklet has this name"),
    ],
)
def test_refusals(
    kind: str, names: list[str], message: str, workspace: Workspace, walkers: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        show(kind, names, tmp_path / "x.png", "mars", walkers, workspace)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_is_named_with_its_command(kind: str, walkers: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="Run: amem"):
        show(kind, [], tmp_path / "x.png", "mars", walkers, Workspace(tmp_path / "nothing"))


# -- predicted frames --------------------------------------------------------------------------------------------------


def test_predicted_frames_follow_the_second_frame_of_the_middle_clip(
    workspace: Workspace, walkers: Path, split
) -> None:
    model, described = load_trained(workspace.amem("mars", None))
    (clip,) = predict_clips(model, described, [split.test[0]], 3)
    assert clip.true.shape == clip.predicted.shape == (3, 64, 32, 3)
    first = max(0, (len(split.test[0]) - 6) // 2)
    with Image.open(split.test[0].frames[first + 1]) as image:
        np.testing.assert_array_equal(clip.current, np.asarray(image.convert("RGB")))
    errors = mean_errors([clip])
    assert errors["mse_ratio"] == pytest.approx(clip.errors["mse_ratio"])
    assert len(predict_clips(model, described, [split.test[0]])[0].true) == 2  # as it was trained


def test_a_clip_is_also_predicted_from_the_motion_of_the_clip_before_it(workspace: Workspace, split) -> None:
    model, described = load_trained(workspace.amem("mars", None))
    with torch.no_grad():  # so that one step of training is enough to see a difference
        model.motion_enhancement.decoder.layers[-2].weight *= 1e4
    one, other, third = predict_clips(model, described, list(split.test[:3]))
    assert not np.array_equal(one.by_other_motion, one.predicted)
    assert one.errors["mse_other_motion"] != one.errors["mse"]
    swapped = predict_clips(model, described, [split.test[2], split.test[0]])[1]
    np.testing.assert_array_equal(one.by_other_motion, swapped.by_other_motion)  # the first one's is the last one's
    errors = mean_errors([one, other, third])
    expected = np.mean([each.errors["mse_other_motion"] for each in (one, other, third)])
    assert errors["other_motion_ratio"] == pytest.approx(expected / errors["mse_copied"])
    (alone,) = predict_clips(model, described, [split.test[0]])
    assert (alone.by_other_motion, mean_errors([alone])["other_motion_ratio"]) == (None, None)


def test_predictions_are_those_of_the_training_model(workspace: Workspace, split) -> None:
    model, described = load_trained(workspace.amem("mars", None))
    (clip,) = predict_clips(model, described, [split.test[0]])
    pixels = torch.from_numpy(middle_clip(split.test[0], described)).permute(3, 0, 1, 2)[None].float() / 255
    with torch.inference_mode():
        frames = torch.cat([p.frame for p in model(pixels, torch.tensor([1]), 2).predictions])
    expected = (frames.permute(0, 2, 3, 1) * 255).round().numpy().astype(np.uint8)
    assert np.abs(clip.predicted.astype(int) - expected).max() <= 1


def test_a_gif_walks_with_the_clips_below_each_other(workspace: Workspace, split, tmp_path: Path) -> None:
    model_file = workspace.amem("mars", None)
    shown = [0, 3]
    path, errors = draw_predicted_frames(tmp_path / "walk.gif", model_file, [split.test[row] for row in shown])
    _, still = draw_predicted_frames(tmp_path / "still.png", model_file, [split.test[row] for row in shown])
    assert errors == still
    with Image.open(path) as image:
        assert image.n_frames == 1 + 2  # frame t and the two rounds that it was trained with
        assert image.height > 2 * 2 * 64


def test_errors_are_of_the_measured_clips_whatever_is_drawn(workspace: Workspace, split, tmp_path: Path) -> None:
    model_file, (one, other, *_) = workspace.amem("mars", None), split.test
    _, of_both = draw_predicted_frames(tmp_path / "one.png", model_file, [one], measured=[one, other])
    _, expected = draw_predicted_frames(tmp_path / "both.png", model_file, [one, other])
    _, of_one = draw_predicted_frames(tmp_path / "alone.png", model_file, [one])
    assert of_both == expected != of_one
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "alone.png").read_bytes()


@pytest.mark.parametrize("rounds", [0, 5, -1])
def test_rounds_must_fit_into_the_clip(workspace: Workspace, split, rounds: int) -> None:
    model, described = load_trained(workspace.amem("mars", None))
    with pytest.raises(UsageError, match="has room for 1 to 4"):
        predict_clips(model, described, [split.test[0]], rounds)


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
def test_activation_maps_add_up_and_are_the_gradient_weighted_ones(fused: bool) -> None:
    torch.manual_seed(1)
    described = {"backbone": "i3d", "branch": "conv2d", "branch_kernel": "3x3x3", "appearance": fused, "motion": fused}
    model = build_main_model(described | {"fused": fused}).eval()
    clip = torch.rand(2, 3, 8, 32, 32)
    found = activation_maps(model, clip)
    assert list(found.features) == (["f_B", "f_A", "f_M"] if fused else ["f_B"])
    total = sum(found.shares.values()) + found.bias_share
    torch.testing.assert_close(total, torch.ones(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.backbone_over_time.mean(dim=1), found.features["f_B"], rtol=1e-3, atol=1e-5)

    with torch.no_grad():
        maps = model.feature_maps(clip)
    feature = maps.backbone_feature.clone().requires_grad_()
    similarity = model.similarity_feature(maps._replace(backbone_feature=feature))
    (gradient,) = torch.autograd.grad(similarity.square().sum() / 2, feature)
    weights = gradient.sum(dim=(2, 3))  # of the pooled map: every place has a share of 1 / (H W)
    grad_cam = torch.einsum("bchw,bc->bhw", maps.backbone_feature, weights) / similarity.square().sum(1)[:, None, None]
    torch.testing.assert_close(found.features["f_B"], grad_cam.detach(), rtol=1e-3, atol=1e-5)


def test_heat_is_seen_where_it_is_and_below_zero_not_at_all() -> None:
    heat = np.array([[1.0, -1.0], [-1.0, -1.0]], dtype=np.float32)
    grey = Image.new("RGB", (32, 64), (100, 100, 100))
    pixels = np.asarray(overlay(grey, heat, 1.0)).astype(int)
    assert pixels[4, 4, 0] > 180  # inferno's end is bright
    np.testing.assert_allclose(pixels[60, 28], 100, atol=1)
    np.testing.assert_array_equal(np.asarray(overlay(grey, heat * 0, 0.0)), np.asarray(grey))


def test_heat_over_time_is_spread_over_the_frames() -> None:
    frames = np.zeros((8, 64, 32, 3), dtype=np.uint8)
    over_time = np.zeros((2, 2, 2), dtype=np.float32)
    over_time[1] = 1
    rows = heat_rows({"f_B": over_time.mean(axis=0)}, {"f_B": 0.5}, over_time)
    picture = np.asarray(attention_strip(frames, rows, enlarge=1))
    line = picture[int(picture.shape[0] * 0.5)].max(axis=1).astype(int)  # through the row of BF
    assert line[: picture.shape[1] // 2].sum() < line[picture.shape[1] // 2 :].sum()
    with pytest.raises(BadData, match="no frame or no map"):
        attention_strip(frames, [])


# -- report ------------------------------------------------------------------------------------------------------------


def test_the_report_of_a_workspace(workspace: Workspace, walkers: Path, tmp_path: Path) -> None:
    out = report(tmp_path / "r.html", "mars", walkers, workspace.root, Progress(quiet=True), queries=3)
    text = out.read_text("utf-8")
    assert out.stat().st_size < 15_000_000
    assert text.count('<article class="query"') == 3
    assert "the model&#x27;s own attribute heads" in text  # the labels cover the training people only
    assert "worse than copying" in text or "better than copying" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert(1)" not in text
    assert "<code>amem train-arm --workspace" in text  # it is missing
    result = results.read(workspace.results("mars"))
    assert f"<strong>{100 * result['mAP']:.1f}</strong>" in text
    again = report(tmp_path / "again.html", "mars", walkers, workspace.root, Progress(quiet=True), queries=3)
    assert again.read_bytes() == out.read_bytes()


def test_the_report_of_an_empty_workspace_says_what_comes_next(walkers: Path, tmp_path: Path) -> None:
    out = report(tmp_path / "r.html", "prid2011", walkers, tmp_path / "none", Progress(quiet=True), split=3)
    text = out.read_text("utf-8")
    for command in (
        "amem extract-features --dataset prid2011 --split 3",
        "amem train-amem --dataset prid2011 --split 3",
        "amem train-arm",
        "amem train-tae",
    ):
        assert f"<code>{command} --workspace" in text, command


def test_the_report_without_the_data_set_shows_the_rest(workspace: Workspace, tmp_path: Path) -> None:
    progress = Progress(quiet=True)
    text = report(tmp_path / "r.html", "mars", tmp_path / "no-data", workspace.root, progress).read_text("utf-8")
    assert "Cumulative matching characteristic" in text
    assert "folder" in text
    assert str(tmp_path / "no-data") in text
    assert progress.warnings


@pytest.mark.parametrize(("number", "queries"), [(2, 12), (None, 0)])
def test_the_report_refuses(
    workspace: Workspace, walkers: Path, tmp_path: Path, number: int | None, queries: int
) -> None:
    with pytest.raises(UsageError):
        report(
            tmp_path / "r.html", "mars", walkers, workspace.root, Progress(quiet=True), split=number, queries=queries
        )
    assert not (tmp_path / "r.html").exists()


def test_the_report_shrinks_until_it_fits(
    workspace: Workspace, walkers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("amem_cli.tools.report.report_page", lambda _, frames: asked.append(frames) or "x" * frames)
    monkeypatch.setattr("amem_cli.tools.report.LARGEST_PAGE", 10)
    out = report(tmp_path / "r.html", "mars", walkers, workspace.root, Progress(quiet=True), queries=1)
    assert asked == [32, 16, 8]
    assert out.stat().st_size == 8
    monkeypatch.setattr("amem_cli.tools.report.LARGEST_PAGE", 1)
    with pytest.raises(UsageError, match="Ask for fewer"):
        report(tmp_path / "s.html", "mars", walkers, workspace.root, Progress(quiet=True), queries=1)


def test_pairs_of_cameras_are_rankings_of_one_camera(workspace: Workspace) -> None:
    table = features.read(workspace.features("mars", None))
    pairs = camera_pairs(table, queries_in_gallery=True)
    assert {(pair.query_camera, pair.answer_camera) for pair in pairs} == {(1, 2), (2, 1)}
    pair = next(pair for pair in pairs if pair.query_camera == 1)
    asked, answers = table.is_query & (table.camera_id == 1), table.camera_id == 2
    by_hand = evaluate_ranking(
        table.features[asked], table.features[answers], table.person_id[asked], table.person_id[answers],
        table.camera_id[asked], table.camera_id[answers],
    )  # fmt: skip
    assert (pair.rank_1, pair.mAP, pair.queries) == (by_hand.cmc[0], by_hand.mAP, by_hand.valid_queries)


def test_metrics_of_a_resumed_and_torn_record(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "id": value}) for step, value in ((0, 5), (4, 4), (9, 3), (4, 2), (9, 1))]
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "\n".join(
            [*lines, "[1]", '{"no": "step"}', '{"step": 14, "id'],
        )
        + "\n"
    )
    assert [(record["step"], record["id"]) for record in read_metrics(path)] == [(0, 5), (4, 2), (9, 1)]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_curves_are_grouped_by_what_can_be_compared() -> None:
    records = [
        {"step": 1, "seconds": 2, "id": 3.0, "weighted_id": 3.0, "accuracy": 0.5, "image": 0.2, "copy_image": 0.1},
        {"step": 2, "gradient_norms": {"id": 0.1}, "note": "text", "id": float("nan")},
    ]
    panels = curve_panels(records)
    assert [list(lines) for lines in panels.values()] == [
        ["id"],
        ["id"],
        ["predicted", "copying the last frame"],
        ["accuracy"],
        ["id"],
    ]
    looks = curve_panels([{"step": 9, "validation": {"mAP": 0.5, "rank-1": 0.4, "queries": 12, "people": 3}}])
    assert looks == {"Held-out training people": {"mAP": ([9], [0.5]), "rank-1": ([9], [0.4])}}  # counts are no curves
    long = curve_panels([{"step": step, "id": 1.0} for step in range(5000)])
    steps, values = long["Loss terms, unweighted"]["id"]
    assert len(steps) == 300
    assert set(values) == {1.0}
