"""Compare two methods: the difference of macro-F1, with a bootstrap interval over test clips.

Clips are sampled with replacement (Efron and Tibshirani 1993, percentile interval), the same sample
for both methods and every seed; the differences of the seeds that both methods have are averaged.
The interval covers the choice of test clips, not that of seeds. F1 is that of ast_repr.metrics: an
instrument of which a sample has labels of one kind only is left out of that sample's mean, for both
methods alike.
"""

from typing import Any

import numpy as np

from ..manifest import PRESENT
from .results import Method, ResultsError, Run

RESAMPLES = 2000
LEVEL = 95  # per cent
CHUNK = 500  # resamples at a time: a few tens of MB for 5,000 clips
PER_CLIP = ("scores", "targets", "mask")
ARRAYS = ("clips", "classes", *PER_CLIP)
TOLERANCE = 1e-6
PREDICTIONS = "predictions.npz"

Arrays = dict[str, np.ndarray]


def compare(a: Method, b: Method, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compute method `b` minus method `a` of one table, paired by seed and by clip.

    Args:
        resamples: samples of the test clips; `seed`: of their generator.

    Returns:
        dict: a, b (names of confs), seeds, clips, resamples, level; "macro_f1" and, by name,
        "per_instrument": each {a, b, difference, low, high} as fractions, None if no label allows
        a value; "by_seed" {seed: difference}.

    Raises:
        ResultsError: no metric is defined, no seed is common, or the two were not evaluated on the
            same clips and labels, or their predictions are missing or disagree with their results.
    """
    if a["metrics"]["macro_f1"] is None:
        raise ResultsError(
            f"{a.conf} and {b.conf} have no macro-F1 to compare: no class of the split "
            f"{a['split']!r} has labels of both kinds, present and absent; label more clips there"
        )
    pairs = _pairs(a, b)
    reference = predictions(pairs[0][0])
    threshold = a["threshold"]
    counts = []  # for each seed (cells of a, cells of b)
    values_a = []
    values_b = []
    for run_a, run_b in pairs:
        cells_a = cells(aligned(predictions(run_a), reference, run_a), threshold)
        cells_b = cells(aligned(predictions(run_b), reference, run_b), threshold)
        counts.append((cells_a, cells_b))
        values_a.append(_checked(run_a, macro_f1(*cells_a)[0]))
        values_b.append(_checked(run_b, macro_f1(*cells_b)[0]))
    low, high = intervals(counts, resamples, seed)
    mean_a = np.mean(values_a, axis=0)
    mean_b = np.mean(values_b, axis=0)
    parts = []
    for k in range(len(mean_a)):
        part = {"a": mean_a[k], "b": mean_b[k], "difference": mean_b[k] - mean_a[k]}
        part |= {"low": low[k], "high": high[k]}
        parts.append({key: _number_or_none(value) for key, value in part.items()})
    seeds = [run["seed"] for run, _ in pairs]
    by_seed = {}
    for number, value_a, value_b in zip(seeds, values_a, values_b, strict=True):
        by_seed[str(number)] = float(value_b[-1] - value_a[-1])
    return {
        "a": a.conf,
        "b": b.conf,
        "seeds": seeds,
        "clips": len(reference["clips"]),
        "resamples": resamples,
        "level": LEVEL,
        "macro_f1": parts[-1],
        "per_instrument": dict(zip(a["classes"], parts[:-1], strict=True)),
        "by_seed": by_seed,
    }


def sentence(comparison: dict[str, Any]) -> str:
    """Describe a comparison in one line, in points (per cent of macro-F1)."""
    overall = comparison["macro_f1"]
    excludes = overall["low"] > 0 or overall["high"] < 0
    numbers = ", ".join(map(str, comparison["seeds"]))
    seeds = f"seeds {numbers}" if len(comparison["seeds"]) > 1 else f"seed {numbers}"
    return (
        f"{comparison['b']} - {comparison['a']}: {100 * overall['difference']:+.1f} points of "
        f"macro-F1, {comparison['level']} % interval "
        f"[{100 * overall['low']:+.1f}, {100 * overall['high']:+.1f}] "
        f"{'excludes' if excludes else 'includes'} zero ({seeds}; {comparison['clips']:,} clips, "
        f"{comparison['resamples']:,} resamples)"
    )


def predictions(run: Run) -> Arrays:
    """Read predictions.npz: clips (N,), classes (K,), and scores, targets, mask (N, K).

    Raises:
        ResultsError: the file is missing, damaged, or of other classes than the run's.
    """
    arrays = run.arrays(PREDICTIONS, ARRAYS)
    shape = len(arrays["clips"]), len(arrays["classes"])
    same_shape = all(arrays[key].shape == shape for key in PER_CLIP)
    if list(arrays["classes"]) != run["classes"] or not same_shape:
        raise ResultsError(
            f"{run.folder}: {PREDICTIONS} is not of the classes of results.json; "
            "delete both and run the stage score"
        )
    return arrays


def aligned(arrays: Arrays, reference: Arrays, run: Run) -> Arrays:
    """Sort predictions by the clips of `reference`.

    Raises:
        ResultsError: clips or labels are not the same as those of `reference`.
    """
    remedy = (
        "expected the same test clips and labels for both; "
        f"delete the {PREDICTIONS} that is out of date and run the stage score"
    )
    order = np.argsort(arrays["clips"])
    expected = np.argsort(reference["clips"])
    if not np.array_equal(arrays["clips"][order], reference["clips"][expected]):
        lacking = set(reference["clips"].tolist()) - set(arrays["clips"].tolist())
        raise ResultsError(
            f"{run.folder}: {len(lacking)} of {len(reference['clips'])} clips to compare with are "
            f"not in {PREDICTIONS}; {remedy}"
        )
    places = np.empty_like(order)
    places[expected] = order
    arrays = {key: arrays[key][places] for key in ("clips", *PER_CLIP)}
    mask = reference["mask"]
    same_mask = np.array_equal(arrays["mask"], mask)
    if not same_mask or not np.array_equal(arrays["targets"][mask], reference["targets"][mask]):
        raise ResultsError(
            f"{run.folder}: the labels in {PREDICTIONS} differ from those to compare with; {remedy}"
        )
    return arrays


def intervals(counts: list[tuple], resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the bounds (K + 1,) of each instrument's difference and, last, of the mean's.

    Args:
        counts: for each seed the `cells` of both methods.
    """
    rng = np.random.default_rng(seed)
    clips = len(counts[0][0][0])
    chunks = []
    for start in range(0, resamples, CHUNK):
        samples = rng.integers(0, clips, (min(CHUNK, resamples - start), clips))
        weights = np.stack([np.bincount(sample, minlength=clips) for sample in samples])
        weights = weights.astype(np.float64)
        by_seed = [macro_f1(*b, weights) - macro_f1(*a, weights) for a, b in counts]
        chunks.append(np.mean(by_seed, axis=0))
    differences = np.concatenate(chunks)
    undefined = np.isnan(differences).all(0)  # instruments without observed labels
    differences[:, undefined] = 0.0
    tail = (100 - LEVEL) / 2
    low, high = np.nanpercentile(differences, [tail, 100 - tail], axis=0)
    low[undefined] = np.nan
    high[undefined] = np.nan
    return low, high


def cells(arrays: Arrays, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute (present, predicted, observed): float arrays (N, K), 1 in cells that are so."""
    mask = arrays["mask"]
    present = mask & (arrays["targets"] >= PRESENT)
    predicted = mask & (arrays["scores"] >= threshold)
    return present.astype(float), predicted.astype(float), mask.astype(float)


def macro_f1(
    present: np.ndarray,
    predicted: np.ndarray,
    observed: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Compute macro-F1 as `metrics.evaluate` defines it, for many weightings of the clips at once.

    Args:
        present, predicted, observed: (N, K), see `cells`.
        weights: (R, N), how often each clip counts; default once.

    Returns:
        (R, K + 1): each instrument and, last, the mean over instruments; NaN if undefined.
    """
    if weights is None:
        weights = np.ones((1, len(present)))
    hits = weights @ (present * predicted)
    total = weights @ observed
    positives = weights @ present
    guesses = weights @ predicted
    positive_f1 = _ratio(2 * hits, positives + guesses)
    absent_f1 = _ratio(2 * (total - positives - guesses + hits), 2 * total - positives - guesses)
    both_kinds = (positives > 0) & (positives < total)
    per_instrument = np.where(both_kinds, (positive_f1 + absent_f1) / 2, np.nan)
    defined = ~np.isnan(per_instrument)
    mean = _ratio(np.where(defined, per_instrument, 0.0).sum(1), defined.sum(1))
    return np.concatenate([per_instrument, mean[:, None]], axis=1)


def _pairs(a, b):
    """The runs of both methods, by common seed."""
    runs_a = {run["seed"]: run for run in a.runs}
    runs_b = {run["seed"]: run for run in b.runs}
    common = sorted(runs_a.keys() & runs_b.keys())
    if not common:
        raise ResultsError(
            f"no seed in common: {a.conf} has {', '.join(map(str, runs_a))} and "
            f"{b.conf} has {', '.join(map(str, runs_b))}; expected one or more that both have; "
            "run the missing with --seeds"
        )
    return [(runs_a[number], runs_b[number]) for number in common]


def _checked(run, values):
    """The values of `macro_f1`, which must agree with the run's results."""
    if abs(values[-1] - run["metrics"]["macro_f1"]) > TOLERANCE:
        raise ResultsError(
            f"{run.folder}: {PREDICTIONS} and results.json disagree; "
            "delete both and run the stage score"
        )
    return values


def _number_or_none(value):
    return None if np.isnan(value) else float(value)


def _ratio(over, under):
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
