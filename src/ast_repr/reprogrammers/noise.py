"""Noise reprogramming (AST-NRP, Chen and Lerch 2023): one trainable tensor, added to every input."""

import torch
from torch import nn

from ..rooms import unknown

STARTS = {
    "zero": nn.init.zeros_,
    "normal": nn.init.normal_,
    "uniform": nn.init.xavier_uniform_,
}


class Noise(nn.Module):
    """x + delta, with delta (1, 1, T, F) the same for all inputs: 131,072 parameters at 1024 x 128.

    Args:
        start: "zero" (the identity), "normal" (N(0, 1), as the authors' first code: not near the identity, about the
            size of a normalised input) or "uniform" (Xavier: within +-0.07).
    """

    def __init__(self, frames=1024, bins=128, start="zero"):
        super().__init__()
        if start not in STARTS:
            raise ValueError(unknown("start of noise", start, STARTS))
        delta = STARTS[start](torch.empty(frames, bins))  # two-dimensional, so that Xavier's fans are its sides
        self.delta = nn.Parameter(delta[None, None])

    def forward(self, x):
        """(B, 1, T, F) -> (B, 1, T, F)."""
        return x + self.delta
