"""Output of every backbone."""

import math
from typing import NamedTuple

import torch


class Output(NamedTuple):
    """Outputs of a backbone.

    Attributes:
        embedding: (B, D), one vector per clip, or (B, D, S), one per segment.
        source_logits: (B, S), or None if the backbone has no source classes.
        tokens: (B, N, D) of the patches of a transformer, if they are wanted.
    """

    embedding: torch.Tensor
    source_logits: torch.Tensor | None
    tokens: torch.Tensor | None = None


def pooled_segments(frames: int, steps: int) -> list[tuple[int, int]]:
    """List the frames that adaptive pooling averages in each step, as (first, last + 1).

    >>> pooled_segments(10, 4)
    [(0, 3), (2, 5), (5, 8), (7, 10)]
    """
    return [
        (step * frames // steps, math.ceil((step + 1) * frames / steps)) for step in range(steps)
    ]
