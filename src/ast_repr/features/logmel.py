"""AST's input: Kaldi log-mel energies, 10 ms frames, 128 bands (Gong et al. 2021, section 2.1). Not normalised here."""

import torch
from torch import nn
from torchaudio.compliance import kaldi

from ..audio import SAMPLE_RATE

FRAME_SHIFT_MS = 10.0  # 100 frames a second
FRAME_LENGTH_MS = 25.0  # 400 samples, zero-padded to 512 for the FFT


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

    def spec(self):
        """What decides the values: hashed into a feature store so that a stale one is refused."""
        return {
            "feature": "logmel", "version": 1, "frames": self.frames, "bins": self.bins, "sample_rate": SAMPLE_RATE,
            "frame_length_ms": FRAME_LENGTH_MS, "frame_shift_ms": FRAME_SHIFT_MS, "window": "hanning", "resampler": "soxr HQ",
        }  # fmt: skip

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
            raise ValueError(f"logmel expects waveforms of shape (B, N), found {tuple(waveforms.shape)}")
        out = waveforms.new_zeros(len(waveforms), 1, self.frames, self.bins)
        for row, waveform in zip(out, waveforms):
            energies = self._fbank(waveform - waveform.mean())[: self.frames]
            row[0, : len(energies)] = energies
        return out

    def _fbank(self, waveform):
        if len(waveform) < FRAME_LENGTH_MS * SAMPLE_RATE / 1000:
            return waveform.new_zeros(0, self.bins)  # not one whole frame, which kaldi.fbank refuses
        return kaldi.fbank(
            waveform[None], sample_frequency=SAMPLE_RATE, num_mel_bins=self.bins, htk_compat=True, use_energy=False,
            window_type="hanning", dither=0.0, frame_length=FRAME_LENGTH_MS, frame_shift=FRAME_SHIFT_MS,
        )  # fmt: skip
