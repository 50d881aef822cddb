"""Sample-specific multi-channel masks, SMM (Cai et al. 2024): a program masked by the input."""

import torch
from torch import nn
from torch.nn import functional

CHANNELS = (1, 8, 16, 32, 64)
CELL = 8  # side of the cells in which a mask is constant: three poolings


class SMM(nn.Module):
    """x + delta * mask(x), with the same delta (1, 1, T, F) for all inputs.

    The mask is computed by five 3 x 3 convolutions with BatchNorm and ReLU between them; each of
    the first three is followed by 2 x 2 maximum pooling, and the output repeated over cells of
    8 x 8. delta starts at zero, the identity. As published, but for the biases in front of
    BatchNorm, which have no effect: 25,081 parameters of the mask and 131,072 of delta at
    1024 x 128.

    Args:
        frames, bins: size of the input (T, F).

    Raises:
        ValueError: a side of the input is not a multiple of 8.
    """

    def __init__(self, frames: int = 1024, bins: int = 128):
        super().__init__()
        if frames % CELL or bins % CELL:
            raise ValueError(f"smm: {frames} x {bins} frames x bins are not multiples of {CELL}")
        layers = []
        for index in range(4):
            channels = CHANNELS[index + 1]
            layers.append(nn.Conv2d(CHANNELS[index], channels, 3, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU())
            if index < 3:
                layers.append(nn.MaxPool2d(2))
        layers.append(nn.Conv2d(CHANNELS[-1], 1, 3, padding=1))
        self.mask = nn.Sequential(*layers)
        self.delta = nn.Parameter(torch.zeros(1, 1, frames, bins))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        mask = functional.interpolate(self.mask(x), scale_factor=CELL, mode="nearest")
        return x + self.delta * mask
