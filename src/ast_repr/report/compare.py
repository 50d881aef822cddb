"""Compare methods by macro-F1: differences with bootstrap intervals, and sampling errors.

The same samples of the test clips serve all methods and seeds; the differences of the seeds that
two methods share are averaged. Intervals and errors cover the choice of test clips, not of seeds.
Predominant instruments have many clips of a recording, tags many of an album: whole groups are
sampled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import bootstrap
from .bootstrap import LEVEL, RESAMPLES
from .results import Method, ResultsError, Table
from .schema import OBSERVED, TRUTH

PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Difference:
    """A method's score minus the reference's, as fractions.

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
    """Sampling errors and differences of the methods of a table, by conf.

    Attributes:
        labels: OBSERVED or TRUTH, on which macro-F1 is computed.
        errors: bootstrap standard errors of macro-F1, the mean over seeds.
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

    A method without a `Table.reference_for` it has a sampling error alone.
    """
    others = [conf for conf in table.confs if conf != reference]
    methods = table.only([reference, *others]).methods
    cells, groups, failures = _read_cells(methods, table.labels)
    scores = _score(cells, groups, resamples, seed)
    errors = {}
    resampled = {}
    for conf, by_seed in scores.items():
        (method,) = table.only([conf]).methods
        base_method = table.reference_for(method, reference)
        mean = np.mean([macro_f1[1:, -1] for macro_f1 in by_seed.values()], axis=0)
        if np.isnan(mean).all():
            continue
        errors[conf] = float(np.nanstd(mean, ddof=1))
        if base_method is None or base_method.conf == conf:
            continue
        base = scores.get(base_method.conf, {})
        paired = [by_seed[number] - base[number] for number in by_seed if number in base]
        if not paired:
            continue
        resampled[conf] = np.mean(paired, axis=0)[:, -1]
    differences = differences_of(resampled)
    problems = [f"No interval for {conf}: {error}." for conf, error in failures.items()]
    return Comparison(table.labels, errors, differences, problems)


def differences_of(resampled: Mapping[str, np.ndarray]) -> dict[str, Difference]:
    """Compute intervals of differences and, by Holm's correction over all, which are significant.

    Args:
        resampled: by conf, the difference on the clips as they are, then on samples: (1 + R,).
    """
    significant = bootstrap.holm([bootstrap.p_value(values[1:]) for values in resampled.values()])
    differences = {}
    for (conf, values), is_significant in zip(resampled.items(), significant, strict=True):
        low, high = bootstrap.interval(values[1:])
        differences[conf] = Difference(float(values[0]), float(low), float(high), is_significant)
    return differences


