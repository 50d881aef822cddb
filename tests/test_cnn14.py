"""CNN14: its log-mel, its network, and weights in the layout of PANNs' file."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import call
from torch.nn import functional
from torchaudio.functional import melscale_fbanks

import fetch
from ast_repr import backbones, cli, config, features, identity, model_spec, pretrained, sections
from ast_repr.backbones import cnn14, weights
from ast_repr.choices import confs
from ast_repr.classifier import build_model
from ast_repr.settings import RunIdentity

EGS = Path(__file__).parents[1] / "egs"
CONFS = EGS / "openmic" / "conf"
WIDTHS = (1, 64, 128, 256, 512, 1024, 2048)
NARROW = (1, 4, 6, 8, 12, 16, 20)
PARAMETERS = 80_753_615
FRONT_END = 1_083_456  # constants


# Log-mel.


def test_the_log_mel_is_the_power_of_slaneys_bands_in_decibels():
    generator = np.random.default_rng(0)
    waveform = 0.1 * generator.standard_normal(32_000).astype(np.float32)
    padded = np.pad(waveform.astype(np.float64), 512, mode="reflect")
    frames = np.stack([padded[start : start + 1024] for start in range(0, 32_001, 320)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    filters = melscale_fbanks(513, 50.0, 14_000.0, 64, 32_000, norm="slaney", mel_scale="slaney")
    expected = 10 * np.log10(np.maximum(power @ filters.double().numpy(), 1e-10))
    feature = features.build("panns_mel", frames=104)
    log_mel = feature(torch.from_numpy(waveform)[None])[0, 0]
    assert expected.shape == (101, 64)
    np.testing.assert_allclose(log_mel[:101], expected, rtol=0, atol=1e-3)
    assert (log_mel[101:] == -100).all()


def test_ten_seconds_are_1001_frames_and_silence_is_100_db_down():
    feature = features.build("panns_mel")
    assert features.window(feature).samples == 320_000
    assert feature(torch.zeros(2, 320_000)).shape == (2, 1, 1001, 64)
    for samples in (0, 1, 513):
        assert (feature(torch.zeros(1, samples)) == -100).all()


# Weights.


def published_shapes(widths):
    """The shapes of the tensors in PANNs' file, by name."""
    shapes = {
        "spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": (513, 1, 1024),
        "logmel_extractor.melW": (513, 64),
        **norm_shapes("bn0", 64),
    }
    for block in range(1, 7):
        name = f"conv_block{block}"
        shapes[f"{name}.conv1.weight"] = (widths[block], widths[block - 1], 3, 3)
        shapes[f"{name}.conv2.weight"] = (widths[block], widths[block], 3, 3)
        shapes |= norm_shapes(f"{name}.bn1", widths[block])
        shapes |= norm_shapes(f"{name}.bn2", widths[block])
    shapes |= {"fc1.weight": (widths[-1], widths[-1]), "fc1.bias": (widths[-1],)}
    return shapes | {"fc_audioset.weight": (527, widths[-1]), "fc_audioset.bias": (527,)}


def norm_shapes(name, channels):
    keys = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{name}.{key}": (channels,) for key in keys}
    return shapes | {f"{name}.num_batches_tracked": ()}


@pytest.fixture
def tensors(monkeypatch):
    """Random tensors with the names of PANNs' file, and a tenth of its channels or fewer."""
    monkeypatch.setattr(cnn14, "WIDTHS", NARROW)
    torch.manual_seed(0)
    tensors = {}
    for name, shape in published_shapes(NARROW).items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
        elif len(shape) == 1:
            tensors[name] = 0.5 + torch.rand(shape)
        else:
            tensors[name] = torch.randn(shape) / (0.4 * np.prod(shape[1:])) ** 0.5
    tensors["bn0.running_mean"] -= 30
    tensors["bn0.running_var"] *= 300
    return tensors


