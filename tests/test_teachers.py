"""Teachers: their embeddings over time, the methods that use them, and runs of students."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from helpers import plain_config
from torch.nn import functional

import extract
import train as stage
from ast_repr import (
    backbones,
    checkpoint,
    config,
    features,
    heads,
    losses,
    manifest,
    methods,
    pretrained,
    sections,
)
from ast_repr.backbones import weights
from ast_repr.classifier import (
    HeadOnlyModel,
    Reprogrammed,
    build_model,
    multiply_accumulates,
)
from ast_repr.data import feature_store
from ast_repr.data.dataset import Batch, rebatch
from ast_repr.training import estimate, experiment, trainer

CPU = torch.device("cpu")
CONFS = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
CLASSES = ["bass", "flute", "voice"]
FEATURE = {"name": "logmel", "frames": 64, "bins": 32}
NAMES = ("kd", "east_final", "east_kd")


# Embeddings over time.


def test_the_embedding_of_ast_over_time_averages_its_last_patches(tiny_ast):
    network = tiny_ast(steps=2, pooled_blocks=[1])
    outputs = []
    network.blocks[-1].register_forward_hook(lambda module, x, tokens: outputs.append(tokens))
    embedding, logits, _ = network(torch.randn(3, 1, 64, 32))
    patches = network.norm(outputs[0])[:, 2:].unflatten(1, (2, 4))  # 2 of frequency, 4 of time
    expected = torch.stack([patches[:, :, :2].mean((1, 2)), patches[:, :, 2:].mean((1, 2))], dim=2)
    assert network.embed_dim == 32 and logits is None
    torch.testing.assert_close(embedding, expected)
    with pytest.raises(ValueError, match="steps 5; expected from 1 to 4"):
        tiny_ast(steps=5)


def test_the_embedding_of_musicnn_over_time_averages_its_layers():
    """Over a single patch its mean is that of the pooled embedding, before the normalisation."""
    torch.manual_seed(0)
    pooled = backbones.build("musicnn", frames=187).eval()
    frames = backbones.build("musicnn", frames=187, steps=1).eval()
    longer = backbones.build("musicnn", frames=640, steps=16).eval()
    for network in (frames, longer):
        network.load_state_dict(pooled.state_dict())
    x = torch.randn(2, 1, 640, 96)
    with torch.no_grad():
        embedding, logits, _ = frames(x[:, :, :187])
        normalised = frames.pool_norm(embedding.repeat(1, 1, 2).flatten(1))
        torch.testing.assert_close(normalised[:, 1::2], pooled(x[:, :, :187]).embedding[:, 1::2])
        assert longer(x).embedding.shape == (2, longer.embed_dim, 16) and longer.embed_dim == 753
    assert logits is None
    with pytest.raises(ValueError, match="steps 188; expected from 1 to 187"):
        backbones.build("musicnn", frames=187, steps=188)


# Methods.


def student(seed=0):
    torch.manual_seed(seed)
    backbone = {
        "name": "cp_resnet",
        "options": {"frames": 64, "mels": 32, "width": 2, "mean": -4.0, "std": 4.5},
        "file": None,
        "seed": seed,
        "finetune": True,
    }
    return build_model(CLASSES, "backbone", {"name": "none"}, backbone, {"name": "embedding"})


def batch_of(size=6):
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(size, 3, generator=generator) < 0.6
    mask[1] = False
    return Batch(
        torch.randn(size, 1, 64, 32, generator=generator),
        (torch.rand(size, 3, generator=generator) < 0.5).float(),
        mask,
        torch.randn(size, 5, 2, generator=generator),
        torch.randn(size, 3, generator=generator),
    )


def test_the_loss_is_bce_and_the_regulariser_in_the_shares_of_the_weight():
    model = student()
    batch = batch_of()
    output = model.encode(batch.features)
    logits = model.head(output)
    assert output.embedding.shape == (6, 8, 4)
    teacher_frames = batch.teacher_frames.repeat_interleave(2, dim=2)
    targets = batch.targets[batch.mask]
    bce = functional.binary_cross_entropy_with_logits(logits[batch.mask], targets)
    correlation = losses.distance_correlation(output.embedding, teacher_frames)
    cosine = losses.cosine_difference(output.embedding, teacher_frames).mean()
    kl = losses.soft_binary_kl(logits, batch.teacher_logits, batch.mask)
    distance = (1 - correlation).mean()
    cases = {
        ("east_final", "distance"): distance,
        ("east_final", "cosine"): cosine,
        ("east_kd", "distance"): 0.7 * distance + 0.3 * kl,
    }
    for (name, similarity), regulariser in cases.items():
        method = methods.build(name, model=model, weight=0.8, similarity=similarity)
        values = method.step(batch, 0)
        torch.testing.assert_close(values["regulariser"], regulariser)
        torch.testing.assert_close(values["loss"], 0.2 * bce + 0.8 * regulariser)
    labelled = batch.select(batch.mask.any(dim=1))
    logits = model(labelled.features)
    kl = losses.soft_binary_kl(logits, labelled.teacher_logits, labelled.mask)
    values = methods.build("kd", model=model, weight=0.8).step(batch, 0)
    torch.testing.assert_close(values["regulariser"], kl)  # of the clips with labels
    torch.testing.assert_close(values["loss"], 0.2 * values["bce"] + 0.8 * kl)


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_student_gets_a_gradient(name):
    model = student()
    methods.build(name, model=model).step(batch_of(), 0)["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert model.backbone.layers[0].weight.grad.abs().sum() > 0


def test_clips_without_labels_train_by_the_comparison_of_frames_alone():
    batch = batch_of()
    batch = batch._replace(mask=torch.zeros_like(batch.mask))
    values = methods.build("east_final", model=student()).step(batch, 0)
    assert values["bce"] == 0 and values["regulariser"] > 0
    assert not methods.build("kd", model=student()).step(batch, 0)["loss"].requires_grad


def test_impossible_students_and_options_are_refused(tiny_ast):
    model = student()
    for options, message in (
        ({"weight": 1.1}, "weight 1.1 of a teacher; expected from 0 to 1"),
        ({"similarity": "cosin"}, "did you mean 'cosine'"),
    ):
        with pytest.raises(ValueError, match=message):
            methods.build("east_final", model=model, **options)
    with pytest.raises(ValueError, match="only the head is trained"):
        methods.build("east_final", model=HeadOnlyModel(model))
    plain = Reprogrammed(torch.nn.Identity(), tiny_ast(), model.head)
    plain.head = torch.nn.Linear(1, 1)
    plain.head.forward = lambda output: output.embedding[:, :3]
    with pytest.raises(ValueError, match=r"embedding is \(6, 32\); expected frames"):
        methods.build("east_final", model=plain).step(batch_of(), 0)


# Data.


def test_clips_keep_what_a_teacher_says_of_them(tiny_clips):
    clips = tiny_clips(10)
    assert clips.batch(torch.tensor([1])).teacher_frames is None
    numbers = torch.arange(10.0)
    clips = clips.with_teacher(teacher_frames=numbers[:, None, None], teacher_logits=-numbers)
    batches = list(clips.shuffled(4, seed=0, epoch=0))
    order = torch.cat([batch.teacher_frames[:, 0, 0] for batch in batches])
    assert sorted(order.tolist()) == numbers.tolist() != order.tolist()
    for batch in rebatch(batches, 3):
        rows = batch.teacher_frames[:, 0, 0].long()
        assert torch.equal(batch.teacher_logits, -rows.float())
        assert torch.equal(batch.features, clips.batch(rows).features)
        assert torch.equal(batch.to("cpu").teacher_logits, batch.teacher_logits)
    half = clips.subsample_clips(0.5, seed=1)
    rows = half.whole().teacher_frames[:, 0, 0].long()
    assert [clips.names[row] for row in rows] == half.names and len(half) == 5


# Runs.


@pytest.fixture
def teacher(tmp_path, tiny_ast, monkeypatch):
    """A tiny AST in the place of the catalogue's."""
    network = tiny_ast(stride=[16, 4])  # 13 columns
    weights.save(network, tmp_path / "tiny.safetensors")
    entry = pretrained.Entry(
        "tiny", str(tmp_path / "tiny.safetensors"), None, None, "c" * 64, None, "MIT"
    )
    monkeypatch.setattr(pretrained, "find", lambda name: entry)
    monkeypatch.setattr(experiment, "TEACHER_STEPS", 4)
    return network


