"""The scalogram against a direct convolution and sinusoids, and the network on whole clips."""

import numpy as np
import pytest
import scipy.signal
import torch

from ast_repr import backbones, features

RATE = 16_000
SECONDS = 0.5


def direct_convolution(waveform, hz):
    """Mean magnitudes of each hop, of a convolution with one wavelet in time.

    The waveform is oversampled by two: at its own rate, a wavelet near the Nyquist frequency has
    aliases.
    """
    silence = np.zeros(4_000)
    padded = np.concatenate([silence, waveform, silence])
    oversampled = scipy.signal.resample(padded, 2 * len(padded))
    scale = 6.0 * 2 * RATE / (2 * np.pi * hz)
    time = np.arange(-int(6 * scale), int(6 * scale) + 1) / scale
    wavelet = np.pi**-0.25 * np.exp(6j * time - time**2 / 2) / np.sqrt(2 * scale)
    values = np.abs(np.convolve(oversampled, wavelet, mode="same"))
    return values[8_000 : 8_000 + 2 * len(waveform) : 2].reshape(-1, 160).mean(axis=1)


def test_it_is_a_direct_convolution_within_a_per_cent():
    rng = np.random.default_rng(0)
    waveform = rng.normal(0, 0.1, round(SECONDS * RATE))
    feature = features.build("scalogram", seconds=SECONDS)
    result = feature(torch.from_numpy(waveform).float()[None])
    assert result.shape == (1, 1, 50, 96)
    magnitudes = feature.to_power(result).sqrt()[0, 0].numpy()
    for band in (0, 20, 40, 60, 70, 80, 90, 95):
        expected = direct_convolution(waveform, feature.hz[band].item())
        apart = np.abs(magnitudes[:, band] - expected)
        assert apart.max() <= 0.01 * expected.max(), band
        assert apart.mean() <= 0.001 * expected.max(), band


@pytest.mark.parametrize("band", [3, 50, 90])
def test_a_sinusoid_is_loudest_at_the_scale_of_its_frequency(band):
    feature = features.build("scalogram", seconds=2.0)
    time = torch.arange(2 * RATE) / RATE
    loudness = feature((2 * torch.pi * feature.hz[band] * time).sin().float()[None])[0, 0, 100]
    assert loudness.argmax() == band


def test_a_clip_depends_neither_on_its_batch_nor_on_what_follows_it():
    feature = features.build("scalogram", seconds=0.2, bins=16)
    waveforms = torch.randn(2, 3_200, generator=torch.Generator().manual_seed(0))
    together = feature(waveforms)
    assert torch.equal(feature(waveforms[1:]), together[1:])
    assert torch.equal(feature(torch.cat([waveforms, waveforms], dim=1)), together)
    quiet_start = feature(torch.cat([torch.zeros(1, 1_600), torch.ones(1, 1_600)], dim=1))
    assert (quiet_start[0, 0, :5, 8] < -11).all()  # the end does not come before the beginning


def test_silence_is_the_floor():
    silence = torch.zeros(1, 1_600)
    assert (features.build("scalogram", seconds=0.1)(silence) == np.float32(np.log(1e-5))).all()
    assert (features.build("scalogram", seconds=0.1, decibels=True)(silence) == -80).all()


def test_decibels_are_relative_to_the_loudest_cell():
    waveform = torch.randn(1, 3_200, generator=torch.Generator().manual_seed(0))
    plain = features.build("scalogram", bins=512, seconds=0.2)
    decibels = features.build("scalogram", bins=512, decibels=True, seconds=0.2)
    result = decibels(waveform)
    assert result.shape == (1, 1, 20, 512) and result.max() == 0 and result.min() >= -80
    expected = 20 / np.log(10) * (plain(waveform) - plain(waveform).max())
    torch.testing.assert_close(result, expected.clamp(min=-80), rtol=0, atol=0.1)
    torch.testing.assert_close(decibels(0.1 * waveform), result, rtol=0, atol=1e-3)
    assert plain.spec() != decibels.spec()


@pytest.mark.parametrize("options", [{"bins": 7}, {"bins": 1_025}, {"seconds": 0.05}])
def test_a_size_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match="scalogram: .*expected from 8 to 1024"):
        features.build("scalogram", **options)


@pytest.mark.parametrize(("width", "parameters"), [(64, 1_550_784), (8, 24_504)])
def test_the_network_on_whole_clips_has_so_many_parameters(width, parameters):
    network = backbones.build("dutta_convnet", width=width)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.randn(2, 1, 50, 96)).embedding.shape == (2, 8 * width)


@pytest.mark.parametrize("size", [{"frames": 7}, {"mels": 7}, {"width": 0}, {"width": 12}])
def test_a_network_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match="dutta_convnet: .*expected at least 8 of each"):
        backbones.build("dutta_convnet", **size)
