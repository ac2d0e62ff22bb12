"""Backbones by name: shapes, torchvision's networks, weights from files, a new backbone."""

import pytest
import torch
import torchvision
from torch import nn

from amem_cli.errors import BadData, UsageError
from amem_cli.models.backbones import Normalisation, build_backbone, normalise
from amem_cli.models.recomputation import blocks_of
from amem_cli.options import BACKBONES
from amem_cli.weights import loading
from amem_cli.weights.normalisation import HARA_2018, IMAGENET, PLUS_MINUS_ONE, TORCHVISION_KINETICS

# channels, T' from 8 frames with re-identification strides, (T', H', W') of 16 x 64 x 64 with stock strides
EXPECTED = {
    "i3d": (1024, 3, (2, 2, 2), PLUS_MINUS_ONE),
    "r3d": (2048, 2, (1, 2, 2), HARA_2018),
    "p3d": (2048, 2, (1, 2, 2), IMAGENET),
    "mobilenet_v2": (1280, 4, (8, 2, 2), IMAGENET),
    "resnet50": (2048, 4, (8, 2, 2), IMAGENET),
    "s3d": (1024, 3, (2, 2, 2), TORCHVISION_KINETICS),
    "r3d_18": (512, 2, (2, 4, 4), TORCHVISION_KINETICS),
    "mc3_18": (512, 8, (16, 4, 4), TORCHVISION_KINETICS),
    "r2plus1d_18": (512, 2, (2, 4, 4), TORCHVISION_KINETICS),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "p3d" else n for n in EXPECTED])
def test_build_backbone(name):
    channels, steps, stock_size, normalisation = EXPECTED[name]
    with torch.device("meta"):
        reid, stock = build_backbone(name).eval(), build_backbone(name, strides="stock").eval()
        assert reid(torch.empty(2, 3, 8, 256, 128)).shape == (2, channels, steps, 16, 8)
        assert stock(torch.empty(1, 3, 16, 64, 64)).shape == (1, channels, *stock_size)
    shapes, stock_shapes = ({key: value.shape for key, value in net.state_dict().items()} for net in (reid, stock))
    assert shapes == stock_shapes
    assert (reid.out_channels, reid.normalisation) == (channels, normalisation)
    blocks = [sum(map(torch.numel, block.parameters())) for block in blocks_of(reid)]  # for activation checkpointing
    assert tuple(BACKBONES) == tuple(EXPECTED)
    assert sum(blocks) > 0.95 * sum(map(torch.numel, reid.parameters()))
    assert max(blocks) < 0.6 * sum(blocks)


@pytest.mark.parametrize(
    "name", ["s3d", *(pytest.param(n, marks=pytest.mark.slow) for n in ("r3d_18", "mc3_18", "r2plus1d_18"))]
)
def test_torchvision_networks_equal_torchvision(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    theirs, path = getattr(torchvision.models.video, name)().eval(), tmp_path / "w.pth"
    enum = getattr(
        torchvision.models.video, {"s3d": "S3D"}.get(name, name.upper()).replace("PLUS", "Plus") + "_Weights"
    )
    torch.save(theirs.state_dict(), path)
    monkeypatch.setattr(loading, "weight_file", lambda *key: {("kinetics", name): path}[key])
    net = build_backbone(name, strides="stock", weights="kinetics").eval()
    caught = []
    theirs.avgpool.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    theirs.avgpool.forward = lambda maps: maps.mean(dim=(2, 3, 4), keepdim=True)
    clip = torch.randn(1, 3, 8, 48, 32)
    with torch.no_grad():
        theirs(clip)
        assert torch.equal(net(clip), caught[0])
    assert net.pretrained.startswith(f"loaded {path} as the network's own keys")
    assert enum.KINETICS400_V1.transforms().mean == list(net.normalisation.mean)
    assert enum.KINETICS400_V1.transforms().std == list(net.normalisation.std)


def test_build_backbone_unknown_options():
    for arguments, why in (
        ({"name": "i4d"}, r"i4d: not found\. Did you mean i3d\? Available: i3d, r3d"),
        ({"name": "r3d", "strides": "stok"}, "Did you mean stock"),
    ):
        with pytest.raises(UsageError, match=why):
            build_backbone(**arguments)
    with torch.device("meta"):
        with pytest.raises(UsageError, match="no kinetics weights of p3d"):
            build_backbone("p3d", weights="kinetics")


def test_normalise():
    pixels = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3, 1, 1).repeat(2, 3, 1, 4, 5)
    assert normalise(pixels, PLUS_MINUS_ONE)[0, :, :, 0, 0].tolist() == [[-1.0, 0.0, 1.0]] * 3
    means = torch.tensor([114.7748, 107.7354, 99.4750])
    hara = normalise(pixels, HARA_2018)[1, :, :, 3, 4]
    assert torch.allclose(hara, torch.tensor([0, 127.5, 255]) - means[:, None], atol=1e-4)
    images = normalise(pixels[:, :, 0], IMAGENET)  # (B, 3, H, W) too
    assert torch.allclose(images[0, :, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    flat = torch.rand(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    assert normalise(flat, IMAGENET).is_contiguous(memory_format=torch.channels_last_3d)
    assert normalise(flat.bfloat16(), IMAGENET).dtype == torch.bfloat16


class NewBackbone(nn.Module):
    out_channels, normalisation, head_keys = 5, Normalisation((0.5,) * 3, (1.0,) * 3), ("fc.weight",)

    def __init__(self, strides):
        super().__init__()
        self.conv = nn.Conv3d(3, 5, (1, 16, 16), stride=(1, 16, 16))

    def forward(self, clip):
        return self.conv(clip)


def test_build_backbone_of_a_new_module(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "new", f"{__name__}:NewBackbone")
    state, path = NewBackbone("reid").state_dict(), tmp_path / "w.pt"
    torch.save(state | {"fc.weight": torch.zeros(2, 5)}, path)
    net = build_backbone("new", weights=path)
    assert torch.equal(net.conv.weight, state["conv.weight"])
    assert net.normalisation == NewBackbone.normalisation
    torch.save(state | {"other": torch.zeros(1)}, path)
    with pytest.raises(BadData, match="left over other"):
        build_backbone("new", weights=path)