@pytest.fixture
def corpus(tmp_path):
    """(its folder, clips): a store of 16 clips for training and 8 for validation."""
    clips = []
    for i in range(24):
        labels = {name: float((i + k) % 2) for k, name in enumerate(CLASSES)}
        split = "train" if i < 16 else "valid"
        clips.append(manifest.Clip(f"c{i}", f"g{i}", "none.ogg", 0.0, split, labels))
    noise = np.random.default_rng(0).normal(-4, 4.5, (24, 1, 64, 32)).astype(np.float16)
    feature_store.write_shard(
        tmp_path / "data" / "features" / "logmel",
        0,
        noise,
        manifest.identities(clips, "logmel"),
        features.build(**FEATURE).spec(),
    )
    return tmp_path / "data", clips


def conf(name="east_kd", mixup=None):
    return plain_config(
        0,
        augment={"mixup": mixup},
        run={"classes": CLASSES},
        feature=FEATURE,
        input={"norm": "backbone"},
        backbone={"name": "cp_resnet", "weights": "none", "finetune": True, "width": 2},
        teacher={"backbone": "tiny", "feature": FEATURE},
        method={"name": name},
    )


def context_of(corpus):
    data, clips = corpus
    return experiment.RunContext(str(data), clips, CLASSES, "other", "unused")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mixup", [None, {"alpha": 0.3}], ids=["plain", "mixup"])
