"""CNN14, a tagger of AudioSet's 527 classes (Kong et al. 2020, PANNs)."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .output import Output, pooled_segments

WIDTHS = (1, 64, 128, 256, 512, 1024, 2048)  # channels before and after each block
MELS = 64
FRAMES_PER_STEP = 32  # five poolings by two
FRONT_END = ("spectrogram_extractor.", "logmel_extractor.")  # here it is the feature panns_mel


class Cnn14(nn.Module):
    """CNN14 over log-mels of 64 bands (`features.panns_mel`), 80,753,615 parameters.

    These are the published network's without the 1,083,456 constants of its front end. Its source
    classes are AudioSet's.

    Args:
        frames, mels: size of the input (T, F).
        mean, std: of the log-mel; the network gets (x - mean) / (2 std).
        n_source: number of classes.
        steps: the embedding is that of a teacher: one in each of this many parts of the clip, as
            the network computes it from a whole clip; None: a single one.

    Raises:
        ValueError: another number of bands, less than 32 frames, or `steps` out of range.
    """

    def __init__(
        self,
        frames: int = 1001,
        mels: int = MELS,
        mean: float = 0.0,
        std: float = 0.5,
        n_source: int = 527,
        steps: int | None = None,
    ):
        super().__init__()
        if mels != MELS or frames < FRAMES_PER_STEP:
            raise ValueError(
                f"cnn14: input of {frames} frames and {mels} bands; expected at least "
                f"{FRAMES_PER_STEP} frames and {MELS} bands, as the feature panns_mel has them"
            )
        columns = frames // FRAMES_PER_STEP
        if steps is not None and not 1 <= steps <= columns:
            raise ValueError(f"cnn14: steps {steps}; expected from 1 to {columns}")
        self.mean = mean
        self.std = std
        self.steps = steps
        if steps is not None:
            self.segments = [
                (FRAMES_PER_STEP * first, FRAMES_PER_STEP * last)
                for first, last in pooled_segments(columns, steps)
            ]
        self.embed_dim = WIDTHS[-1]
        self.n_source = n_source
        self.bn0 = nn.BatchNorm2d(mels)
        self.blocks = nn.ModuleList(map(Block, WIDTHS, WIDTHS[1:]))
        self.map_dropout = nn.Dropout(0.2)
        self.fc1 = nn.Linear(self.embed_dim, self.embed_dim)
        self.dropout = nn.Dropout(0.5)
        self.source_head = nn.Linear(self.embed_dim, n_source)

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, 64) normalised log-mel -> Output(embedding (B, 2048), source_logits (B, S)).

        With `steps`, Output(embedding (B, 2048, steps), None).
        """
        log_mel = x * (2 * self.std) + self.mean
        x = self.bn0(log_mel.transpose(1, 3)).transpose(1, 3)
        for block in self.blocks[:-1]:
            x = self.map_dropout(functional.avg_pool2d(block(x), 2))
        columns = self.map_dropout(self.blocks[-1](x)).mean(dim=3)  # (B, 2048, T // 32)
        if self.steps is not None:
            largest = functional.adaptive_max_pool1d(columns, self.steps)
            mean = functional.adaptive_avg_pool1d(columns, self.steps)
            embedding = self.embed((largest + mean).transpose(1, 2))
            return Output(embedding.transpose(1, 2), None)
        embedding = self.embed(columns.amax(dim=2) + columns.mean(dim=2))
        return Output(embedding, self.source_head(embedding))

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """Compute the penultimate layer of pooled columns (..., 2048)."""
        return functional.relu(self.fc1(self.dropout(pooled)))


class Block(nn.Module):
    """Two 3 x 3 convolutions, each with BatchNorm and ReLU."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, F) -> (B, out, T, F)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)))


def rename(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the authors' file under the names of `Cnn14`, without its front end."""
    state = {}
    for name, tensor in tensors.items():
        if not name.startswith(FRONT_END):
            name = re.sub(r"^conv_block(\d)", lambda block: f"blocks.{int(block[1]) - 1}", name)
            state[re.sub("^fc_audioset", "source_head", name)] = tensor
    return state


def header(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Infer the dims, and the statistics of the log-mels that the network was trained on.

    Args:
        state: under the names of `Cnn14`.
    """
    means = state["bn0.running_mean"]
    variances = state["bn0.running_var"]
    return {
        "dims": {"n_source": len(state["source_head.bias"])},
        "mean": means.mean().item(),
        "std": (variances.mean() + means.var(correction=0)).sqrt().item(),
    }
