"""AMEM as a whole: shapes and sizes of the paper, who gets which gradient, what is left for inference."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from amem_cli.artifacts import checkpoint
from amem_cli.artifacts.provenance import Provenance
from amem_cli.attributes import GROUP_SIZES
from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.losses import attribute_loss
from amem_cli.models.amem import AMEM, MainModel, build_main_model
from amem_cli.models.arm import AttributeHeads
from amem_cli.models.branches import Conv2dBranch
from amem_cli.models.mem import MEM
from amem_cli.models.tae import Discriminator, FrozenTextureEncoder, TextureDecoder, TextureEncoder
from amem_cli.options import TrainAmemOptions
from amem_cli.stages.amem_step import Batch, loss_terms, weigh
from amem_cli.stages.extract_features import load_main_model
from amem_cli.stages.train_amem import build_amem, describe, save_models
from amem_cli.weights.normalisation import PLUS_MINUS_ONE

PEOPLE = 4
MODULES = ("baseline", "aem", "mem", "amem", "after-enhancement")
WIDTHS = {"baseline": 1024, "aem": 2048, "mem": 2048, "amem": 3072, "after-enhancement": 1024}
SMALL = TrainAmemOptions(image_size="32x32", branch="conv2d", predict_frames=2)


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
    options = dataclasses.replace(SMALL, modules=modules)
    main = MainModel(
        ToyBackbone(),
        Conv2dBranch(4) if options.uses_aem else None,
        Conv2dBranch(4) if options.uses_mem else None,
        fused=modules != "after-enhancement",
    )
    heads = AttributeHeads(1024, GROUP_SIZES) if options.uses_aem else None
    motion = MEM(1024, FrozenTextureEncoder(), TextureDecoder()) if options.uses_mem else None
    return AMEM(main, PEOPLE, heads, motion)


def toy_batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(
        clip=torch.rand(4, 3, 8, 32, 32, generator=generator),
        identity=torch.tensor([0, 0, 1, 1]),
        attributes=torch.randint(2, (4, 105), generator=generator).float(),
        start=torch.tensor([1, 2, 3, 5]),
    )


def reached(module: nn.Module | Tensor) -> bool:
    """Whether any gradient other than zero has come to the module (or tensor)."""
    tensors = [module] if isinstance(module, Tensor) else list(module.parameters())
    return any(tensor.grad is not None and bool(tensor.grad.abs().max() > 0) for tensor in tensors)


def terms_of(model: AMEM, modules: str, discriminator: Discriminator | None = None) -> dict[str, Tensor]:
    options = dataclasses.replace(SMALL, modules=modules)
    batch = toy_batch()
    return loss_terms(model(batch.clip, batch.start, options.predict_frames), batch, model, discriminator, options)


def values(module: nn.Module) -> int:
    """Parameters and BN statistics, as a file holds them (not BN's counters)."""
    return sum(t.numel() for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked"))


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modules", MODULES)
def test_shapes_at_the_paper_s_size(modules: str) -> None:
    options = TrainAmemOptions(modules=modules)
    with torch.device("meta"):
        model, discriminator = build_amem(describe(options, 625), None, options)
        output = model(torch.empty(2, 3, 8, 256, 128), torch.ones(2, dtype=torch.int64), 3)
    assert output.maps.backbone_maps.shape == (2, 1024, 3, 16, 8)
    assert output.maps.backbone_feature.shape == (2, 1024, 16, 8)
    for feature, wanted in (
        (output.maps.appearance_feature, options.uses_aem),
        (output.maps.motion_feature, options.uses_mem),
    ):
        assert (feature is not None) is wanted
        assert feature is None or feature.shape == (2, 1024, 16, 8)
    assert model.main.similarity.in_features == WIDTHS[modules]
    assert output.similarity_feature.shape == (2, 512)
    assert output.identity_logits.shape == (2, 625)
    assert (output.attribute_logits is not None) is options.uses_aem
    assert output.attribute_logits is None or output.attribute_logits.shape == (2, 105)
    assert len(output.predictions) == (3 if options.uses_mem else 0)
    assert (discriminator is not None) is options.uses_mem


def test_sizes_are_those_of_the_paper_s_table() -> None:
    def built(modules: str) -> AMEM:
        options = TrainAmemOptions(modules=modules)
        with torch.device("meta"):
            return build_amem(describe(options, 625), None, options)[0]

    baseline = built("baseline")
    assert sum(p.numel() for p in baseline.main.backbone.parameters()) == 12_287_264
    assert values(baseline.main.backbone) == 12_301_824
    assert values(baseline) == 12_301_824 + 524_800 + 320_625
    assert round(values(baseline) * 4 / 2**20, 1) == 50.2
    amem = built("amem").main
    assert sum(p.numel() for p in amem.appearance_branch.parameters()) == 2_929_120
    assert sum(p.numel() for p in amem.motion_branch.parameters()) == 2_929_120
    assert sum(p.numel() for p in amem.similarity.parameters()) == 3072 * 512 + 512


@pytest.mark.parametrize("backbone", ["i3d", "r3d", "p3d"])
@pytest.mark.parametrize("modules", ["baseline", "aem", "mem", "amem"])
def test_every_cell_of_table_4_can_be_built_and_run(backbone: str, modules: str) -> None:
    options = TrainAmemOptions(modules=modules, backbone=backbone, image_size="64x32")
    with torch.device("meta"):
        model, _ = build_amem(describe(options, 3), None, options)
        output = model(torch.empty(2, 3, 8, 64, 32), torch.ones(2, dtype=torch.int64), 3)
    assert output.similarity_feature.shape == (2, 512)
    assert model.main.similarity.in_features == model.main.backbone.out_channels + WIDTHS[modules] - 1024


@pytest.mark.slow
def test_the_real_model_at_the_paper_s_size() -> None:
    torch.manual_seed(0)
    options = TrainAmemOptions()
    model, _ = build_amem(describe(options, 5), None, options)
    with torch.no_grad():
        output = model.eval()(torch.rand(1, 3, 8, 256, 128), torch.tensor([2]), 3)
    assert output.maps.backbone_maps.shape == (1, 1024, 3, 16, 8)
    assert output.predictions[2].frame.shape == (1, 3, 256, 128)
    assert output.similarity_feature.isfinite().all()


# -- f_s ---------------------------------------------------------------------------------------------------------------


def test_f_s_is_the_pooled_fused_map_through_one_layer() -> None:
    model = toy("amem").eval()
    maps = model.main.feature_maps(toy_batch().clip)
    fused = torch.cat([maps.backbone_maps.mean(dim=2), maps.appearance_feature, maps.motion_feature], dim=1)  # F
    assert fused.shape == (4, 4 + 2048, 2, 2)
    pooled = nn.functional.adaptive_avg_pool2d(fused, 1).flatten(1)
    torch.testing.assert_close(model.main.similarity_feature(maps), model.main.similarity(pooled))
    torch.testing.assert_close(model.main(toy_batch().clip), model.main.similarity(pooled))


def test_pixels_are_normalised_for_the_backbone_but_not_for_mem() -> None:
    model = toy("mem").eval()
    seen: dict[str, Tensor] = {}
    model.main.backbone.register_forward_pre_hook(lambda _, given: seen.update(backbone=given[0]))
    model.motion_enhancement.register_forward_pre_hook(lambda _, given: seen.update(mem=given[0]))
    batch = toy_batch()
    model(batch.clip, batch.start, 1)
    torch.testing.assert_close(seen["backbone"], batch.clip * 2 - 1)
    by_hand = torch.stack([batch.clip[row, :, start] for row, start in enumerate(batch.start.tolist())])
    assert torch.equal(seen["mem"], by_hand)


@pytest.mark.parametrize("branch", ["appearance_branch", "motion_branch"])
@pytest.mark.parametrize(("modules", "depends"), [("amem", True), ("after-enhancement", False)])
def test_f_s_depends_on_the_branches_only_where_they_are_fused(branch: str, modules: str, depends: bool) -> None:
    main = toy(modules).eval().main
    before = main(toy_batch().clip)
    with torch.no_grad():
        for parameter in getattr(main, branch).parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(before, main(toy_batch().clip)) is not depends


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_the_attribute_loss_trains_appearance_and_backbone_but_not_motion() -> None:
    model = toy("amem").train()
    terms_of(model, "amem")["aem"].backward()
    main = model.main
    assert reached(main.appearance_branch)
    assert reached(main.backbone)
    assert reached(model.attribute_heads)
    assert not reached(main.motion_branch)
    assert not reached(model.motion_enhancement)
    assert not reached(main.similarity)


@pytest.mark.parametrize("term", ["image", "texture", "adversarial"])
@pytest.mark.parametrize("modules", ["mem", "amem", "after-enhancement"])
def test_each_mem_term_alone_trains_motion_and_backbone(modules: str, term: str) -> None:
    model = toy(modules).train()
    torch.manual_seed(1)
    discriminator = Discriminator(32, 32).requires_grad_(False)
    terms_of(model, modules, discriminator)[term].backward()
    assert reached(model.main.motion_branch)
    assert reached(model.main.backbone)
    assert model.main.appearance_branch is None or not reached(model.main.appearance_branch)
    assert not reached(model.main.similarity)
    assert not reached(model.motion_enhancement.encoder)
    assert not reached(discriminator)


def test_after_enhancement_identity_and_triplet_train_f_b_alone() -> None:
    model = toy("after-enhancement").train()
    terms = terms_of(model, "after-enhancement")
    (terms["id"] + terms["tri"]).backward()
    assert reached(model.main.backbone)
    assert reached(model.main.similarity)
    assert not reached(model.main.appearance_branch)
    assert not reached(model.main.motion_branch)


def test_after_enhancement_both_modules_train_the_backbone() -> None:
    model = toy("after-enhancement").train()
    terms = terms_of(model, "after-enhancement")
    for loss in (terms["aem"], terms["image"] + terms["texture"]):
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert reached(model.main.backbone)


def test_identity_reaches_everything_that_is_fused() -> None:
    model = toy("amem").train()
    terms_of(model, "amem")["id"].backward()
    for part in (model.main.backbone, model.main.appearance_branch, model.main.motion_branch):
        assert reached(part)
    assert not reached(model.attribute_heads)
    assert not reached(model.motion_enhancement)


def test_a_step_leaves_the_texture_encoder_as_it_was() -> None:
    model = toy("amem").train()
    encoder = model.motion_enhancement.encoder
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.1, weight_decay=0.1)
    options = dataclasses.replace(SMALL, modules="amem")
    decoder = model.motion_enhancement.decoder.layers[0].weight.clone()
    sum(weigh(terms_of(model, "amem"), options).values()).backward()
    optimizer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert not torch.equal(decoder, model.motion_enhancement.decoder.layers[0].weight)


def test_true_textures_are_of_the_true_frames_and_carry_no_gradient() -> None:
    model = toy("mem").train()
    batch = toy_batch()
    encoded: list[Tensor] = []
    output = model(batch.clip, batch.start, 2)
    model.motion_enhancement.encoder.register_forward_hook(lambda _, given, made: encoded.extend([given[0], made]))
    terms = loss_terms(output, batch, model, None, dataclasses.replace(SMALL, modules="mem"))
    frames, textures = encoded
    by_hand = torch.stack([batch.clip[row, :, batch.start[row] + step] for step in (1, 2) for row in range(4)])
    assert torch.equal(frames, by_hand)
    assert not textures.requires_grad
    variance = model.motion_enhancement.encoder.texture_std.square().mean()
    halves = textures.unflatten(0, (2, 4))
    expected = sum((p.texture - t).square().mean() for p, t in zip(output.predictions, halves, strict=True)) / variance
    torch.testing.assert_close(terms["texture"], expected)


# -- inference ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modules", MODULES)
def test_for_inference_gives_the_same_f_s_and_has_no_leftovers(modules: str) -> None:
    model = toy(modules).eval()
    bare = model.main.for_inference()
    clip = toy_batch().clip
    assert torch.equal(bare(clip), model(clip, toy_batch().start, 1).similarity_feature)
    bare.zero_grad()
    bare(clip).square().sum().backward()
    unused = [name for name, parameter in bare.named_parameters() if parameter.grad is None]
    assert unused == []
    assert not any(isinstance(module, AttributeHeads | TextureEncoder | TextureDecoder) for module in bare.modules())


@pytest.mark.parametrize("modules", [pytest.param("amem", marks=pytest.mark.slow), "after-enhancement"])
def test_saved_models_come_back_with_the_same_f_s(tmp_path: Path, modules: str) -> None:
    torch.manual_seed(0)
    options = TrainAmemOptions(modules=modules, image_size="32x32", branch="conv2d")
    described = describe(options, PEOPLE)
    model, discriminator = build_amem(described, None, options)
    model.train()
    with torch.no_grad():  # BN statistics other than the first ones
        model.main(torch.rand(2, 3, 8, 32, 32))
    output = tmp_path / "amem.safetensors"
    save_models(output, model, discriminator, described, Provenance("train-amem", {}), {"steps": 1})
    loaded, found = load_main_model(tmp_path / "amem-main.safetensors")
    clip = torch.rand(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(clip), model.eval().main(clip))
    assert found["clip_frames"] == 8
    assert found["image_size"] == "32x32"
    kinds = {"identity_classifier", "attribute_heads", "motion_enhancement"}
    assert not kinds & {name.split(".")[0] for name in loaded.state_dict()}
    assert (loaded.appearance_branch is None) is (modules == "after-enhancement")

    whole, _ = build_amem(checkpoint.read_description(output)["model"], None)
    saved = checkpoint.load(output, "amem-model")
    checkpoint.load_into(whole, saved, "amem.")
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_main_model_of_another_shape_is_refused_with_its_keys(tmp_path: Path) -> None:
    described = describe(TrainAmemOptions(modules="baseline"), PEOPLE)
    main = build_main_model(described)
    path = tmp_path / "amem-main.safetensors"
    wrong = described | {"appearance": True}
    checkpoint.save(path, "amem-main", main.state_dict(), Provenance("train-amem", {}), model=wrong)
    with pytest.raises(BadData, match=r"missing appearance_branch\.") as caught:
        load_main_model(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputMissing, match="amem train-amem"):
        load_main_model(tmp_path / "none.safetensors")


# -- the TAE's parts ---------------------------------------------------------------------------------------------------


def saved_tae(folder: Path, image_size: str = "32x32") -> tuple[Path, TextureEncoder, TextureDecoder, Discriminator]:
    torch.manual_seed(5)
    encoder, decoder, discriminator = TextureEncoder(), TextureDecoder(), Discriminator(32, 32)
    encoder.texture_mean.uniform_()
    encoder.texture_std.uniform_(1, 2)
    tensors = checkpoint.prefixed("encoder.", encoder) | checkpoint.prefixed("decoder.", decoder)
    tensors |= checkpoint.prefixed("discriminator.", discriminator)
    path = checkpoint.save(
        folder / "tae.safetensors", "amem-tae", tensors, Provenance("train-tae", {}), model={"image_size": image_size}
    )
    return path, encoder, decoder, discriminator


def test_mem_starts_from_the_tae_s_parts(tmp_path: Path) -> None:
    path, *parts = saved_tae(tmp_path)
    options = TrainAmemOptions(modules="mem", image_size="32x32", branch="conv2d")
    model, discriminator = build_amem(describe(options, PEOPLE), path, options)
    mem = model.motion_enhancement
    for ours, theirs in zip((mem.encoder, mem.decoder, discriminator), parts, strict=True):
        assert all(torch.equal(t, ours.state_dict()[name]) for name, t in theirs.state_dict().items())
        assert len(ours.state_dict()) == len(theirs.state_dict())
    assert torch.equal(mem.embedding[-1].weight, parts[0].texture_std)
    assert torch.equal(mem.embedding[-1].bias, parts[0].texture_mean)
    assert not any(parameter.requires_grad for parameter in mem.encoder.parameters())
    assert all(parameter.requires_grad for parameter in mem.decoder.parameters())


def test_a_tae_of_another_image_size_is_refused(tmp_path: Path) -> None:
    path, *_ = saved_tae(tmp_path, image_size="64x32")
    options = TrainAmemOptions(modules="mem", image_size="32x32", branch="conv2d")
    with pytest.raises(UsageError, match="trained at 64x32"):
        build_amem(describe(options, PEOPLE), path, options)


def test_attribute_labels_decide_the_direction() -> None:
    model = toy("aem").eval()
    batch = toy_batch()
    logits = model(batch.clip, batch.start, 1).attribute_logits
    right, wrong = (logits > 0).float(), (logits <= 0).float()
    assert attribute_loss(logits, right) < attribute_loss(logits, wrong)
