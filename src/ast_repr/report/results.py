"""Run folders in, tables out: what may stand side by side, and in which order.

Conventions
    run folder: exp/<corpus>/<conf>/seed<k>/ with results.json, history.jsonl, predictions.npz and,
    for some, example.npz. <conf> may be a variant: a conf and settings, ast_unet+input.norm=corpus.
    A table holds the runs of one (corpus, protocol, backbone): others never share it. Rows without
    AST stand in it too.
    One bad run never hides another: what cannot be used is left out, with a sentence that says why.
"""

import json
import re
import shlex
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from .. import atomic, identity
from . import schema

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
COMPARABLE = [
    "split",
    "clips",
    "observed",
    "threshold",
    "classes",
]  # what the runs of a table share
NAMES = {"openmic": "OpenMIC-2018"}  # folder of a corpus' experiments: what publications call it
TEST_SPLITS = {(5_085, 10_522): "OpenMIC-2018"}  # (clips, observed labels): the same, of a copy


def corpus_options(name, recipe):
    """Options of a recipe's run.sh that choose the corpus of experiments called `name`.

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
    """Name of the recipe that a run folder belongs to, "" if it lies elsewhere.

    >>> recipe(Path("/ast_repr/egs/custom/exp/songs/ast_unet/seed0"))
    'custom'
    """
    return "".join(folder.resolve().parts[-5:-4])


def published(row, table):
    """What was published of a row, if it is of the table's corpus; None if it is not.

    The corpus is known by its name, or by the counts of its test split.
    """
    counted = TEST_SPLITS.get((table["clips"], table["observed"]))
    name = NAMES.get(table.corpus, counted)
    if row["published"] is None or row["published"]["corpus"] != name:
        return None
    return row["published"]


class ResultsError(ValueError):
    """Results that are missing, damaged, or not comparable; the message names file and remedy."""


@dataclass(frozen=True)
class Run:
    """One trained and scored run.

    Attributes:
        folder: the run folder.
        results: its results.json.
        history: one dict per epoch; empty if it is damaged or missing.
        has_example: whether the folder holds a whole example.npz.
    """

    folder: Path
    results: dict
    history: list
    has_example: bool = False

    def __getitem__(self, key):
        return self.results[key]

    def example(self) -> dict:
        """The arrays of example.npz: a clip before and after the reprogrammer, and its labels.

        Raises:
            ResultsError: see `arrays`.
        """
        return self.arrays("example.npz", ("before", "after", "clip", "instruments"))

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
        """One of KINDS. Fine-tuned is what trains more than half of all its parameters."""
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


def read(exp) -> tuple[list[Table], list[str]]:
    """Read every scored run of a corpus.

    Args:
        exp: the corpus' folder of runs, exp/<corpus>.

    Returns:
        (tables, left_out): tables in order of protocol and backbone, with rows in order of KINDS,
        then by trainable parameters; and a sentence for each run or file that is left out because
        it is not there yet, damaged, incomplete, of another folder, or not comparable with the
        other runs. There may be no table.

    Raises:
        ResultsError: there is no such folder, or no run in it.
    """
    exp = Path(exp)
    folders = sorted(path for path in exp.glob("*/seed*") if path.is_dir())
    if not folders:
        reason = "no run in this folder" if exp.is_dir() else "no such folder"
        raise ResultsError(
            f"{exp}: {reason}, expected scored runs (<conf>/seed<k>/results.json); "
            "run: source run.sh"
        )
    runs = []
    left_out = []
    for folder in folders:
        try:
            run, damage = _run(folder)
        except ResultsError as error:
            left_out.append(str(error))
        else:
            runs.append(run)
            left_out += damage
    runs = _of_one_corpus(exp, runs, left_out)
    tables = [
        _table(key, [run for run in runs if _key(run) == key], left_out)
        for key in sorted({_key(run) for run in runs})
    ]
    return tables, left_out


def mean_std(values):
    """(mean, standard deviation with n - 1, n) of the values that are not None.

    Mean and deviation are None if there are too few values.

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
    """(Run, what is wrong with its other files); ResultsError if its results cannot be used."""
    run = Run(folder, _results(folder), [])
    damage = []
    try:
        run = replace(run, history=_history(folder, run.results))
    except ResultsError as error:
        damage.append(str(error))
    if (folder / "example.npz").is_file():
        try:
            run.example()
            run = replace(run, has_example=True)
        except ResultsError as error:
            damage.append(str(error))
    return run, damage


def _results(folder):
    """The results.json of a run folder, checked."""
    path = folder / "results.json"
    if not path.is_file():
        raise ResultsError(f"{folder}: not scored yet")
    results = _object(path, _text(path))
    wrong = schema.lacking(results)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ResultsError(
            f"{path}: incomplete, expected {', '.join(wrong[:3])}{more}; {_remedy(folder)}"
        )
    if (results["conf"], f"seed{results['seed']}") != (folder.parent.name, folder.name):
        raise ResultsError(
            f"{path}: holds {results['conf']}/seed{results['seed']}, expected the run of its "
            "folder; move it to its own, or delete it if it is a copy"
        )
    return results


