"""AST's input: Kaldi log-mel energies, 10 ms frames, 128 bands (Gong et al. 2021, section 2.1). Not normalised here."""

import torch
from torch import nn
from torch.nn import functional
from torchaudio.compliance import kaldi

from ..audio import SAMPLE_RATE

FRAME_SHIFT_MS = 10.0  # 100 frames a second
FRAME_LENGTH_MS = 25.0  # 400 samples
FFT = 512  # a frame's samples, zero-padded
PREEMPHASIS = 0.97
LOWEST_HZ = 20.0  # where the first band begins
FLOOR = torch.finfo(torch.float32).eps  # of an energy


class LogMel(nn.Module):
    """Kaldi log-mel of 16 kHz waveforms, cut or zero-padded along time to a fixed number of frames.

    Ten seconds give 998 frames; the rest of AST's 1024 are zeros, as in its own loader. Zero is not silence in
    this scale (silence is -15.94), but it is what the pre-trained weights know as padding.
    """

    mean, std = -4.2677393, 4.5689974  # over AudioSet, from AST's recipe

    def __init__(self, frames=1024, bins=128):
        super().__init__()
        self.frames = frames
        self.bins = bins
        self.shift, self.length = (
            round(ms * SAMPLE_RATE / 1000) for ms in (FRAME_SHIFT_MS, FRAME_LENGTH_MS)
        )
        banks, _ = kaldi.get_mel_banks(
            bins, FFT, SAMPLE_RATE, LOWEST_HZ, 0.0, 100.0, -500.0, 1.0
        )  # to half the rate, without warping
        self.register_buffer(
            "banks", functional.pad(banks, (0, 1)).T, persistent=False
        )  # (257, bins)
        self.register_buffer(
            "window", torch.hann_window(self.length, periodic=False), persistent=False
        )

    def spec(self):
        """What decides the values: hashed into a feature store so that a stale one is refused."""
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

    @property
    def shape(self):
        """Shape of one clip's feature: (channels, frames, bins)."""
        return (1, self.frames, self.bins)

    @torch.no_grad()
    def forward(self, waveforms):
        """(B, N) float32 waveforms at 16 kHz -> (B, 1, frames, bins) float32 natural-log mel energies.

        Raises:
            ValueError: `waveforms` is not two-dimensional.
        """
        if waveforms.ndim != 2:
            raise ValueError(
                f"logmel expects waveforms of shape (B, N), found {tuple(waveforms.shape)}"
            )
        out = waveforms.new_zeros(len(waveforms), 1, self.frames, self.bins)
        for row, waveform in zip(out, waveforms):
            energies = self._fbank(waveform - waveform.mean())[: self.frames]
            row[0, : len(energies)] = energies
        return out

    def _fbank(self, waveform):
        """(N,) -> (M, bins), as torchaudio.compliance.kaldi.fbank without the parts that AST does not use, to the bit."""
        if len(waveform) < self.length:
            return waveform.new_zeros(0, self.bins)  # not one whole frame
        frames = waveform.unfold(0, self.length, self.shift)
        frames = frames - frames.mean(dim=1, keepdim=True)
        before = PREEMPHASIS * frames
        frames[:, 1:] -= before[:, :-1]
        frames[:, 0] -= before[:, 0]
        power = torch.fft.rfft(frames.mul_(self.window), FFT).abs().square_()
        return (power @ self.banks).clamp_min_(FLOOR).log_()
