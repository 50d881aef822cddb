"""VGGish (Hershey et al. 2017), trained on YouTube's videos: 128 values per patch of 0.96 s."""

import torch
from torch import nn
from torch.nn import functional

from ..registry import unknown
from .output import Output, pooled_segments

PATCH = 96  # frames
MELS = 64
EMBED_DIM = 128
EMBEDDINGS = ("mean", "patches")
# Of features.logmel_vggish. Another input is brought to the same range by its own statistics.
MEAN = -1.2
STD = 1.7


class VGGish(nn.Module):
    """VGGish over patches of 96 x 64 log-mels (`features.logmel_vggish`), 72,141,184 parameters.

    The embedding is the last layer, after its ReLU. The whitening and the quantisation to 8 bits
    that AudioSet's and OpenMIC's VGGish have gone through are left out. There are no source
    classes.

    Args:
        frames, mels: size of the input (T, F). The frames after the last whole patch are left out.
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        embedding: the "mean" over all patches, or that of each of the "patches".
        steps: the embedding is that of a teacher instead: in each of this many parts of the clip,
            the mean of the patches that overlap it; None: as above.

    Raises:
        ValueError: an unknown embedding, another number of bands, less than one patch, or `steps`
            out of range.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 998,
        mels: int = MELS,
        mean: float = MEAN,
        std: float = STD,
        embedding: str = "mean",
        steps: int | None = None,
    ):
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise ValueError(unknown("embedding of vggish", embedding, EMBEDDINGS))
        if mels != MELS or frames < PATCH:
            raise ValueError(
                f"vggish: input of {frames} frames and {mels} bands; expected at least {PATCH} "
                f"frames and {MELS} bands, as the feature logmel_vggish has them"
            )
        if steps is not None and not 1 <= steps <= frames:
            raise ValueError(f"vggish: steps {steps}; expected from 1 to {frames}")
        self.mean = mean
        self.std = std
        self.embed_dim = EMBED_DIM
        count = frames // PATCH
        self.steps = steps
        if steps is None and embedding == "patches":
            self.steps = count
        if self.steps is not None:
            self.segments = pooled_segments(PATCH * count, self.steps)
        self.features = nn.Sequential(
            *_convolution(1, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 128),
            nn.MaxPool2d(2),
            *_convolution(128, 256),
            *_convolution(256, 256),
            nn.MaxPool2d(2),
            *_convolution(256, 512),
            *_convolution(512, 512),
            nn.MaxPool2d(2),
        )
        self.embeddings = nn.Sequential(
            nn.Linear(PATCH // 16 * MELS // 16 * 512, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, EMBED_DIM),
            nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, 64) normalised -> Output(embedding (B, 128), None).

        With patches or steps, Output(embedding (B, 128, patches or steps), None).
        """
        patches = (x * (2 * STD) + MEAN).unfold(2, PATCH, PATCH)  # (B, 1, N, F, 96)
        patches = patches.permute(0, 2, 1, 4, 3)
        maps = self.features(patches.flatten(0, 1))
        values = self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # channels last
        embeddings = values.unflatten(0, patches.shape[:2]).transpose(1, 2)
        if self.steps is None:
            return Output(embeddings.mean(dim=2), None)
        return Output(functional.adaptive_avg_pool1d(embeddings, self.steps), None)


def _convolution(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
