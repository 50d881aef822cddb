"""What a head reads is computed once: other runs and processes get it from disk, bit for bit.

They never get what no longer fits.
"""

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from helpers import plain_config

from ast_repr import (
    checkpoint,
    classifier,
    config,
    devices,
    evaluation,
    features,
    inference,
    manifest,
    settings,
)
from ast_repr.backbones import weights
from ast_repr.data import feature_store
from ast_repr.run_folder import RunFolder
from ast_repr.training import embedding_cache, estimate, experiment, trainer

CPU = torch.device("cpu")
CLASSES = ["bass", "flute", "voice"]
FEATURE = {"name": "logmel", "frames": 64, "bins": 32}


@pytest.fixture
def computed(monkeypatch):
    """Batch sizes of the clips that went through a network so far, for their heads to read."""
    sizes, read = [], classifier.Reprogrammed.head_input
    monkeypatch.setattr(
        classifier.Reprogrammed,
        "head_input",
        lambda model, x: sizes.append(len(x)) or read(model, x),
    )
    return sizes


@pytest.fixture
def backbone_at(tmp_path, tiny_ast):
    """Where the weights of a tiny AST are."""
    weights.save(tiny_ast(), tmp_path / "x.safetensors")
    return str(tmp_path / "x.safetensors")


@pytest.fixture
def corpus(tmp_path):
    """(its folder, clips): a store of 20 clips for training, 8 for validation, 9 for test."""
    splits = ["train"] * 20 + ["valid"] * 8 + ["test"] * 9
    clips = [
        manifest.Clip(
            f"c{i}",
            f"g{i}",
            "none.ogg",
            0.0,
            split,
            {name: float((i + k) % 2) for k, name in enumerate(CLASSES)},
        )
        for i, split in enumerate(splits)
    ]
    fill_store(tmp_path / "data", clips)
    return tmp_path / "data", clips


def fill_store(data, clips):
    noise = np.random.default_rng(0).normal(-4, 4.5, (len(clips), 1, 64, 32)).astype(np.float16)
    feature_store.write_shard(
        data / "features" / "logmel",
        0,
        noise,
        manifest.identities(clips, "logmel"),
        features.build(**FEATURE).spec(),
    )


def built(dims, file, reprogrammer="none", seed=3, norm="backbone", head=None, **options):
    """(model, the values that it was built from)."""
    torch.manual_seed(seed)
    spec = {
        "norm": norm,
        "reprogrammer": {"name": reprogrammer}
        | ({"start": "normal"} if reprogrammer == "noise" else {}),
        "head": head or {"name": "embedding"},
        "backbone": {
            "name": "ast",
            "options": dims | {"mean": -4.0, "std": 4.0} | options,
            "file": file,
            "seed": seed,
            "finetune": False,
        },
    }
    return classifier.build_model(CLASSES, **spec), spec


def cache(data, spec=None):
    """As a new process has it."""
    return embedding_cache.EmbeddingCache(data, "logmel", spec or {"frames": 64}, {})


def directly(model, clips):
    """The embeddings, by the network's parts."""
    with torch.no_grad():
        x = clips.batch(torch.arange(len(clips))).features.float()
        return model.eval().backbone(model.reprogrammer(model.normalise(x))).embedding


@pytest.mark.parametrize(
    ("reprogrammer", "file", "shared"),
    [("none", True, True), ("none", False, False), ("noise", True, False)],
)
def test_what_the_head_reads_is_shared_by_runs_of_one_frozen_model(
    reprogrammer, file, shared, tiny_dims, backbone_at, tiny_clips, tmp_path, computed
):
    clips, own, found = tiny_clips(5), cache(tmp_path / "data"), []
    for seed in (0, 1):
        model, spec = built(tiny_dims, backbone_at if file else None, reprogrammer, seed)
        read, _ = own.read(model.train(), clips, spec, CPU, "embed", size=2)
        assert model.training and not model.backbone.training
        torch.testing.assert_close(read, directly(model, clips), rtol=0, atol=1e-5)
        found.append(read)
    assert computed == [2, 2, 1] * (1 if shared else 2)
    assert (found[0] is found[1]) == shared
    assert (tmp_path / "data").exists() == shared


