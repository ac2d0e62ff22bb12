"""The motion enhancement module MEM (section MEM): predicts the next c frames, one after another, with the same f_M.

One round: the frozen encoder gives the current frame's texture; it is concatenated with f_M and embedded into the next
texture; the decoder gives the next frame, which is the current frame of the next round.
"""

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from amem_cli.errors import UsageError
from amem_cli.models.tae import FrozenTextureEncoder, TextureDecoder, set_batch_norm_mode


class Prediction(NamedTuple):
    """One round: `frame` (B, 3, H, W) in [0, 1] and the `texture` (B, C, H/16, W/16) it was decoded from."""

    frame: Tensor
    texture: Tensor


class MEM(nn.Module):
    """MEM with the TAE's frozen encoder and its decoder, which is fine-tuned.

    The decoder's BN keeps the TAE's running statistics (D): with those of a batch of a few people, reconstructed images
    had twice the error. `start` (D) is the initialisation of the embedding. "copy": the identity on the current texture
    plus random weights for f_M: the first predictions are reconstructions of the current frame, and training adds the
    motion. "statistics": random convolutions, the last BN with mean and std of true textures. "random": PyTorch's.
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
        channels = encoder.channels
        self.embedding = nn.Sequential(
            nn.Conv2d(channels + motion_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        if start != "random":
            self._initialise(encoder, copy=start == "copy")
        self.train()

    def train(self, mode: bool = True) -> "MEM":
        super().train(mode)
        set_batch_norm_mode(self.decoder, training=False)
        return self

    @torch.no_grad()
    def _initialise(self, encoder: FrozenTextureEncoder, copy: bool) -> None:
        spatial, norm, _, pointwise, last_norm = (cast(Any, layer) for layer in self.embedding)
        last_norm.weight.copy_(encoder.texture_std)
        last_norm.bias.copy_(encoder.texture_mean)
        if copy:
            nn.init.dirac_(spatial.weight[:, : encoder.channels])
            spatial.weight[:, encoder.channels :] *= encoder.texture_std.view(-1, 1, 1, 1)
            nn.init.dirac_(pointwise.weight)
            # the first BN keeps textures non-negative, so that the ReLU changes (almost) nothing
            positive = encoder.texture_mean if encoder.non_negative else 3 * encoder.texture_std
            norm.weight.copy_(encoder.texture_std)
            norm.bias.copy_(positive)
            norm.running_mean.copy_(encoder.texture_mean)
            last_norm.running_mean.copy_(positive)
            for each in (norm, last_norm):
                each.running_var.copy_(encoder.texture_std.square())

    def forward(self, frame: Tensor, motion_feature: Tensor, rounds: int) -> list[Prediction]:
        """Frame t (B, 3, H, W) in [0, 1] and f_M (B, C, H/16, W/16) -> predictions of frames t+1 ... t+rounds.

        Gradients flow through each re-encoded prediction to f_M, the embedding and the decoder, not to the encoder's
        weights. Raises `UsageError` if f_M and the textures differ in height or width.
        """
        predictions = []
        for _ in range(rounds):
            texture = self.encoder(frame)
            if texture.shape[2:] != motion_feature.shape[2:]:
                actual, expected = ("x".join(map(str, each.shape[2:])) for each in (motion_feature, texture))
                why = f"its maps are {actual}, but MEM needs 1/16 of the frame size, {expected}"
                raise UsageError("--backbone", why=why, remedy="Use a backbone with re-identification strides")
            next_texture = self.embedding(torch.cat((texture, motion_feature), dim=1))
            frame = self.decoder(next_texture)
            predictions.append(Prediction(frame, next_texture))
        return predictions
