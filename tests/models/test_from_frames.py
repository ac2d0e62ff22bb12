"""Networks with resizing inside: Pillow's resizing, and programs for any batch, clip length and frame size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toys import CPU, as_trained, shortened, small_main_model

from amem_cli.data.transforms import read_image
from amem_cli.models.amem import build_main_model
from amem_cli.models.arm import ARM
from amem_cli.models.config import model_config
from amem_cli.models.from_frames import FromFrames, resize_weights, trace
from amem_cli.options import BACKBONES, TrainAmemOptions
from amem_cli.runtime.engine import as_pixels
from amem_cli.tools.export import FORMATS

pytestmark = [
    pytest.mark.skipif(torch.__version__ < "2.14", reason="too old"),
    pytest.mark.usefixtures("tiny_backbones", "one_thread"),
]


@pytest.mark.parametrize(
    ("old", "new"), [((50, 34), (25, 17)), ((9, 40), (32, 16)), ((32, 32), (32, 32)), ((240, 50), (48, 24))]
)
def test_resize_weights_as_the_commands(tmp_path: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    expected = read_image(tmp_path / "x.png", *new).astype(int)
    pixels = torch.from_numpy(image).movedim(-1, 0).float() @ resize_weights(old[1], new[1]).T
    found = (resize_weights(old[0], new[0]) @ (pixels + 0.5).floor() + 0.5).floor().movedim(0, -1).int().numpy()
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - expected).mean() <= (0.02 if old != new else 0)  # Pillow rounds its weights


def test_from_frames_by_hand() -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (2, 3, 20, 10, 3), dtype=np.uint8)

    def resized(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((5, 10), Image.Resampling.BILINEAR))

    small = np.stack([[resized(image) for image in clip] for clip in frames]) / 255
    expected = small[..., 7, 2, :].sum(1)  # one pixel, over the frames
    with torch.no_grad():
        network = FromFrames(lambda clips: clips[..., 7, 2].sum(2), "amem-main", (10, 5))
        feature, norm = network(torch.from_numpy(frames))
        np.testing.assert_allclose(norm[:, 0], np.linalg.norm(expected, axis=1), atol=0.02)  # 3 frames, 1 / 255 each
        np.testing.assert_allclose(feature * norm, expected, atol=0.02)
        assert norm.shape == (2, 1)
        (found,) = FromFrames(lambda images: images[..., 7, 2], "amem-arm", (10, 5))(torch.from_numpy(frames[0]))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-small[0, :, 7, 2])), atol=0.002)


def test_from_frames_of_the_size_of_the_network_are_exact() -> None:
    images = torch.arange(240, dtype=torch.uint8).view(1, 10, 8, 3)
    (found,) = FromFrames(lambda pixels: pixels.flatten(1), "amem-arm", (10, 8))(images)
    expected = (images.movedim(-1, 1).flatten(1) / 255).sigmoid()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


class Means(nn.Module):
    """Clips or images -> means (B, 3); the backbone halves the time of clips, and needs two frames."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv3d(3, 3, (2, 4, 4), stride=(2, 4, 4))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.backbone(pixels).mean((2, 3, 4)) if pixels.ndim == 5 else pixels.mean((2, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frames", "fewest", "shapes"),
    [
        (0, None, [(1, 16, 12), (3, 2, 2), (2, 50, 40)]),
        (3, None, [(1, 3, 16, 12), (3, 3, 2, 2)]),  # one map in time: all clips have 3 frames
        (4, 4, [(1, 4, 16, 12), (3, 5, 2, 2), (2, 9, 50, 40)]),
    ],
)
def test_trace_any_batch_length_and_frame_size(frames: int, fewest: int | None, shapes: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    network = FromFrames(Means(), "amem-main" if frames else "amem-arm", (16, 12))
    program, found = trace(network, frames)
    assert found == fewest
    for shape in shapes:
        images = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        for one, other in zip(program.module()(images), network(images), strict=True):
            torch.testing.assert_close(one, other)
    if frames:
        other_length = 4 if fewest is None else fewest - 1
        with pytest.raises(AssertionError):
            program.module()(torch.zeros(1, other_length, 16, 12, 3, dtype=torch.uint8))


def small_network(name: str) -> tuple[nn.Module, str]:
    """The main model with a backbone, or an ARM, with few blocks and the BN statistics of random pixels."""
    torch.manual_seed(0)
    if name.startswith("arm-"):
        return as_trained(shortened(ARM(name.removeprefix("arm-")), 64, 32), 4, 64, 32), "amem-arm"
    return as_trained(small_main_model(backbone=name, modules="baseline", neck="bn"), 4, 8, 64, 32), "amem-main"


def check_runs(program: Any, network: nn.Module, kind: str, fewest: int) -> None:
    """`program` is the network after resizing, for other batches, lengths and frame sizes than it was traced with."""
    generator = torch.Generator().manual_seed(0)
    for batch, frames, height, width in ((1, fewest, 64, 32), (3, 9, 64, 32), (2, 12, 128, 32)):
        shape = (batch, frames, height, width, 3) if kind == "amem-main" else (batch, height, width, 3)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        small = images if height == 64 else resized_by_pillow(images)
        with torch.no_grad():
            expected = network(as_pixels(small, CPU)).double().numpy()
        found = [np.asarray(output, dtype=np.float64) for output in program(images.numpy())]
        if kind == "amem-arm":
            np.testing.assert_allclose(found[0], 1 / (1 + np.exp(-expected)), atol=1e-5)
        else:
            np.testing.assert_allclose(found[0] * found[1], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
            np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1, atol=1e-5)


def resized_by_pillow(images: torch.Tensor) -> torch.Tensor:
    """(..., 128, 32, 3) -> (..., 64, 32, 3); one pass, so equal in all versions of Pillow."""
    rows = [Image.fromarray(one).resize((32, 64), Image.Resampling.BILINEAR) for one in images.flatten(0, -4).numpy()]
    return torch.from_numpy(np.stack([np.asarray(row) for row in rows])).reshape(*images.shape[:-3], 64, 32, 3)


FEWEST = {"i3d": 5, "r3d": 5, "p3d": 8, "mobilenet_v2": 3, "resnet50": 3, "s3d": 5, "r3d_18": 5, "mc3_18": 2,
          "r2plus1d_18": 5, "arm-resnet50": 0, "arm-mobilenet_v2": 0}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FEWEST)
def test_trace_every_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "i3d", "amem_cli.models.i3d:I3D")
    network, kind = small_network(name)
    program, fewest = trace(FromFrames(network, kind, (64, 32)), 8 if FEWEST[name] else 0)
    assert (fewest or 0) == FEWEST[name]
    if name == "mobilenet_v2":  # a convolution over all points in time
        options = TrainAmemOptions(backbone=name, modules="mem", motion_maps="middle", image_size="64x32")
        middle = build_main_model(model_config(options, 2)).eval()
        program_of_8, none = trace(FromFrames(middle, kind, (64, 32)), 8)
        frames = torch.randint(0, 256, (1, 8, 64, 32, 3), dtype=torch.uint8)
        assert none is None
        torch.testing.assert_close(program_of_8.module()(frames)[1], FromFrames(middle, kind, (64, 32))(frames)[1])
    module = program.module()
    check_runs(lambda frames: [o.detach() for o in module(torch.from_numpy(frames))], network, kind, FEWEST[name])
    if name == "i3d":
        built = FORMATS["onnx"](program, ["feature", "norm"])
        check_runs(built.load(built.files("")), network, kind, FEWEST[name])
