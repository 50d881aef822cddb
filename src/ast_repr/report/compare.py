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
PREDICTIONS = "predictions.npz"


def compare(a: Method, b: Method, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compute method `b` minus method `a` of one table, paired by seed and by clip.

    Args:
        resamples: samples of the test clips; `seed`: of their generator.

    Returns:
        dict: a, b (names of confs), seeds, clips, resamples, level; "macro_f1" and, by name,
        "per_instrument": each {a, b, difference, low, high} as fractions, None if undefined;
        "by_seed" {seed: difference}.

    Raises:
        ResultsError: no metric is defined, no seed is common, or the predictions are missing,
            damaged, or of different clips or labels.
    """
    if a["metrics"]["macro_f1"] is None:
        raise ResultsError(
            f"{a.conf} and {b.conf} have no macro-F1 to compare: no class of the split "
            f"{a['split']!r} has labels of both kinds, present and absent; label more clips there"
        )
    pairs = _pairs(a, b)
    reference = pairs[0][0].arrays(PREDICTIONS)
    counts = []
    for pair in pairs:
        counts.append([cells(aligned(run, reference), a["threshold"]) for run in pair])
    values = np.array([[macro_f1(part)[0] for part in pair] for pair in counts])
    low, high = intervals(counts, resamples, seed)
    parts = []
    for value_a, value_b, least, most in zip(*values.mean(0), low, high, strict=True):
        part = {"a": value_a, "b": value_b, "difference": value_b - value_a}
        part |= {"low": least, "high": most}
        parts.append({key: None if np.isnan(x) else float(x) for key, x in part.items()})
    seeds = [run["seed"] for run, _ in pairs]
    differences = values[:, 1, -1] - values[:, 0, -1]
    return {
        "a": a.conf,
        "b": b.conf,
        "seeds": seeds,
        "clips": len(reference["clips"]),
        "resamples": resamples,
        "level": LEVEL,
        "macro_f1": parts[-1],
        "per_instrument": dict(zip(a["classes"], parts[:-1], strict=True)),
        "by_seed": dict(zip(map(str, seeds), differences.tolist(), strict=True)),
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


def aligned(run: Run, reference: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read a run's predictions in the order of the clips of `reference`.

    Args:
        reference: arrays of a predictions.npz: clips (N,), scores, targets, mask (N, K).

    Raises:
        ResultsError: clips or labels are not the same as those of `reference`.
    """
    arrays = run.arrays(PREDICTIONS)
    order = np.argsort(arrays["clips"])
    expected = np.argsort(reference["clips"])
    problem = None
    if not np.array_equal(arrays["clips"][order], reference["clips"][expected]):
        problem = "clips"
    else:
        places = np.empty_like(order)
        places[expected] = order
        arrays = {key: arrays[key][places] for key in PER_CLIP}
        mask = reference["mask"]
        same = np.array_equal(arrays["mask"], mask)
        if not same or not np.array_equal(arrays["targets"][mask], reference["targets"][mask]):
            problem = "labels"
    if problem:
        raise ResultsError(
            f"{run.folder}: the {problem} in {PREDICTIONS} differ from those to compare with; "
            "expected the same test clips and labels for both; "
            f"delete the {PREDICTIONS} that is out of date and run the stage score"
        )
    return arrays


def intervals(
    counts: list[list[np.ndarray]], resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the bounds (K + 1,) of each instrument's difference and, last, of the mean's.

    Args:
        counts: for each seed the `cells` of both methods.
    """
    rng = np.random.default_rng(seed)
    clips = counts[0][0].shape[1]
    chunks = []
    for start in range(0, resamples, CHUNK):
        samples = rng.integers(0, clips, (min(CHUNK, resamples - start), clips))
        weights = np.stack([np.bincount(sample, minlength=clips) for sample in samples])
        weights = weights.astype(np.float64)
        by_seed = [macro_f1(b, weights) - macro_f1(a, weights) for a, b in counts]
        chunks.append(np.mean(by_seed, axis=0))
    differences = np.concatenate(chunks)
    undefined = np.isnan(differences).all(0)  # instruments without observed labels
    differences[:, undefined] = 0.0
    tail = (100 - LEVEL) / 2
    bounds = np.nanpercentile(differences, [tail, 100 - tail], axis=0)
    bounds[:, undefined] = np.nan
    return bounds[0], bounds[1]


def cells(arrays: dict[str, np.ndarray], threshold: float) -> np.ndarray:
    """Mark the cells that are present, predicted and observed: floats 0 or 1 (3, N, K)."""
    mask = arrays["mask"]
    present = mask & (arrays["targets"] >= PRESENT)
    predicted = mask & (arrays["scores"] >= threshold)
    return np.stack([present, predicted, mask]).astype(float)


def macro_f1(marks: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute macro-F1 as `metrics.evaluate` defines it, for many weightings of the clips at once.

    Args:
        marks: (3, N, K), see `cells`.
        weights: (R, N), how often each clip counts; default once.

    Returns:
        (R, K + 1): each instrument and, last, the mean over instruments; NaN if undefined.
    """
    present, predicted, observed = marks
    if weights is None:
        weights = np.ones((1, len(present)))
    hits = weights @ (present * predicted)
    positives = weights @ present
    guesses = weights @ predicted
    total = weights @ observed
    positive_f1 = _ratio(2 * hits, positives + guesses)
    absent_f1 = _ratio(2 * (total - positives - guesses + hits), 2 * total - positives - guesses)
    both_kinds = (positives > 0) & (positives < total)
    per_instrument = np.where(both_kinds, (positive_f1 + absent_f1) / 2, np.nan)
    mean = _ratio(np.nansum(per_instrument, axis=1), both_kinds.sum(1))
    return np.column_stack([per_instrument, mean])


def _pairs(a, b):
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


def _ratio(over, under):
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
