"""No source model: statistics over time, which is all that a random forest sees of a clip (OpenMIC-2018's baseline)."""

from collections.abc import Sequence

import torch
from torch import nn

from ..rooms import unknown
from .output import Output
from .padding import heard

STATISTICS = ("mean", "std")


class Summary(nn.Module):
    """Mean, or mean and standard deviation, of each bin over the frames that are not padding. No parameters.

    Args:
        frames, mels: size of the input (T, F).
        mean, std: of the feature, for (x - mean) / (2 std).
        statistics: "mean" and "std" (of the population), in the order of the embedding.

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
        self.statistics, self.mean, self.std = tuple(statistics), mean, std
        self.embed_dim = mels * len(statistics)

    def forward(self, x):
        """(B, 1, T, F) -> Output(embedding (B, F * number of statistics), None); zeros for a clip of nothing but padding."""
        weight = heard(x, self.mean, self.std)
        count = weight.sum(dim=2).clamp(min=1)  # (B, 1, 1)
        mean = (weight * x).sum(dim=2) / count  # (B, 1, F)
        found = {"mean": mean}
        if "std" in self.statistics:
            found["std"] = ((weight * (x - mean[:, :, None]).square()).sum(dim=2) / count).sqrt()
        return Output(torch.cat([found[name] for name in self.statistics], dim=1).flatten(1), None)
