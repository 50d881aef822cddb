"""Read run folders into tables of comparable methods.

A run folder is exp/<corpus>/<conf>/seed<k>/ with results.json, history.jsonl, predictions.npz and,
for some, example.npz; <conf> may be a variant such as ast_unet+input.norm=corpus. A table holds the
runs of one corpus, protocol and backbone, and those without a backbone. A run that cannot be used
is left out, with a sentence that says why, and does not hide the others.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from .. import identity, pretrained
from ..run_folder import RunFolder
from .published import NETWORK, Entry, Published, name_of_corpus
from .schema import OBSERVED, REQUIRED, TRUTH

# In the order of a table.
KINDS = (
    "no backbone",
    "frozen backbone",
    "reprogrammed backbone",
    "adapted backbone",
    "fine-tuned backbone",
)
# Dotted keys of results.json.
SAME_FOR_SEEDS = (
    "norm",
    "feature",
    "reprogrammer",
    "trainable_parameters",
    "macs",
    "clip_fraction",
    "label_fraction",
    "backbone.weights",
    "selection.split",
    "selection.metric",
    "selection.mode",
)
SAME_FOR_TABLE = (
    "split",
    "clips",
    "observed",
    "threshold",
    "classes",
    "truth.sha256",
    "backbone.sha256",
)


class ResultsError(ValueError):
    """Results that are missing, damaged, or not comparable; the message names file and remedy."""


@dataclass(frozen=True)
class Run:
    """One trained and evaluated run; run["key"] is a value of its results.json.

    Attributes:
        history: one dict per epoch; empty if it is damaged or missing.
        has_example: whether the folder holds an example.npz.
    """

    folder: Path
    results: dict[str, Any]
    history: list[dict] = field(default_factory=list)
    has_example: bool = False

    def __getitem__(self, key: str) -> Any:
        return self.results[key]

    def scored_on(self, labels: str) -> dict[str, Any] | None:
        """The metrics and constant baselines on OBSERVED or TRUTH; None if that is not known."""
        return self.results if labels == OBSERVED else self.results.get("truth")

    @property
    def is_pretrained(self) -> bool:
        return self["backbone"]["weights"] not in ("random", "none")

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read the arrays of an .npz of the run folder; raises as `file`."""
        with np.load(self.file(name)) as arrays:
            return dict(arrays)

    def file(self, name: str) -> Path:
        """The path of a file that was written with the results.

        Raises:
            ResultsError: it is missing or has changed since.
        """
        path = self.folder / name
        if not path.is_file():
            raise _damaged(path, "missing")
        if identity.of_file(path) != self["files"].get(name):
            raise _damaged(path, "damaged, or changed since the run was evaluated")
        return path


@dataclass(frozen=True)
class Method:
    """The runs of a conf, by seed; method["key"] is a value that they share."""

    conf: str
    runs: list[Run]
    entry: Entry | None = None

    def __getitem__(self, key: str) -> Any:
        return self.runs[0][key]

    @property
    def name(self) -> str:
        """The name in published.yaml, or the conf's; it tells if the frozen weights are random."""
        name = self.entry.name if self.entry else self.conf
        if self["backbone"]["weights"] == "random" and "random" not in name.lower():
            name += ", random frozen weights"
        return name

    @property
    def label(self) -> str:
        """The name with that of the conf, which is unique in a table."""
        return f"{self.name} ({self.conf})" if self.entry else self.name

    @property
    def base_conf(self) -> str:
        """The conf that a variant is of; a plain conf itself."""
        return self.conf.partition("+")[0]

    @property
    def share_of_data(self) -> tuple[float, float]:
        """The fractions of the training clips and of their labels that the runs were trained on."""
        return self["clip_fraction"], self["label_fraction"]

    @property
    def is_variant(self) -> bool:
        return "+" in self.conf

    @property
    def published(self) -> Published | None:
        return self.entry.published if self.entry else None

    @property
    def control(self) -> str | None:
        """The conf of the same training without the method's reprogrammer or adapter."""
        return self.entry.control if self.entry else None

    @property
    def ended_at_cap(self) -> bool:
        """Whether a run ended at its cap of epochs before validation had stopped improving."""
        return any(run.results.get("ended_at_cap", False) for run in self.runs)

    @property
    def samples_groups(self) -> bool:
        """Whether intervals come from samples of whole groups, as recordings, instead of clips."""
        return all("predominant" in run.results or "tags" in run.results for run in self.runs)

    @property
    def kind(self) -> str:
        """One of KINDS. Fine-tuned means that more than half of all parameters are trained."""
        without, frozen, reprogrammed, adapted, finetuned = KINDS
        if self["backbone"]["weights"] == "none":
            return without
        if self["trainable_parameters"] > self["total_parameters"] / 2:
            return finetuned
        if "adapter" in self.runs[0].results:
            return adapted
        return frozen if self["reprogrammer"] == "none" else reprogrammed

    def mean(self, key: str) -> float:
        """The mean over runs of a number in results.json, by its dotted key."""
        return mean(_value(run, key) for run in self.runs)

    def metrics(self, labels: str) -> list[dict[str, Any]]:
        """The metrics on OBSERVED or TRUTH of the runs that were evaluated on it."""
        scored = [run.scored_on(labels) for run in self.runs]
        return [results["metrics"] for results in scored if results]

    def scores(self, labels: str, metric: str) -> list[float | None]:
        """The values of one of `metrics`."""
        return [values[metric] for values in self.metrics(labels)]


