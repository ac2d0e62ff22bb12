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
    for _, options in calls[1:]:
        assert options.workspace == tmp_path / "workspace"
        assert getattr(options, "data_root", tmp_path / "data") == tmp_path / "data"
        assert getattr(options, "image_size", "") in ("96x48", "")
    read = {getattr(options, "dataset", "") for _, options in calls[1:]}
    assert {*dict(calls)["walkers"].data_sets} == read - {""} == {"peta", "market1501", "mars"}
    training = dict(calls)["train_amem"]
    frames = training.predict_frames * training.predict_stride
    assert training.clip_frames - frames == 2  # 0 < t < 2: MEM always starts at the second frame


@pytest.mark.parametrize(
    ("load", "variable", "threads", "expected"),
    [(7.5, None, 3, 1), (3.0, None, 4, 2), (7.5, "4", 4, 4), (2.9, None, 4, 4), (7.5, None, 1, 1)],
)
def test_threads_for_busy_machine(monkeypatch, load, variable, threads, expected):
    import torch

    from amem_cli.tools.demo import threads_for_busy_machine

    progress, now = Silent(), [threads]
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with threads_for_busy_machine(progress):
        assert now[-1] == expected
    assert now[-1] == threads
    warned = [f"load {load}" in line and f"{expected} of {threads} threads" in line for line in progress.warnings]
    assert warned == [True] * (expected < threads)


def test_threads_for_busy_machine_without_load_average(monkeypatch):
    from amem_cli.tools.demo import threads_for_busy_machine

    monkeypatch.delattr("os.getloadavg")  # as on Windows
    with threads_for_busy_machine(progress := Silent()):
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
    assert "from scratch" in warning
    assert warning.endswith("Either do this, or that")
