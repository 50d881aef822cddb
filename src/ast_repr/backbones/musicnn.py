"""musicnn: a tagger with musically motivated convolutions (Pons and Serra 2019).

Weights trained on the Million Song Dataset or MagnaTagATune come with the authors' package;
`musicnn_weights` converts them. The input is cut into overlapping patches of three seconds whose
outputs are averaged. Every BatchNorm keeps the statistics that it was trained with.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ..registry import unknown
from .output import Output, pooled_segments

PATCH = 187  # frames, three seconds
MELS = 96
# Channels, frames and bands of the first filters: timbre, then tempo.
FILTERS = ((204, 7, 38), (204, 7, 67), (51, 128, 1), (51, 64, 1), (51, 32, 1))
FRONT = sum(channels for channels, _, _ in FILTERS)
MID = 64  # channels of each of the three layers between
POOLED = 2 * (FRONT + 3 * MID)
PENULTIMATE = 200
EPS = 1e-3  # of every BatchNorm
EMBEDDINGS = {"penultimate": PENULTIMATE, "pooled": POOLED}


class Musicnn(nn.Module):
    """musicnn over log-mels of 96 bands (`features.musicnn_mel`), 787,159 parameters.

    Args:
        frames, mels: size of the input (T, F).
        mean, std: of the log-mel; the network gets (x - mean) / (2 std).
        embedding: "pooled", maximum and mean over time of the front and middle layers, normalised
            as the next layer gets them (1,506 values), or "penultimate", the last layer before the
            tags (200).
        n_source: number of tags.
        steps: the embedding is that of a teacher instead: the front and middle layers over the
            whole input, averaged over time in this many steps (753 values each); None: as above.

    Raises:
        ValueError: an unknown embedding, another number of bands, less than one patch, or `steps`
            out of range.
    """

    def __init__(
        self,
        frames: int = 626,
        mels: int = MELS,
        mean: float = 0.0,
        std: float = 0.5,
        embedding: str = "pooled",
        n_source: int = 50,
        steps: int | None = None,
    ):
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise ValueError(unknown("embedding of musicnn", embedding, EMBEDDINGS))
        if mels != MELS or frames < PATCH:
            raise ValueError(
                f"musicnn: input of {frames} frames and {mels} bands; expected at least {PATCH} "
                f"frames and {MELS} bands, as the feature musicnn_mel has them"
            )
        if steps is not None and not 1 <= steps <= frames:
            raise ValueError(f"musicnn: steps {steps}; expected from 1 to {frames}")
        self.dims = {"frames": frames, "mels": mels, "embedding": embedding, "n_source": n_source}
        self.mean = mean
        self.std = std
        self.embedding = embedding
        self.steps = steps
        if steps is not None:
            self.segments = pooled_segments(frames, steps)
        self.embed_dim = EMBEDDINGS[embedding] if steps is None else POOLED // 2
        self.n_source = n_source
        self.starts = _patch_starts(frames)
        self.input_norm = BatchNorm(1)
        self.front = nn.ModuleList(MaxOverBands(*sizes) for sizes in FILTERS)
        self.middle = nn.ModuleList(Middle(width) for width in (FRONT, MID, MID))
        self.pool_norm = BatchNorm(POOLED)
        self.dense = nn.Linear(POOLED, PENULTIMATE)
        self.dense_norm = BatchNorm(PENULTIMATE)
        self.source_head = nn.Linear(PENULTIMATE, n_source)

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, 96) normalised log-mel -> Output(embedding (B, D), source_logits (B, S)).

        With `steps`, Output(embedding (B, 753, steps), None).
        """
        log_mel = x * (2 * self.std) + self.mean
        if self.steps is not None:
            return Output(functional.adaptive_avg_pool1d(self.layers(log_mel), self.steps), None)
        patches = torch.stack([log_mel[:, :, s : s + PATCH] for s in self.starts], dim=1)
        pooled, penultimate, logits = self.tag(patches.flatten(0, 1))
        embedding = pooled if self.embedding == "pooled" else penultimate
        count = len(self.starts)
        return Output(
            embedding.unflatten(0, (-1, count)).mean(dim=1),
            logits.unflatten(0, (-1, count)).mean(dim=1),
        )

    def tag(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tag patches of un-normalised log-mel.

        Args:
            patches: (B, 1, T, 96).

        Returns:
            pooled layers, normalised (B, 1506), penultimate layer (B, 200), logits of the tags
            (B, S).
        """
        layers = self.layers(patches)
        pooled = torch.stack([layers.amax(dim=2), layers.mean(dim=2)], dim=2).flatten(1)
        pooled = self.pool_norm(pooled)
        penultimate = self.dense_norm(functional.relu(self.dense(pooled)))
        return pooled, penultimate, self.source_head(penultimate)

    def layers(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Compute the front and middle layers of (B, 1, T, 96) un-normalised: (B, 753, T)."""
        x = self.input_norm(log_mel)
        front = torch.cat([layer(x) for layer in self.front], dim=1)
        first = self.middle[0](front)
        second = self.middle[1](first) + first
        third = self.middle[2](second) + second
        return torch.cat([front, first, second, third], dim=1)


class BatchNorm(nn.Module):
    """BatchNorm that always applies its stored statistics."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> the same shape."""
        scale = self.weight * (self.running_var + EPS).rsqrt()
        offset = self.bias - self.running_mean * scale
        shape = (-1, *[1] * (x.ndim - 2))
        return x * scale.view(shape) + offset.view(shape)


class MaxOverBands(nn.Module):
    """Convolution, ReLU, BatchNorm, and the maximum over the bands that remain.

    ReLU and BatchNorm are monotone, so the maximum is taken before them, which is cheaper. If
    BatchNorm's scale is negative it is a minimum, and the filter changes its sign.

    Args:
        channels: number of filters.
        frames, bands: size of a filter; time is padded as TensorFlow does for "same".
    """

    def __init__(self, channels: int, frames: int, bands: int):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (frames, bands))
        self.conv.to(memory_format=torch.channels_last)  # makes the pooling several times as fast
        self.norm = BatchNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, C, T)."""
        frames = self.conv.kernel_size[0]
        padded = functional.pad(x, (0, 0, (frames - 1) // 2, frames // 2))
        sign = torch.where(self.norm.weight < 0, -1.0, 1.0)
        filters = self.conv.weight * sign[:, None, None, None]
        filtered = _convolve(padded, filters)
        largest = functional.max_pool2d(filtered, (1, filtered.shape[3]))[..., 0]
        return self.norm(functional.relu(largest * sign[:, None] + self.conv.bias[:, None]))


def _convolve(x: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Convolve (B, 1, T, F) with (C, 1, t, f) -> (B, C, T - t + 1, F - f + 1)."""
    if x.device.type == "cpu" and x.requires_grad and not filters.requires_grad:
        return _FrozenConvolution.apply(x, filters)
    return functional.conv2d(x, filters)


