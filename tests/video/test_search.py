"""Exact search over features files, by features and by description, against brute force."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from writers import some_result

import amem_cli.video.gallery as gallery_module
from amem_cli.api import embed
from amem_cli.artifacts import features
from amem_cli.artifacts.atomic import sha256_file
from amem_cli.artifacts.features import Extraction
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance
from amem_cli.cli.app import run
from amem_cli.data.clips import inference_clips
from amem_cli.data.datasets import read_videos
from amem_cli.data.loading import read_frames
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import AmemError, BadData, InputMissing, UsageError
from amem_cli.metrics.calibration import Probability
from amem_cli.models.checkpoints import load_main_model
from amem_cli.options import ExtractFeaturesOptions
from amem_cli.runtime.progress import Silent
from amem_cli.stages.extract_features import extract_features
from amem_cli.video.gallery import Calibration, Gallery
from amem_cli.video.link import link_tracks
from amem_cli.video.options import TrackletOptions, suggested_features
from amem_cli.video.page import search_page
from amem_cli.video.search import SearchOptions, search
from amem_cli.video.tracklets import cut_tracklets
from tests.toys import write_main
from tests.video.galleries import unit_rows, write_attributes, write_gallery


@pytest.mark.parametrize(("block", "top"), [(7, 1), (7, 5), (64, 100), (1000, 3)])
def test_nearest_brute_force(block: int, top: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "BLOCK_ROWS", block)
    rows = unit_rows(90)
    rows[40:60] = rows[:20]  # ties
    paths = [write_gallery(tmp_path / "a.h5", rows[:50]), write_gallery(tmp_path / "b.h5", rows[50:], camera="door")]
    gallery = Gallery(paths)
    keep = np.random.default_rng(1).random(90) < 0.5
    queries = np.concatenate([rows[:3], unit_rows(3, seed=5)])
    for mask in (None, keep):
        found, distances = gallery.nearest(queries, top, mask)
        for query, near, far in zip(queries, found, distances, strict=True):
            similarity = np.where(np.ones(90, bool) if mask is None else mask, queries @ rows.T, -np.inf)
            expected = np.argsort(-(rows @ query), kind="stable")
            expected = expected[similarity.max(0)[expected] > -np.inf][:top]
            assert far == pytest.approx(((rows[near] - query) ** 2).sum(1), abs=1e-5)
            assert ((rows[expected] - query) ** 2).sum(1) == pytest.approx(far, abs=1e-5)
            assert len(near) == len(set(near)) == len(expected)


def test_nearest_ties_keep_the_gallery_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "BLOCK_ROWS", 4)
    rows = np.tile(np.eye(8, dtype=np.float32)[:1], (12, 1))
    found, distances = Gallery([write_gallery(tmp_path / "a.h5", rows)]).nearest(rows[:2], 5)
    assert found.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert (distances == 0).all()


def test_read_mapped_is_on_disk_and_checked(tmp_path: Path) -> None:
    path = write_gallery(tmp_path / "a.h5", unit_rows(40, 16), folder="/data/people")
    table = features.read(path, people=False)
    assert isinstance(table.features, np.memmap)
    assert np.array_equal(table.features, unit_rows(40, 16))
    assert (table.folder, table.camera[0]) == ("/data/people", "hall")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadData, match="damaged"):
        features.read(path, people=False)


def test_read_mapped_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"kind": "amem-features", "schema": 1, "dataset": "x", "created_by": "them"})
        file["tracklet"] = ["a", "b"]
        file["camera_id"], file["is_query"] = np.ones(2, int), np.zeros(2, int)
        file.create_dataset("features", data=unit_rows(2).astype(np.float64), compression="gzip")
    assert Gallery([path]).cameras == ["1", "1"]


def test_search_tracklet_without_itself_and_filters(tmp_path: Path) -> None:
    paths = (
        write_gallery(tmp_path / "a.h5", unit_rows(20)),
        write_gallery(tmp_path / "b.h5", unit_rows(20), camera="door"),
    )
    found = search(SearchOptions(query="hall/0003", gallery=paths, top=3), Silent()).found[0].hits
    assert found[0].tracklet == "door/0003"
    assert "hall/0003" not in [hit.tracklet for hit in found]
    assert [hit.rank for hit in found] == [1, 2, 3]
    only = search(SearchOptions(query="hall/0003", gallery=paths, cameras=("hall",), after=11, before=20), Silent())
    assert {hit.camera for hit in only.found[0].hits} == {"hall"}
    assert {hit.first_seconds for hit in only.found[0].hits} == {10.0, 12.0, 14.0, 16.0, 18.0, 20.0}
    assert only.searched == 6
    assert 0 <= only.seconds < 60
    timeless = write_gallery(tmp_path / "c.h5", unit_rows(2), camera="yard", first_seconds=None)
    more = search(SearchOptions(query="hall/0003", gallery=(*paths, timeless), top=99, before=0.0), Silent())
    assert [hit.tracklet for hit in more.found[0].hits] in (["door/0001", "hall/0001"], ["hall/0001", "door/0001"])
    for name in ("after", "before"):
        with pytest.raises(UsageError, match=f"--{name}: the gallery has no times"):
            search(SearchOptions(query="yard/0001", gallery=(timeless,), **{name: 1.0}), Silent())
    for options, why in [
        ({"query": "hall/3"}, "Did you mean hall/00"), ({"cameras": ("attic",)}, "no such camera"),
        ({"after": 900}, "no tracklet passes"), ({"gallery": ()}, "no features file"), ({"top": 0}, "at least 1"),
        ({"query": ""}, "nothing to search for"), ({"query": "rtsp://hall"}, "Addresses are not read"),
        ({"query": "hall.mp4"}, r"video hall\.mp4: not found\. Check the path"),
    ]:  # fmt: skip
        with pytest.raises(AmemError, match=why):
            search(SearchOptions(**({"query": "hall/0003", "gallery": paths} | options)), Silent())


def test_gallery_suggests_features_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_gallery(Path("my answer/workspace/features/tracks.h5"), unit_rows(2))
    for folder in (Path("my answer"), Path("my answer/workspace"), file.parent, Path("my answer/tracks.h5")):
        with pytest.raises(AmemError, match=r"Did you mean 'my answer/workspace/features/tracks\.h5'\? amem extract"):
            Gallery([folder])
    with pytest.raises(UsageError, match=r"Did you mean 'my answer/workspace/features/tracks\.h5'\? Give workspace"):
        SearchOptions(query="hall/0001")
    Path("labels").mkdir()
    Path("labels/mars.h5").touch()
    assert suggested_features(Path("labels")) == ""  # of pseudo-labels
    with pytest.raises(AmemError, match=r"none\.h5: not found\. amem extract"):
        Gallery([Path("none.h5")])


def test_search_tracklet_names_options_without_effect(tmp_path: Path) -> None:
    gallery, progress = write_gallery(tmp_path / "a.h5", unit_rows(3)), Silent()
    given = {"model": tmp_path / "none", "boxes": ("motion",), "detector_weights": tmp_path / "none"}
    found = search(SearchOptions(query="hall/0001", gallery=(gallery,), **given), progress).found
    assert found == search(SearchOptions(query="hall/0001", gallery=(gallery,)), Silent()).found
    why = "has no effect: the query is a tracklet of the gallery"
    assert progress.warnings == [f"--{name} {why}" for name in ("model", "boxes", "detector-weights")]


def test_search_same_name_in_two_files(tmp_path: Path) -> None:
    rows = unit_rows(4)
    paths = (
        write_gallery(tmp_path / "a.h5", rows, dataset="mon", first_seconds=np.full(4, 0.12345)),
        write_gallery(tmp_path / "b.h5", rows, dataset="tue"),
    )
    with pytest.raises(UsageError, match="Use one of mon:hall/0001; tue:hall/0001"):
        search(SearchOptions(query="hall/0001", gallery=paths), Silent())
    hit = search(SearchOptions(query="tue:hall/0001", gallery=paths), Silent()).found[0].hits[0]
    assert (hit.dataset, hit.tracklet, hit.camera) == ("mon", "hall/0001", "mon:hall")
    assert (hit.first_seconds, hit.last_seconds) == (0.123, 1.123)


def test_gallery_of_two_files_of_data_sets_with_one_name(tmp_path: Path) -> None:
    """Two answers of find: their cameras are not the same, though their names are."""
    paths = (write_gallery(tmp_path / "a.h5", unit_rows(2)), write_gallery(tmp_path / "b.h5", unit_rows(2)))
    hit = search(SearchOptions(query="people-2:hall/0001", gallery=paths), Silent()).found[0].hits[0]
    assert (hit.dataset, hit.tracklet, hit.camera) == ("people-1", "hall/0001", "people-1:hall")
    linked = link_tracks(Gallery(paths), 0.5, None)
    assert (linked.person.tolist(), linked.forbidden) == ([1, 2, 1, 2], 0)
    with pytest.raises(UsageError, match="data sets with one name"):
        search(SearchOptions(with_=("upperBodyRed",), gallery=paths), Silent())


@pytest.mark.parametrize("other", [Extraction(adapt_cameras=True), Extraction(parts=2)])
def test_gallery_of_two_extractions(other: Extraction, tmp_path: Path) -> None:
    plain = write_gallery(tmp_path / "a.h5", unit_rows(2))
    changed = write_gallery(tmp_path / "b.h5", unit_rows(2), extraction=other)
    message = rf"b.h5: it was extracted with {other}, \S*a.h5 with the defaults"
    with pytest.raises(UsageError, match=message):
        Gallery([plain, changed])
    model = write_gallery(tmp_path / "c.h5", unit_rows(2), model="c", extraction=other)
    with pytest.raises(UsageError, match="of another model"):
        Gallery([write_gallery(tmp_path / "d.h5", unit_rows(2), model="d"), model])
    assert Gallery([changed, changed]).extracted_with == [f"features: {other}"]
    assert not Gallery([plain]).extracted_with


def test_search_few_tracks_in_an_adapted_gallery_have_no_probability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calibration is of pairs that are both adapted."""
    rows, known = unit_rows(9, seed=1), Calibration(Probability(5.0, -5.0, 0.02), 0.5, 0.001, "mars.json")
    (tmp_path / "photos").mkdir()
    monkeypatch.setattr("amem_cli.video.gallery.read_calibration", lambda *_: known)
    for adapt, queries in ((True, 7), (True, 8), (False, 1)):
        gallery = write_gallery(tmp_path / "g.h5", unit_rows(8), extraction=Extraction(adapt))
        found = [*"abcdefgh"][:queries], rows[:queries], None
        monkeypatch.setattr("amem_cli.video.search._queries", lambda *_, found=found: found)
        options = SearchOptions(query=str(tmp_path / "photos"), gallery=(gallery,), calibration=tmp_path)
        result = search(options, progress := Silent())
        few = queries == 7
        assert all((hit.probability is None) == few for one in result.found for hit in one.hits)
        assert any("too few tracks for that (7)" in text for text in progress.warnings) == few


