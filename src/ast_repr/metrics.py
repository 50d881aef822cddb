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

Predominant instruments
    `evaluate_predominant` computes what is printed for IRMAS, where every cell is observed and
    every clip has at least one label: precision, recall and F1 of "present", micro (over all cells)
    and macro (mean over instruments, 0 if undefined); lrap, the label ranking average precision;
    and top1, the share of clips whose most probable instrument is among their labels.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np

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
PREDOMINANT = (
    "micro_precision",
    "micro_recall",
    "micro_f1",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "lrap",
    "top1",
    "top1_merged",
)
THRESHOLDS = np.arange(1, 100) / 100  # that `best_threshold` tries
TOLERANCE = 0.01  # of micro-F1, in `middle_threshold`
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


def evaluate_predominant(
    labels: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    classes: Sequence[str],
    merged: Collection[str] = (),
) -> dict[str, float]:
    """Compute the values of PREDOMINANT.

    Args:
        labels: (N, K) bool, at least one per clip.
        scores: (N, K).
        threshold: least score that predicts "present".
        classes: K names.
        merged: classes that count as one in `top1_merged`.

    Raises:
        ValueError: a clip has no label.
    """
    # slow to import, rarely needed
    from sklearn.metrics import (
        label_ranking_average_precision_score,
        precision_recall_fscore_support,
    )

    labels = np.asarray(labels, bool)
    if not labels.any(axis=1).all():
        raise ValueError("a clip without a label; expected at least one predominant instrument")
    values = {}
    for average in ("micro", "macro"):
        precision, recall, value, _ = precision_recall_fscore_support(
            labels, scores >= threshold, average=average, zero_division=0
        )
        values[f"{average}_precision"] = float(precision)
        values[f"{average}_recall"] = float(recall)
        values[f"{average}_f1"] = float(value)
    values["lrap"] = float(label_ranking_average_precision_score(labels, scores))
    top = scores.argmax(axis=1)
    values["top1"] = float(labels[np.arange(len(labels)), top].mean())
    values["top1_merged"] = float(
        _merge(labels, classes, merged)[np.arange(len(labels)), top].mean()
    )
    return values


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the smallest of THRESHOLDS with the best micro-F1."""
    return float(THRESHOLDS[_micro_f1(labels, scores).argmax()])


def middle_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the middle of THRESHOLDS whose micro-F1 is within TOLERANCE of the best.

    For the choice of a threshold on few clips: where F1 is flat, its maximum is a matter of chance.
    """
    values = _micro_f1(labels, scores)
    good = THRESHOLDS[values >= values.max() - TOLERANCE]
    return round(float(good[0] + good[-1]) / 2, 3)


def _micro_f1(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute the micro-F1 at each of THRESHOLDS."""
    labels = np.asarray(labels, bool).ravel()
    return np.array([f1(labels, scores.ravel() >= value) for value in THRESHOLDS])


def predominant_baselines(
    labels: np.ndarray, classes: Sequence[str], merged: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Evaluate predictions that do not depend on the clip, see `evaluate_predominant`.

    They know how frequent each instrument is in `labels`, so they are the best of their kind: the
    most frequent instrument; one of `merged`; the set of the most frequent instruments with the
    best micro-F1; all instruments; and "random", the expectation over all rankings, which names
    none. A name says which instruments are predicted.
    """
    labels = np.asarray(labels, bool)
    order = np.argsort(-labels.sum(axis=0), kind="stable")
    sets = [order[: count + 1] for count in range(len(classes))]
    best = max(sets, key=lambda chosen: f1(labels.ravel(), _constant(labels, chosen).ravel()))
    chosen_sets = [sets[0], best, sets[-1]]
    if merged:
        chosen_sets.insert(1, np.array([list(classes).index(name) for name in merged]))
    baselines = {}
    for chosen in chosen_sets:
        name = " + ".join(classes[k] for k in chosen)
        if len(chosen) == len(classes):
            name = "all instruments"
        predicted = _constant(labels, chosen)
        # Its ranking: the predicted ones first, each group by frequency.
        scores = predicted + labels.mean(axis=0) / 2
        values = evaluate_predominant(labels, scores, 1.0, classes, merged)
        baselines[f"always {name}"] = values
    counts = labels.sum(axis=1)
    size = len(classes)
    harmonic = (1 / np.arange(1, size + 1)).sum() / size
    merged_labels = _merge(labels, classes, merged)
    baselines["random ranking"] = dict.fromkeys(PREDOMINANT) | {
        "lrap": float((harmonic + (counts - 1) / (size - 1) * (1 - harmonic)).mean()),
        "top1": float(labels.mean()),
        "top1_merged": float(merged_labels.mean()),
    }
    return baselines


def _constant(labels: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Return the prediction (N, K) of the same instruments for every clip."""
    predicted = np.zeros(labels.shape, bool)
    predicted[:, chosen] = True
    return predicted


def _merge(labels: np.ndarray, classes: Sequence[str], merged: Collection[str]) -> np.ndarray:
    """Return labels in which each of the `merged` classes is present if one of them is."""
    columns = [k for k, name in enumerate(classes) if name in merged]
    labels = labels.copy()
    labels[:, columns] = labels[:, columns].any(axis=1, keepdims=True)
    return labels


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
    average_precision, auroc = _ranking_scores(truth, scores)
    return {
        "macro_f1": (positive_f1 + absent_f1) / 2,
        "positive_f1": positive_f1,
        "absent_f1": absent_f1,
        "weighted_f1": (positive_f1 * present + absent_f1 * absent) / len(truth),
        "ap": average_precision,
        "auroc": auroc,
    } | counts


def _ranking_scores(truth: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Compute average precision and area under the ROC curve, of truth (n,) with both kinds.

    sklearn's functions check their arguments for thirty times as long as this takes, which is most
    of an epoch of a head.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-1.0))  # the last of each run of ties
    hits = np.cumsum(truth[order])[ends]
    precision = hits / (ends + 1)
    recall = np.append(0.0, hits / hits[-1])
    misses = ends + 1 - hits
    false_positive_rate = np.append(0.0, misses / misses[-1])
    average_precision = np.sum(np.diff(recall) * precision)
    return float(average_precision), float(np.trapezoid(recall, false_positive_rate))


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the defined values, None if there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
