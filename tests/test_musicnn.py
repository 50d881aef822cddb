"""musicnn against TensorFlow and librosa: reader of checkpoints, log-mel, network.

The files in tests/data were made with TensorFlow 2.21 and librosa 0.11: `musicnn.npz` by running
the graphs of the package musicnn 0.1.0 on the patches of `patches()`.
"""

import hashlib
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import run_script
from torch import nn
from torch.nn import functional

import extract
import prepare
import score
import train
from ast_repr import config, features, inference, model_spec, pretrained
from ast_repr.backbones import musicnn, musicnn_weights, tensorflow_bundle, weights
from ast_repr.classifier import build_model
from ast_repr.commands import export
from ast_repr.heads import labelmap
from ast_repr.settings import RunIdentity

DATA = Path(__file__).parent / "data"
CONF_DIR = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
TAGGERS = ("musicnn_msd", "musicnn_mtt")
CONFS = [
    "ast_linear",
    "ast_linear_random",
    "ast_linear_raw",
    "ast_labelmap",
    "ast_zero_shot",
    "ast_cnn",
    "ast_unet",
    "ast_unet_residual",
    "ast_noise",
    "ast_adversarial",
    "ast_patch",
    "ast_finetune",
    "ast_smm",
    "ast_film",
    "ast_flm",
    "ast_ssf",
    "ast_bitfit",
    "ast_zero_shot_calibrated",
]
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
    pooled = norm(network.pool_norm, pooled)
    hidden = functional.relu(network.dense(pooled))
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


@pytest.mark.parametrize("bf16, tolerance", [(False, 1e-5), (True, 0.01)])
@pytest.mark.parametrize("size", [(7, 38), (32, 1)])
def test_frozen_filters_give_pytorchs_gradient(size, bf16, tolerance):
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(5, 1, *size, generator=generator)
    x = torch.randn(6, 1, 40, 96, generator=generator).requires_grad_()  # more than PATCHES
    outputs = []
    gradients = []
    for convolve in (musicnn._convolve, functional.conv2d):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs.append(convolve(x, filters))
        gradients.append(torch.autograd.grad(outputs[-1].float().sin().sum(), x)[0])
    assert type(outputs[0].grad_fn).__name__ == "_FrozenConvolutionBackward"
    assert torch.equal(*outputs)
    assert gradients[0].dtype == torch.float32
    assert (gradients[0] - gradients[1]).norm() < tolerance * gradients[1].norm()


def test_trained_filters_get_a_gradient():
    filters = torch.randn(5, 1, 7, 38).requires_grad_()
    x = torch.randn(1, 1, 40, 96).requires_grad_()
    gradients = torch.autograd.grad(musicnn._convolve(x, filters).sum(), [x, filters])
    expected = torch.autograd.grad(functional.conv2d(x, filters).sum(), [x, filters])
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


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


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    """Weights with random values, and as source classes the tags of MagnaTagATune that are used."""
    path = tmp_path_factory.mktemp("musicnn") / "random.safetensors"
    tags = sorted(sum(pretrained.zero_shot("musicnn_mtt")["names"].values(), []))
    weights.save(random_network(mean=0.4, std=0.8, n_source=len(tags)), path, tags)
    return path


def downloaded(name):
    entry = pretrained.find(name)
    if not entry.is_available:
        pytest.skip(f"{entry.file} is not there; source run.sh --backbone {name} downloads it")
    return entry


def test_a_file_gives_the_network_back(random_file):
    header = weights.read_header(random_file)
    assert header["layout"] == "ast_repr"
    assert (header["mean"], header["std"]) == (0.4, 0.8)
    network = musicnn.Musicnn(**header["dims"], mean=header["mean"], std=header["std"])
    weights.load(network, random_file)
    expected = random_network(n_source=header["dims"]["n_source"])
    assert weights.fingerprint(network) == weights.fingerprint(expected)
    with pytest.raises(weights.WeightsError, match="source_head"):
        weights.load(musicnn.Musicnn(n_source=3), random_file)


def test_weights_of_another_network_are_refused(random_file, tiny_ast):
    with pytest.raises(weights.WeightsError, match="not the weights of this backbone"):
        weights.load(tiny_ast(), random_file)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFS)
def test_the_confs_of_ast_run_on_it(name, random_file):
    conf = config.load(CONF_DIR, name, network="musicnn")
    plain = config.load(CONF_DIR, name)
    assert (conf.backbone.name, conf.feature.name) == ("musicnn", "musicnn_mel")
    assert conf.backbone.weights == plain.backbone.weights
    assert conf.backbone.finetune == plain.backbone.finetune
    run = RunIdentity("corpus", "", [], "musicnn_mtt", "", name, seed=0)
    classes = ["cello", "guitar", "voice"]
    feature = features.build(**conf.feature.to_dict())
    spec = model_spec.from_config(
        replace(conf, run=run), classes, feature, None, "musicnn_mtt", random_file
    )
    assert spec["backbone"]["options"]["mean"] == 0.4
    model = build_model(classes, **spec).eval()
    logits = model(torch.rand(1, *feature.shape))
    assert logits.shape == (1, 3) and logits.isfinite().all()
    if name == "ast_unet_residual":  # the gradient reaches the reprogrammer, and only that
        logits.sum().backward()
        assert all(p.grad is None for p in model.backbone.parameters())
        assert any(p.grad is not None and p.grad.any() for p in model.reprogrammer.parameters())


