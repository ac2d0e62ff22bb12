"""AMEM: shapes and sizes of the paper, the flow of gradients, the model for inference."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError
from amem_cli.models import amem
from amem_cli.models.aem import AEM
from amem_cli.models.amem import AMEM, FeatureMaps, MainModel, build_amem, build_main_model
from amem_cli.models.arm import AttributeHeads
from amem_cli.models.backbones import normalise
from amem_cli.models.branches import Conv2dBranch
from amem_cli.models.config import ModelConfig, model_config
from amem_cli.models.mem import MEM
from amem_cli.models.tae import FrozenTextureEncoder, TextureDecoder, TextureEncoder
from amem_cli.options import MIDDLE_MAPS, TrainAmemOptions
from amem_cli.weights.normalisation import PLUS_MINUS_ONE, Normalisation

MODULES = ("baseline", "aem", "mem", "amem", "after-enhancement")
WIDTHS = {"baseline": 1024, "aem": 2048, "mem": 2048, "amem": 3072, "after-enhancement": 1024}


class ToyBackbone(nn.Module):
    """(B, 3, T, H, W) -> (B, 4, T/2, H/16, W/16)."""

    out_channels = 4
    normalisation = PLUS_MINUS_ONE

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(3, 4, (2, 16, 16), (2, 16, 16))

    def forward(self, clip: Tensor) -> Tensor:
        return self.convolution(clip).tanh()


def toy(modules: str) -> AMEM:
    """AMEM on the toy backbone, with branches of two 2-D convolutions."""
    torch.manual_seed(0)
    options = TrainAmemOptions(modules=modules)
    main = MainModel(
        ToyBackbone(),
        Conv2dBranch(4) if options.uses_aem else None,
        Conv2dBranch(4) if options.uses_mem else None,
        fused=modules != "after-enhancement",
    )
    aem = AEM(1024) if options.uses_aem else None
    mem = MEM(1024, FrozenTextureEncoder(), TextureDecoder()) if options.uses_mem else None
    return AMEM(main, 4, aem, mem)


def toy_clip() -> Tensor:
    return torch.rand(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(3))


START = torch.tensor([1, 2, 3, 5])


def config(**changed: object) -> ModelConfig:
    return model_config(TrainAmemOptions(**changed), people=625)  # type: ignore[arg-type]


def values(module: nn.Module) -> int:
    """Parameters and BN statistics, without BN's counters."""
    return sum(t.numel() for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("modules", MODULES)
def test_amem_shapes_of_the_paper(modules: str) -> None:
    options = TrainAmemOptions(modules=modules)
    with torch.device("meta"):
        model = build_amem(config(modules=modules))
        output = model(torch.empty(2, 3, 8, 256, 128), torch.ones(2, dtype=torch.int64), 3)
    assert output.maps.backbone_maps.shape == (2, 1024, 3, 16, 8)
    assert output.maps.backbone_feature.shape == (2, 1024, 16, 8)
    features = [(output.maps.appearance_feature, options.uses_aem), (output.maps.motion_feature, options.uses_mem)]
    for feature, expected in features:
        assert (None if feature is None else feature.shape) == ((2, 1024, 16, 8) if expected else None)
    assert model.main.similarity.in_features == WIDTHS[modules]
    assert output.similarity_feature.shape == (2, 512)
    assert output.identity_logits.shape == (2, 625)
    assert (output.attribute_logits is not None) is options.uses_aem
    assert len(output.predictions) == (3 if options.uses_mem else 0)


def test_amem_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        baseline, amem = build_amem(config(modules="baseline")), build_amem(config()).main
    assert sum(p.numel() for p in baseline.main.backbone.parameters()) == 12_287_264
    assert values(baseline) == 12_301_824 + 524_800 + 320_625
    assert round(values(baseline) * 4 / 2**20, 1) == 50.2
    assert sum(p.numel() for p in amem.appearance_branch.parameters()) == 2_929_120
    assert sum(p.numel() for p in amem.similarity.parameters()) == 3072 * 512 + 512


@pytest.mark.parametrize("backbone", ["r3d", "p3d"])
def test_build_amem_backbones_of_table_4(backbone: str) -> None:
    with torch.device("meta"):
        model = build_amem(config(backbone=backbone, image_size="64x32"))
        output = model(torch.empty(2, 3, 8, 64, 32), torch.ones(2, dtype=torch.int64), 3)
    assert output.similarity_feature.shape == (2, 512)
    assert model.main.similarity.in_features == 2048 + 2 * 1024


def test_similarity_feature_is_pooled_fused_map() -> None:
    model = toy("amem").eval()
    maps = model.main.feature_maps(toy_clip())
    fused = torch.cat([maps.backbone_maps.mean(dim=2), maps.appearance_feature, maps.motion_feature], dim=1)  # F
    pooled = nn.functional.adaptive_avg_pool2d(fused, 1).flatten(1)
    torch.testing.assert_close(model.main.similarity_feature(maps), model.main.similarity(pooled))
    torch.testing.assert_close(model.main(toy_clip()), model.main.similarity(pooled))


def test_amem_normalises_for_the_backbone_only() -> None:
    model = toy("mem").eval()
    seen: dict[str, Tensor] = {}
    model.main.backbone.register_forward_pre_hook(lambda _, given: seen.update(backbone=given[0]))
    model.mem.register_forward_pre_hook(lambda _, given: seen.update(mem=given[0]))
    clip = toy_clip()
    model(clip, START, 1)
    torch.testing.assert_close(seen["backbone"], clip * 2 - 1)
    assert torch.equal(seen["mem"], torch.stack([clip[row, :, start] for row, start in enumerate(START.tolist())]))


@pytest.mark.parametrize("branch", ["appearance_branch", "motion_branch"])
@pytest.mark.parametrize(("modules", "depends"), [("amem", True), ("after-enhancement", False)])
def test_similarity_feature_uses_branches_only_if_fused(branch: str, modules: str, depends: bool) -> None:
    main = toy(modules).eval().main
    before = main(toy_clip())
    with torch.no_grad():
        for parameter in getattr(main, branch).parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(before, main(toy_clip())) is not depends


@pytest.mark.parametrize("modules", MODULES)
def test_for_inference_same_feature_without_unused_parts(modules: str) -> None:
    model = toy(modules).eval()
    bare = model.main.for_inference()
    assert torch.equal(bare(toy_clip()), model(toy_clip(), START, 1).similarity_feature)
    bare.zero_grad()
    bare(toy_clip()).square().sum().backward()
    assert [name for name, parameter in bare.named_parameters() if parameter.grad is None] == []
    assert not any(isinstance(module, AttributeHeads | TextureEncoder | TextureDecoder) for module in bare.modules())


@pytest.mark.parametrize("modules", ["amem", "after-enhancement"])
def test_mirror_averages_the_clip_and_its_mirror_image(modules: str) -> None:
    main = toy(modules).eval().main
    main.neck = nn.BatchNorm1d(512).eval()
    main.neck.running_mean.uniform_(-1, 1)
    clip = toy_clip()
    expected = (main(clip) + main(clip.flip(-1))) / 2
    assert not torch.allclose(main(clip), expected, rtol=1e-3)
    main.mirror = True
    torch.testing.assert_close(main(clip), expected)
    torch.testing.assert_close(main.for_inference()(clip), expected)
    assert main.train().training
    assert build_main_model(config(backbone="mobilenet_v2", mirror="on")).mirror


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50"])
def test_inflated_backbones_see_every_frame(backbone: str, mirror: bool) -> None:
    """f_s of a clip depends on each of its frames: at first each map is of a single frame."""
    main = build_main_model(config(backbone=backbone, modules="baseline", mirror="on" if mirror else "off")).eval()
    for layer in main.backbone.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[0] == 3:
            with torch.no_grad():
                layer.weight[:, :, [0, 2]] = 0
    clip = torch.rand(1, 3, 4, 64, 32, requires_grad=True)
    main(clip).square().sum().backward()
    seen = clip.grad.abs().amax(dim=(0, 1, 3, 4))
    assert (seen > 0).all(), seen
    with torch.no_grad():
        one, still = clip[:, :, 1:2], clip[:, :, 1:2].expand(-1, -1, 4, -1, -1)
        torch.testing.assert_close(main(one), main(still))


def test_views_of_a_network_that_skips_frames() -> None:
    clip = torch.arange(4.0).view(1, 1, 4, 1, 1)
    main = build_main_model(config(backbone="mobilenet_v2", modules="baseline"))
    assert [view.flatten().tolist() for view in main.views(clip)] == [[0, 1, 2, 3], [1, 2, 3, 2]]
    assert [view.flatten().tolist() for view in main.views(clip[:, :, :1])] == [[0], [0]]
    assert len(build_main_model(config(modules="baseline")).views(clip)) == 1  # I3D's first kernel sees seven frames


def test_blocks_are_backbone_branches_and_mem() -> None:
    with torch.device("meta"):
        model = build_amem(config())
        baseline = build_amem(config(modules="baseline"))
    blocks = model.blocks()
    assert set(model.mem.children()) <= set(blocks)
    assert {model.main.appearance_branch, model.main.motion_branch} <= set(blocks)
    assert model.main.backbone.Mixed_5c in blocks
    assert len(baseline.blocks()) == len(blocks) - 5


@pytest.mark.parametrize(("weights", "given"), [("", None), ("kinetics", "kinetics")])
def test_build_amem_weights_and_embedding_start(
    weights: str, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        amem, "build_backbone", lambda name, weights=None: calls.append((name, weights)) or ToyBackbone()
    )
    monkeypatch.setattr(amem, "MEM", lambda *arguments: calls.append(arguments[3:]) or nn.Identity())
    build_amem(config(modules="mem"), weights, embedding_start="copy")
    build_amem(config(modules="mem"), weights)
    assert calls == [("i3d", given), ("copy",), ("i3d", given), ("random",)]


@pytest.mark.parametrize("backbone", MIDDLE_MAPS)
def test_middle_maps_feed_the_motion_branch_alone(backbone: str) -> None:
    torch.manual_seed(0)
    main, clip = build_main_model(config(backbone=backbone, motion_maps="middle")).eval(), toy_clip()
    with torch.no_grad():
        maps = main.feature_maps(clip)
        pixels = normalise(clip, main.backbone.normalisation)
        middle = main.backbone.first_half(pixels)
        assert middle.shape == (
            len(clip),
            main.backbone.middle_channels,
            4,
            *(-(-size // 8) for size in clip.shape[3:]),
        )
        torch.testing.assert_close(maps.backbone_maps, main.backbone(pixels))
        torch.testing.assert_close(maps.motion_feature, main.motion_branch(middle))
        torch.testing.assert_close(maps.appearance_feature, main.appearance_branch(maps.backbone_maps))
    assert maps.motion_feature.shape == (*maps.backbone_feature.shape[:1], 1024, *maps.backbone_feature.shape[2:])


def test_middle_maps_of_an_odd_number_of_frames() -> None:
    main = build_main_model(config(backbone="mobilenet_v2", motion_maps="middle", clip_frames=7, modules="mem")).eval()
    with torch.no_grad():
        assert main(toy_clip()[:, :, :7]).shape == (4, 512)


def test_middle_maps_know_when_something_was_seen() -> None:
    torch.manual_seed(0)
    main, clip = build_main_model(config(backbone="mobilenet_v2", motion_maps="middle")).eval(), toy_clip()
    with torch.no_grad():
        forwards, backwards = (main.feature_maps(one).motion_feature for one in (clip, clip.flip(2)))
    assert not torch.allclose(forwards, backwards, rtol=0.1, atol=0.1 * forwards.abs().max().item())


def test_middle_maps_of_other_backbones_are_refused() -> None:
    with pytest.raises(UsageError, match="--motion-maps middle: only i3d, mobilenet_v2, resnet50 have middle maps"):
        config(backbone="r3d", motion_maps="middle")
    with pytest.raises(ValueError, match="no middle maps of r3d"):
        replace(config(motion_maps="middle"), backbone="r3d")


def test_build_main_model_normalisation_of_the_configuration() -> None:
    given = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with torch.device("meta"):
        own = build_main_model(config(modules="baseline"))
        assert own.backbone.normalisation == PLUS_MINUS_ONE
        changed = replace(config(modules="baseline"), normalisation=given)
        assert build_main_model(changed).backbone.normalisation == given


@pytest.mark.parametrize("modules", ["amem", "after-enhancement"])
def test_main_model_of_parts(modules: str) -> None:
    """f_s of the upper and of the lower half of the maps, batch-normalised, mean over both mirror images."""
    main = toy(modules).main.eval()
    main.neck, main.mirror = nn.BatchNorm1d(512).eval(), True
    main.neck.running_mean.uniform_()
    clip = torch.rand(2, 3, 8, 64, 32)
    with torch.no_grad():
        whole = main.neck(main.similarity_feature(main.feature_maps(clip)))
        main.parts = 2
        found = main(clip)
        expected = []
        for half in (slice(0, 2), slice(2, 4)):
            each = []
            for one in (clip, clip.flip(-1)):
                maps = FeatureMaps(*(None if m is None else m[..., half, :] for m in main.feature_maps(one)))
                each.append(main.neck(main.similarity_feature(maps)))
            expected.append(torch.stack(each).mean(0))
    assert found.shape == (2, 1024)
    torch.testing.assert_close(found, torch.cat(expected, dim=1))
    assert main.for_inference().parts == 2
    main.mirror = False
    torch.testing.assert_close(main(clip).view(2, 2, 512).mean(1), whole)  # all of it is linear after the maps
