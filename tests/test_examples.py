"""The pipeline as examples/pipeline.py and as `amem demo`."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

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


@pytest.mark.parametrize(
    ("load", "given", "half_is_faster", "threads"),
    [(7.5, None, True, 2), (7.5, None, False, 4), (7.5, "4", True, 4), (3.9, None, True, 4)],
)
def test_demo_on_a_busy_machine_computes_with_the_faster_number_of_threads(
    monkeypatch, one_thread, load, given, half_is_faster, threads
):
    from amem_cli.tools import demo

    progress, times = Silent(), {4: 2.0, 2: 1.5 if half_is_faster else 2.5}
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(demo, "training_seconds", lambda counts: {count: times[count] for count in counts})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    torch.set_num_threads(4)
    demo.choose_threads(progress)
    assert torch.get_num_threads() == threads
    expected = "other programs use the processor (load 7.5, 4 cores), so the demo takes longer."
    if given is None:
        expected += f" Threads: {threads} (a trial took 2.0 s with 4 and {times[2]} s with 2)"
    assert progress.warnings == [expected] * (load > 4)
    monkeypatch.delattr("os.getloadavg")  # as on Windows
    demo.choose_threads(progress)
    assert len(progress.warnings) == (load > 4)


def test_demo_trial_of_threads(monkeypatch, one_thread):
    from amem_cli.tools import demo

    clock, used = iter(range(100)), []
    ticks = SimpleNamespace(perf_counter=lambda: float(next(clock)) * torch.get_num_threads())
    monkeypatch.setattr(demo, "time", ticks)
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: used.append(count) or set_threads(count))
    assert demo.training_seconds((2, 1)) == {2: 6.0, 1: 3.0}  # the first of the four rounds is not counted
    assert used == [2, 1] * 4 + [1]


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
