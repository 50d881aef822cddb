"""Confs hold only what differs; they are merged in order, and checked to the key."""

from dataclasses import replace

import pytest
import yaml

from ast_repr import choices, config
from ast_repr.config import ConfigError
from ast_repr.settings import Config, Section

BASE = """
protocol: clean
feature: {name: logmel}
input: {norm: backbone}
augment: {mix: null, noise: 0, gain_db: 0, time: 0, freq: 0, fill: mean}
reprogrammer: {name: none}
backbone: {name: ast, weights: pretrained, finetune: false}
head: {name: embedding}
method: {name: supervised}
optimizer: {name: adamw, lr: 0.001, head_lr: null, weight_decay: 0.01}
schedule: {name: cosine, warmup: 1}
train:
  epochs: 6
  batch_size: 16
  micro_batch: null
  clip_fraction: 1.0
  label_fraction: 1.0
  probe_first: null
  patience: 6
  clip_norm: 1.0
  precision: auto
select: {split: valid, metric: macro_f1, mode: max}
"""
FILES = {
    "base.yaml": BASE,
    "plain.yaml": "method: {name: supervised}",
    "unet.yaml": "reprogrammer: {name: unet, residual: true}\ntrain: {epochs: 9}",
    "longer.yaml": "base: unet.yaml\nreprogrammer: {name: unet, width: 3}\ntrain: {epochs: 30}",
    "noise.yaml": "base: longer.yaml\nreprogrammer: {name: noise}",
    "protocol_paper.yaml": (
        "protocol: paper\noptimizer: {name: adam, lr: 1.0e-5}\ntrain: {batch_size: 4}"
    ),
    "corpus_openmic.yaml": "train: {epochs: 50, patience: 8}",
    "frames.yaml": (
        "head: {name: F}\nwithout_vggish: {head: {name: G}, train: {epochs: 6}}\n"
        "paper: {train: {batch_size: 128}}"
    ),
    "more.yaml": "base: frames.yaml\nwithout_vggish: {head: {name: H}}",
    "studies.yaml": (
        "rates: {question: How fast, confs: [unet, unet+optimizer.lr=0.1+train.epochs=2]}"
    ),
    "published.yaml": "unet: {name: U-Net}",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_conf_is_merged_over_the_base_key_by_key(folder):
    base = yaml.safe_load(BASE)
    expected = base | {"reprogrammer": {"name": "unet", "residual": True}}
    expected["train"] = base["train"] | {"epochs": 9}
    assert config.load(folder, "unet") == Config.from_dict(expected)
    assert config.load(folder, "plain") == Config.from_dict(base)


def test_a_chain_of_bases_is_merged_in_order(folder):
    longer = config.load(folder, "longer")
    assert longer.reprogrammer == Section("unet", {"residual": True, "width": 3})
    assert (longer.train.epochs, longer.train.patience) == (30, 6)


def test_a_section_of_another_name_is_replaced_as_a_whole(folder):
    assert config.load(folder, "noise").reprogrammer == Section("noise", {})
    paper = config.load(folder, "unet", protocol="paper")
    assert paper.optimizer == Section("adam", {"lr": 1e-5})


def test_a_conf_overrides_the_corpus_the_protocol_a_conf_and_settings_all(folder):
    settings = ["train.epochs=5", "train.patience=null", "optimizer.betas=[0.9, 0.95]"]
    conf = config.load(folder, "unet", "openmic", "paper", settings)
    train = config.load(folder, "plain").train
    assert conf.train == replace(train, epochs=5, batch_size=4, patience=None)
    assert conf.optimizer.options["betas"] == [0.9, 0.95] and conf.protocol == "paper"
    assert config.load(folder, "plain", "openmic").train.epochs == 50
    assert config.load(folder, "unet", "openmic").train == replace(train, epochs=9, patience=8)
    assert config.load(folder, "unet", "synthetic") == config.load(folder, "unet")


@pytest.mark.parametrize(
    ("setting", "section"),
    [
        ("reprogrammer={name: cnn, width: 2}", Section("cnn", {"width": 2})),
        ("reprogrammer.name=cnn", Section("cnn", {})),
    ],
)
def test_a_setting_may_replace_a_whole_section(setting, section, folder):
    assert config.load(folder, "unet", settings=[setting]).reprogrammer == section


def test_a_variant_is_a_conf_with_settings(folder):
    variant = config.load(folder, "unet+optimizer.lr=0.1+train.epochs=2")
    assert variant == config.load(folder, "unet", settings=["optimizer.lr=0.1", "train.epochs=2"])
    assert (variant.optimizer.options["lr"], variant.train.epochs) == (0.1, 2)


def test_conditional_sections_are_merged_only_in_their_case(folder):
    frames = config.load(folder, "frames")
    assert frames.head.name == "F"
    lacking = config.load(folder, "more", lacking=["vggish"])
    assert (lacking.head.name, lacking.train.epochs) == ("H", 6)
    assert config.load(folder, "frames", protocol="paper").train.batch_size == 128
    assert config.load(folder, "unet", protocol="paper").train.batch_size == 4


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_circle_of_bases_is_named(names, folder):
    for name, base in zip(names, names[1:] + names[:1], strict=True):
        (folder / f"{name}.yaml").write_text(f"base: {base}.yaml")
    with pytest.raises(ConfigError, match="a.yaml: is its own base"):
        config.load(folder, "a")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("trian.epochs=3", "'trian': did you mean 'train'"),
        ("train.epoch=3", "'train.epoch': did you mean 'train.epochs'"),
        ("protocol.x=3", "protocol"),
        ("train=3", "train: 3; .*epochs, batch_size"),
        ("input=null", "input: None; .*norm"),
        ("reprogrammer=unet", "reprogrammer: 'unet'; .*section"),
        ("reprogrammer={width: 3, name: null}", "reprogrammer: .*name"),
        ("train.epochs=0", "train.epochs: 0; .*at least 1"),
        ("train.label_fraction=0", "train.label_fraction: 0; .*above 0 and at most 1"),
        ("train.label_fraction=1.5", "train.label_fraction: 1.5"),
        ("train.clip_fraction=0", "train.clip_fraction: 0"),
        ("train.epochs=2.5", "train.epochs: 2.5; .*whole number"),
        ("train.epochs=ten", "train.epochs: 'ten'; .*whole number"),
        ("train.epochs=true", "train.epochs: True"),
        ("train.epochs=.nan", "train.epochs: nan"),
        ("train.epochs=null", "train.epochs: None"),
        ("train.batch_size=-1", "train.batch_size: -1"),
        ("train.micro_batch=0", "train.micro_batch: 0; .*at least 1"),
        ("train.patience=0", "train.patience: 0"),
        ("train.clip_norm=-0.1", "train.clip_norm: -0.1"),
        ("optimizer.lr=-1", "optimizer.lr: -1; .*at least 0"),
        ("optimizer.lr=fast", "optimizer.lr: 'fast'; .*number"),
        ("backbone.finetune=3", "backbone.finetune: 3"),
        ("backbone.weights=rnadom", "backbone.weights: .*'random'"),
        ("select.metric=macrof1", "select.metric: .*did you mean 'macro_f1'"),
        ("select.mode=maximum", "did you mean 'max'"),
        ("train.precision=float16", "did you mean 'float32'"),
        ("train.probe_first={epochs: 3, lr: 0.1}", "train.probe_first.batch_size: missing"),
        ("train.probe_first=3", "train.probe_first: 3; .*epochs, batch_size, patience, lr"),
        ("train.epochs", "'train.epochs'; expected section.key=value"),
        ("=3", "'=3'; expected section.key=value"),
        ("train.epochs=[", "YAML"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_refused_by_key(setting, named, folder):
    with pytest.raises(ConfigError, match=named) as caught:
        config.load(folder, "unet", settings=[setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("row=AST-BS", "published.yaml"),
        ("published={macro_f1: [1]}", "published.yaml"),
        ("train.labels=0.5", "train.label_fraction"),
        ("train.head_first={epochs: 3}", "train.probe_first"),
    ],
)
def test_a_key_of_old_names_its_new_place(setting, place, folder):
    key = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=f"{key}: .*{place}"):
        config.load(folder, "unet", settings=[setting])


@pytest.mark.parametrize(
    "setting",
    [
        "train.patience=null",
        "train.clip_norm=0",
        "train.micro_batch=1",
        "train.label_fraction=1",
        "optimizer.lr=0",
        "optimizer.head_lr=null",
        "train.epochs=1",
        "train.probe_first={epochs: 1, batch_size: 1, patience: 1, lr: 0}",
    ],
)
def test_the_ends_of_the_ranges_are_allowed(setting, folder):
    config.load(folder, "unet", settings=[setting])


def test_a_key_that_base_yaml_lacks_is_named(folder):
    (folder / "base.yaml").write_text(BASE.replace("  patience: 6\n", ""))
    with pytest.raises(ConfigError, match="train.patience: missing"):
        config.load(folder, "unet")


@pytest.mark.parametrize(
    ("text", "named"),
    [("{", "bad.yaml: .*YAML"), ("3", "bad.yaml: .*3"), ("", "bad.yaml"), ("base: no.yaml", "no.")],
)
def test_an_unreadable_conf_is_named(text, named, folder):
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=named):
        config.load(folder, "bad")