def test_search_no_probability_for_cameras_of_few_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, adapted = Calibration(Probability(5.0, -5.0, 0.02), 0.5, 0.001, "mars.json"), Extraction(True)
    monkeypatch.setattr("amem_cli.video.gallery.read_calibration", lambda *_: known)
    paths = [write_gallery(tmp_path / f"{camera}.h5", unit_rows(count), camera=camera, extraction=adapted)
             for camera, count in (("hall", 8), ("door", 7))]  # fmt: skip
    for query, certain in (("hall/0001", {"hall"}), ("door/0001", set())):
        options = SearchOptions(query=query, gallery=tuple(paths), calibration=tmp_path, top=20)
        result = search(options, progress := Silent())
        assert {hit.camera for hit in result.found[0].hits if hit.probability is not None} == certain
        few = "fewer than 8 tracklets say little about a camera (camera door: 7)"
        assert [few in progress.warnings[0], *progress.warnings[1:]] == [
            True, "no probabilities for the tracks of these cameras",
        ]  # fmt: skip
        assert few in search_page(result, {}, [])
    search(replace(options, query="hall/0001", gallery=tuple(paths[:1])), progress := Silent())
    assert progress.warnings == []


def test_search_model_of_other_rows(tmp_path: Path) -> None:
    """A file whose record does not fit its rows."""
    main = write_main(tmp_path / "main.safetensors")
    gallery = write_gallery(tmp_path / "g.h5", unit_rows(4), model=sha256_file(main))
    (tmp_path / "him").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "him/1.jpg")
    options = SearchOptions(query=str(tmp_path / "him"), gallery=(gallery,), model=main, device="cpu")
    with pytest.raises(BadData, match="it has 8 numbers a row, the model gives 512"):
        search(options, Silent())


