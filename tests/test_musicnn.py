"""musicnn against TensorFlow and librosa: reader of checkpoints, log-mel, network.

The files in tests/data were made with TensorFlow 2.21 and librosa 0.11: `musicnn.npz` by running
the graphs of the package musicnn 0.1.0 on the patches of `patches()`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ast_repr import features
from ast_repr.backbones import musicnn, tensorflow_bundle

DATA = Path(__file__).parent / "data"
INDEX = (DATA / "tensorflow.index").read_bytes()
TENSORS = (DATA / "tensorflow.data").read_bytes()


def patches():
    generator = np.random.default_rng(0)
    log_mel = np.abs(generator.normal(0.9, 0.8, (6, 187, 96))).astype(np.float32)
    return torch.from_numpy(log_mel)[:, None]


def random_network(seed=0, **options):
    """A network whose BatchNorms have scales of both signs."""
    torch.manual_seed(seed)
    network = musicnn.Musicnn(**options).eval()
    for module in network.modules():
        if isinstance(module, musicnn.BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def test_a_checkpoint_is_read_as_tensorflow_wrote_it():
    tensors = tensorflow_bundle.read(INDEX, TENSORS)
    assert sorted(tensors) == ["conv/bias", "conv/kernel", "scalar"]  # the int64 step is left out
    assert tensors["conv/kernel"].shape == (2, 3, 1, 4)
    np.testing.assert_array_equal(
        tensors["conv/kernel"].ravel(), np.arange(24, dtype=np.float32) / 7
    )
    assert tensors["scalar"].shape == ()


@pytest.mark.parametrize("index", [b"", INDEX[:-1], INDEX[:100], b"\0" * 200])
def test_another_file_is_no_checkpoint(index):
    with pytest.raises(tensorflow_bundle.BundleError):
        tensorflow_bundle.read(index, TENSORS)


def test_missing_bytes_of_a_tensor_are_noticed():
    with pytest.raises(tensorflow_bundle.BundleError, match="conv/"):
        tensorflow_bundle.read(INDEX, TENSORS[:20])


def test_the_log_mel_is_librosas():
    waveform = (0.3 * np.random.default_rng(1).standard_normal(16_000)).astype(np.float32)
    expected = np.load(DATA / "musicnn_mel.npz")["log_mel"]
    feature = features.build("musicnn_mel", frames=len(expected))
    log_mel = feature(torch.from_numpy(waveform)[None])[0, 0]
    np.testing.assert_allclose(log_mel.numpy(), expected, atol=1e-4)


def test_loud_music_stays_finite_and_silence_is_zero():
    feature = features.build("musicnn_mel")
    loud = torch.sign(torch.sin(torch.arange(160_000) / 3))
    log_mel = feature(torch.stack([loud, torch.zeros_like(loud)]))
    assert log_mel.shape == (2, 1, 626, 96)
    assert log_mel.isfinite().all() and log_mel[0].max() > 5
    assert (log_mel[1] == 0).all()


def plain(network, x):
    """The network as its paper describes it, one layer after the other."""

    def norm(module, values):
        return functional.batch_norm(
            values, module.running_mean, module.running_var, module.weight, module.bias, eps=1e-3
        )

    x = norm(network.input_norm, x)
    front = []
    for layer in network.front:
        frames = layer.conv.kernel_size[0]
        padded = functional.pad(x, (0, 0, (frames - 1) // 2, frames // 2))
        values = norm(layer.norm, functional.relu(layer.conv(padded)))
        front.append(values.amax(dim=3))
    layers = [torch.cat(front, dim=1)]
    values = layers[0]
    for number, layer in enumerate(network.middle):
        out = norm(layer.norm, functional.relu(layer.conv(values)))
        values = out + values if number else out
        layers.append(values)
    joined = torch.cat(layers, dim=1)
    pooled = torch.stack([joined.amax(dim=2), joined.mean(dim=2)], dim=2).flatten(1)
    hidden = functional.relu(network.dense(norm(network.pool_norm, pooled)))
    penultimate = norm(network.dense_norm, hidden)
    return pooled, penultimate, network.source_head(penultimate)


def test_maxima_before_the_activation_change_nothing():
    network = random_network()
    x = patches()[:2].requires_grad_()
    for ours, expected in zip(network.tag(x), plain(network, x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    gradients = [
        torch.autograd.grad(tag(x)[1].square().sum(), x)[0]
        for tag in (network.tag, lambda values: plain(network, values))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * gradients[1].abs().max().item())


def test_patches_cover_the_input_and_are_averaged():
    network = random_network(frames=400, mean=0.4, std=0.8)
    log_mel = torch.rand(2, 1, 400, 96)
    output = network((log_mel - 0.4) / 1.6)
    assert network.starts == [0, 106, 213]
    tagged = [network.tag(log_mel[:, :, s : s + 187]) for s in network.starts]
    expected = torch.stack([pooled for pooled, _, _ in tagged]).mean(dim=0)
    torch.testing.assert_close(output.embedding, expected, rtol=1e-4, atol=1e-4)
    expected = torch.stack([logits for _, _, logits in tagged]).mean(dim=0)
    torch.testing.assert_close(output.source_logits, expected, rtol=1e-4, atol=1e-4)


def test_the_embedding_is_chosen():
    x = torch.rand(1, 1, 187, 96)
    sizes = {"penultimate": 200, "pooled": 1506}
    for name, size in sizes.items():
        network = random_network(frames=187, embedding=name)
        assert network.embed_dim == size
        assert network(x).embedding.shape == (1, size)
    with pytest.raises(ValueError, match="penultimate, pooled"):
        musicnn.Musicnn(embedding="front")
    with pytest.raises(ValueError, match="128"):
        musicnn.Musicnn(mels=128)