def test_a_run_that_was_cut_off_ends_bit_equal(name, mixup, corpus, teacher, tmp_path, monkeypatch):
    states = []
    for folder, cut in (("straight", False), ("cut", True)):
        path = tmp_path / folder
        path.mkdir()
        if cut:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(trainer.Trainer, "_report", interrupt)
                experiment.train(path, conf(name, mixup), context_of(corpus), PartialState(), CPU)
            assert len(trainer.read_history(path)) == 1
        experiment.train(path, conf(name, mixup), context_of(corpus), PartialState(), CPU)
        states.append(checkpoint.load(path / "last.pt"))
    straight, resumed = states
    assert len(straight["history"]) == 3
    model = straight["method"]["model"]
    assert all(torch.equal(model[key], resumed["method"]["model"][key]) for key in model)
    assert straight["about"]["trainable_parameters"] == straight["about"]["total_parameters"]


def interrupt(*args):
    raise KeyboardInterrupt


def test_the_teacher_is_a_frozen_network_and_a_logistic_regression(corpus, teacher, tmp_path):
    run = experiment.Experiment(tmp_path, conf(), context_of(corpus), PartialState(), CPU)
    splits, _ = run.load_splits()
    trainee = experiment.Trainee(student(), splits)
    run.add_teacher(trainee, ("teacher_frames", "teacher_logits"))
    batch = trainee.splits["train"].whole()
    x = (batch.features.float() - teacher.mean) / (2 * teacher.std)
    over_time = backbones.build("ast", **teacher.dims, steps=4).eval()
    over_time.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(batch.teacher_frames, over_time(x).embedding)
        embedding = teacher(x).embedding
    head = heads.build("logistic", 3, embed_dim=32)
    valid = splits["valid"].whole()
    x = (valid.features.float() - teacher.mean) / (2 * teacher.std)
    with torch.no_grad():
        valid = valid._replace(features=teacher(x).embedding)
    head.fit(batch._replace(features=embedding), valid, seed=0)
    torch.testing.assert_close(batch.teacher_logits, head.linear(embedding), rtol=0, atol=1e-4)
    assert trainee.seconds >= trainee.shared_seconds > 0
    assert trainee.teacher_macs == multiply_accumulates(teacher, (1, 64, 32))
    assert run.load_splits()[0]["train"].teacher == {}  # other runs share them


