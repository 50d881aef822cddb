"""AST's input: Kaldi log-mel energies in frames of 10 ms (Gong et al. 2021, section 2.1).

The classifier normalises the values, by the statistics of its backbone.
"""

from typing import Any

import torch

from ..audio import CLIP_SECONDS, SAMPLE_RATE
from .spectrogram import Spectrogram
from .spectrum import check_waveforms, htk_centres, htk_filters

FRAME_SHIFT_MS = 10.0
FRAME_LENGTH_MS = 25.0  # 400 samples
FFT = 512  # samples of a frame, zero-padded
PREEMPHASIS = 0.97
MOST_FRAMES = 100_000
BINS = range(4, FFT // 2)  # possible numbers of bands
LOWEST_HZ = 20.0  # lower edge of the first band
HIGHEST_HZ = SAMPLE_RATE / 2  # upper edge of the last band
FLOOR = torch.finfo(torch.float32).eps  # least energy


class LogMel(Spectrogram):
    """Kaldi log-mel of 16 kHz waveforms, cut or zero-padded along time to a fixed number of frames.

    Ten seconds give 998 frames; the rest of AST's 1024 are zeros, as in its own loader. Zero is not
    silence on this scale (silence is -15.94), but the pre-trained weights expect it as padding.

    Args:
        frames, bins: size of the output.
        seconds, hop_s: see `audio.Window`.

    Raises:
        ValueError: frames or bins are out of range.
    """

    mean = -4.2677393  # over AudioSet, from AST's recipe
    std = 4.5689974

    def __init__(
        self,
        frames: int = 1024,
        bins: int = 128,
        seconds: float = CLIP_SECONDS,
        hop_s: float | None = None,
    ):
        super().__init__()
        if not 1 <= frames <= MOST_FRAMES or bins not in BINS:
            raise ValueError(
                f"logmel: frames {frames}, bins {bins}; "
                f"expected from 1 to {MOST_FRAMES} and from {BINS[0]} to {BINS[-1]}"
            )
        self.frames = frames
        self.frames_per_second = 1000 / FRAME_SHIFT_MS
        self.bins = bins
        self.seconds = seconds
        self.hop_s = hop_s
        self.hz = htk_centres(bins, LOWEST_HZ, HIGHEST_HZ)
        self.shift = round(FRAME_SHIFT_MS * SAMPLE_RATE / 1000)
        self.length = round(FRAME_LENGTH_MS * SAMPLE_RATE / 1000)
        window = torch.hann_window(self.length, periodic=False)
        banks = htk_filters(SAMPLE_RATE, FFT, bins, LOWEST_HZ, HIGHEST_HZ)
        self.register_buffer("banks", banks, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def spec(self) -> dict[str, Any]:
        """Return the settings that determine the values."""
        return {
            "feature": "logmel",
            "version": 2,
            "frames": self.frames,
            "bins": self.bins,
            "sample_rate": SAMPLE_RATE,
            "frame_length_ms": FRAME_LENGTH_MS,
            "frame_shift_ms": FRAME_SHIFT_MS,
            "window": "hanning",
            "decoder": "FFmpeg",
            "resampler": "soxr HQ",
        }

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, N) waveforms at 16 kHz -> (B, 1, frames, bins) natural logarithms of mel energies.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        check_waveforms("logmel", waveforms)
        log_mels = waveforms.new_zeros(len(waveforms), 1, self.frames, self.bins)
        for log_mel, waveform in zip(log_mels, waveforms, strict=True):
            energies = self._fbank(waveform - waveform.mean())[: self.frames]
            log_mel[0, : len(energies)] = energies
        return log_mels

    def to_power(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Return the power of each cell; that of padding, which is 0, is 0."""
        return torch.where(log_mel == 0, 0.0, log_mel.exp())

    def from_power(self, power: torch.Tensor) -> torch.Tensor:
        """Undo `to_power`."""
        return torch.where(power == 0, 0.0, power.clamp_min(FLOOR).log())

    def _fbank(self, waveform: torch.Tensor) -> torch.Tensor:
        """(N,) -> (M, bins), bit-equal to torchaudio.compliance.kaldi.fbank with AST's settings."""
        if len(waveform) < self.length:
            return waveform.new_zeros(0, self.bins)  # not one whole frame
        frames = waveform.unfold(0, self.length, self.shift)
        frames = frames - frames.mean(dim=1, keepdim=True)
        before = PREEMPHASIS * frames
        frames[:, 1:] -= before[:, :-1]
        frames[:, 0] -= before[:, 0]
        power = torch.fft.rfft(frames.mul_(self.window), FFT).abs().square_()
        return (power @ self.banks).clamp_min_(FLOOR).log_()