def compare(
    a: Method, b: Method, labels: str = OBSERVED, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compute method `b` minus method `a` of one table, paired by seed and by clip.

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
    runs = {method.conf: {run["seed"]: run for run in method.runs} for method in (a, b)}
    seeds = [number for number in runs[a.conf] if number in runs[b.conf]]
    if not seeds:
        raise ResultsError(
            f"no seed in common: {a.conf} has {', '.join(map(str, runs[a.conf]))} and "
            f"{b.conf} has {', '.join(map(str, runs[b.conf]))}; run the missing with --seeds"
        )
    paired = [replace(m, runs=[runs[m.conf][number] for number in seeds]) for m in (a, b)]
    cells, groups, failures = _read_cells(paired, labels)
    for error in failures.values():
        raise error
    scores = _score(cells, groups, resamples, seed)
    scores_a = np.stack(list(scores[a.conf].values()))
    scores_b = np.stack(list(scores[b.conf].values()))
    differences = scores_b - scores_a
    columns = {"a": scores_a[:, 0].mean(0), "b": scores_b[:, 0].mean(0)}
    columns["difference"] = columns["b"] - columns["a"]
    columns["low"], columns["high"] = bootstrap.interval(differences[:, 1:].mean(0))
    parts = []
    for index in range(len(a["classes"]) + 1):
        part = {key: float(values[index]) for key, values in columns.items()}
        parts.append({key: None if np.isnan(value) else value for key, value in part.items()})
    return {
        "a": a.conf,
        "b": b.conf,
        "labels": labels,
        "seeds": seeds,
        "clips": cells[a.conf][seeds[0]].shape[1],
        "resamples": resamples,
        "level": LEVEL,
        "macro_f1": parts[-1],
        "per_instrument": dict(zip(a["classes"], parts[:-1], strict=True)),
        "by_seed": dict(zip(map(str, seeds), differences[:, 0, -1].tolist(), strict=True)),
    }


def intervals(
    table: Table, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Compute the bounds of macro-F1 by conf, of each instrument and, last, of their mean.

    They are arrays (K + 1,) of fractions, the mean over seeds, on the truth if it is known. Methods
    without intact predictions have none.
    """
    cells, groups, _ = _read_cells(table.methods, table.labels)
    bounds = {}
    for conf, by_seed in _score(cells, groups, resamples, seed).items():
        bounds[conf] = bootstrap.interval(np.mean(list(by_seed.values()), axis=0)[1:])
    return bounds


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


def read_arrays(
    methods: Sequence[Method], labels: str
) -> tuple[dict[str, dict[int, dict[str, np.ndarray]]], dict[str, ResultsError]]:
    """Read the arrays of predictions.npz of methods, by conf and seed, and the errors of others.

    All are in the order of the first run's clips, and have its clips and labels.

    Args:
        labels: OBSERVED or TRUTH, that all must share.
    """
    arrays = {}
    failures = {}
    common = None  # arrays of the run whose clips and labels all others must have
    for method in methods:
        try:
            first = common or method.runs[0].arrays(PREDICTIONS)
            arrays[method.conf] = {run["seed"]: _aligned(run, first, labels) for run in method.runs}
        except ResultsError as error:
            failures[method.conf] = error
        else:
            common = first
    return arrays, failures


def _aligned(run, reference, labels):
    """Read a run's arrays, in the order of the clips of the arrays `reference`."""
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
    names = [name for name in ("scores", "targets", "mask", "truth", "groups") if name in arrays]
    arrays = {name: arrays[name][places] for name in names}
    if labels == TRUTH:
        same = np.array_equal(arrays["truth"], reference["truth"])
    else:
        mask = reference["mask"]
        same = np.array_equal(arrays["mask"], mask)
        same = same and np.array_equal(arrays["targets"][mask], reference["targets"][mask])
    if not same:
        raise _differ(run, "labels")
    return arrays


def _read_cells(methods, labels):
    """Read the `bootstrap.cells` of methods, what is sampled, and the errors of others.

    Returns:
        ({conf: {seed: cells}}, groups of `bootstrap.resampled`, {conf: error}).
    """
    arrays, failures = read_arrays(methods, labels)
    cells = {}
    groups = None
    for method in methods:
        if method.conf in arrays:
            if method.samples_groups:
                first = next(iter(arrays[method.conf].values()))
                groups = np.unique(first["groups"], return_inverse=True)[1]
            threshold = method["threshold"]
            cells[method.conf] = {
                seed: bootstrap.cells(values, threshold, labels)
                for seed, values in arrays[method.conf].items()
            }
    return cells, groups, failures


def _score(cells, groups, resamples, seed):
    """Compute `bootstrap.resampled` of each run: {conf: {seed: (1 + resamples, K + 1)}}."""
    runs = [marks for by_seed in cells.values() for marks in by_seed.values()]
    macro_f1 = bootstrap.resampled(runs, resamples, seed, groups) if runs else []
    scores = {}
    for conf, by_seed in cells.items():
        scores[conf] = dict(zip(by_seed, macro_f1, strict=False))
        macro_f1 = macro_f1[len(by_seed) :]
    return scores


def _differ(run, problem):
    return ResultsError(
        f"{run.folder}: the {problem} in {PREDICTIONS} differ from those to compare with; "
        "expected the same test clips and labels for both; "
        f"delete the {PREDICTIONS} that is out of date and run the stage score"
    )
