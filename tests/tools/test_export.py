"""`amem export`: parity with the original in every format, the description, errors."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toys import as_trained

import amem_cli as amem
from amem_cli.artifacts import atomic
from amem_cli.artifacts.atomic import sha256_file
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import ATTRIBUTES
from amem_cli.cli.app import run
from amem_cli.data.clips import inference_clips
from amem_cli.data.datasets import read_videos
from amem_cli.data.loading import read_frames
from amem_cli.data.manifest import load_manifest
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import save_arm, save_main, save_tae
from amem_cli.models.config import ArmConfig, TaeConfig, model_config
from amem_cli.models.tae import TAE, Discriminator
from amem_cli.options import TrainAmemOptions
from amem_cli.runtime.engine import as_pixels
from amem_cli.tools.export import FORMATS
from amem_cli.tools.export_options import SUFFIXES

pytestmark = [
    pytest.mark.skipif(torch.__version__ < "2.14", reason="too old"),
    pytest.mark.usefixtures("tiny_backbones", "one_thread"),
]
needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}: pip install 'amem[export]'")
    for name in ("openvino", "nncf")
}
IN_FORMATS = ["onnx", "torch-export", pytest.param("openvino", marks=needs["openvino"])]
CPU = torch.device("cpu")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def main_file(tmp_path_factory: pytest.TempPathFactory, tiny_backbones: None) -> Path:
    torch.manual_seed(0)
    options = TrainAmemOptions(modules="aem", branch="conv2d", image_size="32x32", clip_frames=4, predict_frames=2)
    config = model_config(options, people=4)
    model = as_trained(build_main_model(config), 8, 4, 32, 32)
    path = tmp_path_factory.mktemp("main") / "amem-main.safetensors"
    return save_main(path, model, config, Provenance("train-amem", {}))


@pytest.fixture(scope="module")
def exported(main_file: Path, walkers: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Exports of `main_file` with a comparison on walkers, each made once."""
    made: dict[str, Path] = {}

    def export(format: str) -> Path:
        if format not in made:
            made[format] = tmp_path_factory.mktemp(format) / f"amem{SUFFIXES[format]}"
            where = ["--out", str(made[format]), "--dataset", "mars", "--data-root", str(walkers), "--quiet"]
            assert run(["export", str(main_file), *where]) == 0
        return made[format]

    return export


def files_of(path: Path) -> dict[str, bytes]:
    return {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".bin", path.suffix) if
            path.with_suffix(suffix).exists()}  # fmt: skip


