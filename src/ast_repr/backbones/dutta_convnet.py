"""A convolutional network on the whole signal, after Dutta, Sil, Chandra and Palit (2022).

A reconstruction: all that is known of their network is that it classifies the scalogram of the
whole signal instead of short frames of a mel spectrogram.
"""

import torch
from torch import nn

from .output import Output

POOLINGS = 3  # each by 2
GROUPS = 8  # of channels that are normalised together


class DuttaConvNet(nn.Module):
    """Four convolutions 3 x 3 with GroupNorm, poolings between them, and the mean over the map.

    GroupNorm is from a student project (Dahan and Hefetz) that classifies scalograms as well.
    1,550,784 parameters with 64 channels.

    Args:
        frames, mels: size of the input (T, F).
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        width: channels of the first convolution, a multiple of 8; each of the others has twice as
            many as the one before.

    Raises:
        ValueError: the input is too small, or `width` is no multiple of 8.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 1_000,
        mels: int = 96,
        mean: float = 0.0,
        std: float = 0.5,
        width: int = 64,
    ):
        super().__init__()
        if min(frames, mels) < 2**POOLINGS or width < 1 or width % GROUPS:
            raise ValueError(
                f"dutta_convnet: input of {frames} frames and {mels} bands, width {width}; "
                f"expected at least {2**POOLINGS} of each, and a multiple of {GROUPS}"
            )
        self.mean = mean
        self.std = std
        self.embed_dim = 8 * width
        self.convolutions = nn.Sequential(
            *_convolution(1, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
            nn.MaxPool2d(2),
            *_convolution(4 * width, 8 * width),
        )

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, F) -> Output(embedding (B, 8 * width), None)."""
        return Output(self.convolutions(x).mean(dim=(2, 3)), None)


def _convolution(channels: int, out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    return [convolution, nn.GroupNorm(GROUPS, out), nn.ReLU()]
