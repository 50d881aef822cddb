"""Configs say only what differs, and are checked to the key."""

import pytest
import yaml

from ast_repr import config
from ast_repr.config import ConfigError

BASE = """
protocol: clean
row: ""
reprogrammer: {name: none}
optimizer: {name: adamw, lr: 0.001, head_lr: null, weight_decay: 0.01}
train: {epochs: 4, batch_size: 16, micro_batch: null, label_fraction: 1.0, probe_first: null, patience: 6, clip_norm: 1.0, precision: auto}
select: {split: valid, metric: macro_f1, mode: max}
published: null
"""
FILES = {
    "base.yaml": BASE,
    "plain.yaml": "row: plain",
    "unet.yaml": "row: U-Net\nreprogrammer: {name: unet, residual: true}\ntrain: {epochs: 9}",
    "longer.yaml": "base: unet.yaml\nreprogrammer: {name: unet, width: 3}\ntrain: {epochs: 30}",
    "noise.yaml": "base: longer.yaml\nreprogrammer: {name: noise}",
    "protocol_paper.yaml": "protocol: paper\noptimizer: {name: adam, lr: 1.0e-5}\ntrain: {batch_size: 4}",
    "corpus_openmic.yaml": "train: {epochs: 50, patience: 8}",
    "frames.yaml": "row: F\nwithout_vggish: {row: G, train: {epochs: 6}}\npaper: {train: {batch_size: 128}}",
    "more.yaml": "base: frames.yaml\nwithout_vggish: {row: H}",
    "studies.yaml": "rates: {question: 'How fast?', confs: [unet, unet+optimizer.lr=0.1+train.epochs=2]}",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_conf_overlays_the_base_key_by_key(folder):
    base, found = yaml.safe_load(BASE), config.load(folder, "unet")
    assert found == base | {
        "row": "U-Net",
        "reprogrammer": {"name": "unet", "residual": True},
        "train": base["train"] | {"epochs": 9},
    }
    assert config.load(folder, "plain") == base | {"row": "plain"}


def test_a_chain_of_bases_is_overlaid_in_order(folder):
    found = config.load(folder, "longer")
    assert found["reprogrammer"] == {"name": "unet", "residual": True, "width": 3}
    assert (found["row"], found["train"]["epochs"], found["train"]["patience"]) == ("U-Net", 30, 6)
    assert "base" not in found


def test_a_section_of_another_name_is_replaced_whole(folder):
    assert config.load(folder, "noise")["reprogrammer"] == {"name": "noise"}
    assert config.load(folder, "unet", protocol="paper")["optimizer"] == {
        "name": "adam",
        "lr": 1e-5,
    }


def test_the_corpus_is_laid_under_the_conf_the_protocol_and_the_settings_over_it(folder):
    found = config.load(
        folder,
        "unet",
        "openmic",
        "paper",
        ["train.epochs=5", "train.patience=null", "optimizer.betas=[0.9, 0.95]"],
    )
    assert found["train"] == {
        "epochs": 5,
        "batch_size": 4,
        "micro_batch": None,
        "label_fraction": 1.0,
        "probe_first": None,
        "patience": None,
        "clip_norm": 1.0,
        "precision": "auto",
    }
    assert found["optimizer"]["betas"] == [0.9, 0.95] and found["protocol"] == "paper"
    assert config.load(folder, "plain", "openmic")["train"]["epochs"] == 50
    assert config.load(folder, "unet", "openmic")["train"] == config.load(folder, "unet")[
        "train"
    ] | {"patience": 8}
    assert config.load(folder, "unet", "synthetic") == config.load(folder, "unet")


def test_a_setting_may_swap_a_whole_section(folder):
    assert config.load(folder, "unet", settings=["reprogrammer={name: cnn, width: 2}"])[
        "reprogrammer"
    ] == {
        "name": "cnn",
        "width": 2,
    }
    assert config.load(folder, "unet", settings=["reprogrammer.name=cnn"])["reprogrammer"] == {
        "name": "cnn"
    }


def test_a_variant_is_a_conf_with_settings_that_nobody_published(folder):
    (folder / "known.yaml").write_text(
        "published: {macro_f1: [1], source: a, corpus: b, protocol: c}"
    )
    assert config.load(folder, "known")["published"] is not None
    found = config.load(folder, "known+optimizer.lr=0.1+train.epochs=2")
    assert (found["optimizer"]["lr"], found["train"]["epochs"], found["published"]) == (
        0.1,
        2,
        None,
    )
    assert config.load(folder, "known", settings=["optimizer.lr=0.1"])["published"] is None
    assert config.load(folder, "known", settings=["train.epochs=2"])["published"] is not None
    assert config.load(folder, "unet+reprogrammer.name=cnn")["row"] == "cnn"  # not the U-Net's


def test_conditional_sections_hold_only_in_their_case(folder):
    assert config.load(folder, "frames")["row"] == "F" and "paper" not in config.load(
        folder, "frames"
    )
    lacking = config.load(folder, "more", lacking=["vggish"])
    assert (lacking["row"], lacking["train"]["epochs"]) == ("H", 6)
    assert config.load(folder, "frames", protocol="paper")["train"]["batch_size"] == 128
    assert config.load(folder, "unet", protocol="paper")["train"]["batch_size"] == 4


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_circle_of_bases_is_named(names, folder):
    for name, base in zip(names, names[1:] + names[:1]):
        (folder / f"{name}.yaml").write_text(f"base: {base}.yaml")
    with pytest.raises(ConfigError, match="a.yaml: is its own base"):
        config.load(folder, "a")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trian.epochs=3", "unknown config section 'trian': did you mean 'train'"),
        ("train.epoch=3", "unknown config key 'train.epoch': did you mean 'train.epochs'"),
        ("row.x=3", "config row.x: row has no keys; expected one value"),
        ("train=3", "config train: 3; expected a section with epochs, batch_size"),
        ("reprogrammer=unet", "config reprogrammer: 'unet'; expected a section"),
        ("reprogrammer={width: 3, name: null}", "config reprogrammer: no name"),
        ("train.epochs=0", "config train.epochs: 0; expected a number of at least 1"),
        (
            "train.label_fraction=0",
            "config train.label_fraction: 0; expected a fraction above 0, up to 1",
        ),
        ("train.label_fraction=1.5", "config train.label_fraction: 1.5; expected a fraction"),
        ("train.epochs=2.5", "config train.epochs: 2.5; expected a whole number"),
        ("train.epochs=ten", "config train.epochs: 'ten'; expected a number"),
        ("train.epochs=true", "config train.epochs: True; expected a number"),
        ("train.epochs=.nan", "config train.epochs: nan; expected a number"),
        ("train.epochs=null", "config train.epochs: empty; expected something like 4"),
        ("train.batch_size=-1", "config train.batch_size: -1"),
        ("train.micro_batch=0", "config train.micro_batch: 0; expected a number of at least 1"),
        ("train.patience=0", "config train.patience: 0"),
        ("train.clip_norm=-0.1", "config train.clip_norm: -0.1"),
        ("optimizer.lr=-1", "config optimizer.lr: -1; expected a number of at least 0"),
        (
            "select.metric=macrof1",
            "unknown config select.metric 'macrof1': did you mean 'macro_f1'",
        ),
        ("select.mode=maximum", "did you mean 'max'"),
        ("train.precision=float16", "did you mean 'float32'"),
        (
            "train.probe_first={epochs: 3, lr: 0.1}",
            "config train.probe_first: .*expected null, or batch_size, epochs, lr, patience",
        ),
        (
            "published={macro_f1: [1]}",
            "config published: .*expected macro_f1, source, corpus, protocol",
        ),
        ("train.epochs", "setting 'train.epochs'; expected section.key=value"),
        ("=3", "setting '=3'; expected section.key=value"),
        ("train.epochs=[", "setting .*not readable as YAML"),
    ],
)
def test_what_is_unknown_or_out_of_range_is_refused_by_key(setting, message, folder):
    config.load(folder, "unet")
    with pytest.raises(ConfigError, match=message) as caught:
        config.load(folder, "unet", settings=[setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "train.patience=null",
        "train.clip_norm=0",
        "train.micro_batch=1",
        "optimizer.lr=0",
        "train.epochs=1",
    ],
)
def test_the_ends_of_the_ranges_are_allowed(setting, folder):
    config.load(folder, "unet", settings=[setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as YAML"),
        ("3", "expected sections, found 3"),
        ("", "expected sections"),
        ("base: nowhere.yaml", "nowhere.yaml: no such conf"),
    ],
)
def test_an_unreadable_conf_is_named(text, message, folder):
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(folder, "bad")


