"""Configs: YAML files that hold only their differences from others.

    base: ast_linear.yaml             another conf, which this one is merged over
    reprogrammer: {name: unet, ...}   an entry of a registry by its name, with its keywords
    train: {epochs: 20, ...}          a section with fixed keys, see settings.py

A section whose `name` differs from its base's replaces it as a whole; other sections are merged key
by key. Settings such as `train.epochs=5` are merged last; their values are read as YAML. Two
sections of a conf are merged only in some cases:

    without_vggish: {...}             if the corpus has no VGGish features
    paper: {...}                      with protocol paper, over protocol_paper.yaml

With a pre-trained network other than AST, backbone_<network>.yaml is merged over the confs of AST;
their choice of weights, and whether they are trained, stays.

A variant is a conf and settings in one name, `ast_unet+input.norm=corpus`. A study (studies.yaml)
is a list of confs and variants that answer one question; its name stands for all of them.

The config of a run also has a section "run" with its conf and seed, and hashes of its manifest and
weights, and in its section "teacher", if there is one, the hash of the teacher's weights.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from . import atomic, choices, identity, manifest, pretrained, typecheck, yaml_file
from .choices import unknown
from .settings import Config, RunIdentity

BASE = "base.yaml"
STUDIES = "studies.yaml"
CONDITIONAL = ("without_vggish", "paper")
SCORING = ("score.", "test_augment.")  # settings that training does not depend on
AST = "ast"  # the pre-trained network of the confs
MOVED = {
    "row": "the name in tables stands in published.yaml, under `name`",
    "published": "published results stand in published.yaml",
    "train.labels": "now train.label_fraction",
    "train.head_first": "now train.probe_first",
}


class ConfigError(ValueError):
    """A conf that does not exist or makes no sense: a usage error."""


def studies(folder: str | Path) -> dict[str, list[str]]:
    """Read the confs of each study in studies.yaml, if there is one.

    Raises:
        ConfigError: the file is not YAML, or a study has no list of confs.
    """
    path = Path(folder) / STUDIES
    if not path.is_file():
        return {}
    confs = {}
    for name, study in read(path).items():
        listed = study.get("confs") if isinstance(study, dict) else None
        if not typecheck.matches(listed, list[str]):
            raise ConfigError(f"{path}: {name}: no list of confs; expected confs: [A, B, ...]")
        confs[name] = listed
    return confs


def select(folder: str | Path, wanted: str) -> list[str]:
    """List the confs and variants that a comma-separated list of them and of studies names.

    "all" stands for every conf.

    Raises:
        ConfigError: there is no such conf (the message lists all), or a variant's setting is not
            section.key=value.
    """
    known = choices.confs(folder)
    groups = studies(folder) | {"all": known}
    chosen = []
    for name in map(str.strip, wanted.split(",")):
        if name:
            chosen += groups.get(name, [name])
    for name in chosen:
        stem, *settings = name.split("+")
        if stem not in known:
            raise ConfigError(unknown("conf", stem, [*known, *groups]))
        for setting in settings:
            # It becomes part of a folder's name.
            if not re.fullmatch(r"\w+\.[\w.]+=[\w.-]+", setting):
                raise ConfigError(
                    f"variant {name!r}: found {setting!r}, expected section.key=value of letters, "
                    "digits, '.', '_' and '-'"
                )
    if not chosen:
        raise ConfigError("no conf named; expected a comma-separated list, or all")
    return list(dict.fromkeys(chosen))


def load(
    folder: str | Path,
    name: str,
    corpus: str | None = None,
    protocol: str = "clean",
    settings: Iterable[str] = (),
    lacking: Collection[str] = (),
    network: str = AST,
) -> Config:
    """Resolve a conf or variant.

    Merged are, in this order: base.yaml, the corpus' overlay if there is one, the conf's chain of
    bases, the network's overlay, the protocol's, then the settings of the variant and `settings`.

    Args:
        lacking: features that the corpus lacks ("vggish"); the section without_<feature> is merged.
        network: the pre-trained one, which takes the place of AST.

    Raises:
        ConfigError: unreadable, or an unknown key, a wrong type, range or choice; the key is named.
    """
    folder = Path(folder)
    stem, *variations = name.split("+")
    config = read(folder / BASE)
    corpus_file = folder / f"corpus_{corpus}.yaml"
    if corpus_file.is_file():
        config = overlay(config, read(corpus_file))
    conf = _chain(folder / f"{stem}.yaml")
    conditional = {key: conf.pop(key, {}) for key in CONDITIONAL}
    config = overlay(config, conf)
    for feature in lacking:
        config = overlay(config, conditional[f"without_{feature}"])
    if network != AST:
        config = _with_network(config, folder / f"backbone_{network}.yaml")
    if protocol != "clean":
        path = folder / f"protocol_{protocol}.yaml"
        if not path.is_file():
            raise ConfigError(unknown("protocol", protocol, choices.protocols(folder)))
        config = overlay(config, read(path))
        config = overlay(config, conditional.get(protocol, {}))
    for setting in (*variations, *settings):
        config = overlay(config, _setting(setting))
    return build(config)


def of_runs(
    confs: dict[str, Config],
    seeds: Iterable[int],
    data: str | Path,
    clips: list[manifest.Clip],
    classes: list[str],
    backbone: str,
    weights: str | Path,
) -> list[Config]:
    """Make the config of each run: each conf with each seed.

    Args:
        confs: by name.
        data: folder of the corpus; `clips` and `classes` are those of its manifest.
        backbone: its name in the catalogue; `weights`: its file.

    Raises:
        ValueError: the weights are the catalogue's, and damaged.
    """
    pretrained.verify_weights(backbone, weights)
    manifest_sha256 = manifest.content_sha256(clips, classes)
    chosen_sha256 = identity.of_file(weights)
    configs = []
    for name, conf in confs.items():
        weights_sha256 = chosen_sha256
        if pretrained.starts_from_panns(conf.backbone.name, conf.backbone.weights):
            path = pretrained.panns_path()
            weights_sha256 = identity.of_file(path) if path.is_file() else ""
        for seed in seeds:
            run = RunIdentity(
                corpus=Path(data).name,
                manifest_sha256=manifest_sha256,
                classes=classes,
                backbone=backbone,
                weights_sha256=weights_sha256,
                conf=name,
                seed=seed,
            )
            teacher = conf.teacher
            if teacher is not None:
                sha256 = pretrained.find(teacher.backbone).sha256
                teacher = replace(teacher, sha256=sha256)
            configs.append(replace(conf, teacher=teacher, run=run))
    return configs


def overlay(below: dict, above: dict) -> dict:
    """Merge `above` over `below`; a section with another `name` is replaced as a whole."""
    merged = dict(below)
    for key, value in above.items():
        old = below.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        if both and value.get("name", old.get("name")) == old.get("name"):
            value = overlay(old, value)
        merged[key] = value
    return merged


def build(values: dict) -> Config:
    """Build a Config from nested dicts.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of range; the key is named.
    """
    for key in _flatten(values):
        for old, remedy in MOVED.items():
            if f"{key}.".startswith(f"{old}."):
                raise ConfigError(f"config {old}: {remedy}")
    try:
        return Config.from_dict(values)
    except typecheck.RecordError as error:
        raise ConfigError(f"config {error}") from error


def save(path: Path, config: Config) -> None:
    """Write a config as YAML, atomically."""
    atomic.write_text(path, yaml_file.dump(config.to_dict()))


def differences(saved: dict, config: Config) -> list[str]:
    """List the keys in which a saved config differs from this one, as "key: saved -> now".

    Args:
        saved: nested dicts, from a file or a checkpoint.
    """
    before = _flatten(saved)
    now = _flatten(config.to_dict())
    differing = []
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            differing.append(f"{key}: {before.get(key)!r} -> {now.get(key)!r}")
    return differing


def refuse_other(folder: object, saved: dict, config: Config) -> None:
    """Refuse a run that was trained with another config; settings of scoring may change.

    Raises:
        ConfigError: the keys that differ are named.
    """
    differing = [line for line in differences(saved, config) if not line.startswith(SCORING)]
    if differing:
        raise ConfigError(
            f"{folder} was trained with a different config: {'; '.join(differing)}; "
            "use that config, or pass --overwrite to retrain"
        )


def read(path: Path) -> dict:
    """Read a YAML file as nested dicts; nothing is resolved.

    Raises:
        ConfigError: missing, not YAML, or no sections.
    """
    try:
        config = yaml_file.read(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such conf") from error
    except yaml_file.YamlError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected sections, found {typecheck.shown(config)}")
    return config


def _chain(path, seen=()):
    """Merge a conf over the chain of its bases, base.yaml excluded."""
    conf = read(path)
    base = conf.pop("base", BASE)
    if base == BASE:
        return conf
    if path in seen:
        raise ConfigError(f"{path}: is its own base, through {', '.join(p.name for p in seen)}")
    return overlay(_chain(path.with_name(base), (*seen, path)), conf)


def _with_network(config, path):
    """Merge the overlay of a pre-trained network, if the config's backbone is AST."""
    backbone = config.get("backbone")
    if not isinstance(backbone, dict) or backbone.get("name") != AST:
        return config
    above = read(path)
    return overlay(config, above | {"backbone": backbone | above["backbone"]})


def _setting(text):
    """Parse "train.epochs=5" as {"train": {"epochs": 5}}."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"setting {text!r}; expected section.key=value")
    try:
        tree = yaml_file.parse(value, f"setting {text!r}")
    except yaml_file.YamlError as error:
        raise ConfigError(str(error)) from error
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def _flatten(config, prefix=""):
    """{"train.epochs": 20, ...} of a nested dict; empty sections stay as they are."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
