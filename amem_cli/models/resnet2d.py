"""Image ResNets up to Conv5_x, the last stage at stride 1: ResNet-50 in the ARM, ResNet-18 in the TAE."""

import torch
from torch import Tensor, nn

from amem_cli.models.pretrained import imagenet_resnet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ResNetMaps(nn.Module):
    """torchvision's ResNet without pooling and classifier, last stride 1 (D).

    Images (B, 3, H, W), float in [0, 1] -> maps (B, out_channels, H/16, W/16), non-negative. The normalisation of
    ImageNet's weights is applied inside. `weights`: a file, "imagenet", or "" for none.
    """

    def __init__(self, depth: int, weights: str = ""):
        super().__init__()
        import torchvision

        network = {18: torchvision.models.resnet18, 50: torchvision.models.resnet50}[depth](weights=None)
        if weights:
            network.load_state_dict(imagenet_resnet(depth, weights))
        first = network.layer4[0]
        (first.conv1 if depth == 18 else first.conv2).stride = (1, 1)
        first.downsample[0].stride = (1, 1)
        self.out_channels: int = network.fc.in_features
        del network.avgpool, network.fc
        self.network = network
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        net = self.network
        x = (images - self.mean) / self.std
        x = net.maxpool(net.relu(net.bn1(net.conv1(x.contiguous(memory_format=torch.channels_last)))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))
