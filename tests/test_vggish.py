"""The log-mel of VGGish against the published formula, and the network on its patches."""

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from ast_repr import backbones, features, heads

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


# Channels, frames and bands after each convolution of VGGish.
MAPS = [(64, 96, 64), (128, 48, 32), (256, 24, 16), (256, 24, 16), (512, 12, 8), (512, 12, 8)]


def test_the_network_has_the_convolutions_of_vggish():
    network = backbones.build("vggish_convnet").eval()
    maps = []
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda layer, args, out: maps.append(tuple(out.shape[1:])))
    assert network(torch.randn(1, 1, 100, 64)).embedding.shape == (1, 128, 1)
    assert maps == MAPS


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({}, 4_567_104), ({"width": 8}, 79_096), ({"width": 8, "recurrent": True}, 153_592)],
)
def test_the_number_of_parameters_does_not_depend_on_the_bands(options, parameters):
    for mels in (64, 96):
        network = backbones.build("vggish_convnet", mels=mels, **options)
        assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_patch_has_its_own_embedding_unless_a_gru_joins_them(recurrent):
    torch.manual_seed(0)
    network = backbones.build("vggish_convnet", frames=300, width=2, recurrent=recurrent).eval()
    x = torch.randn(2, 1, 300, 64)
    before = network(x).embedding
    assert before.shape == (2, 128, 3)
    x[0, 0, 96:192] += 1
    x[0, 0, 288:] += 1  # the rest is no patch
    changed = (network(x).embedding != before).any(dim=1)
    assert changed.tolist() == [[recurrent, True, recurrent], [False, False, False]]
    assert heads.build("attention", 20, embed_dim=network.embed_dim)(network(x)).shape == (2, 20)


@pytest.mark.parametrize("size", [{"frames": 95}, {"mels": 15}, {"width": 0}])
def test_a_network_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match="vggish_convnet: .*expected at least 96 frames"):
        backbones.build("vggish_convnet", **size)


@pytest.mark.parametrize(
    ("backbone", "head"), [("vggish_convnet", "attention"), ("dutta_convnet", "embedding")]
)
def test_a_small_network_learns_a_few_clips_from_scratch(backbone, head):
    torch.manual_seed(0)
    network = backbones.build(backbone, frames=96, mels=16, width=8)
    head = heads.build(head, 3, embed_dim=network.embed_dim)
    x = torch.randn(4, 1, 96, 16)
    for clip in range(4):
        x[clip, :, :, 4 * clip : 4 * clip + 4] += 3
    targets = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]])
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=0.01)
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(network(x)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
