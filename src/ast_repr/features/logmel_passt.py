"""The log-mel of PaSST (Koutini et al. 2022): 128 bands up to 15 kHz, frames of 10 ms at 32 kHz."""

from typing import Any

import torch

from ..audio import CLIP_SECONDS
from .spectrogram import Spectrogram
from .spectrum import check_waveforms, htk_centres, htk_filters

SAMPLE_RATE = 32_000
LENGTH = 800  # samples per frame
HOP = 320  # samples between frames
FFT = 1024  # samples of a frame, zero-padded
PREEMPHASIS = 0.97
BINS = 128
LOWEST_HZ = 0.0  # lower edge of the first band
HIGHEST_HZ = 15_000.0  # upper edge of the last band; the authors vary both edges in training only
OFFSET = 1e-5  # log(mel + OFFSET)
SHORTEST = FFT // 2 + 2  # samples: pre-emphasis takes one, and the rest is reflected
MOST_FRAMES = 100_000


class PaSSTLogMel(Spectrogram):
    """Natural logarithms of mel energies of 32 kHz waveforms, as PaSST computes them.

    Unlike in AST's `logmel`, pre-emphasis is applied to the whole waveform, frames are centred on
    multiples of the hop with the ends reflected, no mean is subtracted, and an offset takes the
    place of the least energy. Silence, log(1e-5), follows a waveform that is too short. The
    authors' (x + 4.5) / 5 is left to the classifier, as (x - mean) / (2 std).

    Args:
        frames: length of the output. Ten seconds give 1,000, of which PaSST's patches read 996.
        seconds, hop_s: see `audio.Window`.

    Raises:
        ValueError: `frames` is out of range.
    """

    sample_rate = SAMPLE_RATE
    mean = -4.5
    std = 2.5
    bins = BINS
    frames_per_second = SAMPLE_RATE / HOP

    def __init__(
        self, frames: int = 998, seconds: float = CLIP_SECONDS, hop_s: float | None = None
    ):
        super().__init__()
        if not 1 <= frames <= MOST_FRAMES:
            raise ValueError(f"logmel_passt: frames {frames}; expected from 1 to {MOST_FRAMES}")
        self.frames = frames
        self.seconds = seconds
        self.hop_s = hop_s
        self.hz = htk_centres(BINS, LOWEST_HZ, HIGHEST_HZ)
        filters = htk_filters(SAMPLE_RATE, FFT, BINS, LOWEST_HZ, HIGHEST_HZ)
        window = torch.hann_window(LENGTH, periodic=False)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def spec(self) -> dict[str, Any]:
        """Return the settings that determine the values."""
        return {
            "feature": "logmel_passt",
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
        """(B, N) float32 waveforms at 32 kHz -> (B, 1, frames, 128) float32.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        check_waveforms("logmel_passt", waveforms)
        mels = waveforms.new_zeros(len(waveforms), *self.shape)
        if waveforms.shape[1] >= SHORTEST:
            emphasised = waveforms[:, 1:] - PREEMPHASIS * waveforms[:, :-1]
            spectra = torch.stft(emphasised, FFT, HOP, LENGTH, self.window, return_complex=True)
            power = spectra.abs().square().transpose(1, 2)[:, : self.frames]
            mels[:, 0, : power.shape[1]] = power @ self.filters
        return mels.add_(OFFSET).log_()

    def to_power(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the power of each cell."""
        return (log_mel.exp() - OFFSET).clamp_min(0.0)

    def from_power(self, power: torch.Tensor) -> torch.Tensor:
        """Undo `to_power`."""
        return (power + OFFSET).log()