def test_search_by_description(tmp_path: Path) -> None:
    gallery = write_gallery(tmp_path / "a.h5", unit_rows(3))
    names = [f"hall/{row:04d}" for row in (1, 2, 3)]
    chances = np.array([[0.9, 0.9], [0.8, 0.1], [0.2, 0.0]])
    labels = write_attributes(tmp_path / "l.h5", names, chances, ("upperBodyRed", "personalMale"))
    options = {"gallery": (gallery,), "labels": (labels,), "with_": ("upperBodyRed",), "without": ("personalMale",)}
    hits = search(SearchOptions(**options), Silent()).found[0].hits
    assert [(hit.rank, hit.tracklet) for hit in hits] == [(1, "hall/0002"), (2, "hall/0003"), (3, "hall/0001")]
    assert [hit.fits for hit in hits] == pytest.approx([(0.8 * 0.9) ** 0.5, 0.2**0.5, 0.09**0.5])
    both = search(SearchOptions(query="hall/0001", **options), Silent()).found[0].hits
    assert [(hit.tracklet, hit.fits) for hit in both] == [("hall/0002", pytest.approx(0.72**0.5))]
    assert [hit.tracklet for hit in search(SearchOptions(top=1, **options), Silent()).found[0].hits] == ["hall/0002"]
    never = search(SearchOptions(**(options | {"with_": ("upperBodyRed", "personalMale"), "without": ()})), Silent())
    assert never.found[0].hits[2].fits == pytest.approx((0.2 * 1e-9) ** 0.5)
    assert 0 <= never.seconds < 60
    late = search(SearchOptions(after=2.5, **options), Silent())  # the second and the third
    assert ([hit.tracklet for hit in late.found[0].hits], late.searched) == (["hall/0002", "hall/0003"], 2)
    late = search(SearchOptions(query="hall/0001", after=4.0, **(options | {"with_": ()})), Silent())
    assert ([hit.tracklet for hit in late.found[0].hits], late.searched) == (["hall/0003"], 1)
    search(SearchOptions(model=gallery, **options), progress := Silent())
    assert progress.warnings == ["--model has no effect: a description has no images"]
    with pytest.raises(UsageError, match="Did you mean upperBodyRed"):
        search(SearchOptions(**(options | {"with_": ("upperBodyRedd",)})), Silent())
    with pytest.raises(BadData, match="no tracklet fits the description"):
        search(SearchOptions(query="hall/0001", **options | {"with_": ("personalMale",)}), Silent())


