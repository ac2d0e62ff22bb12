"""The five functions for Python: imported on first use, and with the same results as the commands."""

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import write_main

import amem_cli as amem
from amem_cli.artifacts.features import Features
from amem_cli.cli.app import run
from amem_cli.data.clips import inference_clips
from amem_cli.data.datasets import read_videos
from amem_cli.data.manifest import load_manifest
from amem_cli.data.transforms import read_image
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.models.amem import build_main_model
from amem_cli.models.config import model_config
from amem_cli.options import TrainAmemOptions

pytestmark = pytest.mark.usefixtures("tiny_backbones")


@pytest.fixture(scope="module")
def main_file(tmp_path_factory: pytest.TempPathFactory, tiny_backbones: None) -> Path:
    return write_main(tmp_path_factory.mktemp("main") / "amem-main.safetensors")


@pytest.fixture(scope="module")
def workspace(walkers: Path, main_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    where = ["--data-root", str(walkers), "--workspace", str(folder), "--device", "cpu", "--quiet", "--engine", "eager"]
    for dataset in (["mars"], ["prid2011", "--split", "all"]):
        assert run(["extract-features", "--model", str(main_file), "--dataset", *dataset, *where]) == 0
    return folder


def command_result(capsys: pytest.CaptureFixture, *arguments: str) -> dict[str, Any]:
    """The JSON of a command without the fields of the file that it writes."""
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    file_fields = ("features", "kind", "schema", "created_by", "provenance", "checksum")
    return {key: value for key, value in json.loads(capsys.readouterr().out).items() if key not in file_fields}


def test_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, amem_cli as amem; assert not {'torch', 'numpy', 'h5py'} & set(sys.modules)\n"
        "assert {'embed', 'evaluate'} <= set(dir(amem)); amem.read_features; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert resources.files("amem_cli").joinpath("py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        amem.embedd  # noqa: B018


@pytest.mark.slow
def test_embed_equals_extract_features(walkers: Path, main_file: Path, workspace: Path) -> None:
    model = amem.load_main_model(str(main_file))
    assert not model.training
    table = amem.read_features(str(workspace / "features" / "mars.h5"))
    split = read_videos(load_manifest("mars"), walkers).splits[0]
    for row, tracklet in list(enumerate(split.test))[:3]:
        frames = np.stack([read_image(path, 32, 32) for path in tracklet.frames])
        clips = np.stack([frames[chosen] for chosen in inference_clips(len(tracklet), 4)])
        np.testing.assert_allclose(
            amem.embed(model, clips, one_tracklet=True, device="cpu"), table.features[row : row + 1], atol=2e-5
        )
        each = amem.embed(model, torch.from_numpy(clips), batch_size=1, device="cpu")
        assert (each.shape, each.dtype) == ((len(clips), 512), np.float32)
        np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1, atol=1e-6)
    assert table.features.std(axis=0).max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((2, 4, 32, 32, 3), np.float32),
        ((2, 3, 4, 32, 32), np.uint8),
        ((4, 32, 32, 3), np.uint8),
        ((0, 4, 32, 32, 3), np.uint8),
        ((1, 4, 30, 32, 3), np.uint8),
        ((1, 4, 64, 32, 3), np.uint8),  # of a model for 32 x 32
        ((1, 4, 32, 30, 3), np.uint8),
    ],
)
def test_embed_refuses_other_clips(shape: tuple[int, ...], kind: type, main_file: Path) -> None:
    with pytest.raises(UsageError, match="clips"):
        amem.embed(amem.load_main_model(main_file), np.zeros(shape, kind))


def test_embed_refuses_other_lengths_of_a_model_with_middle_maps() -> None:
    options = TrainAmemOptions(
        backbone="mobilenet_v2", modules="mem", motion_maps="middle", clip_frames=4, predict_frames=2
    )
    model = build_main_model(model_config(options, 2))
    assert amem.embed(model, np.zeros((1, 3, 32, 32, 3), np.uint8)).shape == (1, 512)
    with pytest.raises(UsageError, match=r"clips: have 6 frames\. Give clips of 4, as in training"):
        amem.embed(model, np.zeros((1, 6, 32, 32, 3), np.uint8))


@pytest.mark.slow
def test_evaluate_equals_the_command(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    where = ("--workspace", str(workspace), "--bootstrap", "50", "--seed", "3")
    expected = command_result(capsys, "evaluate", "--protocol", "mars", "--rerank", *where)
    assert expected.pop("warnings")  # generated people are not the whole of MARS
    file = workspace / "features" / "mars.h5"
    before = sorted(workspace.rglob("*"))
    assert amem.evaluate(file, "mars", bootstrap=50, seed=3, rerank=True) == expected
    assert amem.evaluate(amem.read_features(file), bootstrap=50, seed=3, rerank=True) == expected
    assert sorted(workspace.rglob("*")) == before

    expected = command_result(capsys, "evaluate", "--protocol", "prid-10split", *where)
    expected.pop("warnings")
    files = [workspace / "features" / f"prid2011-split{number}.h5" for number in range(10)]
    tables = [amem.read_features(file) if number % 2 else file for number, file in enumerate(files)]
    assert amem.evaluate(tables, "prid-10split", bootstrap=50, seed=3) == expected
    with pytest.raises(UsageError, match="1 given, not 10"):
        amem.evaluate(files[0], "prid-10split")


def test_evaluate_features_made_in_memory() -> None:
    angles = np.deg2rad([0, 10, 80, 90])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    people, cameras = np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])
    queries = np.array([True, False, True, False])
    table = Features("mine", list("abcd"), people, cameras, queries, features=rows, provenance={})
    result = amem.evaluate(table, bootstrap=0)
    assert result["rank"]["1"] == result["mAP"] == 1
    assert "interval" not in result
    with pytest.raises(UsageError, match="Did you mean prid-10split"):
        amem.evaluate(table, "prid-split")


def test_features_of_another_program(tmp_path: Path) -> None:
    rows = {"qf": np.eye(2) * 3, "gf": np.eye(2) * 3, "q_pids": [1, 2], "g_pids": [1, 2]}
    np.savez(tmp_path / "x.npz", **rows, q_camids=[1, 1], g_camids=[2, 2])  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"x\.npz: the features were not L2-normalised"):
        table = amem.read_features(tmp_path / "x.npz", "mine")
    assert table.dataset == "mine"
    np.testing.assert_array_equal(table.features, np.tile(np.eye(2), (2, 1)))
    with pytest.warns(UserWarning, match="L2-normalised"):
        assert amem.evaluate(tmp_path / "x.npz", bootstrap=0)["mAP"] == 1


@pytest.mark.parametrize("read", [amem.read_labels, amem.read_features, amem.load_main_model])
def test_missing_and_damaged_files(read: Any, tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        read(tmp_path / "none")
    (tmp_path / "damaged").write_bytes(b"damaged")
    with pytest.raises(BadData):
        read(tmp_path / "damaged")
