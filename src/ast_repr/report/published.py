"""Names of methods, and published results to show beside one's own, from conf/published.yaml.

ast_unet:
  name: AST-URP
  description: reprogrammed by a U-Net
  published: {macro_f1: [81.4, 82.0], source: ..., corpus: OpenMIC-2018, protocol: ...}

`{feature}` in a name becomes the run's feature. A conf without an entry, and every variant, goes by
the name of its conf.
"""

from dataclasses import dataclass
from pathlib import Path

from .. import records, yaml_file

CORPORA = {"openmic": "OpenMIC-2018"}  # folder of a corpus' experiments: its name in publications
TEST_SPLITS = {(5_085, 10_522): "OpenMIC-2018"}  # (clips, observed labels) of a copy
FEATURES = {"logmel": "log-mel", "vggish": "VGGish"}


class PublishedError(ValueError):
    """An unusable published.yaml; the message names the file and the key."""


@dataclass(frozen=True)
class Published:
    """Results of a publication.

    Attributes:
        macro_f1: runs, in per cent.
        source: where the numbers stand.
        corpus, protocol: how they were obtained.
        trainable_parameters: in millions, if known.
    """

    macro_f1: list[float]
    source: str
    corpus: str
    protocol: str
    trainable_parameters: float | None = None


@dataclass(frozen=True)
class Entry:
    """What published.yaml holds of a conf."""

    name: str
    description: str | None = None
    published: Published | None = None

    def name_with(self, feature: str) -> str:
        """The method's name, for runs on a feature.

        >>> Entry("RF ({feature})").name_with("logmel")
        'RF (log-mel)'
        """
        return self.name.replace("{feature}", FEATURES.get(feature, feature))


def read(path: Path) -> dict[str, Entry]:
    """Read the entries of confs.

    Raises:
        PublishedError: the file is not YAML, or an entry has an unknown or missing key or a value
            of another type.
    """
    try:
        values = yaml_file.read(path)
    except yaml_file.YamlError as error:
        raise PublishedError(str(error)) from error
    if not isinstance(values, dict):
        raise PublishedError(f"{path}: expected entries by the name of their conf")
    entries = {}
    for conf, entry in values.items():
        try:
            entries[str(conf)] = records.build(Entry, entry, str(conf))
        except records.RecordError as error:
            raise PublishedError(f"{path}: {error}") from error
    return entries


def name_of_corpus(corpus: str, clips: int, observed: int) -> str | None:
    """Name of a corpus in publications, by its name here or the counts of its test split."""
    return CORPORA.get(corpus, TEST_SPLITS.get((clips, observed)))
