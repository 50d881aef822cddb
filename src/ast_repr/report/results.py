"""Run folders in, tables out: what may stand side by side, and in which order.

Conventions
    run folder: exp/<corpus>/<conf>/seed<k>/ with results.json, history.jsonl, predictions.npz and, for some, example.npz.
    <conf> may be a variant: a conf and the settings laid over it, ast_unet+input.norm=corpus.
    A table holds the runs of one (corpus, protocol, backbone): others never share it. Rows without AST stand in it too.
"""

import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from . import shape

SETTING = [  # what the seeds of a conf share
    "row",
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
KINDS = (
    "without AST",
    "frozen AST",
    "reprogrammed AST",
    "fine-tuned AST",
)  # in the order of a table
NAMES = {"openmic": "OpenMIC-2018"}  # folder of a corpus' experiments: what publications call it


def corpus_options(name, recipe):
    """Options of a recipe's run.sh that choose the corpus of experiments called `name` (egs/README.md says how they are called).

    >>> corpus_options("synthetic", "openmic"), corpus_options("synthetic-20000", "openmic")
    ('--corpus synthetic', '--corpus synthetic --clips 20000')
    >>> corpus_options("my songs", "custom")
    "--manifest '.../my songs.csv'"
    """
    if recipe == "custom":
        return f"--manifest {shlex.quote(f'.../{name}.csv')}"
    if name in ("synthetic", "openmic"):
        return f"--corpus {name}"
    if re.fullmatch(r"synthetic-\d+", name):
        return f"--corpus synthetic --clips {name.removeprefix('synthetic-')}"
    return f"--corpus openmic --data-root {shlex.quote(f'.../{name}')}"


def recipe(folder):
    """Name of the recipe that a run folder is of, egs/<recipe>/exp/<corpus>/<conf>/seed<k>; "" where it lies elsewhere.

    >>> recipe(Path("/ast_repr/egs/custom/exp/songs/ast_unet/seed0")), recipe(Path("/songs/ast_unet/seed0"))
    ('custom', '')
    """
    return "".join(folder.resolve().parts[-5:-4])


def same_corpus(published, corpus):
    """Whether published numbers are of the corpus called `corpus`, or of another, with which nothing compares.

    >>> same_corpus({"corpus": "OpenMIC-2018"}, "openmic"), same_corpus({"corpus": "OpenMIC-2018"}, "synthetic")
    (True, False)
    """
    return published["corpus"] == NAMES.get(corpus)


class ResultsError(ValueError):
    """Results that are missing, damaged, or not comparable; the message names the file and what to do."""


@dataclass(frozen=True)
class Run:
    """One trained and scored run: its folder, its results.json and its history, one dict an epoch."""

    folder: Path
    results: dict
    history: list

    def __getitem__(self, key):
        return self.results[key]

    def example(self):
        """The clip before and after the reprogrammer (dict of arrays of example.npz), or None where there is none."""
        there = (self.folder / "example.npz").is_file()
        return (
            self.arrays("example.npz", ("before", "after", "clip", "instruments"))
            if there
            else None
        )

    def arrays(self, file, keys):
        """The arrays called `keys` in an .npz of the run folder, as a dict.

        Raises:
            ResultsError: the file is missing or damaged, or lacks an array.
        """
        path = self.folder / file
        try:
            with np.load(path, allow_pickle=False) as found:
                return {key: found[key] for key in keys}
        except FileNotFoundError as error:
            raise ResultsError(
                f"{path}: missing, expected what the stage score writes; {_remedy(path.parent)}"
            ) from error
        except Exception as error:  # numpy raises a different one for each kind of damage
            raise ResultsError(f"{path}: damaged ({error}); {_remedy(path.parent)}") from error


@dataclass(frozen=True)
class Row:
    """One line of a table: the runs of a conf, by seed."""

    conf: str
    runs: list

    def __getitem__(self, key):
        return self.runs[0][key]

    @property
    def name(self):
        """The row's name in the paper or conf; says so where the frozen weights are random."""
        random = self["backbone"]["weights"] == "random" and "random" not in self["row"].lower()
        return self["row"] + (", random frozen weights" if random else "")

    @property
    def stem(self):
        """The conf that a variant stems from; a plain conf is its own."""
        return self.conf.partition("+")[0]

    @property
    def settings(self):
        """What a variant lays over its conf: ["input.norm=corpus"]; empty for a plain conf."""
        return self.conf.split("+")[1:]

    @property
    def label(self):
        """The row's name with what tells it from its like: the variant's settings, or the conf."""
        return (
            ", ".join([self.name, *self.settings])
            if self.settings
            else f"{self.name} ({self.conf})"
        )

    @property
    def kind(self):
        """One of KINDS. Fine-tuned is what trains more than half of all its parameters: a reprogrammer and a head are small."""
        if self["backbone"]["weights"] == "none":
            return KINDS[0]
        if self["trainable_parameters"] > self["total_parameters"] / 2:
            return KINDS[3]
        return KINDS[1 if self["reprogrammer"] == "none" else 2]

    def values(self, *keys):
        """`results[keys[0]][keys[1]]...` of each run, in order of seeds."""
        return [_dig(run.results, keys) for run in self.runs]


@dataclass(frozen=True)
class Table:
    """Rows that may be compared: the same corpus, protocol, backbone and scored labels."""

    corpus: str
    protocol: str
    backbone: str
    rows: list

    def __getitem__(self, key):
        return self.rows[0][key]

    @property
    def runs(self):
        return [run for row in self.rows for run in row.runs]

    @property
    def main(self):
        """The table of the plain confs alone; it may have no rows."""
        return replace(self, rows=[row for row in self.rows if not row.settings])

    def only(self, confs):
        """The table of the rows called `confs`, in that order; names without a row are left out."""
        rows = {row.conf: row for row in self.rows}
        return replace(self, rows=[rows[conf] for conf in confs if conf in rows])

    @property
    def title(self):
        counts = sorted({len(row.runs) for row in self.rows})
        seeds = (
            f"{counts[0]} to {counts[-1]} seeds"
            if len(counts) > 1
            else f"{counts[0]} seed{'s' * (counts[0] > 1)}"
        )
        return f"Corpus {self.corpus}, protocol {self.protocol}, backbone {self.backbone}, {seeds}"

    @property
    def stem(self):
        """A file name for what belongs to this table alone."""
        return re.sub(r"[^\w.-]+", "_", f"{self.protocol}.{self.backbone}")


def read(exp):
    """Read every scored run of a corpus.

    Args:
        exp: the corpus' folder of runs, exp/<corpus>.

    Returns:
        (tables, unscored): list of Table in order of protocol and backbone, with rows in order of KINDS, then by trainable
        parameters; and the run folders that hold no results.json yet.

    Raises:
        ResultsError: no run is scored, a file is damaged or incomplete, or runs of one table are not comparable.
    """
    exp = Path(exp)
    folders = sorted(path for path in exp.glob("*/seed*") if path.is_dir())
    unscored = [folder for folder in folders if not (folder / "results.json").is_file()]
    runs = [_run(folder) for folder in folders if folder not in unscored]
    if not runs:
        found = (
            "no such folder"
            if not exp.is_dir()
            else f"none of {len(folders)} run folders holds a results.json"
        )
        raise ResultsError(
            f"{exp}: {found}, expected scored runs (<conf>/seed<k>/results.json); run: source run.sh"
        )
    keys = sorted({_key(run) for run in runs})
    return [_table(key, [run for run in runs if _key(run) == key]) for key in keys], unscored


def mean_std(values):
    """(mean, standard deviation with n - 1, n) of the values that are not None; None where there are too few.

    >>> mean_std([1.0, 3.0, None])
    (2.0, 1.4142135623730951, 2)
    >>> mean_std([1.0])
    (1.0, None, 1)
    """
    known = [value for value in values if value is not None]
    return mean(known) if known else None, stdev(known) if len(known) > 1 else None, len(known)


def _key(run):
    return run["corpus"], run["protocol"], run["backbone"]["name"]


def _run(folder):
    path = folder / "results.json"
    results = _json(path, path.read_text(encoding="utf-8", errors="replace"))
    wrong = shape.lacking(results)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ResultsError(
            f"{path}: incomplete, expected {', '.join(wrong[:3])}{more}; {_remedy(folder)}"
        )
    if (results["conf"], f"seed{results['seed']}") != (folder.parent.name, folder.name):
        raise ResultsError(
            f"{path}: holds {results['conf']}/seed{results['seed']}, expected the run of its folder; "
            "move it to its own, or delete it if it is a copy"
        )
    return Run(folder, results, _history(folder))


def _history(folder):
    path = folder / "history.jsonl"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError as error:
        raise ResultsError(
            f"{path}: missing, expected a line for each epoch; {_remedy(folder, path.name)}"
        ) from error
    return [_json(path, line) for line in lines]


def _json(path, text):
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ResultsError(
            f"{path}: not JSON ({error}), expected what the run wrote; {_remedy(path.parent, path.name)}"
        ) from error
    if not isinstance(value, dict):
        raise ResultsError(
            f"{path}: holds a {type(value).__name__}, expected an object; {_remedy(path.parent, path.name)}"
        )
    return value


def _remedy(folder, file="results.json"):
    """What makes `file` of a run folder anew: the stages leave alone what they find done."""
    corpus, conf, seed = folder.resolve().parts[-3:]
    stage = "train" if file == "history.jsonl" else "score"
    protocol = " --protocol paper" if corpus.endswith("-paper") else ""
    options = f"{corpus_options(corpus.removesuffix('-paper'), recipe(folder))}{protocol}"
    return f"delete {folder / file} and run: source run.sh {options} --conf {shlex.quote(conf)} --seeds {seed.removeprefix('seed')} --from {stage}"


def _table(key, runs):
    confs = sorted({run["conf"] for run in runs})
    rows = [
        Row(conf, sorted((run for run in runs if run["conf"] == conf), key=lambda run: run["seed"]))
        for conf in confs
    ]
    rows.sort(
        key=lambda row: (
            KINDS.index(row.kind),
            row["trainable_parameters"],
            row["backbone"]["weights"],
            row.conf,
        )
    )
    for row in rows:
        _refuse_difference(row.runs, SETTING)
    _refuse_difference(runs, ["split", "clips", "observed", "threshold", "classes"])
    # Random weights differ from seed to seed; pre-trained ones under one name are one file; rows without AST have none.
    _refuse_difference(
        [run for run in runs if run["backbone"]["weights"] not in ("random", "none")],
        ["backbone.sha256"],
    )
    return Table(*key, rows)


def _refuse_difference(runs, keys):
    for key in keys:
        values = [_dig(run.results, key.split(".")) for run in runs]
        for run, value in zip(runs, values):
            if value != values[0]:
                raise ResultsError(
                    f"{run.folder / 'results.json'}: {key} is {value!r}, expected {values[0]!r} as in {runs[0].folder}: "
                    f"not comparable; delete the folder of the two that is out of date and run: source run.sh"
                )


def _dig(value, keys):
    for key in keys:
        value = value[key]
    return value
