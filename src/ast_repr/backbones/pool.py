"""No source model: the input averaged over a grid of cells, for CNN-BS and U-Net only.

It measures the value of a reprogrammer by itself.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ..registry import unknown
from .output import Output

NONLINEARITIES = {"none": nn.Identity, "relu": nn.ReLU}


class Pool(nn.Module):
    """Means over cells of the input, flattened frame by frame. No parameters.

    Cells overlap by a frame or bin if a side is not a multiple of their number.

    Args:
        frames, mels: size of the input (T, F).
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        cells: cells along time and along frequency; [frames, mels] is a plain flattening.
        nonlinearity: "none" or "relu", before the means.

    Raises:
        ValueError: an unknown nonlinearity, or cells that are not two numbers from 1 to the
            input's sides.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 1024,
        mels: int = 128,
        mean: float = 0.0,
        std: float = 0.5,
        cells: Sequence[int] = (48, 16),
        nonlinearity: str = "none",
    ):
        super().__init__()
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(unknown("nonlinearity of pool", nonlinearity, NONLINEARITIES))
        if len(cells) != 2 or not 1 <= cells[0] <= frames or not 1 <= cells[1] <= mels:
            raise ValueError(
                f"pool: cells {list(cells)}; expected two numbers, "
                f"from 1 to {frames} frames and from 1 to {mels} bins"
            )
        self.cells = tuple(cells)
        self.mean = mean
        self.std = std
        self.embed_dim = math.prod(cells)
        self.nonlinearity = NONLINEARITIES[nonlinearity]()

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, F) -> Output(embedding (B, cells[0] * cells[1]), None)."""
        means = functional.adaptive_avg_pool2d(self.nonlinearity(x), self.cells)
        return Output(means.flatten(1), None)
