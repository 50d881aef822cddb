"""Read run folders into tables of comparable methods.

A run folder is exp/<corpus>/<conf>/seed<k>/ with results.json, history.jsonl, predictions.npz and,
for some, example.npz; <conf> may be a variant such as ast_unet+input.norm=corpus. A table holds the
runs of one corpus, protocol and backbone; methods without AST stand in it too. One bad run never
hides another: what cannot be used is left out, with a sentence that says why.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from .. import identity
from ..run_folder import RunFolder
from . import schema
from .published import Entry, Published, name_of_corpus

KINDS = ("without AST", "frozen AST", "reprogrammed AST", "fine-tuned AST")  # in a table's order
SAME_FOR_SEEDS = [  # of a conf
    "norm",
    "feature",
    "reprogrammer",
    "trainable_parameters",
    "macs",
    "label_fraction",
    "backbone.weights",
    "selection.split",
    "selection.metric",
    "selection.mode",
]
SAME_FOR_TABLE = ["split", "clips", "observed", "threshold", "classes"]


class ResultsError(ValueError):
    """Results that are missing, damaged, or not comparable; the message names file and remedy."""


@dataclass(frozen=True)
class Run:
    """One trained and evaluated run; run["key"] is a value of its results.json.

    Attributes:
        folder: the run folder.
        results: its results.json.
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
        return self.results if labels == schema.OBSERVED else self.results.get("truth")

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Read the arrays of an .npz of the run folder.

        Raises:
            ResultsError: see `file`.
        """
        with np.load(self.file(name)) as arrays:
            return dict(arrays)

    def file(self, name: str) -> Path:
        """The path of a file that was written with the results.

        Raises:
            ResultsError: it is missing, damaged, or has changed since.
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
        name = self.entry.name_with(self["feature"]) if self.entry else self.conf
        if self["backbone"]["weights"] == "random" and "random" not in name.lower():
            name += ", random frozen weights"
        return name

    @property
    def label(self) -> str:
        """The name with that of the conf, which is unique in a table."""
        return f"{self.name} ({self.conf})" if self.entry else self.name

    @property
    def stem(self) -> str:
        """The conf that a variant is of; a plain conf itself."""
        return self.conf.partition("+")[0]

    @property
    def is_variant(self) -> bool:
        return "+" in self.conf

    @property
    def published(self) -> Published | None:
        return self.entry.published if self.entry else None

    @property
    def kind(self) -> str:
        """One of KINDS. Fine-tuned means that more than half of all parameters are trained."""
        if self["backbone"]["weights"] == "none":
            return "without AST"
        if self["trainable_parameters"] > self["total_parameters"] / 2:
            return "fine-tuned AST"
        if self["reprogrammer"] == "none":
            return "frozen AST"
        return "reprogrammed AST"

    def values(self, *keys: str) -> list:
        """`results[keys[0]][keys[1]]...` of each run, in order of seeds."""
        return [_dig(run.results, keys) for run in self.runs]

    def scores(self, labels: str, metric: str) -> list[float | None]:
        """The values of one of `metrics`."""
        return [values[metric] for values in self.metrics(labels)]

    def metrics(self, labels: str) -> list[dict[str, Any]]:
        """The metrics on OBSERVED or TRUTH of the runs that were evaluated on it."""
        scored = [run.scored_on(labels) for run in self.runs]
        return [part["metrics"] for part in scored if part]


@dataclass(frozen=True)
class Table:
    """Methods that may be compared: the same corpus, protocol, backbone and test labels."""

    corpus: str
    protocol: str
    backbone: str
    methods: list[Method]

    def __getitem__(self, key: str) -> Any:
        return self.methods[0][key]

    @property
    def runs(self) -> list[Run]:
        return [run for method in self.methods for run in method.runs]

    def scored_on(self, labels: str) -> dict[str, Any] | None:
        """Same as that of the first run which was evaluated on these labels; None if none was."""
        for run in self.runs:
            scored = run.scored_on(labels)
            if scored:
                return scored
        return None

    @property
    def has_truth(self) -> bool:
        """Whether a run was evaluated on the truth too."""
        return self.scored_on(schema.TRUTH) is not None

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
        """What was published of a method on this table's corpus."""
        corpus = name_of_corpus(self.corpus, self["clips"], self["observed"])
        if method.published is None or method.published.corpus != corpus:
            return None
        return method.published

    @property
    def title(self) -> str:
        counts = sorted({len(method.runs) for method in self.methods})
        if len(counts) > 1:
            seeds = f"{counts[0]} to {counts[-1]} seeds"
        elif counts[0] > 1:
            seeds = f"{counts[0]} seeds"
        else:
            seeds = "1 seed"
        return f"Corpus {self.corpus}, protocol {self.protocol}, backbone {self.backbone}, {seeds}"

    @property
    def stem(self) -> str:
        """Beginning of the names of this table's files."""
        return re.sub(r"[^\w.-]+", "_", f"{self.protocol}.{self.backbone}")