def description_of(path: Path) -> dict[str, Any]:
    if path.suffix == ".onnx":
        import onnxruntime

        return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["amem"])
    if path.suffix == ".xml":
        import openvino

        return json.loads(openvino.Core().read_model(path).get_rt_info(["amem"]).value)
    extra = {"amem": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["amem"])


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("format", IN_FORMATS)
def test_export_main(format: str, exported: Any, main_file: Path) -> None:
    path = exported(format)
    about = description_of(path)
    assert about["cosine_distance"]["random"] <= 1e-5
    assert about["cosine_distance"]["real"] <= 1e-5
    assert about["input"]["fewest_frames"] == 3
    assert about["input"]["shape"] == ["batch", "frames", "height", "width", 3]
    assert (about["image_size"], about["clip_frames"], about["format"]) == ([32, 32], 4, format)
    assert about["opset"] == (18 if format == "onnx" else None)
    assert about["normalisation"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert len(about["attributes"]) == 105
    assert about["model"]["backbone"] == "i3d"
    assert about["provenance"]["parents"]["amem-main"]["sha256"] == sha256_file(main_file)
    assert set(FORMATS[format].packages) < set(about["provenance"]["versions"])
    assert list(path.parent.glob(".*")) == []

    model = amem.load_main_model(main_file)
    load = FORMATS[format].load(files_of(path))
    for batch, frames in ((1, 3), (3, 4), (2, 7)):
        clips = np.random.default_rng(batch).integers(0, 256, (batch, frames, 32, 32, 3), dtype=np.uint8)
        feature, norm = load(clips)
        with torch.no_grad():
            expected = model(as_pixels(torch.from_numpy(clips), CPU)).numpy()
        np.testing.assert_allclose(feature * norm, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(feature, amem.embed(model, clips, device="cpu"), atol=1e-4)


@pytest.mark.slow
def test_export_arm(walkers: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    arm = as_trained(ARM("resnet18"), 4, 32, 32)
    file = save_arm(tmp_path / "arm.safetensors", arm, ArmConfig(image_size="32x32", backbone="resnet18"),
                    Provenance("train-arm", {}))  # fmt: skip
    out = tmp_path / "arm.onnx"
    where = ["--out", str(out), "--dataset", "peta", "--data-root", str(walkers)]
    assert run(["export", str(file), *where, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["outputs"] == {"probabilities": ["batch", 105]}
    assert about["input"]["shape"] == ["batch", "height", "width", 3]
    assert about["cosine_distance"]["real"] <= 1e-5
    assert about["clip_frames"] is None
    assert description_of(out)["attributes"] == list(ATTRIBUTES)


@pytest.mark.slow
def test_program_of_the_page_without_torch(exported: Any, main_file: Path, walkers: Path, tmp_path: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(program.splitlines()) <= 30
    model = amem.load_main_model(main_file)
    tracklets = read_videos(load_manifest("mars"), walkers).splits[0].test[:2]
    expected = []
    for tracklet in tracklets:
        (tmp_path / tracklet.name).mkdir()
        for path in tracklet.frames:
            shutil.copy(path, tmp_path / tracklet.name)
        frames = inference_clips(len(tracklet), 4)
        clips = read_frames(tracklet, frames.flatten(), (32, 32)).reshape(*frames.shape, 32, 32, 3)
        expected.append(amem.embed(model, clips, one_tracklet=True, device="cpu")[0])
    blocked = "import sys\nsys.modules |= dict.fromkeys(('torch', 'torchvision', 'amem_cli'))\n"
    more = "\nprint(feature(session, about, sys.argv[2]).tolist())"
    arguments = [str(exported("onnx")), *(str(tmp_path / tracklet.name) for tracklet in tracklets)]
    ended = subprocess.run(
        [sys.executable, "-I", "-c", blocked + program + more, *arguments], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    similarity, row = ended.stdout.splitlines()
    np.testing.assert_allclose(json.loads(row), expected[0], atol=1e-4)
    assert abs(float(similarity.split()[-1]) - expected[0] @ expected[1]) < 1e-3
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(json.loads(row), expected[1], atol=1e-4)


@needs["openvino"]
@needs["nncf"]
@pytest.mark.slow
def test_export_int8(main_file: Path, walkers: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    where = ["--dataset", "mars", "--data-root", str(walkers), "--int8"]
    assert run(["export", str(main_file), "--out", str(tmp_path / "small.xml"), *where]) == 0
    shown = capsys.readouterr().out
    figures = description_of(tmp_path / "small.xml")["int8"]
    assert f"mAP {100 * figures['mAP_before']:.1f} before 8 bits, {100 * figures['mAP_after']:.1f} with" in shown
    assert run(["extract-features", "--model", str(main_file), *where[:4], "--workspace", str(tmp_path)]) == 0
    expected = amem.evaluate(tmp_path / "features/mars.h5", "mars", bootstrap=0)["mAP"]
    assert figures["mAP_before"] == pytest.approx(expected, abs=1e-9)
    assert 1e-7 < figures["cosine_distance"] < 0.05


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda feature: feature[:, ::-1], lambda feature: feature * np.nan])
def test_export_differs_writes_nothing(
    damage: Any, main_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "amem.pt2"
    out.write_bytes(b"earlier")
    load = FORMATS["torch-export"].load

    def damaged(files: dict[str, bytes]) -> Any:
        program = load(files)
        return lambda frames: [damage(program(frames)[0]), program(frames)[1]]

    monkeypatch.setattr(FORMATS["torch-export"], "load", staticmethod(damaged))
    assert run(["export", str(main_file), "--out", str(out), "--quiet"]) == 70
    assert "random clips its cosine distance" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["amem.pt2"]
    assert out.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "a.bin"], 2, "a.bin: no format has this suffix. Name a file that ends in .onnx (ONNX), .xml"),
        (["--out", "a.onnx", "--format", "openvino"], 2, "--format openvino writes .xml files"),
        (["--out", "a.onnx", "--int8", "--dataset", "mars"], 2, "Use --format openvino and --dataset NAME"),
        (["--out", "a.xml", "--int8"], 2, "Use --format openvino and --dataset NAME"),
        (["--out", "a.pt2", "--split", "1"], 2, "from 0 on, with --dataset. Use --dataset NAME --split 0"),
        (["--out", "a.pt2", "--split", "-1", "--dataset", "prid2011"], 2, "--split -1: it is a number"),
        (["--out", "a.pt2", "--frames", "empty"], 65, "--frames empty: the folder has no images"),
        (["--out", "a.pt2", "--dataset", "mras"], 2, "Did you mean mars?"),
    ],
)
def test_export_refuses(
    arguments: list[str], code: int, message: str, main_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert run(["export", str(main_file), *arguments]) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_export_keeps_files_of_others(main_file: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """OpenVINO's two files; their content does not matter here."""

    class Files:
        def __init__(self, program: Any, outputs: Any) -> None:
            self.load = lambda files: None

        suffixes = (".bin", ".xml")

        def files(self, description: str) -> dict[str, bytes]:
            return {".bin": b"weights", ".xml": b"network"}

    monkeypatch.setitem(FORMATS, "openvino", Files)
    monkeypatch.setattr("amem_cli.tools.export.require_packages", lambda *_: {})
    monkeypatch.setattr("amem_cli.tools.export.distance", lambda *_: 0.0)
    mine, command = tmp_path / "a.bin", ["export", str(main_file), "--out", str(tmp_path / "a.xml"), "--quiet"]
    mine.write_bytes(b"mine")
    assert run(command) == 73
    assert "a.bin: it exists and is not known to be of an earlier export" in capsys.readouterr().err
    assert (mine.read_bytes(), sorted(path.name for path in tmp_path.iterdir())) == (b"mine", ["a.bin"])
    mine.unlink()
    assert run(command) == run(command) == 0
    assert mine.read_bytes() == b"weights"
    mine.unlink()
    mine.mkdir()
    assert run(command) == 74
    mine.rmdir()
    monkeypatch.setattr("amem_cli.artifacts.atomic.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    assert run(command) == 74
    assert (tmp_path / "a.xml").read_bytes() == b"network"  # the earlier one


def test_export_other_models(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["export", str(tmp_path / "none"), "--out", str(tmp_path / "a.pt2")]) == 66
    assert "amem train-amem and amem train-arm write such files" in capsys.readouterr().err
    config = TaeConfig(image_size="32x32")
    tae = save_tae(tmp_path / "tae.safetensors", TAE(), Discriminator(32, 32), config, Provenance("train-tae", {}))
    assert run(["export", str(tae), "--out", str(tmp_path / "a.pt2")]) == 65
    assert "is of kind amem-tae. Give an amem-main.safetensors" in capsys.readouterr().err


def test_export_package_missing(main_file, monkeypatch, capsys):
    spec = SimpleNamespace(origin="somewhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else spec)
    assert run(["export", str(main_file), "--out", "a.onnx"]) == 66
    assert 'not installed: onnxscript. Run: python -m pip install "amem[export]".' in capsys.readouterr().err
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.13.1+cpu"))
    assert run(["export", str(main_file), "--out", "a.onnx"]) == 66
    assert "torch 2.13.1+cpu is too old for it. Run: python -m pip install 'torch>=2.14'" in capsys.readouterr().err


def test_export_model_replaced_after_it_was_loaded(main_file: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    model = atomic.write_bytes(tmp_path / "m.safetensors", content := main_file.read_bytes())
    monkeypatch.setattr("amem_cli.tools.export.read_clips", lambda *_: atomic.write_bytes(model, content))
    assert run(["export", str(model), "--out", str(tmp_path / "amem.pt2"), "--dry-run"]) == 65
    assert "it was replaced while this run read it" in capsys.readouterr().err


def test_export_dry_run(main_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new" / "amem.pt2"
    assert run(["export", str(main_file), "--out", str(out), "--dry-run"]) == 0
    assert "frames: uint8 RGB (batch, frames, height, width, 3), resized to 32 x 32 inside" in capsys.readouterr().out
    assert not out.parent.exists()
