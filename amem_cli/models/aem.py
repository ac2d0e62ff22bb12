"""The appearance enhancement module AEM (section AEM): attributes predicted from f_A train the appearance branch."""

from torch import Tensor, nn

from amem_cli.attributes import GROUP_SIZES
from amem_cli.models.arm import AttributeHeads


class AEM(nn.Module):
    """Predicts a clip's attributes from f_A, with the same heads as the ARM; used in training only. f_A (B, C, H, W) ->
    logits (B, A). The appearance branch, which computes f_A, is part of the main model, because inference keeps it."""

    def __init__(self, in_channels: int, group_sizes: tuple[int, ...] = GROUP_SIZES):
        super().__init__()
        self.heads = AttributeHeads(in_channels, group_sizes)

    def forward(self, appearance_feature: Tensor) -> Tensor:
        return self.heads(appearance_feature)
