"""Configs: YAML files that say only what differs, resolved once, checked, and saved with the run.

    base: ast_linear.yaml             another conf, which this one overlays (relative to this file)
    reprogrammer: {name: unet, ...}   a room's section: a name and that entry's own keywords
    train: {epochs: 20, ...}          a fixed section: the keys that base.yaml has, and no others

A section with another `name` than its base's replaces it whole; otherwise keys are overlaid one by
one. Dotted settings, `train.epochs=5`, are overlaid last; their values are read as YAML. Two
sections say what differs elsewhere:

    without_vggish: {...}             where the corpus carries no VGGish
    paper: {...}                      under --protocol paper, over what that says for every conf

A variant is a conf and settings in one name, `ast_unet+input.norm=corpus`; a study (studies.yaml)
is a list of confs and variants that answer one question, and its name stands for them all.
"""

import re
from pathlib import Path

from . import atomic, choices, typecheck, yaml_file
from .choices import unknown

BASE, STUDIES = "base.yaml", "studies.yaml"
CONDITIONS = ("without_vggish", "paper")  # sections of a conf that hold overlays
ROOMS = (
    "feature",
    "reprogrammer",
    "backbone",
    "head",
    "method",
    "optimizer",
    "schedule",
)  # sections with a `name`
PUBLISHED = ("macro_f1", "source", "corpus", "protocol")
OPTIONAL_PUBLISHED_KEYS = ("trainable_parameters",)  # in millions
DISPLAY_ONLY = ("row", "published")  # says nothing of how a run is made
PROBE_FIRST_KEYS = {"epochs", "batch_size", "patience", "lr"}
OPTIONAL = (
    "train.patience",
    "train.clip_norm",
)  # null switches them off; null is also allowed where it is base.yaml's own value
# Ranges of numbers, and choices.
AT_LEAST = {
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.micro_batch": 1,
    "train.patience": 1,
    "train.clip_norm": 0,
    "augment.time": 0,
    "augment.freq": 0,
    "optimizer.lr": 0,
    "optimizer.head_lr": 0,
    "optimizer.weight_decay": 0,
}
CHOICES = {
    "protocol": ("clean", "paper"),
    "input.norm": ("backbone", "none", "corpus"),
    "backbone.weights": ("pretrained", "random"),
    "select.split": ("valid", "test"),
    "select.mode": ("max", "min"),
    "select.metric": ("macro_f1", "positive_f1", "weighted_f1", "map", "auroc"),
    "train.precision": ("auto", "float32"),
    "augment.fill": ("zero", "mean"),
}


class ConfigError(ValueError):
    """A conf that does not exist or says something impossible: a usage error."""


def names(folder):
    """The confs in a folder, sorted: each YAML file but base.yaml, studies and overlays."""
    return choices.confs(folder)


def studies(folder):
    """{name: {"question": ..., "confs": [...], ...}} of studies.yaml, if there is one."""
    path = Path(folder) / STUDIES
    return read(path) if path.is_file() else {}


def select(folder, wanted):
    """Confs and variants from a comma-separated list of them and of studies; every conf for "all".

    Raises:
        ConfigError: a name has no file, or a variant's setting is not section.key=value; the
            message lists what there is.
    """
    known, groups = names(folder), studies(folder) | {"all": {"confs": names(folder)}}
    chosen = []
    for name in filter(None, map(str.strip, wanted.split(","))):
        chosen += groups[name]["confs"] if name in groups else [name]
    for name in chosen:
        stem, *settings = name.split("+")
        if stem not in known:
            raise ConfigError(unknown("conf", stem, [*known, *groups]))
        for setting in settings:
            if not re.fullmatch(
                r"\w+\.[\w.]+=[\w.-]+", setting
            ):  # it becomes part of a folder's name
                raise ConfigError(
                    f"variant {name!r}: found {setting!r}, expected section.key=value of letters, "
                    "digits, '.', '_' and '-'"
                )
    if not chosen:
        raise ConfigError("no conf named; expected a comma-separated list, or all")
    return list(dict.fromkeys(chosen))