def test_names_are_the_confs_without_base_and_overlays(folder):
    assert choices.confs(folder) == ["frames", "longer", "more", "noise", "plain", "unet"]
    assert config.select(folder, "all") == choices.confs(folder)
    variant = "unet+optimizer.lr=0.1+train.epochs=2"
    assert config.select(folder, "noise,rates") == ["noise", "unet", variant]
    assert config.select(folder, "unet, noise,unet,") == ["unet", "noise"]


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("unett", "'unett': did you mean 'unet'. valid: all, frames, .*rates, unet"),
        ("unett+train.epochs=1", "'unett': did you mean 'unet'"),
        ("unet+epochs", "'unet.epochs': found 'epochs', expected section.key=value"),
        ("unet+train.epochs=../x", "section.key=value of letters"),
        ("unet,base", "'base'"),
        (",", "no conf named"),
        ("", "no conf named"),
    ],
)
def test_a_conf_that_does_not_exist_lists_all(wanted, named, folder):
    with pytest.raises(ConfigError, match=named):
        config.select(folder, wanted)


def test_an_unknown_protocol_lists_all(folder):
    with pytest.raises(ConfigError, match="'papr': did you mean 'paper'. valid: clean, paper"):
        config.load(folder, "unet", protocol="papr")


def test_a_saved_config_comes_back_and_differences_are_named(folder):
    conf = config.load(folder, "unet", protocol="paper")
    config.save(folder / "run" / "config.yaml", conf)
    saved = config.read(folder / "run" / "config.yaml")
    assert Config.from_dict(saved) == conf and config.differences(saved, conf) == []
    settings = ["train.epochs=5", "reprogrammer.width=2", "optimizer.lr=0.1"]
    other = config.load(folder, "unet", protocol="paper", settings=settings)
    assert config.differences(saved, other) == [
        "optimizer.lr: 1e-05 -> 0.1",
        "reprogrammer.width: None -> 2",
        "train.epochs: 9 -> 5",
    ]


@pytest.mark.parametrize("study", ["confz: [plain]", "confs: plain", "confs: [[plain]]", "5"])
def test_a_study_without_a_list_of_confs_is_named(study, folder):
    (folder / "studies.yaml").write_text(f"norm: {{{study}}}\n" if ":" in study else "norm: 5\n")
    with pytest.raises(config.ConfigError, match=r"studies\.yaml: norm"):
        config.select(folder, "plain")
