"""Plain values that a model is built from: derived from a config, or read from a model file.

A checkpoint or an exported file may be anybody's: types, ranges and names are checked here, before
anything is built or allocated; options of a class are checked where it is built (`registry.build`).
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from . import backbones, heads, pretrained, typecheck
from .choices import TRANSFORMERS
from .settings import Aggregate, Config
from .typecheck import number

ABOUT = ("classes", "feature", "threshold", "aggregate", "backbone_sha256", "feature_spec")
THRESHOLD = 0.5  # of a model file that stores none
MOST_CLASSES = 10_000
LONGEST_NAME = 1_000  # characters of a class's name
LONGEST_SIDE = 100_000  # frames or bands of the input
LONGEST_JSON = 10**7  # characters: ten thousand classes, each with its source classes
NORMS = ("backbone", "none")


class SpecError(ValueError):
    """A description of which no model can be built; the message names the key."""


def parse_json(text: str) -> Any:
    """Parse the JSON of a model file.

    Raises:
        SpecError: it is not JSON, or longer or deeper than that of any model.
    """
    if len(text) > LONGEST_JSON:
        raise SpecError(f"found {len(text):,} characters, expected {LONGEST_JSON:,} at most")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"found no plain JSON: {error}") from error


def lookup(values: Any, key: str, annotation: Any, section: str = "") -> Any:
    """Return `values[key]`, which must have the annotated type.

    Raises:
        SpecError: `values` is no dict, the key is missing, or its value has another type.
    """
    if not isinstance(values, dict) or key not in values:
        raise SpecError(f"found no {section + key!r}, expected {typecheck.expected(annotation)}")
    value = values[key]
    if not typecheck.matches(value, annotation):
        raise SpecError(
            f"{section}{key}: found {typecheck.shown(value)}, "
            f"expected {typecheck.expected(annotation)}"
        )
    return value


@dataclass(frozen=True)
class BackboneSpec:
    """The source model.

    Attributes:
        name: of its class; `options`: of its constructor.
        source: its name in the catalogue; `file`: of its weights, None for random ones or none.
        seed: that random weights are drawn with.
        finetune: whether it was trained as well.
    """

    name: str
    options: dict
    source: str
    file: str | None
    seed: int = number(0)
    finetune: bool


@dataclass(frozen=True)
class ModelSpec:
    """A model and its feature; each section is {"name": of the class, its options}.

    Attributes:
        classes: K names, in the order of the outputs.
        norm: "backbone", "none", [mean, std], or [means, stds] of the bands, see
            `classifier.Reprogrammed`.
        adapter: None for none.
        threshold: the probability from which an instrument counts as present.
        aggregate: how the windows of a file are combined.
        backbone_sha256: of the frozen tensors, see `backbones.weights.fingerprint`.
        feature_spec: the feature's settings at the time of the export; None in a checkpoint.
    """

    classes: list[str]
    feature: dict
    norm: str | list[float] | list[list[float]]
    reprogrammer: dict
    backbone: BackboneSpec
    head: dict
    backbone_sha256: str
    adapter: dict | None = None
    threshold: float = number(0, 1, default=THRESHOLD)
    aggregate: Aggregate = "mean"
    feature_spec: dict | None = None

    @classmethod
    def from_dict(cls, about: dict[str, Any]) -> "ModelSpec":
        """Read the spec from the description `about` that a checkpoint or an exported file holds.

        Raises:
            ValueError: a value is missing, of another type, or out of range.
        """
        values = dict(lookup(about, "spec", dict))
        for key in ABOUT:
            if key in about:
                values[key] = about[key]
        spec = typecheck.build(cls, values)
        for kind, section in spec.sections().items():
            lookup(section, "name", str, f"{kind}.")
            _check_keys(kind, section)
        _check_keys("backbone", spec.backbone.options)
        _check_classes(spec.classes)
        for key in ("frames", "mels"):
            side = lookup(spec.backbone.options, key, int)
            if not 1 <= side <= LONGEST_SIDE:
                raise SpecError(f"{key}: found {side}, expected from 1 to {LONGEST_SIDE}")
        _check_norm(spec.norm, spec.backbone.options["mels"])
        return spec

    def sections(self) -> dict:
        """Return the sections that name classes, by kind."""
        sections = {
            "feature": self.feature,
            "reprogrammer": self.reprogrammer,
            "backbone": {"name": self.backbone.name},
            "head": self.head,
        }
        if self.adapter is not None:
            sections["adapter"] = self.adapter
        return sections

    def build(self, file: str | PurePath | None) -> dict:
        """Return keywords of `classifier.build_model`, with the backbone's weights in `file`."""
        return {
            "norm": self.norm,
            "reprogrammer": self.reprogrammer,
            "backbone": vars(self.backbone) | {"file": file},
            "head": self.head,
            "adapter": self.adapter,
        }


