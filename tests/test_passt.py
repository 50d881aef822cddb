"""PaSST: its log-mel, its network from a file in the published layout, the confs that use both.

The references follow the published code (kkoutini/PaSST), whose files cannot be shipped. Here they
have random weights, in the published names and shapes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from helpers import plain_config
from torch import nn
from torch.nn import functional
from torchaudio.compliance import kaldi

from ast_repr import backbones, config, features, manifest, model_spec, pretrained, sections
from ast_repr.backbones import weights
from ast_repr.classifier import build_model
from ast_repr.data import feature_store
from ast_repr.settings import RunIdentity
from ast_repr.training import experiment

EGS = Path(__file__).parents[1] / "egs"
RECIPES = ("openmic", "irmas", "magnatagatune")
SMALL = {"width": 64, "depth": 2, "n_source": 7}
CLASSES = ["cello", "guitar", "voice"]


def published_file(width=768, depth=12, n_source=527, columns=99):
    """The tensors of a published file, uninitialised: patches of 16 x 16 with a stride of 10."""

    def linear(name, inputs, outputs):
        return {
            f"{name}.weight": torch.empty(outputs, inputs),
            f"{name}.bias": torch.empty(outputs),
        }

    def norm(name):
        return {f"{name}.weight": torch.empty(width), f"{name}.bias": torch.empty(width)}

    tensors = {
        "cls_token": torch.empty(1, 1, width),
        "dist_token": torch.empty(1, 1, width),
        "new_pos_embed": torch.empty(1, 2, width),
        "freq_new_pos_embed": torch.empty(1, width, 12, 1),
        "time_new_pos_embed": torch.empty(1, width, 1, columns),
        "patch_embed.proj.weight": torch.empty(width, 1, 16, 16),
        "patch_embed.proj.bias": torch.empty(width),
    }
    for number in range(depth):
        block = f"blocks.{number}"
        tensors |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        tensors |= linear(f"{block}.attn.qkv", width, 3 * width)
        tensors |= linear(f"{block}.attn.proj", width, width)
        tensors |= linear(f"{block}.mlp.fc1", width, 4 * width)
        tensors |= linear(f"{block}.mlp.fc2", 4 * width, width)
    tensors |= norm("norm") | norm("head.0")
    return tensors | linear("head.1", width, n_source) | linear("head_dist", width, n_source)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A small file of random weights."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in published_file(**SMALL).items():
        is_gain = "norm" in name or name.startswith("head.0")
        offset = 1.0 if is_gain and name.endswith("weight") else 0.0
        tensors[name] = offset + 0.1 * torch.randn(tensor.shape, generator=generator)
    path = tmp_path_factory.mktemp("passt") / "passt.pt"
    torch.save(tensors, path)
    return path


def published_network(state, x):
    """(B, 1, F, T) -> (logits, embedding), as in the published code, with heads 64 wide."""

    def part(name):
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def norm(name, x, eps=1e-6):
        return functional.layer_norm(x, x.shape[-1:], *part(name), eps)

    def linear(name, x):
        return functional.linear(x, *part(name))

    patches = functional.conv2d(x, *part("patch_embed.proj"), stride=10)
    patches = patches + state["time_new_pos_embed"][..., : patches.shape[3]]
    patches = patches + state["freq_new_pos_embed"]
    tokens = torch.cat([state["cls_token"], state["dist_token"]], dim=1) + state["new_pos_embed"]
    x = torch.cat([tokens.expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    for number in range(SMALL["depth"]):
        block = f"blocks.{number}"
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        q, k, v = qkv.unflatten(2, (3, -1, 64)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(2, 3) / 8).softmax(dim=3)
        x = x + linear(f"{block}.attn.proj", (attention @ v).transpose(1, 2).flatten(2))
        hidden = functional.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + linear(f"{block}.mlp.fc2", hidden)
    embedding = norm("norm", x)[:, :2].mean(dim=1)
    return linear("head.1", norm("head.0", embedding, 1e-5)), embedding


def build(file, **options):
    dims = weights.read_header(file)["dims"]
    return weights.load(backbones.build("passt", **(dims | options)), file).eval()


# The log-mel.


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


# The network.


def test_the_sizes_are_those_of_the_published_files():
    """The counts of the published OpenMIC file, and of the published network, which has 159."""
    with torch.device("meta"):
        for n_source, parameters in ((527, 86_153_758), (20, 85_373_992)):
            tensors = published_file(n_source=n_source)
            assert len(tensors) == 159
            assert sum(tensor.numel() for tensor in tensors.values()) == parameters
        network = backbones.build("passt", frames=998)
    # The joint position embedding is larger; the second head is left out.
    assert sum(p.numel() for p in network.parameters()) == 86_575_631


@pytest.mark.parametrize("frames", [998, 1000, 304])
def test_a_file_gives_the_published_outputs(frames, file):
    x = torch.randn(2, 1, 128, frames, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, embedding = published_network(torch.load(file, weights_only=True), x)
        output = build(file, frames=frames)(x.transpose(2, 3))
    assert logits.std() > 0.1
    torch.testing.assert_close(output.source_logits, logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(output.embedding, embedding, rtol=0, atol=1e-4)


def test_the_header_has_what_the_file_does_not_say(file):
    header = weights.read_header(file)
    assert header["layout"] == "passt"
    assert (header["mean"], header["std"]) == (-4.5, 2.5)
    network = build(file, frames=998, steps=16)
    assert network.grid == (12, 99)
    assert {module.eps for module in network.modules() if isinstance(module, nn.LayerNorm)} == {
        1e-6
    }
    assert network(torch.zeros(1, 1, 998, 128)).embedding.shape == (1, 64, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"time_new_pos_embed": None},
        {"freq_new_pos_embed": torch.zeros(1, 65, 12, 1)},
        {"new_pos_embed": torch.zeros(2)},
    ],
    ids=["missing", "another width", "another rank"],
)
def test_other_position_embeddings_are_refused_in_one_line(change, file, tmp_path):
    tensors = torch.load(file, weights_only=True) | change
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    torch.save(tensors, tmp_path / "other.pt")
    with pytest.raises(weights.WeightsError, match=r"other\.pt: position embeddings") as caught:
        weights.read_header(tmp_path / "other.pt")
    assert "\n" not in str(caught.value)


# Confs.


def model_of(conf, file, classes=CLASSES):
    """(model, feature) as the stage `train` builds them."""
    feature = features.build(**conf.feature.to_dict())
    conf = replace(conf, run=RunIdentity("corpus", "", [], "passt_s", "", "", seed=0))
    spec = model_spec.from_config(conf, classes, feature, None, "passt_s", file)
    return build_model(classes, **spec).eval(), feature


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["ast_linear", "ast_unet_residual", "ast_patch"])
def test_the_confs_of_ast_run_on_it(name, recipe, file):
    conf = config.load(EGS / recipe / "conf", name, network="passt")
    sections.check(conf)
    model, feature = model_of(conf, file)
    window = features.window(feature)
    assert window.sample_rate == 32_000
    assert (model.mean.item(), model.std.item()) == (-4.5, 2.5)
    logits = model(feature(0.1 * torch.randn(1, window.samples)))
    assert logits.shape == (1, 3) and logits.isfinite().all()


@pytest.mark.parametrize("name", ["ast_adapter", "ast_prototypes", "ast_stacked"])
def test_parts_of_a_transformer_suit_it(name, file):
    conf = config.load(EGS / "openmic" / "conf", name, network="passt")
    sections.check(conf)
    model, feature = model_of(conf, file)
    assert model(torch.randn(1, *feature.shape)).isfinite().all()


def test_the_weights_of_ast_and_of_passt_are_not_confused(file, backbone_file):
    conf = config.load(EGS / "openmic" / "conf", "ast_linear")
    with pytest.raises(ValueError, match="'passt', expected those of ast; pass --backbone passt_s"):
        model_of(conf, file)
    conf = config.load(EGS / "openmic" / "conf", "ast_linear", network="passt")
    with pytest.raises(ValueError, match="'ast_repr', expected those of passt"):
        model_of(conf, backbone_file)


def test_the_catalogues_entry_is_a_passt_with_audiosets_classes():
    entry = pretrained.find("passt_s")
    assert entry.network == "passt" and len(entry.source_classes()) == 527
    assert pretrained.statistics("passt_s") == {}  # they are in the header
    assert pretrained.zero_shot("passt_s") == pretrained.zero_shot("ast_audioset")


# Teachers.


@pytest.mark.parametrize("method", ["kd", "east_final", "east_kd"])
def test_a_setting_makes_it_the_teacher(method):
    name = f"{method}_ast+teacher.backbone=passt_s+teacher.feature.name=logmel_passt"
    conf = config.load(EGS / "openmic" / "conf", name)
    sections.check(conf)
    assert conf.teacher.feature.to_dict() == {"name": "logmel_passt"}


STORED = {
    "logmel": {"name": "logmel", "frames": 64, "bins": 32},
    "logmel_passt": {"name": "logmel_passt", "frames": 304},
}


@pytest.fixture
def experiment_with_teacher(file, tmp_path, monkeypatch):
    """An Experiment whose student is on another log-mel, and the teacher's log-mels (12, ...)."""
    entry = replace(pretrained.find("passt_s"), file=str(file), bytes=None)
    monkeypatch.setattr(pretrained, "find", lambda name: entry)
    clips = []
    for i in range(12):
        labels = {name: float((i + k) % 2) for k, name in enumerate(CLASSES)}
        split = "train" if i < 8 else "valid"
        clips.append(manifest.Clip(f"c{i}", f"g{i}", "none.ogg", 0.0, split, labels))
    for name, section in STORED.items():
        feature = features.build(**section)
        noise = np.random.default_rng(0).normal(-4, 3, (12, *feature.shape)).astype(np.float16)
        folder = tmp_path / "data" / "features" / name
        identities = manifest.identities(clips, name)
        feature_store.write_shard(folder, 0, noise, identities, feature.spec())
    conf = plain_config(
        0,
        run={"classes": CLASSES},
        feature=STORED["logmel"],
        input={"norm": "backbone"},
        backbone={"name": "cp_resnet", "weights": "none", "finetune": True, "width": 2},
        teacher={"backbone": "passt_s", "feature": STORED["logmel_passt"]},
        method={"name": "east_kd"},
    )
    context = experiment.RunContext(str(tmp_path / "data"), clips, CLASSES, "other", "unused")
    run = experiment.Experiment(tmp_path, conf, context, PartialState(), torch.device("cpu"))
    return run, torch.from_numpy(noise).float()


def test_a_teacher_has_an_input_and_a_normalisation_of_its_own(experiment_with_teacher, file):
    run, log_mels = experiment_with_teacher
    splits, _ = run.load_splits()
    trainee = experiment.Trainee(nn.Identity(), splits)
    run.add_teacher(trainee, ("teacher_frames", "teacher_logits"))
    batch = trainee.splits["train"].whole()
    assert batch.features.shape == (8, 1, 64, 32)
    assert batch.teacher_logits.shape == (8, 3)
    with torch.no_grad():
        teacher = build(file, frames=304, steps=experiment.TEACHER_STEPS)
        expected = teacher((log_mels[:8] + 4.5) / 5).embedding
    torch.testing.assert_close(batch.teacher_frames, expected)
