"""PaSST: its log-mel, against the published code (kkoutini/PaSST)."""

import pytest
import torch
from torch.nn import functional
from torchaudio.compliance import kaldi

from ast_repr import features


def published_log_mel(waveform):
    """(N,) -> (frames, 128), with Kaldi's filters and without the published normalisation."""
    kernel = torch.tensor([[[-0.97, 1.0]]])
    x = functional.conv1d(waveform[None, None], kernel)[0, 0]
    padded = functional.pad(x[None], (512, 512), mode="reflect")[0]
    window = functional.pad(torch.hann_window(800, periodic=False), (112, 112))
    power = torch.fft.rfft(padded.unfold(0, 1024, 320) * window).abs().square()
    filters, _ = kaldi.get_mel_banks(128, 1024, 32_000.0, 0.0, 15_000.0, 100.0, -500.0, 1.0)
    return (power[:, :512] @ filters.T + 1e-5).log()


def test_the_log_mel_is_the_published_one():
    waveform = 0.1 * torch.randn(64_000, generator=torch.Generator().manual_seed(0))
    feature = features.build("logmel_passt", frames=210)
    result = feature(torch.stack([waveform, torch.zeros(64_000)]))
    assert result.shape == (2, *feature.shape) == (2, 1, 210, 128)
    expected = published_log_mel(waveform)
    torch.testing.assert_close(result[0, 0, : len(expected)], expected, rtol=0, atol=1e-5)
    silence = torch.tensor(1e-5).log()
    assert len(expected) == 200 and (result[0, 0, 200:] == silence).all()
    assert (result[1] == silence).all()


def test_the_published_normalisation_is_the_classifiers():
    feature = features.build("logmel_passt")
    x = torch.randn(3)
    torch.testing.assert_close((x - feature.mean) / (2 * feature.std), (x + 4.5) / 5)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (513, 0), (514, 2), (320_000, 998)])
def test_ten_seconds_fill_the_input_and_silence_follows_a_short_waveform(samples, frames):
    result = features.build("logmel_passt")(torch.rand(1, samples) - 0.5)
    assert result.shape == (1, 1, 998, 128)
    sounds = (result[0, 0] != torch.tensor(1e-5).log()).any(dim=1)
    assert sounds[:frames].all() and not sounds[frames:].any()
