"""Paired comparison of two rows: the difference of macro-F1, and how far other test clips vary it.

A bootstrap over clips (Efron and Tibshirani 1993, percentile interval): clips are drawn with
replacement, the same draw for both rows and for every seed, and the differences of the seeds that
both rows have are averaged. What the interval covers is the choice of test clips; the seeds are
those that were run. F1 is that of ast_repr.metrics: an instrument of which a draw has labels of one
kind only is left out of that draw's mean, for both rows alike.
"""

import numpy as np

from ..manifest import PRESENT
from .results import ResultsError

RESAMPLES = 2000
LEVEL = 95  # per cent
CHUNK = 500  # resamples at a time: a few tens of MB for 5,000 clips
ARRAYS = ("clips", "classes", "scores", "targets", "mask")


def compare(a, b, resamples=RESAMPLES, seed=0):
    """Row `b` minus row `a`, paired by seed and by clip.

    Args:
        a, b: `results.Row` of one table.
        resamples: draws of the test clips.
        seed: of these draws.

    Returns:
        dict: a, b (names of confs), seeds, clips, resamples, level; "macro_f1" and, by name,
        "per_instrument": each {a, b, difference, low, high} as fractions, None if no label allows
        a value; "by_seed" {seed: difference}.

    Raises:
        ResultsError: nothing could be scored, no seed is common, or the two were not scored on the
            same clips and labels, or their predictions are missing or disagree with their results.
    """
    if a["metrics"]["macro_f1"] is None:
        raise ResultsError(
            f"{a.conf} and {b.conf} have no macro-F1 to compare: no class of the split "
            f"{a['split']!r} has labels of both kinds, present and absent; label more clips there"
        )
    runs = [{run["seed"]: run for run in row.runs} for row in (a, b)]
    seeds = sorted(runs[0].keys() & runs[1].keys())
    if not seeds:
        found = " and ".join(
            f"{row.conf} has {', '.join(map(str, own))}"
            for row, own in zip((a, b), runs, strict=True)
        )
        raise ResultsError(
            f"no seed in common: {found}; expected one or more that both have; "
            "run the missing with --seeds"
        )
    first = predictions(runs[0][seeds[0]])
    pairs = [[aligned(predictions(own[one]), first, own[one]) for own in runs] for one in seeds]
    threshold, names = a["threshold"], a["classes"]
    values = [[macro_f1(*cells(found, threshold))[0] for found in pair] for pair in pairs]
    observed = np.stack(values)  # (seeds, 2, K + 1)
    for one, values in zip(seeds, observed, strict=True):
        for own, value in zip(runs, values[:, -1], strict=True):
            if abs(value - own[one]["metrics"]["macro_f1"]) > 1e-6:
                raise ResultsError(
                    f"{own[one].folder}: predictions.npz and results.json disagree; "
                    "delete both and run the stage score"
                )
    low, high = intervals(pairs, threshold, resamples, seed)
    middle = observed.mean(0)
    parts = [
        {"a": left, "b": right, "difference": right - left, "low": least, "high": most}
        for left, right, least, most in zip(*middle, low, high, strict=True)
    ]
    parts = [
        {key: None if np.isnan(value) else float(value) for key, value in part.items()}
        for part in parts
    ]
    by_seed = {
        str(one): float(values[1, -1] - values[0, -1])
        for one, values in zip(seeds, observed, strict=True)
    }
    about = {
        "a": a.conf,
        "b": b.conf,
        "seeds": seeds,
        "clips": len(first["clips"]),
        "resamples": resamples,
        "level": LEVEL,
    }
    return about | {
        "macro_f1": parts[-1],
        "per_instrument": dict(zip(names, parts[:-1], strict=True)),
        "by_seed": by_seed,
    }


def sentence(found):
    """One line that says what `compare` found, in points (per cent of macro-F1)."""
    overall, seeds = found["macro_f1"], found["seeds"]
    sure = "excludes" if overall["low"] > 0 or overall["high"] < 0 else "includes"
    return (
        f"{found['b']} - {found['a']}: {100 * overall['difference']:+.1f} points of macro-F1, "
        f"{found['level']} % interval "
        f"[{100 * overall['low']:+.1f}, {100 * overall['high']:+.1f}] {sure} zero "
        f"(seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; {found['clips']:,} clips, "
        f"{found['resamples']:,} resamples)"
    )


