"""PANNs' CNN14: verified, converted, and the start of each branch; all on made-up weights."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

import train as stage
from ast_repr import config, features, identity, model_spec, pretrained
from ast_repr.backbones.weights import WeightsError
from ast_repr.classifier import build_model
from ast_repr.settings import RunIdentity

CONFS = Path(__file__).parents[1] / "egs" / "irmas" / "conf"
RUN = RunIdentity("irmas", "", [], "ast_tiny_synth", "", "", seed=0)
WIDTHS = (1, 64, 128, 256, 512)


@pytest.fixture
def cnn14(tmp_path, monkeypatch):
    """The tensors of the first blocks of a CNN14, and their file, which is expected."""
    torch.manual_seed(0)
    state = {"fc_audioset.weight": torch.zeros(527, 4)}
    for block in range(1, 5):
        channels = WIDTHS[block - 1]
        width = WIDTHS[block]
        name = f"conv_block{block}"
        state[f"{name}.conv1.weight"] = torch.randn(width, channels, 3, 3) / (9 * channels) ** 0.5
        state[f"{name}.conv2.weight"] = torch.randn(2, width, 3, 3)
        state[f"{name}.bn1.weight"] = torch.rand(width) + 0.5
        state[f"{name}.bn1.bias"] = torch.randn(width)
        state[f"{name}.bn1.running_mean"] = torch.randn(width)
        state[f"{name}.bn1.running_var"] = torch.rand(width) + 0.5
        state[f"{name}.bn1.num_batches_tracked"] = torch.tensor(7)
    path = tmp_path / "cnn14.pth"
    torch.save({"iteration": 7, "model": state}, path)
    expect(path, monkeypatch)
    monkeypatch.setattr(pretrained, "panns_path", lambda: tmp_path / "panns.safetensors")
    return state, path


def expect(path, monkeypatch):
    """Let the catalogue's CNN14 be this file."""
    entry = replace(pretrained.find("panns_cnn14"), sha256=identity.of_file(path))
    monkeypatch.setattr(pretrained, "find", lambda name: entry)


def build(conf):
    feature = features.build(**conf.feature.to_dict())
    conf = replace(conf, run=RUN)
    classes = [f"class {number}" for number in range(11)]
    return build_model(
        classes, **model_spec.from_config(conf, classes, feature, None, "ast_tiny_synth", "unused")
    )


def test_every_branch_starts_as_the_first_convolutions_of_cnn14(cnn14):
    state, path = cnn14
    pretrained.fetch_panns(path)
    model = build(config.load(CONFS, "multi_stft3_panns")).eval()
    assert sum(p.numel() for p in model.trainable_parameters()) == 8_598_603
    x = torch.randn(2, 1, 40, 30)
    expected = x
    for block in range(1, 5):
        name = f"conv_block{block}"
        expected = functional.conv2d(expected, state[f"{name}.conv1.weight"], padding=1)
        norm = [state[f"{name}.bn1.{key}"] for key in ("running_mean", "running_var")]
        scale = [state[f"{name}.bn1.{key}"] for key in ("weight", "bias")]
        expected = functional.relu(functional.batch_norm(expected, *norm, *scale))
        if block < 4:
            expected = functional.max_pool2d(expected, 2)
    for branch in model.backbone.branches:
        torch.testing.assert_close(branch(x), expected.mean(dim=(2, 3)))


def test_another_file_is_refused_and_nothing_written(cnn14):
    _, path = cnn14
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="found sha256 .*, expected .*zenodo"):
        pretrained.fetch_panns(path)
    with pytest.raises(FileNotFoundError):
        pretrained.fetch_panns(path.with_name("none.pth"))
    assert not pretrained.panns_path().exists()


def test_tensors_of_another_network_are_refused(cnn14, monkeypatch):
    state, path = cnn14
    del state["conv_block3.bn1.bias"]
    torch.save({"model": state}, path)
    expect(path, monkeypatch)
    with pytest.raises(WeightsError, match="no conv_block3.bn1.bias"):
        pretrained.fetch_panns(path)
    assert not pretrained.panns_path().exists()


def test_without_the_weights_the_conf_is_left_out_or_an_error(cnn14, capsys):
    confs = {name: config.load(CONFS, name) for name in ("multi_stft3", "multi_stft3_panns")}
    left = stage.possible(confs, [], SimpleNamespace(conf="all"))
    assert list(left) == ["multi_stft3"]
    assert "--panns-file" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--panns-file"):
        stage.possible(confs, [], SimpleNamespace(conf="multi_stft3_panns"))
    scratch = config.load(CONFS, "multi_stft3_panns", settings=["backbone.weights=none"])
    assert stage.possible({"scratch": scratch}, [], SimpleNamespace(conf="scratch"))
    build(scratch)


def test_the_weights_are_part_of_a_runs_identity(cnn14, tmp_path):
    state, path = cnn14
    chosen = tmp_path / "chosen.safetensors"
    chosen.write_bytes(b"chosen")
    pretrained.fetch_panns(path)
    confs = {name: config.load(CONFS, name) for name in ("multi_stft3", "multi_stft3_panns")}
    runs = config.of_runs(confs, [0], tmp_path, [], [], "own", chosen)
    hashes = [run.run.weights_sha256 for run in runs]
    assert hashes == [identity.of_file(chosen), identity.of_file(pretrained.panns_path())]
