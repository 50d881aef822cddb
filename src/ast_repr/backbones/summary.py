"""No source model: statistics over time, the input of the baselines without a network."""

from collections.abc import Sequence

import torch
from torch import nn

from ..registry import unknown
from .output import Output
from .padding import frame_mask

STATISTICS = ("mean", "std", "max")


class Summary(nn.Module):
    """Statistics of each bin over all frames except padding. No parameters.

    Args:
        frames, mels: size of the input (T, F).
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        statistics: some of "mean", "std" (of the population) and "max", in the order of the
            embedding.

    Raises:
        ValueError: no statistics, or unknown ones.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 1024,
        mels: int = 128,
        mean: float = 0.0,
        std: float = 0.5,
        statistics: Sequence[str] = ("mean",),
    ):
        super().__init__()
        if not statistics:
            raise ValueError(f"summary: no statistics; expected some of {', '.join(STATISTICS)}")
        for name in statistics:
            if name not in STATISTICS:
                raise ValueError(unknown("statistic of summary", name, STATISTICS))
        self.statistics = tuple(statistics)
        self.mean = mean
        self.std = std
        self.embed_dim = mels * len(statistics)

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, F) -> Output(embedding (B, F * number of statistics), None).

        A clip of padding only gives zeros.
        """
        weight = frame_mask(x, self.mean, self.std)
        count = weight.sum(dim=2).clamp(min=1)  # (B, 1, 1)
        mean = (weight * x).sum(dim=2) / count  # (B, 1, F)
        values = {"mean": mean}
        if "std" in self.statistics:
            squares = weight * (x - mean[:, :, None]).square()
            values["std"] = (squares.sum(dim=2) / count).sqrt()
        if "max" in self.statistics:
            audible = x.masked_fill(weight == 0, -torch.inf).amax(dim=2)
            values["max"] = audible.where(weight.amax(dim=2) > 0, 0)
        embedding = torch.cat([values[name] for name in self.statistics], dim=1)
        return Output(embedding.flatten(1), None)