def predictions(run):
    """A run's predictions.npz: clips (N,), classes (K,), and scores, targets, mask (N, K).

    Raises:
        ResultsError: the file is missing, damaged, or of other classes than the run's.
    """
    found = run.arrays("predictions.npz", ARRAYS)
    shape = len(found["clips"]), len(found["classes"])
    if list(found["classes"]) != run["classes"] or any(
        found[key].shape != shape for key in ARRAYS[2:]
    ):
        raise ResultsError(
            f"{run.folder}: predictions.npz is not of the classes of results.json; "
            "delete both and run the stage score"
        )
    return found


def aligned(found, first, run):
    """`found` in the order of the clips of `first`, which must be the same, with the same labels."""
    own, expected = np.argsort(found["clips"]), np.argsort(first["clips"])
    remedy = (
        "expected the same test clips and labels for both; "
        "delete the predictions.npz that is out of date and run the stage score"
    )
    if not np.array_equal(found["clips"][own], first["clips"][expected]):
        missing = len(set(first["clips"].tolist()) - set(found["clips"].tolist()))
        raise ResultsError(
            f"{run.folder}: {missing} of {len(first['clips'])} clips to compare with are not in "
            f"predictions.npz; {remedy}"
        )
    order = np.empty_like(own)
    order[expected] = own
    found = {key: found[key][order] for key in ("clips", *ARRAYS[2:])}
    mask = first["mask"]
    same = np.array_equal(found["mask"], mask) and np.array_equal(
        found["targets"][mask], first["targets"][mask]
    )
    if not same:
        raise ResultsError(
            f"{run.folder}: the labels in predictions.npz differ from those to compare with; "
            f"{remedy}"
        )
    return found


def intervals(pairs, threshold, resamples, seed):
    """(low, high), arrays (K + 1,): bounds of each instrument's difference, and last the mean's."""
    rng, differences = np.random.default_rng(seed), []
    clips = len(pairs[0][0]["clips"])
    counted = [[cells(found, threshold) for found in pair] for pair in pairs]
    for start in range(0, resamples, CHUNK):
        drawn = rng.integers(0, clips, (min(CHUNK, resamples - start), clips))
        weights = np.stack([np.bincount(one, minlength=clips) for one in drawn]).astype(np.float64)
        by_seed = [macro_f1(*b, weights) - macro_f1(*a, weights) for a, b in counted]
        differences.append(np.mean(by_seed, axis=0))
    outside = (100 - LEVEL) / 2
    differences = np.concatenate(differences)
    never = np.isnan(differences).all(0)  # without observed labels an instrument has no interval
    differences[:, never] = 0.0
    low, high = np.nanpercentile(differences, [outside, 100 - outside], axis=0)
    low[never], high[never] = np.nan, np.nan
    return low, high


def cells(found, threshold):
    """(present, predicted, observed): float arrays (N, K), 1 in observed cells that are so."""
    mask = found["mask"]
    present, predicted = mask & (found["targets"] >= PRESENT), mask & (found["scores"] >= threshold)
    return present.astype(float), predicted.astype(float), mask.astype(float)


def macro_f1(present, predicted, observed, weights=None):
    """Macro-F1 as `metrics.evaluate` defines it, for many weightings of the clips at once.

    Args:
        present, predicted, observed: (N, K), see `cells`.
        weights: (R, N), how often each clip counts; default once.

    Returns:
        (R, K + 1): each instrument and, last, the mean over instruments; NaN where undefined.
    """
    weights = np.ones((1, len(present))) if weights is None else weights
    hits, total, found, said = (
        weights @ part for part in (present * predicted, observed, present, predicted)
    )
    positive_f1 = _ratio(2 * hits, found + said)
    absent_f1 = _ratio(2 * (total - found - said + hits), 2 * total - found - said)
    both_sides = (found > 0) & (found < total)
    per_instrument = np.where(both_sides, (positive_f1 + absent_f1) / 2, np.nan)
    return np.concatenate([per_instrument, _mean(per_instrument.T)[:, None]], axis=1)


def _ratio(over, under):
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)


def _mean(values):
    """Mean over the first axis of those that are defined; NaN if none is."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(0), known.sum(0))
