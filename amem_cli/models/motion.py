"""The motion enhancement module MEM (paper, section MEM): predicts c frames, one after another, from the same f_M.

Each round: texture of the current frame (frozen encoder), concatenated with f_M, embedded into the next texture,
decoded into the next frame; that prediction is the next round's current frame.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from amem_cli.models.texture import TEXTURE_CHANNELS, FrozenTextureEncoder, TextureDecoder


class Prediction(NamedTuple):
    """One round: `frame` (B, 3, H, W) in [0, 1] and the `texture` (B, 512, H/16, W/16) it was decoded from."""

    frame: Tensor
    texture: Tensor


class MotionEnhancement(nn.Module):
    """MEM with its TAE parts: the encoder frozen, the decoder fine-tuned.

    With `start_at_texture_statistics` (D) the embedding's last BN starts at the mean and deviation of true textures,
    so that the decoder sees textures of the scale it knows from the first step.
    """

    def __init__(
        self,
        motion_channels: int,
        encoder: FrozenTextureEncoder,
        decoder: TextureDecoder,
        start_at_texture_statistics: bool = True,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.embedding = nn.Sequential(
            nn.Conv2d(TEXTURE_CHANNELS + motion_channels, TEXTURE_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(TEXTURE_CHANNELS),
            nn.ReLU(inplace=True),
            nn.Conv2d(TEXTURE_CHANNELS, TEXTURE_CHANNELS, 1, bias=False),
            nn.BatchNorm2d(TEXTURE_CHANNELS),
        )
        if start_at_texture_statistics:
            with torch.no_grad():
                self.embedding[-1].weight.copy_(encoder.texture_std)
                self.embedding[-1].bias.copy_(encoder.texture_mean)

    def forward(self, frame: Tensor, motion_feature: Tensor, rounds: int) -> list[Prediction]:
        """Frame t (B, 3, H, W) in [0, 1] and f_M (B, C, H/16, W/16) -> predictions of the frames t+1 ... t+rounds.

        Gradients flow through every re-encoded prediction, into f_M, the embedding and the decoder; none reaches the
        encoder's weights.
        """
        predictions = []
        for _ in range(rounds):
            texture = self.encoder(frame)
            next_texture = self.embedding(torch.cat((texture, motion_feature), dim=1))
            frame = self.decoder(next_texture)
            predictions.append(Prediction(frame, next_texture))
        return predictions
