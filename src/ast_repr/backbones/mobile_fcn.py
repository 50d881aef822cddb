"""MobileFCN, the student of EAsT on MagnaTagATune (Ding and Lerch 2023), trained from scratch.

A fully convolutional network after Choi et al. (2016), with mostly depthwise-separable layers.
"""

import torch
from torch import nn

from .output import Output

# Of each layer: channels, as a multiple of the first layer's; sizes of its pooling in frames and
# bands. None: depends on the number of bands, so that the last pooling leaves one.
LAYERS = (
    (1, 4, 2),
    (2, 3, 2),
    (2, 2, 2),
    (2, 2, None),
    (2, 2, 4),
    (4, 1, 1),
    (4, 1, 1),
    (4, 1, 1),
)
PLAIN = 2  # of the layers; the others are depthwise-separable
DROPPED = (4, 6)  # layers with dropout before them
FRAMES = 96  # that are pooled into one
FEWEST_BANDS = 32


class MobileFCN(nn.Module):
    """Eight convolutional layers, the first five with pooling.

    With the published width and a linear layer on fifty classes: 314,098 parameters. The published
    network has dropout before that layer too: `head: {name: embedding, dropout: 0.5}`.

    Args:
        frames, mels: size of the input (T, F); a 96th of the frames remain.
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        width: channels of the first layer.
        dropout: probability, before the fifth and the seventh layer.

    Raises:
        ValueError: the input is too small, or there are no channels.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 1457,
        mels: int = 96,
        mean: float = 0.0,
        std: float = 0.5,
        width: int = 64,
        dropout: float = 0.5,
    ):
        super().__init__()
        if frames < FRAMES or mels < FEWEST_BANDS or width < 1:
            raise ValueError(
                f"mobile_fcn: input of {frames} frames and {mels} bands, width {width}; expected "
                f"at least {FRAMES} frames, {FEWEST_BANDS} bands and a width of 1"
            )
        self.mean = mean
        self.std = std
        self.embed_dim = 4 * width
        self.segments = [(FRAMES * n, FRAMES * (n + 1)) for n in range(frames // FRAMES)]
        self.layers = nn.Sequential()
        channels = 1
        for number, (factor, pooled_frames, pooled_bands) in enumerate(LAYERS):
            if number in DROPPED:
                self.layers.append(nn.Dropout(dropout))
            out = factor * width
            if number < PLAIN:
                self.layers.append(nn.Conv2d(channels, out, 3, padding=1, bias=False))
            else:
                self.layers.extend(_depthwise(channels))
                self.layers.append(nn.Conv2d(channels, out, 1, bias=False))
            self.layers.append(nn.BatchNorm2d(out))
            # Before the ReLU: the same values, for which fewer cells are computed.
            self.layers.append(nn.MaxPool2d((pooled_frames, pooled_bands or mels // FEWEST_BANDS)))
            self.layers.append(nn.ReLU())
            channels = out
        self.to(memory_format=torch.channels_last)  # 0.6 of the time on a CPU

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, F) -> Output(embedding (B, D, T // 96), None), means over frequency."""
        return Output(self.layers(x).mean(dim=3), None)


def _depthwise(channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
