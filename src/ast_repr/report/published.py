"""Names of methods, and published results to show beside one's own, from conf/published.yaml.

ast_unet:
  name: "{network}-URP"
  description: a U-Net before the frozen {network}
  published: {macro_f1: [81.4, 82.0], source: ..., corpus: OpenMIC-2018, protocol: ...}

In names and descriptions, `{feature}` and `{network}` become those of the run, and
`{network_in_full}` the network's full name. A conf without an entry, and every variant, goes by the
name of its conf.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from . import conf_file

CORPORA = {"openmic": "OpenMIC-2018"}  # folder of a corpus' experiments: its name in publications
TEST_SPLITS = {  # by clips and observed labels, of a copy too
    (5_085, 10_522): "OpenMIC-2018",
    (4_332, 216_600): "MagnaTagATune, clean",
    (5_329, 266_450): "MagnaTagATune, full",
}
FEATURES = {"logmel": "log-mel", "vggish": "VGGish"}
NETWORK = "ast"  # of the published results
NETWORKS = {NETWORK: "AST", "passt": "PaSST", "cnn14": "CNN14", "vggish": "VGGish"}
NETWORKS_IN_FULL = NETWORKS | {NETWORK: "Audio Spectrogram Transformer (AST)"}


@dataclass(frozen=True)
class Published:
    """Results of a publication: scores of runs in per cent, parameters in millions, if known.

    Attributes:
        macro_f1: as the corpus' tables define it; map: mean average precision; auroc: area under
            the ROC curve.
        micro_f1, lrap, top1_merged: of predominant instruments, see `metrics`.
    """

    source: str
    corpus: str
    protocol: str
    macro_f1: list[float] | None = None
    map: list[float] | None = None
    auroc: list[float] | None = None
    trainable_parameters: float | None = None
    micro_f1: list[float] | None = None
    lrap: list[float] | None = None
    top1_merged: list[float] | None = None

    @property
    def footnote(self) -> str:
        return f"Published on {self.corpus}; protocol: {self.protocol}; source: {self.source}"

    def fractions(self, names: Iterable[str]) -> dict[str, float | None]:
        """Compute the means of scores, as fractions; None for those that are not published."""
        means = {}
        for name in names:
            scores = getattr(self, name, None)
            means[name] = mean(scores) / 100 if scores else None
        return means


@dataclass(frozen=True)
class Entry:
    """The name, description and published results of a conf.

    Attributes:
        control: conf on the same input without the method's reprogrammer or adapter, if there is
            one.
    """

    name: str
    description: str | None = None
    published: Published | None = None
    control: str | None = None

    @property
    def published_label(self) -> str:
        """The label of the published results, if they have a line of a table to themselves."""
        published = self.published
        return f"published: {self.name} ({published.source}; {published.protocol})"

    def of_run(self, feature: str, network: str) -> "Entry":
        """The entry with the names of a run's feature and network.

        >>> Entry("RF ({feature})").of_run("logmel", "ast").name
        'RF (log-mel)'
        """
        words = {
            "{feature}": FEATURES.get(feature, feature),
            "{network}": NETWORKS.get(network, network),
            "{network_in_full}": NETWORKS_IN_FULL.get(network, network),
        }
        name = self.name
        description = self.description or ""
        for placeholder, word in words.items():
            name = name.replace(placeholder, word)
            description = description.replace(placeholder, word)
        return replace(self, name=name, description=description)


def read(path: Path) -> dict[str, Entry]:
    """Read the entries, by conf; raises as `conf_file.read`."""
    return conf_file.read(path, Entry)


def name_of_corpus(corpus: str, clips: int, observed: int) -> str | None:
    """Name of a corpus in publications, by its name here or the counts of its test split."""
    return CORPORA.get(corpus, TEST_SPLITS.get((clips, observed)))