def test_names_are_the_confs_without_base_and_overlays(folder):
    assert config.names(folder) == ["frames", "longer", "more", "noise", "plain", "unet"]
    assert config.select(folder, "all") == config.names(folder)
    assert config.select(folder, "noise,rates") == [
        "noise",
        "unet",
        "unet+optimizer.lr=0.1+train.epochs=2",
    ]
    assert config.select(folder, "unet, noise,unet,") == ["unet", "noise"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            "unett",
            "unknown conf 'unett': did you mean 'unet'. valid: all, frames, longer, more, noise, plain, rates, unet",
        ),
        ("unett+train.epochs=1", "unknown conf 'unett': did you mean 'unet'"),
        ("unet+epochs", "variant 'unet.epochs': found 'epochs', expected section.key=value"),
        ("unet+train.epochs=../x", "expected section.key=value of letters"),
        ("unet,base", "unknown conf 'base'"),
        (",", "no conf named"),
        ("", "no conf named"),
    ],
)
def test_a_conf_that_is_not_there_lists_what_is(wanted, message, folder):
    with pytest.raises(ConfigError, match=message):
        config.select(folder, wanted)


def test_an_unknown_protocol_lists_what_there_is(folder):
    with pytest.raises(
        ConfigError, match="unknown protocol 'papr': did you mean 'paper'. valid: clean, paper"
    ):
        config.load(folder, "unet", protocol="papr")


def test_what_is_saved_comes_back_and_differences_are_named(folder):
    found = config.load(folder, "unet", protocol="paper")
    config.save(folder / "run" / "config.yaml", found)
    saved = config.read(folder / "run" / "config.yaml")
    assert config.differences(saved, found) == []
    assert config.differences(saved, found | {"row": "shown otherwise"}) == []
    other = config.load(
        folder,
        "unet",
        protocol="paper",
        settings=["train.epochs=5", "reprogrammer.width=2", "optimizer.lr=0.1"],
    )
    assert config.differences(saved, other) == [
        "optimizer.lr: 1e-05 -> 0.1",
        "reprogrammer.width: None -> 2",
        "train.epochs: 9 -> 5",
    ]
