"""Han, Kim and Lee (2016): the front end against torchaudio's, the network layer by layer."""

import numpy as np
import pytest
import torch
from torchaudio.transforms import MelSpectrogram

from ast_repr import backbones, features, heads

RATE = 22_050


def test_the_front_end_is_the_log_mel_magnitude_of_the_normalised_waveform():
    waveforms = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, RATE))).float()
    reference = MelSpectrogram(
        RATE,
        n_fft=1024,
        hop_length=512,
        n_mels=128,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )
    peaks = waveforms.abs().amax(dim=1, keepdim=True)
    expected = reference(waveforms / peaks)[:, :, :43].clamp_min(1e-7).log().transpose(1, 2)
    result = features.build("han_mel")(waveforms)
    assert result.shape == (2, 1, 43, 128)
    torch.testing.assert_close(result[:, 0], expected, rtol=0, atol=1e-3)


def test_silence_is_finite_and_loudness_has_no_effect():
    feature = features.build("han_mel")
    assert (feature(torch.zeros(1, RATE)) == np.float32(np.log(1e-7))).all()
    waveform = torch.randn(1, RATE)
    torch.testing.assert_close(feature(waveform), feature(0.01 * waveform), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("seconds", "frames"), [(0.5, 21), (1, 43), (3.0, 129)])
def test_the_number_of_frames_follows_from_the_length(seconds, frames):
    feature = features.build("han_mel", seconds=seconds)
    assert feature(torch.zeros(1, round(seconds * RATE))).shape == (1, 1, frames, 128)
    assert feature.shape == (1, frames, 128)


# Channels, frames and bands after each convolution, of the paper's table 1.
MAPS = [
    (32, 45, 130),
    (32, 47, 132),
    (64, 17, 46),
    (64, 19, 48),
    (128, 8, 18),
    (128, 10, 20),
    (256, 5, 8),
    (256, 7, 10),
]
PARAMETERS = [320, 9_248, 18_496, 36_928, 73_856, 147_584, 295_168, 590_080, 263_168, 11_275]


def test_the_network_layer_by_layer():
    network = backbones.build("han_convnet").eval()
    head = heads.build("embedding", 11, embed_dim=network.embed_dim, norm=False)
    maps = []
    counts = []
    for layer in (*network.modules(), *head.modules()):
        own = [parameter.numel() for parameter in layer.parameters(recurse=False)]
        if own:
            counts.append(sum(own))
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, args, out: maps.append(tuple(out.shape[1:])))
    output = network(torch.randn(2, 1, 43, 128))
    assert head(output).shape == (2, 11)
    assert maps == MAPS
    assert counts == PARAMETERS
    assert sum(counts) == 1_446_123


def test_the_shortest_input_is_enough_and_a_shorter_one_is_refused():
    backbones.build("han_convnet", frames=8, mels=8)(torch.randn(1, 1, 8, 8))
    with pytest.raises(ValueError, match="at least 8"):
        backbones.build("han_convnet", frames=7)


def test_the_signal_neither_vanishes_nor_explodes_through_the_layers():
    torch.manual_seed(0)
    network = backbones.build("han_convnet", dropout=0.0).eval()
    embedding = network(torch.randn(8, 1, 43, 128)).embedding
    # torch's default initialisation leaves 0.02, and training starts epochs late.
    assert 0.3 < embedding.std() < 10
