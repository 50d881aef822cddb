"""Configs: YAML files that say only what differs, resolved once, checked, and saved with the run.

    base: ast_linear.yaml             another conf, which this one overlays (relative to this file)
    reprogrammer: {name: unet, ...}   a room's section: a name and that entry's own keywords
    train: {epochs: 20, ...}          a fixed section: the keys that base.yaml has, and no others

A section with another `name` than its base's replaces it whole; otherwise keys are overlaid one by one. Dotted
settings, `train.epochs=5`, are overlaid last; their values are read as YAML.
"""

from pathlib import Path

import yaml

from . import files
from .rooms import unknown

BASE = "base.yaml"
OVERLAYS = ("protocol_", "corpus_")  # files that start so are laid over any conf, and are none themselves
ROOMS = ("feature", "reprogrammer", "head", "method", "optimizer", "schedule")  # sections with a `name`
PUBLISHED = ("macro_f1", "source", "corpus", "protocol")
OPTIONAL = ("train.patience", "train.clip_norm")  # null switches them off; null is also allowed where it is base.yaml's own value
# Ranges of numbers, and choices.
AT_LEAST = {
    "train.epochs": 1, "train.batch_size": 1, "train.micro_batch": 1, "train.patience": 1, "train.clip_norm": 0,
    "augment.time": 0, "augment.freq": 0, "optimizer.lr": 0, "optimizer.head_lr": 0, "optimizer.weight_decay": 0,
}  # fmt: skip
CHOICES = {
    "protocol": ("clean", "paper"), "input.norm": ("backbone", "none", "corpus"), "backbone.weights": ("pretrained", "random"),
    "select.split": ("valid", "test"), "select.mode": ("max", "min"), "select.metric": ("macro_f1", "positive_f1", "weighted_f1", "map", "auroc"),
    "train.precision": ("auto", "float32"), "augment.fill": ("zero", "mean"),
}  # fmt: skip


class ConfigError(ValueError):
    """A conf that does not exist or says something impossible: a usage error."""


def names(folder):
    """The confs in a folder, sorted: every YAML file but base.yaml and the protocol overlays."""
    found = (path.stem for path in Path(folder).glob("*.yaml") if path.name != BASE and not path.name.startswith(OVERLAYS))
    return sorted(found)


def select(folder, wanted):
    """Names from a comma-separated list, or all of them for "all".

    Raises:
        ConfigError: a name has no file; the message lists what there is.
    """
    known = names(folder)
    chosen = known if wanted == "all" else [name.strip() for name in wanted.split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            raise ConfigError(unknown("conf", name, known))
    if not chosen:
        raise ConfigError("no conf named; expected a comma-separated list, or all")
    return list(dict.fromkeys(chosen))


def load(folder, name, corpus=None, protocol="clean", settings=()):
    """Resolve a conf: its chain of bases, then the overlays of the corpus (if there is one) and the protocol, then dotted settings.

    Returns:
        nested dict, checked, with every key of base.yaml.

    Raises:
        ConfigError: unreadable, or an unknown key, a wrong type, range or choice; the key is named.
    """
    folder = Path(folder)
    schema = _read(folder / BASE)
    config = overlay(schema, _chain(folder / f"{name}.yaml"))
    if (path := folder / f"corpus_{corpus}.yaml").is_file():
        config = overlay(config, _read(path))
    if protocol != "clean":
        path = folder / f"protocol_{protocol}.yaml"
        if not path.is_file():
            found = [p.stem.removeprefix("protocol_") for p in folder.glob("protocol_*.yaml")]
            raise ConfigError(unknown("protocol", protocol, ["clean", *found]))
        config = overlay(config, _read(path))
    for setting in settings:
        config = overlay(config, _setting(setting))
    check(config, schema)
    return config


def overlay(below, above):
    """`below` with what `above` says; a section of another name is replaced whole."""
    out = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and value.get("name", old.get("name")) == old.get("name"):
            value = overlay(old, value)
        out[key] = value
    return out


def check(config, schema):
    """Refuse unknown keys, wrong types, and values out of range.

    Raises:
        ConfigError: the first that is found; the key is named.
    """
    for key, value in flatten(config).items():
        section, _, leaf = key.partition(".")
        if section not in schema:
            raise ConfigError(unknown("config section", section, schema))
        known = schema[section]
        if isinstance(known, dict) and not leaf:
            raise ConfigError(f"config {key}: {value!r}; expected a section with {', '.join(known)}")
        if leaf and not isinstance(known, dict):
            raise ConfigError(f"config {key}: {section} has no keys; expected one value")
        if section not in ROOMS and isinstance(known, dict) and leaf.split(".")[0] not in known:
            raise ConfigError(unknown("config key", key, [f"{section}.{name}" for name in known]))
        if section in ROOMS and not isinstance(config[section].get("name"), str):
            raise ConfigError(f"config {section}: no name; expected one of its choices")
        if key in AT_LEAST and value is not None:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= AT_LEAST[key]:
                raise ConfigError(f"config {key}: {value!r}; expected a number of at least {AT_LEAST[key]}")
            if isinstance(AT_LEAST[key], int) and key.startswith(("train.epochs", "train.batch", "train.micro", "augment")) and value != int(value):
                raise ConfigError(f"config {key}: {value!r}; expected a whole number")
        if key in CHOICES and value not in CHOICES[key]:
            raise ConfigError(unknown(f"config {key}", value, CHOICES[key]))
        if value is None and key not in OPTIONAL and _default(schema, key) is not None:
            raise ConfigError(f"config {key}: empty; expected something like {_default(schema, key)!r}")
    published = config.get("published")
    if published is not None and (not isinstance(published, dict) or set(published) != set(PUBLISHED)):
        raise ConfigError(f"config published: {published!r}; expected {', '.join(PUBLISHED)}")


def flatten(config, prefix=""):
    """{"train.epochs": 20, ...} of a nested dict; empty sections stay as they are."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value and f"{prefix}{key}" != "published":
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def save(path, config):
    """Write a resolved config as YAML, atomically."""
    files.write_text(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def differences(path, config):
    """Keys in which the config saved at `path` differs from this one: list of "key: saved -> now"."""
    saved, now = flatten(_read(Path(path))), flatten(config)
    return [f"{key}: {saved.get(key)!r} -> {now.get(key)!r}" for key in sorted(saved.keys() | now.keys()) if saved.get(key) != now.get(key)]


def _chain(path, seen=()):
    """A conf overlaid on the chain of its bases, base.yaml excluded."""
    own = _read(path)
    base = own.pop("base", BASE)
    if base == BASE:
        return own
    if path in seen:
        raise ConfigError(f"{path}: is its own base, by way of {', '.join(p.name for p in seen)}")
    return overlay(_chain(path.with_name(base), (*seen, path)), own)


def _read(path):
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such conf") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected sections, found {config!r}")
    return config


def _setting(text):
    """"train.epochs=5" -> {"train": {"epochs": 5}}"""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"setting {text!r}; expected section.key=value")
    try:
        tree = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"setting {text!r}: the value is not readable as YAML") from error
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def _default(schema, key):
    for part in key.split("."):
        schema = schema.get(part) if isinstance(schema, dict) else None
    return schema
