"""One step of each training against an independent computation of its loss; SGD shows the gradient itself."""

import copy
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import ALONE, RATE, amem_options, pixels, sgd, tae_options, toy_batches, toy_networks

from amem_cli import losses
from amem_cli.errors import BadData
from amem_cli.models.amem import build_amem, erase
from amem_cli.models.arm import ARM
from amem_cli.models.config import model_config
from amem_cli.models.tae import TAE, Discriminator
from amem_cli.options import TrainAmemOptions
from amem_cli.stages import train_arm, train_tae
from amem_cli.stages.train_amem import Batch, Networks, inputs, step, train_step

pytestmark = pytest.mark.usefixtures("one_thread", "tiny_backbone")
NOWHERE = Path("nowhere")


def recorded_syncs(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[tuple[nn.Module, bool]]:
    """The networks whose gradients are computed, and whether the processes average them."""
    calls: list[tuple[nn.Module, bool]] = []

    def recording(network: nn.Module, *, enabled: bool) -> Any:
        calls.append((network, enabled))
        return nullcontext()

    monkeypatch.setattr(module, "gradient_sync", recording)
    return calls


def assert_stepped(module: nn.Module, before: nn.Module, gradients: list[Tensor | None]) -> None:
    """Assert that every parameter of `module` is that of `before` - RATE x gradient."""
    moved = 0.0
    for (name, now), old, gradient in zip(module.named_parameters(), before.parameters(), gradients, strict=True):
        change = torch.zeros_like(old) if gradient is None else RATE * gradient
        torch.testing.assert_close(
            now, old - change, atol=2e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
        moved = max(moved, float(change.abs().max()))
    assert moved > 1e-4


# -- ARM ---------------------------------------------------------------------------------------------------------------


def test_train_arm_step_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = ARM("resnet18").train()
    before = copy.deepcopy(model)
    batches = [(pixels(n, 32, 32, 3, seed=n), torch.randint(2, (n, 105)).float()) for n in (3, 2)]
    losses = []
    for images, labels in batches:
        p = torch.sigmoid(before(images.permute(0, 3, 1, 2).float() / 255))
        losses.append(-(labels * p.log() + (1 - labels) * (1 - p).log()).sum(dim=1).mean())
    gradients = torch.autograd.grad((losses[0] + losses[1]) / 2, list(before.parameters()))
    syncs = recorded_syncs(monkeypatch, train_arm)
    to, calls = Tensor.to, list[tuple[Any, ...]]()
    monkeypatch.setattr(Tensor, "to", lambda *given, **how: calls.append((*given, how)) or to(*given, **how))
    found = train_arm.train_step(model, sgd(model), batches, "fp32")
    copies = [how["non_blocking"] for _, to_what, *_, how in calls if isinstance(to_what, torch.device)]
    assert copies == [True] * 4  # a blocking copy waits for the kernels before it
    assert syncs == [(model, False), (model, True)]
    assert found == {"attribute": pytest.approx((losses[0] + losses[1]).item() / 2, rel=1e-5)}
    assert_stepped(model, before, list(gradients))


def test_train_arm_step_not_finite() -> None:
    torch.manual_seed(0)
    model = ARM("resnet18")
    with torch.no_grad():
        model.heads.classifiers[0].bias.fill_(torch.nan)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadData, match="attribute is not finite"):
        train_arm.train_step(model.eval(), sgd(model), [(pixels(2, 32, 32, 3), torch.zeros(2, 105))], "fp32")
    assert all(torch.equal(t, before[name]) or "bias" in name for name, t in model.state_dict().items())


# -- TAE ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["non-saturating", "minimax"])
def test_train_tae_step_gradients(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tae, discriminator = TAE().train(), Discriminator(32, 32).train()
    before, d_before = copy.deepcopy(tae), copy.deepcopy(discriminator)
    options = tae_options(NOWHERE, NOWHERE, adversarial_weight=0.5, adversarial_form=form)
    batches = [pixels(n, 32, 32, 3, seed=n) for n in (3, 2)]
    tae_losses, d_losses, mse = [], [], []
    for batch in batches:
        images = batch.permute(0, 3, 1, 2).float() / 255
        outputs = before(images)
        fake = torch.sigmoid(d_before(outputs))
        adversarial = -fake.log().mean() if form == "non-saturating" else (1 - fake).log().mean()
        mse.append(((outputs - images) ** 2).mean())
        tae_losses.append(mse[-1] + 0.5 * adversarial)
        real, fake = torch.sigmoid(d_before(images)), torch.sigmoid(d_before(outputs.detach()))
        d_losses.append(-real.log().mean() - (1 - fake).log().mean())
    gradients = torch.autograd.grad(sum(tae_losses) / 2, list(before.parameters()))
    d_gradients = torch.autograd.grad(sum(d_losses) / 2, list(d_before.parameters()))
    networks = train_tae.Networks(tae, discriminator, sgd(tae), sgd(discriminator))
    syncs = recorded_syncs(monkeypatch, train_tae)
    found = train_tae.train_step(networks, batches, options, "fp32")
    assert syncs == [(tae, False), (discriminator, False), (tae, True), (discriminator, True)]
    assert found["mse"] == pytest.approx(sum(mse).item() / 2, rel=1e-5)
    assert found["discriminator"] == pytest.approx(sum(d_losses).item() / 2, rel=1e-4)
    assert_stepped(tae, before, list(gradients))
    assert_stepped(discriminator, d_before, list(d_gradients))


def test_train_tae_step_without_adversarial_term() -> None:
    torch.manual_seed(0)
    tae, discriminator = TAE().train(), Discriminator(32, 32).train()
    before = copy.deepcopy(discriminator.state_dict())
    options = tae_options(NOWHERE, NOWHERE, adversarial_weight=0.0)
    networks = train_tae.Networks(tae, discriminator, sgd(tae), sgd(discriminator))
    assert set(train_tae.train_step(networks, [pixels(2, 32, 32, 3)], options, "fp32")) == {"mse"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in discriminator.state_dict().items())


def test_train_tae_step_not_finite() -> None:
    tae, discriminator = TAE().eval(), Discriminator(32, 32)
    last = tae.decoder.layers[-2]
    with torch.no_grad():
        last.bias.fill_(torch.nan)
    before = copy.deepcopy(tae.encoder.state_dict())
    networks = train_tae.Networks(tae, discriminator, sgd(tae), sgd(discriminator))
    options = tae_options(NOWHERE, NOWHERE, adversarial_weight=0.0)
    with pytest.raises(BadData, match="mse is not finite"):
        train_tae.train_step(networks, [pixels(2, 32, 32, 3)], options, "fp32")
    assert all(torch.equal(tensor, before[name]) for name, tensor in tae.encoder.state_dict().items())


# -- AMEM --------------------------------------------------------------------------------------------------------------


def reference_terms(networks: Networks, batch: Batch, options: TrainAmemOptions) -> dict[str, Tensor]:
    """Eq. 5 to 7 written out for a batch, by name; `discriminator` is the discriminator's loss."""
    output = networks.amem(batch.clip, batch.start, options.predict_frames)
    rows = range(len(batch.clip))
    log_q, smooth = output.identity_logits.log_softmax(dim=1), options.label_smoothing
    terms = {"id": -sum((1 - smooth) * log_q[row, batch.identity[row]] + smooth * log_q[row].mean() for row in rows)}
    terms["id"] = terms["id"] / len(rows)
    f = output.similarity_feature
    f = f / f.norm(dim=1, keepdim=True) if options.triplet_features == "normalised" else f
    hinges = []
    for anchor in rows:
        distance = [(f[anchor] - f[other]).norm() if other != anchor else torch.zeros(()) for other in rows]
        same = [distance[other] for other in rows if batch.identity[other] == batch.identity[anchor]]
        other = [distance[other] for other in rows if batch.identity[other] != batch.identity[anchor]]
        difference = max(same) - min(other)
        soft = options.triplet == "soft-margin"
        hinges.append((1 + difference.exp()).log() if soft else F.relu(difference + options.margin))
    terms["tri"] = sum(hinges) / len(rows)
    if output.attribute_logits is not None:
        p = torch.sigmoid(output.attribute_logits)
        terms["aem"] = -(batch.attributes * p.log() + (1 - batch.attributes) * (1 - p).log()).sum() / len(rows)
    if not output.predictions:
        return terms
    encoder, discriminator = networks.amem.mem.encoder, networks.discriminator
    image = texture = adversarial = copied = torch.zeros(())
    steps = [options.predict_stride * i for i in range(options.predict_frames + 1)]
    true = [torch.stack([batch.clip[r, :, batch.start[r] + step] for r in rows]) for step in steps]
    for i, prediction in enumerate(output.predictions, 1):
        image = image + ((prediction.frame - true[i]) ** 2).mean()
        texture = texture + ((prediction.texture - encoder(true[i]).detach()) ** 2).mean()
        copied = copied + ((true[0] - true[i]) ** 2).mean()
    predicted = torch.cat([prediction.frame for prediction in output.predictions])
    adversarial = -torch.sigmoid(discriminator(predicted)).log().mean() * options.predict_frames
    real, fake = torch.sigmoid(discriminator(torch.cat(true[1:]))), torch.sigmoid(discriminator(predicted.detach()))
    terms |= {"image": image, "texture": texture / 4, "adversarial": adversarial, "copy_image": copied}
    return terms | {"discriminator": -real.log().mean() - (1 - fake).log().mean()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [{"modules": "amem"}, {"modules": "baseline", "triplet_features": "raw"}, {"modules": "aem"},
     {"modules": "mem", "texture_loss": "literal"}, {"modules": "mem", "predict_frames": 1, "predict_stride": 2},
     {"modules": "baseline", "neck": "bn", "label_smoothing": 0.3, "triplet": "soft-margin"}],
    ids=str,
)  # fmt: skip
def test_train_amem_step_gradients(changed: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"lambda_a": 0.3, "lambda_m": 2.0, "texture_weight": 0.2, "adversarial_weight": 0.5, "margin": 0.7}
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, **(weights | changed))
    networks = toy_networks(options)
    before = copy.deepcopy(networks)
    batches = toy_batches(2)
    references = [reference_terms(before, batch, options) for batch in batches]
    texture = 0.2 / 4 if options.texture_loss == "standardised" else 1.0
    factors = {"id": 1, "tri": 1, "aem": 0.3, "image": 2.0, "texture": 2.0 * texture * 4, "adversarial": 2.0 * 0.5}
    total = sum(factors[name] * terms[name] for terms in references for name in factors if name in terms) / 2
    gradients = torch.autograd.grad(total, [p for p in before.amem.parameters() if p.requires_grad], allow_unused=True)

    syncs = recorded_syncs(monkeypatch, step)
    result = train_step(networks, batches, options, "fp32", measure_gradients=True)
    trained = [network for network in networks[:2] if network is not None]
    assert syncs == [(network, enabled) for enabled in (False, True) for network in trained]
    scale = {"texture": 1.0 if options.texture_loss == "standardised" else 4.0}
    for name in references[0]:
        expected = scale.get(name, 1.0) * sum(terms[name] for terms in references).item() / 2
        assert result.losses[name] == pytest.approx(expected, rel=2e-4, abs=1e-6), name
        if name in factors:
            weight = factors[name] / scale.get(name, 1.0)
            assert result.losses[f"weighted_{name}"] == pytest.approx(weight * expected, rel=2e-4, abs=1e-6), name
    parameters = nn.ParameterList(p for p in networks.amem.parameters() if p.requires_grad)
    assert_stepped(
        parameters, nn.ParameterList(p for p in before.amem.parameters() if p.requires_grad), list(gradients)
    )
    assert set(result.gradient_norms) == {name for name in factors if name in references[0]}
    assert all(norm > 0 for norm in result.gradient_norms.values())
    if networks.discriminator is not None:
        loss = sum(terms["discriminator"] for terms in references) / 2
        d_gradients = torch.autograd.grad(loss, list(before.discriminator.parameters()))
        assert_stepped(networks.discriminator, before.discriminator, list(d_gradients))


def test_train_amem_step_leaves_the_frozen_encoder() -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, adversarial_weight=0.0, texture_loss="none")
    networks = toy_networks(options)._replace(discriminator_adam=None)
    before = copy.deepcopy(networks.amem.mem.encoder.state_dict())
    d_before = copy.deepcopy(networks.discriminator.state_dict())
    losses = train_step(networks, toy_batches(1), options, "fp32").losses
    assert not {"texture", "adversarial", "discriminator"} & losses.keys()
    assert all(torch.equal(t, before[name]) for name, t in networks.amem.mem.encoder.state_dict().items())
    assert all(torch.equal(t, d_before[name]) for name, t in networks.discriminator.state_dict().items())
    assert not networks.amem.mem.encoder.training


