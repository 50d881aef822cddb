"""What partial labels hide: methods scored on a part of the test labels, against the full truth.

If the truth of every cell (clip, instrument) is known, finished runs can be scored on any part of
the cells. Parts of growing size are drawn many times, from all cells or from those that the corpus
observes. For each metric, tau tells how well the order of the methods on the part agrees with their
order on the truth, and bias how far the part's scores are from those on the truth.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..manifest import PRESENT
from . import bootstrap
from .compare import kendall_tau, read_arrays
from .results import Table
from .schema import TRUTH

METRICS = {"macro_f1": "macro-F1", "map": "mAP", "auroc": "AUROC"}
SHARES = (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)  # of all cells
DRAWS = 200  # of each share
LEAST_METHODS = 3  # that a ranking needs
RANDOM = "all cells, true labels"
OBSERVED_CELLS = "observed cells, true labels"
OBSERVED_LABELS = "observed cells, observed labels"


@dataclass(frozen=True)
class Estimate:
    """A mean over draws, and the bounds of the interval that holds 95 % of them."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """Methods scored on draws of a part of the cells.

    Attributes:
        source: RANDOM, OBSERVED_CELLS or OBSERVED_LABELS.
        share: of all cells that a draw has.
        draws: how many there are; one if there is no choice.
        tau: by metric, Kendall's tau between the order of the methods on the part and on the truth.
        bias: by metric, the score on the part minus that on the truth, the mean over methods.
    """

    source: str
    share: float
    draws: int
    tau: dict[str, Estimate]
    bias: dict[str, Estimate]


@dataclass(frozen=True)
class Measurement:
    """What partial labels hide of a table's methods.

    Attributes:
        methods: number of methods that are ranked.
        correct: share of the observed labels that agree with the truth.
        problems: why there are no parts, or which methods are left out, in sentences.
    """

    methods: int
    correct: float
    parts: list[Part]
    problems: list[str]


def measure(table: Table, draws: int = DRAWS, seed: int = 0) -> Measurement:
    """Score the methods of a table on parts of the cells; a method's score is its mean over seeds.

    There are no parts unless the truth and the predictions of LEAST_METHODS methods are known.
    """
    if not table.has_truth:
        return Measurement(0, np.nan, [], ["The truth of the test clips is not known."])
    arrays, failures = read_arrays(table.methods, TRUTH)
    problems = [f"{conf} is left out: {error}." for conf, error in failures.items()]
    if len(arrays) < LEAST_METHODS:
        problems.append(f"A ranking needs {LEAST_METHODS} methods or more.")
        return Measurement(len(arrays), np.nan, [], problems)
    first = next(iter(next(iter(arrays.values())).values()))
    truth = first["truth"].astype(bool)
    observed = first["mask"]
    labels = np.where(observed, first["targets"] >= PRESENT, truth)
    every_cell = np.ones_like(observed)
    reference = _score(arrays, truth, every_cell[None], table["threshold"])
    parts = []
    for source, cells, present in (
        (RANDOM, every_cell, truth),
        (OBSERVED_CELLS, observed, truth),
        (OBSERVED_LABELS, observed, labels),
    ):
        for masks in _draw(cells, draws, seed):
            scores = _score(arrays, present, masks, table["threshold"])
            parts.append(_part(source, masks, scores, reference))
    correct = float(np.mean(labels[observed] == truth[observed]))
    return Measurement(len(arrays), correct, parts, problems)


def evaluate(
    present: np.ndarray, scores: np.ndarray, masks: np.ndarray, threshold: float
) -> np.ndarray:
    """Compute METRICS as `metrics.evaluate` defines them, for many masks at once.

    Args:
        present: bool (N, K), labels of all cells.
        scores: (N, K).
        masks: bool (D, N, K), the cells that count.
        threshold: least score that predicts "present".

    Returns:
        (3, D), NaN if undefined.
    """
    instruments = []
    for k in range(present.shape[1]):
        values = _evaluate_instrument(present[:, k], scores[:, k], masks[:, :, k], threshold)
        instruments.append(values)
    defined = ~np.isnan(instruments)
    return bootstrap.ratio(np.nansum(instruments, axis=0), defined.sum(axis=0))


def _evaluate_instrument(present, scores, masks, threshold):
    """Compute METRICS of one instrument for masks (D, N): (3, D)."""
    order = np.argsort(-scores, kind="stable")
    sorted_masks = masks[:, order].astype(np.int32)
    # Counts among the cells of the n highest scores, n = 0 to N.
    counts = np.pad(sorted_masks.cumsum(axis=1), ((0, 0), (1, 0)))
    hits = np.pad((sorted_masks * present[order]).cumsum(axis=1), ((0, 0), (1, 0)))
    total = counts[:, -1]
    positives = hits[:, -1]
    negatives = total - positives
    guessed = np.count_nonzero(scores >= threshold)
    guesses = counts[:, guessed]
    both_present = hits[:, guessed]
    both_absent = total - positives - guesses + both_present
    positive_f1 = bootstrap.ratio(2 * both_present, positives + guesses)
    absent_f1 = bootstrap.ratio(2 * both_absent, 2 * total - positives - guesses)
    # Cells of equal scores are taken together.
    is_last = np.append(np.diff(scores[order]) != 0, True)
    ends = np.concatenate([[0], 1 + np.flatnonzero(is_last)])
    counts = counts[:, ends]
    hits = hits[:, ends]
    precision = hits[:, 1:] / np.maximum(counts[:, 1:], 1)
    precisions = np.sum(np.diff(hits) * precision, axis=1)
    area = np.sum(np.diff(counts - hits) * (hits[:, 1:] + hits[:, :-1]), axis=1) / 2
    values = np.stack(
        [
            (positive_f1 + absent_f1) / 2,
            bootstrap.ratio(precisions, positives),
            bootstrap.ratio(area, positives * negatives),
        ]
    )
    return np.where((positives > 0) & (negatives > 0), values, np.nan)


def _score(arrays, present, masks, threshold):
    """Compute METRICS of each method, the mean over its seeds: (methods, 3, D)."""
    scores = []
    for by_seed in arrays.values():
        runs = [evaluate(present, run["scores"], masks, threshold) for run in by_seed.values()]
        scores.append(np.mean(runs, axis=0))
    return np.stack(scores)


def _draw(cells: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Draw masks (D, N, K) for each of SHARES among the given cells, and one mask of all of them.

    Shares are of the whole grid.
    """
    rng = np.random.default_rng(seed)
    candidates = np.flatnonzero(cells)
    for share in SHARES:
        count = round(share * cells.size)
        if count >= len(candidates):
            break
        masks = np.zeros((draws, cells.size), bool)
        for mask in masks:
            mask[rng.choice(candidates, count, replace=False)] = True
        yield masks.reshape(draws, *cells.shape)
    yield cells[None]


def _part(source, masks, scores, reference) -> Part:
    taus = {}
    biases = {}
    for index, metric in enumerate(METRICS):
        on_truth = reference[:, index, 0]
        on_part = scores[:, index]
        taus[metric] = _estimate([kendall_tau(values, on_truth) for values in on_part.T])
        biases[metric] = _estimate(np.mean(on_part - on_truth[:, None], axis=0))
    return Part(source, float(masks[0].mean()), len(masks), taus, biases)


def _estimate(values: Sequence[float]) -> Estimate:
    """Summarise draws; those in which a metric is undefined do not count."""
    values = np.asarray(values)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Estimate(np.nan, np.nan, np.nan)
    low, high = bootstrap.interval(defined)
    return Estimate(float(defined.mean()), float(low), float(high))