def test_what_is_not_shared_leaves_nothing_behind(tiny_dims, backbone_at, tiny_clips, tmp_path):
    clips, own, found = tiny_clips(5), cache(tmp_path / "data"), {}
    for name in ("noise", "none", "noise"):
        model, spec = built(tiny_dims, backbone_at, name)
        found[name], _ = own.read(model, clips, spec, CPU, "embed")
        torch.testing.assert_close(found[name], directly(model, clips), rtol=0, atol=1e-5)
    assert not torch.allclose(found["noise"], found["none"], atol=1e-3)
    assert len(list((tmp_path / "data" / "embeddings").iterdir())) == 1


@pytest.mark.parametrize("head", [{"name": "embedding"}, {"name": "labelmap", "kind": "linear"}])
def test_another_process_finds_it_bit_for_bit(
    head, tiny_dims, backbone_at, tiny_clips, tmp_path, computed
):
    (model, spec), clips = built(tiny_dims, backbone_at, head=head), tiny_clips(7)
    first, took = cache(tmp_path).read(model, clips, spec, CPU, "embed", size=4)
    assert computed == [4, 3] and took > 0 and first.dtype == torch.float32
    second, charged = cache(tmp_path).read(model, clips, spec, CPU, "embed", size=4)
    assert computed == [4, 3] and charged == took and torch.equal(first, second)


TOKENS = {"name": "attentive_pooling"}


def test_tokens_are_kept_in_float16(tiny_dims, backbone_at, tiny_clips, tmp_path, capsys):
    model, spec = built(tiny_dims, backbone_at, head=TOKENS)
    clips = tiny_clips(7)
    first, _ = cache(tmp_path).read(model.train(), clips, spec, CPU, "embed", size=4)
    assert model.training and first.dtype == torch.float16 and first.shape == (7, 8, 32)
    assert f"embed: {7 * 8 * 32 * 2 / 1e9:.2g} GB of tokens in memory and disk" in (
        capsys.readouterr().out
    )
    tokens = model.head_input(clips.whole().features.float())
    torch.testing.assert_close(first.float(), tokens, rtol=1e-3, atol=1e-3)
    second, _ = cache(tmp_path).read(model, clips, spec, CPU, "embed", size=4)
    assert torch.equal(first, second) and not capsys.readouterr().out
    without, _ = cache(None).read(model, clips, spec, CPU, "embed", size=4)
    assert torch.equal(first, without)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_tokens_that_have_no_room_are_refused_at_once(
    place, tiny_dims, backbone_at, tiny_clips, tmp_path, computed, monkeypatch
):
    if place == "memory":
        monkeypatch.setattr(devices, "memory_left", lambda: 1000)
    else:
        usage = SimpleNamespace(free=1000)
        monkeypatch.setattr(embedding_cache.shutil, "disk_usage", lambda folder: usage)
    model, spec = built(tiny_dims, backbone_at, head=TOKENS)
    expected = f"found .*1e-06 GB of {place}.*expected 3.6e-06 GB of each; free some"
    with pytest.raises(ValueError, match=expected):
        cache(tmp_path).read(model, tiny_clips(7), spec, CPU, "embed")
    assert computed == [1] and not list((tmp_path / "embeddings").iterdir())


