"""Input of the ConvNet of Han, Kim and Lee (2016): log-mel magnitudes in frames of 23 ms."""

from typing import Any

import torch

from .spectrogram import Spectrogram
from .spectrum import check_waveforms, magnitudes, slaney_edges, slaney_filters

SAMPLE_RATE = 22_050
FFT = 1024  # samples per frame
HOP = 512  # samples between frames
BINS = 128
FLOOR = 1e-7  # least magnitude
SHORTEST_S = 0.1
LONGEST_S = 1_000.0


class HanMel(Spectrogram):
    """Natural logarithms of mel magnitudes of 22.05 kHz waveforms, each divided by its peak.

    The authors cut excerpts into windows of one second. They normalise an excerpt before it is cut;
    here each window is normalised.

    Args:
        seconds: length of a window; one second gives 43 frames.
        hop_s: seconds from one window of a longer clip to the next; default: the length.

    Raises:
        ValueError: `seconds` is out of range.
    """

    sample_rate = SAMPLE_RATE
    mean = -4.0  # over music, roughly
    std = 2.0
    bins = BINS
    frames_per_second = SAMPLE_RATE / HOP

    def __init__(self, seconds: float = 1.0, hop_s: float | None = None):
        super().__init__()
        if not SHORTEST_S <= seconds <= LONGEST_S:
            raise ValueError(
                f"han_mel: seconds {seconds:g}; expected from {SHORTEST_S} to {LONGEST_S:g}"
            )
        self.seconds = seconds
        self.hop_s = hop_s
        self.hz = slaney_edges(SAMPLE_RATE, BINS)[1:-1]  # of the bands
        self.frames = round(seconds * SAMPLE_RATE) // HOP
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)
        self.register_buffer("filters", slaney_filters(SAMPLE_RATE, FFT, BINS), persistent=False)

    def spec(self) -> dict[str, Any]:
        """Return the settings that determine the values."""
        return {
            "feature": "han_mel",
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
        """(B, N) float32 waveforms at 22.05 kHz -> (B, 1, frames, 128) float32.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        check_waveforms("han_mel", waveforms)
        peak = waveforms.abs().amax(dim=1, keepdim=True)
        spectra = magnitudes(waveforms / peak.where(peak > 0, 1.0), self.window, HOP)
        mels = (spectra @ self.filters)[:, : self.frames]
        out = waveforms.new_full((len(waveforms), *self.shape), FLOOR)
        out[:, 0, : mels.shape[1]] = mels
        return out.clamp_min_(FLOOR).log_()

    def to_power(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the square of each cell's magnitude."""
        return (2 * log_mel).exp()

    def from_power(self, power: torch.Tensor) -> torch.Tensor:
        """Undo `to_power`; a waveform's peak, which is 1, may have changed with the power."""
        return power.sqrt().clamp_min(FLOOR).log()
