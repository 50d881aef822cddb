"""Input of PANNs' CNN14 (Kong et al. 2020): log-mel powers of 64 bands in frames of 10 ms."""

from typing import Any

import torch
from torch.nn import functional

from ..audio import CLIP_SECONDS
from .spectrogram import Spectrogram
from .spectrum import check_waveforms, magnitudes, slaney_edges, slaney_filters

SAMPLE_RATE = 32_000
FFT = 1024  # samples per frame
HOP = 320  # samples between frames
BINS = 64
LOWEST_HZ = 50.0  # lower edge of the first band
HIGHEST_HZ = 14_000.0  # upper edge of the last band
LEAST = 1e-10  # power that counts as silence
SILENCE_DB = -100.0
MOST_FRAMES = 100_000


class PannsMel(Spectrogram):
    """Decibels of mel powers of 32 kHz waveforms, cut or padded with silence to `frames`.

    Ten seconds give 1,001 frames. Frames are centred, and the waveform is reflected at its ends.

    Args:
        frames: length of the output.
        seconds, hop_s: see `audio.Window`.

    Raises:
        ValueError: `frames` is out of range.
    """

    sample_rate = SAMPLE_RATE
    mean = -35.0  # over music, roughly; CNN14 brings its own statistics
    std = 23.0
    bins = BINS
    frames_per_second = SAMPLE_RATE / HOP

    def __init__(
        self, frames: int = 1001, seconds: float = CLIP_SECONDS, hop_s: float | None = None
    ):
        super().__init__()
        if not 1 <= frames <= MOST_FRAMES:
            raise ValueError(f"panns_mel: frames {frames}; expected from 1 to {MOST_FRAMES}")
        self.frames = frames
        self.seconds = seconds
        self.hop_s = hop_s
        self.hz = slaney_edges(SAMPLE_RATE, BINS, LOWEST_HZ, HIGHEST_HZ)[1:-1]  # of the bands
        filters = slaney_filters(SAMPLE_RATE, FFT, BINS, LOWEST_HZ, HIGHEST_HZ)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def spec(self) -> dict[str, Any]:
        """Return the settings that determine the values."""
        return {
            "feature": "panns_mel",
            "version": 1,
            "frames": self.frames,
            "sample_rate": SAMPLE_RATE,
            "fft": FFT,
            "hop": HOP,
            "bins": BINS,
            "decoder": "FFmpeg",
            "resampler": "soxr HQ",
        }

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, N) float32 waveforms at 32 kHz -> (B, 1, frames, 64) float32.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        check_waveforms("panns_mel", waveforms)
        lacking = FFT // 2 + 1 - waveforms.shape[1]  # what a reflection needs
        waveforms = functional.pad(waveforms, (0, max(0, lacking)))
        power = magnitudes(waveforms, self.window, HOP, pad_mode="reflect").square()
        decibels = self.from_power(power @ self.filters)[:, : self.frames]
        padding = self.frames - decibels.shape[1]
        return functional.pad(decibels, (0, 0, 0, padding), value=SILENCE_DB)[:, None]

    def to_power(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the power of each cell."""
        return 10 ** (log_mel / 10)

    def from_power(self, power: torch.Tensor) -> torch.Tensor:
        """Undo `to_power`; powers below 1e-10 are silence."""
        return 10 * power.clamp_min(LEAST).log10()