class _FrozenConvolution(torch.autograd.Function):
    """A convolution of one channel with frozen filters.

    Its gradient is a product of matrices, which on a CPU takes 0.4 of the time of PyTorch's in
    bfloat16 and 0.6 in float32, summed over the five layers.
    """

    PATCHES = 4  # at once, which bounds the memory

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(filters)
        ctx.size = x.shape[2:]
        return functional.conv2d(x, filters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (filters,) = ctx.saved_tensors
        weights = filters.flatten(1).t().contiguous().to(grad.dtype)
        parts = []
        for part in grad.split(_FrozenConvolution.PATCHES):
            columns = (weights @ part.flatten(2)).float()
            parts.append(functional.fold(columns, ctx.size, filters.shape[2:]))
        return torch.cat(parts), None


class Middle(nn.Module):
    """Convolution over time of all channels, ReLU, BatchNorm."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, MID, 7, padding=3)
        self.norm = BatchNorm(MID)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T) -> (B, 64, T)."""
        return self.norm(functional.relu(self.conv(x)))


def _patch_starts(frames: int) -> list[int]:
    """First frames of the fewest patches that cover the input, evenly spread."""
    count = math.ceil(frames / PATCH)
    if count == 1:
        return [0]
    return [round(k * (frames - PATCH) / (count - 1)) for k in range(count)]