def test_train_amem_step_accuracy_and_not_finite() -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, modules="baseline")
    networks = toy_networks(options)
    with torch.no_grad():
        networks.amem.identity_classifier.bias.copy_(torch.tensor([100.0, -100.0]))  # always person 0
    assert train_step(networks, toy_batches(1), options, "fp32").losses["accuracy"] == 0.5
    with torch.no_grad():
        networks.amem.identity_classifier.bias.fill_(torch.inf)
    before = networks.amem.main.similarity.weight.clone()
    with pytest.raises(BadData, match=r"id.* is not finite"):
        train_step(networks, toy_batches(1), options, "fp32")
    assert torch.equal(networks.amem.main.similarity.weight, before)


def test_train_amem_step_of_frames_on_the_host() -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5)
    host = [b._replace(clip=pixels(4, 5, 32, 32, 3, seed=n)) for n, b in enumerate(toy_batches(2))]
    floats = [b._replace(clip=b.clip.permute(0, 4, 1, 2, 3).float() / 255) for b in host]
    found = [train_step(toy_networks(options), batches, options, "fp32").losses for batches in (host, floats)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_train_amem_step_gradient_norms_of_the_first_batch() -> None:
    first, second = toy_batches(2)
    norms = []
    for batches, lambda_a in (([first, second], 0.3), ([first], 0.3), ([first], 0.6), ([second], 0.3)):
        options = amem_options(NOWHERE, NOWHERE, clip_frames=5, modules="aem", lambda_a=lambda_a)
        networks = toy_networks(options)
        norms.append(train_step(networks, batches, options, "fp32", measure_gradients=True).gradient_norms)
        assert train_step(networks, batches, options, "fp32").gradient_norms == {}
    assert norms[0] == pytest.approx(norms[1])
    assert norms[2] == pytest.approx(norms[1] | {"aem": 2 * norms[1]["aem"]})  # the norms of the weighted terms
    assert norms[3]["id"] != pytest.approx(norms[1]["id"], rel=1e-3)


LOSSES = {
    train_arm: ["arm_loss"], train_tae: ["tae_loss", "discriminator_loss"],
    losses: ["identity_loss", "triplet_loss", "aem_loss", "mem_loss", "discriminator_loss"],
}  # fmt: skip


def test_losses_are_float32_under_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, torch.dtype]] = []

    def tensors(values: object) -> list[Tensor]:
        if isinstance(values, tuple | list):
            return [tensor for value in values for tensor in tensors(value)]
        return [values] if isinstance(values, Tensor) and values.is_floating_point() else []

    def recorded(name: str, original: Any, *given: object, **more: object) -> Any:
        seen.extend((name, tensor.dtype) for tensor in tensors(given))
        return original(*given, **more)

    for module, names in LOSSES.items():
        for name in names:
            monkeypatch.setattr(module, name, partial(recorded, name, getattr(module, name)))
    torch.manual_seed(0)
    arm, tae, discriminator = ARM("resnet18"), TAE(), Discriminator(32, 32)
    train_arm.train_step(arm, sgd(arm), [(pixels(2, 32, 32, 3), torch.zeros(2, 105))], "bf16")
    networks = train_tae.Networks(tae, discriminator, sgd(tae), sgd(discriminator))
    train_tae.train_step(networks, [pixels(2, 32, 32, 3)], tae_options(NOWHERE, NOWHERE), "bf16")
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5)
    train_step(toy_networks(options), toy_batches(1), options, "bf16")
    assert {name for name, _ in seen} == {name for names in LOSSES.values() for name in names}
    assert {entry for entry in seen if entry[1] != torch.float32} == set()


