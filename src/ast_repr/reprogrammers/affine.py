"""Affine reprogramming: scale and offset, which suffice to correct a wrong normalisation.

Not in the paper; it shows how much of the paper's gain is re-normalisation.
"""

import torch
from torch import nn


class Affine(nn.Module):
    """x * scale + offset, starting at the identity: two parameters, or two per band.

    Args:
        frames, bins: size of the input (T, F).
        per_band: a scale and an offset per mel band, an equaliser (256 parameters for 128 bands).
    """

    def __init__(self, frames: int = 1024, bins: int = 128, per_band: bool = False):
        super().__init__()
        size = bins if per_band else 1
        self.scale = nn.Parameter(torch.ones(size))
        self.offset = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        return x * self.scale + self.offset