def from_config(
    config: Config,
    classes: list[str],
    feature: Any,
    clips: Any,
    backbone: str,
    weights_file: str | Path,
) -> dict:
    """Derive the keywords of `classifier.build_model` from a run's resolved config.

    Args:
        classes: K names.
        feature: from `features.build`.
        clips: dataset.Clips of the training split, for the input norms of the corpus.
        backbone: its name in the catalogue.
        weights_file: the file of the backbone that was chosen.

    Raises:
        ValueError: the head needs source classes by name, and some classes have none.
    """
    norm = config.input.norm
    if norm == "corpus":
        norm = clips.mean_and_deviation()
    elif norm == "corpus_bands":
        norm = clips.band_means_and_deviations()
    head = config.head.to_dict()
    if maps_by_name(config):
        head |= source_groups(classes, backbone, weights_file)
    if config.head.name == "statistical_labelmap":
        head.setdefault("activation", pretrained.activation(backbone))
    is_pretrained = config.backbone.weights == "pretrained"
    file = Path(weights_file)
    if pretrained.starts_from_panns(config.backbone.name, config.backbone.weights):
        file = pretrained.panns_path()
    spec = {
        "norm": norm,
        "reprogrammer": config.reprogrammer.to_dict(),
        "head": head,
        "backbone": {
            "name": config.backbone.name,
            "options": _backbone_options(config.backbone, feature, backbone, weights_file),
            "source": backbone,
            "file": str(file.resolve()) if is_pretrained else None,
            "seed": config.run.seed,
            "finetune": config.backbone.finetune,
        },
    }
    if config.adapter is not None:
        spec["adapter"] = config.adapter.to_dict()
    return spec


def _backbone_options(section, feature, backbone, weights_file):
    """Keywords of the backbone's constructor.

    Those of a pre-trained one are in its file, or else in the catalogue; the statistics of an AST
    that has them in neither are AudioSet's, which the feature has.
    """
    shape = {"frames": feature.frames, "mels": feature.bins}
    statistics = {"mean": feature.mean, "std": feature.std}
    dims = {}
    if section.name in backbones.PRETRAINED:
        header = backbones.weights.read_header(weights_file)
        dims = header["dims"]
        layout = header.get("layout")
        if section.name in TRANSFORMERS and (layout == "passt") != (section.name == "passt"):
            raise ValueError(
                f"{weights_file}: found weights in the layout {layout!r}, expected those of "
                f"{section.name}; pass --backbone passt_s with PaSST's weights, and only with them"
            )
        statistics |= pretrained.statistics(backbone)
        for key in statistics.keys() & header.keys():
            statistics[key] = header[key]
    return dims | section.options | shape | statistics


def maps_by_name(config: Config) -> bool:
    """Whether a config's head finds its classes among the source's by their names."""
    return config.head.options.get("kind") == "names"


def source_groups(classes: list[str], backbone: str, weights_file: str | Path) -> dict:
    """Find the source classes that mean each class, as options of the head.

    Raises:
        ValueError: some classes have no names among the source's.
    """
    table = pretrained.zero_shot(backbone)
    labels = source_classes(backbone, weights_file)
    return {
        "groups": heads.labelmap.groups(table["names"], classes, labels),
        "activation": table["activation"],
    }


def source_classes(backbone: str, weights_file: str | Path) -> list[str]:
    """Return the names of the source classes; empty if they are not known."""
    entry = pretrained.get(backbone)
    labels = entry and entry.source_classes()
    return labels or backbones.weights.read_header(weights_file).get("source_classes", [])


def _check_keys(kind, options):
    if not typecheck.matches(list(options), list[str]):
        raise SpecError(f"{kind}: found {typecheck.shown(options)}, expected options by name")


def _check_classes(classes):
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise SpecError(f"classes: found {len(classes)}, expected from 1 to {MOST_CLASSES}")
    seen = set()
    for name in classes:
        if not name.strip() or len(name) > LONGEST_NAME or not _is_unicode(name) or name in seen:
            raise SpecError(
                f"classes: found {typecheck.shown(name)}, expected names, each once, "
                f"of 1 to {LONGEST_NAME} characters"
            )
        seen.add(name)


def _is_unicode(name):
    return not any("\ud800" <= character <= "\udfff" for character in name)  # no lone surrogates


def _check_norm(norm, bands):
    if isinstance(norm, str):
        if norm not in NORMS:
            raise SpecError(f"norm: found {typecheck.shown(norm)}, expected {', '.join(NORMS)}")
        return
    pair = [values if isinstance(values, list) else [values] for values in norm]
    lengths = [len(values) for values in pair]
    if lengths not in ([1, 1], [bands, bands]) or not min(pair[1]) > 0:
        raise SpecError(
            f"norm: found {typecheck.shown(norm)}, expected a mean and a deviation above 0, or "
            f"{bands} of each"
        )