def load(folder, name, corpus=None, protocol="clean", settings=(), lacking=()):
    """Resolve a conf or variant.

    Overlaid are, in this order: base.yaml, the corpus' overlay if there is one, the conf's chain of
    bases with what it says for this case, the protocol's overlay, then dotted settings.

    Args:
        lacking: features that the corpus does not carry ("vggish"); the section without_<feature>
            holds then.

    Returns:
        nested dict, checked, with every key of base.yaml.

    Raises:
        ConfigError: unreadable, or an unknown key, a wrong type, range or choice; the key is named.
    """
    folder = Path(folder)
    stem, *variations = name.split("+")
    config = schema = read(folder / BASE)
    if (path := folder / f"corpus_{corpus}.yaml").is_file():
        config = overlay(config, read(path))
    own = _chain(folder / f"{stem}.yaml")
    conditional = {key: own.pop(key, {}) for key in CONDITIONS}
    config = overlay(config, own)
    for feature in lacking:
        config = overlay(config, conditional[f"without_{feature}"])
    if protocol != "clean":
        path = folder / f"protocol_{protocol}.yaml"
        if not path.is_file():
            found = [p.stem.removeprefix("protocol_") for p in folder.glob("protocol_*.yaml")]
            raise ConfigError(unknown("protocol", protocol, ["clean", *found]))
        config = overlay(overlay(config, read(path)), conditional.get(protocol, {}))
    for setting in (*variations, *settings):
        config = overlay(config, _setting(setting))
    if variations or any(not setting.startswith(("train.", "published")) for setting in settings):
        config["published"] = None  # it was another system that was published
    if any(setting.startswith("reprogrammer.name=") for setting in variations):
        config["row"] = config["reprogrammer"]["name"]
    check(config, schema)
    return config


def overlay(below, above):
    """`below` with what `above` says; a section of another name is replaced whole."""
    out = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if (
            isinstance(value, dict)
            and isinstance(old, dict)
            and value.get("name", old.get("name")) == old.get("name")
        ):
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
            raise ConfigError(
                f"config {key}: {value!r}; expected a section with {', '.join(known)}"
            )
        if leaf and not isinstance(known, dict):
            raise ConfigError(f"config {key}: {section} has no keys; expected one value")
        if section not in ROOMS and isinstance(known, dict) and leaf.split(".")[0] not in known:
            raise ConfigError(unknown("config key", key, [f"{section}.{name}" for name in known]))
        if section in ROOMS and not isinstance(config[section].get("name"), str):
            raise ConfigError(f"config {section}: no name; expected one of its choices")
        if key in AT_LEAST and value is not None:
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not value >= AT_LEAST[key]
            ):
                raise ConfigError(
                    f"config {key}: {value!r}; expected a number of at least {AT_LEAST[key]}"
                )
            if (
                isinstance(AT_LEAST[key], int)
                and key.startswith(("train.epochs", "train.batch", "train.micro", "augment"))
                and value != int(value)
            ):
                raise ConfigError(f"config {key}: {value!r}; expected a whole number")
        if key == "train.label_fraction" and not (
            isinstance(value, (int, float)) and 0 < value <= 1
        ):
            raise ConfigError(f"config {key}: {value!r}; expected a fraction above 0, up to 1")
        if key in CHOICES and value not in CHOICES[key]:
            raise ConfigError(unknown(f"config {key}", value, CHOICES[key]))
        if value is None and key not in OPTIONAL and _default(schema, key) is not None:
            raise ConfigError(
                f"config {key}: empty; expected something like {_default(schema, key)!r}"
            )
    published = config.get("published")
    if published is not None and (
        not isinstance(published, dict)
        or set(published) - set(OPTIONAL_PUBLISHED_KEYS) != set(PUBLISHED)
    ):
        raise ConfigError(
            f"config published: {published!r}; expected {', '.join(PUBLISHED)} and, if known, "
            f"{', '.join(OPTIONAL_PUBLISHED_KEYS)}"
        )
    first = config.get("train", {}).get("probe_first")
    if first is not None and (not isinstance(first, dict) or set(first) != PROBE_FIRST_KEYS):
        raise ConfigError(
            f"config train.probe_first: {first!r}; expected null, or {', '.join(sorted(PROBE_FIRST_KEYS))}"
        )


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
    atomic.write_text(path, yaml_file.dump(config))


def differences(saved, config):
    """Keys in which a saved config differs from this one: list of "key: saved -> now".

    What only tables show is no difference.
    """
    saved, now = flatten(saved), flatten(config)
    keys = sorted((saved.keys() | now.keys()) - set(DISPLAY_ONLY))
    return [
        f"{key}: {saved.get(key)!r} -> {now.get(key)!r}"
        for key in keys
        if saved.get(key) != now.get(key)
    ]


def _chain(path, seen=()):
    """A conf overlaid on the chain of its bases, base.yaml excluded."""
    own = read(path)
    base = own.pop("base", BASE)
    if base == BASE:
        return own
    if path in seen:
        raise ConfigError(f"{path}: is its own base, by way of {', '.join(p.name for p in seen)}")
    return overlay(_chain(path.with_name(base), (*seen, path)), own)


def read(path):
    """A YAML file as nested dicts, nothing resolved.

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


def _default(schema, key):
    for part in key.split("."):
        schema = schema.get(part) if isinstance(schema, dict) else None
    return schema