@dataclass(frozen=True)
class Table:
    """Methods that may be compared: the same corpus, protocol, backbone and test labels.

    Attributes:
        entries: all of published.yaml, by conf.
    """

    corpus: str
    protocol: str
    backbone: str
    methods: list[Method]
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.methods[0][key]

    @property
    def runs(self) -> list[Run]:
        return [run for method in self.methods for run in method.runs]

    def scored_on(self, labels: str) -> dict[str, Any] | None:
        """The same of the first run that was evaluated on these labels; None if none was."""
        scored = [run.scored_on(labels) for run in self.runs]
        return next(filter(None, scored), None)

    def baseline_metrics(self, baseline: str, labels: str) -> list[dict[str, Any]]:
        """The metrics of a constant baseline; empty if no run was evaluated on these labels."""
        scored = self.scored_on(labels)
        return [scored["constant_baselines"][baseline]] if scored else []

    @property
    def has_truth(self) -> bool:
        """Whether a run was evaluated on the truth too."""
        return self.scored_on(TRUTH) is not None

    @property
    def labels(self) -> str:
        """The labels that methods are compared on: the TRUTH if it is known, else OBSERVED."""
        return TRUTH if self.has_truth else OBSERVED

    def reference_for(self, method: Method, reference: str | None) -> Method | None:
        """The method that another is compared with, which was trained on as much data; or None.

        It is the conf `reference` or, for a method trained on a part of the data, a variant of it.
        """
        peers = [peer for peer in self.methods if peer.share_of_data == method.share_of_data]
        for peer in peers:
            if peer.conf == reference:
                return peer
        if method.share_of_data == (1, 1):
            return None
        variants = [peer for peer in peers if peer.base_conf == reference]
        return min(variants, key=lambda variant: len(variant.conf), default=None)

    @property
    def confs(self) -> list[str]:
        return [method.conf for method in self.methods]

    @property
    def main(self) -> "Table":
        """The table without variants; it may be empty."""
        return replace(self, methods=[m for m in self.methods if not m.is_variant])

    def only(self, confs: Iterable[str]) -> "Table":
        """The table of these confs, in their order; those that it lacks are left out."""
        methods = {method.conf: method for method in self.methods}
        return replace(self, methods=[methods[conf] for conf in confs if conf in methods])

    def published(self, method: Method) -> Published | None:
        """The published macro-F1 or mAP of a method on this table's corpus.

        None if they are of another network: publications speak of AST.
        """
        results = method.published
        if results is None or (results.macro_f1 is None and results.map is None):
            return None
        if method["backbone"]["weights"] != "none" and pretrained.network(self.backbone) != NETWORK:
            return None
        corpus = name_of_corpus(self.corpus, self["clips"], self["observed"])
        return results if results.corpus == corpus else None

    @property
    def title(self) -> str:
        counts = [len(method.runs) for method in self.methods]
        seeds = "1 seed" if max(counts) == 1 else f"{max(counts)} seeds"
        if min(counts) < max(counts):
            seeds = f"{min(counts)} to {seeds}"
        return f"Corpus {self.corpus}, protocol {self.protocol}, backbone {self.backbone}, {seeds}"

    @property
    def stem(self) -> str:
        """Beginning of the names of this table's files."""
        return re.sub(r"[^\w.-]+", "_", f"{self.protocol}.{self.backbone}")


def read(
    exp: str | Path, entries: Mapping[str, Entry] | None = None
) -> tuple[list[Table], list[str]]:
    """Read every evaluated run in a corpus' folder, exp/<corpus>.

    Returns:
        (tables, left_out): tables in order of protocol and backbone, methods in order of KINDS and
        trainable parameters; sentences about the runs and files that are left out.

    Raises:
        ResultsError: there is no such folder, or no run in it.
    """
    exp = Path(exp)
    folders = sorted(path for path in exp.glob("*/seed*") if path.is_dir())
    if not folders:
        reason = "no run in this folder" if exp.is_dir() else "no such folder"
        raise ResultsError(
            f"{exp}: {reason}, expected evaluated runs (<conf>/seed<k>/results.json); "
            "run: source run.sh"
        )
    runs = []
    left_out = []
    for folder in folders:
        try:
            runs.append(_run(folder, left_out))
        except ResultsError as error:
            left_out.append(str(error))
    tables = []
    entries = entries or {}
    runs = _of_corpus(exp.name, runs, left_out)
    for key, group in _groups(runs, "corpus", "protocol", "backbone.name"):
        tables.append(Table(*key, _methods(group, entries, left_out), entries))
    return tables, left_out