def test_train_amem_step_leaves_a_frozen_backbone() -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, modules="aem", backbone_lr_factor=0.0)
    networks = toy_networks(options)
    before = copy.deepcopy(networks.amem.state_dict())
    result = train_step(networks, toy_batches(1), options, "fp32", measure_gradients=True)
    assert result.gradient_norms == {}
    changed = {name for name, t in networks.amem.state_dict().items() if not torch.equal(t, before[name])}
    assert not [name for name in changed if name.startswith("main.backbone.")]  # its BN statistics, too
    assert "main.similarity.weight" in changed


def test_train_amem_step_averages_the_weights() -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, modules="baseline", average_weights=0.75, neck="bn")
    networks = toy_networks(options)
    assert networks.tested is not networks.amem
    expected: dict[str, Tensor] = {}
    for _ in range(3):
        train_step(networks, toy_batches(1), options, "fp32")
        now = networks.amem.state_dict()
        expected = {
            key: 0.75 * expected[key] + 0.25 * value if expected and value.is_floating_point() else value.clone()
            for key, value in now.items()
        }
    found = networks.tested.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[key], value)
    assert any(not torch.equal(found[key], value) for key, value in networks.amem.state_dict().items())
    assert networks._replace(average=None).tested is networks.amem


def test_tested_backbone_is_averaged_with_its_initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, modules="baseline", average_initial=0.25)
    assert toy_networks(options).initial is None  # from scratch
    monkeypatch.setattr(inputs, "build_amem", lambda config, weights, *more: build_amem(config, "", *more))
    networks = inputs.build_networks(model_config(options, 2), options, ALONE, weights=NOWHERE)
    networks = networks._replace(adam=sgd(networks.amem.train()))
    backbone = networks.amem.main.backbone
    initial = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    for _ in range(3):
        train_step(networks, toy_batches(1), options, "fp32")
    now = {name: tensor.clone() for name, tensor in networks.amem.state_dict().items()}
    assert any(not torch.equal(tensor, backbone.state_dict()[name]) for name, tensor in initial.items())
    for name, tensor in networks.tested.state_dict().items():
        part = name.removeprefix("main.backbone.")
        inside = part in initial and name != part and tensor.is_floating_point()
        torch.testing.assert_close(tensor, 0.75 * now[name] + 0.25 * initial[part] if inside else now[name])
    for name, tensor in networks.amem.state_dict().items():  # the training goes on from its own weights
        assert torch.equal(tensor, now[name])