def read(
    exp: str | Path, entries: Mapping[str, Entry] | None = None
) -> tuple[list[Table], list[str]]:
    """Read every evaluated run of a corpus.

    Args:
        exp: the corpus' folder of runs, exp/<corpus>.
        entries: of published.yaml, by conf.

    Returns:
        (tables, left_out): tables in order of protocol and backbone, methods in order of KINDS and
        trainable parameters; and why each run or file that is left out is so. There may be no
        table.

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
    runs = _of_corpus(exp, runs, left_out)
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        key = (run["corpus"], run["protocol"], run["backbone"]["name"])
        groups.setdefault(key, []).append(run)
    tables = []
    for key in sorted(groups):
        methods = _methods(groups[key], entries or {}, left_out)
        tables.append(Table(*key, methods))
    return tables, left_out


def mean_std(values: Iterable[float | None]) -> tuple[float | None, float | None, int]:
    """Compute (mean, standard deviation with n - 1, n) of the values that are not None.

    Mean and deviation are None if there are too few values.

    >>> mean_std([1.0, 3.0, None])
    (2.0, 1.4142135623730951, 2)
    >>> mean_std([1.0])
    (1.0, None, 1)
    """
    known = [value for value in values if value is not None]
    average = mean(known) if known else None
    deviation = stdev(known) if len(known) > 1 else None
    return average, deviation, len(known)


def _run(folder, left_out):
    """Read a Run; damage that does not prevent its being reported goes to `left_out`."""
    files = RunFolder(folder)
    path = files.results
    if not path.is_file():
        raise ResultsError(f"{files}: not evaluated yet")
    results = files.read_results()
    if results is None:
        raise _damaged(path, "damaged")
    missing = [key for key in schema.REQUIRED if key not in results]
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


def _of_corpus(exp, runs, left_out):
    """The runs whose corpus is the folder's; the others were copied there and are left out.

    In a folder of another name than any run's corpus, all runs stay.
    """
    kept = []
    others = []
    for run in runs:
        names = (run["corpus"], f"{run['corpus']}-{run['protocol']}")
        (kept if exp.name in names else others).append(run)
    if not kept:
        return runs
    for run in others:
        left_out.append(
            f"{RunFolder(run.folder).results}: is of corpus {run['corpus']}, protocol "
            f"{run['protocol']}, expected {exp.name} as its folder says; move it to its own"
        )
    return kept


def _methods(runs, entries, left_out):
    """The methods of a table's runs, less those that are not comparable with most of the others."""
    comparable = []
    for conf_runs in _by_conf(runs).values():
        comparable += _agreeing(conf_runs, SAME_FOR_SEEDS, left_out)
    comparable = _agreeing(comparable, SAME_FOR_TABLE, left_out)
    with_truth = [run for run in comparable if run.scored_on(schema.TRUTH)]
    comparable = _agreeing_part(comparable, with_truth, ["truth.sha256"], left_out)
    # Pre-trained weights under one name are one file; random ones differ from seed to seed.
    pretrained = [run for run in comparable if is_pretrained(run)]
    comparable = _agreeing_part(comparable, pretrained, ["backbone.sha256"], left_out)
    methods = []
    for conf, conf_runs in _by_conf(comparable).items():
        conf_runs.sort(key=lambda run: run["seed"])
        methods.append(Method(conf, conf_runs, entries.get(conf)))
    return sorted(methods, key=_order)


def is_pretrained(run: Run) -> bool:
    """Whether the run has a pre-trained backbone."""
    return run["backbone"]["weights"] not in ("random", "none")


def _by_conf(runs):
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run["conf"]):
        groups.setdefault(run["conf"], []).append(run)
    return groups


def _order(method):
    weights = method["backbone"]["weights"]
    return KINDS.index(method.kind), method["trainable_parameters"], weights, method.conf


def _agreeing(runs, keys, left_out):
    """The runs that have the most frequent value of each key; the others are left out."""
    for key in keys:
        values = [json.dumps(_dig(run.results, key.split("."))) for run in runs]
        if len(set(values)) < 2:
            continue
        ((expected, _),) = Counter(values).most_common(1)
        reference = runs[values.index(expected)].folder
        kept = []
        for run, value in zip(runs, values, strict=True):
            if value == expected:
                kept.append(run)
                continue
            left_out.append(
                f"{RunFolder(run.folder).results}: {key} is {value}, expected {expected} as in "
                f"{reference}: not comparable; delete the folder of the two that is out of date "
                "and run: source run.sh"
            )
        runs = kept
    return runs


def _agreeing_part(runs, part, keys, left_out):
    """The runs, less those of `part` that `_agreeing` leaves out."""
    rest = [run for run in runs if run not in part]
    return _agreeing(part, keys, left_out) + rest


def _dig(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value[key]
    return value
