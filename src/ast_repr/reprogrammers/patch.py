"""Patch reprogramming: a small network corrects each patch of the log-mel, and the clip's level is partly removed.

AST cuts its input into patches and maps each linearly to a token. A correction of each patch, through a bottleneck, can
therefore move tokens to where the frozen blocks tell the target's classes apart, which a filter or a fixed tensor cannot.
"""

import torch
from torch import nn
from torch.nn import functional


class Patch(nn.Module):
    """y + up(gelu(down(norm(p)) + row)) on each patch p of y = x - level * mean(x), the mean over the first `audio` frames.

    `row` is a vector for each row of patches (place in frequency). `up` starts at zero: with `level` 0 training starts
    at the identity; with another level only the clip's level differs from it. 17,441 parameters at rank 32 and 128 bands.

    Args:
        size: side of a patch, in frames and bins; patches do not overlap.
        rank: width of the bottleneck.
        level: share of the clip's mean level that is removed at the start; None: none is, and none is learned.
        audio: frames that hold audio (10 s: 998); the rest is padding, which has no level.

    Raises:
        ValueError: patches do not tile the input, or a number is out of range.
    """

    def __init__(
        self,
        frames: int = 1024,
        bins: int = 128,
        size: int = 16,
        rank: int = 32,
        level: float | None = 0.0,
        audio: int = 998,
    ):
        super().__init__()
        if size < 1 or frames % size or bins % size:
            raise ValueError(
                f"patch: {frames} x {bins} frames x bins are not multiples of the patch's side, {size}"
            )
        if rank < 1 or audio < 1:
            raise ValueError(f"patch: rank {rank}, audio {audio}; expected 1 or more")
        self.size, self.audio = size, audio
        self.level = None if level is None else nn.Parameter(torch.tensor(float(level)))
        self.norm = nn.LayerNorm(size * size)
        self.down, self.up = nn.Linear(size * size, rank), nn.Linear(rank, size * size)
        self.row = nn.Parameter(torch.zeros(bins // size, rank))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        """(B, 1, T, F) -> (B, 1, T, F)."""
        if self.level is not None:
            heard, padding = x[:, :, : self.audio], x[:, :, self.audio :]
            x = torch.cat([heard - self.level * heard.mean((2, 3), keepdim=True), padding], dim=2)
        cut = (
            x.unflatten(3, (-1, self.size)).unflatten(2, (-1, self.size)).transpose(3, 4)
        )  # (B, 1, columns, rows, size, size)
        correction = self.up(functional.gelu(self.down(self.norm(cut.flatten(4))) + self.row))
        return x + correction.unflatten(4, (self.size, self.size)).transpose(3, 4).reshape(x.shape)
