"""The pipeline as examples/pipeline.py and as `amem demo`."""

import importlib.util
from pathlib import Path

import pytest

from amem_cli.errors import InputMissing
from amem_cli.runtime.progress import Silent

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "pipeline.py"


@pytest.mark.slow
def test_pipeline_from_images_to_metrics(walkers, tmp_path, tiny_backbone, capsys):
    spec = importlib.util.spec_from_file_location("pipeline", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    common = {"image_size": "32x32", "epochs": 1, "device": "cpu"}
    tiny = {"people_per_batch": 2, "clips_per_person": 2, "gradient_steps": 0}
    metrics = module.pipeline(walkers, tmp_path, "small", common, **tiny)
    assert 0 <= metrics["rank"]["1"] <= 1
    assert "model: " in capsys.readouterr().out


def test_demo_calls_the_stages_in_order(tmp_path, monkeypatch):
    from amem_cli.tools import demo

    names = ["train_arm", "label_videos", "train_tae", "train_amem", "extract_features", "evaluate"]
    calls = []
    for name in names:
        monkeypatch.setattr(demo, name, lambda options, progress, name=name: calls.append((name, options)))
    monkeypatch.setattr(
        demo, "write_walkers", lambda out, options, progress, processes: calls.append(("walkers", options))
    )
    monkeypatch.setattr(demo, "show_all", lambda folder, source, progress: ([folder], {}))
    monkeypatch.setattr(demo, "example_searches", lambda source, progress: [source.key])
    _, pictures, _, searches = demo.demo(tmp_path, 3, Silent())
    assert searches == [("mars", None)]
    assert pictures == [tmp_path / "pictures"]
    assert [name for name, _ in calls] == ["walkers", *names]
    assert {options.seed for _, options in calls} == {3}
    assert not dict(calls)["extract_features"].adapt_cameras  # a single picture can be the query
    for _, options in calls[1:]:
        assert options.workspace == tmp_path / "workspace"
        assert getattr(options, "data_root", tmp_path / "data") == tmp_path / "data"
        assert getattr(options, "image_size", "") in ("96x48", "")
    read = {getattr(options, "dataset", "") for _, options in calls[1:]}
    assert {*dict(calls)["walkers"].data_sets} == read - {""} == {"peta", "market1501", "mars"}
    training = dict(calls)["train_amem"]
    assert (training.epochs, training.motion_maps) == (16, "middle")
    frames = training.predict_frames * training.predict_stride
    assert training.clip_frames - frames == 2  # 0 < t < 2: MEM always starts at the second frame


def test_demo_warns_on_a_busy_machine(monkeypatch):
    from amem_cli.tools import demo

    monkeypatch.setattr("os.cpu_count", lambda: 4)
    warnings = {}
    for load in (3.9, 7.5):
        progress = Silent()
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        demo.warn_if_busy(progress)
        warnings[load] = progress.warnings
    assert warnings[3.9] == []
    (warning,) = warnings[7.5]
    assert "load 7.5, 4 cores" in warning
    monkeypatch.delattr("os.getloadavg")  # as on Windows
    demo.warn_if_busy(progress := Silent())
    assert not progress.warnings


def test_demo_without_weights_warns_and_trains_from_scratch(monkeypatch):
    from amem_cli.tools import demo

    progress = Silent()
    monkeypatch.setattr(demo, "weight_file", lambda weights, network: Path(f"{weights}-{network}.pth"))
    assert demo.weights_or_warning(progress) == "imagenet"

    def missing(weights, network):
        raise InputMissing("--weights", "x.pth", why="not found here", remedy="Either do this, or that")

    monkeypatch.setattr(demo, "weight_file", missing)
    assert demo.weights_or_warning(progress) == ""
    (warning,) = progress.warnings
    assert "not found here" in warning
    assert "from scratch: measured once, rank-1 was 46 % instead of 94 %" in warning
    assert warning.endswith("Either do this, or that")
