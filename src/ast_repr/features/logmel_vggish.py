"""The log-mel of VGGish (Hershey et al. 2017): 64 bands from 125 to 7,500 Hz, frames of 10 ms."""

from typing import Any

import torch

from ..audio import CLIP_SECONDS, SAMPLE_RATE
from .spectrogram import Spectrogram
from .spectrum import check_waveforms, htk_centres, htk_filters

LENGTH = 400  # samples per frame
HOP = 160  # samples between frames
FFT = 512  # samples of a frame, zero-padded
BINS = 64
LOWEST_HZ = 125.0  # lower edge of the first band
HIGHEST_HZ = 7500.0  # upper edge of the last band
OFFSET = 0.01  # log(mel + OFFSET)
SHORTEST_S = 0.1
LONGEST_S = 1_000.0


class VGGishLogMel(Spectrogram):
    """Natural logarithms of mel magnitudes of 16 kHz waveforms, as VGGish computes them.

    VGGish reads patches of 96 frames, see `backbones.vggish` and `backbones.vggish_convnet`.

    Args:
        frames: the first ones that are kept; default: all.
        seconds: length of the waveforms; ten give 998 frames.
        hop_s: seconds from one window of a longer clip to the next; default: the length.

    Raises:
        ValueError: `seconds` or `frames` is out of range.
    """

    mean = -1.2  # over music, roughly
    std = 1.7
    bins = BINS
    frames_per_second = SAMPLE_RATE / HOP

    def __init__(
        self,
        frames: int | None = None,
        seconds: float = CLIP_SECONDS,
        hop_s: float | None = None,
    ):
        super().__init__()
        if not SHORTEST_S <= seconds <= LONGEST_S:
            raise ValueError(
                f"logmel_vggish: seconds {seconds:g}; expected from {SHORTEST_S} to {LONGEST_S:g}"
            )
        self.seconds = seconds
        self.hop_s = hop_s
        self.hz = htk_centres(BINS, LOWEST_HZ, HIGHEST_HZ)
        complete = 1 + (round(seconds * SAMPLE_RATE) - LENGTH) // HOP
        self.frames = complete if frames is None else frames
        if not 1 <= self.frames <= complete:
            raise ValueError(f"logmel_vggish: frames {frames}; expected from 1 to {complete}")
        filters = htk_filters(SAMPLE_RATE, FFT, BINS, LOWEST_HZ, HIGHEST_HZ)
        self.register_buffer("window", torch.hann_window(LENGTH), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def spec(self) -> dict[str, Any]:
        """Return the settings that determine the values."""
        return {
            "feature": "logmel_vggish",
            "version": 1,
            "frames": self.frames,
            "sample_rate": SAMPLE_RATE,
            "length": LENGTH,
            "hop": HOP,
            "bins": BINS,
            "decoder": "FFmpeg",
            "resampler": "soxr HQ",
        }

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, N) float32 waveforms at 16 kHz -> (B, 1, frames, 64) float32.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        check_waveforms("logmel_vggish", waveforms)
        mels = waveforms.new_zeros(len(waveforms), *self.shape)
        if waveforms.shape[1] >= LENGTH:
            frames = waveforms.unfold(1, LENGTH, HOP)[:, : self.frames]
            spectra = torch.fft.rfft(frames * self.window, FFT).abs()
            mels[:, 0, : frames.shape[1]] = spectra @ self.filters
        return mels.add_(OFFSET).log_()

    def to_power(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the square of each cell's magnitude."""
        return (log_mel.exp() - OFFSET).clamp_min(0.0).square()

    def from_power(self, power: torch.Tensor) -> torch.Tensor:
        """Undo `to_power`."""
        return (power.sqrt() + OFFSET).log()
