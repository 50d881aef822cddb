"""The VGGish-like network: its log-mel against the published formula, the network layer by layer."""

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from ast_repr import features

RATE = 16_000


def published_log_mel(waveform):
    """Compute the log-mel of the authors' mel_features.py, with Kaldi's filters."""
    starts = range(0, len(waveform) - 399, 160)
    frames = np.stack([waveform[start : start + 400] for start in starts])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    magnitudes = np.abs(np.fft.rfft(frames * window, 512))
    filters, _ = kaldi.get_mel_banks(64, 512, RATE, 125.0, 7500.0, 100.0, -500.0, 1.0)
    return np.log(magnitudes[:, :256] @ filters.numpy().T + 0.01)


def test_the_log_mel_is_the_published_one():
    waveform = np.random.default_rng(0).normal(0, 0.1, 10 * RATE).astype(np.float32)
    result = features.build("logmel_vggish")(torch.from_numpy(waveform)[None])
    assert result.shape == (1, 1, 998, 64)
    np.testing.assert_allclose(result[0, 0], published_log_mel(waveform), rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [0, 399, 8_000])
def test_silence_follows_a_short_waveform(samples):
    feature = features.build("logmel_vggish", seconds=1.0)
    result = feature(torch.full((2, samples), 0.5))
    frames = (samples - 240) // 160
    assert result.shape == (2, *feature.shape) == (2, 1, 98, 64)
    assert (result[:, :, frames:] == np.float32(np.log(0.01))).all()
