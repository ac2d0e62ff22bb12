"""The motion enhancement module MEM (paper, section MEM): predicts c frames, one after another, from the same f_M.

Each round: texture of the current frame (frozen encoder), concatenated with f_M, embedded into the next texture,
decoded into the next frame; that prediction is the next round's current frame.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError
from amem_cli.models.tae import TEXTURE_CHANNELS, FrozenTextureEncoder, TextureDecoder


class Prediction(NamedTuple):
    """One round: `frame` (B, 3, H, W) in [0, 1] and the `texture` (B, 512, H/16, W/16) it was decoded from."""

    frame: Tensor
    texture: Tensor


class MEM(nn.Module):
    """MEM with its TAE parts: the encoder frozen, the decoder fine-tuned.

    `start` (D) says where the embedding starts. "copy": at the identity of the current texture, plus f_M by random
    weights, so that the first prediction is about the TAE's picture of the current frame and what is left to learn is
    the motion. "statistics": random convolutions, the last BN at the mean and deviation of true textures, so that the
    decoder sees textures of the scale it knows. "random": as any new layer.
    """

    def __init__(
        self,
        motion_channels: int,
        encoder: FrozenTextureEncoder,
        decoder: TextureDecoder,
        start: Literal["copy", "statistics", "random"] = "copy",
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
        if start != "random":
            self._start_at(encoder, copy=start == "copy")

    @torch.no_grad()
    def _start_at(self, encoder: FrozenTextureEncoder, copy: bool) -> None:
        spatial, norm, _, pointwise, last_norm = self.embedding
        last_norm.weight.copy_(encoder.texture_std)
        last_norm.bias.copy_(encoder.texture_mean)
        if copy:
            nn.init.dirac_(spatial.weight[:, :TEXTURE_CHANNELS])
            spatial.weight[:, TEXTURE_CHANNELS:] *= encoder.texture_std.view(-1, 1, 1, 1)
            nn.init.dirac_(pointwise.weight)
            # textures are not negative: what passes this BN unchanged passes the ReLU too
            norm.weight.copy_(encoder.texture_std)
            norm.bias.copy_(encoder.texture_mean)

    def forward(self, frame: Tensor, motion_feature: Tensor, rounds: int) -> list[Prediction]:
        """Frame t (B, 3, H, W) in [0, 1] and f_M (B, C, H/16, W/16) -> predictions of the frames t+1 ... t+rounds.

        Gradients flow through every re-encoded prediction, into f_M, the embedding and the decoder; none reaches the
        encoder's weights. Raises `UsageError` when f_M is not as high and wide as the textures.
        """
        predictions = []
        for _ in range(rounds):
            texture = self.encoder(frame)
            if texture.shape[2:] != motion_feature.shape[2:]:
                found, wanted = ("x".join(map(str, each.shape[2:])) for each in (motion_feature, texture))
                why = f"gives maps of {found} from these frames, MEM needs a sixteenth of their sides: {wanted}"
                raise UsageError("--backbone", why=why, remedy="Give it re-identification strides")
            next_texture = self.embedding(torch.cat((texture, motion_feature), dim=1))
            frame = self.decoder(next_texture)
            predictions.append(Prediction(frame, next_texture))
        return predictions
