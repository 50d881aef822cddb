"""Compare methods by macro-F1: differences with bootstrap intervals, and sampling errors.

The same samples of the test clips serve both methods of a comparison, and every seed; the
differences of the seeds that both have are averaged. Intervals and errors cover the choice of test
clips, not that of seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import bootstrap
from .bootstrap import LEVEL, RESAMPLES
from .results import Method, ResultsError, Run, Table
from .schema import OBSERVED, TRUTH

PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Difference:
    """A method's macro-F1 minus the reference's, as fractions.

    Attributes:
        low, high: bounds of the interval.
        p: of the hypothesis that there is no difference.
        significant: whether it differs, by Holm's correction over the methods of the table.
    """

    value: float
    low: float
    high: float
    p: float
    significant: bool = False


@dataclass(frozen=True)
class Comparison:
    """What resampling the test clips shows of the methods of a table.

    Attributes:
        labels: OBSERVED or TRUTH, on which macro-F1 is computed.
        errors: by conf, the bootstrap standard error of macro-F1, the mean over seeds.
        differences: by conf, from the reference.
        problems: why methods have neither, in sentences.
    """

    labels: str
    errors: dict[str, float]
    differences: dict[str, Difference]
    problems: list[str]


def compare_with_reference(
    table: Table, reference: str | None, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare every method of a table with one of them, on the truth if it is known.

    Args:
        reference: its conf. If the table lacks it, there are sampling errors alone.
        resamples: samples of the test clips; `seed`: of their generator.
    """
    labels = TRUTH if table.has_truth else OBSERVED
    cells, problems = _read_table(table, reference, labels)
    samples = {}
    if cells:
        macro_f1 = bootstrap.resampled(list(cells.values()), resamples, seed)[:, :, -1]
        samples = dict(zip(cells, macro_f1, strict=True))
    errors = {}
    differences = {}
    for method in table.methods:
        conf = method.conf
        seeds = [number for name, number in samples if name == conf]
        if not seeds:
            continue
        mean = np.mean([samples[conf, number] for number in seeds], axis=0)
        if np.isnan(mean).all():
            continue
        errors[conf] = float(np.nanstd(mean, ddof=1))
        paired = [number for number in seeds if (reference, number) in samples]
        if paired and conf != reference:
            values = [_macro_f1(cells[conf, number]) for number in paired]
            base = [_macro_f1(cells[reference, number]) for number in paired]
            by_seed = [samples[conf, number] - samples[reference, number] for number in paired]
            value = np.mean(values) - np.mean(base)
            differences[conf] = _difference(value, np.mean(by_seed, axis=0))
    return Comparison(labels, errors, _marked(differences), problems)


