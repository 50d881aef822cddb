"""Typed settings of a run; egs/openmic/conf/base.yaml explains and sets every key.

`config` reads them from files; modules below the scripts know only these dataclasses.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from . import registry, typecheck
from .typecheck import Range, number

Aggregate = Literal["mean", "max", "mean_logit", "normalised_sum"]  # of windows

OPTION_RANGES = {  # that constructors do not check
    "optimizer.lr": Range(0),
    "optimizer.head_lr": Range(0),
    "optimizer.weight_decay": Range(0),
}


@dataclass(frozen=True)
class Section:
    """An entry of a registry: its name, and keywords of its constructor."""

    name: str
    options: dict[str, Any]

    @classmethod
    def from_plain(cls, values: Any, where: str) -> "Section":
        """Build a section from {"name": ..., its options}; see `typecheck.build`."""
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            raise typecheck.RecordError(
                f"{where}: {typecheck.shown(values)}; expected a section with a name and options"
            )
        options = dict(values)
        fields = {}
        for field in dataclasses.fields(cls):
            if field.name in options and field.name != "options":
                value = options.pop(field.name)
                fields[field.name] = typecheck.check(f"{where}.{field.name}", value, field.type)
        for name, value in options.items():
            key = f"{where}.{name}"
            if key in OPTION_RANGES:
                typecheck.check(key, value, float | None, OPTION_RANGES[key])
        return cls(options=options, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the section as in a file."""
        values = dict(vars(self))
        options = values.pop("options")
        return values | options


@dataclass(frozen=True)
class Backbone(Section):
    """The backbone: its weights, and whether they are trained."""

    weights: Literal["pretrained", "random", "none"] = "none"
    finetune: bool = False


@dataclass(frozen=True)
class Input:
    """Statistics that normalise features before the reprogrammer."""

    norm: Literal["backbone", "none", "corpus", "corpus_bands"]


@dataclass(frozen=True)
class Mix:
    """Mixing of training clips: its probability, and the largest difference in level."""

    probability: float = number(0, 1)
    gain_db: float = number(0)


@dataclass(frozen=True)
class Mixup:
    """Interpolation of training clips: the parameter of its Beta distribution, and missing labels.

    Attributes:
        missing: whether a label that one of two clips lacks is ignored, or negative as in EAsT.
    """

    alpha: float = number(0, above=True)
    missing: Literal["ignored", "negative"] = "ignored"


@dataclass(frozen=True)
class Augment:
    """Augmentation of training clips.

    Attributes:
        mix: sums of two clips; None: no mixing.
        noise: largest amplitude of added noise, relative to the clip's.
        gain_db: largest change of level.
        time, freq, fill: SpecAugment's longest stripe in frames and in bands, and the value that
            fills it.
        stretch, semitones: largest change of tempo, as a share of it, and of pitch.
        filter_db: largest gain or attenuation of a random frequency filter.
        dropout: probability of a cell to be masked.
        mixup: interpolation of two clips; None: none.
    """

    mix: Mix | None
    noise: float = number(0)
    gain_db: float = number(0)
    time: int = number(0)
    freq: int = number(0)
    fill: Literal["zero", "mean"]
    stretch: float | None = number(0, 0.5, default=None)
    semitones: float | None = number(0, 12, default=None)
    filter_db: float | None = number(0, default=None)
    dropout: float | None = number(0, 1, default=None)
    mixup: Mixup | None = None


@dataclass(frozen=True)
class ProbeFirst:
    """Training of the head alone, before that of the whole model."""

    epochs: int = number(1)
    batch_size: int = number(1)
    patience: int = number(1)
    lr: float = number(0)


@dataclass(frozen=True)
class Teacher:
    """The frozen network whose embeddings a student is compared with.

    Attributes:
        backbone: its name in the catalogue; `sha256`: of its weights, once the run is known.
        feature: its input.
    """

    backbone: str
    feature: Section
    sha256: str | None = None


@dataclass(frozen=True)
class Train:
    """The training loop."""

    epochs: int = number(1)
    batch_size: int = number(1)
    micro_batch: int | None = number(1)
    clip_fraction: float = number(0, 1, above=True)
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
class Score:
    """Scoring of a task that has a table of its own.

    Attributes:
        aggregate: how the windows of a long clip are combined, see `inference.AGGREGATES`.
        threshold: of predominant instruments, chosen on mixtures of validation clips, or 0.5.
        merged: predominant instruments that count as one in top-1.
        task: "predominant" instruments (`metrics.evaluate_predominant`), or "tags", whose table has
            mAP and AUROC.
    """

    aggregate: Aggregate
    threshold: Literal["mixtures", "half"] = "half"
    merged: list[str] = dataclasses.field(default_factory=list)
    task: Literal["predominant", "tags"] = "predominant"


@dataclass(frozen=True)
class TestAugment:
    """Averaging over pitch shifts in scoring, though not to choose an epoch.

    Attributes:
        semitones: the largest shift; there are augment.SHIFTS from -`semitones` to `semitones`.
    """

    semitones: float = number(0, 12)


@dataclass(frozen=True)
class RunIdentity:
    """Identity of a run besides its settings: conf, seed, and content hashes."""

    corpus: str
    manifest_sha256: str
    classes: list[str]
    backbone: str
    weights_sha256: str
    conf: str
    seed: int


@dataclass(frozen=True)
class Config:
    """The settings of a run; `run` is None for a conf without data."""

    protocol: Literal["clean", "paper"]
    feature: Section
    input: Input
    augment: Augment
    reprogrammer: Section
    backbone: Backbone
    head: Section
    method: Section
    optimizer: Section
    schedule: Section
    train: Train
    select: Select
    teacher: Teacher | None = None
    score: Score | None = None
    test_augment: TestAugment | None = None
    adapter: Section | None = None
    run: RunIdentity | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Build a config from nested dicts, checked.

        Raises:
            RecordError: an unknown or missing key, a wrong type, or a value out of range.
        """
        return typecheck.build(cls, values)

    @property
    def outside_classes(self) -> set[str]:
        """Names of classes outside of the package; whoever writes a config may use any."""
        return registry.outside(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the config as nested dicts of plain values, as in files and checkpoints."""
        values = {}
        for name, value in vars(self).items():
            if value is not None:
                values[name] = _plain(value)
        return values


def _plain(value):
    """Return nested dicts of a Section or another dataclass; other values as they are."""
    if isinstance(value, Section):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return {name: _plain(inner) for name, inner in vars(value).items()}
    return value
