"""Bootstrap: equal to plain loops, and to tests worked out by hand."""

import itertools

import numpy as np
import pytest

from ast_repr import metrics
from ast_repr.report import bootstrap, schema


def test_runs_are_scored_on_the_same_samples_of_the_truth():
    rng = np.random.default_rng(0)
    truth = (rng.random((12, 3)) < 0.4).astype(np.int8)
    truth[:, 2] = 0
    truth[0, 2] = 1  # in some samples this instrument is never present
    runs = [{"truth": truth, "scores": rng.random(truth.shape)} for _ in range(2)]
    cells = [bootstrap.cells(run, 0.5, schema.TRUTH) for run in runs]
    got = bootstrap.resampled(cells, resamples=30, seed=5)
    assert got.shape == (2, 31, 4) and np.isnan(got[:, :, 2]).any()
    samples = np.random.default_rng(5).integers(0, 12, (30, 12))
    samples = np.vstack([np.arange(12), samples])  # the clips as they are come first
    for (k, run), (r, sample) in itertools.product(enumerate(runs), enumerate(samples)):
        every_cell = np.ones(truth.shape, bool)
        expected = metrics.evaluate(truth[sample], every_cell, run["scores"][sample])
        assert got[k, r, -1] == pytest.approx(expected["macro_f1"], abs=1e-12)


def test_chunks_of_resamples_follow_each_other(monkeypatch):
    cells = bootstrap.cells({"truth": np.eye(9, 2), "scores": np.full((9, 2), 0.5)}, 0.5, "truth")
    whole = bootstrap.resampled([cells], resamples=25)
    monkeypatch.setattr(bootstrap, "CHUNK", 10)
    np.testing.assert_array_equal(bootstrap.resampled([cells], resamples=25), whole)


def test_rankings_of_samples_of_groups_are_those_of_the_metrics():
    rng = np.random.default_rng(0)
    targets = (rng.random((40, 3)) < [0.4, 0.1, 0.03]).astype(float)
    arrays = {
        "targets": targets,
        "mask": rng.random((40, 3)) < 0.7,
        "scores": rng.integers(0, 9, (40, 3)) / 9,  # many ties
        "groups": np.array([f"artist {index}" for index in np.arange(40) // 4]),
    }
    got = bootstrap.resampled_ranking(arrays, resamples=30, seed=5)
    samples = np.random.default_rng(5).integers(0, 10, (30, 10))
    samples = np.vstack([np.arange(10), samples])
    assert got.shape == (2, 31)
    for values, sample in zip(got.T, samples, strict=True):
        clips = (4 * sample[:, None] + np.arange(4)).ravel()
        parts = [arrays[name][clips] for name in ("targets", "mask", "scores")]
        expected = metrics.evaluate(*parts)
        assert values == pytest.approx([expected["map"], expected["auroc"]], abs=1e-9)


def test_undefined_resamples_do_not_count_in_an_interval():
    values = np.column_stack([np.arange(101.0), np.full(101, np.nan)])
    values[100, 0] = np.nan
    low, high = bootstrap.interval(values)
    assert (low[0], high[0]) == pytest.approx((2.475, 96.525))
    assert np.isnan([low[1], high[1]]).all()


@pytest.mark.parametrize(
    ("differences", "expected"),
    [([1.0] * 99, 2 / 100), ([-1.0] + [1.0] * 98, 4 / 100), ([0.0] * 99, 1.0), ([-1, 1, 0], 1.0)],
)
def test_p_values_by_hand(differences, expected):
    assert bootstrap.p_value(np.array(differences)) == pytest.approx(expected)


# Thresholds are 0.05 / 4, / 3, / 2, / 1 in the order of p.
@pytest.mark.parametrize(
    ("p_values", "rejected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),
        ([0.013, 0.001, 0.02, 0.04], [True, True, True, True]),
        ([0.02, 0.02, 0.02, 0.02], [False] * 4),  # the first step stops it
        ([0.05], [True]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, rejected):
    assert bootstrap.holm(p_values) == rejected


def test_holm_is_the_closed_test_of_bonferroni():
    """A hypothesis is rejected if Bonferroni rejects every intersection that it is part of."""
    rng = np.random.default_rng(0)
    for p_values in rng.random((40, 5)) ** 4:
        expected = []
        for index in range(5):
            families = [
                family
                for size in range(1, 6)
                for family in itertools.combinations(range(5), size)
                if index in family
            ]
            expected.append(all(min(p_values[list(f)]) <= 0.05 / len(f) for f in families))
        assert bootstrap.holm(p_values) == expected


def test_whole_groups_are_sampled():
    rng = np.random.default_rng(0)
    marks = rng.random((3, 6, 2)) < 0.5
    marks[2] = True
    groups = np.array([0, 0, 1, 2, 2, 2])
    values = bootstrap.resampled([marks], 50, 3, groups)[0]
    samples = np.random.default_rng(3).integers(0, 3, (50, 3))
    for sample, value in zip(samples, values[1:], strict=True):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in sample])
        expected = bootstrap.macro_f1(marks[:, rows], np.ones((1, len(rows)), np.float32))[0]
        np.testing.assert_allclose(value, expected)
    alone = bootstrap.resampled([marks], 50, 3, np.arange(6))
    np.testing.assert_array_equal(alone, bootstrap.resampled([marks], 50, 3))
