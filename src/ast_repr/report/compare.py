"""Compare methods by macro-F1: differences with bootstrap intervals, and sampling errors.

The same samples of the test clips serve both methods of a comparison, and every seed; the
differences of the seeds that both have are averaged. Intervals and errors cover the choice of test
clips, not that of seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        significant: whether it differs, by Holm's correction over the methods of the table.
    """

    value: float
    low: float
    high: float
    significant: bool


@dataclass(frozen=True)
class Comparison:
    """Sampling errors and differences of the methods of a table.

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
    samples = _resample(cells, resamples, seed)
    errors = {}
    intervals = {}
    p_values = []
    for conf, by_seed in samples.items():
        mean = np.mean(list(by_seed.values()), axis=0)
        if np.isnan(mean).all():
            continue
        errors[conf] = float(np.nanstd(mean, ddof=1))
        paired = by_seed.keys() & samples.get(reference, {}).keys()
        if not paired or conf == reference:
            continue
        values = []
        sampled = []
        for number in sorted(paired):
            value = bootstrap.macro_f1(cells[conf][number])[0, -1]
            values.append(value - bootstrap.macro_f1(cells[reference][number])[0, -1])
            sampled.append(by_seed[number] - samples[reference][number])
        sampled = np.mean(sampled, axis=0)
        low, high = bootstrap.interval(sampled)
        intervals[conf] = (float(np.mean(values)), float(low), float(high))
        p_values.append(bootstrap.p_value(sampled[~np.isnan(sampled)]))
    differences = {}
    significant = bootstrap.holm(p_values)
    for (conf, interval), is_significant in zip(intervals.items(), significant, strict=True):
        differences[conf] = Difference(*interval, is_significant)
    return Comparison(labels, errors, differences, problems)


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
    runs_a, runs_b = _paired_runs(a, b)
    common = runs_a[0].arrays(PREDICTIONS)
    cells = [read_cells(run, common, labels) for run in runs_a + runs_b]
    values_a, values_b = np.split(np.concatenate(list(map(bootstrap.macro_f1, cells))), 2)
    samples_a, samples_b = np.split(bootstrap.resampled(cells, resamples, seed), 2)
    columns = {"a": values_a.mean(0), "b": values_b.mean(0)}
    columns["difference"] = columns["b"] - columns["a"]
    columns["low"], columns["high"] = bootstrap.interval((samples_b - samples_a).mean(0))
    parts = []
    for index in range(len(a["classes"]) + 1):
        part = {key: float(values[index]) for key, values in columns.items()}
        parts.append({key: None if np.isnan(value) else value for key, value in part.items()})
    seeds = [run["seed"] for run in runs_a]
    differences = values_b[:, -1] - values_a[:, -1]
    return {
        "a": a.conf,
        "b": b.conf,
        "labels": labels,
        "seeds": seeds,
        "clips": len(common["clips"]),
        "resamples": resamples,
        "level": LEVEL,
        "macro_f1": parts[-1],
        "per_instrument": dict(zip(a["classes"], parts[:-1], strict=True)),
        "by_seed": dict(zip(map(str, seeds), differences.tolist(), strict=True)),
    }


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute Kendall's tau-a of two rankings, from -1 (reversed) to 1 (the same order).

    >>> round(kendall_tau([1, 2, 3], [1, 3, 2]), 3)
    0.333
    """
    pairs = np.triu_indices(len(first), k=1)
    orders = [np.sign(np.subtract.outer(values, values))[pairs] for values in (first, second)]
    return float(np.mean(orders[0] * orders[1]))


def sentence(comparison: dict[str, Any]) -> str:
    """Describe the result of `compare` in one line, in points (per cent of macro-F1)."""
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
        (cells, problems): {conf: {seed: cells}} in the order of one run's clips; methods whose
        predictions cannot be used are left out, and a sentence of `problems` says why.
    """
    others = [conf for conf in table.confs if conf != reference]
    cells = {}
    problems = []
    common = None  # arrays of the run whose clips and labels all others must have
    for method in table.only([reference, *others]).methods:
        try:
            first = common or method.runs[0].arrays(PREDICTIONS)
            cells[method.conf] = {
                run["seed"]: read_cells(run, first, labels) for run in method.runs
            }
        except ResultsError as error:
            problems.append(f"No interval for {method.conf}: {error}.")
        else:
            common = first
    return cells, problems


def _resample(cells, resamples, seed):
    """Compute macro-F1 (resamples,) of each run on the same samples: {conf: {seed: values}}."""
    runs = [marks for by_seed in cells.values() for marks in by_seed.values()]
    if not runs:
        return {}
    macro_f1 = bootstrap.resampled(runs, resamples, seed)[:, :, -1]
    samples = {}
    for conf, by_seed in cells.items():
        samples[conf] = dict(zip(by_seed, macro_f1, strict=False))
        macro_f1 = macro_f1[len(by_seed) :]
    return samples


def _paired_runs(a: Method, b: Method) -> tuple[list[Run], list[Run]]:
    """The runs of both methods that have a common seed, in order of seeds."""
    seeds_a = [run["seed"] for run in a.runs]
    seeds_b = [run["seed"] for run in b.runs]
    runs_a = [run for run in a.runs if run["seed"] in seeds_b]
    runs_b = [run for run in b.runs if run["seed"] in seeds_a]
    if not runs_a:
        raise ResultsError(
            f"no seed in common: {a.conf} has {', '.join(map(str, seeds_a))} and "
            f"{b.conf} has {', '.join(map(str, seeds_b))}; run the missing with --seeds"
        )
    return runs_a, runs_b


def _differ(run: Run, problem: str) -> ResultsError:
    return ResultsError(
        f"{run.folder}: the {problem} in {PREDICTIONS} differ from those to compare with; "
        "expected the same test clips and labels for both; "
        f"delete the {PREDICTIONS} that is out of date and run the stage score"
    )