def compare(
    a: Method, b: Method, labels: str = OBSERVED, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compute method `b` minus method `a` of one table, paired by seed and by clip.

    Args:
        labels: OBSERVED or TRUTH.
        resamples: samples of the test clips; `seed`: of their generator.

    Returns:
        dict: a, b (names of confs), labels, seeds, clips, resamples, level; "macro_f1" and, by
        name, "per_instrument": each {a, b, difference, low, high} as fractions, None if undefined;
        "by_seed" {seed: difference}.

    Raises:
        ResultsError: no metric is defined, no seed is common, or the predictions are missing,
            damaged, or of different clips or labels.
    """
    if None in a.scores(labels, "macro_f1"):
        raise ResultsError(
            f"{a.conf} and {b.conf} have no macro-F1 to compare: no class of the split "
            f"{a['split']!r} has labels of both kinds, present and absent; label more clips there"
        )
    pairs = _pairs(a, b)
    reference = pairs[0][0].arrays(PREDICTIONS)
    cells_a = [read_cells(run, reference, labels) for run, _ in pairs]
    cells_b = [read_cells(run, reference, labels) for _, run in pairs]
    values_a = np.concatenate([bootstrap.macro_f1(marks) for marks in cells_a])
    values_b = np.concatenate([bootstrap.macro_f1(marks) for marks in cells_b])
    samples = bootstrap.resampled(cells_a + cells_b, resamples, seed)
    low, high = bootstrap.interval((samples[len(pairs) :] - samples[: len(pairs)]).mean(0))
    means = zip(values_a.mean(0), values_b.mean(0), low, high, strict=True)
    parts = []
    for value_a, value_b, least, most in means:
        part = {"a": value_a, "b": value_b, "difference": value_b - value_a}
        part |= {"low": least, "high": most}
        parts.append({key: None if np.isnan(x) else float(x) for key, x in part.items()})
    seeds = [run["seed"] for run, _ in pairs]
    differences = values_b[:, -1] - values_a[:, -1]
    return {
        "a": a.conf,
        "b": b.conf,
        "labels": labels,
        "seeds": seeds,
        "clips": len(reference["clips"]),
        "resamples": resamples,
        "level": LEVEL,
        "macro_f1": parts[-1],
        "per_instrument": dict(zip(a["classes"], parts[:-1], strict=True)),
        "by_seed": dict(zip(map(str, seeds), differences.tolist(), strict=True)),
    }


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute Kendall's tau-a of two rankings, from -1 (reversed) to 1 (the same order).

    It is the share of pairs in the same order minus that of pairs in opposite orders.

    >>> round(kendall_tau([1, 2, 3], [1, 3, 2]), 3)
    0.333
    """
    pairs = np.triu_indices(len(first), k=1)
    orders = [np.sign(np.subtract.outer(values, values))[pairs] for values in (first, second)]
    return float(np.mean(orders[0] * orders[1]))


def sentence(comparison: dict[str, Any]) -> str:
    """Describe what `compare` returns in one line, in points (per cent of macro-F1)."""
    overall = comparison["macro_f1"]
    excludes = overall["low"] > 0 or overall["high"] < 0
    numbers = ", ".join(map(str, comparison["seeds"]))
    seeds = f"seeds {numbers}" if len(comparison["seeds"]) > 1 else f"seed {numbers}"
    return (
        f"{comparison['b']} - {comparison['a']}: {100 * overall['difference']:+.1f} points of "
        f"macro-F1 on the {comparison['labels']}, {comparison['level']} % interval "
        f"[{100 * overall['low']:+.1f}, {100 * overall['high']:+.1f}] "
        f"{'excludes' if excludes else 'includes'} zero ({seeds}; {comparison['clips']:,} clips, "
        f"{comparison['resamples']:,} resamples)"
    )


def read_cells(run: Run, reference: Mapping[str, np.ndarray], labels: str) -> np.ndarray:
    """Read a run's `bootstrap.cells`, in the order of the clips of `reference`.

    Args:
        reference: arrays of a predictions.npz: clips (N,), scores, targets, mask and, if known,
            truth (N, K).
        labels: OBSERVED or TRUTH.

    Raises:
        ResultsError: clips or labels are not the same as those of `reference`, or the run was
            evaluated without the truth.
    """
    arrays = run.arrays(PREDICTIONS)
    order = np.argsort(arrays["clips"])
    expected = np.argsort(reference["clips"])
    if not np.array_equal(arrays["clips"][order], reference["clips"][expected]):
        raise _differ(run, "clips")
    if labels == TRUTH and not ("truth" in arrays and "truth" in reference):
        raise ResultsError(
            f"{run.folder}: no truth in {PREDICTIONS} of both methods, expected it for all runs of "
            "the corpus; run the stage score"
        )
    places = np.empty_like(order)
    places[expected] = order
    names = ("scores", "truth") if labels == TRUTH else ("scores", "targets", "mask")
    arrays = {name: arrays[name][places] for name in names}
    if labels == TRUTH:
        same = np.array_equal(arrays["truth"], reference["truth"])
    else:
        mask = reference["mask"]
        same = np.array_equal(arrays["mask"], mask)
        same = same and np.array_equal(arrays["targets"][mask], reference["targets"][mask])
    if not same:
        raise _differ(run, "labels")
    return bootstrap.cells(arrays, run["threshold"], labels)


def _read_table(table, reference, labels):
    """Read the cells of the runs of a table.

    Returns:
        (cells, problems): {(conf, seed): cells} in the order of the reference's clips; methods
        whose predictions cannot be used are left out, and a sentence of `problems` says why.
    """
    methods = table.only([reference]).methods
    methods += [method for method in table.methods if method.conf != reference]
    cells = {}
    problems = []
    common = None  # arrays of the run whose clips and labels all others must have
    for method in methods:
        try:
            first = common or method.runs[0].arrays(PREDICTIONS)
            read = {
                (method.conf, run["seed"]): read_cells(run, first, labels) for run in method.runs
            }
        except ResultsError as error:
            problems.append(f"No interval for {method.conf}: {error}.")
            continue
        cells |= read
        common = first
    return cells, problems


def _macro_f1(cells: np.ndarray) -> float:
    """Macro-F1 of the clips as they are."""
    return bootstrap.macro_f1(cells)[0, -1]


def _difference(value: float, samples: np.ndarray) -> Difference:
    low, high = bootstrap.interval(samples)
    p = bootstrap.p_value(samples[~np.isnan(samples)])
    return Difference(float(value), float(low), float(high), p)


def _marked(differences: dict[str, Difference]) -> dict[str, Difference]:
    """Mark the differences that are significant by Holm's correction."""
    rejected = bootstrap.holm([difference.p for difference in differences.values()])
    marked = {}
    for (conf, difference), significant in zip(differences.items(), rejected, strict=True):
        marked[conf] = replace(difference, significant=significant)
    return marked


def _pairs(a: Method, b: Method) -> list[Sequence[Run]]:
    """The runs of both methods, by common seed."""
    runs_a = {run["seed"]: run for run in a.runs}
    runs_b = {run["seed"]: run for run in b.runs}
    common = sorted(runs_a.keys() & runs_b.keys())
    if not common:
        raise ResultsError(
            f"no seed in common: {a.conf} has {', '.join(map(str, runs_a))} and "
            f"{b.conf} has {', '.join(map(str, runs_b))}; run the missing with --seeds"
        )
    return [(runs_a[number], runs_b[number]) for number in common]


def _differ(run: Run, problem: str) -> ResultsError:
    return ResultsError(
        f"{run.folder}: the {problem} in {PREDICTIONS} differ from those to compare with; "
        "expected the same test clips and labels for both; "
        f"delete the {PREDICTIONS} that is out of date and run the stage score"
    )