def test_search_by_description_leaves_out_tracklets_without_labels(tmp_path: Path) -> None:
    gallery = write_gallery(tmp_path / "a.h5", unit_rows(3))
    labels = write_attributes(tmp_path / "l.h5", ["hall/0001", "hall/0002"], np.array([[0.9], [0.2]]), ("hat",))
    options = SearchOptions(gallery=(gallery,), labels=(labels,), without=("hat",))
    result = search(options, progress := Silent())
    assert ([hit.tracklet for hit in result.found[0].hits], result.searched) == (["hall/0002", "hall/0001"], 2)
    assert progress.warnings == ["1 of 3 tracklets have no labels, they are left out"]
    search(replace(options, before=2.5), progress := Silent())
    assert progress.warnings == []
    with pytest.raises(BadData, match="no tracklet that passes the filters has labels"):
        search(replace(options, after=3.5), Silent())


def test_search_by_description_equal_fits_keep_the_gallery_order(tmp_path: Path) -> None:
    gallery = write_gallery(tmp_path / "a.h5", unit_rows(50))
    names = [f"hall/{row:04d}" for row in range(1, 51)]
    labels = write_attributes(tmp_path / "l.h5", names, np.tile([[0.3], [0.6]], (25, 1)), ("upperBodyRed",))
    options = SearchOptions(gallery=(gallery,), labels=(labels,), with_=("upperBodyRed",), top=99)
    assert [hit.tracklet for hit in search(options, Silent()).found[0].hits] == names[1::2] + names[::2]
    other = write_attributes(tmp_path / "o.h5", ["door/0001"], np.ones((1, 1)), ("upperBodyRed",))
    with pytest.raises(BadData, match=r"o\.h5: none of the gallery's tracklets"):
        search(replace(options, labels=(other,)), Silent())
    for name, given in (("people", "'my tracks/people.toml'"), ("mars", "mars")):
        unlabelled = write_gallery(tmp_path / f"{name}.h5", unit_rows(2), dataset=name, folder="my tracks")
        with pytest.raises(InputMissing, match=rf"amem label-videos --dataset {given} "):
            search(replace(options, labels=(), gallery=(unlabelled,), workspace=tmp_path), Silent())


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_backbone", "one_thread")
def test_search_folder_and_video_by_their_features(tmp_path: Path) -> None:
    """A gallery of the tracklets' features, computed clip by clip."""
    from tests.videos import crossing, mot_lines, write_video  # skips where PyAV is not installed

    model = write_main(tmp_path / "m.safetensors")
    main, _ = load_main_model(model)
    places = [crossing(), crossing(top=5, left=60), lambda frame: (150, 60) if frame < 1 else None]
    boxes = tmp_path / "film.txt"
    boxes.write_text(mot_lines(places, frames=9))
    film = write_video(tmp_path / "film.mp4", places, frames=9)
    cutting = TrackletOptions(videos=(film,), out=tmp_path / "cut", boxes=(str(boxes),), min_frames=1)
    cut = cut_tracklets(cutting, Silent())
    tracklets = read_videos(load_manifest(str(cut.manifest)), tmp_path).splits[0].test
    rows = [
        embed(main, np.stack([read_frames(t, frames, (32, 32)) for frames in inference_clips(len(t), 4)]),
              one_tracklet=True)
        for t in tracklets
    ]  # fmt: skip
    rows = np.concatenate([*rows, unit_rows(2, 512)])
    gallery = write_gallery(tmp_path / "g.h5", rows, model=sha256_file(model))
    progress = Counting()
    for query, count, cut_by in ((tmp_path / "cut" / tracklets[0].name, 1, ()), (film, 3, (str(boxes),))):
        options = SearchOptions(query=str(query), gallery=(gallery,), model=model, boxes=cut_by, device="cpu")
        found = search(options, progress).found
        assert [one.hits[0].row for one in found] == list(range(count))
        assert max(one.hits[0].distance for one in found) < 1e-5 < min(one.hits[1].distance for one in found)
        assert progress.total == sum(-(-len(tracklet) // 4) for tracklet in tracklets[:count])
    extracted = {"dataset": str(cut.manifest), "model": str(model), "image_size": "48x32", "device": "cpu"}
    (other,) = extract_features(ExtractFeaturesOptions(workspace=tmp_path / "w", **extracted), Silent())
    frames = str(tmp_path / "cut" / tracklets[0].name)
    progress = Silent()
    (one,) = search(replace(options, query=frames, gallery=(other.artifact,)), progress).found
    assert progress.warnings == ["--boxes has no effect: the query is a folder of frames, which are people already"]
    assert one.hits[0].distance < 1e-5  # frames of the gallery's size, not the model's
    smaller = ExtractFeaturesOptions(workspace=tmp_path / "v", **extracted | {"image_size": "32x32"})
    (same,) = extract_features(smaller, Silent())
    with pytest.raises(UsageError, match=r"its features are of 48x32 pixels, those before of 32x32"):
        Gallery([same.artifact, other.artifact])


def test_search_video_checks_the_model_before_it_reads_the_video(tmp_path: Path, monkeypatch) -> None:
    gallery = write_gallery(tmp_path / "a.h5", unit_rows(5), model="0" * 64)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "m.safetensors").touch()
    monkeypatch.setattr("amem_cli.video.search._video_queries", lambda *_: pytest.fail("read the video"))
    options = SearchOptions(query=str(tmp_path / "a.mp4"), gallery=(gallery,))
    with pytest.raises(UsageError, match="images can only be compared through a model"):
        search(options, Silent())
    with pytest.raises(UsageError, match="the gallery's features are of another model"):
        search(replace(options, model=tmp_path / "m.safetensors"), Silent())


def test_search_by_description_takes_the_labels_next_to_the_features(tmp_path: Path) -> None:
    answer = Workspace(tmp_path / "answer/workspace")
    gallery = write_gallery(answer.features("people", None), unit_rows(2))
    names = ["hall/0001", "hall/0002"]
    for workspace, fits in ((answer, [0.2, 0.9]), (Workspace(tmp_path / "other"), [0.9, 0.2])):
        write_attributes(workspace.labels("people"), names, np.array(fits)[:, None], ("a",))
    options = SearchOptions(with_=("a",), gallery=(gallery,), workspace=tmp_path / "other")
    assert [hit.tracklet for hit in search(options, Silent()).found[0].hits] == names[::-1]
    moved = write_gallery(tmp_path / "moved/features/people.h5", unit_rows(2))
    assert [hit.tracklet for hit in search(replace(options, gallery=(moved,)), Silent()).found[0].hits] == names
    tracks = write_gallery(tmp_path / "answer2/features/people.h5", unit_rows(2), folder="/answer2/tracks")
    with pytest.raises(InputMissing, match=r"answer2/labels/people\.h5: not found"):  # not those of other tracks
        search(replace(options, gallery=(tracks,)), Silent())


class Counting(Silent):
    """Keeps the total of the last loop."""

    total = 0

    def loop(self, title: str, total: int, **more: Any) -> Any:
        self.total = total
        return super().loop(title, total, **more)


def test_search_command_json_and_table(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    rows = unit_rows(5)
    rows[4] = rows[1]
    gallery = write_gallery(tmp_path / "a.h5", rows)
    known = Calibration(Probability(5.0, -5.0, 0.02), 0.5, 0.001, "mars.json")
    monkeypatch.setattr("amem_cli.video.gallery.read_calibration", lambda *_, **__: known)
    command = ["search", "hall/0002", "--gallery", str(gallery), "--top", "2", "--calibration", "mars.json"]
    assert run([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    hits = document["queries"][0]["results"]
    assert len(hits) == 2
    for hit in hits:
        assert hit["probability"] == pytest.approx(1 / (1 + np.exp(-5 + 5 * hit["distance"])))
    assert run(command) == 0
    table = capsys.readouterr().out
    assert ("same person" in table, table.count("> 99 %"), "100 %" in table) == (True, 1, False)


def test_read_calibration_without_one(tmp_path: Path) -> None:
    from amem_cli.artifacts import results

    path = results.write(tmp_path / "my work/results/r.json", some_result(), Provenance("evaluate", {}))
    with pytest.raises(BadData, match="this result has none") as raised:
        gallery_module.read_calibration(path)
    workspace = shlex.quote(str(tmp_path / "my work"))
    command = f"amem evaluate --protocol {some_result()['protocol']} --calibrate 0.001 --workspace {workspace}"
    assert raised.value.remedy == f"{command} writes one"
