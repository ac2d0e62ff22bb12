"""On a GPU: steps, stages, resume, full memory and nccl, compared with the same on the CPU."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from toys import (
    ALONE,
    CPU,
    amem_options,
    arm_options,
    pixels,
    sgd,
    tae_options,
    tensors_equal,
    toy_batches,
    toy_networks,
    write_labels,
    write_tae,
)

from amem_cli.artifacts import checkpoint, features, pseudo_labels
from amem_cli.cli import app
from amem_cli.data.datasets import read_videos
from amem_cli.data.loading import ImageBatches
from amem_cli.data.manifest import load_manifest
from amem_cli.errors import Interrupted
from amem_cli.models.arm import ARM
from amem_cli.models.checkpoints import load_tae, main_file
from amem_cli.models.tae import TAE, Discriminator
from amem_cli.options import ExtractFeaturesOptions, LabelVideosOptions
from amem_cli.runtime.distributed import Processes, choose_device
from amem_cli.runtime.engine import as_pixels, prepare
from amem_cli.runtime.progress import Silent
from amem_cli.stages import train_arm, train_tae
from amem_cli.stages.extract_features import extract_features
from amem_cli.stages.label_videos import label_videos
from amem_cli.stages.train_amem import Batch, train_amem, train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("one_thread", "tiny_backbone", "cuda_as_in_the_stages"),
]
CUDA = torch.device("cuda:0")
NOWHERE = Path("nowhere")
MODULES = ("baseline", "aem", "mem", "amem")


@pytest.fixture(scope="module")
def cuda_as_in_the_stages() -> None:
    """The settings of CUDA that the stages use: without TF32, deterministic."""
    assert choose_device("cuda") == CUDA


def on_cuda(batch: Batch) -> Batch:
    return Batch(*(value.to(CUDA) if isinstance(value, Tensor) else value for value in batch))


def assert_same_step(one: nn.Module, other: nn.Module) -> None:
    """Assert that two networks, on two devices, made the same step of SGD: to 1e-3 of its largest change."""
    for (name, here), there in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(
            there.cpu(), here, atol=5e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


# -- steps -------------------------------------------------------------------------------------------------------------


def test_train_arm_step() -> None:
    torch.manual_seed(0)
    model = ARM("resnet18").train()
    other = copy.deepcopy(model).to(CUDA)
    labels = torch.randint(2, (6, 105)).float()
    here = train_arm.train_step(model, sgd(model), [(pixels(6, 32, 32, 3), labels)], "fp32")
    there = train_arm.train_step(other, sgd(other), [(pixels(6, 32, 32, 3), labels.to(CUDA))], "fp32")
    assert there == pytest.approx(here, rel=1e-4)
    assert_same_step(model, other)


def test_train_tae_step() -> None:
    torch.manual_seed(0)
    networks = [TAE().train(), Discriminator(32, 32).train()]
    others = [copy.deepcopy(network).to(CUDA) for network in networks]
    options = tae_options(NOWHERE, NOWHERE, adversarial_weight=0.5)
    losses = [
        train_tae.train_step(
            train_tae.Networks(*pair, sgd(pair[0]), sgd(pair[1])), [pixels(4, 32, 32, 3)], options, "fp32"
        )
        for pair in (networks, others)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for one, other in zip(networks, others, strict=True):
        assert_same_step(one, other)


@pytest.mark.parametrize("modules", MODULES)
def test_train_amem_step(modules: str) -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, modules=modules, adversarial_weight=0.5, lambda_m=1.0)
    here, there = (toy_networks(options, processes) for processes in (ALONE, Processes(0, 1, CUDA)))
    batches = toy_batches(2)
    results = [
        train_step(here, batches, options, "fp32", measure_gradients=True),
        train_step(there, [on_cuda(batch) for batch in batches], options, "fp32", measure_gradients=True),
    ]
    assert results[1].losses == pytest.approx(results[0].losses, rel=1e-3)
    assert results[1].gradient_norms == pytest.approx(results[0].gradient_norms, rel=1e-2)
    assert_same_step(here.amem, there.amem)
    if here.discriminator is not None:
        assert_same_step(here.discriminator, there.discriminator)
    low = toy_networks(options, Processes(0, 1, CUDA))
    rough = train_step(low, [on_cuda(batch) for batch in batches], options, "bf16").losses
    assert rough == pytest.approx({name: results[0].losses[name] for name in rough}, rel=0.1, abs=0.05)


# -- stages ------------------------------------------------------------------------------------------------------------


def run(stage: str, walkers: Path, workspace: Path, **changed: Any) -> Path:
    if stage == "train-arm":
        return train_arm.train_arm(arm_options(walkers, workspace, **changed), Silent()).artifact
    if stage == "train-tae":
        return train_tae.train_tae(tae_options(walkers, workspace, **changed), Silent()).artifact
    names = [tracklet.name for tracklet in read_videos(load_manifest("mars"), walkers).splits[0].train]
    changed["tae"] = str(write_tae(workspace / "tae-file.safetensors"))
    changed["labels"] = str(write_labels(workspace / "labels-file.h5", names))
    return train_amem(amem_options(walkers, workspace, **changed), Silent())[0].artifact


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", ["train-arm", "train-tae", "train-amem"])
def test_stopped_after_each_step_gives_the_same_weights(
    stage: str, precision: str, walkers: Path, tmp_path: Path
) -> None:
    changed: dict[str, Any] = {"epochs": 2, "accumulate": 2, "validate": 0.3, "validate_epochs": 1}
    changed |= {"device": "cuda", "precision": precision, "workers": 2}
    if stage == "train-amem":
        changed |= {"validate": 0.5, "neck": "bn", "average_weights": 0.5, "erase": 0.5, "jitter": 0.5}
    complete = run(stage, walkers, tmp_path / "complete", **changed)
    resumed = None
    while resumed is None:
        with contextlib.suppress(Interrupted):
            resumed = run(stage, walkers, tmp_path / "stopped", **changed, time_limit="0s")
    for one in sorted(complete.parent.glob("*.safetensors")):
        kind = checkpoint.read_description(one)["kind"]
        loaded = [checkpoint.load(path, kind).tensors for path in (one, resumed.with_name(one.name))]
        assert tensors_equal(*loaded), one.name


@pytest.mark.slow
def test_labels_and_features(walkers: Path, tmp_path: Path) -> None:
    """Checkpoints trained on the GPU give the same labels and features on both devices."""
    arm = run("train-arm", walkers, tmp_path, device="cuda", epochs=2)
    model = run("train-amem", walkers, tmp_path, device="cuda", epochs=2)
    probabilities, rows = {}, {}
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")):
        workspace = tmp_path / device / precision
        how: dict[str, Any] = {"data_root": walkers, "workspace": workspace, "device": device, "precision": precision}
        labelled = label_videos(LabelVideosOptions(arm=str(arm), **how), Silent()).artifact
        probabilities[device, precision] = pseudo_labels.read(labelled).probabilities
        (extracted,) = extract_features(ExtractFeaturesOptions(model=str(main_file(model)), **how), Silent())
        rows[device, precision] = features.read(extracted.artifact).features
        if precision == "fp32":
            how |= {"workspace": workspace / "adapted", "adapt_cameras": True, "parts": 2}
            (extracted,) = extract_features(ExtractFeaturesOptions(model=str(main_file(model)), **how), Silent())
            rows[device, "adapted"] = features.read(extracted.artifact).features
    expected = rows["cpu", "fp32"]
    for precision, limit in (("fp32", 1e-5), ("bf16", 1e-3)):
        np.testing.assert_allclose(
            probabilities["cuda", precision], probabilities["cpu", "fp32"], atol=10 * limit, err_msg=precision
        )
        assert float((1 - (expected * rows["cuda", precision]).sum(axis=1)).max()) <= limit
    assert float((1 - (rows["cpu", "adapted"] * rows["cuda", "adapted"]).sum(axis=1)).max()) <= 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_train_tae_patches(walkers: Path, tmp_path: Path) -> None:
    """Principal components computed on CUDA, and the training after them, reconstruct as well as on the CPU."""
    paths, *_ = train_tae.training_images(load_manifest("market1501"), walkers, Silent())
    ((pixels, _),) = ImageBatches(paths, [np.arange(8)], (32, 32), augment=None)
    images = as_pixels(pixels, CPU)
    for device in ("cpu", "cuda"):
        with torch.enable_grad():
            how = {"device": device, "precision": "fp32", "tae_encoder": "patches"}
            artifact = run("train-tae", walkers, tmp_path / device, **how)
        parts = load_tae(artifact, "32x32")
        assert F.mse_loss(parts.decoder.eval()(parts.encoder.eval()(images)), images) < 0.0005, device


@pytest.mark.slow
def test_train_amem_from_trained_weights(walkers: Path, tmp_path: Path) -> None:
    """The mean with the initial weights, and stopping while they are kept."""
    first = main_file(run("train-amem", walkers, tmp_path / "first", device="cuda"))
    changed: dict[str, Any] = {"weights": str(first), "average_initial": 0.25, "average_weights": 0.5, "epochs": 2}
    complete = run("train-amem", walkers, tmp_path / "complete", device="cuda", **changed)
    with pytest.raises(Interrupted):
        run("train-amem", walkers, tmp_path / "stopped", device="cuda", **changed, time_limit="0s")
    resumed = run("train-amem", walkers, tmp_path / "stopped", device="cuda", **changed)
    loaded = [checkpoint.load(path, "amem-model").tensors for path in (complete, resumed)]
    assert tensors_equal(*loaded)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A few hundred MB of the GPU's memory for this process."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(CUDA) + 3e8) / total, CUDA)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("little_memory")
def test_engine_halves_batches_that_do_not_fit() -> None:
    torch.manual_seed(0)
    network, images, warnings = ARM("resnet18").eval(), pixels(512, 64, 64, 3), []
    engine = prepare(network, CUDA, "fp32", "eager", warnings.append)
    found = engine(images)
    assert 1 <= engine.batch_limit < 512
    assert "out of memory with batches of 512" in warnings[0]
    expected = prepare(network, CPU, "fp32", "eager")(images[:8])
    torch.testing.assert_close(found[:8], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("little_memory")
def test_training_that_does_not_fit(walkers: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["train-arm", "--data-root", str(walkers), "--workspace", str(tmp_path), "--preset", "small"]
    arguments += ["--image-size", "256x256", "--batch-size", "64", "--weights", "", "--device", "cuda", "--epochs", "1"]
    assert app.run(arguments) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: memory: not enough (CUDA out of memory")


# -- nccl --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nccl(tmp_path: Path) -> Iterator[Processes]:
    """An nccl group of one process. It counts as two, so that the wrappers for several processes are used."""
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/nccl", rank=0, world_size=1)
    yield Processes(0, 2, CUDA)
    torch.distributed.destroy_process_group()


def test_data_parallel_and_synchronised_batch_norm(nccl: Processes) -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, adversarial_weight=0.5)
    plain = toy_networks(options, Processes(0, 1, CUDA))
    wrapped = toy_networks(options, Processes(0, 1, CUDA))
    amem = nccl.synchronise_batch_norm(wrapped.amem)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in amem.modules())
    parallel = wrapped._replace(
        amem=nccl.data_parallel(amem),
        discriminator=nccl.data_parallel(wrapped.discriminator, broadcast_buffers=False),
    )
    batches = [on_cuda(batch) for batch in toy_batches(2)]
    losses = [train_step(networks, batches, options, "fp32").losses for networks in (plain, parallel)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert_same_step(copy.deepcopy(plain.amem).cpu(), amem)
    nccl.broadcast_buffers(amem)
    nccl.barrier()
    assert dataclasses.replace(nccl, world_size=1).gather(3) == [3]
