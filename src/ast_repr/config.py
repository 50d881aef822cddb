"""Configs: YAML files that hold only what differs from others.

    base: ast_linear.yaml             another conf, which this one is merged over
    reprogrammer: {name: unet, ...}   an entry of a registry by its name, with its keywords
    train: {epochs: 20, ...}          a section with fixed keys, see the dataclasses below

A section whose `name` differs from its base's replaces it as a whole; other sections are merged key
by key. Settings such as `train.epochs=5` are merged last; their values are read as YAML. Two
sections of a conf are merged only in some cases:

    without_vggish: {...}             if the corpus has no VGGish features
    paper: {...}                      with protocol paper, over protocol_paper.yaml

A variant is a conf and settings in one name, `ast_unet+input.norm=corpus`. A study (studies.yaml)
is a list of confs and variants that answer one question; its name stands for all of them.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import atomic, records, typecheck, yaml_file
from .records import Range, number
from .registry import unknown

BASE = "base.yaml"
STUDIES = "studies.yaml"
NO_CONFS = (BASE, STUDIES, "published.yaml")
OVERLAYS = ("protocol_", "corpus_")  # files whose names start so are merged with any conf
CONDITIONAL = ("without_vggish", "paper")
MOVED = {
    "row": "the name in tables stands in published.yaml, under `name`",
    "published": "published results stand in published.yaml",
    "train.labels": "now train.label_fraction",
    "train.head_first": "now train.probe_first",
}


class ConfigError(ValueError):
    """A conf that does not exist or makes no sense: a usage error."""


@dataclass(frozen=True)
class Section:
    """An entry of a registry: its name, and keywords of its constructor."""

    name: str
    options: dict[str, Any]

    @classmethod
    def from_plain(cls, values: Any, where: str) -> "Section":
        """Build a section from {"name": ..., its options}; see `records.build`."""
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            raise records.RecordError(
                f"{where}: {typecheck.shown(values)}; expected a section with a name and options"
            )
        options = {key: value for key, value in values.items() if key != "name"}
        for key, value in options.items():
            hint = OPTIONS.get(f"{where}.{key}", Any)
            if isinstance(hint, Range):
                records.check(f"{where}.{key}", value, float | None, hint)
            else:
                records.check(f"{where}.{key}", value, hint)
        return cls(values["name"], options)


@dataclass(frozen=True)
class Input:
    """What is done to features before the reprogrammer."""

    norm: Literal["backbone", "none", "corpus"]


@dataclass(frozen=True)
class Augment:
    """SpecAugment: longest stripe in frames and in bands, and what fills it."""

    time: int = number(0)
    freq: int = number(0)
    fill: Literal["zero", "mean"]


@dataclass(frozen=True)
class ProbeFirst:
    """Training of the head alone, before the reprogrammer is trained."""

    epochs: int = number(1)
    batch_size: int = number(1)
    patience: int = number(1)
    lr: float = number(0)


@dataclass(frozen=True)
class Train:
    """The training loop."""

    epochs: int = number(1)
    batch_size: int = number(1)
    micro_batch: int | None = number(1)
    label_fraction: float = number(0, 1, above=True)
    probe_first: ProbeFirst | None
    patience: int | None = number(1)
    clip_norm: float | None = number(0)
    precision: Literal["auto", "float32"]


@dataclass(frozen=True)
class Select:
    """Which epoch's checkpoint is kept."""

    split: Literal["valid", "test"]
    metric: Literal["macro_f1", "positive_f1", "weighted_f1", "map", "auroc"]
    mode: Literal["max", "min"]


@dataclass(frozen=True)
class Config:
    """A resolved conf; base.yaml explains and sets every key."""

    protocol: Literal["clean", "paper"]
    feature: Section
    input: Input
    augment: Augment
    reprogrammer: Section
    backbone: Section
    head: Section
    method: Section
    optimizer: Section
    schedule: Section
    train: Train
    select: Select


OPTIONS = {  # of registry sections: what is known of their values beyond the constructor's types
    "backbone.weights": Literal["pretrained", "random"],
    "backbone.finetune": bool,
    "optimizer.lr": Range(0),
    "optimizer.head_lr": Range(0),
    "optimizer.weight_decay": Range(0),
}


def names(folder: str | Path) -> list[str]:
    """List the confs in a folder, sorted."""
    confs = []
    for path in Path(folder).glob("*.yaml"):
        if path.name not in NO_CONFS and not path.name.startswith(OVERLAYS):
            confs.append(path.stem)
    return sorted(confs)


def studies(folder: str | Path) -> dict[str, dict]:
    """Read studies.yaml, if there is one: {name: {"question": ..., "confs": [...], ...}}."""
    path = Path(folder) / STUDIES
    return read(path) if path.is_file() else {}


def select(folder: str | Path, wanted: str) -> list[str]:
    """List the confs and variants that a comma-separated list of them and of studies names.

    "all" stands for every conf.

    Raises:
        ConfigError: there is no such conf (the message lists all), or a variant's setting is not
            section.key=value.
    """
    known = names(folder)
    groups = {name: study["confs"] for name, study in studies(folder).items()}
    groups["all"] = known
    chosen = []
    for name in wanted.split(","):
        if name.strip():
            chosen += groups.get(name.strip(), [name.strip()])
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
) -> dict:
    """Resolve a conf or variant.

    Merged are, in this order: base.yaml, the corpus' overlay if there is one, the conf's chain of
    bases, the protocol's overlay, then the settings of the variant and `settings`.

    Args:
        lacking: features that the corpus lacks ("vggish"); the section without_<feature> is merged.

    Returns:
        nested dict with the keys of Config.

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
    if protocol != "clean":
        config = overlay(config, _protocol(folder, protocol))
        config = overlay(config, conditional.get(protocol, {}))
    for setting in (*variations, *settings):
        config = overlay(config, _setting(setting))
    check(config)
    return config


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


def check(config: dict) -> None:
    """Refuse unknown keys, wrong types, and values out of range.

    Raises:
        ConfigError: the first problem; the key is named.
    """
    keys = _flatten(config)
    for old, remedy in MOVED.items():
        if any(key == old or key.startswith(f"{old}.") for key in keys):
            raise ConfigError(f"config {old}: {remedy}")
    try:
        records.build(Config, config)
    except records.RecordError as error:
        raise ConfigError(f"config {error}") from error


def save(path: Path, config: dict) -> None:
    """Write a resolved config as YAML, atomically."""
    atomic.write_text(path, yaml_file.dump(config))


def differences(saved: dict, config: dict) -> list[str]:
    """List the keys in which a saved config differs from this one, as "key: saved -> now"."""
    before = _flatten(saved)
    now = _flatten(config)
    differing = []
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            differing.append(f"{key}: {before.get(key)!r} -> {now.get(key)!r}")
    return differing


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


def _protocol(folder, name):
    path = folder / f"protocol_{name}.yaml"
    if not path.is_file():
        known = [path.stem.removeprefix("protocol_") for path in folder.glob("protocol_*.yaml")]
        raise ConfigError(unknown("protocol", name, ["clean", *known]))
    return read(path)


def _setting(text):
    """ "train.epochs=5" -> {"train": {"epochs": 5}}"""
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
