"""Convolutional networks with a branch per spectrogram (Dahan and Hefetz, a student project).

They are trained from scratch or, with branches of CNN14, from the weights of PANNs (Kong et al.
2020), which `convert_cnn14` reads.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from .. import stft_stack
from ..registry import unknown
from ..stft_stack import BINS, FFTS
from . import weights
from .output import Output

BANDS_HZ = ((0, 1000), (1000, 4000), (4000, 11_025))
SHORTEST = 32  # frames, 8 of the largest FFT: three poolings
# Each spectrogram as (FFT size, band).
SPECTROGRAMS = {
    "all": tuple((fft, band) for fft in FFTS for band in BANDS_HZ),
    "one_per_band": tuple(zip(reversed(FFTS), BANDS_HZ, strict=True)),  # finer, the lower the band
}


class MultiSTFT(nn.Module):
    """A branch per spectrogram, whose outputs are concatenated and, on request, mapped by layers.

    With a linear layer on eleven classes: 850,763 parameters for all nine spectrograms with small
    branches (model 1.0); 8,598,603 for one per band with branches of CNN14 and
    fusion: [1536, 768, 512] (model 2.3).

    Args:
        frames, mels: size of the input, as the feature multi_stft has it.
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        spectrograms: "all", each of three FFT sizes in each of three bands, or "one_per_band": FFT
            1024 below 1 kHz, 512 from 1 to 4 kHz, 256 above.
        branch: "small" (128 outputs) or "cnn14" (512 outputs).
        fusion: widths of the layers over all branches: linear, BatchNorm, ReLU and, except after
            the last, dropout.
        dropout: probability.

    Raises:
        ValueError: an unknown choice of spectrograms or branch, or an input of another feature.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 1036,
        mels: int = BINS,
        mean: float = 0.0,
        std: float = 0.5,
        spectrograms: str = "all",
        branch: str = "small",
        fusion: Sequence[int] = (),
        dropout: float = 0.5,
    ):
        super().__init__()
        if spectrograms not in SPECTROGRAMS:
            raise ValueError(unknown("spectrograms of multi_stft", spectrograms, SPECTROGRAMS))
        if branch not in BRANCHES:
            raise ValueError(unknown("branch of multi_stft", branch, BRANCHES))
        if mels != BINS or frames < SHORTEST or frames % stft_stack.ROWS[-1]:
            raise ValueError(
                f"multi_stft: input of {frames} frames and {mels} bins; expected a multiple of "
                f"{stft_stack.ROWS[-1]} frames from {SHORTEST} on and {BINS} bins, as the feature "
                "multi_stft has them"
            )
        self.mean = mean
        self.std = std
        self.spectrograms = SPECTROGRAMS[spectrograms]
        self.branches = nn.ModuleList(BRANCHES[branch]() for _ in self.spectrograms)
        width = len(self.branches) * self.branches[0].width
        self.fusion = nn.Sequential()
        for number, out in enumerate(fusion, 1):
            self.fusion.extend([nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU()])
            if number < len(fusion):
                self.fusion.append(nn.Dropout(dropout))
            width = out
        self.embed_dim = width
        self.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU, or more

    @property
    def pretrained_modules(self) -> list[nn.Module]:
        """The parts that start from one file of weights, each."""
        return list(self.branches)

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 3, T, 128) -> Output(embedding (B, D), None)."""
        by_fft = dict(zip(FFTS, stft_stack.unfold(x), strict=True))
        outputs = []
        for branch, (fft, band_hz) in zip(self.branches, self.spectrograms, strict=True):
            spectrogram = by_fft[fft][:, None, :, stft_stack.band(fft, *band_hz)]
            outputs.append(branch(spectrogram))
        return Output(self.fusion(torch.cat(outputs, dim=1)), None)


class SmallBranch(nn.Sequential):
    """Three convolutions with BatchNorm and ReLU, two poolings: (B, 1, T, F) -> (B, 128)."""

    width = 128

    def __init__(self):
        super().__init__(
            *_pooled_convolution(1, 32, bias=True),
            *_pooled_convolution(32, 64, bias=True),
            *_convolution(64, 128, bias=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class Cnn14Branch(nn.Sequential):
    """The first convolution and BatchNorm of CNN14's blocks 1 to 4: (B, 1, T, F) -> (B, 512)."""

    width = 512
    dims: dict[str, int] = {}  # none to choose; with mean and std, for `weights.save`
    mean = 0.0
    std = 0.5

    def __init__(self):
        super().__init__(
            *_pooled_convolution(1, 64, bias=False),
            *_pooled_convolution(64, 128, bias=False),
            *_pooled_convolution(128, 256, bias=False),
            *_convolution(256, 512, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def convert_cnn14(source: str | Path, path: str | Path) -> None:
    """Write the part of PANNs' CNN14 that is a `Cnn14Branch`, in the layout of this project.

    Args:
        source: the authors' file, whose sha256 the caller has verified.
        path: the file to write.

    Raises:
        WeightsError: `source` holds something else.
    """
    _, tensors = weights.read(source)
    branch = Cnn14Branch()
    state = {}
    block = 0
    for number, layer in enumerate(branch):
        if isinstance(layer, nn.Conv2d):
            block += 1
        kind = "conv1" if isinstance(layer, nn.Conv2d) else "bn1"
        for name in layer.state_dict():
            theirs = f"conv_block{block}.{kind}.{name}"
            if theirs not in tensors:
                raise weights.WeightsError(f"{source}: no {theirs}; expected PANNs' CNN14")
            state[f"{number}.{name}"] = tensors[theirs]
    branch.load_state_dict(state)
    weights.save(branch, path)


BRANCHES = {"small": SmallBranch, "cnn14": Cnn14Branch}


def _convolution(channels: int, out: int, bias: bool) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1, bias=bias), nn.BatchNorm2d(out), nn.ReLU()]


def _pooled_convolution(channels: int, out: int, bias: bool) -> list[nn.Module]:
    # The same as pooling after the ReLU, which then has a quarter of the cells.
    *layers, relu = _convolution(channels, out, bias)
    return [*layers, nn.MaxPool2d(2), relu]