def test_without_a_store_nothing_is_written(
    tiny_dims, backbone_at, tiny_clips, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    model, spec = built(tiny_dims, backbone_at)
    cache(None).read(model, tiny_clips(3), spec, CPU, "embed")
    assert set(tmp_path.rglob("*")) == before


CHANGES = {
    "number of clips": lambda case: case | {"clips": case["make"](6)},
    "their names": lambda case: case | {"clips": case["make"](5, split="test")},
    "feature": lambda case: case | {"spec": {"frames": 65}},
    "normalisation": lambda case: case | {"norm": [-4.0, 4.1]},
    "reprogrammer": lambda case: case | {"reprogrammer": {"name": "none", "own": 1}},
    "weights": lambda case: case | {"moved": True},
    "heads of attention": lambda case: case | {"options": {"num_heads": 4}},
    "what is read": lambda case: case | {"head": {"name": "labelmap", "kind": "linear"}},
    "the audio of a clip": lambda case: case | {"audio": "of another file"},
    "the audio of a clip outside of these": lambda case: case | {"other audio": "of another file"},
    "a store made again": lambda case: case | {"written": True},
    "nothing": lambda case: case,
    "the weights' place": lambda case: case | {"renamed": True},
}
NO_CHANGE = (
    "the audio of a clip outside of these",
    "a store made again",
    "nothing",
    "the weights' place",
)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_the_values_makes_it_compute_again(
    change, tiny_dims, backbone_at, tiny_clips, tmp_path, computed
):
    data = tmp_path / "data"
    stored = [
        manifest.Clip(f"train{i}", "", f"{i}.ogg", 0.0, "train", {}, f"of file {i}")
        for i in range(9)
    ]
    fill_store(data, stored)

    def read(case):
        file = backbone_at
        if case.get("renamed"):
            file = str(tmp_path / "y.safetensors")
            os.rename(backbone_at, file)
        model, spec = built(
            tiny_dims,
            file,
            norm=case.get("norm", "backbone"),
            head=case.get("head"),
            **case.get("options", {}),
        )
        if case.get("moved"):
            with torch.no_grad():
                model.backbone.pos_embed[0, 0, 0] += 1e-3
        now = list(stored)
        now[2] = replace(now[2], sha256=case.get("audio", now[2].sha256))
        now[7] = replace(now[7], sha256=case.get("other audio", now[7].sha256))
        if case.get("written") or now != stored:
            fill_store(data, now)
        spec |= {"reprogrammer": case.get("reprogrammer", spec["reprogrammer"])}
        return cache(data, case.get("spec")).read(model, case["clips"], spec, CPU, "embed")

    case = {"clips": tiny_clips(5), "make": tiny_clips}
    read(case)
    assert len(computed) == 1
    read(CHANGES[change](case))
    assert len(computed) == (1 if change in NO_CHANGE else 2)


def test_another_kind_of_device_has_files_of_its_own(tiny_dims, backbone_at, tiny_clips, tmp_path):
    (model, spec), clips = built(tiny_dims, backbone_at), tiny_clips(5)
    names = [
        cache(tmp_path)._name(model, clips, spec, torch.device(device))
        for device in ("cpu", "cuda:0", "cuda:1")
    ]
    assert names[0] != names[1] == names[2]


def test_edited_code_of_a_network_is_computed_again(
    tiny_dims, backbone_at, tiny_clips, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for factor in (2, 2, 30):
        (tmp_path / "own.py").write_text(OWN.format(factor=factor))
        spec = {
            "norm": "none",
            "reprogrammer": {"name": "none"},
            "head": {"name": "embedding"},
            "backbone": {
                "name": "own.Own",
                "options": {"frames": 64, "mels": 32},
                "file": None,
                "seed": 0,
                "finetune": False,
            },
        }
        found.append(
            cache(tmp_path).read(
                classifier.build_model(CLASSES, **spec, allow=("own.Own",)),
                tiny_clips(3),
                spec,
                CPU,
                "embed",
            )[0]
        )
        del sys.modules["own"]
    assert torch.equal(found[0], found[1]) and torch.allclose(found[2], 15 * found[0])


OWN = """
from torch import nn
from ast_repr.backbones import Output

class Own(nn.Module):
    n_source, mean, std, embed_dim = None, 0.0, 0.5, 32

    def __init__(self, frames, mels):
        super().__init__()

    def forward(self, x):
        return Output({factor} * x.mean(2)[:, 0], None)
"""


@pytest.mark.parametrize(
    "damage",
    [
        lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
        lambda path, whole: path.write_bytes(b""),
        lambda path, whole: path.write_bytes(
            whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
        ),  # one bit of an embedding
        lambda path, whole: np.savez(
            path, read=np.array([{}]), seconds=1.0
        ),  # what would need pickle
    ],
    ids=["half", "empty", "bit", "objects"],
)
def test_a_damaged_file_is_replaced(damage, tiny_dims, backbone_at, tiny_clips, tmp_path, computed):
    (model, spec), clips = built(tiny_dims, backbone_at), tiny_clips(5)
    first, _ = cache(tmp_path).read(model, clips, spec, CPU, "embed")
    (path,) = (tmp_path / "embeddings").iterdir()
    damage(path, path.read_bytes())
    for _ in range(2):
        again, _ = cache(tmp_path).read(model, clips, spec, CPU, "embed")
        assert torch.equal(first, again) and len(computed) == 2


def test_where_nothing_can_be_written_it_goes_without(
    tiny_dims, backbone_at, tiny_clips, tmp_path, capsys
):
    (tmp_path / "embeddings").write_text("a file where the folder would be")
    (model, spec), clips = built(tiny_dims, backbone_at), tiny_clips(5)
    read, _ = cache(tmp_path).read(model, clips, spec, CPU, "embed")
    assert torch.equal(read, directly(model, clips)) and "not kept" in capsys.readouterr().out


def conf(seed=0):
    return plain_config(
        seed,
        run={"classes": CLASSES},
        feature=FEATURE,
        input={"norm": "backbone"},
        backbone={"name": "ast", "weights": "pretrained"},
    )


def run(folder, context, seed=0):
    """What a run leaves: (its history without times, the tensors of its best epoch)."""
    folder.mkdir()
    experiment.train(folder, conf(seed), context, PartialState(), CPU)
    history = [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in trainer.read_history(folder)
    ]
    return history, checkpoint.load(RunFolder(folder).best("valid", "macro_f1"))["learned"]


def same(one, other):
    return (
        one[0] == other[0]
        and one[1].keys() == other[1].keys() != set()
        and all(torch.equal(one[1][key], other[1][key]) for key in one[1])
    )


def test_a_run_in_another_process_computes_nothing_and_ends_bit_equal(
    corpus, backbone_at, tmp_path, computed
):
    data, clips = corpus
    first, second = (
        run(
            tmp_path / name,
            experiment.RunContext(str(data), clips, CLASSES, "tiny", backbone_at),
        )
        for name in "ab"
    )
    assert computed == [20, 8] and same(first, second)
    kept = experiment.RunContext(str(data), clips, CLASSES, "tiny", backbone_at, "memory")
    splits = experiment.Experiment(tmp_path, conf(), kept, PartialState(), CPU).load_splits()
    without = experiment.RunContext(
        None,
        clips,
        CLASSES,
        "tiny",
        backbone_at,
        "memory",
        memory={experiment.key(conf(), "memory"): splits},
    )
    assert same(first, run(tmp_path / "c", without)) and computed == [20, 8] * 2
    abouts = [checkpoint.load(tmp_path / name / "last.pt")["about"] for name in "ab"]
    assert (
        abouts[0]["prepare_seconds"]
        == abouts[0]["shared_seconds"]
        == abouts[1]["prepare_seconds"]
        > 0
    )


def test_scoring_finds_it_too(corpus, backbone_at, tmp_path, computed):
    data, clips = corpus
    run(tmp_path / "a", experiment.RunContext(str(data), clips, CLASSES, "tiny", backbone_at))
    said = []
    for _ in range(2):
        del computed[:]
        folder = RunFolder(tmp_path / "a")
        evaluator = evaluation.Evaluator(str(data), clips, CLASSES, backbone_at, CPU)
        evaluator.evaluate(folder, evaluation.read_state(folder), conf())
        said.append(np.load(tmp_path / "a" / "predictions.npz")["scores"])
        assert computed == ([9] if len(said) == 1 else [])
        (tmp_path / "a" / "results.json").unlink()
    assert np.array_equal(*said)
    model, _ = inference.restore(RunFolder(tmp_path / "a").best("valid", "macro_f1"))
    x = torch.from_numpy(
        feature_store.Store(data / "features" / "logmel").read(
            [clip.clip for clip in clips if clip.split == "test"]
        )
    ).float()
    np.testing.assert_allclose(said[0], model(x).sigmoid().detach().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("names", [(), [f"tag {index}" for index in range(10)]])
def test_the_best_source_classes_are_in_the_results(names, corpus, tiny_ast, tmp_path):
    data, clips = corpus
    file = tmp_path / "named.safetensors"
    weights.save(tiny_ast(), file, names)
    head = settings.Section("statistical_labelmap", {"kind": "average_precision"})
    best_source = replace(conf(), head=head)
    context = experiment.RunContext(str(data), clips, CLASSES, "tiny", str(file))
    folder = RunFolder(tmp_path / "a")
    folder.path.mkdir()
    experiment.train(folder.path, best_source, context, PartialState(), CPU)
    evaluator = evaluation.Evaluator(str(data), clips, CLASSES, str(file), CPU)
    evaluator.evaluate(folder, evaluation.read_state(folder), best_source)
    sources = folder.read_results()["best_sources"]
    model, _ = inference.restore(folder.best("valid", "macro_f1"))
    chosen = model.head.weight.argmax(dim=0).tolist()
    expected = [names[index] if names else f"source {index}" for index in chosen]
    assert sources == dict(zip(CLASSES, expected, strict=True))


def test_scoring_may_average_over_pitch_shifts_after_training(corpus, backbone_at, tmp_path):
    data, clips = corpus
    run(tmp_path / "a", experiment.RunContext(str(data), clips, CLASSES, "tiny", backbone_at))
    folder = RunFolder(tmp_path / "a")
    evaluator = evaluation.Evaluator(str(data), clips, CLASSES, backbone_at, CPU)
    state = evaluation.read_state(folder)
    scores = {}
    for semitones in (None, 3.0):
        shifted = conf()
        if semitones is not None:
            shifted = replace(shifted, test_augment=settings.TestAugment(semitones))
        config.refuse_other(folder, state["about"]["config"], shifted)
        assert evaluator.evaluate(folder, state, shifted) is not None
        assert evaluator.evaluate(folder, state, shifted) is None
        scores[semitones] = np.load(folder.predictions)["scores"]
        settled = folder.read_results().get("test_augment")
        assert settled == (None if semitones is None else {"semitones": semitones})
    model, _ = inference.restore(folder.best("valid", "macro_f1"))
    feature = features.build(**FEATURE)
    names = [clip.clip for clip in clips if clip.split == "test"]
    x = torch.from_numpy(feature_store.Store(data / "features" / "logmel").read(names)).float()
    power = feature.to_power(x)
    expected = 0
    for shift in (-3, -1.5, 0, 1.5, 3):
        ratios = torch.full((len(x),), 2 ** (shift / 12))
        warped = feature.warp(power, torch.ones(len(x)), ratios)
        expected += model(feature.from_power(warped)).sigmoid().detach().numpy() / 5
    np.testing.assert_allclose(scores[3.0], expected, rtol=0, atol=1e-5)
    assert np.abs(scores[3.0] - scores[None]).max() > 1e-3


def test_training_and_evaluation_have_the_same_precision(
    corpus, backbone_at, tmp_path, computed, monkeypatch
):
    monkeypatch.setattr(devices, "has_bf16", lambda device: True)
    data, clips = corpus
    context = experiment.RunContext(str(data), clips, CLASSES, "tiny", backbone_at)
    evaluator = evaluation.Evaluator(str(data), clips, CLASSES, backbone_at, CPU)
    scores = []
    for precision in ("float32", "auto"):
        rounded = conf()
        rounded = replace(rounded, train=replace(rounded.train, precision=precision))
        folder = RunFolder(tmp_path / precision)
        folder.path.mkdir()
        experiment.train(folder.path, rounded, context, PartialState(), CPU)
        evaluator.evaluate(folder, evaluation.read_state(folder), rounded)
        scores.append(np.load(folder.predictions)["scores"])
    assert computed == [20, 8, 9] * 2  # neither reads what the other has cached
    assert not np.array_equal(*scores)
    np.testing.assert_allclose(*scores, rtol=0, atol=0.05)


def test_a_run_on_a_part_of_the_clips_embeds_and_counts_that_part(
    corpus, backbone_at, tmp_path, computed
):
    data, clips = corpus
    half = conf()
    half = replace(half, train=replace(half.train, clip_fraction=0.5))
    context = experiment.RunContext(str(data), clips, CLASSES, "tiny", backbone_at)
    (tmp_path / "run").mkdir()
    experiment.train(tmp_path / "run", half, context, PartialState(), CPU)
    about = checkpoint.load(tmp_path / "run" / "last.pt")["about"]
    assert computed == [10, 8] and about["train_clips"] == 10


def test_an_estimate_neither_reads_nor_writes_it(corpus, backbone_at, tmp_path):
    data, clips = corpus
    context = experiment.RunContext(str(data), clips, CLASSES, "tiny", backbone_at)
    estimate._try(conf(), context, CPU, estimate.STEPS, threads=1)
    assert not (data / "embeddings").exists()
    run(tmp_path / "a", context)
    for path in (data / "embeddings").iterdir():
        embedding_cache.save(path, embedding_cache.load(path)[0], 1e6)  # seconds that would be told
    there = {path: path.stat().st_mtime_ns for path in (data / "embeddings").iterdir()}
    cost = estimate._try(conf(), context, CPU, estimate.STEPS, threads=1)
    assert {path: path.stat().st_mtime_ns for path in (data / "embeddings").iterdir()} == there
    assert 0 < cost.shared_s == cost.prepare_s < 1e5
