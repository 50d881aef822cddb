"""The log-mel of VGGish against the published formula, and the networks on its patches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchaudio.compliance import kaldi

from ast_repr import backbones, cli, config, features, heads, identity, pretrained, sections
from ast_repr.backbones import weights

RATE = 16_000
EGS = Path(__file__).parents[1] / "egs"


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


def test_the_log_mel_may_be_cut_to_whole_patches():
    waveform = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    whole = features.build("logmel_vggish", seconds=1.0)(waveform)
    cut = features.build("logmel_vggish", seconds=1.0, frames=96)
    assert cut.shape == (1, 96, 64) and torch.equal(cut(waveform), whole[:, :, :96])
    with pytest.raises(ValueError, match="frames 99; expected from 1 to 98"):
        features.build("logmel_vggish", seconds=1.0, frames=99)


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


# VGGish itself, from torchvggish's file.

CONVOLUTIONS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512)}
CONVOLUTIONS |= {13: (512, 512)}
LINEAR = {0: (12_288, 4096), 2: (4096, 4096), 4: (4096, 128)}


def published_shapes():
    """The shapes of the tensors in torchvggish's file, by name."""
    shapes = {}
    for number, (channels, out) in CONVOLUTIONS.items():
        shapes[f"features.{number}.weight"] = (out, channels, 3, 3)
        shapes[f"features.{number}.bias"] = (out,)
    for number, (width, out) in LINEAR.items():
        shapes[f"embeddings.{number}.weight"] = (out, width)
        shapes[f"embeddings.{number}.bias"] = (out,)
    return shapes


@pytest.fixture(scope="module")
def vggish():
    """VGGish with random weights."""
    torch.manual_seed(0)
    network = backbones.build("vggish", frames=300, embedding="patches").eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(layer.weight)
    return network


def reference(state, patches):
    """The network of the paper, from un-normalised patches (N, 96, 64) to (N, 128)."""
    x = patches[:, None]
    for number in CONVOLUTIONS:
        weight = state[f"features.{number}.weight"]
        x = functional.relu(functional.conv2d(x, weight, state[f"features.{number}.bias"], 1, 1))
        if number in (0, 3, 8, 13):
            x = functional.max_pool2d(x, 2)
    x = x.transpose(1, 3).transpose(1, 2).flatten(1)
    for number in LINEAR:
        layer = (state[f"embeddings.{number}.weight"], state[f"embeddings.{number}.bias"])
        x = functional.relu(functional.linear(x, *layer))
    return x


@torch.no_grad()
def test_the_embedding_of_vggish_is_that_of_the_paper_for_each_patch(vggish):
    log_mel = -1.2 + 1.7 * torch.randn(2, 1, 300, 64)
    patches = log_mel[:, 0, :288].reshape(6, 96, 64)  # the rest is no patch
    expected = reference(vggish.state_dict(), patches).unflatten(0, (2, 3)).transpose(1, 2)
    embedding, logits, _ = vggish((log_mel - vggish.mean) / (2 * vggish.std))
    assert logits is None and expected.std() > 0.1
    torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)
    assert vggish.segments == [(0, 96), (96, 192), (192, 288)]


@torch.no_grad()
def test_the_embedding_of_vggish_is_averaged_over_the_clip_or_its_parts():
    with torch.device("meta"):
        mean = backbones.build("vggish", frames=300)
        parts = backbones.build("vggish", frames=960, steps=16)
        assert mean(torch.empty(2, 1, 300, 64)).embedding.shape == (2, 128)
        assert parts(torch.empty(2, 1, 960, 64)).embedding.shape == (2, 128, 16)
    assert not hasattr(mean, "segments") and parts.segments[:2] == [(0, 60), (60, 120)]
    with torch.device("meta"), pytest.raises(ValueError, match="steps 0; expected from 1 to 998"):
        backbones.build("vggish", steps=0)
    with pytest.raises(ValueError, match="998 frames and 96 bands; expected .* 64 bands"):
        backbones.build("vggish", mels=96)
    with pytest.raises(ValueError, match="did you mean 'patches'"):
        backbones.build("vggish", embedding="patch")


@pytest.mark.parametrize("is_zip", [False, True])
def test_torchvggishs_file_is_read(is_zip, vggish, tmp_path):
    """A file with the published names and shapes, whose tensors repeat a value."""
    path = tmp_path / "vggish-10086976.pth"
    state = {}
    for number, (name, shape) in enumerate(published_shapes().items()):
        state[name] = torch.tensor(float(number)).expand(shape)
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    assert weights.read_header(path) == {"layout": "torchvggish", "dims": {}}
    with torch.device("meta"):
        network = backbones.build("vggish")
    assert sum(p.numel() for p in network.parameters()) == 72_141_184
    network = weights.load(network.to_empty(device="cpu"), path)
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    torch.save({name: state[name] for name in list(state)[1:]}, path)
    with pytest.raises(weights.WeightsError, match="missing: features.0.weight"):
        weights.load(network, path)


def test_the_first_digits_of_a_sha256_are_checked(tmp_path, monkeypatch):
    path = tmp_path / "vggish.pth"
    path.write_bytes(b"weights")
    digits = identity.of_file(path)[:8]
    entry = replace(pretrained.find("vggish"), file=str(path), sha256=digits)
    assert pretrained.find("vggish").sha256 == "10086976"
    entry.fetch()
    path.write_bytes(b"others")
    with pytest.raises(ValueError, match=f"found sha256 .*, expected {digits}"):
        entry.fetch()


@pytest.mark.parametrize("recipe", ["openmic", "irmas", "magnatagatune"])
@pytest.mark.parametrize("name", ["ast_finetune", "ast_unet", "ast_patch"])
def test_confs_of_ast_are_in_order_on_vggish(recipe, name):
    conf = config.load(EGS / recipe / "conf", name, network="vggish")
    assert (conf.backbone.name, conf.feature.name) == ("vggish", "logmel_vggish")
    assert conf.feature.options["frames"] % 96 == 0
    with torch.device("meta"):  # at no cost
        sections.check(conf)


@pytest.mark.parametrize(
    "variant",
    [
        "ast_finetune+backbone.embedding=patches+head.name=attention",
        "ast_finetune+feature.name=scalogram+feature.bins=64",
    ],
)
def test_vggish_takes_attention_and_a_scalogram(variant):
    with torch.device("meta"):
        sections.check(config.load(EGS / "openmic" / "conf", variant, network="vggish"))


def test_all_leaves_out_what_needs_source_classes(capsys):
    parser = cli.parser("check")
    cli.add_conf_options(parser)
    folder = EGS / "openmic" / "conf"
    args = ["--conf-dir", str(folder), "--conf", "all", "--backbone", "vggish"]
    chosen = cli.confs(parser.parse_args(args))
    out = capsys.readouterr().out
    assert "since vggish has no source classes: ast_best_source, ast_blm" in out
    assert "ast_linear" in chosen and not {"ast_labelmap", "ast_lora"} & set(chosen)
