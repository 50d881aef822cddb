"""CP-ResNet (Koutini et al. 2019) as in EAsT (Ding and Lerch 2023), a student trained from scratch.

A residual network whose receptive field is small: most kernels are 1 x 1 after the first stage, and
there is no pooling after it.
"""

import math

import torch
from torch import nn

from .output import Output

# Kernels of the two convolutions of each block, by stage; the second and the third stage double the
# width.
STAGES = (
    ((3, 1), (3, 3), (3, 3), (3, 3)),
    ((3, 1), (1, 3), (1, 3), (1, 3)),
    ((1, 1), (1, 1), (1, 1), (1, 1)),
)
POOLED = (0, 1, 3)  # blocks of the first stage that are followed by pooling
BLOCKS = sum(map(len, STAGES))
SHORTEST = 16  # frames and bands: a stride of 2, and three poolings by 2


class CPResNet(nn.Module):
    """A convolution of stride 2 and three stages of four residual blocks.

    With the published width and a linear layer on twenty classes: 5,534,612 parameters.

    Args:
        frames, mels: size of the input (T, F); a sixteenth of the frames remain.
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        width: channels of the first stage.

    Raises:
        ValueError: the input is too small, or there are no channels.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 1024,
        mels: int = 128,
        mean: float = 0.0,
        std: float = 0.5,
        width: int = 128,
    ):
        super().__init__()
        if min(frames, mels) < SHORTEST or width < 1:
            raise ValueError(
                f"cp_resnet: input of {frames} frames and {mels} bands, width {width}; expected at "
                f"least {SHORTEST} frames and bands, and a width of 1 or more"
            )
        self.mean = mean
        self.std = std
        self.embed_dim = 4 * width
        self.segments = [(16 * n, 16 * (n + 1)) for n in range((frames + 1) // 16)]
        stem = nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False)
        nn.init.kaiming_normal_(stem.weight, nonlinearity="relu")
        layers = [stem, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        for stage, kernels in enumerate(STAGES):
            for number, (first, second) in enumerate(kernels):
                out = width * 2**stage
                layers.append(Block(channels, out, first, second))
                channels = out
                if stage == 0 and number in POOLED:
                    layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # faster on a CPU

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, F) -> Output(embedding (B, D, T // 16), None), means over frequency."""
        return Output(self.layers(x).mean(dim=3), None)


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is 1 x 1 if the width changes.

    Weights start as in Fixup (Zhang et al. 2019): the second convolution at zero, so that a block
    is its shortcut at first.

    Args:
        channels, out: of the input and the output.
        first, second: sizes of the kernels.
    """

    def __init__(self, channels: int, out: int, first: int, second: int):
        super().__init__()
        convolution = nn.Conv2d(channels, out, first, padding=first // 3, bias=False)
        deviation = math.sqrt(2 / (first**2 * out * BLOCKS))
        nn.init.normal_(convolution.weight, std=deviation)
        last = nn.Conv2d(out, out, second, padding=second // 3, bias=False)
        nn.init.zeros_(last.weight)
        self.residual = nn.Sequential(
            convolution, nn.BatchNorm2d(out), nn.ReLU(), last, nn.BatchNorm2d(out)
        )
        self.shortcut = nn.Sequential()
        if channels != out:
            projection = nn.Conv2d(channels, out, 1, bias=False)
            nn.init.normal_(projection.weight, std=math.sqrt(2 / out))
            self.shortcut.extend([projection, nn.BatchNorm2d(out)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, T, F) -> (B, out, T, F)."""
        return (self.residual(x) + self.shortcut(x)).relu()