@pytest.fixture
def file(tensors, tmp_path):
    """The tensors as they are published: in torch's older format, with a sampler's state."""
    path = tmp_path / "Cnn14_mAP=0.431.pth"
    sampler = {"pointer": 3, "indexes": np.arange(5)}
    checkpoint = {"iteration": 7, "model": tensors, "sampler": sampler}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"cnumpy._core.multiarray\n" in content
    path.write_bytes(content.replace(b"cnumpy._core.", b"cnumpy.core."))  # as numpy 1 has it
    return path


@pytest.fixture
def network(file):
    header = weights.read_header(file)
    network = backbones.build(
        "cnn14", frames=100, mean=header["mean"], std=header["std"], **header["dims"]
    )
    return weights.load(network, file).eval()


def reference(state, x):
    """The network of the paper, from un-normalised log-mel to (penultimate layer, logits)."""

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    x = norm(x.transpose(1, 3), "bn0").transpose(1, 3)
    for block in range(1, 7):
        for number in (1, 2):
            x = functional.conv2d(x, state[f"conv_block{block}.conv{number}.weight"], padding=1)
            x = functional.relu(norm(x, f"conv_block{block}.bn{number}"))
        if block < 6:
            x = functional.avg_pool2d(x, 2)
    x = x.mean(dim=3)
    x = x.max(dim=2).values + x.mean(dim=2)
    x = functional.relu(functional.linear(x, state["fc1.weight"], state["fc1.bias"]))
    return x, functional.linear(x, state["fc_audioset.weight"], state["fc_audioset.bias"])


@torch.no_grad()
def test_the_network_is_that_of_the_paper(tensors, network):
    log_mel = -30 + 17 * torch.randn(2, 1, 100, 64)
    embedding, logits = reference(tensors, log_mel)
    output = network((log_mel - network.mean) / (2 * network.std))
    assert embedding.std() > 0.1
    torch.testing.assert_close(output.embedding, embedding, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.source_logits, logits, rtol=1e-4, atol=1e-4)


def test_the_published_tensors_are_those_of_the_network_and_of_its_front_end():
    shapes = published_shapes(WIDTHS)
    with torch.device("meta"):
        network = backbones.build("cnn14")
        state = cnn14.rename({name: torch.empty(shape) for name, shape in shapes.items()})
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in state.items()} == expected
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS
    front_end = [shape for name, shape in shapes.items() if "_extractor." in name]
    assert sum(map(np.prod, front_end)) == FRONT_END
    labels = pretrained.find("panns_cnn14").source_classes()
    assert network.n_source == len(labels) == 527


def test_the_statistics_are_those_of_all_cells_that_the_first_norm_saw(tensors, file):
    header = weights.read_header(file)
    means = tensors["bn0.running_mean"].double()
    squares = tensors["bn0.running_var"].double() + means**2
    assert header["layout"] == "panns" and header["dims"] == {"n_source": 527}
    assert header["mean"] == pytest.approx(means.mean().item(), rel=1e-5)
    variance = squares.mean() - means.mean() ** 2
    assert header["std"] == pytest.approx(variance.sqrt().item(), rel=1e-5)


@torch.no_grad()
def test_the_embedding_over_time_is_that_of_each_part(network):
    x = torch.randn(2, 1, 256, 64)
    columns = []
    network.blocks[-1].register_forward_hook(lambda block, x, maps: columns.append(maps.mean(3)))
    expected = network(x).embedding
    over_time = copy.copy(network)
    over_time.steps = 1
    torch.testing.assert_close(over_time(x).embedding[:, :, 0], expected)
    over_time.steps = 4
    embedding, logits, _ = over_time(x)
    assert embedding.shape == (2, 20, 4) and logits is None
    second = columns[0][:, :, 2:4]
    pooled = second.max(dim=2).values + second.mean(dim=2)
    torch.testing.assert_close(embedding[:, :, 1], functional.relu(network.fc1(pooled)))


