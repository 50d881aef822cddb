"""Magnitude spectrograms of three FFT sizes, in decibels below the loudest cell of each.

The input of a student project's networks (Dahan and Hefetz), whose librosa code this follows:
power_to_db(magnitude, ref=max), so that a decibel here is two of sound pressure level.
"""

from typing import Any

import torch
from torch import nn

from .. import stft_stack
from ..stft_stack import BINS, FFTS, ROWS, SAMPLE_RATE
from .spectrum import RANGE_DB, check_waveforms, magnitudes, relative_decibels, warp

SHORTEST_S = 0.1
LONGEST_S = 1_000.0


class MultiSTFT(nn.Module):
    """Spectrograms of FFT size 256, 512 and 1024 of 22.05 kHz waveforms, see `stft_stack`.

    Args:
        seconds: length of the waveforms; three give 1,036 frames, which are rows 64 samples apart.
        hop_s: seconds from one window of a longer clip to the next; default: the length.

    Raises:
        ValueError: `seconds` is out of range.
    """

    sample_rate = SAMPLE_RATE
    mean = -28.0  # over music, roughly
    std = 9.0
    bins = BINS

    def __init__(self, seconds: float = 3.0, hop_s: float | None = None):
        super().__init__()
        if not SHORTEST_S <= seconds <= LONGEST_S:
            raise ValueError(
                f"multi_stft: seconds {seconds:g}; expected from {SHORTEST_S} to {LONGEST_S:g}"
            )
        self.seconds = seconds
        self.hop_s = hop_s
        longest_hop = FFTS[-1] // 4
        self.frames = ROWS[-1] * (1 + round(seconds * SAMPLE_RATE) // longest_hop)
        for fft in FFTS:
            self.register_buffer(f"window_{fft}", torch.hann_window(fft), persistent=False)

    def spec(self) -> dict[str, Any]:
        """Return the settings that determine the values."""
        return {
            "feature": "multi_stft",
            "version": 1,
            "frames": self.frames,
            "sample_rate": SAMPLE_RATE,
            "ffts": list(FFTS),
            "range_db": RANGE_DB,
            "decoder": "FFmpeg",
            "resampler": "soxr HQ",
        }

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one clip's feature: (channels, frames, bins)."""
        return (len(FFTS), self.frames, BINS)

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, N) waveforms at 22.05 kHz -> (B, 3, frames, 128) decibels from -80 to 0.

        What follows the end of the waveforms, and all of a digital silence, is at -80.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        check_waveforms("multi_stft", waveforms)
        stack = waveforms.new_full((len(waveforms), *self.shape), -RANGE_DB)
        for channel, fft in enumerate(FFTS):
            spectra = magnitudes(waveforms, self.get_buffer(f"window_{fft}"), fft // 4)
            rows = stft_stack.fold(relative_decibels(spectra)[..., :-1])[:, : self.frames]
            stack[:, channel, : rows.shape[1]] = rows
        return stack

    def to_power(self, decibels: torch.Tensor) -> torch.Tensor:
        """Return the power of each cell, relative to the loudest of its FFT size."""
        return 10 ** (decibels / 5)

    def from_power(self, power: torch.Tensor) -> torch.Tensor:
        """Undo `to_power`, relative to the loudest cells of these powers."""
        return relative_decibels(power.sqrt())

    def warp(self, power: torch.Tensor, rates: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
        """Change tempo and pitch, see `spectrum.warp`."""
        channels = []
        for spectrogram in stft_stack.unfold(power):
            bins = torch.arange(spectrogram.shape[2], dtype=torch.float64)
            warped = warp(spectrogram[:, None], rates, ratios, bins)
            channels.append(stft_stack.fold(warped))
        return torch.stack(channels, dim=1)
