"""Input of musicnn: log-mel energies of 96 bands in frames of 16 ms (Pons and Serra 2019).

The authors' package rounds the energies to float16, in which loud music overflows; here they stay
float32.
"""

import torch

from ..audio import CLIP_SECONDS, SAMPLE_RATE
from .spectrogram import Spectrogram
from .spectrum import check_waveforms, magnitudes, slaney_edges, slaney_filters

FFT = 512  # samples per frame
HOP = 256  # samples between frames
BINS = 96
GAIN = 10_000.0  # log10(1 + GAIN * energy)
MOST_FRAMES = 100_000


class MusicnnMel(Spectrogram):
    """log10(1 + 10,000 mel energy) of 16 kHz waveforms, cut or zero-padded to `frames`.

    Ten seconds give 626 frames. Zero is silence.

    Args:
        frames: length of the output.
        seconds, hop_s: see `audio.Window`.

    Raises:
        ValueError: `frames` is out of range.
    """

    mean, std = 0.9, 0.75  # over music, roughly; musicnn brings its own statistics
    bins = BINS
    frames_per_second = SAMPLE_RATE / HOP

    def __init__(
        self, frames: int = 626, seconds: float = CLIP_SECONDS, hop_s: float | None = None
    ):
        super().__init__()
        if not 1 <= frames <= MOST_FRAMES:
            raise ValueError(f"musicnn_mel: frames {frames}; expected from 1 to {MOST_FRAMES}")
        self.frames = frames
        self.seconds = seconds
        self.hop_s = hop_s
        self.hz = slaney_edges(SAMPLE_RATE, BINS)[1:-1]  # of the bands
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)
        self.register_buffer("filters", slaney_filters(SAMPLE_RATE, FFT, BINS), persistent=False)

    def spec(self) -> dict:
        """Return the settings that determine the values."""
        return {
            "feature": "musicnn_mel",
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
        """(B, N) float32 waveforms at 16 kHz -> (B, 1, frames, 96) float32.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        check_waveforms("musicnn_mel", waveforms)
        out = waveforms.new_zeros(len(waveforms), 1, self.frames, BINS)
        power = magnitudes(waveforms, self.window, HOP).square()
        energies = (power @ self.filters)[:, : self.frames]
        out[:, 0, : energies.shape[1]] = (GAIN * energies + 1).log10()
        return out

    def to_power(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the power of each cell."""
        return (10**log_mel - 1) / GAIN

    def from_power(self, power: torch.Tensor) -> torch.Tensor:
        """Undo `to_power`."""
        return (GAIN * power + 1).log10()