def _history(folder, results):
    """The lines of a run folder's history.jsonl, checked, also against what was scored."""
    path = folder / "history.jsonl"
    if not path.is_file():
        raise ResultsError(
            f"{path}: missing, expected a line for each epoch; {_remedy(folder, path.name)}"
        )
    expected = results.get("files", {}).get(path.name)
    if expected is not None and identity.of_file(path) != expected:
        raise ResultsError(
            f"{path}: damaged, or changed since the run was scored; {_remedy(folder, path.name)}"
        )
    lines = [_object(path, line) for line in _text(path).splitlines()]
    for line in lines:
        if schema.lacking_in_history(line):
            raise ResultsError(
                f"{path}: found {json.dumps(line)[:80]}, expected an epoch and its values; "
                f"{_remedy(folder, path.name)}"
            )
    return lines


def _text(path):
    try:
        return atomic.read_text(path)
    except (ValueError, OSError) as error:
        raise ResultsError(
            f"{path}: not readable ({error}); {_remedy(path.parent, path.name)}"
        ) from error


def _object(path, text):
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ResultsError(
            f"{path}: not JSON ({error}), expected what the run wrote; "
            f"{_remedy(path.parent, path.name)}"
        ) from error
    if not isinstance(value, dict):
        raise ResultsError(
            f"{path}: holds a {type(value).__name__}, expected an object; "
            f"{_remedy(path.parent, path.name)}"
        )
    return value


def _remedy(folder, file="results.json"):
    """How to remake `file` of a run folder: the stages leave alone what they find done."""
    corpus, conf, seed = folder.resolve().parts[-3:]
    stage = "train" if file == "history.jsonl" else "score"
    protocol = " --protocol paper" if corpus.endswith("-paper") else ""
    options = f"{corpus_options(corpus.removesuffix('-paper'), recipe(folder))}{protocol}"
    return (
        f"delete {folder / file} and run: source run.sh {options} "
        f"--conf {shlex.quote(conf)} --seeds {seed.removeprefix('seed')} --from {stage}"
    )


def _of_one_corpus(exp, runs, left_out):
    """The runs whose corpus is the folder's; the others were copied there and are left out.

    In a folder of another name than any run's corpus, all runs stay.
    """
    own = [run for run in runs if exp.name in (run["corpus"], f"{run['corpus']}-{run['protocol']}")]
    if not own:
        return runs
    for run in runs:
        if run not in own:
            left_out.append(
                f"{run.folder / 'results.json'}: is of corpus {run['corpus']}, protocol "
                f"{run['protocol']}, expected {exp.name} as its folder says; move it to its own"
            )
    return own


def _table(key, runs, left_out):
    """The Table of `runs`, less those that do not compare with most of the others."""
    kept = []
    for conf in sorted({run["conf"] for run in runs}):
        kept += _agreeing([run for run in runs if run["conf"] == conf], SETTING, left_out)
    kept = _agreeing(kept, COMPARABLE, left_out)
    # Pre-trained weights under one name are one file; random ones differ from seed to seed.
    pretrained = [run for run in kept if run["backbone"]["weights"] not in ("random", "none")]
    others = [run for run in kept if run["backbone"]["weights"] in ("random", "none")]
    kept = _agreeing(pretrained, ["backbone.sha256"], left_out) + others
    rows = []
    for conf in sorted({run["conf"] for run in kept}):
        own = [run for run in kept if run["conf"] == conf]
        rows.append(Row(conf, sorted(own, key=lambda run: run["seed"])))
    rows.sort(
        key=lambda row: (
            KINDS.index(row.kind),
            row["trainable_parameters"],
            row["backbone"]["weights"],
            row.conf,
        )
    )
    return Table(*key, rows)


def _agreeing(runs, keys, left_out):
    """The runs that have the most frequent value of each key; the others are left out."""
    for key in keys:
        values = [json.dumps(_dig(run.results, key.split("."))) for run in runs]
        if len(set(values)) < 2:
            continue
        ((expected, _),) = Counter(values).most_common(1)
        like = runs[values.index(expected)].folder
        for run, value in zip(runs, values, strict=True):
            if value != expected:
                left_out.append(
                    f"{run.folder / 'results.json'}: {key} is {value}, expected {expected} as in "
                    f"{like}: not comparable; delete the folder of the two that is out of date "
                    "and run: source run.sh"
                )
        runs = [run for run, value in zip(runs, values, strict=True) if value == expected]
    return runs


def _dig(value, keys):
    for key in keys:
        value = value[key]
    return value
