"""The five functions for Python: lazily there, typed, and the same figures as the commands."""

import inspect
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import amem_cli as amem
from amem_cli.artifacts import checkpoint, pseudo_labels
from amem_cli.artifacts.features import Features
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES
from amem_cli.cli.app import run
from amem_cli.data.clips import inference_clips
from amem_cli.data.manifest import load_manifest, read_videos
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.models.amem import build_main_model
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.train_amem import describe

pytestmark = pytest.mark.usefixtures("one_thread")

FUNCTIONS = ("embed", "evaluate", "load_main_model", "read_features", "read_labels")


@pytest.fixture(scope="module")
def main_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained baseline whose BN statistics are those of one batch, so that its features differ."""
    torch.manual_seed(0)
    described = describe(TrainAmemOptions(modules="baseline", image_size="32x32", clip_frames=4, predict_frames=2), 4)
    model = build_main_model(described)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 4, 1, 1) * torch.rand(8, 3, 4, 32, 32))
    path = tmp_path_factory.mktemp("main") / "amem-main.safetensors"
    return checkpoint.save(path, "amem-main", model.state_dict(), Provenance("train-amem", {}), model=described)


@pytest.fixture(scope="module")
def workspace(walkers: Path, main_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    where = ["--data-root", str(walkers), "--workspace", str(folder), "--device", "cpu", "--quiet"]
    for dataset in (["mars"], ["prid2011", "--split", "all"]):
        assert run(["extract-features", "--model", str(main_file), "--dataset", *dataset, *where]) == 0
    return folder


def command_json(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    for beside in ("features", "kind", "schema", "created_by", "provenance", "checksum"):
        document.pop(beside, None)
    return document


def test_the_package_is_imported_in_no_time_and_typed() -> None:
    code = (
        "import sys, amem_cli as amem; heavy = {'torch', 'numpy', 'h5py'} & set(sys.modules); assert not heavy, heavy\n"
        "assert {'embed', 'evaluate'} <= set(dir(amem)); amem.read_features; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert resources.files("amem_cli").joinpath("py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        amem.embedd  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_documented_and_annotated(name: str) -> None:
    function = getattr(amem, name)
    signature = inspect.signature(function)
    assert name in amem.__all__
    assert "Raises" in function.__doc__
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert f"`{parameter.name}`" in function.__doc__


def test_embed_gives_the_rows_of_extract_features(walkers: Path, main_file: Path, workspace: Path) -> None:
    model = amem.load_main_model(str(main_file))
    assert not model.training
    table = amem.read_features(str(workspace / "features" / "mars.h5"))
    split = read_videos(load_manifest("mars"), walkers).splits[0]
    for row, tracklet in list(enumerate(split.test))[:3]:
        frames = np.stack([read_image(path, 32, 32) for path in tracklet.frames])
        clips = np.stack([frames[chosen] for chosen in inference_clips(len(tracklet), 4)])
        whole = amem.embed(model, clips, one_tracklet=True, device="cpu")
        np.testing.assert_allclose(whole, table.features[row : row + 1], atol=2e-5)
        each = amem.embed(model, torch.from_numpy(clips), batch_size=1, device="cpu")
        assert each.shape == (len(clips), 512)
        assert each.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1, atol=1e-6)
    assert table.features.std(axis=0).max() > 1e-3


@pytest.mark.parametrize(
    "clips",
    [
        np.zeros((2, 4, 32, 32, 3), np.float32),
        np.zeros((2, 3, 4, 32, 32), np.uint8),
        np.zeros((4, 32, 32, 3), np.uint8),
        np.zeros((0, 4, 32, 32, 3), np.uint8),
        np.zeros((1, 4, 30, 32, 3), np.uint8),
    ],
    ids=["float", "channels first", "one clip", "none", "odd size"],
)
def test_clips_of_another_form_are_refused(clips: np.ndarray, main_file: Path) -> None:
    with pytest.raises(UsageError, match="clips"):
        amem.embed(amem.load_main_model(main_file), clips)


def test_evaluate_gives_the_figures_of_the_command(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    place = ("--workspace", str(workspace), "--bootstrap", "50", "--rerank")
    told = command_json(capsys, "evaluate", "--protocol", "mars", *place)
    file = workspace / "features" / "mars.h5"
    before = sorted(workspace.rglob("*"))
    assert amem.evaluate(file, "mars", bootstrap=50, rerank=True) == told
    assert amem.evaluate(amem.read_features(file), protocol="mars", bootstrap=50, rerank=True) == told
    assert sorted(workspace.rglob("*")) == before
    assert 0 < told["mAP"] <= 1


def test_evaluate_over_splits(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    told = command_json(capsys, "evaluate", "--protocol", "prid-10split", "--workspace", str(workspace))
    files = [workspace / "features" / f"prid2011-split{number}.h5" for number in range(10)]
    tables = [amem.read_features(file) if number % 2 else file for number, file in enumerate(files)]
    assert amem.evaluate(tables, "prid-10split") == told
    with pytest.raises(UsageError, match="wants 10, 1 given"):
        amem.evaluate(files[0], "prid-10split")
    with pytest.raises(UsageError, match="Did you mean prid-10split"):
        amem.evaluate(files, "prid-split")


def test_features_made_in_a_notebook_can_be_evaluated() -> None:
    angles = np.deg2rad([0, 10, 80, 90])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    people, cameras = np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])
    queries = np.array([True, False, True, False])
    table = Features("mine", list("abcd"), people, cameras, queries, features=rows, provenance={})
    result = amem.evaluate(table, bootstrap=0)
    assert result["rank"]["1"] == 1
    assert result["mAP"] == 1


def test_labels_and_what_is_not_there(tmp_path: Path, main_file: Path) -> None:
    probabilities = np.linspace(0, 1, 210, dtype=np.float32).reshape(2, 105)
    whole = pseudo_labels.PseudoLabels(
        dataset="mars",
        tracklet=["a", "b"],
        person_id=np.array([1, 2]),
        camera_id=np.array([1, 1]),
        frames=np.array([3, 4]),
        probabilities=probabilities,
        labels=(probabilities > 0.5).astype(np.uint8),
        attributes=ATTRIBUTES,
        threshold=0.5,
        provenance={},
    )
    pseudo_labels.write(tmp_path / "mars.h5", whole, Provenance("label-videos", {}))
    found = amem.read_labels(tmp_path / "mars.h5")
    np.testing.assert_array_equal(found.labels, whole.labels)
    assert found.attributes == ATTRIBUTES
    for read in (amem.read_labels, amem.read_features, amem.load_main_model):
        with pytest.raises(InputMissing):
            read(tmp_path / "none")
    with pytest.raises(BadData):
        amem.read_features(tmp_path / "mars.h5")
    with pytest.raises(BadData):
        amem.load_main_model(tmp_path / "mars.h5")