def test_neck_normalises_for_classifier_and_test_and_not_for_triplets() -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, modules="baseline", neck="bn")
    networks = toy_networks(options)
    amem, batch = networks.amem.eval(), toy_batches(1)[0]
    assert not amem.main.neck.bias.requires_grad
    with torch.no_grad():
        amem.main.neck.running_mean.uniform_(-1, 1)
        amem.main.neck.weight.uniform_(0.5, 2)
        output = amem(batch.clip, batch.start, 1)
        normalised = amem.main.neck(output.similarity_feature)
        assert not torch.allclose(normalised, output.similarity_feature)
        torch.testing.assert_close(output.identity_logits, amem.identity_classifier(normalised))
        torch.testing.assert_close(amem.main(batch.clip), normalised)


def test_erased_pixels_are_hidden_from_the_backbone_only() -> None:
    options = amem_options(NOWHERE, NOWHERE, clip_frames=5, modules="mem")
    amem, batch = toy_networks(options).amem.eval(), toy_batches(1)[0]
    erased = torch.tensor([[0, 0, 0, 0], [0, 0, 32, 32], [4, 8, 20, 32], [0, 0, 0, 0]])
    clip = batch.clip.clone()
    changed = erase(batch.clip, erased)
    assert torch.equal(batch.clip, clip)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1)
    assert torch.equal(changed[[0, 3]], clip[[0, 3]])
    assert torch.equal(changed[1], mean.expand_as(changed[1]))
    assert torch.equal(changed[2, :, :, 4:20, 8:32], mean.expand(3, 5, 16, 24))
    assert torch.equal(changed[2, :, :, 20:], clip[2, :, :, 20:])
    with torch.no_grad():
        seen, maps = amem(batch.clip, batch.start, 2, erased), amem.main.feature_maps(changed)
        torch.testing.assert_close(seen.similarity_feature, amem.main.similarity_feature(maps))
        current = batch.clip[torch.arange(4), :, batch.start]
        expected = amem.mem(current, seen.maps.motion_feature, 2)
        for one, other in zip(seen.predictions, expected, strict=True):
            torch.testing.assert_close(one.frame, other.frame)


def test_gradient_norms_by_hand() -> None:
    maps = torch.tensor([3.0, 4.0], requires_grad=True)
    terms = {"square": (maps**2).sum() / 2, "none": torch.ones((), requires_grad=True) * 2}
    assert step.gradient_norms(terms, maps) == {"square": pytest.approx(5.0), "none": 0.0}
