"""ARM and AEM: group order, sizes of the paper, which weights a logit depends on."""

import pytest
import torch
from torch import nn

from amem_cli.models import arm
from amem_cli.models.aem import AEM
from amem_cli.models.arm import ARM, AttributeHeads, FrameFeatures


def test_arm_shapes_of_the_paper() -> None:
    with torch.device("meta"):
        model, aem = ARM("resnet50"), AEM(1024)
        assert model.backbone(torch.empty(2, 3, 256, 128)).shape == (2, 2048, 16, 8)
        assert model(torch.empty(2, 3, 256, 128)).shape == (2, 105)
        assert aem(torch.empty(2, 1024, 16, 8)).shape == (2, 105)
    assert sum(parameter.numel() for parameter in aem.parameters()) == 6 * (1024 * 256 + 256) + 105 * 256 + 105


def test_arm_weights_and_group_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[object, ...]] = []

    class Maps(nn.Identity):
        out_channels = 3

        def __init__(self, *arguments: object) -> None:
            super().__init__()
            loaded.append(arguments)

    monkeypatch.setattr(arm, "ImageMaps", Maps)
    model = ARM("resnet18", (2, 4), "imagenet")
    ARM("mobilenet_v2")
    assert loaded == [("resnet18", "imagenet"), ("mobilenet_v2", "")]
    images = torch.ones(2, 3, 4, 4)
    assert model(images).shape == AEM(3, (2, 4))(images).shape == (2, 6)


def test_frame_features_mean_over_frames_and_mirror_images() -> None:
    torch.manual_seed(0)
    model = ARM("resnet18").eval()
    clips = torch.rand(2, 3, 4, 32, 32)
    with torch.no_grad():
        found = FrameFeatures(model)(clips)
        for clip, feature in zip(clips, found, strict=True):
            images = [image for frame in clip.unbind(1) for image in (frame, frame.flip(-1))]
            pooled = [model.backbone(image[None]).mean((0, 2, 3)) for image in images]
            torch.testing.assert_close(feature, torch.stack(pooled).mean(0))


def test_frame_features_of_parts() -> None:
    torch.manual_seed(0)
    model = FrameFeatures(ARM("resnet18").eval())
    model.parts = 2
    clips = torch.rand(2, 3, 3, 64, 32)
    with torch.no_grad():
        found = model(clips)
        frames = torch.cat((clips, clips.flip(-1)), dim=2)
        maps = torch.stack([model.backbone(frame) for frame in frames.unbind(2)]).mean(0)  # (B, 512, 4, 2)
    expected = [maps[:, :, :2].mean((2, 3)), maps[:, :, 2:].mean((2, 3))]
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


def test_attribute_heads_group_depends_on_own_weights() -> None:
    torch.manual_seed(0)
    sizes = (2, 3, 1)
    heads = AttributeHeads(8, sizes)
    logits = heads(torch.randn(2, 8, 3, 2))
    start = 0
    for group, size in enumerate(sizes):
        heads.zero_grad()
        logits[:, start : start + size].sum().backward(retain_graph=True)
        moved = [m.weight.grad is not None and bool(m.weight.grad.abs().sum() > 0) for m in heads.group_features]
        assert moved == [other == group for other in range(len(sizes))]
        start += size


def test_attribute_heads_by_hand() -> None:
    torch.manual_seed(0)
    heads = AttributeHeads(4, (2, 1))
    maps = torch.randn(3, 4, 2, 2)
    pooled = maps.flatten(2).mean(dim=2)
    by_hand = []
    for feature, classifier in zip(heads.group_features, heads.classifiers, strict=True):
        a_m = pooled @ feature.weight.T + feature.bias
        assert a_m.shape == (3, 256)
        by_hand.append(a_m @ classifier.weight.T + classifier.bias)
    torch.testing.assert_close(heads(maps), torch.cat(by_hand, dim=1))
