"""Bootstrap over test clips: scores of many runs on the same resamples, intervals and tests.

Clips are sampled with replacement (Efron and Tibshirani 1993). Every run is scored on the same
samples, so that differences are paired. F1 is that of ast_repr.metrics: an instrument of which a
sample has labels of one kind only is left out of that sample's mean, for all runs alike.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..manifest import PRESENT
from .schema import OBSERVED, TRUTH

RESAMPLES = 2000
LEVEL = 95  # per cent, of intervals
SIGNIFICANCE = 0.05  # family-wise, of the differences in a table
CHUNK = 500  # resamples at a time: a few tens of MB for 5,000 clips


def cells(arrays: Mapping[str, np.ndarray], threshold: float, labels: str = OBSERVED) -> np.ndarray:
    """Mark the cells of a predictions.npz that are present, predicted and scored: bool (3, N, K).

    On the TRUTH every cell is scored, otherwise those in the mask.
    """
    if labels == TRUTH:
        present = arrays["truth"].astype(bool)
        mask = np.ones(present.shape, bool)
    else:
        mask = arrays["mask"]
        present = mask & (arrays["targets"] >= PRESENT)
    predicted = mask & (arrays["scores"] >= threshold)
    return np.stack([present, predicted, mask])


def macro_f1(marks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute macro-F1 as `metrics.evaluate` defines it, for many weightings of the clips at once.

    Args:
        marks: (3, N, K), see `cells`.
        weights: float32 (R, N), how often each clip counts.

    Returns:
        (R, K + 1): each instrument and, last, the mean over instruments; NaN if undefined.
    """
    # float32 is fast, and exact for counts below 2 ** 24.
    present, predicted, scored = marks.astype(np.float32)
    hits = (weights @ (present * predicted)).astype(float)
    positives = (weights @ present).astype(float)
    guesses = (weights @ predicted).astype(float)
    total = (weights @ scored).astype(float)
    positive_f1 = ratio(2 * hits, positives + guesses)
    absent_f1 = ratio(2 * (total - positives - guesses + hits), 2 * total - positives - guesses)
    both_kinds = (positives > 0) & (positives < total)
    per_instrument = np.where(both_kinds, (positive_f1 + absent_f1) / 2, np.nan)
    mean = ratio(np.nansum(per_instrument, axis=1), both_kinds.sum(1))
    return np.column_stack([per_instrument, mean])


def resampled(
    runs: Sequence[np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Compute macro-F1 of runs on the clips as they are, then on samples of them, the same for all.

    Args:
        runs: the `cells` (3, N, K) of each.
        groups: number of each clip's group (N,), from 0; whole groups are sampled. None: clips.

    Returns:
        (runs, 1 + resamples, K + 1), see `macro_f1`.
    """
    if groups is None:
        groups = np.arange(runs[0].shape[1])
    chunks = []
    for weights in _weights(int(groups.max()) + 1, resamples, seed):
        chunks.append([macro_f1(marks, weights[:, groups]) for marks in runs])
    return np.concatenate(chunks, axis=1)


def resampled_ranking(
    arrays: Mapping[str, np.ndarray], resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Compute mAP and AUROC of a predictions.npz as it is, then on samples of whole groups.

    Both are those of `metrics.evaluate` on the observed labels.

    Returns:
        (2, 1 + resamples): mAP and AUROC, means over the classes that a sample has labels of both
        kinds of; NaN if it has none.
    """
    _, groups = np.unique(arrays["groups"], return_inverse=True)
    present = arrays["mask"] & (arrays["targets"] >= PRESENT)
    absent = arrays["mask"] & ~present
    size = int(groups.max()) + 1
    weights = np.concatenate(list(_weights(size, resamples, seed)))
    values = []
    for k in range(present.shape[1]):
        is_present = present[:, k]
        is_absent = absent[:, k]
        scores = arrays["scores"][:, k]
        values.append(
            _ranking(
                scores[is_present],
                groups[is_present],
                scores[is_absent],
                groups[is_absent],
                weights,
            )
        )
    defined = ~np.isnan(values)  # (K, 2, resamples)
    return ratio(np.nansum(values, axis=0), defined.sum(axis=0).astype(float))


def _ranking(
    positives: np.ndarray,
    positive_groups: np.ndarray,
    negatives: np.ndarray,
    negative_groups: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """Compute average precision and AUROC of a class for many weightings of the groups at once.

    Args:
        positives, negatives: scores of the clips, (P,) and (N,), and the groups of these.
        weights: float32 (R, groups), how often each group counts.

    Returns:
        (2, R); NaN if only one kind has weight.
    """
    # Thresholds are the distinct scores of positives, the highest first.
    thresholds, place = np.unique(-positives, return_inverse=True)
    size = len(thresholds) + 1  # the last is below all positives
    above = np.searchsorted(thresholds, -negatives, side="left")  # the first with a lower score, or
    tied = np.isin(negatives, positives)  # the same one
    hits = weights @ _histogram(positive_groups, place, weights.shape[1], size)
    misses = weights @ _histogram(negative_groups, above, weights.shape[1], size)
    ties = weights @ _histogram(negative_groups[tied], above[tied], weights.shape[1], size)
    all_hits = hits.cumsum(axis=1, dtype=float)
    all_misses = misses.cumsum(axis=1, dtype=float)
    total_hits = all_hits[:, -1]
    total_misses = all_misses[:, -1]
    precision = ratio(all_hits, all_hits + all_misses)
    average_precision = ratio(np.nansum(hits * precision, axis=1), total_hits)
    lower = total_misses[:, None] - all_misses + ties / 2
    auroc = ratio((hits * lower).sum(axis=1), total_hits * total_misses)
    return np.where((total_hits > 0) & (total_misses > 0), [average_precision, auroc], np.nan)


def _histogram(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
    """Count pairs of a row and a column: float32 (height, width), exact below 2 ** 24."""
    counts = np.bincount(rows * width + columns, minlength=height * width)
    return counts.reshape(height, width).astype(np.float32)


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the bounds of the percentile interval over the first axis, the resamples.

    Undefined resamples (NaN) do not count; bounds are NaN if all are undefined.
    """
    undefined = np.isnan(values).all(0)
    values = np.where(undefined, 0.0, values)
    tail = (100 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail], axis=0)
    return np.where(undefined, np.nan, low), np.where(undefined, np.nan, high)


def p_value(differences: np.ndarray) -> float:
    """Compute the two-sided p-value of no difference from resampled differences (R,).

    It is twice the share of resamples on the rarer side of zero, with one added to either count.
    Undefined resamples (NaN) do not count.
    """
    differences = differences[~np.isnan(differences)]
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def holm(p_values: Sequence[float], significance: float = SIGNIFICANCE) -> list[bool]:
    """Decide which hypotheses are rejected, by Holm's step-down procedure (1979).

    The chance of one false rejection or more is at most `significance`.

    >>> holm([0.01, 0.04, 0.03])
    [True, False, False]
    """
    rejected = [False] * len(p_values)
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > significance / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def _weights(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each group counts, float32 (at most CHUNK, size): once, then in samples."""
    yield np.ones((1, size), np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        samples = rng.integers(0, size, (min(CHUNK, resamples - start), size))
        weights = np.stack([np.bincount(sample, minlength=size) for sample in samples])
        yield weights.astype(np.float32)


def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """Divide; NaN if the divisor is zero."""
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