def mean_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Compute mean and standard deviation (n - 1) of the values that are not None.

    Either is None if there are too few values.

    >>> mean_std([1.0, 3.0, None])
    (2.0, 1.4142135623730951)
    >>> mean_std([1.0])
    (1.0, None)
    """
    known = [value for value in values if value is not None]
    average = mean(known) if known else None
    deviation = stdev(known) if len(known) > 1 else None
    return average, deviation


def _run(folder, left_out):
    """Read a Run; damage that does not prevent its being reported goes to `left_out`."""
    files = RunFolder(folder)
    path = files.results
    if not path.is_file():
        raise ResultsError(f"{files}: not evaluated yet")
    results = files.read_results()
    if results is None:
        raise _damaged(path, "damaged")
    missing = [key for key in REQUIRED if key not in results]
    if missing:
        raise _damaged(path, f"of an earlier version, without {', '.join(missing)}")
    if (results["conf"], f"seed{results['seed']}") != path.parts[-3:-1]:
        raise ResultsError(
            f"{path}: holds {results['conf']}/seed{results['seed']}, expected the run of its "
            "folder; move it to its own, or delete it if it is a copy"
        )
    run = Run(folder, results)
    try:
        history = run.file(files.history.name).read_text(encoding="utf-8")
        run = replace(run, history=[json.loads(line) for line in history.splitlines()])
    except ResultsError as error:
        left_out.append(str(error))
    if files.example.name in results["files"]:
        try:
            run.file(files.example.name)
            run = replace(run, has_example=True)
        except ResultsError as error:
            left_out.append(str(error))
    return run


def _damaged(path, reason):
    """A ResultsError about a file of a run folder, with the remedy."""
    run = RunFolder(path.parent)
    text = f"{path}: {reason}; delete it and run the stage score again"
    if run.command.is_file():
        text += f"; the run was made by: {run.read_command()}"
    return ResultsError(text)


def _of_corpus(folder, runs, left_out):
    """The runs whose corpus is the folder's; the others were copied there and are left out.

    In a folder of another name than any run's corpus, all runs stay.
    """
    at_home = [
        run for run in runs if folder in (run["corpus"], f"{run['corpus']}-{run['protocol']}")
    ]
    if not at_home:
        return runs
    for run in runs:
        if run not in at_home:
            left_out.append(
                f"{RunFolder(run.folder).results}: is of corpus {run['corpus']}, protocol "
                f"{run['protocol']}, expected {folder} as its folder says; move it to its own"
            )
    return at_home


def _methods(runs, entries, left_out):
    """The methods of a table's runs, less those that are not comparable with most of the others."""
    comparable = []
    for _, conf_runs in _groups(runs, "conf"):
        for key in SAME_FOR_SEEDS:
            conf_runs = _agreeing(conf_runs, key, left_out)
        comparable += conf_runs
    for key in SAME_FOR_TABLE:
        comparable = _agreeing(comparable, key, left_out)
    methods = []
    for (conf,), conf_runs in _groups(comparable, "conf"):
        conf_runs.sort(key=lambda run: run["seed"])
        entry = entries.get(conf)
        if entry:
            network = pretrained.network(conf_runs[0]["backbone"]["name"])
            entry = entry.of_run(conf_runs[0]["feature"], network)
        methods.append(Method(conf, conf_runs, entry))
    return sorted(methods, key=_order)


def _groups(runs, *keys):
    """[(values, runs)] of runs that share the values of dotted keys, in order of the values."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        values = tuple(_value(run, key) for key in keys)
        groups.setdefault(values, []).append(run)
    return sorted(groups.items())


def _order(method):
    weights = method["backbone"]["weights"]
    return KINDS.index(method.kind), method["trainable_parameters"], weights, method.conf


def _agreeing(runs, key, left_out):
    """The runs with the most frequent value of a key, or none; the others are left out."""
    values = [_compared(run, key) for run in runs]
    counts = Counter(value for value in values if value is not None)
    if len(counts) < 2:
        return runs
    ((expected, _),) = counts.most_common(1)
    reference = runs[values.index(expected)].folder
    kept = []
    for run, value in zip(runs, values, strict=True):
        if value in (expected, None):
            kept.append(run)
            continue
        left_out.append(
            f"{RunFolder(run.folder).results}: {key} is {value}, expected {expected} as in "
            f"{reference}: not comparable; delete the folder of the two that is out of date "
            "and run: source run.sh"
        )
    return kept


def _compared(run, key):
    """A run's value of a dotted key as JSON; None if it need not agree."""
    if key == "truth.sha256" and not run.scored_on(TRUTH):
        return None
    # Pre-trained weights under one name are one file; random ones differ from seed to seed, and
    # position embeddings for another stride are resampled.
    if key == "backbone.sha256" and (not run.is_pretrained or "stride" in run["backbone"]):
        return None
    return json.dumps(_value(run, key))


def _value(run, dotted_key):
    value = run.results
    for key in dotted_key.split("."):
        value = value[key]
    return value
