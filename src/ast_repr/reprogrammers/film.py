"""FiLM (Perez et al. 2018) as reprogramming: an equaliser that depends on the input."""

import torch
from torch import nn
from torch.nn import functional


class FiLM(nn.Module):
    """x (1 + scale) + shift per band, computed from the mean and deviation of each band over time.

    A bottleneck maps these 2 F statistics to 2 F values. Its last layer starts at zero, so training
    starts at the identity. 8,464 parameters for rank 16 and 128 bands.

    Args:
        frames, bins: size of the input (T, F).
        rank: width of the bottleneck.

    Raises:
        ValueError: a rank below 1.
    """

    def __init__(self, frames: int = 1024, bins: int = 128, rank: int = 16):
        super().__init__()
        if rank < 1:
            raise ValueError(f"film: rank {rank}; expected 1 or more")
        self.down = nn.Linear(2 * bins, rank)
        self.up = nn.Linear(rank, 2 * bins)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        mean = x.mean(dim=2, keepdim=True)
        deviation = (x - mean).square().mean(dim=2, keepdim=True).sqrt()
        statistics = torch.cat([mean, deviation], dim=3)
        scale, shift = self.up(functional.gelu(self.down(statistics))).chunk(2, dim=3)
        return x + scale * x + shift
