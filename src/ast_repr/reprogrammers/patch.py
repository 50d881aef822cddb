"""Patch reprogramming: a small network corrects each patch, and the clip's level is partly removed.

AST cuts its input into patches and maps each linearly to a token. A correction of each patch,
through a bottleneck, can therefore move tokens to where the frozen blocks separate the target
classes, which a filter or a fixed tensor cannot.
"""

import torch
from torch import nn
from torch.nn import functional


class Patch(nn.Module):
    """y + up(gelu(down(norm(p)) + row)) on each patch p of y = x - level * mean(x).

    The mean is over the first `audio` frames. `row` is a vector per row of patches (position in
    frequency). `up` starts at zero: with `level` 0 training starts at the identity; with another
    level only the clip's level differs from it. 17,441 parameters for rank 32 and 128 bands.

    Args:
        frames, bins: size of the input (T, F).
        size: side of a patch, in frames and bins; patches do not overlap.
        rank: width of the bottleneck.
        level: initial share of the clip's mean level that is removed; None removes none.
        audio: frames of audio (10 s: 998); the rest is padding.

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
                f"patch: {frames} x {bins} frames x bins "
                f"are not multiples of the patch's side, {size}"
            )
        if rank < 1 or audio < 1:
            raise ValueError(f"patch: rank {rank}, audio {audio}; expected 1 or more")
        self.size = size
        self.audio = audio
        self.level = None if level is None else nn.Parameter(torch.tensor(float(level)))
        self.norm = nn.LayerNorm(size * size)
        self.down = nn.Linear(size * size, rank)
        self.up = nn.Linear(rank, size * size)
        self.row = nn.Parameter(torch.zeros(bins // size, rank))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        if self.level is not None:
            audio = x[:, :, : self.audio]
            padding = x[:, :, self.audio :]
            x = torch.cat([audio - self.level * audio.mean((2, 3), keepdim=True), padding], dim=2)
        patches = x.unflatten(3, (-1, self.size)).unflatten(2, (-1, self.size))
        patches = patches.transpose(3, 4)  # (B, 1, columns, rows, size, size)
        hidden = self.down(self.norm(patches.flatten(4))) + self.row
        correction = self.up(functional.gelu(hidden)).unflatten(4, (self.size, self.size))
        return x + correction.transpose(3, 4).reshape(x.shape)
