"""Embedding of single frames, under the attention baseline (Gururani, Sharma and Lerch 2019)."""

import torch
from torch import nn
from torch.nn import functional

from .output import Output, pooled_segments
from .padding import frame_mask

DEEPEST = 1_000  # layers


class FrameNetwork(nn.Module):
    """Embed each frame of F dimensions by itself.

    BatchNorm, `layers` of [1 x 1 convolution, BatchNorm, ReLU, dropout], and a skip connection:
    50,176 parameters for 128 dimensions and three layers. A longer input is first averaged to
    `steps` frames, without its padding.

    Args:
        frames, mels: size of the input (T, F); F is the width throughout.
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        steps: number of frames embedded (VGGish: all ten).
        layers: number of convolutions.
        dropout: probability.

    Raises:
        ValueError: the input is shorter than `steps`, or `layers` is out of range.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 10,
        mels: int = 128,
        mean: float = 0.0,
        std: float = 127.5,
        steps: int = 10,
        layers: int = 3,
        dropout: float = 0.6,
    ):
        super().__init__()
        if not 1 <= steps <= frames:
            raise ValueError(
                f"frame_network: steps {steps}; expected from 1 to the input's {frames} frames"
            )
        if not 0 <= layers <= DEEPEST:
            raise ValueError(f"frame_network: layers {layers}; expected from 0 to {DEEPEST}")
        self.embed_dim = mels
        self.steps = steps
        self.segments = pooled_segments(frames, steps)
        self.mean = mean
        self.std = std
        self.norm = nn.BatchNorm1d(mels)
        self.layers = nn.Sequential(*(_layer(mels, dropout) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, F) -> Output(embedding (B, F, steps), None)."""
        weight = frame_mask(x, self.mean, self.std)
        # Fraction of audio among the frames of each step.
        share = functional.adaptive_avg_pool2d(weight, (self.steps, 1))
        sums = functional.adaptive_avg_pool2d(weight * x, (self.steps, self.embed_dim))
        means = sums / share.where(share > 0, 1.0)  # zeros for a step of padding only
        frames = means.squeeze(1).transpose(1, 2)  # (B, F, steps)
        return Output(self.layers(self.norm(frames)) + frames, None)


def _layer(width: int, dropout: float) -> nn.Sequential:
    convolution = nn.Conv1d(width, width, 1, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout))