def test_confs_without_a_pre_trained_network_stay_as_they_are():
    for name in ("cnn_only", "attention", "forest"):
        assert config.load(CONF_DIR, name, network="musicnn") == config.load(CONF_DIR, name)


def test_a_setting_chooses_the_embedding():
    settings = ["backbone.embedding=penultimate"]
    conf = config.load(CONF_DIR, "ast_linear_random", settings=settings, network="musicnn")
    assert conf.backbone.options == {"embedding": "penultimate"}
    assert conf.backbone.weights == "random"


def test_the_catalogue_knows_the_network_of_each_backbone():
    assert pretrained.network("musicnn_msd") == "musicnn"
    assert {pretrained.network(name) for name in ("ast_tiny_synth", "a file of mine", None)} == {
        "ast"
    }


def test_the_package_is_downloaded_by_its_hash_and_converted_once(tmp_path, monkeypatch):
    sha256 = hashlib.sha256(b"weights").hexdigest()
    entry = replace(pretrained.find("musicnn_msd"), bytes=None, sha256=sha256)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    asked = []

    def pip(command, **_):
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        asked.append((requirements, {"--require-hashes", "--no-deps"} <= set(command)))
        Path(command[command.index("--dest") + 1], "musicnn.whl").write_bytes(b"a wheel")
        return subprocess.CompletedProcess(command, 0)

    def convert(wheel, name, path):
        assert (wheel.read_bytes(), name) == (b"a wheel", "musicnn_msd")
        path.write_bytes(b"weights")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(musicnn_weights, "convert_wheel", convert)
    entry.fetch()
    entry.fetch()
    assert asked == [(f"musicnn==0.1.0 --hash=sha256:{entry.package['sha256']}\n", True)]


def test_without_a_connection_one_line_says_what_to_do(tmp_path, monkeypatch):
    entry = pretrained.find("musicnn_msd")
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    for option in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS"):
        monkeypatch.setenv(f"PIP_{option}", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"musicnn/0\.1\.0.*copy .*musicnn_msd\.safetensors"):
        entry.fetch()
    assert not entry.path.exists()


@pytest.mark.parametrize("name", TAGGERS)
def test_the_weights_tag_as_tensorflow_does(name):
    entry = downloaded(name)
    entry.verify()
    header = weights.read_header(entry.path)
    network = musicnn.Musicnn(**header["dims"], mean=header["mean"], std=header["std"])
    weights.load(network, entry.path).eval()
    with torch.no_grad():
        _, penultimate, logits = network.tag(patches())
    expected = np.load(DATA / "musicnn.npz")
    model = name.removeprefix("musicnn_")
    np.testing.assert_allclose(logits.numpy(), expected[f"{model}_logits"], atol=1e-4)
    np.testing.assert_allclose(penultimate.numpy(), expected[f"{model}_pen"], atol=1e-4)


@pytest.mark.parametrize("name", TAGGERS)
def test_the_instruments_are_tags(name):
    tags = weights.read_header(downloaded(name).path)["source_classes"]
    names = pretrained.zero_shot(name)["names"]
    assert len(set(tags)) == 50
    assert all(labelmap.groups(names, list(names), tags))


@pytest.mark.slow
def test_a_trained_model_predicts_and_is_exported(random_file, tmp_path):
    """From a CSV to predictions of the run and of what is exported of it."""
    rate = 16_000
    lines = ["path,split,guitar"]
    for number, split in enumerate(["train", "train", "valid", "valid", "test", "test"]):
        pitch = 300 + 900 * (number % 2)
        wave = 0.4 * np.sin(2 * np.pi * pitch * np.arange(rate) / rate)
        soundfile.write(tmp_path / f"{number}.wav", wave, rate)
        lines.append(f"{number}.wav,{split},{number % 2}")
    (tmp_path / "songs.csv").write_text("\n".join(lines))
    data = ["--data", tmp_path / "data"]
    confs = ["--conf-dir", CONF_DIR, "--conf", "ast_linear", "--backbone", "musicnn_mtt"]
    runs = [*data, *confs, "--exp", tmp_path / "exp", "--weights", random_file, "--device", "cpu"]
    custom = ["--corpus", "custom", "--root", tmp_path / "songs.csv"]
    assert run_script(prepare, *data, *custom) == 0
    assert run_script(extract, *data, *confs) == 0
    assert run_script(train, *runs, "--set", "train.epochs=2") == 0
    assert run_script(score, *runs, "--set", "train.epochs=2") == 0
    run = tmp_path / "exp" / "ast_linear" / "seed0"
    exported = tmp_path / "exported"
    assert run_script(export, run, exported, "--merge") == 0
    assert "musicnn" in (exported / "README.md").read_text()
    predictions = []
    for path in (run, exported):
        (song,) = inference.load(path).predict(tmp_path / "5.wav")
        predictions.append(song.probabilities)
    np.testing.assert_allclose(*predictions, atol=1e-6)