def test_segments_are_parts_of_the_input():
    with torch.device("meta"):
        network = backbones.build("cnn14", frames=1001, steps=16)
    assert network.segments[0] == (0, 64) and network.segments[-1] == (928, 992)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 31}, "31 frames and 64 bands; expected at least 32"),
        ({"mels": 128}, "1001 frames and 128 bands"),
        ({"steps": 32}, "steps 32; expected from 1 to 31"),
    ],
)
def test_impossible_inputs_are_refused(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        backbones.build("cnn14", **options)


def test_tensors_of_another_network_are_refused(tensors, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"model": {"fc_audioset.weight": tensors["fc_audioset.weight"]}}, path)
    with pytest.raises(weights.WeightsError, match=r"other\.pth: not PANNs' CNN14, no 'bn0"):
        weights.read_header(path)


# Recipes.


@pytest.mark.parametrize("recipe", ["openmic", "irmas", "magnatagatune"])
@pytest.mark.parametrize("name", ["ast_finetune", "ast_unet", "ast_patch"])
def test_confs_of_ast_are_in_order_on_it(recipe, name):
    conf = config.load(EGS / recipe / "conf", name, network="cnn14")
    assert (conf.backbone.name, conf.feature.name) == ("cnn14", "panns_mel")
    assert conf.feature.options["frames"] % 32 == 0
    with torch.device("meta"):  # at no cost
        sections.check(conf)


def test_a_classifier_is_built_on_it(file):
    conf = config.load(CONFS, "ast_zero_shot", network="cnn14")
    feature = features.build(**conf.feature.to_dict())
    run = RunIdentity("corpus", "", [], "panns_cnn14", "", "ast_zero_shot", seed=0)
    classes = ["cello", "guitar", "voice"]
    spec = model_spec.from_config(
        replace(conf, run=run), classes, feature, None, "panns_cnn14", file
    )
    model = build_model(classes, **spec).eval()
    logits = model(-30 + 17 * torch.randn(1, *feature.shape))
    assert logits.shape == (1, 3) and logits.isfinite().all()


def test_all_leaves_out_what_needs_a_transformer(capsys):
    parser = cli.parser("check")
    cli.add_conf_options(parser)
    args = ["--conf-dir", str(CONFS), "--conf", "all", "--backbone", "panns_cnn14"]
    chosen = cli.confs(parser.parse_args(args))
    left_out = capsys.readouterr().out.rpartition(": ")[2].strip().split(", ")
    assert {"ast_lora", "ast_ssf", "ast_bitfit", "ast_stacked"} <= set(left_out)
    assert {*left_out, *chosen} == set(confs(CONFS))


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """A catalogue whose CNN14 is a small file."""
    path = tmp_path / "on disk.pth"
    path.write_bytes(b"weights")
    entry = replace(
        pretrained.find("panns_cnn14"),
        file=str(tmp_path / "downloads" / "cnn14.pth"),
        bytes=7,
        sha256=identity.of_file(path),
    )
    find = pretrained.find
    monkeypatch.setattr(
        pretrained, "find", lambda name: entry if name == "panns_cnn14" else find(name)
    )
    return path, entry


def test_a_file_on_disk_takes_the_place_of_a_download(catalogue, tmp_path, capsys):
    path, entry = catalogue
    options = ["--data", tmp_path, "--clips", 200, "--corpus", "synthetic"]
    options += ["--teacher-file", path, "--backbone", "panns_cnn14"]
    code, out, _ = call(capsys, fetch, *options)
    assert code == 0 and out.split("\t")[3] == "panns_cnn14"
    assert entry.path.read_bytes() == b"weights" and entry.is_available
    path.write_bytes(b"others")
    code, _, err = call(capsys, fetch, *options)
    assert code == 1 and "found sha256" in err and "panns_cnn14" in err
    assert entry.path.read_bytes() == b"weights"


def test_it_is_downloaded_from_zenodo(catalogue, monkeypatch):
    _, entry = catalogue
    asked = []

    def download(remote, path):
        asked.append((remote.url, remote.bytes, remote.sha256))
        path.write_bytes(b"weights")

    monkeypatch.setattr(pretrained, "download", download)
    entry.fetch()
    entry.fetch()
    assert asked == [(entry.url, 7, entry.sha256)]
    assert entry.url.startswith("https://zenodo.org/records/3987831/")