def test_an_estimate_needs_no_features_of_a_teacher(corpus, teacher):
    data, clips = corpus
    cost = estimate._try(conf(), replace(context_of(corpus)), CPU, 2, threads=1)
    assert cost.epochs == 3 and cost.prepare_s > 0
    assert not (data / "embeddings").exists()


# Confs.


def test_the_weights_of_a_teacher_are_part_of_a_runs_identity(tmp_path):
    (tmp_path / "chosen").write_bytes(b"weights")
    confs = {name: config.load(CONFS, name) for name in ("student_small", "kd_musicnn")}
    alone, taught = config.of_runs(confs, [0], tmp_path, [], [], "own", tmp_path / "chosen")
    assert alone.teacher is None and "teacher" not in alone.to_dict()
    sha256 = pretrained.find("musicnn_msd").sha256
    assert taught.to_dict()["teacher"] == {
        "backbone": "musicnn_msd",
        "feature": {"name": "musicnn_mel", "frames": 640},
        "sha256": sha256,
    }
    assert config.build(taught.to_dict()) == taught


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("student_small", "method.name=kd", "method kd needs a section teacher"),
        ("kd_ast", "method.name=supervised", "supervised has no use for the section teacher"),
        ("kd_ast", "teacher.backbone=ast_tiny", "did you mean 'ast_tiny_synth'"),
        ("kd_ast", "teacher.feature.bnis=3", "did you mean 'bins'"),
        ("east_kd_ast", "augment.mix={probability: 0.5, gain_db: 0}", "expected mix: null"),
    ],
)
def test_a_teacher_and_its_method_belong_together(name, setting, message):
    with pytest.raises(ValueError, match=message):
        sections.check(config.load(CONFS, name, settings=[setting]))


def test_features_of_the_teacher_are_extracted_too(monkeypatch, tmp_path):
    extracted = []
    monkeypatch.setattr(extract, "extract", lambda clips, section, args: extracted.append(section))
    monkeypatch.setattr(manifest, "read", lambda folder: ([SimpleNamespace(sidecars={})], []))
    args = ["--data", str(tmp_path), "--conf-dir", str(CONFS), "--conf", "kd_ast,kd_musicnn"]
    extract.main(extract.parse().parse_args(args))
    assert extracted == [{"name": "logmel"}, {"name": "musicnn_mel", "frames": 640}]


def test_a_teacher_without_weights_is_left_out_of_all_or_fetched(monkeypatch, capsys):
    fetched = []
    monkeypatch.setattr(pretrained.Entry, "is_available", property(lambda entry: not entry.package))
    monkeypatch.setattr(pretrained.Entry, "fetch", lambda entry: fetched.append(entry.name))
    confs = {name: config.load(CONFS, name) for name in ("kd_ast", "kd_musicnn")}
    assert list(stage.with_teachers(confs, SimpleNamespace(conf="all"))) == ["kd_ast"]
    assert "kd_musicnn: left out, no weights of musicnn_msd" in capsys.readouterr().out
    assert stage.with_teachers(confs, SimpleNamespace(conf="kd_ast,kd_musicnn")) == confs
    assert fetched == ["ast_tiny_synth", "ast_tiny_synth", "musicnn_msd"]
