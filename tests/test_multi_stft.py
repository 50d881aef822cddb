"""Spectrograms of three resolutions against numpy, and the networks on them layer by layer."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from ast_repr import backbones, checkpoint, features, heads, inference, stft_stack
from ast_repr.classifier import build_model
from ast_repr.report import style

RATE = 22_050


def noise(seconds, seed=0):
    rng = np.random.default_rng(seed)
    return 0.1 * rng.standard_normal(round(seconds * RATE)).astype(np.float32)


def decibels(waveform, fft):
    """Compute power_to_db(abs(stft(waveform)), ref=np.max) of librosa, hop fft // 4, transposed."""
    padded = np.pad(waveform.astype(np.float64), fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, fft)[:: fft // 4]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft) / fft)
    magnitude = np.abs(np.fft.rfft(frames * window))
    relative = 10 * np.log10(np.maximum(magnitude, 1e-10) / magnitude.max())
    return np.maximum(relative, relative.max() - 80)


def test_each_channel_is_librosas_spectrogram():
    waveform = noise(3) * np.linspace(0, 1, 3 * RATE, dtype=np.float32) ** 8
    stack = features.build("multi_stft")(torch.from_numpy(waveform)[None])
    assert stack.shape == (1, 3, 1036, 128)
    spectrograms = stft_stack.unfold(stack)
    lengths = (1034, 517, 259)
    for fft, frames, spectrogram in zip(stft_stack.FFTS, lengths, spectrograms, strict=True):
        expected = decibels(waveform, fft)[:, :-1]
        assert expected.shape == (frames, fft // 2)
        assert expected.min() == -80  # the limit is used
        np.testing.assert_allclose(spectrogram[0, :frames], expected, rtol=0, atol=2e-3)
        assert (spectrogram[0, frames:] == -80).all()


def test_a_tone_is_in_its_bin_and_at_its_time():
    waveform = np.zeros(RATE, np.float32)
    second_half = np.arange(RATE // 2, RATE)
    waveform[second_half] = np.sin(2 * np.pi * 3000 * second_half / RATE)
    stack = features.build("multi_stft", seconds=1.0)(torch.from_numpy(waveform)[None])
    for fft, spectrogram in zip(stft_stack.FFTS, stft_stack.unfold(stack), strict=True):
        peak = spectrogram[0].max(dim=1).indices
        start = RATE // 2 // (fft // 4)
        assert (peak[start + 4 : -4] == round(3000 * fft / RATE)).all()
        assert (spectrogram[0, : start - 4] == -80).all()


def test_silence_is_the_least_value_and_loudness_has_no_effect():
    feature = features.build("multi_stft", seconds=1.0)
    assert (feature(torch.zeros(1, RATE)) == -80).all()
    waveform = torch.from_numpy(noise(1))[None]
    torch.testing.assert_close(feature(waveform), feature(0.01 * waveform), rtol=0, atol=1e-3)


def test_folding_is_undone():
    spectrogram = torch.randn(2, 5, 512)
    folded = stft_stack.fold(spectrogram)
    assert folded.shape == (2, 20, 128)
    stack = torch.zeros(2, 3, 20, 128)
    stack[:, 2] = folded
    assert torch.equal(stft_stack.unfold(stack)[2], spectrogram)


@pytest.mark.parametrize("fft", stft_stack.FFTS)
def test_the_bands_share_the_bins_below_the_nyquist_frequency(fft):
    edges = (0, 1000, 4000, 11_025)
    hz = np.arange(fft // 2 + 1) * RATE / fft
    bins = []
    for low, high in pairwise(edges):
        band = stft_stack.band(fft, low, high)
        assert list(range(fft)[band]) == [k for k, f in enumerate(hz) if low <= f < high]
        bins += range(fft)[band]
    assert bins == list(range(fft // 2))


@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.9, 10.0])
def test_the_frames_are_all_of_the_waveform(seconds):
    feature = features.build("multi_stft", seconds=seconds)
    stack = feature(torch.from_numpy(noise(seconds))[None])
    assert stack.shape == (1, *feature.shape)
    for spectrogram in stft_stack.unfold(stack):
        silent = (spectrogram[0] == -80).all(dim=1)
        assert silent.sum() <= 4 and not silent[:-4].any()


@pytest.mark.parametrize("seconds", [0.0, 1e9, float("nan")])
def test_a_length_out_of_range_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds"):
        features.build("multi_stft", seconds=seconds)


SMALL = [320, 64, 18_496, 128, 73_856, 256]  # convolution, BatchNorm, ...
CNN14 = [576, 128, 73_728, 256, 294_912, 512, 1_179_648, 1_024]
FUSION = [2_360_832, 3_072, 1_180_416, 1_536, 393_728, 1_024]
MODELS = {
    "1.0": ({}, 9 * SMALL + [12_683], 850_763),
    "2.0": ({"spectrograms": "one_per_band"}, 3 * SMALL + [4_235], 283_595),
    "2.3": (
        {"spectrograms": "one_per_band", "branch": "cnn14", "fusion": [1536, 768, 512]},
        3 * CNN14 + FUSION + [5_643],
        8_598_603,
    ),
}


@pytest.mark.parametrize("model", MODELS)
def test_parameters_layer_by_layer(model):
    options, expected, total = MODELS[model]
    network = backbones.build("multi_stft", frames=1036, **options)
    head = heads.build("embedding", 11, embed_dim=network.embed_dim, norm=False)
    counts = []
    for module in (*network.modules(), *head.modules()):
        own = [parameter.numel() for parameter in module.parameters(recurse=False)]
        if own:
            counts.append(sum(own))
    assert counts == expected
    assert sum(counts) == total


def test_each_branch_sees_its_band_at_its_resolution():
    shapes = []
    network = backbones.build("multi_stft", frames=1036, spectrograms="one_per_band").eval()
    for branch in network.branches:
        branch.register_forward_hook(lambda module, args, out: shapes.append(args[0].shape))
    assert network(torch.randn(2, 3, 1036, 128)).embedding.shape == (2, 384)
    assert shapes == [(2, 1, 259, 47), (2, 1, 518, 69), (2, 1, 1036, 81)]


def test_nine_spectrograms_see_every_value():
    network = backbones.build("multi_stft", frames=64).eval()
    x = torch.randn(1, 3, 64, 128, requires_grad=True)
    network(x).embedding.square().sum().backward()
    assert (x.grad != 0).float().mean() > 0.9


def test_another_input_is_refused():
    for size in ({"mels": 96}, {"frames": 1034}, {"frames": 28}):
        with pytest.raises(ValueError, match="multiple of 4"):
            backbones.build("multi_stft", **size)
    with pytest.raises(ValueError, match="did you mean 'cnn14'"):
        backbones.build("multi_stft", branch="cnn13")
    with pytest.raises(ValueError, match="did you mean 'all'"):
        backbones.build("multi_stft", spectrograms="al")


@pytest.mark.parametrize("is_softmax", [False, True])
def test_a_trained_model_predicts_files_at_its_rate(is_softmax, tmp_path):
    options = {"frames": 1036, "mels": 128, "mean": -28.0, "std": 9.0}
    spec = {
        "norm": "backbone",
        "reprogrammer": {"name": "none"},
        "backbone": {
            "name": "multi_stft",
            "options": options | {"spectrograms": "one_per_band"},
            "source": "ast_tiny_synth",
            "file": None,
            "seed": 0,
            "finetune": True,
        },
        "head": {"name": "embedding", "norm": False, "softmax": is_softmax},
    }
    classes = ["cello", "flute", "voice"]
    model = build_model(classes, **spec).eval()
    about = {
        "classes": classes,
        "feature": {"name": "multi_stft"},
        "spec": spec,
        "backbone_sha256": backbones.weights.fingerprint(model.backbone),
    }
    learned = model.trainable_state_dict()
    path = tmp_path / "best.valid.macro_f1.pt"
    checkpoint.save(path, {"learned": learned, "epoch": 1, "about": about})
    waveform = noise(5)
    soundfile.write(tmp_path / "song.wav", waveform, RATE, subtype="FLOAT")
    predictor = inference.load(path)
    (song,) = predictor.predict(tmp_path / "song.wav")
    assert song.times.tolist() == [[0, 3], [2, 5]]
    windows = torch.from_numpy(np.stack([waveform[: 3 * RATE], waveform[2 * RATE :]]))
    with torch.no_grad():
        expected = model(predictor.feature(windows).half().float()).sigmoid().numpy()
    np.testing.assert_allclose(song.timeline, expected, rtol=0, atol=1e-5)
    assert np.allclose(song.probabilities.sum(), 1) == is_softmax


@pytest.mark.parametrize("name", ["multi_stft", "han_mel"])
def test_pictures_have_the_frames_of_a_second(name):
    frames = features.build(name, seconds=10.0).frames
    assert frames == pytest.approx(10 * style.frames_per_second(name), abs=4)
