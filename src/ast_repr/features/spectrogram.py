"""The base of features with one channel: bins of increasing frequency over frames."""

import torch
from torch import nn

from .spectrum import warp


class Spectrogram(nn.Module):
    """One channel of `frames` x `bins`; `hz` are the centre frequencies of the bins, (bins,)."""

    frames: int
    bins: int
    hz: torch.Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one window's feature: (channels, frames, bins)."""
        return (1, self.frames, self.bins)

    def warp(self, power: torch.Tensor, rates: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
        """Change tempo and pitch, see `spectrum.warp`."""
        return warp(power, rates, ratios, self.hz)
