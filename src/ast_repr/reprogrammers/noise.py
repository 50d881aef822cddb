"""Noise reprogramming (AST-NRP, Chen and Lerch 2023): a trainable tensor, added to every input."""

import torch
from torch import nn

from ..registry import unknown

STARTS = {
    "zero": nn.init.zeros_,
    "normal": nn.init.normal_,
    "uniform": nn.init.xavier_uniform_,
}


class Noise(nn.Module):
    """x + delta, with the same delta (1, 1, T, F) for all inputs.

    131,072 parameters at 1024 x 128.

    Args:
        frames, bins: size of the input (T, F).
        start: "zero" (the identity), "normal" (N(0, 1), as the authors' first code: not near the
            identity, about the size of a normalised input) or "uniform" (Xavier: within +-0.07).
        rank: None for a full tensor; otherwise delta is the product of (T, rank) and (rank, F),
            of which only the latter starts at zero: rank (T + F) parameters, start "zero" only.
            With rank 4 it is the program of LoR-VP (Jin et al. 2025).
        per: a value per "cell", or one per "frame" or per "band" for all cells of it (a full tensor
            only).

    Raises:
        ValueError: an unknown start or value of `per`, or a rank that is below 1, does not start at
            zero or is not per cell.
    """

    def __init__(
        self,
        frames: int = 1024,
        bins: int = 128,
        start: str = "zero",
        rank: int | None = None,
        per: str = "cell",
    ):
        super().__init__()
        if start not in STARTS:
            raise ValueError(unknown("start of noise", start, STARTS))
        shapes = {"cell": (frames, bins), "frame": (frames, 1), "band": (1, bins)}
        if per not in shapes:
            raise ValueError(unknown("value of per of noise", per, shapes))
        if rank is not None and (rank < 1 or start != "zero" or per != "cell"):
            raise ValueError(
                f"noise: rank {rank}, start {start!r}, per {per!r}; "
                "expected a rank of 1 or more, which starts at zero, per cell"
            )
        self.rank = rank
        if rank is None:
            delta = STARTS[start](torch.empty(shapes[per]))  # 2-d: Xavier's fans are its sides
            self.delta = nn.Parameter(delta[None, None])
        else:
            self.times = nn.Parameter(torch.randn(frames, rank) / rank**0.5)
            self.bands = nn.Parameter(torch.zeros(rank, bins))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        delta = self.delta if self.rank is None else self.times @ self.bands
        return x + delta
