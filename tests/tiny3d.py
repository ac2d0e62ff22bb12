"""A backbone of a few thousand weights, so that a step and a save are fast."""

from torch import nn

from amem_cli.weights.normalisation import IMAGENET


class Tiny3D(nn.Sequential):
    out_channels, normalisation, head_keys = 16, IMAGENET, ()

    def __init__(self, strides: str = "reid"):
        stem = nn.Conv3d(3, 16, (3, 16, 16), stride=(2, 16, 16), padding=(1, 0, 0), bias=False)
        super().__init__(stem, nn.BatchNorm3d(16), nn.ReLU())
