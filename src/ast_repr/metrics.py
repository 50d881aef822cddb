"""Metrics over partly observed labels.

Conventions
    targets (N, K): relevances from 0 to 1, present if >= 0.5; unobserved cells may hold anything.
    mask (N, K) bool: True where observed. Only observed cells are scored.
    scores (N, K): probabilities from 0 to 1; predicted present if >= `threshold`.
    Inputs are never modified. Values are fractions from 0 to 1, None if undefined.

Metrics
    macro_f1      mean over instruments of the mean F1 of "present" and "absent" (Gururani et al.
                  2019; Chen and Lerch 2023); sklearn's multilabel macro-F1 is positive_f1 here.
    positive_f1   the F1 of "present", mean over instruments.
    weighted_f1   both F1s weighted by the number of observed cells of each side, mean over
                  instruments.
    map, auroc    average precision and area under the ROC curve, mean over instruments.

One-sided instruments
    An instrument is scored only if both present and absent cells of it are observed: with one side
    alone, a constant prediction would be perfect. Otherwise all its metrics are None and left out
    of every mean, so that all means are over the same instruments. If both sides are observed,
    every value equals sklearn's (classification_report, average_precision_score, roc_auc_score).
"""

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from .manifest import PRESENT

# {mean over instruments: the value per instrument that it averages}
COLUMNS = {
    "macro_f1": "macro_f1",
    "positive_f1": "positive_f1",
    "weighted_f1": "weighted_f1",
    "map": "ap",
    "auroc": "auroc",
}
SUMMARY = tuple(COLUMNS)
PER_INSTRUMENT = ("macro_f1", "positive_f1", "absent_f1", "weighted_f1", "ap", "auroc")


def validate(
    targets: np.ndarray, mask: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check shapes and values; return the three as (float, bool, float) arrays.

    Raises:
        ValueError: shapes differ, an observed target is outside 0..1, or an observed score is not
            a probability.
    """
    targets = np.asarray(targets, float)
    mask = np.asarray(mask)
    scores = np.asarray(scores, float)
    if not targets.ndim == 2 or not targets.shape == mask.shape == scores.shape:
        raise ValueError(
            f"targets {targets.shape}, mask {mask.shape} and scores {scores.shape}; "
            "expected one shape (N, K)"
        )
    if mask.dtype != bool:
        raise ValueError(f"mask has type {mask.dtype}; expected bool")
    for name, values in (("target", targets), ("score", scores)):
        if not ((values[mask] >= 0) & (values[mask] <= 1)).all():  # false for NaN too
            raise ValueError(f"an observed {name} is not a number from 0 to 1")
    return targets, mask, scores


def evaluate(
    targets: np.ndarray,
    mask: np.ndarray,
    scores: np.ndarray,
    threshold: float = 0.5,
    classes: Sequence[str] | None = None,
) -> dict:
    """Compute all metrics.

    Args:
        targets, mask, scores: see Conventions.
        threshold: least score that predicts "present".
        classes: K names for `per_instrument`; default "0", "1", ...

    Returns:
        dict: the names in SUMMARY, and per_instrument {name: {macro_f1, positive_f1, absent_f1,
        weighted_f1, ap, auroc, present, absent}}, the last two being counts of observed cells.

    Raises:
        ValueError: see `validate`.
    """
    targets, mask, scores = validate(targets, mask, scores)
    names = [str(k) for k in range(mask.shape[1])] if classes is None else list(classes)
    per_instrument = {}
    for k, name in enumerate(names):
        observed = mask[:, k]
        per_instrument[name] = _evaluate_instrument(
            targets[observed, k] >= PRESENT, scores[observed, k], threshold
        )
    summary = {}
    for name, column in COLUMNS.items():
        summary[name] = _mean(values[column] for values in per_instrument.values())
    return summary | {"per_instrument": per_instrument}


def constant_baselines(
    targets: np.ndarray, mask: np.ndarray, classes: Sequence[str] | None = None
) -> dict[str, dict]:
    """Evaluate constant predictions: {"always_absent": ..., "always_present": ...}.

    Each is as `evaluate` returns it.
    """
    shape = np.shape(targets)
    return {
        "always_absent": evaluate(targets, mask, np.zeros(shape), classes=classes),
        "always_present": evaluate(targets, mask, np.ones(shape), classes=classes),
    }


def f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Compute F1 = 2 TP / (2 TP + FP + FN) of two bool arrays (n,), not both all False."""
    return float(2 * np.sum(truth & predicted) / (truth.sum() + predicted.sum()))


def expected_calibration_error(truth: np.ndarray, scores: np.ndarray, bins: int = 10) -> float:
    """Compute the mean difference of probability and frequency, over bins of equal width.

    Args:
        truth: (n,) bool; `scores`: (n,) probabilities.

    >>> expected_calibration_error(np.array([True, False, True]), np.array([0.55, 0.55, 0.95]))
    0.05
    """
    index = np.minimum((scores * bins).astype(int), bins - 1)
    error = 0.0
    for number in range(bins):
        chosen = index == number
        if chosen.any():
            error += chosen.mean() * abs(scores[chosen].mean() - truth[chosen].mean())
    return round(float(error), 12)


def _evaluate_instrument(truth: np.ndarray, scores: np.ndarray, threshold: float) -> dict:
    """Evaluate observed cells of one instrument: truth (n,) bool, scores (n,)."""
    present = int(truth.sum())
    absent = len(truth) - present
    counts = {"present": present, "absent": absent}
    if not (present and absent):
        return dict.fromkeys(PER_INSTRUMENT) | counts
    predicted = scores >= threshold
    positive_f1 = f1(truth, predicted)
    absent_f1 = f1(~truth, ~predicted)
    return {
        "macro_f1": (positive_f1 + absent_f1) / 2,
        "positive_f1": positive_f1,
        "absent_f1": absent_f1,
        "weighted_f1": (positive_f1 * present + absent_f1 * absent) / len(truth),
        "ap": float(average_precision_score(truth, scores)),
        "auroc": float(roc_auc_score(truth, scores)),
    } | counts


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the defined values, None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
