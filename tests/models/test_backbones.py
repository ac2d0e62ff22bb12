"""Every backbone by name: shapes, normalisation, weights from a file, and what a newcomer adds."""

import pytest
import torch
import torchvision
from torch import nn

from amem_cli.errors import BadData, InputMissing, UsageError
from amem_cli.models.backbones import Normalisation, backbone_names, build_backbone, normalise
from amem_cli.options import BACKBONES
from amem_cli.weights import normalisation

# name: channels, T' from 8 frames with re-identification strides
EXPECTED = {
    "i3d": (1024, 3),
    "r3d": (2048, 2),
    "p3d": (2048, 2),
    "s3d": (1024, 3),
    "r3d_18": (512, 2),
    "mc3_18": (512, 8),
    "r2plus1d_18": (512, 2),
}
LARGE = tuple(pytest.param(name, marks=pytest.mark.slow) for name in ("r3d_18", "r2plus1d_18"))
TORCHVISION = ("s3d", "mc3_18", *LARGE)


def test_names():
    assert backbone_names() == tuple(EXPECTED) == tuple(BACKBONES)


def check_maps(name: str, height: int, width: int) -> None:
    channels, steps = EXPECTED[name]
    net = build_backbone(name).eval()
    with torch.no_grad():
        maps = net(torch.rand(1, 3, 8, height, width))
    assert maps.shape == (1, channels, steps, height // 16, width // 16)
    assert net.out_channels == channels
    assert torch.isfinite(maps).all()
    assert isinstance(net.normalisation, Normalisation)
    assert net.pretrained is None


@pytest.mark.parametrize("name", EXPECTED)
def test_re_identification_strides_divide_space_by_16(name):
    check_maps(name, 64, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_the_papers_size_gives_16_by_8(name):
    check_maps(name, 256, 128)


@pytest.mark.parametrize("name", EXPECTED)
def test_weights_do_not_depend_on_strides(name):
    with torch.device("meta"):
        reid, stock = (build_backbone(name, strides=strides).state_dict() for strides in ("reid", "stock"))
    assert {key: value.shape for key, value in reid.items()} == {key: value.shape for key, value in stock.items()}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_and_files(name, tmp_path):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.video, name)(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    net = build_backbone(name, strides="stock", weights=tmp_path / "w.pth").eval()
    caught = []
    theirs.avgpool.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    theirs.avgpool.forward = lambda maps: maps.mean(dim=(2, 3, 4), keepdim=True)
    clip = torch.randn(1, 3, 16, 64, 64)
    with torch.no_grad():
        theirs(clip)
        assert torch.allclose(net(clip), caught[0], atol=1e-6)
    assert net.pretrained.dialect == "torchvision video"
    assert net.pretrained.head_classes == 400
    weights = getattr(torchvision.models.video, type_name(name)).KINETICS400_V1.transforms()
    assert net.normalisation == Normalisation(tuple(weights.mean), tuple(weights.std))


def type_name(name: str) -> str:
    return {"s3d": "S3D", "r3d_18": "R3D_18", "mc3_18": "MC3_18", "r2plus1d_18": "R2Plus1D_18"}[name] + "_Weights"


@pytest.mark.parametrize("name", TORCHVISION)
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(0)
    net = build_backbone(name).train()
    net(torch.rand(2, 3, 8, 32, 32)).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_normalise():
    pixels = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3, 1, 1).repeat(2, 3, 1, 4, 5)
    i3d = normalise(pixels, build_backbone("i3d").normalisation)
    assert i3d[0, :, :, 0, 0].tolist() == [[-1.0, 0.0, 1.0]] * 3
    hara = normalise(pixels, build_backbone("r3d").normalisation)
    means = torch.tensor([114.7748, 107.7354, 99.4750])
    assert torch.allclose(hara[1, :, :, 3, 4], torch.tensor([0, 127.5, 255]) - means[:, None], atol=1e-4)
    images = normalise(pixels[:, :, 0], normalisation.IMAGENET)  # (B, 3, H, W) too
    assert torch.allclose(images[0, :, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    flat = torch.rand(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    out = normalise(flat, normalisation.IMAGENET)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    assert out.dtype == torch.float32
    assert normalise(flat.bfloat16(), normalisation.IMAGENET).dtype == torch.bfloat16


def test_what_does_not_exist_is_said_in_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"there is no 'i4d'\. Choose one of i3d, r3d"):
        build_backbone("i4d")
    with pytest.raises(UsageError, match='Choose "reid" or "stock"'):
        build_backbone("r3d", strides="stok")
    with pytest.raises(UsageError, match="r3d is kept without"):
        build_backbone("r3d", head=True)
    with pytest.raises(UsageError, match="no Kinetics weights of p3d"):
        build_backbone("p3d", weights="kinetics")
    with pytest.raises(InputMissing, match="not found"):
        build_backbone("i3d", weights=tmp_path / "none.pt")


def test_official_weights_come_from_the_cache_or_are_reported_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputMissing, match=r"s3d-d76dad2f.pth could not be fetched \(no network\).*--weights FILE"):
        build_backbone("s3d", weights="kinetics")
    torch.save(torchvision.models.video.s3d(weights=None).state_dict(), tmp_path / "checkpoints" / "s3d-d76dad2f.pth")
    assert build_backbone("s3d", weights="kinetics").pretrained.path.name == "s3d-d76dad2f.pth"


class Newcomer(nn.Module):
    out_channels = 5
    normalisation = Normalisation((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    head_keys = ("fc.weight",)

    def __init__(self, strides):
        super().__init__()
        self.conv = nn.Conv3d(3, 5, 16, stride=(4, 16, 16), padding=(7, 0, 0))

    def forward(self, clip):
        return self.conv(clip)


def test_a_newcomer_is_one_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "newcomer", f"{__name__}:Newcomer")
    state = Newcomer("reid").state_dict()
    torch.save(state | {"fc.weight": torch.zeros(2, 5)}, tmp_path / "w.pt")
    net = build_backbone("newcomer", weights=tmp_path / "w.pt")
    assert torch.equal(net.conv.weight, state["conv.weight"])
    assert net.normalisation == Newcomer.normalisation
    assert net.pretrained.head_classes == 2
    assert net(torch.zeros(1, 3, 8, 256, 128)).shape[3:] == (16, 8)
    torch.save(state | {"other": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(BadData, match="left over other"):
        build_backbone("newcomer", weights=tmp_path / "w.pt")
